/* The step that fetches a snapshot in place of the log's beginning, or of what the log has no more. Nothing of it is
 * merged before all of it is there, and is what its author signed and another device attested; then it is merged part
 * by part, as any state is, and in the end the pull position is the snapshot's. A crash in between leaves rows that
 * are in the workspace anyway, and the position where it was.
 *
 *   look ──▶ check ──▶ fetch … ──▶ check ──▶ merge … ──▶ position */
#include <inttypes.h>
#include <stdlib.h>

#include "crdt/dump.h"
#include "engine/engine.h"
#include "engine/parts.h"

#define ACTION(name) CLAWSYNC__V1__SNAPSHOT_ACTION__SNAPSHOT_ACTION_##name

static void fetch(struct clawsync_engine *e);
static void merge(struct clawsync_engine *e);

static void forget(struct clawsync_engine *e)
{
    struct cs_take_step *s = &e->take;

    cs_parts_free(s->parts);
    s->parts = NULL;
    cs_messages_free(&s->taken);
    cs_arena_free(&s->arena);
    cs_batch_free(&s->batch);
    cs_buf_free(&s->bytes);
    cs_buf_free(&s->stored);
}

void cs_take_step_free(struct clawsync_engine *e)
{
    cs_hub_call_free(&e->take.call);
    forget(e);
}

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    cs_hub_call_cancel(&e->take.call);
    forget(e);
    if (rc == CS_OK && e->take.took && e->take.keeps)
        e->schedule.wanted |= CS_WANT_PUSH;
    e->take.done(e, rc, err);
}

static void next_job(struct clawsync_engine *e, void (*run)(struct clawsync_engine *, struct cs_job *),
                     void (*done)(struct clawsync_engine *, struct cs_job *))
{
    e->take.job = (struct cs_job){ .run = run, .done = done };
    cs_engine_job(e, &e->take.job);
}

/* ---- merging ---- */

/* Of our batches that wait, the snapshot has those up to own->number; or an older life of this device sent that one. */
static int is_of_this_life(struct clawsync_engine *e, const struct cs_snapshot_peer *own, struct cs_bound **bound,
                           size_t *n, bool *out, struct cs_error *err)
{
    uint64_t chain;
    uint8_t hash[32];
    int rc = cs_replica_bound(e->replica, &e->take.arena, false, bound, n, err);

    cs_replica_chain(e->replica, &chain, hash);
    *out = own->number <= chain;
    for (size_t i = 0; i < *n && rc == CS_OK; i++)
        *out = *out || ((*bound)[i].number == own->number && memcmp((*bound)[i].hash, own->hash, 32) == 0);
    return rc;
}

/* Batches of ours that the snapshot has are at the hub, and those that were bound before them; also where the hub has
 * acknowledged the last of them anew, which its log still had, and one before it was pruned. */
static int settle_own(struct clawsync_engine *e, const struct cs_snapshot_peer *own, struct cs_error *err)
{
    struct cs_take_step *s = &e->take;
    struct cs_bound *bound = NULL;
    bool ours;
    size_t n = 0;
    int rc = is_of_this_life(e, own, &bound, &n, &ours, err);

    if (rc != CS_OK)
        return rc;
    if (!ours) { /* what is bound goes behind it */
        e->recovering = true;
        return cs_push_take_back(e, err);
    }
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        if (bound[i].state != CS_BOUND_WAITING || bound[i].number > own->number)
            continue;
        if ((rc = cs_queue_accepted(e->queue, bound[i].hash, err)) == CS_OK)
            rc = cs_replica_bound_accepted(e->replica, bound[i].number, s->d.number, CS_KEEP_NOTHING, err);
    }
    return rc;
}

/* Our last batch that the snapshot has; false: it has none. */
static bool own_place(struct clawsync_engine *e, struct cs_snapshot_peer *out)
{
    const struct cs_take_step *s = &e->take;

    for (uint32_t i = 0; i < s->d.npeers; i++) {
        cs_snapshot_peer_at(&s->d, i, out);
        if (cs_uuid_cmp(&out->device, &e->device) == 0)
            return true;
    }
    return false;
}

