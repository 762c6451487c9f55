/* What the hub has is looked at from outside: its log and membership are verified once more, every batch is opened, and
 * the reference model makes of all operations the state that each device must have. What the hub has pruned is in its
 * snapshot, from which the model then begins; as long as the log has it, the model says whether the snapshot is right.
 * Collections of tombstones (docs/decisions/0017) are said another way here, too: of the list of operations, those are
 * struck out that no state comes of any more.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "audit/audit.h"
#include "crdt/model.h"
#include "crypto/hash.h"
#include "crypto/snapshot.h"
#include "hub/store.h"
#include "sim/system.h"

#define HUB_DATABASE "/hub/live/hub.db"
enum { CHAINS = 8 * DEVICES }; /* a device may become another one, and go on */

/* An operation of the log, with the set that it came in, or of the snapshot. */
struct entry {
    struct cs_slice table;
    struct cs_op op;      /* table and device count in `all` */
    uint64_t incarnation; /* that stamped it; 0: its device did not send it itself */
    bool struck_out;      /* it came too late for a collection, or was collected */
};

struct reading {
    struct run *r;
    struct device *by; /* whose keys open it */
    sqlite3 *db;
    struct cs_membership members;
    struct cs_uuid workspace;
    struct hub_head {
        uint64_t log_id, refilled, number, pruned;
        uint8_t log_hash[32];
    } head;
    struct snapshot { /* that the hub serves */
        bool is;
        int64_t slot;
        struct cs_buf bytes; /* its description */
        struct cs_descriptor d;
        uint8_t root[32];
    } snapshot;
    struct cs_collection collected; /* the newest, as far as the log was read */
    struct cs_arena arena;
    cs_packer *packer;
    struct cs_delta all; /* every table and device of every set, one behind the other */
    uint32_t cap_tables, cap_devices;
    struct entry *entries;
    size_t n, cap;
    bool whole; /* all were read */
    uint8_t log_hash[32];
    struct chain {
        struct cs_uuid device;
        uint64_t number;
        uint8_t hash[32];
        struct cs_audit_anchor audit; /* that its newest batch names */
    } chain[CHAINS];
    unsigned nchains;
};

static sqlite3_stmt *query(struct reading *q, const char *sql)
{
    sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(q->db, sql, -1, &s, NULL) != SQLITE_OK)
        die(q->r, "the hub's database: %s", sqlite3_errmsg(q->db));
    return s;
}

static struct cs_slice blob(sqlite3_stmt *s, int i)
{
    return cs_slice(sqlite3_column_blob(s, i), (size_t)sqlite3_column_bytes(s, i));
}

static void copy_blob(struct reading *q, sqlite3_stmt *s, int i, void *out, size_t n)
{
    if (blob(s, i).len != n)
        die(q->r, "the hub's database: a field has %zu bytes, not %zu", blob(s, i).len, n);
    memcpy(out, blob(s, i).data, n);
}

/* Room for one more. */
static void *more(void *p, size_t n, uint32_t *cap, size_t size)
{
    if (n < *cap)
        return p;
    *cap = *cap == 0 ? 64 : *cap * 2;
    if ((p = realloc(p, *cap * size)) == NULL)
        exit(1);
    return p;
}

/* ---- membership ---- */

static void read_members(struct run *r, sqlite3 *db, struct cs_membership *m)
{
    sqlite3_stmt *s = NULL;
    struct cs_error err;

    if (sqlite3_prepare_v2(db, "SELECT entry FROM entry ORDER BY seq", -1, &s, NULL) != SQLITE_OK)
        die(r, "the hub's database: %s", sqlite3_errmsg(db));
    while (sqlite3_step(s) == SQLITE_ROW)
        must(r, cs_membership_apply(m, blob(s, 0), 0, &err), &err, "the hub's membership log");
    sqlite3_finalize(s);
}

void find_revoked(struct run *r)
{
    struct cs_membership m = { 0 };
    sqlite3 *db;
    int64_t seq = ask(r, r->hub.disk, HUB_DATABASE, "SELECT max(seq) FROM entry");

    if (seq == r->member_seq)
        return;
    r->member_seq = seq;
    db = look_into(r, r->hub.disk, HUB_DATABASE);
    read_members(r, db, &m);
    close_look(r->hub.disk, db);
    for (unsigned i = 0; i < r->ndevices; i++) {
        struct device *d = &r->devices[i];
        struct cs_uuid id;
        const struct cs_member *member;

        if (!is_there(d) || !cs_uuid_parse(&id, d->id))
            continue;
        member = cs_membership_find(&m, &id);
        if (member == NULL || member->active)
            continue;
        note(r, "%s is out", d->name);
        d->gone = true;
    }
    cs_membership_free(&m);
}

/* ---- batches ---- */

