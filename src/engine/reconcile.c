/* Reconciling: this device's merged state beside another's, at one number of the log. A job at a time looks at the
 * hub's answer and says what is next; the loop does that.
 *
 *   sync ──▶ read ──▶ look ──┬─▶ there is another's state of this number: compare ──▶ tell ──▶ publish ─┐
 *     ▲  ▲    │ unsettled,   ├─▶ something is wanted of us: publish, say so ─────────────────────────────┤
 *     │  └────┘ or in doubt  └─▶ neither: give ours ──▶ wait until those who are there have compared ──▶ end
 *     └──────────────────────────────── the log has moved: another round ◀──────────────────────────────┘
 *
 * The daemon, told by the hub that there is something, looks first and never gives. Nothing of this changes a row: what
 * is published are the entities that differ, with the stamps that they have, as batches like any other, and the join
 * does the rest on every device. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "engine/entities.h"

enum {
    SYNCS_MAX = 6,          /* in a row without a state that is settled, and sure */
    ROUNDS_MAX = 12,        /* until the others are as we are */
    PROVE_MS = 10000,       /* how long another step waits for those that are connected */
    RANGES = 512,           /* asked for at once */
    PUT_BYTES = 192 * 1024, /* of leaves in one request */
    TAGS_BYTES = 8192 * CS_TAG_LEN,
    PUBLISH_ROWS = 256
};

#define ACTION(name) CLAWSYNC__V1__RECONCILE_ACTION__RECONCILE_ACTION_##name

/* ---- ends ---- */

static void forget(struct clawsync_engine *e)
{
    struct cs_reconcile_step *s = &e->reconcile;

    cs_entities_free(s->set);
    s->set = NULL;
    s->publishing = false;
    cs_buf_free(&s->level);
    cs_buf_free(&s->below);
    cs_buf_free(&s->want);
    cs_buf_free(&s->gave);
}

void cs_reconcile_step_free(struct clawsync_engine *e)
{
    cs_turns_free(&e->reconcile.turns);
    forget(e);
}

static void record_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_reconcile_step *s = &e->reconcile;

    j->rc = cs_record_reconciled(e, &s->result.report, &j->err);
}

static void ended(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_reconcile_step *s = &e->reconcile;

    if (s->end_rc == CS_OK && (s->end_rc = j->rc) != CS_OK)
        s->end_err = j->err;
    if (s->result_to != NULL)
        *s->result_to = s->result;
    s->result_to = NULL;
    forget(e);
    s->done(e, s->end_rc, &s->end_err);
}

static bool found_something(const clawsync_reconciled *r)
{
    return r->missing_here + r->missing_there + r->conflicting + r->sealed + r->published > 0;
}

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    clawsync_event ev = { .type = CLAWSYNC_EVENT_RECONCILE_COMPLETED };
    struct cs_job none = { .rc = CS_OK };

    cs_turns_end(&s->turns);
    s->result.report.bytes_sent = s->turns.sent;
    s->result.report.bytes_received = s->turns.received;
    s->end_rc = rc;
    if (rc != CS_OK)
        s->end_err = *err;
    s->doubtful = false;
    if (rc == CS_OK && s->set != NULL) {
        ev.count = s->result.report.missing_here + s->result.report.missing_there + s->result.report.conflicting;
        ev.total = s->result.report.rows;
        cs_emit(e, &ev);
    }
    if (found_something(&s->result.report)) { /* also when it failed behind that */
        s->job = (struct cs_job){ .run = record_run, .done = ended };
        cs_engine_job(e, &s->job);
    } else {
        ended(e, &none);
    }
}

/* ---- requests and answers, in a job ---- */

static enum cs_turn request(struct clawsync_engine *e, Clawsync__V1__ReconcileAction action)
{
    struct cs_reconcile_step *s = &e->reconcile;

    clawsync__v1__reconcile_ranges_request__init(&s->request);
    s->request.workspace_id = e->workspace_text;
    s->request.device_id = e->device_text;
    s->request.action = action;
    s->request.log_id = s->mark.log_id;
    s->request.log_number = s->mark.number;
    s->request.epoch = s->epoch;
    s->turns.request = &s->request.base;
    return CS_TURN_CALL;
}

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

static bool is_ours(const struct clawsync_engine *e, ProtobufCBinaryData id)
{
    return id.len == 16 && memcmp(id.data, e->device.b, 16) == 0;
}

/* Another's whole state of this very place. */
static bool comparable(const struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a)
{
    const struct cs_reconcile_step *s = &e->reconcile;

    return a->whole && a->device_id.len == 16 && !is_ours(e, a->device_id) && a->log_id == s->mark.log_id &&
           a->log_number == s->mark.number && a->epoch == s->epoch;
}

