/* What `claw-sync doctor` asks the hub. Nothing is written: neither here nor, beyond that this device was heard of,
 * there.
 */
#include <inttypes.h>
#include <stdio.h>

#include "engine/engine.h"

enum { NEEDLE_MIN = 8, NEEDLES_MAX = 1000 };

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    cs_hub_call_cancel(&e->devices.call);
    cs_messages_free(&e->devices.taken);
    e->devices.done(e, rc, err);
}

static void job_done(struct clawsync_engine *e, struct cs_job *j)
{
    finish(e, j->rc, &j->err);
}

/* The end of a call: its messages go to a job. */
static void take(struct cs_hub_call *c, void (*run)(struct clawsync_engine *e, struct cs_job *j))
{
    struct clawsync_engine *e = c->e;

    if (!c->ended)
        return;
    if (c->rc != CS_OK) {
        cs_hub_lost(c);
        finish(e, c->rc, &c->err);
        return;
    }
    e->devices.taken = c->in;
    c->in = (struct cs_messages){ 0 };
    e->devices.job = (struct cs_job){ .run = run, .done = job_done };
    cs_engine_job(e, &e->devices.job);
}

/* ---- is it there, is it the one we know, and what time has it? ---- */

static void hub_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_hub_look *look = e->devices.cmd->arg;
    const struct cs_message *m = e->devices.taken.first;
    struct cs_arena arena = { 0 };
    ProtobufCAllocator alloc = cs_engine_pb(&arena);
    Clawsync__V1__HeartbeatResponse *r =
        m == NULL ? NULL : clawsync__v1__heartbeat_response__unpack(&alloc, m->len, m->data);
    struct cs_pull_mark mark;

    cs_replica_pull_mark(e->replica, &mark);
    if (r == NULL) {
        j->rc = cs_engine_unreadable(&arena, "the hub's answer", &j->err);
    } else if ((j->rc = cs_engine_head(e, r->head, &look->head, &j->err)) == CS_OK) {
        look->hub_ms = r->server_time;
        if (mark.log_id != 0 && mark.log_id != look->head.log_id && e->log.id == 0)
            j->rc = cs_fail(&j->err, CS_EHUB, "LOG_REPLACED: the hub's log is another one than this device has read");
        else if (mark.log_id == look->head.log_id && look->head.number < mark.number)
            j->rc = cs_fail(&j->err, CS_EHUB,
                            "HUB_ROLLBACK: the hub's log ends at %" PRIu64 ", this device has read it up to %" PRIu64,
                            look->head.number, mark.number);
    }
    cs_arena_free(&arena);
}

static void on_hub(struct cs_hub_call *c)
{
    struct cs_hub_look *look = c->e->devices.cmd->arg;

    look->answered_ms = cs_now_ms(c->e->world);
    take(c, hub_run);
}

/* The first call opens the session, which takes longer: the second one's way is the one that is timed. */
static void hub_ask(struct clawsync_engine *e, void (*on)(struct cs_hub_call *c))
{
    struct cs_hub_look *look = e->devices.cmd->arg;
    Clawsync__V1__HeartbeatRequest req = CLAWSYNC__V1__HEARTBEAT_REQUEST__INIT;
    struct cs_error err = { 0 };
    int rc;

    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.timestamp = look->asked_ms = cs_now_ms(e->world);
    if ((rc = cs_hub_call_start(e, &e->devices.call, "Heartbeat", &req.base, true, on, &err)) != CS_OK)
        finish(e, rc, &err);
}

static void on_greeted(struct cs_hub_call *c)
{
    if (c->ended && c->rc == CS_OK)
        hub_ask(c->e, on_hub);
    else if (c->ended) {
        cs_hub_lost(c);
        finish(c->e, c->rc, &c->err);
    }
}

static void step_hub(struct clawsync_engine *e, cs_step_done done)
{
    e->devices.cmd = e->schedule.current;
    e->devices.done = done;
    hub_ask(e, on_greeted);
}

/* Which log is in force the membership says. Whoever is in none yet has nothing to ask. */
static void step_membership(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_error none = { 0 };

    if (e->beside && cs_is_member(e))
        cs_step_member(e, done);
    else
        done(e, CS_OK, &none);
}

int cs_engine_look_at_hub(clawsync_engine *e, struct cs_hub_look *out, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { step_membership, step_hub }, .arg = out };

    *out = (struct cs_hub_look){ 0 };
    return cs_engine_command(e, &c, err);
}

int64_t cs_hub_look_ahead_ms(const struct cs_hub_look *look)
{
    int64_t way = look->answered_ms > look->asked_ms ? look->answered_ms - look->asked_ms : 0;
    int64_t ahead = look->asked_ms + way / 2 - look->hub_ms, off = (ahead < 0 ? -ahead : ahead) - way / 2;

    if (off <= 0)
        return 0;
    return ahead < 0 ? -off : off;
}

