/* Giving a snapshot of this device's merged state, and attesting another's. A job at a time looks at the hub's answer
 * and says what is next; the loop does that.
 *
 *   look ──┬─▶ another's of this very number: read the root ──▶ it is whole: attest ──▶ look ──▶ end
 *          ├─▶ the log is long, or a person asked: begin ──▶ read all ──▶ put … ──▶ end ──▶ look ──▶ end
 *          │                                                     └─▶ values are gone here: prove ──▶ look
 *          └─▶ neither: end
 *
 * The hub tells of a snapshot when it is begun: who stands at its number then reads its own state, and can attest what
 * has come when it is there, wherever the log is by then. So it is begun before it is read, which may take long, and
 * whoever is told looks before fetching anything. */
#include <inttypes.h>
#include <stdlib.h>

#include "crdt/dump.h"
#include "engine/engine.h"
#include "engine/parts.h"
#include "replica/merged.h"

#define ACTION(name) CLAWSYNC__V1__SNAPSHOT_ACTION__SNAPSHOT_ACTION_##name

enum { PART_BYTES = 1024 * 1024, SYNCS_MAX = 6, WAIT_MS = 3000 };
enum phase { PHASE_PEEK, PHASE_LOOK, PHASE_BEGIN, PHASE_PUT, PHASE_END, PHASE_ATTESTED, PHASE_WAIT };
static void forget(struct clawsync_engine *e)
{
    struct cs_compact_step *s = &e->compact;

    cs_parts_free(s->parts);
    s->parts = NULL;
    cs_buf_free(&s->descriptor);
}

void cs_compact_step_free(struct clawsync_engine *e)
{
    struct cs_compact_step *s = &e->compact;

    cs_turns_free(&s->turns);
    cs_buf_free(&s->said_peers);
    forget(e);
}

static void put_off(struct clawsync_engine *e)
{
    struct cs_compact_step *s = &e->compact;
    uint64_t later = e->head.number + e->config.compact_after / 8 + 1;

    if (s->again_log != e->head.log_id || s->again_at < later)
        s->again_at = later;
    s->again_log = e->head.log_id;
}

/* What keeps this device from giving or attesting one is no reason to stop replicating; it is told once. */
static bool is_left_for_later(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;

    if (!s->by_daemon || rc == CS_OK || rc == CS_ECANCELED || rc == CS_EUNAVAILABLE || rc == CS_ETIMEDOUT ||
        rc == CS_EHUB)
        return false;
    put_off(e);
    if (!s->warned)
        cs_emit_error(e, CLAWSYNC_EVENT_WARNING, "", err);
    s->warned = true;
    return true;
}

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    struct cs_error none = { 0 };

    if (is_left_for_later(e, rc, err)) {
        rc = CS_OK;
        err = &none;
    } else if (rc == CS_OK) {
        s->warned = false;
    }

    e->collect_through = 0;
    cs_turns_end(&s->turns);
    if (s->result_to != NULL)
        *s->result_to = s->result;
    s->result_to = NULL;
    forget(e);
    s->done(e, rc, err);
}

static enum cs_turn request(struct clawsync_engine *e, Clawsync__V1__SnapshotAction action, enum phase phase)
{
    struct cs_compact_step *s = &e->compact;

    clawsync__v1__snapshot_request__init(&s->request);
    s->request.workspace_id = e->workspace_text;
    s->request.device_id = e->device_text;
    s->request.action = action;
    s->request.log_id = s->place_log;
    s->request.log_number = s->place;
    s->phase = (int)phase;
    s->turns.request = &s->request.base;
    return CS_TURN_CALL;
}

/* ---- reading our own ---- */

struct reading {
    struct clawsync_engine *e;
    const struct cs_merged_info *info;
    bool keep;          /* parts, and not the root alone */
    struct cs_buf rows; /* of the part at hand */
    uint32_t nrows;     /* in it */
    uint64_t all;
    struct cs_hasher root;
    uint8_t digest[32];
    struct cs_batch batch;
    struct cs_buf stored;
};