/* Before anything of it is merged: rows that it will not name may have been deleted, and their tombstones collected. */
static int prepare(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_take_step *s = &e->take;
    struct cs_snapshot_peer own;
    struct cs_bound *bound = NULL;
    bool ours = false;
    size_t n = 0;
    int rc;

    s->marked = true;
    if ((rc = cs_replica_mark_stale(e->replica, err)) != CS_OK ||
        (rc = cs_collect_missed(e, &s->told, &s->missed, err)) != CS_OK || !s->missed)
        return rc;
    if (own_place(e, &own)) {
        if ((rc = is_of_this_life(e, &own, &bound, &n, &ours, err)) != CS_OK)
            return rc;
        s->older = !ours;
        if (ours && (rc = cs_push_doubt(e, own.number, err)) != CS_OK)
            return rc;
    }
    rc = cs_collect_ahead(e, &s->told, ours, err);
    return rc == CS_OK ? cs_replica_publishing(e->replica, &s->keeps, err) : rc;
}

static int adopt(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_take_step *s = &e->take;
    struct cs_known_place *places = cs_arena_zalloc(&s->arena, (size_t)s->d.npeers + 1, sizeof *places);
    struct cs_snapshot_peer p;
    struct cs_pull_mark mark;
    int rc = places == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;

    for (uint32_t i = 0; i < s->d.npeers && rc == CS_OK; i++) {
        cs_snapshot_peer_at(&s->d, i, &p);
        places[i] = (struct cs_known_place){ .device = p.device, .number = p.number, .member_seq = p.member_seq };
        memcpy(places[i].hash, p.hash, 32);
    }
    if (rc == CS_OK && own_place(e, &p))
        rc = settle_own(e, &p, err);
    if (rc == CS_OK && s->missed)
        rc = cs_push_take_back_old(e, s->told.through, err);
    if (rc == CS_OK && s->missed)
        rc = s->keeps ? cs_replica_publish(e->replica, err) /* of what is out already, some may be deleted */
                      : cs_collect_taken(e, &s->d.device, s->older, &s->told, err);
    if (rc != CS_OK)
        return rc;
    cs_replica_pull_mark(e->replica, &mark);
    mark.log_id = s->d.log_id;
    mark.number = s->d.number;
    memcpy(mark.log_hash, s->d.log_hash, 32);
    if (s->d.highest_epoch > mark.highest_epoch)
        mark.highest_epoch = s->d.highest_epoch;
    if (s->d.top_stamp > mark.top_stamp)
        mark.top_stamp = s->d.top_stamp;
    if ((rc = cs_replica_adopt(e->replica, &mark, places, s->d.npeers, s->missed ? &s->told : NULL, err)) != CS_OK)
        return rc;
    s->took = true;
    return CS_OK;
}

static int open_part(struct clawsync_engine *e, const struct cs_batch *b, struct cs_slice *rows, struct cs_delta *d,
                     struct cs_error *err)
{
    enum cs_unpack_fault fault = CS_FAULT_NONE;
    const struct cs_epoch_keys *keys;
    struct cs_batch_header h;
    int rc;

    if (cs_batch_header_decode(&h, cs_slice(b->header, sizeof b->header), err) != CS_OK)
        return cs_fail(err, CS_EHUB, "BAD_SNAPSHOT: a part's header cannot be read; nothing of it was used");
    if (h.kind != CS_BATCH_SNAPSHOT || cs_uuid_cmp(&h.workspace, &e->workspace) != 0 ||
        cs_uuid_cmp(&h.device, &e->take.d.device) != 0 || h.seen_log != e->take.d.log_id ||
        h.seen_number != e->take.d.number)
        return cs_fail(err, CS_EHUB, "BAD_SNAPSHOT: a part is of another snapshot; nothing of it was used");
    if ((keys = cs_keystore_epoch(e->ks, h.epoch)) == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", h.epoch);
    rc = cs_unpack_state(e->packer, b, keys, rows, d, &fault, err);
    if (rc == CS_ECORRUPT) {
        struct cs_error why = *err;

        rc = cs_fail(err, CS_EHUB, "BAD_SNAPSHOT: %s: %.200s", cs_unpack_fault_name(fault), why.msg);
    }
    e->take.rows += rc == CS_OK ? h.nops : 0;
    return rc;
}

static void merge_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_take_step *s = &e->take;
    struct cs_apply_result result = { 0 };
    struct cs_pull_mark mark;
    struct cs_slice rows;
    struct cs_delta d;

