/* The logs are append-only, so a target that has a beginning of a workspace's log gets the rest, in transactions that
 * each leave a true, shorter log behind; then the parts of its snapshots, the same way. What is neither (places,
 * offers, the reference) is put as a whole at the end, together with the head. */
#include "hub/migrate.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/arena.h"
#include "crypto/batch_header.h"
#include "crypto/hash.h"
#include "crypto/head.h"
#include "crypto/snapshot.h"
#include "identity/membership.h"

enum { GROUP = 256, GROUP_BYTES = 8 << 20, BUCKETS = 1 << 16, BUCKETS_AT_ONCE = 1024, PASSES = 3 };
/* Marks; a store that was never part of a move has none. */
enum { MOVING_IN = 1, MOVED_AWAY = 2, MOVED_IN = 3 };

struct mover {
    const struct cs_store *from, *to;
    struct cs_uuid workspace;
    struct cs_membership members; /* of the workspace, folded over the source's entries */
    struct cs_store_batch batch[GROUP];
    size_t n;              /* of them */
    struct cs_arena arena; /* what they, and a list of anything, borrow */
    struct cs_buf payload; /* one batch's chunks, one after the other */
    struct cs_slice *chunks;
    size_t nchunks, chunks_cap;
    /* the source's snapshots, and the target's */
    struct cs_store_snapshot slots[CS_SNAPSHOT_SLOTS], there[CS_SNAPSHOT_SLOTS];
    cs_store_tx *out; /* where a visitor puts what it sees */
    struct cs_hasher *hash;
    struct cs_error *err;
    int rc; /* of a visitor */
    void (*told)(void *arg, const struct cs_migrated *so_far);
    void *arg;
    struct cs_migrated done;
};

static const struct cs_uuid mark_id;

static int name_workspace(const struct mover *m, int code, const char *what, struct cs_error *err)
{
    char id[CS_UUID_TEXT];

    cs_uuid_text(id, &m->workspace);
    return cs_fail(err, code, "workspace %s: %s", id, what);
}

/* ---- marks ---- */