static void fill_header(struct clawsync_engine *e, const struct cs_pull_mark *mark, struct cs_batch_header *h)
{
    *h = (struct cs_batch_header){ .codec = CS_CODEC_ZSTD,
                                   .padding =
                                       strcmp(e->config.padding, "none") == 0 ? CS_PADDING_NONE : CS_PADDING_PADME,
                                   .workspace = e->workspace,
                                   .device = e->device,
                                   .incarnation = e->incarnation,
                                   .epoch = e->members.epoch,
                                   .member_seq = e->members.seq,
                                   .seen_log = mark->log_id,
                                   .seen_number = mark->number };
    cs_replica_chain(e->replica, &h->number, h->prev);
    cs_seen_digest(&e->workspace, mark->log_id, mark->number, mark->log_hash, h->member_seq, e->members.head, h->seen);
    cs_record_head(e, h);
}

static int end_part(struct reading *r, struct cs_error *err)
{
    struct clawsync_engine *e = r->e;
    struct cs_compact_step *s = &e->compact;
    const struct cs_epoch_keys *keys = cs_keystore_epoch(e->ks, e->members.epoch);
    struct cs_batch_header h;
    int rc;

    if (r->nrows == 0)
        return CS_OK;
    if (keys == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    fill_header(e, &r->info->mark, &h);
    if ((rc = cs_pack_state(e->packer, cs_buf_slice(&r->rows), r->nrows, &h, keys, &e->keys->sign,
                            e->config.max_chunk_bytes, &r->batch, err)) != CS_OK)
        return rc;
    cs_snapshot_digest_next(r->digest, cs_parts_count(s->parts), r->batch.hash);
    cs_buf_reset(&r->stored);
    cs_batch_encode(&r->stored, &r->batch);
    if (r->stored.failed)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    s->result.bytes += r->batch.sealed.len;
    cs_buf_reset(&r->rows);
    r->nrows = 0;
    return cs_parts_add(s->parts, cs_buf_slice(&r->stored), err);
}

/* Is the first row of that table? */
static bool is_of(const struct cs_buf *rows, struct cs_slice table)
{
    return cs_slice_eq(cs_slice(rows->data + 4, cs_load_u32(rows->data)), table);
}

/* A part ends with its table, so that whoever merges it meets one at a time. */
static int add_row(void *arg, struct cs_slice table, struct cs_slice key, struct cs_slice row, struct cs_error *err)
{
    struct reading *r = arg;
    int rc = CS_OK;

    (void)key;
    cs_hasher_update(&r->root, row.data, row.len);
    r->all++;
    if (!r->keep)
        return CS_OK;
    if (r->rows.len > 0 && (r->rows.len + row.len > PART_BYTES || !is_of(&r->rows, table)))
        rc = end_part(r, err);
    cs_buf_put_slice(&r->rows, row);
    r->nrows++;
    return rc == CS_OK && r->rows.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : rc;
}

/* What the hub acknowledged and the pull has not passed yet is in the state, and not in the log up to here. */
static int is_ahead(struct clawsync_engine *e, bool *out, struct cs_error *err)
{
    struct cs_peer own = { 0 };
    uint64_t chain;
    uint8_t hash[32];
    int rc = cs_peer_at(e, &e->device, &own, err);

    cs_replica_chain(e->replica, &chain, hash);
    *out = rc == CS_OK && chain > own.number;
    return rc;
}

static int put_peers(struct clawsync_engine *e, struct cs_buf *out, struct cs_error *err)
{
    struct cs_known_peer *peer = NULL;
    size_t n = 0;
    int rc = cs_replica_peers(e->replica, &e->compact.turns.arena, &peer, &n, err);

    cs_buf_reset(out);
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        struct cs_snapshot_peer p = { .device = peer[i].device };
        uint8_t bytes[CS_SNAPSHOT_PEER_LEN];
        struct cs_peer known;

        if ((rc = cs_replica_peer(e->replica, &p.device, &known, err)) != CS_OK)
            return rc;
        p.number = known.number;
        p.member_seq = known.member_seq;
        memcpy(p.hash, known.hash, 32);
        cs_snapshot_peer_encode(&p, bytes);
        cs_buf_put(out, bytes, sizeof bytes);
    }
    return rc == CS_OK && out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : rc;
}

