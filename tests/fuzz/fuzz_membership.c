/* Membership entries, against no state and against a workspace of one device and one invite. Signatures would stop a
 * fuzzer at the door: by the first byte of the input the entry is linked into the log and signed for it. */
#include "fuzz/fuzz.h"

#include "identity/entry_format.h"
#include "unit/crypto/fixed_world.h"

enum { LINK = 1, POSSESS = 2, BY_DEVICE = 4, BY_INVITE = 8 };

struct scene {
    struct fixed_world f;
    struct cs_membership m;
    struct cs_device_keys a, b, invite;
};

static void derive(struct cs_device_keys *out, enum cs_principal kind, uint8_t seed, const struct cs_uuid *workspace)
{
    uint8_t secret[32];

    memset(secret, seed, sizeof secret);
    cs_device_keys_derive(out, kind, cs_slice(secret, kind == CS_PRINCIPAL_INVITE ? 16 : 32), workspace);
}

static struct scene *scene(void)
{
    static struct scene s;
    static const uint8_t key[32] = { 'k' };
    struct cs_uuid workspace = { "workspace-of-cs" }, id = { "device-a-of-the" };
    struct cs_floor floor = { 1, 0, { 0 } };
    struct cs_epoch_keys epoch;
    struct cs_buf entry = { 0 };

    if (s.m.seq != 0)
        return &s;
    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    fixed_world_init(&s.f);
    derive(&s.a, CS_PRINCIPAL_DEVICE, 1, &workspace);
    derive(&s.b, CS_PRINCIPAL_DEVICE, 2, &workspace);
    derive(&s.invite, CS_PRINCIPAL_INVITE, 3, &workspace);
    cs_epoch_keys_derive(&epoch, key, &workspace, 1);
    FUZZ_CHECK(cs_entry_genesis(&entry, &s.f.rng, &workspace, &id, &s.a, "a", &epoch, 1, NULL) == CS_OK);
    FUZZ_CHECK(cs_membership_apply(&s.m, cs_buf_slice(&entry), 0, NULL) == CS_OK);
    cs_buf_reset(&entry);
    FUZZ_CHECK(cs_entry_invite(&entry, &s.f.rng, &s.m, &id, &s.a, &s.invite, "i", &epoch, &floor, 100, key, 2, NULL) ==
               CS_OK);
    FUZZ_CHECK(cs_membership_apply(&s.m, cs_buf_slice(&entry), 0, NULL) == CS_OK);
    cs_buf_free(&entry);
    return &s;
}

/* Makes an entry that only rules can refuse. */
static void doctor(const struct scene *s, uint8_t how, uint8_t *e, size_t len)
{
    const struct cs_member *author = &s->m.members[how & BY_INVITE ? 1 : 0];

    if (len < CS_ENTRY_PREFIX_LEN + CS_SIGNATURE_LEN)
        return;
    if (how & LINK) {
        memcpy(e, "CSM1", 4);
        memcpy(e + ENTRY_WORKSPACE, s->m.workspace.b, 16);
        cs_store_u32(e + ENTRY_SEQ, s->m.seq + 1);
        cs_store_u32(e + ENTRY_BODY_LEN, (uint32_t)(len - CS_ENTRY_PREFIX_LEN - CS_SIGNATURE_LEN));
        memcpy(e + ENTRY_PREV, s->m.head, 32);
        memcpy(e + ENTRY_AUTHOR, author->id.b, 16);
    }
    if ((how & POSSESS) && len >= CS_ENTRY_PREFIX_LEN + CS_RECORD_LEN + CS_SIGNATURE_LEN) {
        uint8_t message[POSSESSION_LEN], *record = e + CS_ENTRY_PREFIX_LEN;

        memcpy(record + RECORD_SIGN_PK, s->b.sign.pk, 32);
        possession_message(message, e + ENTRY_WORKSPACE, record);
        cs_sign(&s->b.sign, "possession", cs_slice(message, sizeof message), record + RECORD_POSSESSION);
    }
    if (how & (BY_DEVICE | BY_INVITE))
        cs_sign(how & BY_INVITE ? &s->invite.sign : &s->a.sign, "member entry", entry_signed(cs_slice(e, len)),
                e + len - CS_SIGNATURE_LEN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct scene *s = scene();
    struct cs_membership fresh = { 0 };
    struct cs_invite_info info;
    uint8_t wrap[CS_WRAP_LEN], hash[32], *copy;
    struct cs_slice e;
    uint32_t epoch;

    if (size == 0 || (copy = malloc(size)) == NULL)
        return 0;
    memcpy(copy, data + 1, size - 1);
    doctor(s, data[0], copy, size - 1);
    e = cs_slice(copy, size - 1);
    if (cs_membership_check(&s->m, e, 0, NULL) == CS_OK) {
        FUZZ_CHECK(cs_entry_seq(e) == s->m.seq + 1);
        FUZZ_CHECK(cs_entry_hash(e, hash));
    }
    if (cs_membership_apply(&fresh, e, 0, NULL) == CS_OK)
        FUZZ_CHECK(fresh.nmembers == 1 && fresh.seq == 1);
    cs_membership_free(&fresh);
    cs_invite_open(&info, e, &s->invite, NULL);
    cs_entry_wrap(e, &s->m.members[0].id, &epoch, wrap);
    free(copy);
    return 0;
}
