/* The step that fetches and applies what the hub's log has beyond our mark. The loop queues messages; a job at a time
 * takes what is queued, puts batches together, verifies and applies them. Above a bound the stream is paused, so a
 * large backlog costs a few MiB. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

enum { QUEUE_MAX = 4 * 1024 * 1024, MAX_RESTARTS = 3, LONG_PULL = 16 };

static void pull_work(struct clawsync_engine *e);
static void pull_call(struct clawsync_engine *e);

static void record_run(struct clawsync_engine *e, struct cs_job *j)
{
    if ((j->rc = cs_record_pulled(e, &j->err)) == CS_OK)
        j->rc = cs_engine_head_save(e, &j->err);
}

static void record_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;

    s->taken_ops = 0;
    if (s->end_rc == CS_OK && (s->end_rc = j->rc) != CS_OK)
        s->end_err = j->err;
    s->done(e, s->end_rc, &s->end_err);
}

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;

    cs_hub_call_cancel(&s->call);
    cs_messages_free(&s->taken);
    cs_arena_free(&s->arena);
    cs_batch_free(&s->batch);
    s->end_rc = rc;
    if (rc != CS_OK)
        s->end_err = *err;
    if (s->taken_ops == 0) {
        s->done(e, rc, err);
        return;
    }
    s->job = (struct cs_job){ .run = record_run, .done = record_done };
    cs_engine_job(e, &s->job);
}

/* ---- one batch, in a job ---- */

static int advance(struct clawsync_engine *e, struct cs_pull_mark *mark, const struct cs_batch_header *h,
                   const struct cs_delta *d, struct cs_apply_result *result, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    int rc;

    mark->log_id = e->head.log_id;
    cs_log_next(s->mark.log_hash, s->log_number, s->batch.hash, mark->log_hash);
    if (s->log_number == e->floor.number && e->head.log_id == e->floor.log_id &&
        memcmp(mark->log_hash, e->floor.log_hash, 32) != 0)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's log is not the one that whoever let this device in had seen");
    mark->number = s->log_number;
    mark->header_refused = h == NULL;
    if (h != NULL) {
        mark->device = h->device;
        mark->device_number = h->number;
        memcpy(mark->device_hash, s->batch.hash, 32);
        mark->device_member_seq = h->member_seq;
        if (h->epoch > mark->highest_epoch)
            mark->highest_epoch = h->epoch;
        if (h->top_stamp > mark->top_stamp)
            mark->top_stamp = h->top_stamp;
    } else {
        memset(&mark->device, 0, sizeof mark->device);
        mark->device_number = 0;
        memset(mark->device_hash, 0, 32);
        mark->device_member_seq = 0;
    }
    if ((rc = cs_replica_apply(e->replica, d, mark, result, err)) == CS_OK)
        s->mark = *mark;
    return rc;
}

/* A batch of ours in the log that this database knows nothing of. One that was refused once and was taken all the same,
 * a copy of it having been on its way, is ours to adopt; so is what an older life of this device sent. */
static int unknown_own(struct clawsync_engine *e, const struct cs_batch_header *h, struct cs_error *err)
{
    bool refused;
    int rc = cs_replica_was_refused(e->replica, e->pull.batch.hash, &refused, err);

    if (rc != CS_OK || refused)
        return rc;
    if (!e->recovering && e->ks->nincarnations > 1 && !cs_incarnation_had(e, h->incarnation))
        return cs_fail(err, CS_EEXIST,
                       "DEVICE_CLONED: another copy of this device is at work, batch %" PRIu64
                       " of it is not ours; nothing more is sent or taken here. Use one of them only, or make this one "
                       "a device of its own, with a data_dir (CLAW_DATA_DIR) of its own: claw-sync identity new, then "
                       "claw-sync join CODE",
                       h->number);
    e->recovering = true;
    e->fetched_back++;
    return CS_OK;
}

