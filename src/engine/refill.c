/* A hub that lost what it had (docs/decisions/0012). One device gives it a new log at its person's word, and says so in
 * a membership entry when all that it knows is there; the others follow that entry, and bring what only they know.
 *
 *   is anything lost? ──▶ what the hub has left ──▶ Refill: entries, a new log ──▶ merged state ──▶ pull ──▶ the entry
 *                                                       ▲ after a crash: from here
 *
 * Until the entry is there nobody else takes anything of the new log. */
#include <inttypes.h>
#include <stdlib.h>

#include "engine/engine.h"

enum {
    RECORD_LEN = 8 + 8 + CS_FLOOR_LEN,
    CONTENT_MAX = 512 * 1024 /* bytes of entries in one call, about */
};
static const char record[] = "engine.refill", kept_head[] = "engine.head";

static void begin(struct clawsync_engine *e);

/* ---- which log is in force ---- */

void cs_log_update(struct clawsync_engine *e)
{
    const struct cs_membership *m = &e->members;

    if (e->refilling.log_id != 0 && m->refills == e->refilling.refills)
        e->log = (struct cs_log_now){ e->refilling.log_id, m->refills + 1 };
    else
        e->log = (struct cs_log_now){ m->refill.log_id, m->refills };
    if (e->log.id != 0 && e->head.log_id != e->log.id)
        e->head = (struct cs_hub_head){ 0 };
    if (e->log.id != 0 && e->kept.log_id != e->log.id)
        e->kept = (struct cs_hub_head){ 0 };
}

int cs_refill_open(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = cs_replica_meta_get(e->replica, record, &b, err);

    if (rc == CS_OK && b.len == RECORD_LEN) {
        e->refilling.log_id = cs_load_u64(b.data);
        e->refilling.refills = cs_load_u64(b.data + 8);
        e->refilling.from.log_id = cs_load_u64(b.data + 16);
        e->refilling.from.number = cs_load_u64(b.data + 24);
        memcpy(e->refilling.from.log_hash, b.data + 32, 32);
    }
    cs_buf_free(&b);
    cs_log_update(e);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    return cs_collect_open(e, err);
}

bool cs_refill_is_open(const struct clawsync_engine *e)
{
    return e->refilling.log_id != 0 && e->members.refills == e->refilling.refills;
}

/* Have we batches of this device that whoever refilled the hub did not have? Of our own chain that is so wherever the
 * two do not name the same last batch: when the hub had gone back, both may have gone on from an older one. */
static bool has_more(struct cs_slice entry, const struct cs_known_peer *have, bool own)
{
    struct cs_cut head, had = { 0 };

    for (size_t i = 0; cs_entry_head(entry, i, &head); i++)
        if (cs_uuid_cmp(&head.id, &have->device) == 0)
            had = head;
    return have->number > had.number || (own && have->number < had.number) ||
           (have->number == had.number && have->number > 0 && memcmp(have->hash, had.hash, 32) != 0);
}

static int knows_more(struct clawsync_engine *e, bool *out, struct cs_error *err)
{
    struct cs_slice entry = cs_self_entry(e, e->members.refill_seq);
    struct cs_known_peer *peer = NULL, *former = NULL, own = { .device = e->device };
    struct cs_arena a = { 0 };
    size_t npeers = 0, nformers = 0;
    int rc = cs_replica_peers(e->replica, &a, &peer, &npeers, err);

    if (rc == CS_OK)
        rc = cs_replica_formers(e->replica, &a, &former, &nformers, err);
    cs_replica_chain(e->replica, &own.number, own.hash);
    *out = rc == CS_OK && has_more(entry, &own, true);
    for (size_t i = 0; i < npeers && rc == CS_OK && !*out; i++)
        *out = has_more(entry, &peer[i], false);
    for (size_t i = 0; i < nformers && rc == CS_OK && !*out; i++)
        *out = has_more(entry, &former[i], true);
    cs_arena_free(&a);
    return rc;
}

static int switch_log(struct clawsync_engine *e, bool publish, bool sweep, const char *forget, struct cs_error *err)
{
    struct cs_new_log n = { .log_id = e->log.id,
                            .chain_number = CS_CHAIN_BASE(e->log.generation),
                            .publish = publish,
                            .sweep = sweep,
                            .forget = { kept_head, forget } };
    int rc;

    cs_chain_start(&e->workspace, e->log.id, n.chain_hash);
    if ((rc = cs_push_take_back(e, err)) != CS_OK || (rc = cs_replica_new_log(e->replica, &n, err)) != CS_OK)
        return rc;
    e->head_unsaved = false;
    e->stale = true;
    return CS_OK;
}

