/* Membership entries, against no state and against a workspace of two devices, an invite and a paper. Signatures would
 * stop a fuzzer at the door: by the first byte of the input the entry is linked into the log and signed for it. */
#include "fuzz/fuzz.h"

#include "identity/entry_format.h"
#include "unit/crypto/fixed_world.h"

enum { LINK = 1, POSSESS = 2, BY_DEVICE = 4, BY_INVITE = 8, BY_PAPER = 16 };

struct scene {
    struct fixed_world f;
    struct cs_membership m;
    struct cs_device_keys a, b, invite, paper, newcomer;
    struct cs_buf entry;
};

static void derive(struct cs_device_keys *out, enum cs_principal kind, uint8_t seed, const struct cs_uuid *workspace)
{
    uint8_t secret[32];

    memset(secret, seed, sizeof secret);
    cs_device_keys_derive(out, kind, cs_slice(secret, kind == CS_PRINCIPAL_INVITE ? 16 : 32), workspace);
}

static void take(struct scene *s, int built)
{
    FUZZ_CHECK(built == CS_OK);
    FUZZ_CHECK(cs_membership_apply(&s->m, cs_buf_slice(&s->entry), 0, NULL) == CS_OK);
    cs_buf_reset(&s->entry);
}

static struct scene *scene(void)
{
    static struct scene s;
    static const uint8_t key[32] = { 'k' };
    struct cs_uuid workspace = { "workspace-of-cs" }, a = { "device-a-of-the" }, b = { "device-b-of-the" };
    struct cs_floor floor = { 1, 0, { 0 } };
    struct cs_epoch_keys epoch;

    if (s.m.seq != 0)
        return &s;
    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    fixed_world_init(&s.f);
    derive(&s.a, CS_PRINCIPAL_DEVICE, 1, &workspace);
    derive(&s.newcomer, CS_PRINCIPAL_DEVICE, 2, &workspace);
    derive(&s.invite, CS_PRINCIPAL_INVITE, 3, &workspace);
    derive(&s.paper, CS_PRINCIPAL_PAPER, 4, &workspace);
    derive(&s.b, CS_PRINCIPAL_DEVICE, 5, &workspace);
    cs_epoch_keys_derive(&epoch, key, &workspace, 1);
    take(&s, cs_entry_genesis(&s.entry, &s.f.rng, &workspace, &a, &s.a, "a", &epoch, 1, NULL));
    take(&s, cs_entry_invite(&s.entry, &s.f.rng, &s.m, &a, &s.a, &s.invite, "i", &epoch, &floor, 100, key, 2, NULL));
    take(&s, cs_entry_recovery(&s.entry, &s.f.rng, &s.m, &a, &s.a, &s.paper, "p", &epoch, &floor, 3, NULL));
    take(&s, cs_entry_add(&s.entry, &s.f.rng, &s.m, &a, &s.a, &b, &s.b, "b", &epoch, 4, NULL));
    return &s;
}

/* Makes an entry that only rules can refuse. */
static void doctor(const struct scene *s, uint8_t how, uint8_t *e, size_t len)
{
    const struct cs_member *author = &s->m.members[how & BY_INVITE ? 1 : how & BY_PAPER ? 2 : 0];
    const struct cs_device_keys *keys = how & BY_INVITE ? &s->invite : how & BY_PAPER ? &s->paper : &s->a;

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

        memcpy(record + RECORD_SIGN_PK, s->newcomer.sign.pk, 32);
        possession_message(message, e + ENTRY_WORKSPACE, record);
        cs_sign(&s->newcomer.sign, "possession", cs_slice(message, sizeof message), record + RECORD_POSSESSION);
    }
    if (how & (BY_DEVICE | BY_INVITE | BY_PAPER))
        cs_sign(&keys->sign, "member entry", entry_signed(cs_slice(e, len)), e + len - CS_SIGNATURE_LEN);
}

/* The entry is folded into a copy of the state; what must hold behind any entry that was let in. */
static void fold(const struct scene *s, struct cs_slice e)
{
    struct cs_membership m = s->m;
    const struct cs_member *why;
    uint8_t hash[32], wrap[CS_WRAP_LEN];
    size_t devices = 0;
    struct cs_cut cut;
    uint32_t epoch;

    m.members = malloc(m.cap * sizeof *m.members);
    m.epochs = malloc(m.epochs_cap * sizeof *m.epochs);
    FUZZ_CHECK(m.members != NULL && m.epochs != NULL);
    memcpy(m.members, s->m.members, m.nmembers * sizeof *m.members);
    memcpy(m.epochs, s->m.epochs, m.epoch * sizeof *m.epochs);
    FUZZ_CHECK(cs_membership_apply(&m, e, 0, NULL) == CS_OK);
    FUZZ_CHECK(m.seq == s->m.seq + 1 && cs_entry_seq(e) == m.seq);
    FUZZ_CHECK(cs_entry_hash(e, hash) && memcmp(hash, m.head, 32) == 0);
    FUZZ_CHECK(cs_membership_epoch_at(&m, m.seq) == m.epoch && cs_membership_epoch_at(&m, s->m.seq) == s->m.epoch);
    for (size_t i = 0; i < m.nmembers; i++) {
        const struct cs_member *d = &m.members[i];

        devices += d->kind == CS_PRINCIPAL_DEVICE && d->active;
        FUZZ_CHECK(d->active == (d->ended_seq == 0));
        if (m.epoch_seq == m.seq)
            FUZZ_CHECK((cs_entry_wrap(e, &d->id, &epoch, wrap) == CS_OK) == d->active &&
                       cs_member_has_current_key(&m, d) == d->active);
    }
    FUZZ_CHECK(devices > 0);
    for (size_t i = 0; cs_entry_cut(e, i, &cut); i++)
        FUZZ_CHECK(cs_membership_find(&m, &cut.id)->removed &&
                   !cs_membership_past_cut(&m, &cut.id, cut.number, cut.hash));
    FUZZ_CHECK((cs_membership_duty(&m, 50, &why) == CS_DUTY_NONE) == (why == NULL));
    cs_membership_free(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct scene *s = scene();
    struct cs_membership fresh = { 0 };
    struct cs_recovery_info recovery;
    struct cs_invite_info info;
    uint8_t wrap[CS_WRAP_LEN], *copy;
    struct cs_slice e;
    struct cs_cut cut;
    uint32_t epoch;

    if (size == 0 || (copy = malloc(size)) == NULL)
        return 0;
    memcpy(copy, data + 1, size - 1);
    doctor(s, data[0], copy, size - 1);
    e = cs_slice(copy, size - 1);
    if (cs_membership_check(&s->m, e, 0, NULL) == CS_OK)
        fold(s, e);
    if (cs_membership_apply(&fresh, e, 0, NULL) == CS_OK)
        FUZZ_CHECK(fresh.nmembers == 1 && fresh.seq == 1);
    cs_membership_free(&fresh);
    cs_invite_open(&info, e, &s->invite, NULL);
    cs_recovery_open(&recovery, e, &s->paper, NULL);
    cs_entry_wrap(e, &s->m.members[0].id, &epoch, wrap);
    for (size_t i = 0; cs_entry_cut(e, i, &cut); i++)
        ;
    free(copy);
    return 0;
}