static struct chain *chain_of(struct reading *q, const struct cs_uuid *device)
{
    for (unsigned i = 0; i < q->nchains; i++)
        if (cs_uuid_cmp(&q->chain[i].device, device) == 0)
            return &q->chain[i];
    if (q->nchains == CHAINS)
        die(q->r, "the log has batches of more devices than there are");
    q->chain[q->nchains] = (struct chain){ .device = *device, .number = CS_CHAIN_BASE(q->head.refilled) };
    if (q->head.refilled > 0)
        cs_chain_start(&q->workspace, q->head.log_id, q->chain[q->nchains].hash);
    return &q->chain[q->nchains++];
}

static void check_batch(struct reading *q, uint64_t number, const struct cs_batch *b, const struct cs_batch_header *h,
                        const uint8_t log_hash[32])
{
    struct cs_slice header = cs_slice(b->header, sizeof b->header);
    const struct cs_member *member = cs_membership_find(&q->members, &h->device);
    struct chain *c = chain_of(q, &h->device);
    uint8_t hash[32];

    cs_batch_hash(header, cs_buf_slice(&b->hashes), hash);
    cs_log_next(q->log_hash, number, hash, q->log_hash);
    if (memcmp(hash, b->hash, 32) != 0 || memcmp(q->log_hash, log_hash, 32) != 0)
        die(q->r, "number %" PRIu64 " of the log has wrong hashes", number);
    if (h->number != c->number + 1 || memcmp(h->prev, c->hash, 32) != 0)
        die(q->r, "number %" PRIu64 " of the log, batch %" PRIu64 " of its device, does not follow batch %" PRIu64,
            number, h->number, c->number);
    if (member == NULL || !cs_batch_verify(member->sign_pk, header, cs_buf_slice(&b->hashes), b->signature))
        die(q->r, "number %" PRIu64 " of the log is not signed by a member", number);
    if (cs_membership_past_cut(&q->members, &h->device, h->number, hash))
        die(q->r, "number %" PRIu64 " of the log lies behind its device's removal", number);
    c->number = h->number;
    memcpy(c->hash, hash, 32);
    c->audit.sequence = h->audit_seq;
    memcpy(c->audit.hash, h->audit_head, 32);
}

/* Of the statement, which tells a chunk's payload at a time. */
static void read_chunks(struct reading *q, sqlite3_stmt *s, const char *what, uint64_t number, struct cs_batch *b)
{
    for (b->nchunks = 0; sqlite3_step(s) == SQLITE_ROW; b->nchunks++) {
        struct cs_slice payload = blob(s, 0);
        uint8_t hash[32];

        if (b->nchunks == 0)
            b->chunk_len = (uint32_t)payload.len;
        cs_hash_plain(payload, hash);
        if (b->nchunks * 32 >= b->hashes.len || memcmp(hash, b->hashes.data + (size_t)b->nchunks * 32, 32) != 0)
            die(q->r, "%s %" PRIu64 ": a chunk is not the one that was signed", what, number);
        cs_buf_put_slice(&b->sealed, payload);
    }
    sqlite3_finalize(s);
}

static struct cs_slice keep(struct reading *q, struct cs_slice s)
{
    return cs_arena_copy(&q->arena, s);
}

static void keep_table(struct reading *q, const struct cs_delta_table *t)
{
    struct cs_delta_table *to;

    q->all.tables = more(q->all.tables, q->all.ntables, &q->cap_tables, sizeof *q->all.tables);
    to = &q->all.tables[q->all.ntables++];
    *to = (struct cs_delta_table){ .name = keep(q, t->name), .ncolumns = t->ncolumns };
    to->columns = cs_arena_zalloc(&q->arena, t->ncolumns + 1, sizeof *to->columns);
    for (uint32_t i = 0; i < t->ncolumns; i++)
        to->columns[i] = keep(q, t->columns[i]);
}

static struct entry *keep_op(struct reading *q, const struct cs_op *op, uint64_t incarnation, uint32_t tables,
                             uint32_t devices)
{
    struct entry *e;
    uint32_t cap = (uint32_t)q->cap;

    q->entries = more(q->entries, q->n, &cap, sizeof *q->entries);
    q->cap = cap;
    e = &q->entries[q->n++];
    *e = (struct entry){ .op = *op, .incarnation = op->device == 0 ? incarnation : 0 }; /* 0: the sender */
    e->op.table += tables;
    e->op.device += devices;
    e->op.key = keep(q, op->key);
    e->op.over = NULL;
    e->op.nover = 0;
    e->op.cells = cs_arena_zalloc(&q->arena, op->ncells + 1, sizeof *e->op.cells);
    for (uint32_t i = 0; i < op->ncells; i++) {
        e->op.cells[i] = op->cells[i];
        if (op->cells[i].value.type == CS_TEXT || op->cells[i].value.type == CS_BLOB)
            e->op.cells[i].value.u.bytes = keep(q, op->cells[i].value.u.bytes);
    }
    e->table = q->all.tables[e->op.table].name;
    return e;
}

