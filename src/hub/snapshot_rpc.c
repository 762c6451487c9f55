/* Snapshot: giving one, attesting one, fetching one. What is written goes through the writer, what is read is bounded
 * by a page; and the writes that prune, one after the other for as long as there is something. */
#include <stdlib.h>

#include "crypto/snapshot.h"
#include "hub/internal.h"
#include "hub/snapshot.h"

enum { PAGE_CHUNKS = 1024 };
#define ACTION(name) CLAWSYNC__V1__SNAPSHOT_ACTION__SNAPSHOT_ACTION_##name

struct snapshot {
    struct cs_write write;
    struct cs_snapshot_write in;
    struct cs_req *req;
    const Clawsync__V1__SnapshotRequest *request;
    struct cs_batch batch;
    Clawsync__V1__SnapshotResponse out;
    Clawsync__V1__SnapshotInfo info[2];
    struct cs_snapshots all;
    bool writes;
};

static bool no_memory(struct cs_verdict *v)
{
    return cs_refuse(v, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
}

static bool invalid(struct cs_verdict *v, const char *what)
{
    return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "malformed", "%s", what);
}

/* ---- pruning ---- */

static void pruned(struct cs_write *w);

struct pruning {
    struct cs_write write;
    struct cs_hub *hub;
};

/* A failure ends it; whoever is heard of next begins it again. */
static void prune_submit(struct pruning *p)
{
    struct cs_uuid workspace = p->write.workspace;

    p->write = (struct cs_write){ .kind = CS_WRITE_PRUNE, .workspace = workspace, .done = pruned };
    cs_writer_submit(p->hub, &p->write);
}

static void pruned(struct cs_write *w)
{
    struct pruning *p = (struct pruning *)w;

    if (w->verdict.status == CS_RPC_OK && w->prune && !p->hub->stopping)
        prune_submit(p);
    else
        free(p);
}

void cs_snapshot_prune_soon(struct cs_hub *h, const struct cs_uuid *ws)
{
    struct pruning *p = h->stopping ? NULL : calloc(1, sizeof *p);

    if (p == NULL)
        return;
    p->hub = h;
    p->write.workspace = *ws;
    prune_submit(p);
}

/* ---- reading ---- */

static void put_info(Clawsync__V1__SnapshotInfo *out, const struct cs_store_snapshot *s)
{
    clawsync__v1__snapshot_info__init(out);
    out->device_id = (ProtobufCBinaryData){ 16, (uint8_t *)(uintptr_t)s->device.b };
    out->log_id = s->log_id;
    out->log_number = s->number;
    out->parts = s->parts;
    out->bytes = s->bytes;
    out->whole = s->state >= CS_SNAPSHOT_WHOLE;
    out->descriptor = (ProtobufCBinaryData){ s->descriptor.len, (uint8_t *)(uintptr_t)s->descriptor.data };
    if (cs_uuid_is_zero(&s->attester))
        return;
    out->attester_id = (ProtobufCBinaryData){ 16, (uint8_t *)(uintptr_t)s->attester.b };
    out->attestation = (ProtobufCBinaryData){ s->attestation.len, (uint8_t *)(uintptr_t)s->attestation.data };
}

static void look(struct snapshot *x, const struct cs_store_head *head)
{
    const struct cs_store_snapshot *other = &x->all.at[x->all.other];

    if (x->all.served >= 0) {
        put_info(&x->info[0], &x->all.at[x->all.served]);
        x->out.served = &x->info[0];
    }
    if (other->state == CS_SNAPSHOT_GIVING || other->state == CS_SNAPSHOT_WHOLE) {
        put_info(&x->info[1], other);
        x->out.given = &x->info[1];
    }
    x->out.head_number = head->number;
    x->out.pruned_number = head->pruned;
}

struct page {
    struct cs_arena *a;
    Clawsync__V1__DeltaChunk **chunk;
    size_t n, bytes;
    uint32_t total; /* chunks of the part at hand, which the first of it told */
    uint32_t part;
    struct cs_slice hashes;
    bool failed, full;
};

