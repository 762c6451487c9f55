#include "crypto/state_proof.h"

#include "crypto/entity_set.h"

static const char magic[4] = { 'C', 'S', 'V', '1' };
enum { USED = 4 + 16 + 16 + 8 + 8 + 32 + 8 + 32 + 8, BOX_AT = 4 + CS_NONCE_LEN };
_Static_assert((int)USED <= (int)CS_PROOF_SIGNED && (int)CS_PROOF_SIGNED + (int)CS_SIGNATURE_LEN == (int)CS_PROOF_PLAIN,
               "the plain bytes fit");

static void box_key(const struct cs_epoch_keys *epoch, const struct cs_uuid *device, uint8_t out[32])
{
    uint8_t state_key[32], context[5 + 16] = { 'p', 'r', 'o', 'o', 'f' };

    memcpy(context + 5, device->b, sizeof device->b);
    cs_state_key(epoch->tag, state_key);
    cs_mac(state_key, cs_slice(context, sizeof context), out, 32);
    cs_wipe(state_key, sizeof state_key);
}

static uint8_t *put(uint8_t *at, const void *p, size_t n)
{
    memcpy(at, p, n);
    return at + n;
}

static uint8_t *put_u64(uint8_t *at, uint64_t v)
{
    cs_store_u64(at, v);
    return at + 8;
}

void cs_state_proof_seal(const struct cs_state_proof *p, const struct cs_sign_key *key,
                         const struct cs_epoch_keys *epoch, const struct cs_rng *rng, uint8_t out[CS_PROOF_LEN])
{
    uint8_t plain[CS_PROOF_PLAIN] = { 0 }, k[32], *at = plain;

    at = put(at, magic, sizeof magic);
    at = put(at, p->workspace.b, sizeof p->workspace.b);
    at = put(at, p->device.b, sizeof p->device.b);
    at = put_u64(put_u64(at, p->log_id), p->number);
    at = put(at, p->log_hash, sizeof p->log_hash);
    at = put_u64(at, p->rows);
    at = put(at, p->root, sizeof p->root);
    put_u64(at, (uint64_t)p->time_ms);
    cs_sign(key, "state proof", cs_slice(plain, CS_PROOF_SIGNED), plain + CS_PROOF_SIGNED);
    cs_store_u32(out, epoch->epoch);
    cs_random(rng, out + 4, CS_NONCE_LEN);
    box_key(epoch, &p->device, k);
    cs_box(k, out + 4, cs_slice(plain, sizeof plain), out + BOX_AT);
    cs_wipe(k, sizeof k);
}

bool cs_state_proof_epoch(struct cs_slice sealed, uint32_t *epoch)
{
    if (sealed.len != CS_PROOF_LEN)
        return false;
    *epoch = cs_load_u32(sealed.data);
    return true;
}

static bool read_plain(struct cs_state_proof *out, const uint8_t plain[CS_PROOF_PLAIN])
{
    struct cs_reader r = cs_reader(cs_slice(plain, CS_PROOF_SIGNED));
    struct cs_slice rest;

    if (!cs_slice_eq(cs_read_bytes(&r, sizeof magic), cs_slice(magic, sizeof magic)))
        return false;
    cs_read_into(&r, out->workspace.b, sizeof out->workspace.b);
    cs_read_into(&r, out->device.b, sizeof out->device.b);
    out->log_id = cs_read_u64(&r);
    out->number = cs_read_u64(&r);
    cs_read_into(&r, out->log_hash, sizeof out->log_hash);
    out->rows = cs_read_u64(&r);
    cs_read_into(&r, out->root, sizeof out->root);
    out->time_ms = (int64_t)cs_read_u64(&r);
    rest = cs_read_bytes(&r, cs_reader_left(&r));
    for (size_t i = 0; i < rest.len; i++)
        if (rest.data[i] != 0)
            return false;
    return !r.bad;
}

int cs_state_proof_open(struct cs_state_proof *out, struct cs_slice sealed, const struct cs_uuid *workspace,
                        const struct cs_uuid *device, const uint8_t sign_pk[32], const struct cs_epoch_keys *epoch,
                        struct cs_error *err)
{
    uint8_t plain[CS_PROOF_PLAIN], k[32];
    bool opened;

    *out = (struct cs_state_proof){ 0 };
    if (sealed.len != CS_PROOF_LEN || cs_load_u32(sealed.data) != epoch->epoch)
        return cs_fail(err, CS_ECORRUPT, "a device's statement about its state has a wrong length or epoch");
    box_key(epoch, device, k);
    opened = cs_box_open(k, sealed.data + 4, cs_slice(sealed.data + BOX_AT, CS_PROOF_PLAIN + CS_BOX_OVERHEAD), plain);
    cs_wipe(k, sizeof k);
    if (!opened || !cs_verify(sign_pk, "state proof", cs_slice(plain, CS_PROOF_SIGNED), plain + CS_PROOF_SIGNED))
        return cs_fail(err, CS_EAUTH, "a statement about a device's state is not that device's");
    if (!read_plain(out, plain) || cs_uuid_cmp(&out->workspace, workspace) != 0 ||
        cs_uuid_cmp(&out->device, device) != 0)
        return cs_fail(err, CS_ECORRUPT, "a device's statement about its state is malformed");
    return CS_OK;
}