static void keep_delta(struct reading *q, const struct cs_delta *d, uint64_t incarnation)
{
    uint32_t tables = q->all.ntables, devices = q->all.ndevices;

    for (uint32_t i = 0; i < d->ntables; i++)
        keep_table(q, &d->tables[i]);
    for (uint32_t i = 0; i < d->ndevices; i++) {
        q->all.devices = more(q->all.devices, q->all.ndevices, &q->cap_devices, sizeof *q->all.devices);
        q->all.devices[q->all.ndevices++] = d->devices[i];
    }
    for (uint32_t i = 0; i < d->nops; i++)
        keep_op(q, &d->ops[i], incarnation, tables, devices)->struck_out = d->ops[i].stamp <= d->skip;
}

static int by_row(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int c = cs_slice_cmp(x->table, y->table);

    return c != 0 ? c : cs_slice_cmp(x->op.key, y->op.key);
}

/* The operations of one row. Its tombstone goes, and with it what it had met. */
static void collect_row(struct entry *e, size_t n, int64_t through)
{
    int64_t dead = 0;

    for (size_t i = 0; i < n; i++)
        if (!e[i].struck_out && e[i].op.kind == CS_OP_DELETE && e[i].op.stamp > dead)
            dead = e[i].op.stamp;
    for (size_t i = 0; i < n && dead <= through; i++)
        e[i].struck_out = e[i].struck_out || e[i].op.stamp <= dead;
}

static void collect(struct reading *q)
{
    size_t from = 0;

    if (q->n == 0)
        return;
    qsort(q->entries, q->n, sizeof *q->entries, by_row);
    for (size_t i = 1; i <= q->n; i++)
        if (i == q->n || by_row(&q->entries[from], &q->entries[i]) != 0) {
            collect_row(q->entries + from, i - from, q->collected.through);
            from = i;
        }
}

/* Of a batch whose author had not seen the last collection, what that is about counts no more. */
static void keep_batch(struct reading *q, uint64_t number, const struct cs_batch_header *h, struct cs_delta *d)
{
    struct cs_collection now = { .through = d->collect.through, .log_id = h->seen_log, .number = number };
    bool late = q->collected.through > 0 && q->collected.log_id == h->seen_log && h->seen_number < q->collected.number;
    bool is = h->kind == CS_BATCH_COLLECTION && !late && now.through < h->top_stamp;
    struct cs_error err;

    if (late)
        d->skip = q->collected.through;
    if (h->kind == CS_BATCH_COLLECTION && !is)
        d->skip = INT64_MAX;
    if (is) {
        if (q->collected.through > now.through)
            now.through = q->collected.through;
        q->collected = now;
        must(q->r, cs_collection_place(d, &q->arena, &now, &err), &err, "a collection");
    }
    keep_delta(q, d, d->state ? 0 : h->incarnation);
    if (is) {
        q->r->collected++;
        collect(q);
    }
}

static const struct cs_epoch_keys *keys_of(const struct reading *q, uint32_t epoch)
{
    const struct cs_epoch_keys *keys = cs_keystore_epoch(q->by->engine->ks, epoch);

    if (keys == NULL)
        die(q->r, "%s has no key of epoch %" PRIu32, q->by->name, epoch);
    return keys;
}

/* What the log still has of before the snapshot that it begins with: a batch that is in there. */
static bool is_covered(struct reading *q, uint64_t number, const uint8_t hash[32], const uint8_t log_hash[32])
{
    if (q->head.pruned == 0 || number > q->snapshot.d.number)
        return false;
    if (number > q->head.pruned + 1)
        cs_log_next(q->log_hash, number, hash, q->log_hash);
    else
        memcpy(q->log_hash, log_hash, 32);
    if (memcmp(q->log_hash, log_hash, 32) != 0 ||
        (number == q->snapshot.d.number && memcmp(q->log_hash, q->snapshot.d.log_hash, 32) != 0))
        die(q->r, "number %" PRIu64 " of the log, which has a snapshot, has a wrong hash", number);
    return true;
}

static void read_batch(struct reading *q, sqlite3_stmt *s)
{
    uint64_t number = (uint64_t)sqlite3_column_int64(s, 0);
    struct cs_batch b = { 0 };
    struct cs_batch_header h;
    struct cs_delta d;
    enum cs_unpack_fault fault;
    struct cs_error err;
    uint8_t log_hash[32];
    sqlite3_stmt *chunks;

    copy_blob(q, s, 1, b.hash, 32);
    copy_blob(q, s, 2, log_hash, 32);
    if (is_covered(q, number, b.hash, log_hash))
        return;
    copy_blob(q, s, 3, b.header, sizeof b.header);
    copy_blob(q, s, 4, b.signature, sizeof b.signature);
    cs_buf_put_slice(&b.hashes, blob(s, 5));
    must(q->r, cs_batch_header_decode(&h, cs_slice(b.header, sizeof b.header), &err), &err, "a header in the log");
    check_batch(q, number, &b, &h, log_hash);
    chunks = query(q, "SELECT payload FROM chunk WHERE number = ?1 ORDER BY seq");
    sqlite3_bind_int64(chunks, 1, (sqlite3_int64)number);
    read_chunks(q, chunks, "the log's number", number, &b);
    must(q->r, cs_unpack(q->packer, &b, keys_of(q, h.epoch), &d, &fault, &err), &err, "a batch in the log");
    keep_batch(q, number, &h, &d);
    cs_batch_free(&b);
}