    cs_arena_reset(&s->arena);
    if (s->applied == cs_parts_count(s->parts)) {
        j->rc = adopt(e, &j->err);
        return;
    }
    cs_batch_free(&s->batch);
    if (!s->marked && (j->rc = prepare(e, &j->err)) != CS_OK)
        return;
    cs_replica_pull_mark(e->replica, &mark);
    if ((j->rc = cs_parts_get(s->parts, s->applied, &s->batch, &j->err)) != CS_OK ||
        (j->rc = open_part(e, &s->batch, &rows, &d, &j->err)) != CS_OK ||
        (j->rc = cs_replica_apply(e->replica, &d, &mark, &result, &j->err)) != CS_OK)
        return;
    s->applied++;
    e->totals.deltas_pulled++;
    e->totals.operations_pulled += result.ops;
    e->totals.chunks_pulled += s->batch.nchunks;
    e->totals.bytes_pulled += s->batch.sealed.len;
    e->pull.taken_batches++;
    e->pull.taken_ops += result.ops;
    cs_note_progress(e, "pulling", s->applied, cs_parts_count(s->parts));
}

static void merge_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_error err = { 0 };

    if (j->rc != CS_OK || e->take.took)
        finish(e, j->rc, &j->err);
    else if (e->schedule.closing)
        finish(e, cs_fail(&err, CS_ECANCELED, "the engine is being closed"), &err);
    else
        merge(e);
}

static void merge(struct clawsync_engine *e)
{
    next_job(e, merge_run, merge_done);
}

/* ---- fetching ---- */