/* The next chunk message of the page, of a part whose envelope came before it, in this page or another one. */
static bool keep_chunk(void *arg, const struct cs_store_part *p)
{
    struct page *pg = arg;
    const size_t at_hashes = CS_BATCH_HEADER_LEN + CS_SIGNATURE_LEN;
    Clawsync__V1__DeltaChunk *c = cs_arena_alloc(pg->a, sizeof *c);
    Clawsync__V1__Envelope *e = p->seq == 0 ? cs_arena_alloc(pg->a, sizeof *e) : NULL;
    struct cs_slice envelope = cs_arena_copy(pg->a, p->envelope), payload = cs_arena_copy(pg->a, p->payload);

    if (c == NULL || (p->seq == 0 && (e == NULL || envelope.len < at_hashes)) || payload.data == NULL) {
        pg->failed = true;
        return false;
    }
    clawsync__v1__delta_chunk__init(c);
    c->seq = (int32_t)p->seq;
    c->encrypted_payload = (ProtobufCBinaryData){ payload.len, (uint8_t *)(uintptr_t)payload.data };
    if (e != NULL) {
        uint8_t *bytes = (uint8_t *)(uintptr_t)envelope.data;

        clawsync__v1__envelope__init(e);
        e->header = (ProtobufCBinaryData){ CS_BATCH_HEADER_LEN, bytes };
        e->signature = (ProtobufCBinaryData){ CS_SIGNATURE_LEN, bytes + CS_BATCH_HEADER_LEN };
        e->payload_hashes = (ProtobufCBinaryData){ envelope.len - at_hashes, bytes + at_hashes };
        e->log_number = p->part;
        c->envelope = e;
        c->total = (int32_t)((envelope.len - at_hashes) / 32);
    }
    pg->bytes += payload.len + envelope.len + 64;
    pg->chunk[pg->n++] = c;
    pg->full = pg->bytes >= CS_HUB_PAGE || pg->n == PAGE_CHUNKS;
    return !pg->full;
}

static void get(struct cs_req *r, struct snapshot *x, cs_store_tx *tx)
{
    const Clawsync__V1__SnapshotRequest *in = x->request;
    struct page pg = { .a = &r->arena };
    struct cs_error err = { 0 };
    const struct cs_store_snapshot *s = x->all.served < 0 ? NULL : &x->all.at[x->all.served];

    if (s == NULL || s->log_id != in->log_id || s->number != in->log_number) {
        cs_refuse(&r->verdict, CS_RPC_ABORTED, "catch-up", "another snapshot is served by now");
        return;
    }
    if ((pg.chunk = cs_arena_alloc(&r->arena, PAGE_CHUNKS * sizeof(Clawsync__V1__DeltaChunk *))) == NULL) {
        no_memory(&r->verdict);
        return;
    }
    if (tx->ops->snapshot_parts(tx, &r->who.workspace, s->slot, in->part, in->seq, keep_chunk, &pg, &err) != CS_OK) {
        cs_refuse_storage(&r->verdict, &err);
        return;
    }
    if (pg.failed) {
        no_memory(&r->verdict);
        return;
    }
    x->out.chunks = pg.chunk;
    x->out.n_chunks = pg.n;
    x->out.end = !pg.full;
}

/* ---- requests ---- */

static bool part_parse(struct cs_req *r, struct snapshot *x, const struct cs_store_head *head, cs_store_tx *tx)
{
    const Clawsync__V1__SnapshotRequest *in = x->request;
    struct cs_member_info member;
    struct cs_error err = { 0 };

    if (!cs_rules_part_shape(&x->batch, in->chunks, in->n_chunks, &r->arena, &r->verdict))
        return false;
    if (cs_uuid_cmp(&x->batch.h.workspace, &r->who.workspace) != 0 ||
        cs_uuid_cmp(&x->batch.h.device, &r->who.device) != 0)
        return cs_refuse_stranger(&r->verdict);
    if (cs_members_find(r->env->members, tx, &r->who.workspace, head, &r->who.device, &member, &err) != CS_OK) {
        cs_refuse_storage(&r->verdict, &err);
        return false;
    }
    x->in.batch = &x->batch;
    return cs_rules_signature(&x->batch, member.sign_pk, &r->verdict);
}