/* ---- the snapshot ---- */

static void read_proof(struct reading *q, struct cs_slice sealed, const struct cs_uuid *by, struct cs_state_proof *out)
{
    const struct cs_member *member = cs_membership_find(&q->members, by);
    const struct cs_descriptor *d = &q->snapshot.d;
    struct cs_error err;
    uint32_t epoch;

    if (member == NULL || !cs_state_proof_epoch(sealed, &epoch))
        die(q->r, "the hub has a statement about a state that is none");
    must(q->r, cs_state_proof_open(out, sealed, &q->workspace, by, member->sign_pk, keys_of(q, epoch), &err), &err,
         "a statement about a state");
    if (out->log_id != d->log_id || out->number != d->number || out->rows != d->rows ||
        memcmp(out->log_hash, d->log_hash, 32) != 0)
        die(q->r, "a statement about a snapshot is of another place");
}

static void check_attested(struct reading *q, struct cs_slice attester, struct cs_slice attestation)
{
    struct cs_state_proof theirs;
    struct cs_uuid by;

    memcpy(by.b, attester.data, sizeof by.b);
    if (cs_uuid_is_zero(&by)) {
        if (q->head.pruned > 0)
            die(q->r, "the log is pruned, and nobody has attested the snapshot");
        return;
    }
    read_proof(q, cs_attestation_proof(attestation), &by, &theirs);
    if (memcmp(theirs.root, q->snapshot.root, 32) != 0)
        die(q->r, "who attests the snapshot has another state");
    if (!cs_attestation_covers(attestation, cs_buf_slice(&q->snapshot.bytes),
                               cs_membership_find(&q->members, &by)->sign_pk))
        die(q->r, "who attests the snapshot has not signed what its author says of it");
}

/* The newest that is served. False: none, or one of a log that is no more. */
static bool find_snapshot(struct reading *q)
{
    struct snapshot *x = &q->snapshot;
    struct cs_state_proof own;
    struct cs_error err;
    const struct cs_member *author;
    sqlite3_stmt *s = query(q, "SELECT slot, descriptor, attester, attestation FROM snapshot WHERE state = ?1 AND "
                               "log_id = ?2 ORDER BY number DESC LIMIT 1");

    sqlite3_bind_int(s, 1, CS_SNAPSHOT_SERVED);
    sqlite3_bind_int64(s, 2, (sqlite3_int64)q->head.log_id);
    if (sqlite3_step(s) == SQLITE_ROW) {
        x->is = true;
        x->slot = sqlite3_column_int64(s, 0);
        cs_buf_put_slice(&x->bytes, blob(s, 1));
        must(q->r, cs_descriptor_read(&x->d, cs_buf_slice(&x->bytes), &err), &err, "a snapshot's description");
        if ((author = cs_membership_find(&q->members, &x->d.device)) == NULL ||
            !cs_descriptor_verify(cs_buf_slice(&x->bytes), author->sign_pk))
            die(q->r, "the hub's snapshot is not signed by a member");
        read_proof(q, cs_slice(x->d.proof, sizeof x->d.proof), &x->d.device, &own);
        memcpy(x->root, own.root, 32);
        check_attested(q, blob(s, 2), blob(s, 3));
    }
    sqlite3_finalize(s);
    return x->is;
}

/* *rows: the part's own bytes; *out: the same as operations. Both last until the next. */
static void open_part(struct reading *q, sqlite3_stmt *s, uint32_t part, struct cs_slice *rows, struct cs_delta *out,
                      uint8_t hash[32])
{
    enum { HASHES_AT = CS_BATCH_HEADER_LEN + CS_SIGNATURE_LEN };
    struct cs_slice envelope = blob(s, 0);
    struct cs_batch b = { 0 };
    struct cs_batch_header h;
    enum cs_unpack_fault fault;
    struct cs_error err;
    sqlite3_stmt *chunks;

    if (envelope.len < HASHES_AT)
        die(q->r, "part %" PRIu32 " of the snapshot has no header", part);
    memcpy(b.header, envelope.data, sizeof b.header);
    memcpy(b.signature, envelope.data + sizeof b.header, sizeof b.signature);
    cs_buf_put(&b.hashes, envelope.data + HASHES_AT, envelope.len - HASHES_AT);
    must(q->r, cs_batch_header_decode(&h, cs_slice(b.header, sizeof b.header), &err), &err, "a part's header");
    cs_batch_hash(cs_slice(b.header, sizeof b.header), cs_buf_slice(&b.hashes), hash);
    chunks = query(q, "SELECT payload FROM snapshot_part WHERE slot = ?1 AND part = ?2 ORDER BY seq");
    sqlite3_bind_int64(chunks, 1, q->snapshot.slot);
    sqlite3_bind_int64(chunks, 2, part);
    read_chunks(q, chunks, "the snapshot's part", part, &b);
    must(q->r, cs_unpack_state(q->packer, &b, keys_of(q, h.epoch), rows, out, &fault, &err), &err,
         "a part of the snapshot");
    cs_batch_free(&b);
}