/* Our own batch, as the hub has it. *adopt: it is to be merged as another's would be. */
static int own_batch(struct clawsync_engine *e, const struct cs_batch_header *h, bool *adopt, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    struct cs_bound *bound = NULL;
    uint64_t chain;
    uint8_t hash[32];
    size_t n = 0;
    int rc = cs_replica_bound(e->replica, &s->arena, false, &bound, &n, err);

    *adopt = false;
    if (rc != CS_OK)
        return rc;
    for (size_t i = 0; i < n; i++) {
        bool same = memcmp(bound[i].hash, s->batch.hash, 32) == 0;

        if (bound[i].number != h->number)
            continue;
        if (bound[i].state == CS_BOUND_WAITING && same) { /* the acknowledgement was lost */
            rc = cs_queue_accepted(e->queue, s->batch.hash, err);
            return rc == CS_OK ? cs_replica_bound_accepted(e->replica, h->number, s->log_number, err) : rc;
        }
        if (bound[i].state == CS_BOUND_ACCEPTED && (!same || bound[i].log_number != s->log_number))
            return cs_fail(err, CS_EHUB, "HUB_FORK: the hub acknowledged another batch than it has in its log");
    }
    cs_replica_chain(e->replica, &chain, hash);
    if (h->number <= chain)
        return CS_OK;
    if (s->header_only && !s->own_in_full) {
        s->own_in_full = s->need_own = true;
        return CS_OK;
    }
    *adopt = true;
    if ((rc = unknown_own(e, h, err)) != CS_OK)
        return rc;
    return cs_push_take_back(e, err); /* what is bound under its number goes behind it */
}

/* A finding about one batch or device: shown, and the log goes on without it. */
static int set_aside(struct clawsync_engine *e, const struct cs_batch_header *h, const char *name, struct cs_error *err)
{
    struct cs_pull_mark mark = e->pull.mark;
    struct cs_apply_result result;
    int rc = cs_record_peer(e, &e->pull.batch, err->msg, err);

    if (rc != CS_OK)
        return rc;
    cs_note(e, CLAWSYNC_EVENT_SYNC_ERROR, CS_ECORRUPT, name, "%s (number %" PRIu64 " of the log)", err->msg,
            e->pull.log_number);
    return advance(e, &mark, h, NULL, &result, err);
}

