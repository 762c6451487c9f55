/* `claw-sync reconcile` and `claw-sync prove`. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "engine/engine.h"

typedef int (*reconcile_fn)(clawsync_engine *e, uint32_t wait_ms, clawsync_reconciled *out,
                            void (*fn)(void *arg, const clawsync_proof *p), void *arg, clawsync_error *err);

struct proofs {
    const struct cs_cli *cli;
    struct cs_cli_progress progress;
    json_t *list; /* --json */
    struct cs_buf text;
    uint32_t away; /* have signed the same, and are not connected */
};

static const char *state_name(clawsync_proof_state s)
{
    static const char *const names[] = { "this device", "equal", "differs", "behind", "offline" };

    return s >= CLAWSYNC_PROOF_SELF && s <= CLAWSYNC_PROOF_OFFLINE ? names[s] : "unknown";
}

static void on_event(void *arg, const clawsync_event *e)
{
    struct proofs *p = arg;

    cs_cli_progress_event(&p->progress, e);
    if (e->type == CLAWSYNC_EVENT_WARNING || (e->type == CLAWSYNC_EVENT_SYNC_ERROR && e->name[0] != '\0'))
        cs_cli_warn((void *)(uintptr_t)p->cli, e->error.msg);
    else if (e->type == CLAWSYNC_EVENT_CONFLICT_DETECTED)
        cs_cli_warn((void *)(uintptr_t)p->cli, "concurrent edits want a decision; see claw-sync conflicts list");
}

static void on_proof(void *arg, const clawsync_proof *r)
{
    struct proofs *p = arg;
    bool is_away = r->state == CLAWSYNC_PROOF_EQUAL && !r->connected;
    char name[64], when[32];

    p->away += is_away;
    if (p->cli->json) {
        json_array_append_new(p->list,
                              json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:I, s:b}", "id", r->device_id, "name", r->name,
                                        "state", state_name(r->state), "log_number", (json_int_t)r->log_number, "rows",
                                        (json_int_t)r->rows, "root", r->root, "signed_ms", (json_int_t)r->signed_ms,
                                        "connected", r->connected));
        return;
    }
    cs_buf_printf(&p->text, "  %-11s  %s  %s", state_name(r->state), r->device_id, cs_cli_printable(r->name, name));
    if (r->log_number > 0)
        cs_buf_printf(&p->text, "  signed %.16s, %" PRIu64 " rows, at %" PRIu64, r->root, r->rows, r->log_number);
    else if (r->root[0] == '\0')
        cs_buf_printf(&p->text, "  has signed nothing yet");
    if (is_away)
        cs_buf_printf(&p->text, ", %s, not connected now", cs_cli_time(r->signed_ms, when));
    cs_buf_put_str(&p->text, "\n");
}

static void print_json(const clawsync_reconciled *r, json_t *devices)
{
    json_t *first =
        r->first_table[0] == '\0' ? json_null() : json_pack("{s:s, s:s}", "table", r->first_table, "key", r->first_key);

    cs_cli_json(json_pack("{s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:o, s:o}",
                          "log_number", (json_int_t)r->log_number, "rows", (json_int_t)r->rows, "root", r->root,
                          "missing_here", (json_int_t)r->missing_here, "missing_there", (json_int_t)r->missing_there,
                          "conflicting", (json_int_t)r->conflicting, "sealed", (json_int_t)r->sealed, "published",
                          (json_int_t)r->published, "rounds", (json_int_t)r->rounds, "bytes_sent",
                          (json_int_t)r->bytes_sent, "bytes_received", (json_int_t)r->bytes_received, "equal",
                          (int)r->equal, "differing", (int)r->differing, "behind", (int)r->behind, "offline",
                          (int)r->offline, "first_difference", first, "devices", devices));
}

