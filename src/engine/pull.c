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
static void taken_snapshot(struct clawsync_engine *e, int rc, const struct cs_error *err);

static void record_run(struct clawsync_engine *e, struct cs_job *j)
{
    if ((j->rc = cs_record_pulled(e, &j->err)) == CS_OK && (j->rc = cs_conflict_news(e, &j->err)) == CS_OK)
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
    cs_aside_free(e);
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

    if (s->salvage) {
        s->log_number = s->mark.number; /* the position stays */
        memcpy(mark->log_hash, s->mark.log_hash, 32);
    } else {
        mark->log_id = e->head.log_id;
        cs_log_next(s->mark.log_hash, s->log_number, s->batch.hash, mark->log_hash);
    }
    mark->number = s->log_number;
    mark->header_refused = h == NULL;
    if (h != NULL && !(s->salvage && s->apart)) {
        mark->device = h->device;
        mark->device_number = h->number;
        memcpy(mark->device_hash, s->batch.hash, 32);
        mark->device_member_seq = h->member_seq;
    } else {
        memset(&mark->device, 0, sizeof mark->device);
        mark->device_number = 0;
        memset(mark->device_hash, 0, 32);
        mark->device_member_seq = 0;
    }
    if (h != NULL && h->epoch > mark->highest_epoch)
        mark->highest_epoch = h->epoch;
    if (h != NULL && h->top_stamp > mark->top_stamp)
        mark->top_stamp = h->top_stamp;
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
            return rc == CS_OK
                       ? cs_replica_bound_accepted(e->replica, h->number, s->salvage ? 0 : s->log_number, 0, err)
                       : rc;
        }
        if (!s->salvage && bound[i].state == CS_BOUND_ACCEPTED && (!same || bound[i].log_number != s->log_number))
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
    char finding[300];
    int rc = cs_record_peer(e, &e->pull.batch, err->msg, err);

    if (rc != CS_OK)
        return rc;
    cs_note(e, CLAWSYNC_EVENT_SYNC_ERROR, CS_ECORRUPT, name, "%s (number %" PRIu64 " of the log)", err->msg,
            e->pull.log_number);
    snprintf(finding, sizeof finding, "%.299s", err->msg);
    if ((rc = cs_aside_note(e, finding, h != NULL, err)) != CS_OK)
        return rc;
    return advance(e, &mark, h, NULL, &result, err);
}

/* What came of a batch's content is not what its author hashed. Streams carry no proof of ours, so that anybody on the
 * way may have changed it: it is fetched once more before it is set aside. */
static int bad_chunk(struct clawsync_engine *e, const struct cs_batch_header *h, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;

    if (s->refetched == s->log_number)
        return set_aside(e, h, "BAD_CHUNK", err);
    s->refetched = s->log_number;
    s->need_again = true;
    return CS_OK;
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
    if (s->uneven) {
        cs_fail(err, CS_ECORRUPT, "BAD_CHUNK: chunks of a batch have the wrong sizes");
        return bad_chunk(e, h, err);
    }
    rc = cs_unpack(e->packer, &s->batch, keys, &delta, &fault, err);
    if (rc == CS_ECORRUPT) {
        cs_fail_context(err, "%s", cs_unpack_fault_name(fault));
        return fault == CS_FAULT_BAD_CHUNK ? bad_chunk(e, h, err) : set_aside(e, h, cs_unpack_fault_name(fault), err);
    }
    delta.state = delta.state || (s->salvage && s->apart);
    if (rc == CS_OK && cs_uuid_cmp(&h->device, &e->device) == 0)
        rc = cs_replica_revive_void(e->replica, &delta, err);
    if (rc == CS_OK && (rc = cs_collect_judge(e, h, s->log_number, &s->arena, &delta, err)) == CS_OK)
        rc = advance(e, &mark, h, &delta, &result, err);
    if (rc != CS_OK)
        return rc;
    e->totals.deltas_pulled++;
    e->totals.operations_pulled += result.ops;
    e->totals.chunks_pulled += s->batch.nchunks;
    e->totals.bytes_pulled += s->batch.sealed.len;
    s->taken_batches++;
    s->taken_ops += result.ops;
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

/* Is it the next number, and the log what others vouch for, or was shown to this device before? Only the hub can have
 * made it another one, whatever is wrong with the batch itself. */
static int check_place(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_pull_step *s = &e->pull;
    bool floor = s->log_number == e->floor.number && e->head.log_id == e->floor.log_id,
         kept = s->log_number == e->ks->log_number && e->head.log_id == e->ks->log_id;
    uint8_t hash[32];

    if (s->log_number != s->mark.number + 1)
        return cs_fail(err, CS_EHUB, "HUB_WITHHELD: the hub left out a number of its log");
    if (!floor && !kept)
        return CS_OK;
    cs_log_next(s->mark.log_hash, s->log_number, s->batch.hash, hash);
    if (floor && memcmp(hash, e->floor.log_hash, 32) != 0)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's log is not the one that whoever let this device in, or refilled the "
                       "hub, had seen");
    if (kept && memcmp(hash, e->ks->log_hash, 32) != 0)
        return cs_fail(err, CS_EHUB,
                       "HUB_FORK: the hub's log has another number %" PRIu64 " than it has shown this device before",
                       s->log_number);
    return CS_OK;
}