static int open_and_apply(struct clawsync_engine *e, const struct cs_batch_header *h, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    const struct cs_epoch_keys *keys = cs_keystore_epoch(e->ks, h->epoch);
    enum cs_unpack_fault fault = CS_FAULT_NONE;
    struct cs_pull_mark mark = s->mark;
    struct cs_apply_result result = { 0 };
    struct cs_delta delta = { 0 };
    int rc;

    if (keys == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", h->epoch);
    if (s->uneven)
        cs_fail(err, CS_ECORRUPT, "BAD_CHUNK: chunks of a batch have the wrong sizes");
    if (s->uneven)
        return set_aside(e, h, "BAD_CHUNK", err);
    rc = cs_unpack(e->packer, &s->batch, keys, &delta, &fault, err);
    if (rc == CS_ECORRUPT) {
        cs_fail_context(err, "%s", cs_unpack_fault_name(fault));
        return set_aside(e, h, cs_unpack_fault_name(fault), err);
    }
    if (rc == CS_OK)
        rc = advance(e, &mark, h, &delta, &result, err);
    if (rc != CS_OK)
        return rc;
    e->totals.deltas_pulled++;
    e->totals.operations_pulled += result.ops;
    e->totals.chunks_pulled += s->batch.nchunks;
    e->totals.bytes_pulled += s->batch.sealed.len;
    s->conflicts += result.manual_conflicts;
    s->taken_batches++;
    s->taken_ops += result.ops;
    s->resolved += result.conflicts - result.manual_conflicts;
    return CS_OK;
}

/* Where the hub acknowledged a batch of ours its log has that batch. */
static int check_acknowledged(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_pull_step *s = &e->pull;
    bool other;
    int rc = cs_replica_acknowledged_other(e->replica, s->log_number, s->batch.hash, &other, err);

    if (rc != CS_OK || !other)
        return rc;
    return cs_fail(err, CS_EHUB,
                   "HUB_FORK: the hub acknowledged a batch of this device at number %" PRIu64
                   " and has another one there; nothing more is taken from it",
                   s->log_number);
}

static int take_batch(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    struct cs_pull_mark mark = s->mark;
    struct cs_apply_result result;
    struct cs_batch_header h;
    struct cs_finding f;
    bool adopt;
    int rc;

    cs_batch_hash(cs_slice(s->batch.header, CS_BATCH_HEADER_LEN), cs_buf_slice(&s->batch.hashes), s->batch.hash);
    memcpy(e->looked_at, s->batch.hash, 32);
    if ((rc = check_acknowledged(e, err)) != CS_OK)
        return rc;
    if (s->envelope_bad) {
        cs_fail(err, CS_ECORRUPT, "BAD_HEADER: a batch's envelope cannot be read");
        return set_aside(e, NULL, "BAD_HEADER", err);
    }
    switch (cs_verify_header(e, &s->mark, &s->batch, s->log_number, &h, &f, err)) {
    case CS_FINE:
        break;
    case CS_STOP_DEVICE:
    case CS_SET_ASIDE:
        return set_aside(e, NULL, f.name, err);
    case CS_NEED_MEMBERS:
        s->need_member = true;
        return CS_OK;
    case CS_STOP_HUB:
    case CS_NEED_UPDATE:
    case CS_FAILED:
        return err->code;
    }
    if (f.known)
        return advance(e, &mark, &h, NULL, &result, err);
    if (cs_uuid_cmp(&h.device, &e->device) == 0) {
        if ((rc = own_batch(e, &h, &adopt, err)) != CS_OK || s->need_own)
            return rc;
        if (!adopt)
            return advance(e, &mark, &h, NULL, &result, err);
    }
    if (s->header_only) {
        cs_fail(err, CS_ECORRUPT, "BAD_CHUNK: the hub gave a batch without its content");
        return set_aside(e, &h, "BAD_CHUNK", err);
    }
    return open_and_apply(e, &h, err);
}

/* ---- messages, in a job ---- */

static int bad_stream(struct cs_error *err)
{
    return cs_fail(err, CS_EHUB, "the hub's chunks are not in order; nothing more was taken from it");
}

static int begin_batch(struct cs_pull_step *s, const Clawsync__V1__DeltaChunk *c, struct cs_error *err)
{
    const Clawsync__V1__Envelope *env = c->envelope;

    if (env == NULL || c->total < 1 || c->total > CS_BATCH_MAX_CHUNKS || s->next != s->total)
        return bad_stream(err);
    cs_buf_reset(&s->batch.hashes);
    cs_buf_reset(&s->batch.sealed);
    s->log_number = env->log_number;
    s->total = (uint32_t)c->total;
    s->next = 0;
    s->header_only = c->encrypted_payload.len == 0;
    s->uneven = false;
    s->batch.nchunks = s->total;
    s->batch.chunk_len = (uint32_t)c->encrypted_payload.len;
    cs_buf_put(&s->batch.hashes, env->payload_hashes.data, env->payload_hashes.len);
    s->envelope_bad = env->header.len != CS_BATCH_HEADER_LEN || env->signature.len != CS_SIGNATURE_LEN ||
                      env->payload_hashes.len != (size_t)s->total * 32;
    memset(s->batch.header, 0, sizeof s->batch.header);
    memset(s->batch.signature, 0, sizeof s->batch.signature);
    if (!s->envelope_bad) {
        memcpy(s->batch.header, env->header.data, CS_BATCH_HEADER_LEN);
        memcpy(s->batch.signature, env->signature.data, CS_SIGNATURE_LEN);
    }
    return CS_OK;
}

static int take_chunk(struct clawsync_engine *e, const Clawsync__V1__DeltaChunk *c, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    int rc;

    if (c->seq == 0 && (rc = begin_batch(s, c, err)) != CS_OK)
        return rc;
    if (c->seq < 0 || (uint32_t)c->seq != s->next || s->next >= s->total || (uint32_t)c->total != s->total)
        return bad_stream(err);
    s->next = s->header_only ? s->total : s->next + 1;
    if (s->batch.sealed.len + c->encrypted_payload.len > CS_BATCH_MAX_PLAIN + CS_BATCH_MAX_PLAIN / 4)
        return bad_stream(err);
    if (s->next < s->total ? c->encrypted_payload.len != s->batch.chunk_len
                           : c->encrypted_payload.len > s->batch.chunk_len)
        s->uneven = true;
    if (c->encrypted_payload.len > 0)
        cs_buf_put(&s->batch.sealed, c->encrypted_payload.data, c->encrypted_payload.len);
    if (s->batch.sealed.failed || s->batch.hashes.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return s->next == s->total ? take_batch(e, err) : CS_OK;
}

/* What came is not enough to go on: something else is fetched first, and then the log from the mark again. */
static bool must_restart(const struct cs_pull_step *s)
{
    return s->need_member || s->need_own;
}

static int take_message(struct clawsync_engine *e, const struct cs_message *m, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    ProtobufCAllocator alloc = cs_engine_pb(&s->arena);
    const Clawsync__V1__PullResponse *r = clawsync__v1__pull_response__unpack(&alloc, m->len, m->data);
    int rc = CS_OK;

    if (r == NULL)
        return cs_fail(err, CS_EHUB, "the hub's answer cannot be read");
    for (size_t i = 0; i < r->n_chunks && rc == CS_OK && !must_restart(s); i++)
        rc = take_chunk(e, r->chunks[i], err);
    s->has_more = r->has_more;
    if (rc == CS_OK && !must_restart(s) && r->head != NULL) {
        rc = cs_engine_head(e, r->head, &s->head, err);
        s->has_head = rc == CS_OK;
    }
    return rc;
}

static void take_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;

    j->rc = CS_OK;
    for (const struct cs_message *m = s->taken.first; m != NULL && j->rc == CS_OK && !must_restart(s); m = m->next) {
        j->rc = take_message(e, m, &j->err);
        cs_arena_reset(&s->arena);
    }
    cs_messages_free(&s->taken);
    e->totals.last_sequence = s->mark.number;
    if (e->head.number > s->mark.number && e->head.number - s->from >= LONG_PULL && j->rc == CS_OK)
        cs_note_progress(e, "pulling", s->mark.number, e->head.number);
}

/* At the end our log must be the one that the hub signed. */
static int end_check(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_pull_step *s = &e->pull;

    if (!s->has_head)
        return cs_engine_no_head(err);
    if (s->next != s->total)
        return bad_stream(err);
    if (s->head.number < s->mark.number)
        return cs_fail(err, CS_EHUB, "HUB_ROLLBACK: the hub's log ends at %" PRIu64 ", below %" PRIu64 " that it gave",
                       s->head.number, s->mark.number);
    if (s->head.number == s->mark.number && memcmp(s->head.log_hash, s->mark.log_hash, 32) != 0)
        return cs_fail(err, CS_EHUB,
                       "HUB_FORK: the hub's log is not what its head says; nothing more is taken from it");
    return CS_OK;
}

static void members_done(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        finish(e, rc, err);
    else
        pull_call(e);
}

static void take_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;

    s->busy = false;
    if (j->rc != CS_OK) {
        finish(e, j->rc, &j->err);
        return;
    }
    if (must_restart(s)) {
        cs_hub_call_cancel(&s->call);
        if (s->need_own)
            pull_call(e); /* once: own_in_full stays */
        else if (s->restarts++ < MAX_RESTARTS)
            cs_step_member(e, members_done);
        else
            finish(e, cs_fail(&j->err, CS_EHUB, "HUB_WITHHELD: the hub withholds membership entries"), &j->err);
        return;
    }
    pull_work(e);
}

