/* What a hub gives as a device's statement about its state, and what it gives as leaves and ranges. The first byte
 * chooses: the sealed bytes as they come, a true statement with some bytes changed, or leaves and ranges. */
#include "fuzz/fuzz.h"

#include "crypto/entity_set.h"
#include "crypto/state_proof.h"
#include "unit/crypto/fixed_world.h"

enum { AS_IT_COMES = 0, CHANGED = 1, LEAVES = 2 };

struct scene {
    struct fixed_world f;
    struct cs_device_keys keys;
    struct cs_epoch_keys epoch;
    struct cs_state_proof proof;
    uint8_t sealed[CS_PROOF_LEN];
    bool made;
};

static const struct scene *scene(void)
{
    static const uint8_t secret[32] = { 1 }, key[32] = { 2 };
    static struct scene s;

    if (s.made)
        return &s;
    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    fixed_world_init(&s.f);
    s.proof = (struct cs_state_proof){ .workspace = { { 1 } }, .device = { { 2 } }, .log_id = 3, .number = 4 };
    cs_device_keys_derive(&s.keys, CS_PRINCIPAL_DEVICE, cs_slice(secret, 32), &s.proof.workspace);
    cs_epoch_keys_derive(&s.epoch, key, &s.proof.workspace, 1);
    cs_state_proof_seal(&s.proof, &s.keys.sign, &s.epoch, &s.f.rng, s.sealed);
    s.made = true;
    return &s;
}

/* Nothing opens but what was sealed. */
static void open_it(const struct scene *s, struct cs_slice sealed)
{
    struct cs_state_proof out;
    uint32_t epoch;
    bool same = cs_slice_eq(sealed, cs_slice(s->sealed, sizeof s->sealed));

    FUZZ_CHECK(cs_state_proof_epoch(sealed, &epoch) == (sealed.len == CS_PROOF_LEN));
    FUZZ_CHECK((cs_state_proof_open(&out, sealed, &s->proof.workspace, &s->proof.device, s->keys.sign.pk, &s->epoch,
                                    NULL) == CS_OK) == same);
}

static bool count(void *arg, enum cs_leaf_difference d, const uint8_t tag[CS_TAG_LEN])
{
    (void)d;
    (void)tag;
    ++*(size_t *)arg;
    return true;
}

static void leaves(struct cs_slice m)
{
    uint32_t bucket = m.len < 2 ? 0 : cs_load_u16(m.data);
    struct cs_range range;
    size_t n = 0, all = m.len / CS_LEAF_LEN;

    if (m.len >= CS_RANGE_LEN && cs_range_read(&range, m.data))
        FUZZ_CHECK(cs_range_first(&range) <= cs_range_last(&range) && cs_range_last(&range) < CS_BUCKETS);
    if (!cs_leaves_valid(m, bucket))
        return;
    FUZZ_CHECK(cs_leaves_compare(m, CS_SLICE_NULL, count, &n) && n == all);
    FUZZ_CHECK(cs_leaves_compare(m, m, count, &n) && n == all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct scene *s = scene();
    uint8_t changed[CS_PROOF_LEN];

    if (size == 0)
        return 0;
    switch (data[0] % 3) {
    case AS_IT_COMES:
        open_it(s, cs_slice(data + 1, size - 1));
        break;
    case CHANGED: /* pairs of place (two bytes) and what is added there */
        memcpy(changed, s->sealed, sizeof changed);
        for (size_t i = 1; i + 3 <= size; i += 3)
            changed[(size_t)cs_load_u16(data + i) % sizeof changed] ^= data[i + 2];
        open_it(s, cs_slice(changed, sizeof changed));
        break;
    default:
        leaves(cs_slice(data + 1, size - 1));
    }
    return 0;
}