/* ---- the newest batch of ours, as the hub has it ---- */

struct own {
    struct cs_own_look *look;
    uint8_t hash[32];
    struct cs_batch batch;
};

/* Where in the log is it? The hub said so when it took it, which is kept until the log is read that far; from then on
 * it is where the log's hash has it. */
static int find_own(struct clawsync_engine *e, struct own *o, struct cs_error *err)
{
    struct cs_arena arena = { 0 };
    struct cs_bound *bound = NULL;
    struct cs_pull_mark mark;
    uint8_t at[32], prev[32], want[32];
    size_t n = 0;
    int rc = cs_replica_bound(e->replica, &arena, false, &bound, &n, err);

    cs_replica_chain(e->replica, &o->look->number, o->hash);
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        if (bound[i].state == CS_BOUND_ACCEPTED && memcmp(bound[i].hash, o->hash, 32) == 0)
            o->look->log_number = bound[i].log_number;
    cs_arena_free(&arena);
    cs_replica_pull_mark(e->replica, &mark);
    if (rc != CS_OK || o->look->number == 0 || o->look->log_number != 0 || mark.number == 0)
        return rc;
    rc = cs_log_hash_at(e, &mark, mark.number, at, err);
    for (uint64_t i = mark.number; i > 0 && rc == CS_OK; i--) {
        if ((rc = cs_log_hash_at(e, &mark, i - 1, prev, err)) != CS_OK)
            break;
        cs_log_next(prev, i, o->hash, want);
        if (memcmp(want, at, 32) == 0) {
            o->look->log_number = i;
            break;
        }
        memcpy(at, prev, 32);
    }
    return rc == CS_ENOTFOUND ? CS_OK : rc; /* too long ago to know */
}

static bool put_chunk(struct own *o, const Clawsync__V1__DeltaChunk *c)
{
    const Clawsync__V1__Envelope *env = c->envelope;
    struct cs_batch *b = &o->batch;

    if (c->seq == 0) {
        if (env == NULL || env->log_number != o->look->log_number || env->header.len != CS_BATCH_HEADER_LEN ||
            env->signature.len != CS_SIGNATURE_LEN || c->total < 1 || c->total > CS_BATCH_MAX_CHUNKS ||
            env->payload_hashes.len != (size_t)c->total * 32 || b->nchunks != 0)
            return false;
        memcpy(b->header, env->header.data, CS_BATCH_HEADER_LEN);
        memcpy(b->signature, env->signature.data, CS_SIGNATURE_LEN);
        cs_buf_put(&b->hashes, env->payload_hashes.data, env->payload_hashes.len);
        b->nchunks = (uint32_t)c->total;
        b->chunk_len = (uint32_t)c->encrypted_payload.len;
    }
    if (c->seq < 0 || (uint32_t)c->seq != o->look->nchunks || o->look->nchunks == b->nchunks ||
        (o->look->nchunks + 1 < b->nchunks && c->encrypted_payload.len != b->chunk_len) ||
        c->encrypted_payload.len > b->chunk_len || c->encrypted_payload.len == 0 ||
        b->sealed.len + c->encrypted_payload.len > CS_BATCH_MAX_PLAIN + CS_BATCH_MAX_PLAIN / 4)
        return false;
    cs_buf_put(&b->sealed, c->encrypted_payload.data, c->encrypted_payload.len);
    o->look->nchunks++;
    return !b->sealed.failed && !b->hashes.failed;
}

static void search(struct cs_own_look *look, struct cs_slice hay, struct cs_slice needle)
{
    if (needle.len < NEEDLE_MIN || look->searched == NEEDLES_MAX)
        return;
    look->searched++;
    look->found += memmem(hay.data, hay.len, needle.data, needle.len) != NULL;
}

static void search_all(struct cs_own_look *look, struct cs_slice hay, const struct cs_delta *d)
{
    for (uint32_t i = 0; i < d->ntables; i++) {
        search(look, hay, d->tables[i].name);
        for (uint32_t k = 0; k < d->tables[i].ncolumns; k++)
            search(look, hay, d->tables[i].columns[k]);
    }
    for (uint32_t i = 0; i < d->nops; i++) {
        search(look, hay, d->ops[i].key);
        for (uint32_t k = 0; k < d->ops[i].ncells; k++) {
            const struct cs_value *v = &d->ops[i].cells[k].value;

            if (v->type == CS_TEXT || v->type == CS_BLOB)
                search(look, hay, v->u.bytes);
        }
    }
}