static void settle_run(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = cs_incarnation_settle(e, &j->err);
}

static void settle_done(struct clawsync_engine *e, struct cs_job *j)
{
    finish(e, j->rc, &j->err);
}

/* The end of the stream, all of it taken. */
static void pull_ended(struct clawsync_engine *e)
{
    struct cs_pull_step *s = &e->pull;
    struct cs_error err = s->call.err;
    int rc = s->call.rc;

    if (rc == CS_OK && s->has_more && s->head.number > s->mark.number) {
        pull_call(e);
        return;
    }
    if (rc == CS_OK)
        rc = end_check(e, &err);
    if (rc == CS_OK && s->head.number > s->mark.number && s->short_ends++ < MAX_RESTARTS) {
        pull_call(e);
        return;
    }
    if (rc == CS_OK && s->head.number > s->mark.number)
        rc = cs_fail(&err, CS_EHUB, "HUB_WITHHELD: the hub's log ends at %" PRIu64 " and it gave up to %" PRIu64,
                     s->head.number, s->mark.number);
    if (rc == CS_OK && e->recovering) {
        s->job = (struct cs_job){ .run = settle_run, .done = settle_done };
        cs_engine_job(e, &s->job);
        return;
    }
    finish(e, rc, &err);
}

static void pull_work(struct clawsync_engine *e)
{
    struct cs_pull_step *s = &e->pull;

    if (s->call.in.first == NULL) {
        if (s->call.ended)
            pull_ended(e);
        else
            cs_hub_call_pause(&s->call, false);
        return;
    }
    s->taken = s->call.in;
    s->call.in = (struct cs_messages){ 0 };
    cs_hub_call_pause(&s->call, false);
    s->busy = true;
    s->job = (struct cs_job){ .run = take_run, .done = take_done };
    cs_engine_job(e, &s->job);
}