/* Ours is in, or another device was faster: then ours goes with the log that it began. */
static int refill_over(struct clawsync_engine *e, struct cs_error *err)
{
    bool ours = e->members.refill.log_id == e->refilling.log_id;
    int rc = ours ? cs_replica_meta_drop(e->replica, record, err) : CS_OK;

    if (rc == CS_OK)
        e->refilling = (struct cs_refilling){ 0 };
    return rc;
}

/* A database that follows this log already has become another device's, whose chain began at nothing. */
static int chain_follows(struct clawsync_engine *e, struct cs_error *err)
{
    uint64_t base = CS_CHAIN_BASE(e->log.generation), number;
    uint8_t hash[32];
    int rc;

    cs_replica_chain(e->replica, &number, hash);
    if (number >= base)
        return CS_OK;
    cs_chain_start(&e->workspace, e->log.id, hash);
    rc = cs_push_take_back(e, err);
    return rc == CS_OK ? cs_replica_begin_chain(e->replica, base, hash, err) : rc;
}

int cs_refill_follow(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_pull_mark mark;
    bool more;
    int rc;

    if (e->refilling.log_id != 0 && !cs_refill_is_open(e) && !e->beside && (rc = refill_over(e, err)) != CS_OK)
        return rc;
    cs_log_update(e);
    cs_replica_pull_mark(e->replica, &mark);
    if (e->log.id == 0 || cs_refill_is_open(e) || e->beside || !cs_replica_is_set_up(e->replica))
        return CS_OK;
    if (mark.log_id == e->log.id)
        return chain_follows(e, err);
    if ((rc = knows_more(e, &more, err)) != CS_OK || (rc = switch_log(e, more, !more, record, err)) != CS_OK)
        return rc;
    cs_self_find_floor(e);
    if (mark.log_id == 0) /* this database has followed none before */
        return CS_OK;
    cs_note(e, CLAWSYNC_EVENT_WARNING, 0, "", "the hub had lost what it had, and was refilled by another device; %s",
            more ? "what only this device knows is sent, too" : "nothing is missing here");
    return CS_OK;
}

/* ---- the command ---- */

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_refill_step *s = &e->refill;

    cs_hub_call_cancel(&s->call);
    cs_messages_free(&s->taken);
    cs_buf_free(&s->content);
    s->done(e, rc, err);
}

static void next_job(struct clawsync_engine *e, void (*run)(struct clawsync_engine *, struct cs_job *),
                     void (*done)(struct clawsync_engine *, struct cs_job *))
{
    e->refill.job = (struct cs_job){ .run = run, .done = done };
    cs_engine_job(e, &e->refill.job);
}

static bool names(const struct cs_error *err, const char *finding)
{
    return strncmp(err->msg, finding, strlen(finding)) == 0;
}

const char *cs_finding_command(const struct cs_error *err)
{
    if (names(err, "HUB_LOST:") && strstr(err->msg, "made the workspace") == NULL)
        return "claw-sync hub refill, on a device that joined earlier; here, if the hub has nothing left";
    if (names(err, "HUB_LOST:") || names(err, "HUB_ROLLBACK:") || names(err, "LOG_REPLACED:") ||
        names(err, "BATCH_FORK:"))
        return "claw-sync hub refill";
    if (names(err, "HUB_FORK:")) /* a hub that lies, or that went back and was written to before this device looked */
        return "claw-sync verify-heads, here and on another device; where the hub was restored from a backup, "
               "claw-sync hub refill";
    return names(err, "HUB_KEY_CHANGED:") ? "claw-sync hub accept" : NULL;
}

/* What a hub says that lost something, or has grown another log in its place: in which a device may have sent something
 * else under a number that it had used. */
static bool is_lost(int rc, const struct cs_error *err)
{
    static const char *const findings[] = { "HUB_LOST:", "HUB_ROLLBACK:", "LOG_REPLACED:",
                                            "HUB_FORK:", "HUB_WITHHELD:", "BATCH_FORK:" };

    for (size_t i = 0; rc == CS_EHUB && i < sizeof findings / sizeof findings[0]; i++)
        if (names(err, findings[i]))
            return true;
    return false;
}

/* Every command ends a log once at most. That is what lets one of several end at all: who finds the log of another in
 * the place of its own, or of the one that it was to end, leaves that to the other, and follows. */
static int another_is_at_it(struct cs_error *err)
{
    return cs_fail(err, CS_EABORTED,
                   "another device is at it: the hub has a log by now that it began. When it is done this device "
                   "follows by itself; if nobody goes on with it, claw-sync hub refill once more");
}