/* A part is there: is it the next one, and rows of a merged state? */
static int part_came(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_take_step *s = &e->take;
    struct cs_slice rows;
    struct cs_delta d;
    int rc;

    cs_batch_hash(cs_slice(s->batch.header, CS_BATCH_HEADER_LEN), cs_buf_slice(&s->batch.hashes), s->batch.hash);
    cs_snapshot_digest_next(s->digest, cs_parts_count(s->parts), s->batch.hash);
    if ((rc = open_part(e, &s->batch, &rows, &d, err)) != CS_OK)
        return rc;
    cs_hasher_update(&s->root, rows.data, rows.len);
    cs_collection_in(&d, &s->told);
    cs_buf_reset(&s->stored);
    cs_batch_encode(&s->stored, &s->batch);
    if (s->stored.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return cs_parts_add(s->parts, cs_buf_slice(&s->stored), err);
}

static int bad_stream(struct cs_error *err)
{
    return cs_fail(err, CS_EHUB, "BAD_SNAPSHOT: the hub's chunks are not in order; nothing of it was used");
}

static int take_chunk(struct clawsync_engine *e, const Clawsync__V1__DeltaChunk *c, struct cs_error *err)
{
    struct cs_take_step *s = &e->take;
    const Clawsync__V1__Envelope *env = c->envelope;

    if (c->seq == 0) {
        if (s->next != s->batch.nchunks || env == NULL || env->header.len != CS_BATCH_HEADER_LEN ||
            env->signature.len != CS_SIGNATURE_LEN || env->payload_hashes.len == 0 ||
            env->payload_hashes.len % 32 != 0 || env->payload_hashes.len / 32 > CS_BATCH_MAX_CHUNKS ||
            env->log_number != cs_parts_count(s->parts) || cs_parts_count(s->parts) >= s->d.parts)
            return bad_stream(err);
        cs_buf_reset(&s->batch.hashes);
        cs_buf_reset(&s->batch.sealed);
        memcpy(s->batch.header, env->header.data, CS_BATCH_HEADER_LEN);
        memcpy(s->batch.signature, env->signature.data, CS_SIGNATURE_LEN);
        cs_buf_put(&s->batch.hashes, env->payload_hashes.data, env->payload_hashes.len);
        s->batch.nchunks = (uint32_t)(env->payload_hashes.len / 32);
        s->batch.chunk_len = (uint32_t)c->encrypted_payload.len;
        s->next = 0;
    }
    if (c->seq < 0 || (uint32_t)c->seq != s->next || s->next >= s->batch.nchunks || c->encrypted_payload.len == 0 ||
        c->encrypted_payload.len > s->batch.chunk_len ||
        (s->next + 1 < s->batch.nchunks && c->encrypted_payload.len != s->batch.chunk_len) ||
        s->batch.sealed.len + c->encrypted_payload.len > CS_BATCH_MAX_PLAIN + CS_BATCH_MAX_PLAIN / 4)
        return bad_stream(err);
    cs_buf_put(&s->batch.sealed, c->encrypted_payload.data, c->encrypted_payload.len);
    if (s->batch.sealed.failed || s->batch.hashes.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return ++s->next == s->batch.nchunks ? part_came(e, err) : CS_OK;
}

/* All came that comes. */
static int check_whole(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_take_step *s = &e->take;
    uint8_t root[32];

    if (s->next != s->batch.nchunks || cs_parts_count(s->parts) != s->d.parts)
        return cs_fail(err, CS_EHUB,
                       "HUB_WITHHELD: the hub gave %" PRIu32 " of the %" PRIu32
                       " parts of a snapshot; nothing of it was used",
                       cs_parts_count(s->parts), s->d.parts);
    cs_hasher_final(&s->root, root, sizeof root);
    if (memcmp(s->digest, s->d.digest, 32) != 0)
        return cs_fail(err, CS_EHUB,
                       "BAD_SNAPSHOT: the parts are not those that its device signed; nothing of it was used");
    if (s->rows != s->d.rows || memcmp(root, s->proof.root, 32) != 0)
        return cs_fail(err, CS_EHUB,
                       "BAD_SNAPSHOT: what is in it is not the state that its device signed; nothing of it was used");
    s->rows = 0;
    s->whole = true;
    return CS_OK;
}

static void part_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_take_step *s = &e->take;
    const struct cs_message *m = s->taken.first;
    const Clawsync__V1__SnapshotResponse *a = NULL;
    ProtobufCAllocator alloc;
    uint32_t had = cs_parts_count(s->parts), had_next = s->next;

    cs_arena_reset(&s->arena);
    alloc = cs_engine_pb(&s->arena);
    if (m != NULL && (a = clawsync__v1__snapshot_response__unpack(&alloc, m->len, m->data)) == NULL)
        j->rc = cs_engine_unreadable(&s->arena, "the hub's answer", &j->err);
    for (size_t i = 0; a != NULL && i < a->n_chunks && j->rc == CS_OK; i++)
        j->rc = take_chunk(e, a->chunks[i], &j->err);
    cs_messages_free(&s->taken);
    s->ended = a == NULL || a->end || (cs_parts_count(s->parts) == had && s->next == had_next);
    if (j->rc == CS_OK && s->ended)
        j->rc = check_whole(e, &j->err);
}

static void part_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_error err = { 0 };

    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else if (e->schedule.closing)
        finish(e, cs_fail(&err, CS_ECANCELED, "the engine is being closed"), &err);
    else if (e->take.whole)
        merge(e);
    else
        fetch(e);
}

/* ---- which ---- */

/* *info: what the hub serves; NULL: nothing. The log has to go on from there. */
static int read_look(struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo **info, struct cs_error *err)
{
    struct cs_take_step *s = &e->take;
    const struct cs_message *m = s->taken.first;
    const Clawsync__V1__SnapshotResponse *a;
    ProtobufCAllocator alloc = cs_engine_pb(&s->arena);

    *info = NULL;
    if (m == NULL)
        return CS_OK;
    if ((a = clawsync__v1__snapshot_response__unpack(&alloc, m->len, m->data)) == NULL)
        return cs_engine_unreadable(&s->arena, "the hub's answer", err);
    *info = a->served;
    s->head_number = a->head_number;
    if (a->served != NULL && a->pruned_number > a->served->log_number)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub gives a snapshot of number %" PRIu64
                       ", and its log begins behind number %" PRIu64 "; nothing of it was used",
                       a->served->log_number, a->pruned_number);
    return CS_OK;
}

