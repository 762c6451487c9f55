/* The step that sends what is unsent. A job at a time takes the hub's answers and makes the next batch; the loop sends
 * it. At most max_push_inflight batches are unanswered.
 *
 *   load ──▶ answers, next batch ──▶ send ──▶ … ──▶ nothing unsent, nothing in flight
 *     ▲             │ refused: drain what is in flight
 *     ├── bind anew ◀── pull ◀── membership ◀┤
 *     └── set aside ◀── refused for good ◀───┘ */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

enum { BATCH_BYTES = 1024 * 1024, MAX_TRIES = 3, FAIR_SHARE = 8 };

static void push_work(struct clawsync_engine *e);
static void begin(struct clawsync_engine *e);

static void next_job(struct clawsync_engine *e, void (*run)(struct clawsync_engine *, struct cs_job *),
                     void (*done)(struct clawsync_engine *, struct cs_job *))
{
    e->push.job = (struct cs_job){ .run = run, .done = done };
    e->push.busy = true;
    cs_engine_job(e, &e->push.job);
}

static void record_run(struct clawsync_engine *e, struct cs_job *j)
{
    if ((j->rc = cs_record_pushed(e, &j->err)) == CS_OK && (j->rc = cs_conflict_news(e, &j->err)) == CS_OK)
        j->rc = cs_engine_head_save(e, &j->err);
}

static void record_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_push_step *s = &e->push;

    s->busy = false;
    s->acked = 0;
    if (s->end_rc == CS_OK && (s->end_rc = j->rc) != CS_OK)
        s->end_err = j->err;
    s->done(e, s->end_rc, &s->end_err);
}

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_push_step *s = &e->push;

    if (rc != CS_OK || s->call.ended)
        cs_hub_call_cancel(&s->call); /* otherwise it stays open for the next round */
    cs_hub_call_idle(&s->call, false);
    cs_messages_free(&s->taken);
    cs_messages_free(&s->out);
    cs_arena_free(&s->arena);
    s->active = false;
    s->end_rc = rc;
    if (rc != CS_OK)
        s->end_err = *err;
    if (s->acked > 0)
        next_job(e, record_run, record_done);
    else
        s->done(e, rc, err);
}

/* ---- making requests, in a job ---- */

