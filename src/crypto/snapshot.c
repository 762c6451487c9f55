#include "crypto/snapshot.h"

static const char magic[4] = { 'C', 'S', 'S', '1' };

void cs_snapshot_peer_encode(const struct cs_snapshot_peer *p, uint8_t out[CS_SNAPSHOT_PEER_LEN])
{
    memcpy(out, p->device.b, 16);
    cs_store_u64(out + 16, p->number);
    memcpy(out + 24, p->hash, 32);
    cs_store_u32(out + 56, p->member_seq);
}

void cs_snapshot_peer_at(const struct cs_descriptor *d, uint32_t i, struct cs_snapshot_peer *out)
{
    const uint8_t *at = d->peers.data + (size_t)i * CS_SNAPSHOT_PEER_LEN;

    memcpy(out->device.b, at, 16);
    out->number = cs_load_u64(at + 16);
    memcpy(out->hash, at + 24, 32);
    out->member_seq = cs_load_u32(at + 56);
}

void cs_snapshot_digest_start(const struct cs_uuid *workspace, const struct cs_uuid *device, uint64_t log_id,
                              uint64_t number, uint8_t out[32])
{
    uint8_t b[16 + 16 + 8 + 8];

    memcpy(b, workspace->b, 16);
    memcpy(b + 16, device->b, 16);
    cs_store_u64(b + 32, log_id);
    cs_store_u64(b + 40, number);
    cs_hash_label("snapshot start", cs_slice(b, sizeof b), out);
}

void cs_snapshot_digest_next(uint8_t digest[32], uint32_t part, const uint8_t batch_hash[32])
{
    uint8_t b[32 + 4 + 32];

    memcpy(b, digest, 32);
    cs_store_u32(b + 32, part);
    memcpy(b + 36, batch_hash, 32);
    cs_hash_label("snapshot part", cs_slice(b, sizeof b), digest);
}

void cs_descriptor_seal(struct cs_buf *out, const struct cs_descriptor *d, const struct cs_sign_key *key)
{
    size_t from = out->len;
    uint8_t signature[CS_SIGNATURE_LEN];

    cs_buf_put(out, magic, sizeof magic);
    cs_buf_put(out, d->workspace.b, 16);
    cs_buf_put(out, d->device.b, 16);
    cs_buf_put_u64(out, d->log_id);
    cs_buf_put_u64(out, d->number);
    cs_buf_put(out, d->log_hash, 32);
    cs_buf_put_u64(out, (uint64_t)d->top_stamp);
    cs_buf_put_u32(out, d->member_seq);
    cs_buf_put(out, d->entry_hash, 32);
    cs_buf_put_u32(out, d->highest_epoch);
    cs_buf_put_u32(out, d->parts);
    cs_buf_put_u64(out, d->rows);
    cs_buf_put(out, d->digest, 32);
    cs_buf_put(out, d->proof, sizeof d->proof);
    cs_buf_put_u32(out, d->npeers);
    cs_buf_put_slice(out, d->peers);
    if (out->failed)
        return;
    cs_sign(key, "snapshot", cs_slice(out->data + from, out->len - from), signature);
    cs_buf_put(out, signature, sizeof signature);
}

static bool peers_ascend(const struct cs_descriptor *d)
{
    for (uint32_t i = 1; i < d->npeers; i++)
        if (memcmp(d->peers.data + (size_t)(i - 1) * CS_SNAPSHOT_PEER_LEN,
                   d->peers.data + (size_t)i * CS_SNAPSHOT_PEER_LEN, 16) >= 0)
            return false;
    return true;
}

int cs_descriptor_read(struct cs_descriptor *out, struct cs_slice bytes, struct cs_error *err)
{
    struct cs_reader r = cs_reader(bytes);
    struct cs_slice head = cs_read_bytes(&r, sizeof magic);

    *out = (struct cs_descriptor){ 0 };
    if (!r.bad && memcmp(head.data, magic, 3) == 0 && head.data[3] > magic[3])
        return cs_fail(err, CS_EVERSION, "a snapshot of a newer claw-sync");
    if (r.bad || memcmp(head.data, magic, sizeof magic) != 0 || bytes.len > CS_DESCRIPTOR_MAX)
        return cs_fail(err, CS_ECORRUPT, "this does not describe a snapshot");
    cs_read_into(&r, out->workspace.b, 16);
    cs_read_into(&r, out->device.b, 16);
    out->log_id = cs_read_u64(&r);
    out->number = cs_read_u64(&r);
    cs_read_into(&r, out->log_hash, 32);
    out->top_stamp = (int64_t)cs_read_u64(&r);
    out->member_seq = cs_read_u32(&r);
    cs_read_into(&r, out->entry_hash, 32);
    out->highest_epoch = cs_read_u32(&r);
    out->parts = cs_read_u32(&r);
    out->rows = cs_read_u64(&r);
    cs_read_into(&r, out->digest, 32);
    cs_read_into(&r, out->proof, sizeof out->proof);
    out->npeers = cs_read_u32(&r);
    if (r.bad || out->npeers > CS_SNAPSHOT_PEERS_MAX)
        return cs_fail(err, CS_ECORRUPT, "a snapshot's description is too short, or names too many devices");
    out->peers = cs_read_bytes(&r, (size_t)out->npeers * CS_SNAPSHOT_PEER_LEN);
    cs_read_bytes(&r, CS_SIGNATURE_LEN);
    if (!cs_reader_done(&r) || !peers_ascend(out) || out->log_id == 0 || out->number == 0 || out->member_seq == 0 ||
        out->top_stamp < 0)
        return cs_fail(err, CS_ECORRUPT, "a snapshot's description has a wrong length, or devices out of order");
    return CS_OK;
}

bool cs_descriptor_verify(struct cs_slice bytes, const uint8_t sign_pk[32])
{
    size_t n = bytes.len < CS_SIGNATURE_LEN ? 0 : bytes.len - CS_SIGNATURE_LEN;

    return n > 0 && cs_verify(sign_pk, "snapshot", cs_slice(bytes.data, n), bytes.data + n);
}

void cs_attestation_seal(const uint8_t proof[CS_PROOF_LEN], struct cs_slice descriptor, const struct cs_sign_key *key,
                         uint8_t out[CS_ATTESTATION_LEN])
{
    memcpy(out, proof, CS_PROOF_LEN);
    cs_sign(key, "attestation", descriptor, out + CS_PROOF_LEN);
}

struct cs_slice cs_attestation_proof(struct cs_slice bytes)
{
    return bytes.len == CS_PROOF_LEN || bytes.len == CS_ATTESTATION_LEN ? cs_slice(bytes.data, CS_PROOF_LEN)
                                                                        : CS_SLICE_NULL;
}

bool cs_attestation_covers(struct cs_slice bytes, struct cs_slice descriptor, const uint8_t sign_pk[32])
{
    return bytes.len == CS_ATTESTATION_LEN && cs_verify(sign_pk, "attestation", descriptor, bytes.data + CS_PROOF_LEN);
}
