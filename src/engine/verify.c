/* What a receiver checks of a batch before it opens it, in the order of docs/protocol.md. */
#include <inttypes.h>

#include "engine/engine.h"

static enum cs_severity found(struct cs_finding *f, enum cs_severity severity, const char *name, struct cs_error *err,
                              const char *why)
{
    f->severity = severity;
    f->name = name;
    cs_fail(err, severity == CS_STOP_HUB ? CS_EHUB : CS_ECORRUPT, "%s: %s", name, why);
    return severity;
}

static enum cs_severity failed(struct cs_finding *f)
{
    f->severity = CS_FAILED;
    f->name = "";
    return CS_FAILED;
}

int cs_log_hash_at(struct clawsync_engine *e, const struct cs_pull_mark *mark, uint64_t number, uint8_t out[32],
                   struct cs_error *err)
{
    if (number == 0)
        memcpy(out, e->log_start, 32);
    else if (number == mark->number)
        memcpy(out, mark->log_hash, 32);
    else
        return cs_replica_log_hash(e->replica, number, out, err);
    return CS_OK;
}

static enum cs_severity check_seen(struct clawsync_engine *e, const struct cs_pull_mark *mark, uint64_t log_number,
                                   const struct cs_batch_header *h, struct cs_finding *f, struct cs_error *err)
{
    static const char why[] = "the sender was shown another log than this device; nothing more is taken from the hub";
    uint8_t l[32], digest[32];
    int rc;

    if (h->seen_number >= log_number || h->seen_log != e->head.log_id)
        return found(f, CS_STOP_HUB, "HUB_FORK", err, why);
    rc = cs_log_hash_at(e, mark, h->seen_number, l, err);
    if (rc == CS_ENOTFOUND)
        return CS_FINE; /* too long ago to know */
    if (rc != CS_OK)
        return failed(f);
    cs_seen_digest(&e->workspace, h->seen_log, h->seen_number, l, h->member_seq, cs_entry_hash_at(e, h->member_seq),
                   digest);
    return memcmp(digest, h->seen, 32) == 0 ? CS_FINE : found(f, CS_STOP_HUB, "HUB_FORK", err, why);
}