/* A step of ours did not get on. */
static void stopped(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_error why;

    if (rc == CS_EHUB && names(err, "LOG_REPLACED:"))
        finish(e, another_is_at_it(&why), &why);
    else
        finish(e, rc, err);
}

/* ---- the entry ---- */

static int refill_entry(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    struct cs_known_peer *peer = NULL;
    struct cs_arena a = { 0 };
    struct cs_cut *head = NULL;
    struct cs_floor to;
    size_t n = 0;
    int rc;

    (void)arg;
    if (!cs_refill_is_open(e))
        return CS_OK;
    cs_floor_now(e, &to);
    if ((rc = cs_replica_peers(e->replica, &a, &peer, &n, err)) == CS_OK &&
        (head = cs_arena_zalloc(&a, n + 1, sizeof *head)) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        head[i] = (struct cs_cut){ .id = peer[i].device, .number = peer[i].number };
        memcpy(head[i].hash, peer[i].hash, 32);
    }
    if (rc == CS_OK)
        rc = cs_entry_refill(entry, &e->members, &e->device, e->keys, &e->refilling.from, &to, head, n,
                             cs_now_ms(e->world), err);
    cs_arena_free(&a);
    return rc;
}

static void ended(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_error why;

    if (rc == CS_OK && e->refill.again)
        finish(e, cs_fail(&why, CS_EABORTED, "the hub's log changed while it was refilled; try again"), &why);
    else
        stopped(e, rc, err);
}

static void state_run(struct clawsync_engine *e, struct cs_job *j)
{
    bool more;

    j->rc = cs_replica_publishing(e->replica, &more, &j->err);
    e->refill.again = more;
    if (j->rc == CS_OK && more)
        j->rc = cs_fail(&j->err, CS_EABORTED, "not all of this device's rows were sent; try again");
}

static void state_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        cs_step_append(e, refill_entry, NULL, ended);
}

static void pulled(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        stopped(e, rc, err);
    else
        next_job(e, state_run, state_done);
}

static void pushed(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        stopped(e, rc, err);
    else
        cs_step_pull(e, pulled);
}

/* ---- the new log ---- */

/* Of the hub's log as it was seen, zeros: of none; which log is to begin comes in later, 0: none. */
static void put_head(struct cs_buf *b, const struct cs_hub_head *seen, int64_t top_stamp)
{
    cs_buf_reset(b);
    cs_buf_put_u64(b, seen->log_id);
    cs_buf_put_u64(b, seen->number);
    cs_buf_put_u64(b, 0);
    cs_buf_put_u64(b, (uint64_t)top_stamp);
}

/* The entries from `at` on, as many as go into one call; the last call asks for the log. */
static int compose_content(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_refill_step *s = &e->refill;
    struct cs_buf *b = &s->content;
    struct cs_pull_mark mark;
    uint32_t seq = s->at;

    cs_replica_pull_mark(e->replica, &mark);
    put_head(b, &s->seen, mark.top_stamp);
    for (; seq <= e->members.seq && (seq == s->at || b->len < CONTENT_MAX); seq++) {
        struct cs_slice entry = cs_self_entry(e, seq);

        if (entry.len == 0)
            return cs_fail(err, CS_ECORRUPT, "entry %" PRIu32 " of the membership is not on this device", seq);
        cs_buf_put_u32(b, (uint32_t)entry.len);
        cs_buf_put_slice(b, entry);
    }
    s->next = seq;
    if (b->failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (seq > e->members.seq)
        cs_store_u64(b->data + 16, e->refilling.log_id);
    return CS_OK;
}

static bool compose_refill(struct cs_hub_call *c, const struct cs_session *session, uint64_t counter,
                           struct cs_buf *out)
{
    struct clawsync_engine *e = c->e;
    Clawsync__V1__RefillRequest req = CLAWSYNC__V1__REFILL_REQUEST__INIT;
    struct cs_refill_proof p = {
        .counter = counter, .workspace = e->workspace, .device = e->device, .content = cs_buf_slice(&e->refill.content)
    };
    uint8_t sig[CS_SIGNATURE_LEN];

    cs_refill_prove(session, &e->keys->sign, &p, sig);
    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.signed_challenge = (ProtobufCBinaryData){ sizeof sig, sig };
    req.content = (ProtobufCBinaryData){ e->refill.content.len, e->refill.content.data };
    return cs_engine_pb_pack(out, &req.base);
}

static const Clawsync__V1__HubHead *head_in(struct clawsync_engine *e, struct cs_arena *a)
{
    const struct cs_message *m = e->refill.taken.first;
    ProtobufCAllocator alloc = cs_engine_pb(a);
    const Clawsync__V1__RefillResponse *r =
        m == NULL ? NULL : clawsync__v1__refill_response__unpack(&alloc, m->len, m->data);

    return r == NULL ? NULL : r->head;
}

static void fill(struct clawsync_engine *e)
{
    e->refill.report->begun = true;
    cs_step_push(e, pushed);
}

/* ---- stamps that the log before had accepted ---- */

static void lift_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_buf *b = &e->refill.content;
    struct cs_pull_mark mark;

    cs_replica_pull_mark(e->replica, &mark);
    cs_buf_reset(b);
    if (e->log.generation == 0 || mark.log_id != e->log.id || mark.top_stamp <= e->pull.head.time_ms * 65536)
        return;
    put_head(b, &(struct cs_hub_head){ 0 }, mark.top_stamp);
    j->rc = b->failed ? cs_fail(&j->err, CS_ENOMEM, "out of memory") : CS_OK;
}