static int mark_read(const struct cs_store *s, uint64_t *out, struct cs_error *err)
{
    struct cs_store_head head;
    cs_store_tx *tx;
    int rc = cs_store_begin(s, CS_STORE_READ, &mark_id, 1, &tx, err);

    *out = 0;
    if (rc != CS_OK)
        return rc;
    if ((rc = tx->ops->head(tx, &mark_id, &head, err)) == CS_OK)
        *out = head.log_id;
    cs_store_rollback(tx);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

static int mark_write(const struct cs_store *s, uint64_t mark, struct cs_error *err)
{
    struct cs_store_head head = { .log_id = mark };
    cs_store_tx *tx;
    int rc = cs_store_begin(s, CS_STORE_WRITE, &mark_id, 1, &tx, err);

    if (rc == CS_OK && (rc = tx->ops->put_head(tx, &mark_id, &head, err)) != CS_OK) {
        cs_store_rollback(tx);
        return rc;
    }
    return rc == CS_OK ? cs_store_commit(tx, err) : rc;
}

int cs_migrate_check(const struct cs_store *s, struct cs_error *err)
{
    uint64_t mark;
    int rc = mark_read(s, &mark, err);

    if (rc == CS_OK && mark == MOVING_IN)
        return cs_fail(err, CS_EABORTED,
                       "a move of data into this database has not ended; go on with "
                       "claw-sync-server migrate-store, or start on the one that it came from");
    if (rc == CS_OK && mark == MOVED_AWAY)
        return cs_fail(err, CS_EABORTED,
                       "the data of this database were moved to another one, which has what came "
                       "since; start on that, or move them back with claw-sync-server migrate-store");
    return rc;
}

/* ---- reading ---- */

static bool keep_batch(void *arg, const struct cs_store_batch *b)
{
    struct mover *m = arg;
    struct cs_store_batch *mine = &m->batch[m->n++];

    *mine = *b;
    mine->header = cs_arena_copy(&m->arena, b->header);
    mine->signature = cs_arena_copy(&m->arena, b->signature);
    mine->payload_hashes = cs_arena_copy(&m->arena, b->payload_hashes);
    mine->entity_type = cs_arena_copy(&m->arena, b->entity_type);
    return !m->arena.failed && m->n < GROUP;
}

static int group_read(struct mover *m, cs_store_tx *tx, uint64_t from, uint64_t to, struct cs_error *err)
{
    int rc;

    cs_arena_reset(&m->arena);
    m->n = 0;
    rc = tx->ops->batches(tx, &m->workspace, from, to, keep_batch, m, err);
    if (rc == CS_OK && m->arena.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; rc == CS_OK && i < m->n; i++)
        if (m->batch[i].number != from + i)
            rc = name_workspace(m, CS_ECORRUPT, "a number is missing in its log", err);
    if (rc == CS_OK && m->n == 0)
        rc = name_workspace(m, CS_ECORRUPT, "its log ends before its head", err);
    return rc;
}

static bool keep_chunk(void *arg, uint64_t number, uint32_t seq, struct cs_slice payload)
{
    struct mover *m = arg;

    (void)number;
    if (m->nchunks == m->chunks_cap) {
        size_t cap = m->chunks_cap == 0 ? 64 : m->chunks_cap * 2;
        struct cs_slice *more = realloc(m->chunks, cap * sizeof *more);

        if (more == NULL) {
            m->payload.failed = true;
            return false;
        }
        m->chunks = more;
        m->chunks_cap = cap;
    }
    if (seq != m->nchunks) {
        m->rc = name_workspace(m, CS_ECORRUPT, "a chunk is missing", m->err);
        return false;
    }
    m->chunks[m->nchunks++].len = payload.len;
    cs_buf_put(&m->payload, payload.data, payload.len);
    return !m->payload.failed;
}

/* The chunks of one batch, in m->chunks. */
static int chunks_read(struct mover *m, cs_store_tx *tx, uint64_t number, struct cs_error *err)
{
    size_t at = 0;
    int rc;

    m->payload.len = 0;
    m->nchunks = 0;
    m->rc = CS_OK;
    m->err = err;
    if ((rc = tx->ops->chunks(tx, &m->workspace, number, 0, number, UINT32_MAX, keep_chunk, m, err)) != CS_OK)
        return rc;
    if (m->payload.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; i < m->nchunks; i++) {
        m->chunks[i].data = m->payload.data + at;
        at += m->chunks[i].len;
    }
    return m->rc;
}

/* ---- the logs ---- */

static bool fold_entry(void *arg, uint32_t seq, struct cs_slice entry)
{
    struct mover *m = arg;

    (void)seq;
    m->rc = cs_membership_apply(&m->members, entry, 0, m->err);
    return m->rc == CS_OK;
}

static bool put_entry(void *arg, uint32_t seq, struct cs_slice entry)
{
    struct mover *m = arg;
    uint8_t hash[32];

    m->rc = cs_entry_hash(entry, hash) ? m->out->ops->put_entry(m->out, &m->workspace, seq, hash, entry, m->err)
                                       : name_workspace(m, CS_ECORRUPT, "a membership entry is too short", m->err);
    m->done.entries += m->rc == CS_OK;
    return m->rc == CS_OK;
}

/* All entries of the source up to its head, checked, and the new ones put. */
static int move_entries(struct mover *m, cs_store_tx *in, const struct cs_store_head *head, uint32_t have,
                        struct cs_error *err)
{
    int rc;

    m->rc = CS_OK;
    m->err = err;
    cs_membership_free(&m->members);
    m->members = (struct cs_membership){ .workspace = m->workspace };
    if ((rc = in->ops->entries(in, &m->workspace, 1, head->member_seq, fold_entry, m, err)) != CS_OK || m->rc != CS_OK)
        return rc != CS_OK ? rc : m->rc;
    if (m->members.seq != head->member_seq ||
        (head->member_seq > 0 && memcmp(m->members.head, head->entry_hash, 32) != 0))
        return name_workspace(m, CS_ECORRUPT, "its membership entries do not lead to its head", err);
    if (have == head->member_seq)
        return CS_OK;
    rc = in->ops->entries(in, &m->workspace, have + 1, head->member_seq, put_entry, m, err);
    return rc != CS_OK ? rc : m->rc;
}

/* Is the batch what its row says, and the log's next one (first: of a pruned log, behind which there is nothing)? A
 * source that rots is found out before it is left. */
static int check_batch(struct mover *m, const struct cs_store_batch *b, const uint8_t log_hash[32], bool first,
                       struct cs_error *err)
{
    uint8_t hash[32];

    if (b->payload_hashes.len != m->nchunks * 32)
        return name_workspace(m, CS_ECORRUPT, "chunks of a batch are missing", err);
    for (size_t i = 0; i < m->nchunks; i++) {
        cs_hash_plain(m->chunks[i], hash);
        if (memcmp(hash, b->payload_hashes.data + i * 32, 32) != 0)
            return name_workspace(m, CS_ECORRUPT, "a chunk is damaged", err);
    }
    cs_batch_hash(b->header, b->payload_hashes, hash);
    if (memcmp(hash, b->hash, 32) != 0)
        return name_workspace(m, CS_ECORRUPT, "a batch is damaged", err);
    cs_log_next(log_hash, b->number, b->hash, hash);
    return first || memcmp(hash, b->log_hash, 32) == 0 ? CS_OK
                                                       : name_workspace(m, CS_ECORRUPT, "its log is not a chain", err);
}

/* Puts batches behind `at` until a transaction's worth is there; at moves on. */
static int move_batches(struct mover *m, cs_store_tx *in, const struct cs_store_head *head, struct cs_store_head *at,
                        struct cs_error *err)
{
    size_t bytes = 0;
    int rc;

    if ((rc = group_read(m, in, at->number + 1, head->number, err)) != CS_OK)
        return rc;
    for (size_t i = 0; rc == CS_OK && i < m->n && bytes < GROUP_BYTES; i++) {
        const struct cs_store_batch *b = &m->batch[i];

        bool first = head->pruned > 0 && b->number == head->pruned + 1;

        if ((rc = chunks_read(m, in, b->number, err)) == CS_OK &&
            (rc = check_batch(m, b, at->log_hash, first, err)) == CS_OK)
            rc = m->out->ops->put_batch(m->out, &m->workspace, b, m->chunks, m->nchunks, err);
        bytes += m->payload.len;
        at->number = b->number;
        memcpy(at->log_hash, b->log_hash, 32);
        m->done.batches++;
        m->done.bytes += m->payload.len;
    }
    return rc;
}

/* ---- snapshots ---- */

/* Of a slot that counts for nothing, nothing is moved. */
static bool keep_snapshot(void *arg, const struct cs_store_snapshot *s)
{
    struct mover *m = arg;
    struct cs_store_snapshot *mine = &m->slots[s->slot];

    if (s->state == CS_SNAPSHOT_NONE)
        return true;
    *mine = *s;
    mine->descriptor = cs_arena_copy(&m->arena, s->descriptor);
    mine->attestation = cs_arena_copy(&m->arena, s->attestation);
    return !m->arena.failed;
}

static bool note_snapshot(void *arg, const struct cs_store_snapshot *s)
{
    struct mover *m = arg;

    m->there[s->slot] = *s;
    m->there[s->slot].descriptor = m->there[s->slot].attestation = CS_SLICE_NULL;
    return true;
}

static int snapshots_read(struct mover *m, cs_store_tx *in, struct cs_error *err)
{
    int rc;

    cs_arena_reset(&m->arena);
    for (unsigned slot = 0; slot < CS_SNAPSHOT_SLOTS; slot++)
        m->slots[slot] = m->there[slot] = (struct cs_store_snapshot){ .slot = slot };
    if ((rc = in->ops->snapshots(in, &m->workspace, keep_snapshot, m, err)) == CS_OK)
        rc = m->out->ops->snapshots(m->out, &m->workspace, note_snapshot, m, err);
    return rc == CS_OK && m->arena.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : rc;
}

/* On the way a slot says whose parts it has, how many, and the digest over them; that it counts comes with the rest. */
static bool is_on_the_way(const struct cs_store_snapshot *have, const struct cs_store_snapshot *s)
{
    return have->state == CS_SNAPSHOT_NONE && have->bytes > 0 && have->log_id == s->log_id &&
           have->number == s->number && have->changed_ms == s->changed_ms &&
           cs_uuid_cmp(&have->device, &s->device) == 0 && have->parts <= s->parts;
}

static bool is_there(const struct cs_store_snapshot *have, const struct cs_store_snapshot *s)
{
    return have->log_id == s->log_id && have->number == s->number && have->parts == s->parts &&
           cs_uuid_cmp(&have->device, &s->device) == 0 && memcmp(have->digest, s->digest, sizeof s->digest) == 0;
}

struct parts_of {
    struct mover *m;
    const struct cs_store_snapshot *all;
    struct cs_store_snapshot *there;
    size_t bytes; /* that this transaction has put */
    uint32_t seq; /* chunks of the part at hand that came */
    struct cs_buf envelope;
};

static bool bad_part(struct mover *m)
{
    m->rc = name_workspace(m, CS_ECORRUPT, "a part of its snapshot is damaged", m->err);
    return false;
}

static bool put_part(void *arg, const struct cs_store_part *p)
{
    enum { AT_HASHES = CS_BATCH_HEADER_LEN + CS_SIGNATURE_LEN };
    struct parts_of *of = arg;
    struct mover *m = of->m;
    struct cs_slice hashes;
    uint8_t hash[32];

    if (of->seq == 0 && of->bytes >= GROUP_BYTES)
        return false;
    if (of->seq == 0) {
        cs_buf_reset(&of->envelope);
        cs_buf_put_slice(&of->envelope, p->envelope);
    }
    if (of->envelope.failed)
        return false;
    if (p->part != of->there->parts || p->part >= of->all->parts || p->seq != of->seq ||
        of->envelope.len < AT_HASHES + 32 * ((size_t)of->seq + 1))
        return bad_part(m);
    hashes = cs_slice(of->envelope.data + AT_HASHES, of->envelope.len - AT_HASHES);
    cs_hash_plain(p->payload, hash);
    if (memcmp(hash, hashes.data + (size_t)of->seq * 32, 32) != 0)
        return bad_part(m);
    m->rc = m->out->ops->put_snapshot_part(m->out, &m->workspace, of->there->slot, p, m->err);
    of->bytes += p->payload.len;
    of->there->bytes += p->payload.len;
    m->done.bytes += p->payload.len;
    if (++of->seq == hashes.len / 32) {
        cs_batch_hash(cs_slice(of->envelope.data, CS_BATCH_HEADER_LEN), hashes, hash);
        cs_snapshot_digest_next(of->there->digest, of->there->parts++, hash);
        of->seq = 0;
    }
    return m->rc == CS_OK;
}

/* A transaction's worth of a slot's parts. */
static int move_parts(struct mover *m, cs_store_tx *in, const struct cs_store_snapshot *s, size_t *bytes, bool *all,
                      struct cs_error *err)
{
    struct cs_store_snapshot *there = &m->there[s->slot];
    struct parts_of of = { .m = m, .all = s, .there = there, .bytes = *bytes };
    int rc = CS_OK;

    if (is_there(there, s))
        return CS_OK;
    if (!is_on_the_way(there, s)) {
        *there = (struct cs_store_snapshot){
            .slot = s->slot, .log_id = s->log_id, .number = s->number, .device = s->device, .changed_ms = s->changed_ms
        };
        cs_snapshot_digest_start(&m->workspace, &s->device, s->log_id, s->number, there->digest);
        rc = m->out->ops->drop_snapshot_parts(m->out, &m->workspace, s->slot, 0, UINT32_MAX, err);
    }
    if (rc == CS_OK && s->state != CS_SNAPSHOT_NONE)
        rc = in->ops->snapshot_parts(in, &m->workspace, s->slot, there->parts, 0, put_part, &of, err);
    if (rc == CS_OK && of.envelope.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    rc = rc != CS_OK ? rc : m->rc;
    *all = there->parts == s->parts;
    if (rc == CS_OK && (of.seq > 0 || (!*all && of.bytes < GROUP_BYTES)))
        rc = name_workspace(m, CS_ECORRUPT, "parts of its snapshot are missing", err);
    if (rc == CS_OK && *all && s->parts > 0 && memcmp(there->digest, s->digest, sizeof s->digest) != 0)
        rc = name_workspace(m, CS_ECORRUPT, "the parts of its snapshot are not those that came", err);
    *bytes = of.bytes;
    cs_buf_free(&of.envelope);
    return rc != CS_OK ? rc : m->out->ops->put_snapshot(m->out, &m->workspace, there, err);
}

/* *all: the parts of both are there. */
static int move_snapshots(struct mover *m, cs_store_tx *in, bool *all, struct cs_error *err)
{
    size_t bytes = 0;
    int rc = snapshots_read(m, in, err);

    m->rc = CS_OK;
    m->err = err;
    *all = true;
    for (unsigned slot = 0; slot < CS_SNAPSHOT_SLOTS && rc == CS_OK && *all; slot++)
        rc = move_parts(m, in, &m->slots[slot], &bytes, all, err);
    return rc;
}

/* ---- the rest ---- */

static bool put_offer(void *arg, const struct cs_store_offer *o)
{
    struct mover *m = arg;

    m->rc = m->out->ops->put_offer(m->out, &m->workspace, o, m->err);
    return m->rc == CS_OK;
}

static bool put_bucket(void *arg, const struct cs_store_bucket *b)
{
    struct mover *m = arg;

    m->rc = m->out->ops->put_bucket(m->out, &m->workspace, b, m->err);
    return m->rc == CS_OK;
}

static bool put_proof(void *arg, const struct cs_store_proof *p)
{
    struct mover *m = arg;

    m->rc = m->out->ops->put_proof(m->out, &m->workspace, p, m->err);
    return m->rc == CS_OK;
}

struct wanted_of {
    struct mover *m;
    const struct cs_uuid *device;
};
static bool put_wanted(void *arg, uint32_t epoch, const uint8_t tag[16])
{
    struct wanted_of *w = arg;
    struct mover *m = w->m;

    m->rc = m->out->ops->put_wanted(m->out, &m->workspace, w->device, epoch, tag, m->err);
    return m->rc == CS_OK;
}

static int move_places(struct mover *m, cs_store_tx *in, struct cs_error *err)
{
    for (size_t i = 0; i < m->members.nmembers; i++) {
        struct wanted_of w = { m, &m->members.members[i].id };
        struct cs_store_device place;
        int rc = in->ops->device(in, &m->workspace, w.device, &place, err);

        if (rc == CS_OK)
            rc = m->out->ops->put_device(m->out, &m->workspace, w.device, &place, err);
        if ((rc != CS_OK && rc != CS_ENOTFOUND) ||
            (rc = m->out->ops->drop_wanted(m->out, &m->workspace, w.device, NULL, err)) != CS_OK ||
            (rc = in->ops->wanted(in, &m->workspace, w.device, put_wanted, &w, err)) != CS_OK || m->rc != CS_OK)
            return rc != CS_OK ? rc : m->rc;
    }
    return CS_OK;
}

static bool note_prefix(void *arg, const struct cs_store_bucket *b)
{
    cs_buf_put_u32(arg, b->prefix);
    return true;
}

/* The target's buckets, so that none stays that the source has not. */
static int drop_buckets(struct mover *m, struct cs_error *err)
{
    int rc;

    m->payload.len = 0;
    rc = m->out->ops->bucket_sums(m->out, &m->workspace, 0, BUCKETS - 1, note_prefix, &m->payload, err);
    if (rc == CS_OK && m->payload.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t at = 0; rc == CS_OK && at + 4 <= m->payload.len; at += 4) {
        struct cs_store_bucket none = { .prefix = cs_load_u32(m->payload.data + at) };

        rc = m->out->ops->put_bucket(m->out, &m->workspace, &none, err);
    }
    return rc;
}

static int move_rest(struct mover *m, cs_store_tx *in, const struct cs_store_head *head, struct cs_error *err)
{
    struct cs_store_reference reference;
    int rc;

    m->rc = CS_OK;
    m->err = err;
    if ((rc = m->out->ops->drop_offers(m->out, &m->workspace, INT64_MAX, err)) != CS_OK ||
        (rc = in->ops->offers(in, &m->workspace, put_offer, m, err)) != CS_OK || (rc = m->rc) != CS_OK ||
        (rc = move_places(m, in, err)) != CS_OK || (rc = drop_buckets(m, err)) != CS_OK)
        return rc;
    rc = in->ops->reference(in, &m->workspace, &reference, err);
    if (rc == CS_OK)
        rc = m->out->ops->put_reference(m->out, &m->workspace, &reference, err);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if ((rc = in->ops->bucket_leaves(in, &m->workspace, 0, BUCKETS - 1, put_bucket, m, err)) != CS_OK ||
        (rc = m->rc) != CS_OK || (rc = in->ops->proofs(in, &m->workspace, put_proof, m, err)) != CS_OK ||
        (rc = m->rc) != CS_OK)
        return rc;
    for (unsigned slot = 0; slot < CS_SNAPSHOT_SLOTS; slot++)
        if (m->slots[slot].state != CS_SNAPSHOT_NONE &&
            (rc = m->out->ops->put_snapshot(m->out, &m->workspace, &m->slots[slot], err)) != CS_OK)
            return rc;
    return m->out->ops->put_head(m->out, &m->workspace, head, err);
}

/* ---- one workspace ---- */

/* Where the target stands, and whether the source goes on from there: *at is zero when it starts from nothing, *empty
 * when its log, which is an older one, has to go first. */
static int find_place(struct mover *m, cs_store_tx *in, const struct cs_store_head *head, struct cs_store_head *at,
                      bool *empty, struct cs_error *err)
{
    static const char other[] = "the target has what the source has not; nothing of it is changed";
    uint8_t hash[32];
    int rc = m->out->ops->head(m->out, &m->workspace, at, err);

    *empty = false;
    if (rc != CS_OK) {
        *at = (struct cs_store_head){ 0 };
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    }
    if (at->member_seq > head->member_seq)
        return name_workspace(m, CS_EEXIST, other, err);
    if (at->member_seq > 0) {
        if ((rc = in->ops->entry_hash(in, &m->workspace, at->member_seq, hash, err)) != CS_OK)
            return rc;
        if (memcmp(hash, at->entry_hash, 32) != 0)
            return name_workspace(m, CS_EEXIST, other, err);
    }
    if (at->log_id != head->log_id) {
        if (at->refilled >= head->refilled)
            return name_workspace(m, CS_EEXIST, other, err);
        *empty = true;
        return CS_OK;
    }
    if (at->number > head->number)
        return name_workspace(m, CS_EEXIST, other, err);
    if (at->number == 0)
        return CS_OK;
    if (at->number <= head->pruned ||
        at->pruned > head->pruned) { /* it ends where the source begins, or begins later */
        *empty = true;
        return CS_OK;
    }
    if ((rc = in->ops->log_hash(in, &m->workspace, at->number, hash, err)) != CS_OK)
        return rc;
    return memcmp(hash, at->log_hash, 32) == 0 ? CS_OK : name_workspace(m, CS_EEXIST, other, err);
}

/* One transaction's worth. *all: the workspace is complete. */
static int move_some(struct mover *m, cs_store_tx *in, const struct cs_store_head *head, bool *all,
                     struct cs_error *err)
{
    struct cs_store_head at, next = *head;
    uint64_t gone;
    bool empty;
    int rc;

    if ((rc = find_place(m, in, head, &at, &empty, err)) != CS_OK)
        return rc;
    if (empty && (rc = m->out->ops->drop_log(m->out, &m->workspace, err)) != CS_OK)
        return rc;
    next.number = empty ? 0 : at.number;
    memcpy(next.log_hash, at.log_hash, 32);
    if (next.number < head->pruned) /* there is nothing before */
        next.number = head->pruned;
    else if (next.number > 0 && at.pruned < head->pruned &&
             (rc = m->out->ops->prune_log(m->out, &m->workspace, at.pruned + 1, head->pruned, &gone, err)) != CS_OK)
        return rc;
    if (next.number == 0)
        cs_log_start(&m->workspace, head->log_id, head->refilled, next.log_hash);
    if ((rc = move_entries(m, in, head, at.member_seq, err)) != CS_OK)
        return rc;
    if (next.number < head->number && (rc = move_batches(m, in, head, &next, err)) != CS_OK)
        return rc;
    *all = next.number == head->number;
    if (*all && memcmp(next.log_hash, head->log_hash, 32) != 0)
        return name_workspace(m, CS_ECORRUPT, "its log does not lead to its head", err);
    if (*all && (rc = move_snapshots(m, in, all, err)) != CS_OK)
        return rc;
    if (!*all)
        return m->out->ops->put_head(m->out, &m->workspace, &next, err);
    return move_rest(m, in, head, err);
}

static int move_workspace(struct mover *m, struct cs_error *err)
{
    struct cs_store_head head;
    bool all = false;
    cs_store_tx *in;
    int rc = CS_OK;

    while (rc == CS_OK && !all) {
        if ((rc = cs_store_begin(m->from, CS_STORE_READ, &m->workspace, 1, &in, err)) != CS_OK)
            return rc;
        if ((rc = in->ops->head(in, &m->workspace, &head, err)) == CS_OK)
            rc = cs_store_begin(m->to, CS_STORE_WRITE, &m->workspace, 1, &m->out, err);
        if (rc == CS_OK) {
            if ((rc = move_some(m, in, &head, &all, err)) == CS_OK)
                rc = cs_store_commit(m->out, err);
            else
                cs_store_rollback(m->out);
        }
        cs_store_rollback(in);
        if (rc == CS_OK && m->told != NULL)
            m->told(m->arg, &m->done);
    }
    return rc;
}

/* ---- reading again ---- */

static void hash_u64(struct mover *m, uint64_t v)
{
    uint8_t b[8];

    cs_store_u64(b, v);
    cs_hasher_update(m->hash, b, sizeof b);
}
static void hash_slice(struct mover *m, struct cs_slice s)
{
    hash_u64(m, s.len);
    cs_hasher_update(m->hash, s.data, s.len);
}
static void hash_id(struct mover *m, const struct cs_uuid *id)
{
    cs_hasher_update(m->hash, id->b, sizeof id->b);
}

static bool hash_entry(void *arg, uint32_t seq, struct cs_slice entry)
{
    hash_u64(arg, seq);
    hash_slice(arg, entry);
    return true;
}

static bool hash_offer(void *arg, const struct cs_store_offer *o)
{
    hash_id(arg, &o->device);
    hash_u64(arg, (uint64_t)o->made_ms);
    hash_slice(arg, o->offer);
    hash_slice(arg, o->answer);
    hash_slice(arg, o->reveal);
    hash_slice(arg, o->done);
    return true;
}

static bool hash_bucket(void *arg, const struct cs_store_bucket *b)
{
    hash_u64(arg, b->prefix);
    hash_u64(arg, b->rows);
    hash_slice(arg, cs_slice(b->sum, sizeof b->sum));
    hash_slice(arg, b->leaves);
    return true;
}

static bool hash_wanted(void *arg, uint32_t epoch, const uint8_t tag[16])
{
    hash_u64(arg, epoch);
    hash_slice(arg, cs_slice(tag, 16));
    return true;
}

static bool hash_proof(void *arg, const struct cs_store_proof *p)
{
    hash_id(arg, &p->device);
    hash_u64(arg, p->log_id);
    hash_u64(arg, p->number);
    hash_u64(arg, p->given);
    hash_slice(arg, p->proof);
    return true;
}

static void hash_head(struct mover *m, const struct cs_store_head *h)
{
    hash_u64(m, h->log_id);
    hash_u64(m, h->refilled);
    hash_u64(m, h->number);
    hash_slice(m, cs_slice(h->log_hash, sizeof h->log_hash));
    hash_u64(m, (uint64_t)h->top_stamp);
    hash_u64(m, h->member_seq);
    hash_u64(m, h->epoch);
    hash_slice(m, cs_slice(h->entry_hash, sizeof h->entry_hash));
    hash_u64(m, h->bytes);
    hash_u64(m, h->pruned);
    hash_u64(m, h->prune_to);
    hash_u64(m, (uint64_t)h->prune_ms);
}

static bool hash_snapshot(void *arg, const struct cs_store_snapshot *s)
{
    struct mover *m = arg;

    if (s->state == CS_SNAPSHOT_NONE)
        return true;
    m->slots[s->slot].state = s->state;
    hash_u64(arg, s->slot);
    hash_u64(arg, s->state);
    hash_u64(arg, s->log_id);
    hash_u64(arg, s->number);
    hash_id(arg, &s->device);
    hash_u64(arg, s->parts);
    hash_slice(arg, cs_slice(s->digest, sizeof s->digest));
    hash_u64(arg, s->bytes);
    hash_u64(arg, (uint64_t)s->changed_ms);
    hash_id(arg, &s->attester);
    hash_slice(arg, s->descriptor);
    hash_slice(arg, s->attestation);
    return true;
}

static bool hash_part(void *arg, const struct cs_store_part *p)
{
    hash_u64(arg, p->part);
    hash_u64(arg, p->seq);
    hash_slice(arg, p->envelope);
    hash_slice(arg, p->payload);
    return true;
}

static int hash_snapshots(struct mover *m, cs_store_tx *tx, struct cs_error *err)
{
    int rc;

    for (unsigned slot = 0; slot < CS_SNAPSHOT_SLOTS; slot++)
        m->slots[slot] = (struct cs_store_snapshot){ 0 };
    rc = tx->ops->snapshots(tx, &m->workspace, hash_snapshot, m, err);
    for (unsigned slot = 0; slot < CS_SNAPSHOT_SLOTS && rc == CS_OK; slot++)
        if (m->slots[slot].state != CS_SNAPSHOT_NONE)
            rc = tx->ops->snapshot_parts(tx, &m->workspace, slot, 0, 0, hash_part, m, err);
    return rc;
}

static int hash_log(struct mover *m, cs_store_tx *tx, uint64_t after, uint64_t to, struct cs_error *err)
{
    int rc = CS_OK;

    for (uint64_t from = after + 1; rc == CS_OK && from <= to; from += m->n) {
        if ((rc = group_read(m, tx, from, to, err)) != CS_OK)
            return rc;
        for (size_t i = 0; rc == CS_OK && i < m->n; i++) {
            const struct cs_store_batch *b = &m->batch[i];

            hash_id(m, &b->device);
            hash_u64(m, b->device_number);
            hash_slice(m, cs_slice(b->hash, sizeof b->hash));
            hash_slice(m, cs_slice(b->log_hash, sizeof b->log_hash));
            hash_slice(m, b->header);
            hash_slice(m, b->signature);
            hash_slice(m, b->payload_hashes);
            hash_slice(m, b->entity_type);
            rc = chunks_read(m, tx, b->number, err);
            for (size_t k = 0; rc == CS_OK && k < m->nchunks; k++)
                hash_slice(m, m->chunks[k]);
        }
    }
    return rc;
}

static int hash_places(struct mover *m, cs_store_tx *tx, struct cs_error *err)
{
    int rc = CS_OK;

    for (size_t i = 0; rc == CS_OK && i < m->members.nmembers; i++) {
        const struct cs_uuid *id = &m->members.members[i].id;
        struct cs_store_device place = { 0 };

        rc = tx->ops->device(tx, &m->workspace, id, &place, err);
        hash_u64(m, rc == CS_OK);
        if (rc == CS_OK) {
            hash_u64(m, place.number);
            hash_slice(m, cs_slice(place.hash, sizeof place.hash));
            hash_u64(m, place.member_seq);
            hash_u64(m, (uint64_t)place.seen_ms);
            hash_u64(m, place.pulled);
        }
        if (rc == CS_OK || rc == CS_ENOTFOUND)
            rc = tx->ops->wanted(tx, &m->workspace, id, hash_wanted, m, err);
    }
    return rc;
}

static int hash_reference(struct mover *m, cs_store_tx *tx, struct cs_error *err)
{
    struct cs_store_reference r = { 0 };
    int rc = tx->ops->reference(tx, &m->workspace, &r, err);

    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    hash_u64(m, r.log_id);
    hash_u64(m, r.number);
    hash_u64(m, r.epoch);
    hash_id(m, &r.device);
    hash_u64(m, r.whole);
    hash_u64(m, r.only_prove);
    hash_u64(m, (uint64_t)r.changed_ms);
    hash_u64(m, r.rows);
    hash_u64(m, r.given);
    return tx->ops->bucket_leaves(tx, &m->workspace, 0, BUCKETS - 1, hash_bucket, m, err);
}

/* All that a store has of the workspace, as one hash. */
static int digest(struct mover *m, const struct cs_store *s, uint8_t out[32], struct cs_error *err)
{
    struct cs_hasher hash;
    struct cs_store_head head;
    cs_store_tx *tx;
    int rc = cs_store_begin(s, CS_STORE_READ, &m->workspace, 1, &tx, err);

    if (rc != CS_OK)
        return rc;
    cs_hasher_init_plain(&hash);
    m->hash = &hash;
    if ((rc = tx->ops->head(tx, &m->workspace, &head, err)) == CS_OK) {
        hash_head(m, &head);
        if ((rc = tx->ops->entries(tx, &m->workspace, 1, head.member_seq, hash_entry, m, err)) == CS_OK &&
            (rc = hash_log(m, tx, head.pruned, head.number, err)) == CS_OK && (rc = hash_places(m, tx, err)) == CS_OK &&
            (rc = tx->ops->offers(tx, &m->workspace, hash_offer, m, err)) == CS_OK &&
            (rc = hash_reference(m, tx, err)) == CS_OK && (rc = hash_snapshots(m, tx, err)) == CS_OK)
            rc = tx->ops->proofs(tx, &m->workspace, hash_proof, m, err);
    }
    cs_store_rollback(tx);
    m->hash = NULL;
    if (rc == CS_OK)
        cs_hasher_final(&hash, out, 32);
    return rc;
}

/* Moves the workspace until both sides have the same: once, unless a hub writes to one of them. */
static int move_and_compare(struct mover *m, struct cs_error *err)
{
    uint8_t here[32], there[32];
    int rc;

    for (int pass = 0; pass < PASSES; pass++) {
        if ((rc = move_workspace(m, err)) != CS_OK || (rc = digest(m, m->from, here, err)) != CS_OK ||
            (rc = digest(m, m->to, there, err)) != CS_OK)
            return rc;
        if (memcmp(here, there, 32) == 0)
            return CS_OK;
    }
    return name_workspace(m, CS_EBUSY, "it is not the same on both sides after it was moved; is a hub still at work?",
                          err);
}

/* ---- all of them ---- */

struct page {
    struct cs_uuid ids[GROUP];
    struct cs_store_head heads[GROUP];
    size_t n;
};
static bool note_workspace(void *arg, const struct cs_uuid *ws, const struct cs_store_head *h)
{
    struct page *p = arg;

    p->ids[p->n] = *ws;
    p->heads[p->n++] = *h;
    return p->n < GROUP;
}

static int page_read(const struct cs_store *s, const struct cs_uuid *after, struct page *out, struct cs_error *err)
{
    cs_store_tx *tx;
    int rc = cs_store_begin(s, CS_STORE_READ, NULL, 0, &tx, err);

    out->n = 0;
    if (rc != CS_OK)
        return rc;
    rc = tx->ops->workspaces(tx, after, note_workspace, out, err);
    cs_store_rollback(tx);
    return rc;
}

static int move_all(struct mover *m, struct cs_error *err)
{
    struct page page = { .n = GROUP };
    struct cs_uuid after = { 0 };
    int rc = CS_OK;

    while (rc == CS_OK && page.n == GROUP) {
        rc = page_read(m->from, &after, &page, err);
        for (size_t i = 0; rc == CS_OK && i < page.n; i++) {
            after = m->workspace = page.ids[i];
            rc = move_and_compare(m, err);
            m->done.workspaces++;
        }
    }
    return rc;
}

/* A hub that was at work on the source all the while has moved heads that were copied before. */
static int stands_still(struct mover *m, struct cs_error *err)
{
    struct page here = { .n = GROUP }, there;
    struct cs_uuid after = { 0 };
    int rc = CS_OK;

    while (rc == CS_OK && here.n == GROUP) {
        if ((rc = page_read(m->from, &after, &here, err)) != CS_OK ||
            (rc = page_read(m->to, &after, &there, err)) != CS_OK)
            return rc;
        for (size_t i = 0; i < here.n; i++) {
            const struct cs_store_head *a = &here.heads[i], *b = &there.heads[i];

            after = m->workspace = here.ids[i];
            if (there.n != here.n || cs_uuid_cmp(&here.ids[i], &there.ids[i]) != 0 || a->log_id != b->log_id ||
                a->number != b->number || a->member_seq != b->member_seq)
                return name_workspace(m, CS_EBUSY, "it went on while it was moved: stop the hubs on both databases",
                                      err);
        }
    }
    return rc;
}

/* A target that lives, or that was never a part of a move and has something, is not to be written over. */
static int may_take(const struct mover *m, uint64_t mark, struct cs_error *err)
{
    static const struct cs_uuid zero;
    struct page page;
    int rc;

    if (mark == MOVING_IN || mark == MOVED_AWAY || (rc = page_read(m->to, &zero, &page, err)) != CS_OK)
        return mark == MOVING_IN || mark == MOVED_AWAY ? CS_OK : rc;
    return page.n == 0 ? CS_OK
                       : cs_fail(err, CS_EEXIST,
                                 "the target has workspaces of its own; a move needs an empty database, "
                                 "or one that the data were moved away from before");
}

int cs_migrate(const struct cs_store *from, const struct cs_store *to,
               void (*told)(void *arg, const struct cs_migrated *so_far), void *arg, struct cs_migrated *out,
               struct cs_error *err)
{
    struct mover *m = calloc(1, sizeof *m);
    uint64_t source, target;
    int rc;

    *out = (struct cs_migrated){ 0 };
    if (m == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    *m = (struct mover){ .from = from, .to = to, .told = told, .arg = arg };
    if ((rc = mark_read(from, &source, err)) == CS_OK && (rc = mark_read(to, &target, err)) == CS_OK) {
        if (source == MOVING_IN)
            rc = cs_fail(err, CS_EABORTED, "a move into the source has not ended; end that one first");
        else if (source == MOVED_AWAY && target != MOVING_IN)
            rc = cs_fail(err, CS_EABORTED, "the source was moved to another database, which has what came since");
        else if ((rc = may_take(m, target, err)) == CS_OK && (rc = mark_write(to, MOVING_IN, err)) == CS_OK &&
                 (rc = move_all(m, err)) == CS_OK && (rc = stands_still(m, err)) == CS_OK &&
                 (rc = mark_write(from, MOVED_AWAY, err)) == CS_OK)
            rc = mark_write(to, MOVED_IN, err);
    }
    *out = m->done;
    cs_membership_free(&m->members);
    cs_arena_free(&m->arena);
    cs_buf_free(&m->payload);
    free(m->chunks);
    free(m);
    return rc;
}