/* Where the log has all of it, its operations do not count twice. */
static void read_parts(struct reading *q, bool keep_them)
{
    struct snapshot *x = &q->snapshot;
    sqlite3_stmt *s = query(q, "SELECT envelope FROM snapshot_part WHERE slot = ?1 AND seq = 0 ORDER BY part");
    struct cs_hasher root;
    struct cs_buf begin = { 0 };
    uint8_t digest[32], hash[32];
    uint32_t n = 0;

    cs_snapshot_digest_start(&q->workspace, &x->d.device, x->d.log_id, x->d.number, digest);
    cs_hasher_init_plain(&root);
    cs_buf_put_str(&begin, "claw-sync merged state 1\n");
    cs_hasher_update(&root, begin.data, begin.len);
    cs_buf_free(&begin);
    sqlite3_bind_int64(s, 1, x->slot);
    for (; sqlite3_step(s) == SQLITE_ROW; n++) {
        struct cs_slice rows;
        struct cs_delta d;

        open_part(q, s, n, &rows, &d, hash);
        cs_snapshot_digest_next(digest, n, hash);
        cs_hasher_update(&root, rows.data, rows.len);
        if (!keep_them)
            continue;
        keep_delta(q, &d, 0);
        cs_collection_in(&d, &q->collected);
    }
    sqlite3_finalize(s);
    cs_hasher_final(&root, hash, sizeof hash);
    if (n != x->d.parts || memcmp(digest, x->d.digest, 32) != 0)
        die(q->r, "the snapshot has other parts than its device signed");
    if (memcmp(hash, x->root, 32) != 0)
        die(q->r, "the snapshot is of another state than its device signed");
}

/* What is in the log no more. */
static void begin_with_snapshot(struct reading *q)
{
    const struct cs_descriptor *d = &q->snapshot.d;
    struct cs_snapshot_peer p;

    if (!q->snapshot.is || q->head.pruned >= d->number || d->number > q->head.number)
        die(q->r, "the log is pruned up to %" PRIu64 ", and no snapshot has that", q->head.pruned);
    for (uint32_t i = 0; i < d->npeers; i++) {
        struct chain *c;

        cs_snapshot_peer_at(d, i, &p);
        if (p.number <= CS_CHAIN_BASE(q->head.refilled))
            continue;
        c = chain_of(q, &p.device);
        c->number = p.number;
        memcpy(c->hash, p.hash, 32);
    }
}

static void read_head(struct reading *q)
{
    sqlite3_stmt *s = query(q, "SELECT log_id, refilled, number, log_hash, workspace, pruned FROM workspace");

    if (sqlite3_step(s) != SQLITE_ROW)
        die(q->r, "the hub has no workspace");
    q->head = (struct hub_head){ .log_id = (uint64_t)sqlite3_column_int64(s, 0),
                                 .refilled = (uint64_t)sqlite3_column_int64(s, 1),
                                 .number = (uint64_t)sqlite3_column_int64(s, 2),
                                 .pruned = (uint64_t)sqlite3_column_int64(s, 5) };
    copy_blob(q, s, 3, q->head.log_hash, 32);
    copy_blob(q, s, 4, q->workspace.b, 16);
    sqlite3_finalize(s);
}

static void check_snapshot(struct reading *q);

static void read_log(struct reading *q)
{
    sqlite3_stmt *s;
    uint64_t n;

    read_head(q);
    n = q->head.pruned;
    if (find_snapshot(q))
        read_parts(q, q->head.pruned > 0);
    if (q->head.pruned > 0)
        begin_with_snapshot(q);
    q->r->with_snapshot += q->snapshot.is;
    q->r->pruned += q->head.pruned > 0;
    cs_log_start(&q->workspace, q->head.log_id, q->head.refilled, q->log_hash);
    s = query(q, "SELECT number, hash, log_hash, header, signature, payload_hashes FROM log ORDER BY number");
    for (; sqlite3_step(s) == SQLITE_ROW; n++) {
        if ((uint64_t)sqlite3_column_int64(s, 0) != n + 1)
            die(q->r, "the hub's log has gaps");
        read_batch(q, s);
        if (n + 1 == q->snapshot.d.number)
            check_snapshot(q);
    }
    sqlite3_finalize(s);
    if (n != q->head.number || memcmp(q->head.log_hash, q->log_hash, 32) != 0)
        die(q->r, "the hub's head is not that of its log");
}

/* ---- the state that this makes ---- */

static int by_name(const void *a, const void *b)
{
    return cs_slice_cmp(((const struct model_cell *)a)->name, ((const struct model_cell *)b)->name);
}

static void put_frame(struct cs_buf *out, struct cs_slice s)
{
    cs_buf_put_u32(out, (uint32_t)s.len);
    cs_buf_put_slice(out, s);
}

static void put_version(struct cs_buf *out, struct cs_version v)
{
    cs_buf_put_u64(out, (uint64_t)v.stamp);
    cs_buf_put(out, v.device.b, 16);
}