/* Is this a number of the hub's log, by a head that it signed? false: that is looked at first. A batch that is refused
 * proves nothing of itself. */
static bool stands(struct clawsync_engine *e, const char *doubt)
{
    struct cs_pull_step *s = &e->pull;
    uint8_t hash[32];

    cs_log_next(s->mark.log_hash, s->log_number, s->batch.hash, hash);
    if (s->borne_out == s->log_number && memcmp(hash, s->doubt_hash, sizeof hash) == 0)
        return true;
    s->looking = true;
    s->looked = s->doubted = s->log_number;
    memcpy(s->looked_hash, hash, sizeof hash);
    memcpy(s->doubt_hash, hash, sizeof hash);
    snprintf(s->doubt, sizeof s->doubt, "%s", doubt);
    return false;
}

static int look(struct cs_pull_step *s, struct cs_error *err)
{
    uint8_t hash[32];

    if (s->log_number != s->looked + 1)
        return cs_fail(err, CS_EHUB, "HUB_WITHHELD: the hub left out a number of its log");
    cs_log_next(s->looked_hash, s->log_number, s->batch.hash, hash);
    memcpy(s->looked_hash, hash, sizeof hash);
    s->looked++;
    return CS_OK;
}

/* A device that never heard that a batch was taken sends another under its number, once the hub has forgotten the
 * first: a member signed both, and what the two hold counts. Not what a device signs that was removed: it may back-date
 * it. */
static bool is_apart(const struct clawsync_engine *e, const struct cs_batch_header *h, const struct cs_finding *f)
{
    const struct cs_member *m;

    return (strcmp(f->name, "BATCH_FORK") == 0 || strcmp(f->name, "BROKEN_CHAIN") == 0) &&
           (m = cs_membership_find(&e->members, &h->device)) != NULL && m->active;
}

/* A batch of a log that is over. Whoever signed it is a member: so its content counts, wherever in the log it stands.
 * All else is passed over. */