static void look_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_take_step *s = &e->take;
    const Clawsync__V1__SnapshotInfo *info;

    cs_arena_reset(&s->arena);
    cs_replica_pull_mark(e->replica, &s->mark);
    j->rc = read_look(e, &info, &j->err);
    cs_messages_free(&s->taken);
    if (j->rc != CS_OK)
        return;
    if (info != NULL && !s->pruned && !cs_snapshot_is_good(e, info)) /* the log is there */
        info = NULL;
    if (info == NULL || (!s->pruned && info->log_number <= s->mark.number)) {
        if (s->pruned)
            j->rc = cs_fail(&j->err, CS_EHUB,
                            "HUB_WITHHELD: the hub has pruned its log beyond number %" PRIu64
                            " and gives no snapshot in its place",
                            s->mark.number);
        return;
    }
    cs_buf_put(&s->bytes, info->descriptor.data, info->descriptor.len);
    if (s->bytes.failed)
        j->rc = cs_fail(&j->err, CS_ENOMEM, "out of memory");
    else
        j->rc = cs_snapshot_check(e, info, s->head_number, &s->mark, &s->d, &s->proof, &j->err);
    if (j->rc != CS_OK || (j->rc = cs_parts_new(&s->parts, &j->err)) != CS_OK)
        return;
    if (s->d.npeers > 0) /* in bytes of its own, as the answer goes */
        s->d.peers.data = s->bytes.data + (s->d.peers.data - info->descriptor.data);
    cs_snapshot_digest_start(&e->workspace, &s->d.device, s->d.log_id, s->d.number, s->digest);
    cs_hasher_init_plain(&s->root);
    cs_hasher_update(&s->root, cs_dump_head().data, cs_dump_head().len);
    s->looked = true;
}

static void look_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK || !e->take.looked)
        finish(e, j->rc, &j->err);
    else
        fetch(e);
}

/* ---- the loop's side ---- */

static void on_answer(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;
    struct cs_take_step *s = &e->take;
    struct cs_error none = { 0 };

    if (!c->ended)
        return;
    if (c->status == CS_RPC_UNIMPLEMENTED && !s->pruned) {
        finish(e, CS_OK, &none);
        return;
    }
    if (c->rc != CS_OK) {
        struct cs_error err = c->err;

        finish(e, c->rc, &err);
        return;
    }
    s->taken = c->in;
    c->in = (struct cs_messages){ 0 };
    cs_hub_call_cancel(c);
    if (s->looked)
        next_job(e, part_run, part_done);
    else
        next_job(e, look_run, look_done);
}

static void fetch(struct clawsync_engine *e)
{
    struct cs_take_step *s = &e->take;
    Clawsync__V1__SnapshotRequest req = CLAWSYNC__V1__SNAPSHOT_REQUEST__INIT;
    struct cs_error err = { 0 };
    bool within = s->next != s->batch.nchunks;

    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.action = s->looked ? ACTION(GET) : ACTION(LOOK);
    if (s->looked) {
        req.log_id = s->d.log_id;
        req.log_number = s->d.number;
        req.part = cs_parts_count(s->parts);
        req.seq = within ? s->next : 0;
    }
    if (cs_hub_call_start(e, &s->call, "Snapshot", &req.base, true, on_answer, &err) != CS_OK)
        finish(e, err.code, &err);
}

void cs_step_take(struct clawsync_engine *e, bool pruned, cs_step_done done)
{
    struct cs_take_step *s = &e->take;

    s->done = done;
    s->pruned = pruned;
    s->looked = s->whole = s->took = s->ended = s->marked = s->missed = s->keeps = s->older = false;
    s->told = (struct cs_collection){ 0 };
    s->next = s->batch.nchunks = 0;
    s->applied = 0;
    s->rows = 0;
    fetch(e);
}