static int put_request(struct clawsync_engine *e, const struct cs_batch *b, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    Clawsync__V1__PushRequest req = CLAWSYNC__V1__PUSH_REQUEST__INIT;
    Clawsync__V1__Envelope env = CLAWSYNC__V1__ENVELOPE__INIT;
    Clawsync__V1__SyncCursor cursor = CLAWSYNC__V1__SYNC_CURSOR__INIT;
    Clawsync__V1__DeltaChunk *chunk = cs_arena_zalloc(&s->arena, b->nchunks, sizeof *chunk);
    Clawsync__V1__DeltaChunk **list = cs_arena_zalloc(&s->arena, b->nchunks, sizeof *list);
    char(*ids)[23] = cs_arena_zalloc(&s->arena, b->nchunks, sizeof *ids);
    struct cs_message *m = NULL;

    if (chunk == NULL || list == NULL || ids == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < b->nchunks; i++) {
        struct cs_slice bytes = cs_batch_chunk(b, i);

        clawsync__v1__delta_chunk__init(&chunk[i]);
        cs_chunk_id(b->hashes.data + (size_t)i * 32, ids[i]);
        chunk[i].chunk_id = ids[i];
        chunk[i].seq = (int32_t)i;
        chunk[i].total = (int32_t)b->nchunks;
        chunk[i].encrypted_payload = (ProtobufCBinaryData){ bytes.len, (uint8_t *)(uintptr_t)bytes.data };
        chunk[i].payload_hash = (ProtobufCBinaryData){ 32, b->hashes.data + (size_t)i * 32 };
        list[i] = &chunk[i];
    }
    env.header = (ProtobufCBinaryData){ CS_BATCH_HEADER_LEN, (uint8_t *)(uintptr_t)b->header };
    env.signature = (ProtobufCBinaryData){ CS_SIGNATURE_LEN, (uint8_t *)(uintptr_t)b->signature };
    env.payload_hashes = (ProtobufCBinaryData){ b->hashes.len, b->hashes.data };
    chunk[0].envelope = &env;
    cursor.workspace_id = e->workspace_text;
    cursor.device_id = e->device_text;
    cursor.log_id = e->head.log_id;
    req.cursor = &cursor;
    req.chunks = list;
    req.n_chunks = b->nchunks;
    if ((m = cs_message_new(protobuf_c_message_get_packed_size(&req.base))) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    protobuf_c_message_pack(&req.base, m->data);
    cs_messages_push(&s->out, m);
    return CS_OK;
}

int64_t cs_push_lowest(const struct cs_delta *d)
{
    int64_t lowest = INT64_MAX;

    for (uint32_t i = 0; i < d->nops; i++)
        if (d->ops[i].stamp < lowest)
            lowest = d->ops[i].stamp;
    return lowest;
}

static int put_in_flight(struct clawsync_engine *e, const struct cs_batch *b, enum cs_keep keep, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    struct cs_push_item *it = &s->flight[s->nflight];
    struct cs_batch_header h;
    int rc;

    if ((rc = cs_batch_header_decode(&h, cs_slice(b->header, sizeof b->header), err)) != CS_OK ||
        (rc = put_request(e, b, err)) != CS_OK)
        return rc;
    *it = (struct cs_push_item){
        .keep = keep, .number = h.number, .nops = h.nops, .nchunks = b->nchunks, .bytes = b->sealed.len
    };
    memcpy(it->hash, b->hash, 32);
    s->nflight++;
    s->bytes += it->bytes;
    s->last = h.number;
    memcpy(s->last_hash, b->hash, 32);
    return CS_OK;
}

static void fill_header(struct clawsync_engine *e, uint64_t number, const uint8_t prev[32], struct cs_batch_header *h)
{
    struct cs_pull_mark mark;

    cs_replica_pull_mark(e->replica, &mark);
    if (mark.number == 0)
        memcpy(mark.log_hash, e->log_start, 32);
    *h = (struct cs_batch_header){ .kind = CS_BATCH_OPERATIONS,
                                   .codec = CS_CODEC_ZSTD,
                                   .padding =
                                       strcmp(e->config.padding, "none") == 0 ? CS_PADDING_NONE : CS_PADDING_PADME,
                                   .workspace = e->workspace,
                                   .device = e->device,
                                   .incarnation = e->incarnation,
                                   .epoch = e->members.epoch,
                                   .number = number,
                                   .member_seq = e->members.seq,
                                   .seen_log = e->head.log_id,
                                   .seen_number = mark.number };
    memcpy(h->prev, prev, 32);
    cs_seen_digest(&e->workspace, h->seen_log, h->seen_number, mark.log_hash, h->member_seq, e->members.head, h->seen);
    cs_record_head(e, h);
}

static int epoch_missing(const struct clawsync_engine *e, struct cs_error *err)
{
    return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
}

/* Counted when the second batch is made: one alone is no long work. */
static int count_total(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    struct cs_replica_counts counts;
    uint64_t total;
    int rc = cs_replica_counts(e->replica, &counts, err);

    if (rc != CS_OK)
        return rc;
    total = s->acked + (uint64_t)counts.unsent;
    for (size_t i = 0; i < s->nflight; i++)
        total += s->flight[i].nops;
    s->total = total > e->config.max_delta_rows ? total : 0;
    return CS_OK;
}

static void note_progress(struct clawsync_engine *e)
{
    struct cs_push_step *s = &e->push;

    if (s->total == 0)
        return;
    if (s->acked > s->total || (s->nothing_more && s->nflight == 0))
        s->total = s->acked; /* an edit may be one row and two operations; others came in meanwhile */
    cs_note_progress(e, "pushing", s->acked, s->total);
}

/* A collection that stands in the log before it, and that its author has not seen, is about nothing newer than what is
 * read here by now: no log is pruned, and so no tombstone collected, beyond where this device has read. Of a log that
 * it has not read at all there is no such bound, as after a refill; of what a newcomer brings, or of all of the merged
 * state, a note will do. */
static enum cs_keep keep_of(const struct clawsync_engine *e, const struct cs_delta *d)
{
    struct cs_pull_mark mark;

    cs_replica_pull_mark(e->replica, &mark);
    if (mark.number == 0)
        return d->state || mark.top_stamp == 0 ? CS_KEEP_NOTE : CS_KEEP_BYTES;
    return cs_push_lowest(d) <= mark.top_stamp ? CS_KEEP_BYTES : CS_KEEP_NOTHING;
}

static int make_batch(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    const struct cs_epoch_keys *keys = cs_keystore_epoch(e->ks, e->members.epoch);
    struct cs_delta delta = { 0 };
    struct cs_batch_header h;
    bool full;         /* entities that others miss come first */
    bool more = false; /* of the merged state, which a refilled hub gets last */
    bool stale = false;
    int rc;

    if (keys == NULL)
        return epoch_missing(e, err);
    if ((rc = cs_reconcile_extract(e, &s->arena, BATCH_BYTES, &delta, &full, err)) != CS_OK ||
        (rc = cs_replica_stale(e->replica, &stale, err)) != CS_OK)
        return rc;
    if (!full &&
        (rc = cs_replica_extract(e->replica, &s->arena, e->config.max_delta_rows, BATCH_BYTES, &delta, err)) != CS_OK)
        return rc;
    if (!full && delta.nops == 0 && (rc = cs_collect_extract(e, &s->arena, &delta, err)) != CS_OK)
        return rc;
    if (!full && delta.nops == 0 && !stale && /* which says that rows in it may have to go first */
        (rc = cs_replica_extract_state(e->replica, &s->arena, e->config.max_delta_rows, BATCH_BYTES, &delta, &more,
                                       err)) != CS_OK)
        return rc;
    if (delta.nops == 0) {
        s->nothing_more = !full && !more;
        return CS_OK;
    }
    fill_header(e, s->last + 1, s->last_hash, &h);
    if ((rc = cs_pack(e->packer, &delta, &h, keys, &e->keys->sign, e->config.max_chunk_bytes, &s->batch, err)) != CS_OK)
        return rc;
    cs_buf_reset(&s->stored);
    cs_batch_encode(&s->stored, &s->batch);
    if (s->stored.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (stale && (rc = cs_replica_names(e->replica, &delta, err)) != CS_OK)
        return rc;
    if ((rc = cs_replica_bind(e->replica, h.number, s->batch.hash, cs_buf_slice(&s->stored), err)) != CS_OK)
        return rc;
    if (full)
        cs_reconcile_extracted(e);
    if (delta.collect.through > 0)
        e->collect_through = 0;
    if ((rc = put_in_flight(e, &s->batch, full ? CS_KEEP_NOTHING : keep_of(e, &delta), err)) == CS_OK && ++s->made == 2)
        rc = count_total(e, err);
    return rc;
}

/* What an earlier round bound and never heard of again goes first, byte for byte. */
static int load_bound(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    struct cs_bound *bound = NULL;
    size_t n = 0;
    int rc;

    s->nflight = s->bytes = 0;
    cs_replica_chain(e->replica, &s->last, s->last_hash);
    rc = cs_replica_bound(e->replica, &s->arena, true, &bound, &n, err);
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        if (bound[i].state != CS_BOUND_WAITING)
            continue;
        if (s->nflight == CS_PUSH_MAX)
            return cs_fail(err, CS_ECORRUPT, "too many bound batches in %s", e->config.db_path);
        cs_batch_free(&s->batch);
        if ((rc = cs_batch_decode(&s->batch, bound[i].stored, err)) == CS_OK)
            rc = put_in_flight(e, &s->batch, CS_KEEP_BYTES, err);
    }
    s->loaded = rc == CS_OK;
    return rc;
}

/* ---- answers, in a job ---- */

static int code_of_refusal(int status)
{
    switch (status) {
    case CS_RPC_UNAVAILABLE:
        return CS_EUNAVAILABLE;
    case CS_RPC_RESOURCE_EXHAUSTED:
        return CS_ELIMIT;
    case CS_RPC_PERMISSION_DENIED:
    case CS_RPC_UNAUTHENTICATED:
        return CS_EAUTH;
    case CS_RPC_ABORTED:
        return CS_EABORTED;
    case CS_RPC_INVALID_ARGUMENT:
        return CS_EINTERNAL;
    default:
        return CS_EHUB;
    }
}

static int take_answer(struct clawsync_engine *e, const Clawsync__V1__PushResponse *r, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    struct cs_push_item it = s->flight[0];
    struct cs_hub_head head;
    int rc = CS_OK;

    if (s->nflight == 0)
        return cs_fail(err, CS_EHUB, "the hub acknowledged a batch that was not sent");
    memmove(s->flight, s->flight + 1, --s->nflight * sizeof s->flight[0]);
    s->bytes -= it.bytes;
    if (!r->accepted && s->refused[0] == '\0') {
        snprintf(s->refused, sizeof s->refused, "%s", r->kind[0] != '\0' ? r->kind : "unknown");
        snprintf(s->reason, sizeof s->reason, "%s", r->reason);
        s->refused_code = code_of_refusal(r->status);
        s->refused_number = it.number;
    }
    /* A hub whose commit failed may have it all the same, and takes the next one. That is not noted: they are sent
     * again and acknowledged in their order, so that no batch is ever there whose number is below one that waits. */
    if (s->refused[0] != '\0')
        return CS_OK;
    if (r->batch_hash.len != 32 || memcmp(r->batch_hash.data, it.hash, 32) != 0 || r->log_number == 0)
        return cs_fail(err, CS_EHUB, "the hub acknowledged another batch than the one that was sent");
    if ((rc = cs_engine_head(e, r->head, &head, err)) != CS_OK)
        return rc;
    if (head.number < r->log_number)
        return cs_fail(err, CS_EHUB,
                       "BAD_HUB_HEAD: the hub acknowledged number %" PRIu64 " and signed a head that ends at %" PRIu64,
                       r->log_number, head.number);
    /* the copy first: it may go while the batch waits, never wait when that is gone */
    if ((rc = cs_queue_accepted(e->queue, it.hash, err)) != CS_OK ||
        (rc = cs_replica_bound_accepted(e->replica, it.number, r->log_number, it.keep, err)) != CS_OK)
        return rc;
    if (s->acked == 0)
        s->acked_first = it.number;
    s->acked_last = it.number;
    s->acked += it.nops;
    e->totals.deltas_pushed++;
    e->totals.operations_pushed += it.nops;
    e->totals.chunks_pushed += it.nchunks;
    e->totals.bytes_pushed += it.bytes;
    e->totals.pushed_sequence = r->log_number;
    return CS_OK;
}

/* What has no MAC of this session is not the hub's word, whatever it says. */
static bool is_genuine(const struct cs_push_step *s, const Clawsync__V1__PushResponse *r)
{
    uint8_t mac[CS_ANSWER_MAC_LEN];

    if (s->keys == NULL || r->mac.len != sizeof mac || r->batch_hash.len != 32)
        return false;
    cs_push_answer_mac(s->keys->keys.answer_key, r->batch_hash.data, r->log_number, r->accepted, r->status, r->kind,
                       r->reason, mac);
    return cs_secret_eq(mac, r->mac.data, sizeof mac);
}

static int take_answers(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    int rc = CS_OK;

    for (const struct cs_message *m = s->taken.first; m != NULL && rc == CS_OK; m = m->next) {
        ProtobufCAllocator alloc = cs_engine_pb(&s->arena);
        const Clawsync__V1__PushResponse *r = clawsync__v1__push_response__unpack(&alloc, m->len, m->data);

        if (r == NULL)
            rc = cs_engine_unreadable(&s->arena, "the hub's answer", err);
        else if (!is_genuine(s, r))
            rc = cs_fail(err, CS_EUNAVAILABLE,
                         "an answer in the name of hub %.200s has no valid proof; it was not used, and changes stay "
                         "queued",
                         e->config.hub_endpoint);
        else
            rc = take_answer(e, r, err);
    }
    if (s->taken.first != NULL && rc == CS_OK)
        note_progress(e);
    cs_messages_free(&s->taken);
    return rc;
}

static bool has_room(const struct clawsync_engine *e)
{
    const struct cs_push_step *s = &e->push;

    return s->nflight < e->config.max_push_inflight && (s->nflight == 0 || s->bytes < CS_PUSH_BYTES);
}

static void push_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_push_step *s = &e->push;
    bool more;

    cs_arena_reset(&s->arena);
    if ((j->rc = take_answers(e, &j->err)) != CS_OK || s->refused[0] != '\0')
        return;
    if (!s->loaded) {
        if ((j->rc = cs_engine_follow_schema(e, &j->err)) == CS_OK && (j->rc = cs_offline_begin(e, &j->err)) == CS_OK)
            j->rc = load_bound(e, &j->err);
    } else if (!s->nothing_more && has_room(e)) {
        if ((j->rc = cs_engine_seal(e, &more, &j->err)) == CS_OK && !more)
            j->rc = make_batch(e, &j->err);
    }
}