static void on_pull(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (c->in.bytes > QUEUE_MAX)
        cs_hub_call_pause(c, true);
    if (!e->pull.busy)
        pull_work(e);
}

static void pull_call(struct clawsync_engine *e)
{
    struct cs_pull_step *s = &e->pull;
    Clawsync__V1__PullRequest req = CLAWSYNC__V1__PULL_REQUEST__INIT;
    Clawsync__V1__SyncCursor cursor = CLAWSYNC__V1__SYNC_CURSOR__INIT;
    struct cs_error err = { 0 };
    int rc;

    s->next = s->total = 0;
    s->has_more = s->has_head = s->need_member = s->need_own = false;
    cursor.workspace_id = e->workspace_text;
    cursor.device_id = e->device_text;
    cursor.lamport_clock = (int64_t)s->mark.number;
    cursor.log_id = s->mark.log_id;
    req.client_cursor = &cursor;
    req.workspace_id = e->workspace_text;
    req.max_chunks = (int32_t)e->config.max_pull_chunks;
    req.own_in_full = s->own_in_full;
    rc = cs_hub_call_start(e, &s->call, "Pull", &req.base, true, on_pull, &err);
    if (rc != CS_OK)
        finish(e, rc, &err);
}

static void load_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;

    cs_replica_pull_mark(e->replica, &s->mark);
    if (s->mark.number == 0)
        memcpy(s->mark.log_hash, e->log_start, 32);
    if (s->mark.log_id == 0)
        s->mark.log_id = e->head.log_id;
    s->from = s->mark.number;
    s->own_in_full = e->recovering;
    if (s->mark.log_id != e->head.log_id)
        j->rc = cs_fail(&j->err, CS_EHUB,
                        "LOG_REPLACED: the hub's log is another one than this database followed; nothing was taken "
                        "from it");
}

static void load_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        pull_call(e);
}

/* Local changes get their stamps before others' are merged over them: also the rows that were here before tracking. */
static void seal_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;
    bool changed, more = false;

    if (!s->checked && (j->rc = cs_replica_check_schema(e->replica, &changed, &j->err)) != CS_OK)
        return;
    s->checked = true;
    j->rc = cs_engine_seal(e, &more, &j->err);
    s->sealed = !more;
}

static void seal_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;

    if (j->rc == CS_OK && !s->sealed && e->schedule.closing)
        j->rc = cs_fail(&j->err, CS_ECANCELED, "the engine is being closed");
    if (j->rc != CS_OK) {
        finish(e, j->rc, &j->err);
        return;
    }
    s->job = s->sealed ? (struct cs_job){ .run = load_run, .done = load_done }
                       : (struct cs_job){ .run = seal_run, .done = seal_done };
    cs_engine_job(e, &s->job);
}

void cs_step_pull(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_pull_step *s = &e->pull;

    s->done = done;
    s->restarts = s->short_ends = 0;
    s->conflicts = 0;
    s->taken_batches = s->taken_ops = s->resolved = 0;
    s->checked = s->sealed = false;
    s->job = (struct cs_job){ .run = seal_run, .done = seal_done };
    cs_engine_job(e, &s->job);
}
