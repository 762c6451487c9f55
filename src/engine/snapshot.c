/* What is checked of a snapshot before anything of it is used: what its author says of it, and who attested that. */
#include <inttypes.h>

#include "engine/engine.h"

static int found(struct cs_error *err, const char *name, const char *why)
{
    return cs_fail(err, CS_EHUB, "%s: %s; nothing of it was used", name, why);
}

int cs_snapshot_proof(struct clawsync_engine *e, struct cs_slice sealed, const struct cs_member *by,
                      struct cs_state_proof *out, struct cs_error *err)
{
    const struct cs_epoch_keys *keys;
    uint32_t epoch;

    if (!cs_state_proof_epoch(sealed, &epoch))
        return cs_fail(err, CS_ECORRUPT, "a statement about a device's state has a wrong length");
    if ((keys = cs_keystore_epoch(e->ks, epoch)) == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", epoch);
    return cs_state_proof_open(out, sealed, &e->workspace, &by->id, by->sign_pk, keys, err);
}

static const struct cs_member *device_of(const struct clawsync_engine *e, ProtobufCBinaryData device)
{
    const struct cs_member *m;
    struct cs_uuid id;

    if (device.len != sizeof id.b)
        return NULL;
    memcpy(id.b, device.data, sizeof id.b);
    m = cs_membership_find(&e->members, &id);
    return m != NULL && m->kind == CS_PRINCIPAL_DEVICE ? m : NULL;
}

static const struct cs_member *active_device(const struct clawsync_engine *e, ProtobufCBinaryData device)
{
    const struct cs_member *m = device_of(e, device);

    return m != NULL && m->active ? m : NULL;
}

/* A device that was a member at that entry, whether it is one now or not. */
static const struct cs_member *device_then(const struct clawsync_engine *e, ProtobufCBinaryData device, uint32_t seq)
{
    const struct cs_member *m = device_of(e, device);

    return m != NULL && cs_membership_was_member(&e->members, &m->id, seq) ? m : NULL;
}

bool cs_snapshot_counts(const struct clawsync_engine *e, ProtobufCBinaryData device)
{
    return active_device(e, device) != NULL;
}

bool cs_snapshot_is_good(const struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *i)
{
    return cs_snapshot_counts(e, i->device_id) && (i->attester_id.len == 0 || cs_snapshot_counts(e, i->attester_id));
}

/* Is it of this log, of a place that there is, and ahead of where this device stands? The log may have grown since the
 * head that this device knows; that it does go on from there is seen when it is pulled. */
static int check_place(const struct clawsync_engine *e, const struct cs_descriptor *d, uint64_t head_number,
                       const struct cs_pull_mark *mark, struct cs_error *err)
{
    uint8_t seq_is_known = d->member_seq <= e->members.seq;
    const uint8_t *entry = seq_is_known ? cs_entry_hash_at(e, d->member_seq) : NULL;

    if (cs_uuid_cmp(&d->workspace, &e->workspace) != 0)
        return found(err, "WRONG_WORKSPACE", "the hub gave a snapshot of another workspace");
    if (d->log_id != e->head.log_id)
        return found(err, "LOG_REPLACED", "the hub gave a snapshot of another log");
    if (d->number <= mark->number)
        return found(err, "HUB_ROLLBACK", "the hub gave a snapshot from before what this device has");
    if (d->number > e->head.number && d->number > head_number)
        return found(err, "HUB_ROLLBACK", "the hub gave a snapshot of a number that its log does not reach");
    if ((d->number == e->head.number && memcmp(d->log_hash, e->head.log_hash, 32) != 0) ||
        (d->log_id == e->floor.log_id && d->number == e->floor.number &&
         memcmp(d->log_hash, e->floor.log_hash, 32) != 0) ||
        (d->log_id == e->ks->log_id && d->number == e->ks->log_number && memcmp(d->log_hash, e->ks->log_hash, 32) != 0))
        return found(err, "HUB_FORK", "the hub gave a snapshot of another log than it has shown");
    if (!seq_is_known)
        return found(err, "HUB_WITHHELD", "the hub withholds membership entries that a snapshot's author has seen");
    if (entry == NULL || memcmp(entry, d->entry_hash, 32) != 0)
        return found(err, "HUB_FORK", "a snapshot's author was shown another membership than this device");
    return CS_OK;
}

/* No device's chain goes beyond where it was cut, nor back. */
static int check_chains(struct clawsync_engine *e, const struct cs_descriptor *d, struct cs_error *err)
{
    struct cs_snapshot_peer p;
    struct cs_peer known;
    int rc;

    for (uint32_t i = 0; i < d->npeers; i++) {
        const struct cs_member *m;

        cs_snapshot_peer_at(d, i, &p);
        m = cs_membership_find(&e->members, &p.device);
        if (m == NULL || m->kind != CS_PRINCIPAL_DEVICE)
            return found(err, "NOT_A_MEMBER", "a snapshot has batches of a device that never was a member");
        if (cs_membership_past_cut(&e->members, &p.device, p.number, p.hash))
            return found(err, "PAST_CUT",
                         "a snapshot has batches of a removed device from behind its last that counts");
        rc = cs_replica_peer(e->replica, &p.device, &known, err);
        if (rc == CS_OK && known.number == p.number && p.number > 0 && memcmp(known.hash, p.hash, 32) != 0)
            return found(err, "BATCH_FORK", "a snapshot has another batch of a device than this device was given");
        if (rc != CS_OK && rc != CS_ENOTFOUND)
            return rc;
    }
    return CS_OK;
}

static uint64_t number_in(const struct cs_descriptor *d, const struct cs_uuid *device)
{
    struct cs_snapshot_peer p;

    for (uint32_t i = 0; i < d->npeers; i++) {
        cs_snapshot_peer_at(d, i, &p);
        if (cs_uuid_cmp(&p.device, device) == 0)
            return p.number;
    }
    return 0;
}

/* Our last batch of those that the hub acknowledged up to the snapshot's number. */
static int own_number(struct clawsync_engine *e, const struct cs_descriptor *d, struct cs_arena *a, uint64_t *out,
                      struct cs_error *err)
{
    struct cs_bound *bound = NULL;
    uint8_t hash[32];
    size_t n = 0;
    int rc;