/* ---- after a refusal ---- */

static int bind_anew(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    const struct cs_epoch_keys *keys = cs_keystore_epoch(e->ks, e->members.epoch);
    struct cs_batch old = { 0 };
    struct cs_batch_header was, h;
    struct cs_bound *bound = NULL;
    uint64_t number;
    uint8_t prev[32];
    size_t n = 0;
    int rc;

    if (keys == NULL)
        return epoch_missing(e, err);
    cs_replica_chain(e->replica, &number, prev);
    if ((rc = cs_queue_release(e->queue, err)) == CS_OK)
        rc = cs_replica_bound(e->replica, &s->arena, true, &bound, &n, err);
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        const struct cs_epoch_keys *old_keys;

        if (bound[i].state != CS_BOUND_WAITING)
            continue;
        cs_batch_free(&old);
        if ((rc = cs_batch_decode(&old, bound[i].stored, err)) != CS_OK ||
            (rc = cs_batch_header_decode(&was, cs_slice(old.header, sizeof old.header), err)) != CS_OK)
            break;
        if ((old_keys = cs_keystore_epoch(e->ks, was.epoch)) == NULL) {
            rc = epoch_missing(e, err);
            break;
        }
        fill_header(e, bound[i].number, prev, &h);
        cs_buf_reset(&s->stored);
        if ((rc = cs_repack(e->packer, &old, old_keys, &h, keys, &e->keys->sign, e->config.max_chunk_bytes, &s->batch,
                            err)) != CS_OK)
            break;
        cs_batch_encode(&s->stored, &s->batch);
        rc = s->stored.failed
                 ? cs_fail(err, CS_ENOMEM, "out of memory")
                 : cs_replica_rebind(e->replica, bound[i].number, s->batch.hash, cs_buf_slice(&s->stored), err);
        memcpy(prev, s->batch.hash, 32);
    }
    cs_batch_free(&old);
    return rc;
}