static void on_lifted(struct cs_hub_call *c)
{
    if (c->ended)
        finish(c->e, c->rc, &c->err);
}

static void lift_done(struct clawsync_engine *e, struct cs_job *j)
{
    bool any = j->rc == CS_OK && e->refill.content.len > 0;

    if (any)
        j->rc = cs_hub_call_compose(e, &e->refill.call, "Refill", compose_refill, on_lifted, &j->err);
    if (!any || j->rc != CS_OK)
        finish(e, j->rc, &j->err);
}

void cs_step_lift(struct clawsync_engine *e, cs_step_done done)
{
    e->refill.done = done;
    next_job(e, lift_run, lift_done);
}

/* ---- the new log, given ---- */

/* The hub has the entries, and if they were the last ones, the log: this database has it from now on, too. */
static void given_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_refill_step *s = &e->refill;
    struct cs_arena a = { 0 };
    struct cs_hub_head head;
    struct cs_pull_mark mark;

    cs_replica_pull_mark(e->replica, &mark);
    if (s->next <= e->members.seq) {
        if ((j->rc = cs_engine_head_signed(e, head_in(e, &a), &head, &j->err)) == CS_OK) {
            s->seen.log_id = head.log_id; /* of a workspace that the hub did not know it made one */
            s->seen.number = head.number;
        }
    } else if ((j->rc = cs_engine_head(e, head_in(e, &a), &head, &j->err)) == CS_OK && mark.log_id != e->log.id) {
        j->rc = switch_log(e, true, false, NULL, &j->err);
    }
    s->at = s->next;
    cs_messages_free(&s->taken);
    cs_arena_free(&a);
}

static void given_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        stopped(e, j->rc, &j->err);
    else if (e->refill.at <= e->members.seq)
        begin(e);
    else
        fill(e);
}

static void say_refused(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = e->refill.call.rc;
    j->err = e->refill.call.err;
    if (j->rc == CS_EAUTH)
        cs_fail(&j->err, CS_EAUTH,
                "hub %.150s has the workspace without this device, as before it joined, and takes a refill only from "
                "one that it knows. Run claw-sync hub refill on a device that joined earlier; this one then follows "
                "by itself. If it does not, nobody else had heard of it: claw-sync identity new, then claw-sync join "
                "CODE, makes it a new device. What it has is kept",
                e->config.hub_endpoint);
    else if (strstr(j->err.msg, "of the membership is another one") != NULL)
        j->rc = cs_member_forked(&j->err, "the hub's membership log is not the one that this device knows");
    else
        cs_fail_context(&j->err, "another device refills the hub, or its log has moved");
}

/* Not this log, or not from this device: what was written down for it is not needed. */
static void refused_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_error err = { 0 };

    say_refused(e, j);
    e->refill.report->refused = true;
    e->refill.report->refused_log = e->refill.seen.log_id;
    if (cs_replica_meta_drop(e->replica, record, &err) != CS_OK) {
        j->err = err;
        return;
    }
    e->refilling = (struct cs_refilling){ 0 };
    cs_log_update(e);
}

static void refused_done(struct clawsync_engine *e, struct cs_job *j)
{
    finish(e, j->rc, &j->err);
}

static void on_given(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (!c->ended)
        return;
    if (c->rc == CS_EABORTED || (c->rc == CS_EAUTH && c->status == CS_RPC_UNAUTHENTICATED)) {
        next_job(e, refused_run, refused_done);
        return;
    }
    if (c->rc != CS_OK) {
        finish(e, c->rc, &c->err);
        return;
    }
    e->refill.taken = c->in;
    c->in = (struct cs_messages){ 0 };
    next_job(e, given_run, given_done);
}