static int check_own(struct clawsync_engine *e, struct own *o, struct cs_error *err)
{
    struct cs_slice header = cs_slice(o->batch.header, CS_BATCH_HEADER_LEN);
    struct cs_slice sealed = cs_buf_slice(&o->batch.sealed);
    enum cs_unpack_fault fault = CS_FAULT_NONE;
    const struct cs_epoch_keys *keys;
    struct cs_batch_header h;
    struct cs_delta delta;
    int rc;

    cs_batch_hash(header, cs_buf_slice(&o->batch.hashes), o->batch.hash);
    if (o->batch.nchunks == 0 || o->look->nchunks != o->batch.nchunks)
        return cs_fail(err, CS_ECORRUPT, "the hub did not give number %" PRIu64 " of its log whole",
                       o->look->log_number);
    if (memcmp(o->batch.hash, o->hash, 32) != 0)
        return cs_fail(err, CS_ECORRUPT, "number %" PRIu64 " of the hub's log has another hash than what was sent",
                       o->look->log_number);
    if ((rc = cs_batch_header_decode(&h, header, err)) != CS_OK)
        return rc;
    if (!cs_batch_verify(e->keys->sign.pk, header, cs_buf_slice(&o->batch.hashes), o->batch.signature))
        return cs_fail(err, CS_ECORRUPT, "the batch that the hub gave back does not have this device's signature");
    if ((keys = cs_keystore_epoch(e->ks, h.epoch)) == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", h.epoch);
    if ((rc = cs_unpack(e->packer, &o->batch, keys, &delta, &fault, err)) != CS_OK)
        return rc;
    o->look->nops = h.nops;
    o->look->content = h.plain_len;
    o->look->stored = sealed.len;
    search_all(o->look, sealed, &delta);
    return CS_OK;
}

static void own_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct own *o = e->devices.cmd->arg;

    j->rc = CS_OK;
    for (const struct cs_message *m = e->devices.taken.first; m != NULL && j->rc == CS_OK; m = m->next) {
        struct cs_arena arena = { 0 };
        ProtobufCAllocator alloc = cs_engine_pb(&arena);
        const Clawsync__V1__PullResponse *r = clawsync__v1__pull_response__unpack(&alloc, m->len, m->data);

        bool fine = r != NULL;

        for (size_t i = 0; fine && i < r->n_chunks; i++)
            fine = put_chunk(o, r->chunks[i]);
        if (!fine)
            j->rc = cs_engine_unreadable(&arena, "the hub's answer", &j->err);
        cs_arena_free(&arena);
    }
    if (j->rc == CS_OK)
        j->rc = check_own(e, o, &j->err);
}

static void on_own(struct cs_hub_call *c)
{
    struct own *o = c->e->devices.cmd->arg;

    if (c->ended && c->rc != CS_OK && strstr(c->err.msg, "pruned:") != NULL) {
        o->look->log_number = 0; /* too long ago for the log */
        finish(c->e, CS_OK, NULL);
        return;
    }
    take(c, own_run);
}

static void own_found(struct clawsync_engine *e, struct cs_job *j)
{
    const struct own *o = e->devices.cmd->arg;
    Clawsync__V1__PullRequest req = CLAWSYNC__V1__PULL_REQUEST__INIT;
    Clawsync__V1__SyncCursor cursor = CLAWSYNC__V1__SYNC_CURSOR__INIT;

    if (j->rc != CS_OK || o->look->log_number == 0) {
        finish(e, j->rc, &j->err);
        return;
    }
    cursor.workspace_id = req.workspace_id = e->workspace_text;
    cursor.device_id = e->device_text;
    cursor.lamport_clock = (int64_t)o->look->log_number - 1;
    cursor.log_id = e->head.log_id;
    req.client_cursor = &cursor;
    req.max_chunks = 1; /* one whole batch */
    req.own_in_full = true;
    if ((j->rc = cs_hub_call_start(e, &e->devices.call, "Pull", &req.base, true, on_own, &j->err)) != CS_OK)
        finish(e, j->rc, &j->err);
}

static void own_find(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = find_own(e, e->devices.cmd->arg, &j->err);
}

static void step_own(struct clawsync_engine *e, cs_step_done done)
{
    e->devices.cmd = e->schedule.current;
    e->devices.done = done;
    e->devices.job = (struct cs_job){ .run = own_find, .done = own_found };
    cs_engine_job(e, &e->devices.job);
}

int cs_engine_look_at_own(clawsync_engine *e, struct cs_own_look *out, clawsync_error *err)
{
    struct own o = { .look = out };
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { step_own }, .arg = &o };
    int rc;

    *out = (struct cs_own_look){ 0 };
    rc = cs_engine_command(e, &c, err);
    cs_batch_free(&o.batch);
    return rc;
}