    cs_replica_chain(e->replica, out, hash);
    rc = cs_replica_bound(e->replica, a, false, &bound, &n, err);
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        if (bound[i].state == CS_BOUND_ACCEPTED && bound[i].log_number > d->number && bound[i].number <= *out)
            *out = bound[i].number - 1;
    return rc;
}

/* The log below it cannot be compared with what was here any more. A hub that had gone back, and on from there, has it
 * without batches that were here, or that it acknowledged. */
static int check_nothing_lacks(struct clawsync_engine *e, const struct cs_descriptor *d,
                               const struct cs_pull_mark *mark, struct cs_error *err)
{
    uint64_t base = CS_CHAIN_BASE(e->log.generation), own = 0;
    struct cs_known_peer *peer = NULL;
    struct cs_arena a = { 0 };
    size_t n = 0;
    bool lacks;
    int rc;

    if (mark->log_id != d->log_id)
        return CS_OK;
    if ((rc = own_number(e, d, &a, &own, err)) == CS_OK)
        rc = cs_replica_peers(e->replica, &a, &peer, &n, err);
    lacks = own > base && number_in(d, &e->device) < own;
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        lacks = lacks || (peer[i].number > base && number_in(d, &peer[i].device) < peer[i].number);
    cs_arena_free(&a);
    if (rc != CS_OK || !lacks)
        return rc;
    return found(err, "HUB_ROLLBACK", "the hub gave a snapshot without batches that it had shown or acknowledged here");
}

static bool same_state(const struct cs_state_proof *p, const struct cs_descriptor *d)
{
    return p->log_id == d->log_id && p->number == d->number && p->rows == d->rows &&
           memcmp(p->log_hash, d->log_hash, 32) == 0;
}

/* Is there a device besides its author that can have had its state? This one, which is behind it, has not. */
static bool has_others(const struct clawsync_engine *e, const struct cs_descriptor *d, const struct cs_member *author)
{
    size_t then = 0, now = cs_membership_devices(&e->members);
    const struct cs_member *self = cs_membership_find(&e->members, &e->device);

    for (size_t i = 0; i < e->members.nmembers; i++)
        then += cs_membership_was_member(&e->members, &e->members.members[i].id, d->member_seq);
    now -= self != NULL && self->active;
    return then > 1 && !(author->active && now == 1);
}

/* Where there were two devices, two have to have the same state, and to vouch for the very descriptor. One of them may
 * have been removed since: its batches behind the cut are not in it. */
static int check_attested(struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *info,
                          const struct cs_descriptor *d, const struct cs_member *author,
                          const struct cs_state_proof *own, struct cs_error *err)
{
    struct cs_slice attestation = cs_slice(info->attestation.data, info->attestation.len);
    struct cs_slice descriptor = cs_slice(info->descriptor.data, info->descriptor.len);
    const struct cs_member *by = active_device(e, info->attester_id);
    struct cs_state_proof proof;

    if (by == NULL && author->active)
        by = device_then(e, info->attester_id, d->member_seq);
    if (!author->active && (by == NULL || !cs_attestation_covers(attestation, descriptor, by->sign_pk)))
        return found(err, "NOT_A_MEMBER", "the hub gave a snapshot of a device that is no member, or not any more");
    if (info->attester_id.len == 0 && !has_others(e, d, author))
        return CS_OK;
    if (by == NULL || cs_uuid_cmp(&by->id, &d->device) == 0)
        return found(err, "SNAPSHOT_UNATTESTED",
                     "no other device of the workspace has said that it has the state of the hub's snapshot");
    if (cs_snapshot_proof(e, cs_attestation_proof(attestation), by, &proof, err) != CS_OK || !same_state(&proof, d) ||
        memcmp(proof.root, own->root, 32) != 0)
        return found(err, "SNAPSHOT_UNATTESTED", "what attests the hub's snapshot is of another state");
    return CS_OK;
}

int cs_snapshot_check(struct clawsync_engine *e, const Clawsync__V1__SnapshotInfo *info, uint64_t head_number,
                      const struct cs_pull_mark *mark, struct cs_descriptor *out, struct cs_state_proof *proof,
                      struct cs_error *err)
{
    struct cs_slice bytes = cs_slice(info->descriptor.data, info->descriptor.len);
    const struct cs_member *author;
    struct cs_error why;
    int rc = cs_descriptor_read(out, bytes, &why);