/* Gives what waits stamps that the hub's clock allows. */
static int seal_anew(struct clawsync_engine *e, struct cs_error *err)
{
    int rc = cs_push_take_back(e, err);
    int64_t highest = e->pull.head.time_ms * 65536; /* of a moment ago: a hub's clock is put right too */
    struct cs_pull_mark mark;
    size_t renamed;

    /* Where the hub's clock is the wrong one, never below what others have seen: fresh stamps come after that. */
    cs_replica_pull_mark(e->replica, &mark);
    if (mark.top_stamp > highest)
        highest = mark.top_stamp;
    if (rc != CS_OK || (rc = cs_replica_reseal(e->replica, highest, &renamed, err)) != CS_OK)
        return rc;
    if (renamed > 0)
        cs_note(
            e, CLAWSYNC_EVENT_WARNING, CS_ECLOCK, "",
            "this device's clock was ahead of the hub's: %zu unsent edits were given earlier times, in their order; "
            "set the clock right, here or there, best by NTP",
            renamed);
    return CS_OK;
}

static bool refused_by_clock(const struct cs_push_step *s)
{
    return strcmp(s->refused, "clock") == 0;
}

static void recover_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_push_step *s = &e->push;

    cs_arena_reset(&s->arena);
    if (!refused_by_clock(s))
        j->rc = bind_anew(e, &j->err);
    else if (s->tries > 1)
        j->rc = seal_anew(e, &j->err);
    s->refused[0] = '\0';
    s->loaded = s->nothing_more = false;
}

