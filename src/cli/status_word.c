/* From what was found to the word and the reasons. Nothing is looked at here. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/status.h"

static void __attribute__((format(printf, 3, 4)))
add_reason(struct cs_reasons *r, const char *what_to_do, const char *fmt, ...)
{
    va_list ap;

    if (r->n == CS_REASONS)
        return;
    va_start(ap, fmt);
    vsnprintf(r->of[r->n].text, sizeof r->of[r->n].text, fmt, ap);
    va_end(ap);
    r->of[r->n++].what_to_do = what_to_do;
}

static bool begins(const struct cs_error *err, const char *finding)
{
    return strncmp(err->msg, finding, strlen(finding)) == 0;
}

static const char *what_settles(const struct cs_error *err)
{
    const char *command = cs_finding_command(err);

    if (command != NULL)
        return command;
    if (strstr(err->msg, "claw-sync identity new") != NULL)
        return "claw-sync identity new, then claw-sync join CODE";
    if (strstr(err->msg, "claw-sync join CODE") != NULL)
        return "claw-sync join CODE";
    if (begins(err, "BAD_WRAP"))
        return "claw-sync keys rotate, on another device";
    if (cs_cli_wrong_passphrase((const clawsync_error *)err))
        return "give the passphrase that this device's keystore is under";
    switch (err->code) {
    case CS_EVERSION:
        return "update claw-sync, then claw-sync sync";
    case CS_EIO:
        return "make room on that disk, or see what is wrong with it";
    case CS_ECLOCK:
        return "set the clock right, best by NTP";
    case CS_ELIMIT:
        return "ask who runs the hub for more room";
    case CS_EINVAL:
    case CS_EEXIST:
        return "correct the configuration; claw-sync doctor looks at it";
    default:
        return "claw-sync doctor";
    }
}

bool cs_status_daemon_told(const struct cs_looked *l)
{
    return l->daemon_pid != 0 && l->standing_rc == CS_OK && l->standing.by.pid == l->daemon_pid &&
           cs_process_lives(&l->standing.by);
}

/* What a process that is gone met may have passed since, a full disk too. */
static bool may_have_passed(const struct cs_error *err)
{
    return cs_code_is_transient(err->code) && !cs_standing_quota(err);
}

static bool wants_a_person(const struct cs_error *err)
{
    return err->code != CS_OK && (!may_have_passed(err) || err->code == CS_EIO);
}

/* The hub knows no such device. One that was never in may be about to make the workspace, or has yet to join. */
static bool is_outside(const struct cs_looked *l)
{
    return l->asked && l->stranger && l->rc == CS_EAUTH;
}

/* Looking finds what a refill would settle, had one not failed here: why it did is what stands in the way. */
static bool is_beyond_refill(const struct cs_looked *l)
{
    const char *command = cs_finding_command(&l->err);

    return l->asked && l->rc == CS_EHUB && l->standing_rc == CS_OK && begins(&l->standing.last, "MEMBER_FORK") &&
           command != NULL && strstr(command, "claw-sync hub refill") != NULL;
}

/* What rounds find, and looking does not. It stands until a round goes well; of a process that is gone only what does
 * not pass. */
void cs_status_round_failed(const struct cs_looked *l, struct cs_reasons *out)
{
    const struct cs_error *last = &l->standing.last;
    bool told = cs_status_daemon_told(l);
    const char *what_to_do = what_settles(last), *settle = strstr(last->msg, CS_SETTLE_WITH);
    int len = (int)strlen(last->msg);
    char at[32];

    if (l->standing_rc != CS_OK || (told ? !wants_a_person(last) : may_have_passed(last)) || last->code == CS_OK ||
        (l->asked && l->rc == last->code && !is_outside(l) && !is_beyond_refill(l)))
        return;
    if (!told && last->code == CS_EHUB && l->asked && l->rc == CS_OK) { /* it may be over */
        what_to_do = "claw-sync sync";
        settle = settle != NULL ? settle : strstr(last->msg, CS_FIND_OUT_WITH);
        len = settle != NULL ? (int)(settle - last->msg) : len;
    }
    add_reason(out, what_to_do, "%.*s (found %s)", len, last->msg, cs_cli_time(l->standing.since_ms, at));
}

static void asking_failed(const struct cs_looked *l, struct cs_reasons *out)
{
    if (!l->asked || l->rc == CS_OK || is_beyond_refill(l))
        return;
    if (!is_outside(l)) {
        if (wants_a_person(&l->err))
            add_reason(out, what_settles(&l->err), "%.511s", l->err.msg);
    } else if (l->daemon_pid == 0 && l->standing_rc != CS_OK) {
        add_reason(out, "claw-sync join CODE, or for a new workspace claw-sync sync",
                   "this device is no member of the workspace yet");
    }
}