/* The writes of one device come in the order of their stamps: where its write stands, it is its last one. */
static void check_last_write(struct reading *q, const struct model_row *row, const struct model_cell *cell)
{
    struct cs_value v;
    enum column column;
    unsigned at;
    int64_t n;

    if (!cs_value_decode(&v, cell->value))
        die(q->r, "the log has a value that is none");
    if ((n = write_of(q->r, cell->name, row->key, &v, &column, &at)) < 0)
        return;
    if (n == 0)
        die(q->r, "the log has a value of %.*s that nobody wrote", (int)cell->name.len, (const char *)cell->name.data);
    for (unsigned i = 0; i < q->r->ndevices; i++) {
        const struct device *d = &q->r->devices[i];
        struct cs_uuid id;

        if (!is_there(d) || d->copied || !cs_uuid_parse(&id, d->id) || cs_uuid_cmp(&id, &cell->v.device) != 0)
            continue;
        if (d->last[column][at] != n && (column != CONTENT || q->r->blurred[at] == 0))
            die(q->r, "%s's write %" PRIu32 " to %.*s of row %u is lost: its write %" PRId64 " stands there", d->name,
                d->last[column][at], (int)cell->name.len, (const char *)cell->name.data, at, n);
    }
}

static void put_row(struct reading *q, struct cs_buf *out, struct model_row *row)
{
    if (row->ins.stamp == 0 && row->del.stamp == 0 && row->ncells == 0)
        return;
    put_frame(out, row->table);
    put_frame(out, row->key);
    put_version(out, row->ins);
    put_version(out, row->del);
    cs_buf_put_u32(out, row->ncells);
    qsort(row->cells, row->ncells, sizeof *row->cells, by_name);
    for (uint32_t i = 0; i < row->ncells; i++) {
        put_frame(out, row->cells[i].name);
        put_version(out, row->cells[i].v);
        put_frame(out, row->cells[i].value);
        if (q->whole)
            check_last_write(q, row, &row->cells[i]);
    }
}

/* The model takes few rows at a time. */
static void put_rows(struct reading *q, struct cs_buf *out, size_t from, size_t to)
{
    static struct model m; /* large */
    struct cs_delta d = q->all;

    memset(&m, 0, sizeof m);
    if ((d.ops = malloc((to - from) * sizeof *d.ops)) == NULL)
        die(q->r, "out of memory");
    d.nops = 0;
    for (size_t i = from; i < to; i++)
        if (!q->entries[i].struck_out)
            d.ops[d.nops++] = q->entries[i].op;
    model_merge(&m, &d);
    for (uint32_t i = 0; i < m.n; i++)
        put_row(q, out, &m.rows[i]);
    cs_arena_free(&m.arena);
    free(d.ops);
}

static void make_state(struct reading *q, struct cs_buf *out)
{
    size_t from = 0, rows = 0;

    if (q->n > 0)
        qsort(q->entries, q->n, sizeof *q->entries, by_row);
    cs_buf_put_str(out, "claw-sync merged state 1\n");
    for (size_t i = 0; i < q->n; i++) {
        if (i > 0 && by_row(&q->entries[i - 1], &q->entries[i]) != 0 && ++rows == MODEL_ROWS) {
            put_rows(q, out, from, i);
            from = i;
            rows = 0;
        }
    }
    put_rows(q, out, from, q->n);
}

/* As long as the log has all that the snapshot has: is that what the model makes of it? */
static void check_snapshot(struct reading *q)
{
    struct cs_buf state = { 0 };
    uint8_t root[32];

    if (!q->snapshot.is || q->head.pruned > 0)
        return;
    make_state(q, &state);
    cs_hash_plain(cs_buf_slice(&state), root);
    cs_buf_free(&state);
    if (memcmp(root, q->snapshot.root, 32) != 0)
        die(q->r, "the snapshot of number %" PRIu64 " is of another state than the log makes up to there",
            q->snapshot.d.number);
}

/* ---- stamps ---- */

static int by_stamp(const void *a, const void *b)
{
    const struct entry *x = *(const struct entry *const *)a, *y = *(const struct entry *const *)b;

    return x->op.stamp != y->op.stamp ? (x->op.stamp > y->op.stamp) - (x->op.stamp < y->op.stamp) : by_row(x, y);
}

/* Its incarnations know nothing of each other at first: those of copies, and of a device that went back to a backup. */
static bool has_lives(const struct device *d)
{
    return d->copied || d->went_back;
}

static bool was_resealed(const struct device *d)
{
    return d->resealed;
}

/* Of the one with that id, or of one of its copies. */
static bool of_one(const struct run *r, const struct cs_uuid *device, bool (*is)(const struct device *d))
{
    struct cs_uuid id;

    for (unsigned i = 0; i < r->ndevices; i++)
        if (is(&r->devices[i]) && cs_uuid_parse(&id, r->devices[i].id) && cs_uuid_cmp(&id, device) == 0)
            return true;
    return false;
}