static void recover_done(struct clawsync_engine *e, struct cs_job *j)
{
    e->push.busy = false;
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        push_work(e);
}

static void pulled(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        finish(e, rc, err);
    else
        next_job(e, recover_run, recover_done);
}

static void membered(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        finish(e, rc, err);
    else
        cs_step_pull(e, pulled);
}

static void lifted(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        finish(e, rc, err);
    else
        cs_step_member(e, membered);
}

static void aside_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_push_step *s = &e->push;
    char reason[sizeof s->refused + sizeof s->reason + 4];

    snprintf(reason, sizeof reason, "%s (%s)", s->reason, s->refused);
    cs_arena_reset(&s->arena);
    j->rc = cs_offline_aside(e, s->refused_number, reason, &j->err);
    s->refused[0] = '\0';
    s->loaded = s->nothing_more = false;
}

/* Whatever is sent later, this batch will never be taken; the others may be. */
static bool refused_for_good(const struct cs_push_step *s)
{
    return s->refused_code == CS_EINTERNAL && !refused_by_clock(s);
}

static void recover(struct clawsync_engine *e)
{
    struct cs_push_step *s = &e->push;
    struct cs_error err = { 0 };
    /* "duplicate": a copy of one that was refused came after all, or another life of this device sent it: the log tells
     */
    bool stale = strcmp(s->refused, "stale-epoch") == 0 || strcmp(s->refused, "stale-seen") == 0 ||
                 strcmp(s->refused, "order") == 0 || strcmp(s->refused, "duplicate") == 0;

    cs_hub_call_cancel(&s->call);
    /* the membership had grown again meanwhile, or the log has batches of a copy of this device */
    if (stale && (e->members.seq != s->tried_seq || e->incarnation != s->tried_incarnation)) {
        s->tried_seq = e->members.seq;
        s->tried_incarnation = e->incarnation;
        s->tries = 0;
    }
    if (refused_for_good(s) && !stale) {
        next_job(e, aside_run, recover_done);
        return;
    }
    if ((stale || refused_by_clock(s)) && s->tries < MAX_TRIES) {
        e->totals.retries++;
        if (s->tries++ == 0 && !stale && !cs_refill_is_open(e)) /* whose own refill has told it */
            cs_step_lift(e, lifted);
        else
            cs_step_member(e, membered);
        return;
    }
    if (refused_by_clock(s))
        cs_fail(&err, CS_ECLOCK, "this device's clock is too far ahead of the hub's: %s; changes stay queued",
                s->reason);
    else if (stale)
        cs_fail(&err, CS_EHUB,
                "HUB_FORK: the hub refuses what was bound to the log that it shows (%s): %s; changes stay queued",
                s->refused, s->reason);
    else
        cs_fail(&err, s->refused_code, "the hub refused a batch (%s): %s; changes stay queued", s->refused, s->reason);
    s->refused[0] = '\0';
    finish(e, err.code, &err);
}