static void no_audit_log(const struct cs_looked *l, struct cs_reasons *out)
{
    int code = l->audit.code;

    if (wants_a_person(&l->audit))
        add_reason(out,
                   code == CS_EIO || code == CS_EVERSION ? what_settles(&l->audit)
                                                         : "keep it as evidence and move it away",
                   "%.511s", l->audit.msg);
}

static void clock_is_off(const struct cs_looked *l, struct cs_reasons *out)
{
    int64_t ahead = cs_hub_look_ahead_ms(&l->hub);

    if (ahead > CS_CLOCK_MAX_MS)
        add_reason(out, "set the clock right, best by NTP, here or there",
                   "this clock is %" PRId64 " s ahead of the hub's, which refuses edits from more than a minute ahead",
                   ahead / 1000);
    else if (ahead < -CS_CLOCK_MAX_MS)
        add_reason(out, "set the clock right, best by NTP, here or there",
                   "this clock is %" PRId64 " s behind the hub's: edits of others win over newer ones of this device",
                   -ahead / 1000);
}

void cs_status_reasons(const struct cs_looked *l, struct cs_reasons *out)
{
    const struct cs_replica_counts *n = &l->n;

    out->n = 0;
    asking_failed(l, out);
    cs_status_round_failed(l, out);
    no_audit_log(l, out);
    if (l->asked && l->rc == CS_OK)
        clock_is_off(l, out);
    if (l->refilling)
        add_reason(out, "claw-sync hub refill", "a refill of the hub that was begun here is not finished");
    if (l->differs)
        add_reason(out, "claw-sync reconcile", "another device had other rows when last compared%s%s",
                   l->differing[0] != '\0' ? ", here first in " : "", l->differing);
    if (l->remade[0] != '\0')
        add_reason(out, "claw-sync reconcile",
                   "table \"%s\" was made again without rows that it had; nobody else's were deleted, and the others' "
                   "come back",
                   l->remade);
    if (n->paused > 0)
        add_reason(out, "claw-sync resume", "%" PRId64 " table%s paused: what is edited there waits, unseen", n->paused,
                   n->paused == 1 ? " is" : "s are");
    if (n->manual_conflicts > 0)
        add_reason(out, "claw-sync conflicts list, then claw-sync conflicts resolve ID",
                   "%" PRId64 " conflict%s want%s a decision", n->manual_conflicts, cs_cli_s(n->manual_conflicts),
                   n->manual_conflicts == 1 ? "s" : "");
    if (l->batches_aside > 0)
        add_reason(out, "claw-sync reconcile",
                   "%" PRId64 " batch%s of others could not be read and %s set aside (claw-sync hidden list): what is "
                   "in them is missing here",
                   l->batches_aside, l->batches_aside == 1 ? "" : "es", l->batches_aside == 1 ? "is" : "are");
    if (l->queue.failed > 0)
        add_reason(out, "claw-sync queue list, then claw-sync queue retry",
                   "the hub refused %" PRIu64 " set%s of edits for good", l->queue.failed,
                   cs_cli_s((int64_t)l->queue.failed));
    if (n->held_back > 0)
        add_reason(out, "make them smaller, or give them a key",
                   "%" PRId64 " row%s cannot be sent: above 16 MiB, or NULL in the key", n->held_back,
                   cs_cli_s(n->held_back));
}

int64_t cs_status_to_send(const struct cs_looked *l)
{
    return l->n.unsealed + l->n.unsent + l->n.bound + l->n.taking_in + l->n.publishing + (int64_t)l->queue.own;
}

bool cs_status_has_all(const struct cs_looked *l)
{
    return l->mark.number >= l->hub.head.number && (l->mark.log_id == l->hub.head.log_id || l->hub.head.number == 0);
}

enum cs_word cs_status_word(const struct cs_looked *l, const struct cs_reasons *r)
{
    bool told = cs_status_daemon_told(l);

    if (!l->set_up)
        return CS_NOT_SET_UP;
    if (r->n > 0)
        return CS_NEEDS_YOU;
    if (l->asked && (l->rc == CS_EUNAVAILABLE || l->rc == CS_ETIMEDOUT))
        return CS_OFFLINE;
    if (is_outside(l))
        return l->daemon_pid != 0 ? CS_SYNCING : CS_STOPPED;
    if (!l->asked || l->rc != CS_OK || (l->daemon_pid != 0 && !told))
        return CS_NOT_KNOWN;
    if (cs_status_to_send(l) == 0 && !l->health.schema_unseen && l->health.altered == 0 && cs_status_has_all(l) &&
        (!told || l->standing.last.code == CS_OK || l->standing.last.code == CS_EUNAVAILABLE ||
         l->standing.last.code == CS_ETIMEDOUT))
        return CS_IN_SYNC;
    return l->daemon_pid != 0 ? CS_SYNCING : CS_STOPPED;
}