/* Are both of one clock? What one of a device's lives sends has an incarnation that no other had. */
static bool of_one_clock(const struct reading *q, const struct entry *a, const struct entry *b)
{
    const struct cs_uuid *device = &q->all.devices[a->op.device];

    return cs_uuid_cmp(device, &q->all.devices[b->op.device]) == 0 &&
           (!of_one(q->r, device, has_lives) || (a->incarnation != 0 && a->incarnation == b->incarnation));
}

/* Of those next to it, with the same stamp and row, another life sent one too: who gave the stamp is not known. */
static bool is_sent_again(const struct entry *const *all, size_t n, size_t at)
{
    const struct entry *e = all[at];

    for (size_t i = at; i > 0 && all[i - 1]->op.stamp == e->op.stamp && by_row(all[i - 1], e) == 0; i--)
        if (all[i - 1]->incarnation != e->incarnation)
            return true;
    for (size_t i = at + 1; i < n && all[i]->op.stamp == e->op.stamp && by_row(all[i], e) == 0; i++)
        if (all[i]->incarnation != e->incarnation)
            return true;
    return false;
}

/* No device gives one stamp to two rows. */
static void check_stamps(struct reading *q)
{
    const struct entry **sorted = malloc((q->n + 1) * sizeof(struct entry *));

    if (sorted == NULL)
        die(q->r, "out of memory");
    for (size_t i = 0; i < q->n; i++)
        sorted[i] = &q->entries[i];
    qsort(sorted, q->n, sizeof *sorted, by_stamp);
    for (size_t i = 1; i < q->n; i++) {
        const struct entry *a = sorted[i - 1], *b = sorted[i];

        if (a->op.stamp == b->op.stamp && by_row(a, b) != 0 && of_one_clock(q, a, b) &&
            !of_one(q->r, &q->all.devices[a->op.device], was_resealed) &&
            !(of_one(q->r, &q->all.devices[a->op.device], has_lives) &&
              (is_sent_again(sorted, q->n, i - 1) || is_sent_again(sorted, q->n, i))))
            die(q->r, "a device gave the stamp %" PRId64 " to two rows", a->op.stamp);
    }
    free(sorted);
}

/* A write that tells, as its device stamped it. */
struct stamped {
    int64_t write, stamp;
    const struct device *by;
    uint64_t life; /* incarnations that must have one order are one life */
    size_t at;     /* of all entries */
};

static int by_write(const void *a, const void *b)
{
    const struct stamped *x = a, *y = b;

    if (x->by != y->by)
        return (x->by > y->by) - (x->by < y->by);
    if (x->life != y->life)
        return (x->life > y->life) - (x->life < y->life);
    return x->write != y->write ? (x->write > y->write) - (x->write < y->write)
                                : (x->stamp > y->stamp) - (x->stamp < y->stamp);
}

static int by_stamped(const void *a, const void *b)
{
    const struct stamped *x = a, *y = b;

    if (x->write != y->write)
        return (x->write > y->write) - (x->write < y->write);
    return x->stamp != y->stamp ? (x->stamp > y->stamp) - (x->stamp < y->stamp) : (x->at > y->at) - (x->at < y->at);
}

/* Leaves out what another life sent before with the same stamp. Two copies may both seal an edit of before the copying;
 * the higher stamp counts for both, though one of them, whose clock is behind, never gave it. */
static uint32_t leave_out_known(struct stamped *all, uint32_t n)
{
    uint32_t kept = 0, first = 0;

    if (n > 0)
        qsort(all, n, sizeof *all, by_stamped);
    for (uint32_t i = 0; i < n; i++) {
        if (all[i].write != all[first].write || all[i].stamp != all[first].stamp)
            first = i;
        if (all[i].life == all[first].life)
            all[kept++] = all[i];
    }
    return kept;
}

/* Is this cell a write that its device stamped as it made it? Not in tables that came, or were paused, under way, which
 * are compared later; nor where something was written behind our back. */
static bool is_stamped(const struct reading *q, const struct entry *e, const struct cs_op_cell *cell,
                       struct stamped *out)
{
    struct cs_slice name = q->all.tables[e->op.table].columns[cell->col];
    struct cs_uuid id;
    enum column column;
    unsigned row;

    out->write = write_of(q->r, name, e->op.key, &cell->value, &column, &row);
    if (out->write <= 0 || (column != CONTENT && column != WEIGHT) || q->r->blurred[row] != 0)
        return false;
    out->stamp = e->op.stamp;
    out->by = writer_of(q->r, out->write);
    out->life = has_lives(out->by) ? e->incarnation : 0;
    if (has_lives(out->by) && (out->life == 0 || q->head.pruned > 0)) /* what it sends again may be of a life before */
        return false;
    return cs_uuid_parse(&id, out->by->id) && cs_uuid_cmp(&id, &q->all.devices[e->op.device]) == 0;
}

/* What a device wrote later has a later stamp: in each of its lives, where it has several. Edits of one row in one
 * millisecond may be sealed as one. */