int cs_peer_at(struct clawsync_engine *e, const struct cs_uuid *device, struct cs_peer *out, struct cs_error *err)
{
    uint64_t base = CS_CHAIN_BASE(e->log.generation);
    int rc = cs_replica_peer(e->replica, device, out, err);

    if (rc != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if (rc == CS_ENOTFOUND)
        *out = (struct cs_peer){ 0 };
    if (base == 0 || out->number >= base)
        return CS_OK;
    *out = (struct cs_peer){ .number = base };
    cs_chain_start(&e->workspace, e->log.id, out->hash);
    return CS_OK;
}

static enum cs_severity check_chain(struct clawsync_engine *e, const struct cs_batch *b,
                                    const struct cs_batch_header *h, struct cs_finding *f, struct cs_error *err)
{
    struct cs_peer peer = { 0 };

    if (cs_peer_at(e, &h->device, &peer, err) != CS_OK)
        return failed(f);
    if (h->number == peer.number && peer.number > 0 && memcmp(b->hash, peer.hash, 32) == 0) {
        f->known = true;
        return CS_FINE;
    }
    if (h->number <= peer.number)
        return found(f, CS_STOP_HUB, "BATCH_FORK", err, "a device's batch came twice with different content");
    if (h->number != peer.number + 1 || memcmp(h->prev, peer.hash, 32) != 0)
        return found(f, CS_STOP_DEVICE, "BROKEN_CHAIN", err, "a batch does not follow its device's last one");
    if (h->member_seq < peer.member_seq || h->epoch != cs_membership_epoch_at(&e->members, h->member_seq))
        return found(f, CS_STOP_DEVICE, "BAD_HEADER", err, "a batch was not bound to the epoch that was in force");
    return CS_FINE;
}

enum cs_severity cs_verify_salvaged(struct clawsync_engine *e, const struct cs_batch *b, struct cs_batch_header *h,
                                    struct cs_finding *f, struct cs_error *err)
{
    struct cs_slice header = cs_slice(b->header, sizeof b->header);
    const struct cs_member *member;

    *f = (struct cs_finding){ CS_FINE, "", false };
    if (cs_batch_header_decode(h, header, err) != CS_OK || !cs_batch_is_logged(h->kind) ||
        h->chunk_count != b->nchunks || cs_uuid_cmp(&h->workspace, &e->workspace) != 0 ||
        h->member_seq > e->members.seq)
        return found(f, CS_STOP_DEVICE, "BAD_HEADER", err, "a batch's header cannot be read");
    member = cs_membership_find(&e->members, &h->device);
    if (member == NULL || !cs_membership_was_member(&e->members, &h->device, h->member_seq) ||
        !cs_batch_verify(member->sign_pk, header, cs_buf_slice(&b->hashes), b->signature))
        return found(f, CS_STOP_DEVICE, "BAD_SIGNATURE", err, "a batch is not signed by a member");
    if (cs_membership_past_cut(&e->members, &h->device, h->number, b->hash))
        return found(f, CS_STOP_DEVICE, "PAST_CUT", err, "a removed device's batch lies behind its last that counts");
    return check_chain(e, b, h, f, err);
}

enum cs_severity cs_verify_again(struct clawsync_engine *e, const struct cs_pull_mark *mark, const struct cs_batch *b,
                                 uint64_t log_number, struct cs_batch_header *h, struct cs_finding *f,
                                 struct cs_error *err)
{
    enum cs_severity s = cs_verify_salvaged(e, b, h, f, err);

    return s != CS_FINE || f->known ? s : check_seen(e, mark, log_number, h, f, err);
}

enum cs_severity cs_verify_header(struct clawsync_engine *e, const struct cs_pull_mark *mark, const struct cs_batch *b,
                                  uint64_t log_number, struct cs_batch_header *h, struct cs_finding *f,
                                  struct cs_error *err)
{
    struct cs_slice header = cs_slice(b->header, sizeof b->header);
    const struct cs_member *member;
    enum cs_severity s;
    int rc;

    *f = (struct cs_finding){ CS_FINE, "", false };
    rc = cs_batch_header_decode(h, header, err);
    if (rc == CS_EVERSION) {
        f->severity = CS_NEED_UPDATE;
        f->name = "UPDATE_NEEDED";
        cs_fail_context(err, "UPDATE_NEEDED");
        return f->severity;
    }
    if (rc != CS_OK || !cs_batch_is_logged(h->kind) || h->chunk_count != b->nchunks)
        return found(f, CS_STOP_DEVICE, "BAD_HEADER", err, "a batch's header cannot be read");
    if (cs_uuid_cmp(&h->workspace, &e->workspace) != 0)
        return found(f, CS_STOP_HUB, "WRONG_WORKSPACE", err, "the hub gave a batch of another workspace");
    if (h->member_seq > e->members.seq) {
        f->severity = CS_NEED_MEMBERS;
        return f->severity;
    }
    member = cs_membership_find(&e->members, &h->device);
    if (member == NULL || !cs_membership_was_member(&e->members, &h->device, h->member_seq))
        return found(f, CS_STOP_DEVICE, "NOT_A_MEMBER", err, "a batch is of a device that is not a member");
    if (!cs_batch_verify(member->sign_pk, header, cs_buf_slice(&b->hashes), b->signature))
        return found(f, CS_STOP_DEVICE, "BAD_SIGNATURE", err, "a batch is not signed by its device");
    if (cs_membership_past_cut(&e->members, &h->device, h->number, b->hash))
        return found(f, CS_STOP_DEVICE, "PAST_CUT", err, "a removed device's batch lies behind its last that counts");
    if ((s = check_chain(e, b, h, f, err)) != CS_FINE || f->known)
        return s;
    if (h->epoch < mark->highest_epoch)
        return found(f, CS_STOP_HUB, "EPOCH_REPLAYED", err, "the hub took a batch of an epoch that was over");
    return check_seen(e, mark, log_number, h, f, err);
}