    cs_hash_plain(bytes, e->looked_at);
    if (rc == CS_EVERSION)
        return cs_fail(err, CS_EVERSION, "UPDATE_NEEDED: %s; update this one", why.msg);
    if (rc != CS_OK)
        return found(err, "BAD_SNAPSHOT", why.msg);
    if ((rc = check_place(e, out, head_number, mark, err)) != CS_OK)
        return rc;
    author = device_then(e, (ProtobufCBinaryData){ 16, out->device.b }, out->member_seq);
    if (author == NULL)
        return found(err, "NOT_A_MEMBER", "the hub gave a snapshot of a device that is no member, or not any more");
    if (!cs_descriptor_verify(bytes, author->sign_pk))
        return found(err, "BAD_SIGNATURE", "the hub's snapshot is not signed by its device");
    if (cs_snapshot_proof(e, cs_slice(out->proof, sizeof out->proof), author, proof, &why) != CS_OK)
        return found(err, "BAD_SNAPSHOT", why.msg);
    if (!same_state(proof, out))
        return found(err, "BAD_SNAPSHOT", "its author says two things about it");
    if ((rc = check_chains(e, out, err)) != CS_OK || (rc = check_nothing_lacks(e, out, mark, err)) != CS_OK)
        return rc;
    return check_attested(e, info, out, author, proof, err);
}