/* What is to be is written down first: a second try is for the same log, unless this device has it already, and the hub
 * lost it, too. */
static int write_down(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_refilling r = { .log_id = cs_random_u64_nonzero(&e->rng), .refills = e->members.refills };
    struct cs_pull_mark mark;
    struct cs_buf b = { 0 };
    int rc;

    cs_replica_pull_mark(e->replica, &mark);
    if (cs_refill_is_open(e) && mark.log_id != e->refilling.log_id)
        return CS_OK;
    r.from = (struct cs_floor){ .log_id = mark.log_id, .number = mark.number };
    memcpy(r.from.log_hash, mark.log_hash, 32);
    if (cs_refill_is_open(e))
        r.from = e->refilling.from;
    cs_buf_put_u64(&b, r.log_id);
    cs_buf_put_u64(&b, r.refills);
    cs_buf_put_u64(&b, r.from.log_id);
    cs_buf_put_u64(&b, r.from.number);
    cs_buf_put(&b, r.from.log_hash, 32);
    rc = b.failed ? cs_fail(err, CS_ENOMEM, "out of memory")
                  : cs_replica_meta_set(e->replica, record, cs_buf_slice(&b), err);
    cs_buf_free(&b);
    if (rc == CS_OK)
        e->refilling = r;
    return rc;
}

/* Whoever could not send what it has ends no log: there would be none then that anybody follows. */
static int can_fill(struct clawsync_engine *e, struct cs_error *err)
{
    int rc = cs_engine_follow_schema(e, err);

    if (rc == CS_OK && (rc = cs_replica_publishable(e->replica, err)) == CS_OK &&
        cs_keystore_epoch(e->ks, e->members.epoch) == NULL)
        rc = cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    return rc;
}

static void begin_run(struct clawsync_engine *e, struct cs_job *j)
{
    if ((j->rc = can_fill(e, &j->err)) != CS_OK || (j->rc = write_down(e, &j->err)) != CS_OK)
        return;
    cs_log_update(e);
    j->rc = compose_content(e, &j->err);
}

static void begin_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc == CS_OK)
        j->rc = cs_hub_call_compose(e, &e->refill.call, "Refill", compose_refill, on_given, &j->err);
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
}

static void begin(struct clawsync_engine *e)
{
    next_job(e, begin_run, begin_done);
}

/* ---- what the hub has left ---- */

static void salvaged(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_refill_step *s = &e->refill;
    struct cs_error why;

    s->seen = e->pull.salvage_head;
    e->pull.salvage = false;
    /* What cannot be read there any more is not what the refill is for. */
    if (rc != CS_OK && (cs_code_is_transient(rc) || rc == CS_ECANCELED || s->seen.log_id == 0)) {
        finish(e, rc, err);
    } else if (s->report->refused && s->seen.log_id != s->report->refused_log) {
        finish(e, another_is_at_it(&why), &why);
    } else {
        s->at = 1;
        begin(e);
    }
}

static void salvage(struct clawsync_engine *e)
{
    e->pull.salvage = true;
    cs_step_pull(e, salvaged);
}

/* ---- is anything lost? ---- */

static void looked(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_refill_step *s = &e->refill;
    struct cs_error none = { 0 };

    if (rc == CS_OK && cs_refill_is_open(e)) {
        fill(e); /* an earlier try came so far */
    } else if (rc == CS_OK) {
        s->report->needed = 0;
        finish(e, CS_OK, &none);
    } else if (!is_lost(rc, err)) {
        finish(e, rc, err);
    } else if (s->report->begun && names(err, "LOG_REPLACED:")) {
        stopped(e, rc, err);
    } else if (names(err, "HUB_LOST:")) {
        s->seen = (struct cs_hub_head){ 0 };
        s->at = 1;
        begin(e);
    } else {
        salvage(e);
    }
}

static void membered(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        looked(e, rc, err);
    else
        cs_step_pull(e, looked);
}

void cs_step_refill(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_refill_step *s = &e->refill;

    s->done = done;
    s->report = e->schedule.current->arg;
    s->report->needed = 1;
    s->again = false;
    cs_step_member(e, membered);
}

int clawsync_engine_refill_hub(clawsync_engine *e, int *needed, clawsync_error *err)
{
    struct cs_refill_report report = { 0 };
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { cs_step_refill }, .arg = &report };
    int rc = cs_engine_command(e, &c, err);

    if (needed != NULL)
        *needed = report.needed;
    return rc;
}