static void check_order(struct reading *q)
{
    struct stamped *all = NULL;
    uint32_t n = 0, cap = 0;

    for (size_t i = 0; i < q->n; i++)
        for (uint32_t k = 0; k < q->entries[i].op.ncells; k++) {
            all = more(all, n, &cap, sizeof *all);
            all[n].at = i;
            n += is_stamped(q, &q->entries[i], &q->entries[i].op.cells[k], &all[n]);
        }
    n = leave_out_known(all, n);
    if (n > 0)
        qsort(all, n, sizeof *all, by_write);
    for (uint32_t i = 1; i < n; i++)
        if (all[i].by == all[i - 1].by && all[i].life == all[i - 1].life && all[i].write != all[i - 1].write &&
            all[i].at != all[i - 1].at && all[i].stamp <= all[i - 1].stamp)
            die(q->r, "%s gave its write %" PRId64 " the stamp %" PRId64 ", and write %" PRId64 " before it %" PRId64,
                all[i].by->name, all[i].write, all[i].stamp, all[i - 1].write, all[i - 1].stamp);
    free(all);
}

/* ---- the devices ---- */

/* Of a device whose data_dir is an older one, or a copy, the rows that its batches name need not be there. */
static void check_audit(struct reading *q, struct device *d, const struct cs_audit_anchor *newest)
{
    struct cs_audit_verdict v;
    struct cs_error err;
    size_t n = d->has_backup || d->copied || newest->sequence == 0 ? 0 : 1;

    must(q->r, cs_audit_verify(d->engine->audit, d->engine->keys->sign.pk, newest, n, 1, &v, &err), &err, "audit log");
    if (!v.ok)
        die(q->r, "%s's audit log is broken at row %" PRIu64 ": %s", d->name, v.first_broken_at, v.broken_reason);
}

/* What both have around the first byte that differs, as far as it can be read. */
__attribute__((noreturn)) static void tell_states(const struct device *d, struct cs_slice own, struct cs_slice log)
{
    enum { BEFORE = 120, SHOWN = 200 };
    const struct cs_slice both[2] = { own, log };
    char text[2][SHOWN + 1];
    size_t at = 0, from;

    while (at < own.len && at < log.len && own.data[at] == log.data[at])
        at++;
    from = at < BEFORE ? 0 : at - BEFORE;
    for (int i = 0; i < 2; i++) {
        size_t n = 0;

        for (; n < SHOWN && from + n < both[i].len; n++) {
            uint8_t c = both[i].data[from + n];

            text[i][n] = (char)(c >= 0x20 && c < 0x7f ? c : '.');
        }
        text[i][n] = '\0';
    }
    die(d->run, "%s has another state than the log makes, from byte %zu of it on:\n  %s\n  %s", d->name, at - from,
        text[0], text[1]);
}

static void check_device(struct reading *q, struct device *d, struct cs_slice state)
{
    struct cs_buf own = { 0 };
    struct cs_pull_mark mark;
    struct cs_error err;
    uint64_t number;
    uint8_t hash[32];
    struct cs_uuid id;

    must(q->r, cs_replica_dump(d->engine->replica, &own, &err), &err, "dump");
    if (!cs_slice_eq(cs_buf_slice(&own), state))
        tell_states(d, cs_buf_slice(&own), state);
    cs_buf_free(&own);
    cs_replica_pull_mark(d->engine->replica, &mark);
    /* no position is kept before the first batch */
    if (mark.number != q->head.number || (mark.number > 0 && memcmp(mark.log_hash, q->log_hash, 32) != 0))
        die(q->r, "%s has read another log, up to %" PRIu64 " of %" PRIu64, d->name, mark.number, q->head.number);
    cs_replica_chain(d->engine->replica, &number, hash);
    if (!cs_uuid_parse(&id, d->id))
        die(q->r, "%s has no id", d->name);
    check_audit(q, d, &chain_of(q, &id)->audit);
    if (number != chain_of(q, &id)->number || memcmp(hash, chain_of(q, &id)->hash, 32) != 0)
        die(q->r, "%s has %" PRIu64 " batches acknowledged, and the hub has %" PRIu64, d->name, number,
            chain_of(q, &id)->number);
}

void check_log(struct run *r)
{
    struct reading q = { .r = r, .by = &r->devices[0] };
    struct cs_buf state = { 0 };
    struct cs_error err;

    while (!is_there(q.by))
        q.by++;
    must(r, cs_packer_new(&q.packer, &q.by->engine->rng, &err), &err, "packer");
    q.db = look_into(r, r->hub.disk, HUB_DATABASE);
    read_members(r, q.db, &q.members);
    read_log(&q);
    close_look(r->hub.disk, q.db);
    q.whole = true;
    make_state(&q, &state);
    check_stamps(&q);
    check_order(&q);
    for (unsigned i = 0; i < r->ndevices; i++)
        if (is_there(&r->devices[i]))
            check_device(&q, &r->devices[i], cs_buf_slice(&state));
    cs_sim_note(r->sim, cs_buf_slice(&state));
    cs_buf_free(&state);
    cs_packer_free(q.packer);
    cs_membership_free(&q.members);
    cs_arena_free(&q.arena);
    cs_buf_free(&q.snapshot.bytes);
    free(q.entries);
    free(q.all.tables);
    free(q.all.devices);
}