static int salvage_batch(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    struct cs_batch_header h;
    struct cs_finding f = { 0 };
    struct cs_error why = { 0 };
    bool adopt = true;
    int rc;

    s->salvaged = s->log_number;
    s->apart = false;
    if (s->envelope_bad)
        return CS_OK;
    if (cs_verify_salvaged(e, &s->batch, &h, &f, &why) == CS_FAILED) {
        *err = why;
        return why.code;
    }
    s->apart = f.severity != CS_FINE && is_apart(e, &h, &f);
    if ((f.severity != CS_FINE && !s->apart) || f.known || s->header_only)
        return CS_OK;
    if (!s->apart && cs_uuid_cmp(&h.device, &e->device) == 0 &&
        ((rc = own_batch(e, &h, &adopt, err)) != CS_OK || !adopt))
        return rc;
    rc = open_and_apply(e, &h, err);
    if (s->need_again)
        s->salvaged--;
    return rc;
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
    if (s->again)
        return cs_aside_take(e, err);
    if (s->salvage)
        return salvage_batch(e, err);
    if (s->looking)
        return look(s, err);
    if ((rc = check_acknowledged(e, err)) != CS_OK || (rc = check_place(e, err)) != CS_OK)
        return rc;
    switch (cs_verify_header(e, &s->mark, &s->batch, s->log_number, &h, &f, err)) {
    case CS_FINE:
        break;
    case CS_STOP_DEVICE:
    case CS_SET_ASIDE:
        return stands(e, err->msg) ? set_aside(e, NULL, f.name, err) : CS_OK;
    case CS_NEED_MEMBERS:
        s->need_member = true;
        return CS_OK;
    case CS_STOP_HUB:
    case CS_NEED_UPDATE:
    case CS_FAILED:
        return err->code;
    }
    if (f.known)
        return stands(e, "a batch came twice") ? advance(e, &mark, &h, NULL, &result, err) : CS_OK;
    if (cs_uuid_cmp(&h.device, &e->device) == 0) {
        if ((rc = own_batch(e, &h, &adopt, err)) != CS_OK || s->need_own)
            return rc;
        if (!adopt && h.kind != CS_BATCH_COLLECTION)
            return advance(e, &mark, &h, NULL, &result, err);
        if (s->header_only && !s->own_in_full) { /* a collection is made where it stands, by its author, too */
            s->own_in_full = s->need_own = true;
            return CS_OK;
        }
    }
    if (s->header_only) {
        cs_fail(err, CS_ECORRUPT, "BAD_CHUNK: the hub gave a batch without its content");
        return bad_chunk(e, &h, err);
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

int cs_pull_chunk(struct cs_pull_step *s, const Clawsync__V1__DeltaChunk *c, bool *whole, struct cs_error *err)
{
    int rc;

    *whole = false;
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
    *whole = s->next == s->total;
    return CS_OK;
}

/* What came is not enough to go on: something else is fetched first, and then the log from the mark again. */
static bool must_restart(const struct cs_pull_step *s)
{
    return s->need_member || s->need_own || s->need_again;
}

static int take_message(struct clawsync_engine *e, const struct cs_message *m, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    ProtobufCAllocator alloc = cs_engine_pb(&s->arena);
    const Clawsync__V1__PullResponse *r = clawsync__v1__pull_response__unpack(&alloc, m->len, m->data);
    int rc = CS_OK;

    if (r == NULL)
        return cs_engine_unreadable(&s->arena, "the hub's answer", err);
    for (size_t i = 0; i < r->n_chunks && rc == CS_OK && !must_restart(s); i++) {
        bool whole;

        if ((rc = cs_pull_chunk(s, r->chunks[i], &whole, err)) == CS_OK && whole)
            rc = take_batch(e, err);
    }
    s->has_more = r->has_more;
    if (rc == CS_OK && !must_restart(s) && r->head != NULL) {
        rc = s->salvage ? cs_engine_head_signed(e, r->head, &s->head, err) : cs_engine_head(e, r->head, &s->head, err);
        if (rc == CS_OK && s->salvage)
            s->salvage_head = s->head;
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
    if (!s->salvage && !s->again && e->head.number > s->mark.number && e->head.number - s->from >= LONG_PULL &&
        j->rc == CS_OK)
        cs_note_progress(e, "pulling", s->mark.number, e->head.number);
}

/* The last number that came. */
static uint64_t reached(const struct cs_pull_step *s)
{
    return s->salvage ? s->salvaged : s->looking ? s->looked : s->mark.number;
}

/* At the end our log must be the one that the hub signed. */
static int end_check(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_pull_step *s = &e->pull;
    uint64_t end = reached(s);

    if (!s->has_head)
        return cs_engine_no_head(err);
    if (s->next != s->total)
        return bad_stream(err);
    if (s->head.number < end)
        return cs_fail(err, CS_EHUB, "HUB_ROLLBACK: the hub's log ends at %" PRIu64 ", below %" PRIu64 " that it gave",
                       s->head.number, end);
    if (s->head.number < s->begun.number || s->head.member_seq < s->begun.member_seq)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's log ends at %" PRIu64 " and its membership at %" PRIu32
                       "; before this pull began it had signed %" PRIu64 " and %" PRIu32,
                       s->head.number, s->head.member_seq, s->begun.number, s->begun.member_seq);
    if (s->head.number != end || memcmp(s->head.log_hash, s->looking ? s->looked_hash : s->mark.log_hash, 32) == 0)
        return CS_OK;
    if (s->looking)
        return cs_fail(err, CS_EHUB,
                       "HUB_FORK: number %" PRIu64
                       " of the log came as another batch than the hub's head says; nothing "
                       "was taken from there on (%.120s)",
                       s->doubted, s->doubt);
    return cs_fail(err, CS_EHUB, "HUB_FORK: the hub's log is not what its head says; nothing more is taken from it");
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
        if (s->need_own || s->need_again)
            pull_call(e); /* once: own_in_full and refetched stay */
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

/* ---- what was set aside, once more ---- */

static void again_next(struct clawsync_engine *e)
{
    struct cs_error none = { 0 };

    if (cs_aside_next(e))
        pull_call(e);
    else
        finish(e, CS_OK, &none);
}

static void again_run(struct clawsync_engine *e, struct cs_job *j)
{
    e->aside_wanted = false;
    j->rc = cs_aside_load(e, &j->err);
}

static void again_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        again_next(e);
}

/* The hub may not have the one that was asked for; a hub that is away is asked with the next run. The log was read. */
static void again_ended(struct clawsync_engine *e)
{
    struct cs_error err = e->pull.call.err;
    int rc = e->pull.call.rc;

    if (rc == CS_ECANCELED)
        finish(e, rc, &err);
    else if (rc != CS_OK && cs_code_is_transient(rc))
        finish(e, CS_OK, &err);
    else
        again_next(e);
}

static void collect_run(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = cs_collect_settle(e, &j->err);
}

static void read_to_the_end(struct clawsync_engine *e);

static void collect_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        read_to_the_end(e);
}

static void read_to_the_end(struct clawsync_engine *e)
{
    struct cs_pull_step *s = &e->pull;
    struct cs_error none = { 0 };

    if (e->stale) {
        s->job = (struct cs_job){ .run = collect_run, .done = collect_done };
        cs_engine_job(e, &s->job);
        return;
    }
    if (!s->want_again) {
        finish(e, CS_OK, &none);
        return;
    }
    s->again = true;
    s->job = (struct cs_job){ .run = again_run, .done = again_done };
    cs_engine_job(e, &s->job);
}

/* The log was read on behind a header that was refused, and this came of it. From the mark on, again: once more what
 * may have been changed on the way, or past it. */
static void looked(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    bool differs = rc == CS_EHUB && s->has_head && s->head.number == s->looked;

    if (rc != CS_OK && (!differs || s->refetched == s->doubted)) {
        finish(e, rc, err);
        return;
    }
    s->looking = false;
    s->short_ends = 0;
    if (rc == CS_OK)
        s->borne_out = s->doubted;
    else
        s->refetched = s->doubted;
    pull_call(e);
}

/* The log does not go on from where this device stands: there is a snapshot of what it had. */
static bool is_pruned(const struct clawsync_engine *e)
{
    const struct cs_pull_step *s = &e->pull;

    return s->call.rc != CS_OK && s->call.status == CS_RPC_FAILED_PRECONDITION && !s->again && !s->salvage &&
           !s->asked_snapshot && strstr(s->call.err.msg, "pruned:") != NULL;
}

/* The end of the stream, all of it taken. */
static void pull_ended(struct clawsync_engine *e)
{
    struct cs_pull_step *s = &e->pull;
    struct cs_error err = s->call.err;
    int rc = s->call.rc;

    if (is_pruned(e)) {
        s->asked_snapshot = true;
        cs_step_take(e, true, taken_snapshot);
        return;
    }

    if (s->again) {
        again_ended(e);
        return;
    }
    if (rc != CS_OK && s->call.status == CS_RPC_FAILED_PRECONDITION && strstr(err.msg, "log-replaced:") != NULL)
        rc = cs_fail(&err, CS_EHUB, "LOG_REPLACED: the hub has begun another log while this one was read");
    if (rc == CS_OK && s->has_more && s->head.number > reached(s)) {
        pull_call(e);
        return;
    }
    if (s->salvage) {
        if (rc == CS_OK && !s->has_head)
            rc = cs_engine_no_head(&err);
        finish(e, rc, &err);
        return;
    }
    if (rc == CS_OK)
        rc = end_check(e, &err);
    if (rc == CS_OK && s->head.number > reached(s) && s->short_ends++ < MAX_RESTARTS) {
        pull_call(e);
        return;
    }
    if (rc == CS_OK && s->head.number > reached(s))
        rc = cs_fail(&err, CS_EHUB, "HUB_WITHHELD: the hub's log ends at %" PRIu64 " and it gave up to %" PRIu64,
                     s->head.number, reached(s));
    if (s->looking) {
        looked(e, rc, &err);
        return;
    }
    if (rc == CS_OK && e->recovering) {
        s->job = (struct cs_job){ .run = settle_run, .done = settle_done };
        cs_engine_job(e, &s->job);
        return;
    }
    if (rc != CS_OK)
        finish(e, rc, &err);
    else
        read_to_the_end(e);
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
    s->has_more = s->has_head = s->need_member = s->need_own = s->need_again = false;
    cursor.workspace_id = e->workspace_text;
    cursor.device_id = e->device_text;
    cursor.lamport_clock = (int64_t)(s->again ? cs_aside_place(e) - 1 : reached(s));
    cursor.log_id = s->salvage ? s->salvage_head.log_id : s->mark.log_id;
    req.client_cursor = &cursor;
    req.workspace_id = e->workspace_text;
    req.max_chunks = s->again ? 1 : (int32_t)e->config.max_pull_chunks; /* one whole batch */
    req.own_in_full = s->own_in_full;
    req.from_first = s->salvage;
    rc = cs_hub_call_start(e, &s->call, "Pull", &req.base, true, on_pull, &err);
    if (rc != CS_OK)
        finish(e, rc, &err);
}

static void load_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;
    bool other;

    cs_replica_pull_mark(e->replica, &s->mark);
    if (s->mark.number == 0)
        memcpy(s->mark.log_hash, e->log_start, 32);
    /* A refill that got as far as the hub, and not into a database that had pulled nothing yet: it has to come there
     * first, with the numbers of the new log. */
    other = s->mark.log_id == 0 && cs_refill_is_open(e);
    if (s->mark.log_id == 0) /* a new database, or one in place of a lost one */
        s->mark.log_id = e->ks->log_id != 0 ? e->ks->log_id : e->head.log_id;
    s->begun = e->head;
    s->from = s->mark.number;
    s->want_again = e->aside_wanted;
    s->own_in_full = e->recovering;
    s->own_in_full = s->own_in_full || s->salvage;
    s->salvaged = 0;
    s->salvage_head = (struct cs_hub_head){ 0 };
    if ((other || s->mark.log_id != e->head.log_id) && !s->salvage)
        j->rc = cs_fail(&j->err, CS_EHUB,
                        "LOG_REPLACED: the hub's log is another one than this database followed; nothing was taken "
                        "from it");
}