static bool parse(struct cs_req *r, struct snapshot *x)
{
    static const struct {
        Clawsync__V1__SnapshotAction in;
        enum cs_snapshot_action out;
    } writing[] = { { ACTION(BEGIN), CS_SNAPSHOT_BEGIN },
                    { ACTION(PUT), CS_SNAPSHOT_PUT },
                    { ACTION(END), CS_SNAPSHOT_END },
                    { ACTION(ATTEST), CS_SNAPSHOT_ATTEST } };
    const Clawsync__V1__SnapshotRequest *in = x->request;

    if (!cs_parse_caller(r, in->workspace_id, in->device_id))
        return false;
    for (size_t i = 0; i < sizeof writing / sizeof writing[0]; i++)
        if (writing[i].in == in->action) {
            x->writes = true;
            x->in.action = writing[i].out;
        }
    if (!x->writes && in->action != ACTION(LOOK) && in->action != ACTION(GET))
        return invalid(&r->verdict, "no such action");
    if (in->descriptor.len > CS_DESCRIPTOR_MAX)
        return invalid(&r->verdict, "the snapshot's description is too long");
    x->in.log_id = in->log_id;
    x->in.number = in->log_number;
    x->in.part = in->part;
    x->in.descriptor = cs_slice(in->descriptor.data, in->descriptor.len);
    x->in.attestation = cs_slice(in->attestation.data, in->attestation.len);
    return true;
}

static void snapshot_work(struct cs_req *r)
{
    struct snapshot *x = r->state;
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    struct cs_store_head head;
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    clawsync__v1__snapshot_response__init(&x->out);
    x->request = clawsync__v1__snapshot_request__unpack(&alloc, r->in.len, r->in.data);
    if (x->request == NULL) {
        cs_unparsable(&r->verdict, &r->arena);
        return;
    }
    if (!parse(r, x) ||
        !cs_read_begin(r->env, &r->who.workspace, &r->who.device, CS_ALLOW_MEMBERS, &tx, &head, &r->verdict))
        return;
    if (x->writes && x->in.action == CS_SNAPSHOT_PUT) {
        part_parse(r, x, &head, tx);
    } else if (!x->writes) {
        if (cs_snapshots_read(tx, &r->who.workspace, &r->arena, &x->all, &err) != CS_OK)
            cs_refuse_storage(&r->verdict, &err);
        else if (x->request->action == ACTION(LOOK))
            look(x, &head);
        else
            get(r, x, tx);
    }
    cs_store_rollback(tx);
}

static bool answer(struct cs_req *r, struct snapshot *x)
{
    x->out.more = x->in.more;
    return cs_pb_pack(&r->out, &x->out.base, &r->verdict) && cs_req_send(r);
}

static void snapshot_written(struct cs_write *w)
{
    struct snapshot *x = (struct snapshot *)w;
    struct cs_req *r = x->req;

    r->verdict = w->verdict;
    if (w->verdict.status != CS_RPC_OK) {
        cs_req_finish(r);
    } else {
        if (x->in.ring) {
            cs_watch_snapshot(r->hub, &w->workspace);
            cs_others_snapshot(r->hub, &w->workspace);
        }
        if (w->prune)
            cs_snapshot_prune_soon(r->hub, &w->workspace);
        if (r->call != NULL) {
            answer(r, x);
            cs_req_finish(r);
        }
    }
    cs_req_release(r);
}

static void snapshot_done(struct cs_req *r)
{
    struct snapshot *x = r->state;

    cs_presence_seen(r->hub, &r->who.workspace, &r->who.device);
    if (!x->writes) {
        answer(r, x);
        cs_req_finish(r);
        return;
    }
    if (!cs_sessions_may_push(r->hub->sessions, &r->who.workspace, r->in.len)) {
        cs_refuse(&r->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                  "the workspace sends more bytes a second than this hub takes; try again");
        cs_req_finish(r);
        return;
    }
    x->req = r;
    x->write.kind = CS_WRITE_SNAPSHOT;
    x->write.workspace = r->who.workspace;
    x->write.device = r->who.device;
    x->write.snapshot = &x->in;
    x->write.bytes = r->in.len;
    x->write.done = snapshot_written;
    cs_req_hold(r);
    cs_writer_submit(r->hub, &x->write);
}

static const struct cs_req_ops snapshot_ops = {
    .name = "Snapshot", .work = snapshot_work, .done = snapshot_done, .state_bytes = sizeof(struct snapshot)
};

void cs_snapshot_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &snapshot_ops);
}