static int describe(struct clawsync_engine *e, const struct reading *r, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    const struct cs_pull_mark *mark = &r->info->mark;
    struct cs_descriptor d = { .workspace = e->workspace,
                               .device = e->device,
                               .log_id = mark->log_id,
                               .number = mark->number,
                               .top_stamp = mark->top_stamp,
                               .member_seq = e->members.seq,
                               .highest_epoch = mark->highest_epoch,
                               .parts = cs_parts_count(s->parts),
                               .rows = r->all,
                               .peers = cs_buf_slice(&s->said_peers),
                               .npeers = (uint32_t)(s->said_peers.len / CS_SNAPSHOT_PEER_LEN) };
    int rc = CS_OK;

    memcpy(d.log_hash, mark->log_hash, 32);
    memcpy(d.entry_hash, e->members.head, 32);
    memcpy(d.digest, r->digest, 32);
    memcpy(d.proof, s->said_proof, sizeof d.proof);
    cs_buf_reset(&s->descriptor);
    cs_descriptor_seal(&s->descriptor, &d, &e->keys->sign);
    if (s->descriptor.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK && s->descriptor.len > CS_DESCRIPTOR_MAX)
        rc = cs_fail(err, CS_ELIMIT, "too many devices for a snapshot");
    return rc;
}