static void load_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;

    if (j->rc != CS_OK) {
        finish(e, j->rc, &j->err);
    } else if (!s->salvage && !s->sought && s->mark.number == 0 && e->head.number > 0 && !e->beside) {
        s->sought = true; /* what is in the workspace by now is less than all that ever happened */
        cs_step_take(e, false, taken_snapshot);
    } else {
        pull_call(e);
    }
}

/* From where the snapshot is of, if there was one. */
static void taken_snapshot(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;

    if (rc != CS_OK) {
        finish(e, rc, err);
    } else if (!e->take.took) {
        pull_call(e);
    } else {
        s->job = (struct cs_job){ .run = load_run, .done = load_done };
        cs_engine_job(e, &s->job);
    }
}

/* Local changes get their stamps before others' are merged over them: also the rows that were here before tracking. */
static void seal_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pull_step *s = &e->pull;
    bool more = false, asked;

    if (!s->checked && ((j->rc = cs_engine_follow_schema(e, &j->err)) != CS_OK ||
                        (j->rc = cs_aside_asked(e, &asked, &j->err)) != CS_OK))
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
    s->refetched = s->borne_out = 0;
    s->again = s->looking = s->sought = s->asked_snapshot = false;
    s->taken_batches = s->taken_ops = 0;
    s->checked = s->sealed = false;
    s->job = (struct cs_job){ .run = seal_run, .done = seal_done };
    cs_engine_job(e, &s->job);
}
