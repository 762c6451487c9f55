#include "crypto/keys.h"

#include <assert.h>
#include <sodium.h>

int cs_crypto_init(struct cs_error *err)
{
    if (sodium_init() < 0)
        return cs_fail(err, CS_EINTERNAL, "cannot set up the cryptographic library; nothing was started");
    return CS_OK;
}

void cs_sign_key_from_seed(struct cs_sign_key *k, const uint8_t seed[32])
{
    memmove(k->seed, seed, sizeof k->seed);
    crypto_sign_seed_keypair(k->pk, k->sk, k->seed);
}

void cs_sign_digest(const struct cs_sign_key *k, const uint8_t hash[CS_HASH_LEN], uint8_t out[CS_SIGNATURE_LEN])
{
    crypto_sign_detached(out, NULL, hash, CS_HASH_LEN, k->sk);
}

bool cs_verify_digest(const uint8_t pk[32], const uint8_t hash[CS_HASH_LEN], const uint8_t sig[CS_SIGNATURE_LEN])
{
    return crypto_sign_verify_detached(sig, hash, CS_HASH_LEN, pk) == 0;
}

void cs_sign(const struct cs_sign_key *k, const char *label, struct cs_slice m, uint8_t out[CS_SIGNATURE_LEN])
{
    uint8_t hash[CS_HASH_LEN];

    cs_hash_label(label, m, hash);
    cs_sign_digest(k, hash, out);
}

bool cs_verify(const uint8_t pk[32], const char *label, struct cs_slice m, const uint8_t sig[CS_SIGNATURE_LEN])
{
    uint8_t hash[CS_HASH_LEN];

    cs_hash_label(label, m, hash);
    return cs_verify_digest(pk, hash, sig);
}

void cs_box_public(const uint8_t secret[32], uint8_t pk[32])
{
    crypto_scalarmult_base(pk, secret);
}

bool cs_dh(const uint8_t secret[32], const uint8_t pk[32], uint8_t out[32])
{
    return crypto_scalarmult(out, secret, pk) == 0;
}

void cs_box(const uint8_t key[32], const uint8_t nonce[24], struct cs_slice m, uint8_t *out)
{
    crypto_secretbox_easy(out, m.data, m.len, nonce, key);
}

bool cs_box_open(const uint8_t key[32], const uint8_t nonce[24], struct cs_slice boxed, uint8_t *out)
{
    return boxed.len >= CS_BOX_OVERHEAD && crypto_secretbox_open_easy(out, boxed.data, boxed.len, nonce, key) == 0;
}

/* What crypto_box_seal does, but with an ephemeral secret of our own: ephemeral key ‖ crypto_box under the nonce
 * generichash(ephemeral key ‖ pk). */
bool cs_seal(const struct cs_rng *r, const uint8_t pk[32], struct cs_slice m, uint8_t *out)
{
    uint8_t secret[32], both[64], nonce[CS_NONCE_LEN];
    bool ok;

    cs_random(r, secret, sizeof secret);
    cs_box_public(secret, both);
    memcpy(both + 32, pk, 32);
    crypto_generichash(nonce, sizeof nonce, both, sizeof both, NULL, 0);
    ok = crypto_box_easy(out + 32, m.data, m.len, nonce, pk, secret) == 0;
    memcpy(out, both, 32);
    cs_wipe(secret, sizeof secret);
    return ok;
}

bool cs_seal_open(const uint8_t secret[32], const uint8_t pk[32], struct cs_slice sealed, uint8_t *out)
{
    return sealed.len >= CS_SEAL_OVERHEAD && crypto_box_seal_open(out, sealed.data, sealed.len, pk, secret) == 0;
}

void cs_wipe(void *p, size_t n)
{
    if (n != 0)
        sodium_memzero(p, n);
}

bool cs_secret_eq(const void *a, const void *b, size_t n)
{
    return sodium_memcmp(a, b, n) == 0;
}

void *cs_secret_alloc(size_t n)
{
    /* the block ends at a guard page, so only a rounded size leaves its start aligned */
    if (n > SIZE_MAX / 2)
        return NULL;
    return sodium_malloc((n + 15) / 16 * 16);
}

void cs_secret_free(void *p)
{
    sodium_free(p);
}

void cs_epoch_keys_derive(struct cs_epoch_keys *out, const uint8_t key[32], const struct cs_uuid *workspace,
                          uint32_t epoch)
{
    uint8_t e[32 + 16 + 4] = { 0 };
    struct cs_slice m = cs_slice(e, sizeof e);

    memcpy(e, key, 32);
    memcpy(e + 32, workspace->b, 16);
    cs_store_u32(e + 48, epoch);
    out->epoch = epoch;
    memcpy(out->key, e, 32);
    cs_hash_label("batch key", m, out->batch);
    cs_hash_label("nonce key", m, out->nonce);
    cs_hash_label("history key", m, out->history);
    cs_hash_label("name key", m, out->name);
    cs_hash_label("value key", m, out->value);
    cs_hash_label("tag key", m, out->tag);
    cs_hash_label("epoch commitment", m, out->commitment);
    cs_wipe(e, sizeof e);
}

/* The labels of one kind of principal; NULL: it has no such key. */
static const struct {
    size_t secret_len;
    const char *sign, *box, *local, *hedge, *vouch, *id;
} principals[] = {
    [CS_PRINCIPAL_DEVICE] = { 32, "device sign", "device box", "device local", "device hedge", NULL, NULL },
    [CS_PRINCIPAL_PAPER] = { 32, "recovery sign", "recovery box", NULL, NULL, "recovery vouch", "recovery id" },
    [CS_PRINCIPAL_INVITE] = { 16, "invite sign", "invite box", NULL, NULL, "invite vouch", "invite id" },
};

static void derive(const char *label, struct cs_slice p, uint8_t out[32])
{
    if (label != NULL)
        cs_hash_label(label, p, out);
}

void cs_device_keys_derive(struct cs_device_keys *out, enum cs_principal kind, struct cs_slice secret,
                           const struct cs_uuid *workspace)
{
    uint8_t p[32 + 16] = { 0 }, tmp[32] = { 0 };
    struct cs_slice m = cs_slice(p, secret.len + 16);

    assert(kind >= CS_PRINCIPAL_DEVICE && kind <= CS_PRINCIPAL_INVITE && secret.len == principals[kind].secret_len);
    memcpy(p, secret.data, secret.len);
    memcpy(p + secret.len, workspace->b, 16);

    memset(out->local, 0, sizeof out->local);
    memset(out->hedge, 0, sizeof out->hedge);
    memset(out->vouch, 0, sizeof out->vouch);
    derive(principals[kind].sign, m, tmp);
    cs_sign_key_from_seed(&out->sign, tmp);
    derive(principals[kind].box, m, out->box_secret);
    cs_box_public(out->box_secret, out->box_pk);
    derive(principals[kind].local, m, out->local);
    derive(principals[kind].hedge, m, out->hedge);
    derive(principals[kind].vouch, m, out->vouch);
    if (principals[kind].id != NULL) {
        derive(principals[kind].id, m, tmp);
        memcpy(out->id.b, tmp, sizeof out->id.b);
    }
    cs_wipe(p, sizeof p);
    cs_wipe(tmp, sizeof tmp);
}