static int seal_proof(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    const struct cs_epoch_keys *keys = cs_keystore_epoch(e->ks, s->epoch);
    struct cs_state_proof p = { .workspace = e->workspace,
                                .device = e->device,
                                .log_id = s->mark.log_id,
                                .number = s->mark.number,
                                .rows = cs_entities_sums(s->set)->rows,
                                .time_ms = cs_now_ms(e->world) };

    if (keys == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", s->epoch);
    memcpy(p.log_hash, s->mark.log_hash, sizeof p.log_hash);
    memcpy(p.root, cs_entities_root(s->set), sizeof p.root);
    cs_state_proof_seal(&p, &e->keys->sign, keys, &e->rng, s->proof);
    return CS_OK;
}

/* ---- reading our own ---- */

static int read_state(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    const struct cs_epoch_keys *keys = cs_keystore_epoch(e->ks, e->members.epoch);
    uint64_t began = cs_monotonic_ns(e->world);
    struct cs_merged_info info;
    int rc;

    if (keys == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    cs_entities_free(s->set);
    s->set = NULL;
    s->place = 0;
    if ((rc = cs_entities_read(&s->set, e->replica, keys, &info, err)) != CS_OK)
        return rc;
    s->reading_ms = (cs_monotonic_ns(e->world) - began) / 1000000;
    s->epoch = keys->epoch;
    s->mark = info.mark;
    if (info.mark.number == 0) {
        s->mark.log_id = e->head.log_id;
        memcpy(s->mark.log_hash, e->log_start, 32);
    }
    if (info.unsettled || info.doubt != NULL) {
        if (s->turns.syncs >= SYNCS_MAX)
            return cs_fail(err, CS_EBUSY,
                           info.unsettled ? "the application writes all the time; try again when it rests"
                                          : "table \"%.100s\" changes behind our back all the time",
                           info.doubt);
        *next = CS_TURN_SYNC;
        s->doubtful = s->doubtful || !info.unsettled;
        /* what is never sent may be an edit of a row whose values are gone */
        return info.unsettled && s->turns.syncs != SYNCS_MAX / 2
                   ? CS_OK
                   : cs_replica_look_closer(e->replica, info.unsettled, err);
    }
    s->turns.syncs = 0;
    s->doubtful = s->giving = false;
    s->result.report.log_number = s->mark.number;
    s->result.report.rows = cs_entities_sums(s->set)->rows;
    cs_hex(s->result.report.root, cs_entities_root(s->set), 32);
    s->phase = CS_RECONCILE_LOOK;
    *next = request(e, ACTION(LOOK));
    return seal_proof(e, err);
}

/* ---- publishing what others miss ---- */

/* The tags that are wanted: picked, if they are here, and crossed off at the hub in any case. Those of an older epoch
 * are found again by the next comparison. */
static int pick_wanted(struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a, bool *any,
                       struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    bool known;
    int rc = CS_OK;

    *any = a->wanted.len >= CS_TAG_LEN;
    cs_buf_reset(&s->gave);
    for (size_t at = 0; rc == CS_OK && at + CS_TAG_LEN <= a->wanted.len; at += CS_TAG_LEN) {
        cs_buf_put(&s->gave, a->wanted.data + at, CS_TAG_LEN);
        if (a->wanted_epoch == s->epoch)
            rc = cs_entities_pick(s->set, a->wanted.data + at, &known, err);
    }
    return rc == CS_OK && s->gave.failed ? no_memory(err) : rc;
}

int cs_reconcile_extract(struct clawsync_engine *e, struct cs_arena *a, size_t max_bytes, struct cs_delta *out,
                         bool *more, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    struct cs_entity *list;
    int64_t *places;
    size_t n, taken;
    bool busy;
    int rc;

    *out = (struct cs_delta){ 0 };
    *more = false;
    while (s->publishing && out->nops == 0) {
        if ((rc = cs_entities_picked(s->set, a, s->place, PUBLISH_ROWS, &list, &places, &n, err)) != CS_OK)
            return rc;
        if (n == 0)
            break;
        if ((rc = cs_replica_full(e->replica, a, list, n, e->config.max_delta_rows, max_bytes, out, &taken, &busy,
                                  err)) != CS_OK)
            return rc;
        if (taken == 0 && !busy) /* nothing is tracked any more */
            break;
        *more = true;
        if (busy)
            return CS_OK;
        s->taken_to = places[taken - 1];
        s->taken_rows = taken;
        if (out->nops == 0)
            cs_reconcile_extracted(e); /* rows that are no more */
    }
    return CS_OK;
}

void cs_reconcile_extracted(struct clawsync_engine *e)
{
    struct cs_reconcile_step *s = &e->reconcile;

    s->place = s->taken_to;
    s->result.report.published += s->taken_rows;
    s->taken_rows = 0;
}

/* ---- names ---- */

static void put_part(struct cs_buf *out, const struct cs_value *v)
{
    switch (v->type) {
    case CS_NULL:
        cs_buf_put_str(out, "NULL");
        return;
    case CS_INTEGER:
        cs_buf_printf(out, "%" PRId64, v->u.i);
        return;
    case CS_REAL:
        cs_buf_printf(out, "%.17g", v->u.r);
        return;
    case CS_TEXT:
        for (size_t i = 0; i < v->u.bytes.len && i < 200; i++)
            cs_buf_put_u8(out, v->u.bytes.data[i] < 0x20 || v->u.bytes.data[i] == 0x7f ? '?' : v->u.bytes.data[i]);
        return;
    case CS_BLOB:
        cs_buf_put_str(out, "x'");
        for (size_t i = 0; i < v->u.bytes.len && i < 100; i++)
            cs_buf_printf(out, "%02x", v->u.bytes.data[i]);
        cs_buf_put_str(out, "'");
        return;
    }
}

/* The first of those picked. */
static int name_first(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    struct cs_entity *list;
    int64_t *places;
    struct cs_buf key = { 0 };
    struct cs_reader rd;
    struct cs_value part;
    size_t n;
    int rc = cs_entities_picked(s->set, &s->turns.arena, 0, 1, &list, &places, &n, err);

    if (rc != CS_OK || n == 0)
        return rc;
    snprintf(s->result.report.first_table, sizeof s->result.report.first_table, "%.*s", (int)list[0].table.len,
             (const char *)list[0].table.data);
    rd = cs_reader(list[0].key);
    while (cs_reader_left(&rd) > 0 && cs_key_next(&rd, &part)) {
        cs_buf_put_str(&key, key.len > 0 ? ", " : "");
        put_part(&key, &part);
    }
    snprintf(s->result.report.first_key, sizeof s->result.report.first_key, "%.*s", (int)key.len,
             (const char *)key.data);
    rc = key.failed ? no_memory(err) : CS_OK;
    cs_buf_free(&key);
    return rc;
}

/* ---- the walk down the ranges ---- */

static size_t level_count(const struct cs_reconcile_step *s)
{
    return s->level.len / 2;
}

static uint16_t level_at(const struct cs_reconcile_step *s, size_t i)
{
    return cs_load_u16(s->level.data + 2 * i);
}

static enum cs_turn ask_sums(struct clawsync_engine *e)
{
    struct cs_reconcile_step *s = &e->reconcile;
    size_t n = level_count(s) - s->at < RANGES ? level_count(s) - s->at : RANGES;

    request(e, ACTION(SUMS));
    s->asked = n;
    for (size_t i = 0; i < n; i++) {
        struct cs_range range = { s->depth, level_at(s, s->at + i) };

        cs_range_write(&range, s->ranges + i * CS_RANGE_LEN);
    }
    s->request.ranges = (ProtobufCBinaryData){ n * CS_RANGE_LEN, s->ranges };
    return CS_TURN_CALL;
}

static enum cs_turn walk_begin(struct clawsync_engine *e)
{
    struct cs_reconcile_step *s = &e->reconcile;

    cs_buf_reset(&s->level);
    cs_buf_reset(&s->below);
    cs_buf_put_u16(&s->level, 0);
    s->depth = 0;
    s->at = 0;
    s->phase = CS_RECONCILE_SUMS;
    return ask_sums(e);
}

/* Nothing is there yet: all that we have is missing. */
static void all_of_ours(struct cs_reconcile_step *s)
{
    const struct cs_sums *sums = cs_entities_sums(s->set);

    cs_buf_reset(&s->level);
    for (uint32_t b = 0; b < CS_BUCKETS; b++)
        if (sums->count[b] > 0)
            cs_buf_put_u16(&s->level, (uint16_t)b);
    s->at = 0;
}

static int ask_leaves(struct clawsync_engine *e, enum cs_turn *next);
static int put_some(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err);

/* s->level are the buckets that differ. */
static int at_buckets(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;

    s->at = 0;
    s->phase = s->giving ? CS_RECONCILE_PUT : CS_RECONCILE_LEAVES;
    return s->giving ? put_some(e, next, err) : ask_leaves(e, next);
}

static int take_sums(struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a, enum cs_turn *next,
                     struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    uint8_t ours[CS_CHILDREN_LEN];
    struct cs_buf swap;

    if (s->asked == 0 || a->sums.data == NULL || a->sums.len != s->asked * CS_CHILDREN_LEN)
        return cs_fail(err, CS_EHUB, "the hub's answer about ranges has a wrong length");
    for (size_t i = 0; i < s->asked; i++) {
        struct cs_range range = { s->depth, level_at(s, s->at + i) };
        const uint8_t *theirs = a->sums.data + i * CS_CHILDREN_LEN;

        cs_sums_children(cs_entities_sums(s->set), &range, ours);
        for (unsigned c = 0; c < CS_FANOUT; c++)
            if (memcmp(ours + c * CS_STATE_LEN, theirs + c * CS_STATE_LEN, CS_STATE_LEN) != 0)
                cs_buf_put_u16(&s->below, cs_range_child(&range, c).prefix);
    }
    if (s->below.failed)
        return no_memory(err);
    if ((s->at += s->asked) < level_count(s)) {
        *next = ask_sums(e);
        return CS_OK;
    }
    swap = s->level;
    s->level = s->below;
    s->below = swap;
    cs_buf_reset(&s->below);
    s->at = 0;
    if (++s->depth == CS_RANGE_DEPTH || level_count(s) == 0)
        return at_buckets(e, next, err);
    *next = ask_sums(e);
    return CS_OK;
}

/* ---- comparing ---- */

static int tell(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err);

static int ask_leaves(struct clawsync_engine *e, enum cs_turn *next)
{
    struct cs_reconcile_step *s = &e->reconcile;
    size_t n = level_count(s) - s->at < RANGES ? level_count(s) - s->at : RANGES;
    struct cs_error err = { 0 };

    if (n == 0)
        return tell(e, next, &err);
    request(e, ACTION(LEAVES));
    s->asked = n;
    s->request.ranges = (ProtobufCBinaryData){ 2 * n, s->level.data + 2 * s->at };
    *next = CS_TURN_CALL;
    return CS_OK;
}

struct comparing {
    struct clawsync_engine *e;
    struct cs_error *err;
    int rc;
};
static bool on_difference(void *arg, enum cs_leaf_difference d, const uint8_t tag[CS_TAG_LEN])
{
    struct comparing *c = arg;
    struct cs_reconcile_step *s = &c->e->reconcile;
    bool known;

    s->result.report.missing_there += d == CS_LEAF_ONLY_A;
    s->result.report.missing_here += d == CS_LEAF_ONLY_B;
    s->result.report.conflicting += d == CS_LEAF_DIFFERS;
    if (d != CS_LEAF_ONLY_B)
        c->rc = cs_entities_pick(s->set, tag, &known, c->err);
    if (d != CS_LEAF_ONLY_A)
        cs_buf_put(&s->want, tag, CS_TAG_LEN);
    s->differs = true;
    if (c->rc == CS_OK && s->want.failed)
        c->rc = no_memory(c->err);
    return c->rc == CS_OK;
}

static int take_leaves(struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a, enum cs_turn *next,
                       struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    struct comparing c = { e, err, CS_OK };
    struct cs_buf ours = { 0 };

    if (a->n_buckets == 0 || a->n_buckets > s->asked)
        return cs_fail(err, CS_EHUB, "the hub's answer has other buckets than those that were asked for");
    for (size_t i = 0; i < a->n_buckets && c.rc == CS_OK; i++) {
        const Clawsync__V1__StateBucket *b = a->buckets[i];
        struct cs_slice theirs = cs_slice(b->leaves.data, b->leaves.len);
        uint16_t bucket = level_at(s, s->at + i);

        cs_buf_reset(&ours);
        if (b->prefix != bucket || !cs_leaves_valid(theirs, bucket))
            c.rc = cs_fail(err, CS_EHUB, "the hub's answer has other buckets than those that were asked for");
        else if ((c.rc = cs_entities_leaves(s->set, bucket, &ours, err)) == CS_OK)
            cs_leaves_compare(cs_buf_slice(&ours), theirs, on_difference, &c);
    }
    cs_buf_free(&ours);
    s->at += a->n_buckets;
    return c.rc == CS_OK ? ask_leaves(e, next) : c.rc;
}

/* What the other is to publish, then what we say of our own state. */
static int tell(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    size_t rest = s->want.len - s->told, most = TAGS_BYTES;

    (void)err;
    *next = CS_TURN_CALL;
    if (rest == 0 || s->prove || (s->only_prove && s->told > 0)) { /* to be named: the first of some thousands */
        s->phase = CS_RECONCILE_PROVED;
        request(e, ACTION(PROVE));
        s->request.proof = (ProtobufCBinaryData){ sizeof s->proof, s->proof };
        return CS_OK;
    }
    s->phase = CS_RECONCILE_TOLD;
    request(e, ACTION(WANT));
    s->request.tags = (ProtobufCBinaryData){ rest < most ? rest : most, s->want.data + s->told };
    s->told += rest < most ? rest : most;
    return CS_OK;
}

static int after_comparing(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    int rc;

    s->phase = CS_RECONCILE_WAIT;
    if (s->prove || s->only_prove) {
        rc = s->prove && s->differs ? name_first(e, err) : CS_OK;
        *next = s->by_daemon ? CS_TURN_END : request(e, ACTION(LOOK));
        return rc == CS_OK ? cs_entities_unpick_all(s->set, err) : rc;
    }
    if (s->differs)
        *next = CS_TURN_OTHER;
    else
        *next = s->by_daemon ? CS_TURN_END : request(e, ACTION(LOOK));
    return CS_OK;
}

/* ---- giving ---- */

static int put_some(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    size_t n = level_count(s) - s->at, bytes = 0;
    Clawsync__V1__StateBucket *bucket;
    struct cs_buf leaves = { 0 };
    int rc = CS_OK;

    *next = CS_TURN_CALL;
    if (n == 0) {
        s->phase = CS_RECONCILE_GIVEN;
        request(e, ACTION(END));
        cs_sums_total(cs_entities_sums(s->set), s->total);
        s->request.rows = cs_entities_sums(s->set)->rows;
        s->request.sum = (ProtobufCBinaryData){ sizeof s->total, s->total };
        s->request.proof = (ProtobufCBinaryData){ sizeof s->proof, s->proof };
        return CS_OK;
    }
    n = n < PUT_BYTES / CS_LEAF_LEN ? n : PUT_BYTES / CS_LEAF_LEN;
    request(e, ACTION(PUT));
    s->request.buckets = cs_arena_zalloc(&s->turns.arena, n, sizeof *s->request.buckets);
    bucket = cs_arena_zalloc(&s->turns.arena, n, sizeof *bucket);
    if (s->request.buckets == NULL || bucket == NULL)
        return no_memory(err);
    for (size_t i = 0; i < n && bytes < PUT_BYTES && rc == CS_OK; i++) {
        struct cs_slice copy;

        cs_buf_reset(&leaves);
        rc = cs_entities_leaves(s->set, level_at(s, s->at), &leaves, err);
        copy = cs_arena_copy(&s->turns.arena, cs_buf_slice(&leaves));
        if (rc == CS_OK && copy.data == NULL)
            rc = no_memory(err);
        clawsync__v1__state_bucket__init(&bucket[i]);
        bucket[i].prefix = level_at(s, s->at++);
        bucket[i].leaves = (ProtobufCBinaryData){ copy.len, (uint8_t *)(uintptr_t)copy.data };
        s->request.buckets[s->request.n_buckets++] = &bucket[i];
        bytes += copy.len + 16;
    }
    cs_buf_free(&leaves);
    return rc;
}

static int take_begin(struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a, enum cs_turn *next,
                      struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;

    s->giving = a->give;
    if (s->giving && a->rows == 0) {
        all_of_ours(s);
        return at_buckets(e, next, err);
    }
    *next = walk_begin(e);
    return CS_OK;
}

/* ---- what the others say ---- */

static int root_of(struct clawsync_engine *e, const Clawsync__V1__StateProof *p, const struct cs_member *m,
                   struct cs_state_proof *out, struct cs_error *err)
{
    struct cs_slice sealed = cs_slice(p->proof.data, p->proof.len);
    const struct cs_epoch_keys *keys;
    uint32_t epoch;

    if (!cs_state_proof_epoch(sealed, &epoch) || (keys = cs_keystore_epoch(e->ks, epoch)) == NULL)
        return CS_ENOTFOUND;
    return cs_state_proof_open(out, sealed, &e->workspace, &m->id, m->sign_pk, keys, err);
}

static bool same_state(const struct cs_reconcile_step *s, const struct cs_state_proof *p)
{
    return p->rows == s->result.report.rows && memcmp(p->root, cs_entities_root(s->set), 32) == 0 &&
           memcmp(p->log_hash, s->mark.log_hash, 32) == 0;
}

static void judge(struct clawsync_engine *e, const Clawsync__V1__StateProof *p, const struct cs_member *m,
                  struct cs_proof_row *row)
{
    const struct cs_reconcile_step *s = &e->reconcile;
    struct cs_state_proof proof;
    struct cs_error ignored;
    bool is_here; /* at our number of the log */

    *row = (struct cs_proof_row){ .id = m->id,
                                  .state = p->watching ? CLAWSYNC_PROOF_BEHIND : CLAWSYNC_PROOF_OFFLINE,
                                  .connected = p->watching };
    cs_member_name(m, e->ks->epochs, e->ks->nepochs, row->name);
    if (root_of(e, p, m, &proof, &ignored) == CS_OK) {
        row->number = proof.number;
        row->rows = proof.rows;
        row->time_ms = proof.time_ms;
        cs_hex(row->root, proof.root, 32);
        is_here = proof.log_id == s->mark.log_id && proof.number == s->mark.number;
        if (is_here && !same_state(s, &proof))
            row->state = CLAWSYNC_PROOF_DIFFERS;
        else if (is_here && (p->fresh || !p->watching || !s->prove)) /* who is there has to sign anew */
            row->state = CLAWSYNC_PROOF_EQUAL;
    }
    if (cs_uuid_cmp(&m->id, &e->device) == 0)
        row->state = CLAWSYNC_PROOF_SELF;
}

/* *pending: somebody is there who has not compared yet. */
static void judge_all(struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a, bool *pending)
{
    struct cs_reconcile_step *s = &e->reconcile;

    *pending = false;
    s->result.nproofs = 0;
    s->result.report.equal = s->result.report.differing = s->result.report.behind = s->result.report.offline = 0;
    for (size_t i = 0; i < a->n_proofs && s->result.nproofs < CS_PROOFS_MAX; i++) {
        struct cs_proof_row *row = &s->result.proofs[s->result.nproofs];
        const struct cs_member *m;
        struct cs_uuid id;

        if (a->proofs[i]->device_id.len != 16)
            continue;
        memcpy(id.b, a->proofs[i]->device_id.data, 16);
        if ((m = cs_membership_find(&e->members, &id)) == NULL || !m->active)
            continue;
        judge(e, a->proofs[i], m, row);
        s->result.report.equal += row->state == CLAWSYNC_PROOF_EQUAL;
        s->result.report.differing += row->state == CLAWSYNC_PROOF_DIFFERS;
        s->result.report.behind += row->state == CLAWSYNC_PROOF_BEHIND;
        s->result.report.offline += row->state == CLAWSYNC_PROOF_OFFLINE;
        *pending = *pending || (row->state != CLAWSYNC_PROOF_SELF && a->proofs[i]->watching && !a->proofs[i]->fresh);
        s->result.nproofs++;
    }
}

/* Has every other device signed the very same state, at the same number of the log? */
static bool all_are_equal(const struct clawsync_engine *e)
{
    size_t devices = cs_membership_devices(&e->members);

    return devices > 1 && e->reconcile.result.report.equal + 1 == devices;
}

static void note_agreed(struct clawsync_engine *e)
{
    struct cs_reconcile_step *s = &e->reconcile;

    s->agreed = (struct cs_place_root){ .log_id = s->mark.log_id, .number = s->mark.number };
    memcpy(s->agreed.root, cs_entities_root(s->set), 32);
}

bool cs_reconcile_agreed(const struct clawsync_engine *e, const struct cs_state_proof *p)
{
    const struct cs_place_root *a = &e->reconcile.agreed;

    return a->log_id != 0 && a->log_id == p->log_id && a->number == p->number && memcmp(a->root, p->root, 32) == 0;
}

static bool has_own_proof(const struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a)
{
    for (size_t i = 0; i < a->n_proofs; i++)
        if (is_ours(e, a->proofs[i]->device_id))
            return a->proofs[i]->fresh;
    return false;
}

/* ---- the phases ---- */

/* The daemon was told that there is something: is there, for us, as we stand? */
static int peeked(struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a, enum cs_turn *next,
                  struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    struct cs_pull_mark mark;
    bool reads;

    if (a == NULL) {
        *next = request(e, ACTION(LOOK));
        return CS_OK;
    }
    cs_replica_pull_mark(e->replica, &mark);
    s->mark = mark;
    if (mark.number == 0)
        s->mark.log_id = e->head.log_id;
    s->epoch = e->members.epoch;
    reads = a->wanted.len > 0 || (comparable(e, a) && !has_own_proof(e, a));
    *next = CS_TURN_END;
    return reads ? read_state(e, next, err) : CS_OK;
}

static enum cs_turn give(struct clawsync_engine *e, bool take)
{
    struct cs_reconcile_step *s = &e->reconcile;

    s->phase = CS_RECONCILE_BEGIN;
    request(e, ACTION(BEGIN));
    s->request.only_prove = s->prove;
    s->request.take = take;
    return CS_TURN_CALL;
}

static int looked(struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a, enum cs_turn *next,
                  struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    bool wanted;
    int rc = pick_wanted(e, a, &wanted, err);

    if (rc != CS_OK)
        return rc;
    if (wanted) { /* before anything is compared: that moves the log */
        *next = CS_TURN_OTHER;
        return CS_OK;
    }
    cs_buf_reset(&s->want);
    s->told = 0;
    s->differs = false;
    if (comparable(e, a)) {
        s->giving = false;
        s->only_prove = s->by_daemon && a->only_prove;
        *next = walk_begin(e);
        return CS_OK;
    }
    if (s->by_daemon) {
        *next = CS_TURN_END;
        return CS_OK;
    }
    *next = give(e, false);
    return CS_OK;
}

static enum cs_turn another_round(struct clawsync_engine *e)
{
    struct cs_reconcile_step *s = &e->reconcile;

    if (s->result.report.rounds >= ROUNDS_MAX || s->by_daemon)
        return CS_TURN_END;
    s->result.report.rounds++;
    return CS_TURN_SYNC;
}

static int drop_finding(struct clawsync_engine *e, const char *name, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = cs_replica_meta_get(e->replica, name, &b, err);

    cs_buf_free(&b);
    return rc == CS_OK ? cs_replica_meta_drop(e->replica, name, err) : rc == CS_ENOTFOUND ? CS_OK : rc;
}

/* What a command found stands in `status` until another one finds better. */
static int keep_finding(struct clawsync_engine *e, struct cs_error *err)
{
    const clawsync_reconciled *r = &e->reconcile.result.report;
    struct cs_buf b = { 0 };
    int rc = CS_OK;

    if (r->differing > 0) {
        if (r->first_table[0] != '\0')
            cs_buf_printf(&b, "%s, key %s", r->first_table, r->first_key);
        rc = b.failed ? no_memory(err) : cs_replica_meta_set(e->replica, CS_DIFFERS, cs_buf_slice(&b), err);
    } else if (!e->reconcile.prove || all_are_equal(e)) { /* reconciling has done what can be done here */
        rc = drop_finding(e, CS_DIFFERS, err);
        rc = rc == CS_OK ? drop_finding(e, CS_REMADE, err) : rc;
    }
    cs_buf_free(&b);
    return rc;
}

static int waited(struct clawsync_engine *e, const Clawsync__V1__ReconcileRangesResponse *a, enum cs_turn *next,
                  struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    bool pending, wanted, equal;
    int rc;

    if (a == NULL) {
        *next = request(e, ACTION(LOOK));
        return CS_OK;
    }
    judge_all(e, a, &pending);
    if ((equal = all_are_equal(e)))
        note_agreed(e);
    if ((rc = pick_wanted(e, a, &wanted, err)) != CS_OK ||
        (equal && (rc = cs_review_aside_settled(e->replica, err)) != CS_OK))
        return rc;
    if (wanted && s->prove) { /* what another device found: to be named, not sent */
        s->differs = true;
        if ((rc = name_first(e, err)) != CS_OK || (rc = cs_entities_unpick_all(s->set, err)) != CS_OK)
            return rc;
        s->phase = CS_RECONCILE_GAVE;
        *next = request(e, ACTION(GAVE));
        s->request.tags = (ProtobufCBinaryData){ s->gave.len, s->gave.data };
    } else if (wanted) {
        *next = CS_TURN_OTHER;
    } else if (a->head_number > s->mark.number && s->result.report.rounds < ROUNDS_MAX) {
        *next = another_round(e);
    } else {
        *next = !pending || cs_loop_now_ms(e->loop) >= s->until_ms ? CS_TURN_END : CS_TURN_WAIT;
        /* they compare with ours now, and not with what was there before; and sign anew where that is to be proven */
        if (!s->giving && (*next == CS_TURN_WAIT || (s->prove && !s->differs)))
            *next = give(e, true);
        if (*next == CS_TURN_END && !s->by_daemon)
            return keep_finding(e, err);
    }
    return CS_OK;
}

/* What was picked is in the log now. */
static int published(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;
    int rc = cs_entities_unpick_all(s->set, err);

    if (rc != CS_OK)
        return rc;
    if (s->gave.len == 0) {
        *next = another_round(e);
        return CS_OK;
    }
    s->phase = CS_RECONCILE_GAVE;
    *next = request(e, ACTION(GAVE));
    s->request.tags = (ProtobufCBinaryData){ s->gave.len, s->gave.data };
    return CS_OK;
}

static int gave(struct clawsync_engine *e, enum cs_turn *next)
{
    struct cs_reconcile_step *s = &e->reconcile;

    cs_buf_reset(&s->gave);
    if (!s->prove) {
        *next = another_round(e);
        return CS_OK;
    }
    s->phase = CS_RECONCILE_WAIT;
    *next = request(e, ACTION(LOOK));
    return CS_OK;
}

/* answer: NULL in a phase that has not asked yet. A hub may end a call without a message: that is an empty one. */
static int look(struct clawsync_engine *e, const ProtobufCMessage *answer, enum cs_turn *next, struct cs_error *err)
{
    static const Clawsync__V1__ReconcileRangesResponse nothing = CLAWSYNC__V1__RECONCILE_RANGES_RESPONSE__INIT;
    const Clawsync__V1__ReconcileRangesResponse *said = (const void *)answer, *a = said != NULL ? said : &nothing;
    struct cs_reconcile_step *s = &e->reconcile;

    switch (s->phase) {
    case CS_RECONCILE_PEEK:
        return peeked(e, said, next, err);
    case CS_RECONCILE_LATER:
        *next = CS_TURN_SYNC;
        return CS_OK;
    case CS_RECONCILE_READ:
        return read_state(e, next, err);
    case CS_RECONCILE_LOOK:
        return looked(e, a, next, err);
    case CS_RECONCILE_BEGIN:
        return take_begin(e, a, next, err);
    case CS_RECONCILE_SUMS:
        return take_sums(e, a, next, err);
    case CS_RECONCILE_LEAVES:
        return take_leaves(e, a, next, err);
    case CS_RECONCILE_TOLD:
        return tell(e, next, err);
    case CS_RECONCILE_PROVED:
        return after_comparing(e, next, err);
    case CS_RECONCILE_PUT:
        return put_some(e, next, err);
    case CS_RECONCILE_GIVEN:
        s->phase = CS_RECONCILE_WAIT;
        *next = request(e, ACTION(LOOK));
        return CS_OK;
    case CS_RECONCILE_WAIT:
        return waited(e, said, next, err);
    case CS_RECONCILE_PUBLISHED:
        return published(e, next, err);
    case CS_RECONCILE_GAVE:
        return gave(e, next);
    }
    return CS_OK;
}

/* ---- the loop's side ---- */

static void anew(struct clawsync_engine *e)
{
    e->reconcile.phase = CS_RECONCILE_READ;
}

static void pushed(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_reconcile_step *s = &e->reconcile;

    s->publishing = false;
    if (rc != CS_OK) {
        finish(e, rc, err);
        return;
    }
    s->phase = CS_RECONCILE_PUBLISHED;
    cs_turns_next(&s->turns);
}

static void begin_later(struct clawsync_engine *e)
{
    struct cs_reconcile_step *s = &e->reconcile;

    s->turns.syncs = 0;
    s->phase = CS_RECONCILE_LATER;
    cs_turns_wait(&s->turns);
}

static void publish_begin(struct clawsync_engine *e)
{
    e->reconcile.publishing = true;
    e->reconcile.place = 0;
    cs_step_push(e, pushed);
}

/* Somebody was faster: with the log as it is then. Somebody gives at present: when he has. */
static void refused(struct clawsync_engine *e, int status, const struct cs_error *why)
{
    struct cs_reconcile_step *s = &e->reconcile;
    struct cs_error err = *why;

    if (status == CS_RPC_UNIMPLEMENTED)
        cs_fail(&err, CS_EUNSUPPORTED,
                "hub %.150s does not offer to reconcile; it needs a newer claw-sync-server (changes are replicated all "
                "the same)",
                e->config.hub_endpoint);
    else if (status == CS_RPC_FAILED_PRECONDITION)
        err.code = CS_EABORTED;
    if (err.code == CS_EABORTED && s->by_daemon)
        finish(e, CS_OK, NULL);
    else if (err.code == CS_EABORTED && status == CS_RPC_FAILED_PRECONDITION &&
             (s->overtaken++ < ROUNDS_MAX || cs_loop_now_ms(e->loop) < s->until_ms))
        cs_turns_sync(&s->turns);
    else if (err.code == CS_EABORTED && status == CS_RPC_ABORTED && cs_loop_now_ms(e->loop) < s->until_ms)
        begin_later(e);
    else
        finish(e, err.code, &err);
}

static const struct cs_turns_kind talk = { .method = "ReconcileRanges",
                                           .answer = &clawsync__v1__reconcile_ranges_response__descriptor,
                                           .look = look,
                                           .anew = anew,
                                           .other = publish_begin,
                                           .refused = refused,
                                           .finish = finish };

static bool begin(struct clawsync_engine *e, bool by_daemon, cs_step_done done)
{
    struct cs_reconcile_step *s = &e->reconcile;
    struct cs_error err = { 0 };

    s->done = done;
    if (cs_turns_begin(e, &s->turns, &talk) != CS_OK) {
        done(e, no_memory(&err), &err);
        return false;
    }
    s->by_daemon = by_daemon;
    s->prove = s->only_prove = s->differs = false;
    s->result.report = (clawsync_reconciled){ 0 };
    s->result.nproofs = 0;
    s->result_to = NULL;
    s->reading_ms = 0;
    s->mark = (struct cs_pull_mark){ 0 };
    s->epoch = 0;
    s->doubtful = false;
    s->overtaken = 0;
    return true;
}

static bool begin_by_command(struct clawsync_engine *e, bool prove, uint32_t wait_ms, cs_step_done done)
{
    struct cs_reconcile_step *s = &e->reconcile;

    if (!begin(e, false, done))
        return false;
    s->prove = prove;
    s->until_ms = cs_loop_now_ms(e->loop) + wait_ms;
    s->result.report.rounds = 1;
    return true;
}

void cs_step_reconcile(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_reconcile_wish *wish = e->schedule.current->arg;

    if (!begin_by_command(e, wish->prove, wish->wait_ms, done))
        return;
    e->reconcile.result_to = &wish->result;
    cs_turns_sync(&e->reconcile.turns);
}

void cs_step_prove(struct clawsync_engine *e, cs_step_done done)
{
    if (begin_by_command(e, true, PROVE_MS, done))
        cs_turns_sync(&e->reconcile.turns);
}

void cs_step_reconcile_asked(struct clawsync_engine *e, cs_step_done done)
{
    if (!begin(e, true, done))
        return;
    e->reconcile.phase = CS_RECONCILE_PEEK;
    cs_turns_next(&e->reconcile.turns);
}