static int say(struct clawsync_engine *e, const struct reading *r, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    const struct cs_epoch_keys *keys = cs_keystore_epoch(e->ks, e->members.epoch);
    int rc;

    if (keys == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    s->said.number = 0;
    if ((rc = put_peers(e, &s->said_peers, err)) != CS_OK)
        return rc;
    s->said = (struct cs_state_proof){ .workspace = e->workspace,
                                       .device = e->device,
                                       .log_id = r->info->mark.log_id,
                                       .number = r->info->mark.number,
                                       .rows = r->all,
                                       .time_ms = cs_now_ms(e->world) };
    memcpy(s->said.log_hash, r->info->mark.log_hash, 32);
    cs_hasher_final(&r->root, s->said.root, 32);
    cs_state_proof_seal(&s->said, &e->keys->sign, keys, &e->rng, s->said_proof);
    return CS_OK;
}

static int all_is_here(struct clawsync_engine *e, struct cs_error *err)
{
    bool lacks;
    int rc = cs_review_lacks(e->replica, e->head.log_id, &lacks, err);

    if (rc != CS_OK)
        return rc;
    if (lacks)
        return cs_fail(
            err, CS_EINVAL,
            "a batch of the log was set aside (claw-sync hidden list), so that this device does not have all "
            "that the log has; it gives no snapshot");
    return CS_OK;
}

/* Values of dropped columns and tables are not here any more. Where every device says that it lacks the very same,
 * nobody has them, and the snapshot is without them, too. */
static int lack_the_same(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;

    if (s->proved)
        return cs_fail(err, CS_EINVAL,
                       "%" PRIu64
                       " values of dropped columns or tables are not here any more, and others may have them; until "
                       "each device has signed that it lacks them, too (claw-sync prove, on each), this device gives "
                       "no snapshot",
                       s->gone);
    s->proved = true;
    *next = CS_TURN_OTHER;
    return CS_OK;
}

/* Reads the root of the state, and with `keep` all of it. *settled: it is that of the log up to the pull position. */
static int read_state(struct clawsync_engine *e, bool keep, bool *settled, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    struct cs_merged_info info = { 0 };
    struct reading r = { .e = e, .info = &info, .keep = keep };
    struct cs_pull_mark mark;
    bool ahead;
    int rc = is_ahead(e, &ahead, err);

    *settled = false;
    if (rc != CS_OK || ahead)
        return rc;
    cs_parts_free(s->parts);
    s->parts = NULL;
    s->result.bytes = 0;
    if (keep && (rc = cs_parts_new(&s->parts, err)) != CS_OK)
        return rc;
    cs_replica_pull_mark(e->replica, &mark);
    cs_snapshot_digest_start(&e->workspace, &e->device, mark.log_id, mark.number, r.digest);
    cs_hasher_init_plain(&r.root);
    cs_hasher_update(&r.root, cs_dump_head().data, cs_dump_head().len);
    rc = cs_replica_merged(e->replica, true, add_row, &r, &info, err);
    if (rc == CS_OK && keep)
        rc = end_part(&r, err);
    *settled = rc == CS_OK && !info.unsettled && info.doubt == NULL;
    s->gone = info.gone;
    if (*settled && (rc = say(e, &r, err)) == CS_OK && keep)
        rc = describe(e, &r, err);
    else if (rc == CS_OK && info.doubt != NULL)
        rc = cs_replica_look_closer(e->replica, false, err);
    cs_batch_free(&r.batch);
    cs_buf_free(&r.rows);
    cs_buf_free(&r.stored);
    return rc;
}

/* ---- what the hub says ---- */

static bool is_ours(const struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *i)
{
    return i != NULL && i->device_id.len == 16 && memcmp(i->device_id.data, e->device.b, 16) == 0;
}

/* One that this device may have a word about: not of whoever was removed since. */
static bool may_attest(const struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *i)
{
    return i != NULL && i->attester_id.len == 0 && !is_ours(e, i) && cs_snapshot_counts(e, i->device_id) &&
           i->log_id == e->head.log_id;
}

static bool has_said(const struct cs_compact_step *s, const Clawsync__V1__SnapshotInfo *i)
{
    return s->said.number != 0 && s->said.log_id == i->log_id && s->said.number == i->log_number;
}

/* The next device's last batch, of those that the log has: what a log before this one had is not compared. */
static const uint8_t *next_chain(struct cs_slice peers, uint64_t base, size_t *at)
{
    while (*at < peers.len) {
        const uint8_t *p = peers.data + *at;

        *at += CS_SNAPSHOT_PEER_LEN;
        if (cs_load_u64(p + 16) > base)
            return p;
    }
    return NULL;
}

/* Who begins with the snapshot goes on from there in each device's chain: the root does not say whether that is so. */
static bool same_chains(const struct clawsync_engine *e, const struct cs_descriptor *d)
{
    struct cs_slice ours = cs_buf_slice(&e->compact.said_peers);
    uint64_t base = CS_CHAIN_BASE(e->log.generation);
    size_t at = 0, ours_at = 0;
    const uint8_t *p, *q;

    do {
        p = next_chain(d->peers, base, &at);
        q = next_chain(ours, base, &ours_at);
    } while (p != NULL && q != NULL && memcmp(p, q, CS_SNAPSHOT_PEER_LEN) == 0);
    return p == NULL && q == NULL;
}

/* Another round of fetching and sending, or the end of trying. */
static int unsettled(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;

    *next = s->by_daemon ? CS_TURN_END : CS_TURN_SYNC;
    if (!s->by_daemon && s->turns.syncs >= SYNCS_MAX)
        return cs_fail(err, CS_EBUSY, "the application writes all the time; try again when it rests");
    return CS_OK;
}

/* Does its author have what this device has there? */
static int attest(struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *i, enum cs_turn *next,
                  struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    struct cs_slice bytes = cs_slice(i->descriptor.data, i->descriptor.len);
    const struct cs_member *author;
    struct cs_descriptor d;
    struct cs_state_proof theirs;
    struct cs_error why;

    *next = CS_TURN_END;
    if (cs_descriptor_read(&d, bytes, &why) == CS_OK && d.member_seq > e->members.seq)
        return unsettled(e, next, err); /* who it is by, and under which key, is not known here yet */
    if (cs_descriptor_read(&d, bytes, &why) != CS_OK || d.log_id != i->log_id || d.number != i->log_number ||
        !cs_snapshot_counts(e, (ProtobufCBinaryData){ 16, d.device.b }) ||
        (author = cs_membership_find(&e->members, &d.device)) == NULL ||
        !cs_descriptor_verify(bytes, author->sign_pk) ||
        cs_snapshot_proof(e, cs_slice(d.proof, sizeof d.proof), author, &theirs, &why) != CS_OK)
        return cs_fail(err, CS_EHUB,
                       "BAD_SNAPSHOT: the hub has a snapshot that no device of the workspace has signed; it was not "
                       "attested");
    if (theirs.rows != s->said.rows || memcmp(theirs.root, s->said.root, 32) != 0 ||
        memcmp(d.log_hash, s->said.log_hash, 32) != 0)
        return cs_fail(err, CS_ECORRUPT,
                       "SNAPSHOT_DIFFERS: the snapshot of number %" PRIu64
                       " is of another state than this device has there; it was not attested. Level the two with: "
                       "claw-sync reconcile",
                       i->log_number);
    if (!same_chains(e, &d))
        return cs_fail(err, CS_ECORRUPT,
                       "SNAPSHOT_DIFFERS: the snapshot of number %" PRIu64
                       " names other last batches of devices than the log has up to there; it was not attested. The "
                       "device that gave it is to give another one with: claw-sync compact",
                       i->log_number);
    cs_attestation_seal(s->said_proof, bytes, &e->keys->sign, s->attestation);
    s->place_log = s->said.log_id;
    s->place = s->said.number;
    *next = request(e, ACTION(ATTEST), PHASE_ATTESTED);
    s->request.attestation = (ProtobufCBinaryData){ sizeof s->attestation, s->attestation };
    return CS_OK;
}

/* Another device gives one: it is let do so, once, as it may die over it. */
static void await(struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *given)
{
    struct cs_compact_step *s = &e->compact;

    if (s->awaited == given->log_number && s->awaited_log == given->log_id)
        return;
    s->awaited = given->log_number;
    s->awaited_log = given->log_id;
    put_off(e);
}

static void note_known(struct clawsync_engine *e, const Clawsync__V1__SnapshotResponse *a)
{
    struct cs_compact_step *s = &e->compact;
    const Clawsync__V1__SnapshotInfo *best = a->served;

    if (a->given != NULL && a->given->whole && cs_snapshot_counts(e, a->given->device_id) &&
        (best == NULL || a->given->log_number > best->log_number))
        best = a->given;
    else if (a->given != NULL && !a->given->whole && !is_ours(e, a->given))
        await(e, a->given);
    s->known_log = e->head.log_id;
    s->known = best == NULL ? 0 : best->log_number;
    s->result.served_number = a->served == NULL ? 0 : a->served->log_number;
    s->result.pruned_number = a->pruned_number;
    s->result.attested =
        a->served != NULL && a->served->attester_id.len > 0 && a->served->log_number >= s->result.log_number;
}

bool cs_compact_is_due(const struct clawsync_engine *e)
{
    const struct cs_compact_step *s = &e->compact;
    uint64_t known = s->known_log == e->head.log_id ? s->known : 0, after = e->config.compact_after;

    return after != 0 && e->head.number - (known < e->head.number ? known : e->head.number) >= after &&
           (s->again_log != e->head.log_id || e->head.number >= s->again_at);
}

static bool wants_to_give(struct clawsync_engine *e, const Clawsync__V1__SnapshotResponse *a, uint64_t number)
{
    bool good = a->served != NULL && cs_snapshot_is_good(e, a->served);
    bool newer = good && a->served->log_number >= number;
    bool given = a->given != NULL && a->given->log_number == number && is_ours(e, a->given) && a->given->whole;

    if (number == 0 || newer || given)
        return false;
    if (!e->compact.by_daemon)
        return true;
    return e->config.compact_after != 0 && (cs_compact_is_due(e) || (a->pruned_number > 0 && !good));
}

/* Are others there who could attest it? */
static bool has_others(const struct clawsync_engine *e)
{
    return cs_membership_devices(&e->members) > 1;
}

/* is_read, or *next says what is to be done first. */
static int read_to_give(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    bool settled;
    int rc = read_state(e, true, &settled, err);

    if (rc != CS_OK)
        return rc;
    if (!settled || s->said.log_id != s->place_log || s->said.number != s->place)
        return unsettled(e, next, err);
    if (s->gone > 0 && has_others(e) && !cs_reconcile_agreed(e, &s->said))
        return lack_the_same(e, next, err);
    s->is_read = true;
    return CS_OK;
}

/* One that is begun, and not given for a reason that could be known before, holds others up. Where values may be gone
 * that takes reading all. */
static int before_it_begins(struct clawsync_engine *e, enum cs_turn *next, bool *out, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    bool dropped, ahead, settled;
    int rc = all_is_here(e, err);

    *out = s->is_read = false;
    if (rc != CS_OK || (rc = is_ahead(e, &ahead, err)) != CS_OK ||
        (rc = cs_replica_settled(e->replica, &settled, err)) != CS_OK)
        return rc;
    if (ahead || !settled)
        return unsettled(e, next, err);
    if ((rc = cs_replica_dropped(e->replica, &dropped, err)) == CS_OK && dropped)
        rc = read_to_give(e, next, err);
    *out = rc == CS_OK && (!dropped || s->is_read);
    return rc;
}

static int looked(struct clawsync_engine *e, const Clawsync__V1__SnapshotResponse *a, enum cs_turn *next,
                  struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    const Clawsync__V1__SnapshotInfo *i = may_attest(e, a->given)    ? a->given
                                          : may_attest(e, a->served) ? a->served
                                                                     : NULL;
    struct cs_pull_mark mark;
    bool settled, collect, go;
    int rc;

    note_known(e, a);
    cs_replica_pull_mark(e->replica, &mark);
    *next = CS_TURN_END;
    if (i != NULL && !has_said(s, i) && mark.log_id == i->log_id && mark.number == i->log_number) {
        if ((rc = read_state(e, false, &settled, err)) != CS_OK)
            return rc;
        if (!settled)
            return unsettled(e, next, err);
    }
    if (i != NULL && i->whole && has_said(s, i))
        return attest(e, i, next, err);
    if (s->only_attest)
        return CS_OK;
    if (!s->collecting && (!s->by_daemon || is_ours(e, a->served)) &&
        ((rc = cs_collect_wanted(e, a, &collect, err)) != CS_OK || collect)) {
        s->collecting = true; /* before the next snapshot, which then is without them */
        *next = CS_TURN_SYNC;
        return rc;
    }
    if (!wants_to_give(e, a, mark.number))
        return CS_OK;
    s->place_log = mark.log_id;
    s->place = mark.number;
    if ((rc = before_it_begins(e, next, &go, err)) == CS_OK && go)
        *next = request(e, ACTION(BEGIN), PHASE_BEGIN);
    return rc;
}

static int put_next(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    struct cs_batch *b;
    Clawsync__V1__DeltaChunk *chunk, **list;
    Clawsync__V1__Envelope *env;
    char(*ids)[23];
    int rc;

    if (s->sent == cs_parts_count(s->parts)) {
        *next = request(e, ACTION(END), PHASE_END);
        s->request.descriptor = (ProtobufCBinaryData){ s->descriptor.len, s->descriptor.data };
        return CS_OK;
    }
    *next = request(e, ACTION(PUT), PHASE_PUT);
    if ((b = cs_arena_zalloc(&s->turns.arena, 1, sizeof *b)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((rc = cs_parts_get(s->parts, s->sent, b, err)) != CS_OK) {
        cs_batch_free(b);
        return rc;
    }
    chunk = cs_arena_zalloc(&s->turns.arena, b->nchunks, sizeof *chunk);
    list = cs_arena_zalloc(&s->turns.arena, b->nchunks, sizeof(Clawsync__V1__DeltaChunk *));
    ids = cs_arena_zalloc(&s->turns.arena, b->nchunks, sizeof *ids);
    env = cs_arena_zalloc(&s->turns.arena, 1, sizeof *env);
    for (uint32_t i = 0; chunk != NULL && list != NULL && ids != NULL && i < b->nchunks; i++) {
        struct cs_slice bytes = cs_arena_copy(&s->turns.arena, cs_batch_chunk(b, i));
        struct cs_slice hash = cs_arena_copy(&s->turns.arena, cs_slice(b->hashes.data + (size_t)i * 32, 32));

        clawsync__v1__delta_chunk__init(&chunk[i]);
        cs_chunk_id(b->hashes.data + (size_t)i * 32, ids[i]);
        chunk[i].chunk_id = ids[i];
        chunk[i].seq = (int32_t)i;
        chunk[i].total = (int32_t)b->nchunks;
        chunk[i].encrypted_payload = (ProtobufCBinaryData){ bytes.len, (uint8_t *)(uintptr_t)bytes.data };
        chunk[i].payload_hash = (ProtobufCBinaryData){ hash.len, (uint8_t *)(uintptr_t)hash.data };
        list[i] = &chunk[i];
    }
    if (env != NULL && chunk != NULL) {
        struct cs_slice header = cs_arena_copy(&s->turns.arena, cs_slice(b->header, sizeof b->header));
        struct cs_slice sig = cs_arena_copy(&s->turns.arena, cs_slice(b->signature, sizeof b->signature));
        struct cs_slice hashes = cs_arena_copy(&s->turns.arena, cs_buf_slice(&b->hashes));

        clawsync__v1__envelope__init(env);
        env->header = (ProtobufCBinaryData){ header.len, (uint8_t *)(uintptr_t)header.data };
        env->signature = (ProtobufCBinaryData){ sig.len, (uint8_t *)(uintptr_t)sig.data };
        env->payload_hashes = (ProtobufCBinaryData){ hashes.len, (uint8_t *)(uintptr_t)hashes.data };
        chunk[0].envelope = env;
    }
    s->request.chunks = list;
    s->request.n_chunks = b->nchunks;
    s->request.part = s->sent++;
    cs_batch_free(b);
    cs_note_progress(e, "compacting", s->sent, cs_parts_count(s->parts));
    return s->turns.arena.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static int begun(struct clawsync_engine *e, enum cs_turn *next, struct cs_error *err)
{
    struct cs_compact_step *s = &e->compact;
    int rc = s->is_read ? CS_OK : read_to_give(e, next, err);

    if (rc != CS_OK || !s->is_read)
        return rc;
    s->sent = 0;
    s->result.log_number = s->said.number;
    s->result.rows = s->said.rows;
    return put_next(e, next, err);
}

static int look(struct clawsync_engine *e, const ProtobufCMessage *answer, enum cs_turn *next, struct cs_error *err)
{
    static const Clawsync__V1__SnapshotResponse nothing = CLAWSYNC__V1__SNAPSHOT_RESPONSE__INIT;
    const Clawsync__V1__SnapshotResponse *a = answer != NULL ? (const void *)answer : &nothing;
    struct cs_compact_step *s = &e->compact;

    switch ((enum phase)s->phase) {
    case PHASE_PEEK:
        *next = request(e, ACTION(LOOK), PHASE_LOOK);
        return CS_OK;
    case PHASE_LOOK:
        return looked(e, a, next, err);
    case PHASE_BEGIN:
        if (a->more) {
            *next = request(e, ACTION(BEGIN), PHASE_BEGIN);
            return CS_OK;
        }
        return begun(e, next, err);
    case PHASE_PUT:
        return put_next(e, next, err);
    case PHASE_END:
        s->gave = true;
        s->result.parts = cs_parts_count(s->parts);
        s->again_at = s->said.number + e->config.compact_after;
        s->again_log = s->said.log_id;
        *next = request(e, ACTION(LOOK), PHASE_WAIT);
        return CS_OK;
    case PHASE_ATTESTED:
        s->result.log_number = s->said.number;
        s->result.rows = s->said.rows;
        *next = request(e, ACTION(LOOK), PHASE_WAIT);
        return CS_OK;
    case PHASE_WAIT:
        if (answer == NULL) {
            *next = request(e, ACTION(LOOK), PHASE_WAIT);
            return CS_OK;
        }
        note_known(e, a);
        *next =
            s->gave && !s->by_daemon && !s->result.attested && has_others(e) && cs_loop_now_ms(e->loop) < s->until_ms
                ? CS_TURN_WAIT
                : CS_TURN_END;
        return CS_OK;
    }
    return CS_OK;
}

/* ---- the loop's side ---- */

static void anew(struct clawsync_engine *e)
{
    e->compact.phase = PHASE_PEEK;
}

/* Somebody was faster, or gives at present. */
static void refused(struct clawsync_engine *e, int status, const struct cs_error *why)
{
    struct cs_error err = *why;

    if (status == CS_RPC_UNIMPLEMENTED)
        cs_fail(&err, CS_EUNSUPPORTED,
                "hub %.150s does not take snapshots; it needs a newer claw-sync-server (changes are replicated all the "
                "same)",
                e->config.hub_endpoint);
    else if (status == CS_RPC_FAILED_PRECONDITION)
        err.code = CS_EABORTED;
    if (e->compact.by_daemon && (err.code == CS_EABORTED || err.code == CS_EUNSUPPORTED)) {
        put_off(e);
        finish(e, CS_OK, &err);
    } else {
        finish(e, err.code, &err);
    }
}

static void proved(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK) {
        finish(e, rc, err);
        return;
    }
    anew(e);
    cs_turns_next(&e->compact.turns);
}

static void prove(struct clawsync_engine *e)
{
    cs_step_prove(e, proved);
}

static const struct cs_turns_kind talk = { .method = "Snapshot",
                                           .answer = &clawsync__v1__snapshot_response__descriptor,
                                           .look = look,
                                           .anew = anew,
                                           .other = prove,
                                           .refused = refused,
                                           .finish = finish };

static bool begin(struct clawsync_engine *e, bool by_daemon, cs_step_done done)
{
    struct cs_compact_step *s = &e->compact;
    struct cs_error err = { 0 };

    s->done = done;
    if (cs_turns_begin(e, &s->turns, &talk) != CS_OK) {
        done(e, cs_fail(&err, CS_ENOMEM, "out of memory"), &err);
        return false;
    }
    s->by_daemon = by_daemon;
    s->only_attest = false;
    s->gave = s->collecting = s->proved = false;
    s->result = (clawsync_compacted){ 0 };
    s->result_to = NULL;
    s->until_ms = cs_loop_now_ms(e->loop) + WAIT_MS;
    return true;
}

void cs_step_compact(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_compact_wish *wish = e->schedule.current->arg;

    if (!begin(e, false, done))
        return;
    e->compact.result_to = &wish->result;
    cs_turns_sync(&e->compact.turns);
}

static void by_daemon(struct clawsync_engine *e, bool only_attest, cs_step_done done)
{
    if (!begin(e, true, done))
        return;
    e->compact.only_attest = only_attest;
    anew(e);
    cs_turns_next(&e->compact.turns);
}

void cs_step_attest(struct clawsync_engine *e, cs_step_done done)
{
    by_daemon(e, true, done);
}

void cs_step_compact_asked(struct clawsync_engine *e, cs_step_done done)
{
    by_daemon(e, false, done);
}

int clawsync_engine_compact(clawsync_engine *e, clawsync_compacted *out, clawsync_error *err)
{
    struct cs_compact_wish wish = { 0 };
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { cs_step_compact }, .arg = &wish };
    int rc = cs_engine_command(e, &c, err);

    if (out != NULL)
        *out = wish.result;
    return rc;
}