/* ---- the loop's side ---- */

static void on_push(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (e->push.active && !e->push.busy)
        push_work(e);
}

static int send_all(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_push_step *s = &e->push;
    int rc = CS_OK;

    if (s->out.first == NULL)
        return CS_OK;
    if (!cs_hub_call_running(&s->call) && !s->call.ended)
        rc = cs_hub_call_start(e, &s->call, "Push", NULL, false, on_push, err);
    for (struct cs_message *m = s->out.first; m != NULL && rc == CS_OK; m = m->next)
        rc = s->call.ended ? CS_OK : cs_hub_call_send(&s->call, cs_slice(m->data, m->len), err);
    cs_messages_free(&s->out);
    if (rc == CS_OK && !s->call.ended)
        cs_hub_call_idle(&s->call, true);
    return rc;
}

static void push_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_push_step *s = &e->push;

    s->busy = false;
    if (j->rc == CS_OK)
        j->rc = send_all(e, &j->err);
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        push_work(e);
}

static void push_work(struct clawsync_engine *e)
{
    struct cs_push_step *s = &e->push;
    struct cs_error err = s->call.err;

    if (s->call.in.first != NULL) {
        s->taken = s->call.in;
        s->call.in = (struct cs_messages){ 0 };
        cs_hub_keys_unref(s->keys);
        s->keys = s->call.keys == NULL ? NULL : cs_hub_keys_ref(s->call.keys);
        next_job(e, push_run, push_done);
    } else if (s->refused[0] != '\0' && (s->nflight == 0 || s->call.ended)) {
        recover(e);
    } else if (s->call.ended && s->call.forgotten && !s->reopened) {
        s->reopened = true; /* what is bound goes again, in another session */
        begin(e);
    } else if (s->call.ended && s->nflight > 0) {
        if (s->call.rc == CS_OK)
            cs_fail(&err, CS_EUNAVAILABLE, "hub %.150s ended the stream; changes stay queued", e->config.hub_endpoint);
        finish(e, err.code, &err);
    } else if (s->refused[0] != '\0') {
        return; /* the rest of what is in flight will be answered */
    } else if (e->schedule.closing && s->nflight == 0 && !s->nothing_more) {
        finish(e, cs_fail(&err, CS_ECANCELED, "the engine is being closed"), &err);
    } else if (!e->schedule.closing && (!s->loaded || (!s->nothing_more && has_room(e)))) {
        if (s->loaded && s->made >= FAIR_SHARE && e->schedule.current == NULL && (e->schedule.wanted & CS_WANT_PULL) &&
            !e->reconcile.publishing) { /* which the others are told of when it is all out */
            s->nothing_more = true;     /* others' changes wait: theirs next, then ours again */
            e->schedule.wanted |= CS_WANT_PUSH;
            push_work(e);
            return;
        }
        next_job(e, push_run, push_done);
    } else if (s->nflight == 0) {
        finish(e, CS_OK, NULL);
    }
}

static void begin(struct clawsync_engine *e)
{
    struct cs_push_step *s = &e->push;

    s->loaded = s->nothing_more = false;
    s->tries = s->made = 0;
    s->acked = s->total = 0;
    s->refused[0] = '\0';
    s->nflight = s->bytes = 0;
    s->active = true;
    if (s->call.ended || s->call.in.first != NULL) {
        cs_hub_call_cancel(&s->call);
        s->call.ended = false;
    }
    push_work(e);
}

static void recovered(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        e->push.done(e, rc, err);
    else
        begin(e);
}

void cs_step_push(struct clawsync_engine *e, cs_step_done done)
{
    e->push.done = done;
    e->push.reopened = false;
    if (e->recovering)
        cs_step_pull(e, recovered);
    else
        begin(e);
}