static void say_found(const struct cs_cli *c, const clawsync_reconciled *r)
{
    if (r->sealed > 0)
        cs_cli_say(c, "written here behind our back, sealed as local edits: %" PRIu64 " operations", r->sealed);
    if (r->missing_here + r->missing_there + r->conflicting > 0)
        cs_cli_say(c, "missing here: %" PRIu64 ", missing there: %" PRIu64 ", different: %" PRIu64, r->missing_here,
                   r->missing_there, r->conflicting);
    if (r->published > 0)
        cs_cli_say(c, "sent whole, for whoever lacks them: %" PRIu64 " rows", r->published);
}

static int verdict(const struct cs_cli *c, const clawsync_reconciled *r, uint32_t away, bool prove)
{
    uint32_t unknown = r->behind + r->offline;

    if (r->differing > 0 && r->first_table[0] != '\0')
        cs_cli_say(c, "DIFFERENT: the first row here that differs is in %s, key %s", r->first_table, r->first_key);
    else if (r->differing > 0)
        cs_cli_say(c, prove ? "DIFFERENT: a device that is marked so has rows that are not here; claw-sync prove there "
                              "names the first"
                            : "DIFFERENT: a device that is marked so; run claw-sync reconcile there");
    else if (unknown > 0)
        cs_cli_say(c, "%s: %u of the other devices %s not compared %s; run claw-sync %s there",
                   prove ? "NOT PROVEN" : "DONE HERE", unknown, unknown == 1 ? "has" : "have", "this state",
                   prove ? "prove" : "reconcile");
    else if (prove && away > 0)
        cs_cli_say(c,
                   "EQUAL: every device has signed the same rows; %u of them %s not connected now, and what was edited "
                   "there since is not in it",
                   away, away == 1 ? "is" : "are");
    else if (r->equal > 0)
        cs_cli_say(c, "EQUAL: every device has the same rows");
    else
        cs_cli_say(c, "there is no other device to compare with");
    return r->differing > 0 || (prove && unknown > 0) ? CS_EXIT_FAILED : CS_EXIT_DONE;
}

static int print(const struct cs_cli *c, const clawsync_reconciled *r, struct proofs *p, bool prove)
{
    cs_cli_say(c, "%.16s, %" PRIu64 " rows, at number %" PRIu64 " of the log", r->root, r->rows, r->log_number);
    cs_cli_say(c, "%.*s", p->text.len > 0 ? (int)p->text.len - 1 : 0,
               p->text.data == NULL ? "" : (const char *)p->text.data);
    say_found(c, r);
    if (c->json) {
        print_json(r, p->list);
        p->list = NULL;
    }
    return verdict(c, r, p->away, prove);
}

static int beside(struct cs_cli *c, bool prove, clawsync_reconciled *report, struct proofs *p, clawsync_error *err)
{
    struct cs_reconcile_result *s = NULL;
    int rc = cs_cli_ask(c, prove ? CS_ASK_PROVE : CS_ASK_RECONCILE, &s, err);

    if (rc == CS_OK) {
        *report = s->report;
        cs_reconcile_tell(s, on_proof, p);
    }
    free(s);
    return rc;
}

static int run(struct cs_cli *c, reconcile_fn fn, bool prove)
{
    struct proofs p = { .cli = c, .progress = { .cli = c }, .list = json_array() };
    clawsync_reconciled r = { 0 };
    clawsync_engine *e = NULL;
    clawsync_error err;
    int code, rc = cs_cli_open(c, &e, &err);

    if (rc == CLAWSYNC_EBUSY)
        rc = beside(c, prove, &r, &p, &err);
    else if (rc == CLAWSYNC_OK && (rc = clawsync_engine_subscribe(e, on_event, &p, &err)) > 0)
        rc = fn(e, CS_CLI_WAIT_MS, &r, on_proof, &p, &err);
    clawsync_engine_close(e);
    cs_cli_progress_end(&p.progress);
    code = rc == CLAWSYNC_OK ? print(c, &r, &p, prove) : cs_cli_fail(c, &err);
    json_decref(p.list);
    cs_buf_free(&p.text);
    return code;
}

int cs_cmd_reconcile(struct cs_cli *c)
{
    return run(c, clawsync_engine_reconcile, false);
}

int cs_cmd_prove(struct cs_cli *c)
{
    return run(c, clawsync_engine_prove, true);
}
