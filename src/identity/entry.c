#include <stdlib.h>

#include "identity/entry_format.h"

/* The name under a fresh nonce; its box's key is of this id alone. */
static void put_name(uint8_t out[NAME_BOX_LEN], const struct cs_rng *r, const struct cs_uuid *id, const char *name,
                     const struct cs_epoch_keys *epoch)
{
    uint8_t key[32], plain[NAME_PLAIN_LEN] = { 0 };

    plain[0] = (uint8_t)strlen(name);
    memcpy(plain + 1, name, plain[0]);
    cs_mac(epoch->name, cs_slice(id->b, 16), key, sizeof key);
    cs_random(r, out, CS_NONCE_LEN);
    cs_box(key, out, cs_slice(plain, sizeof plain), out + CS_NONCE_LEN);
    cs_wipe(key, sizeof key);
    cs_wipe(plain, sizeof plain);
}

static void put_keys(uint8_t out[CS_RECORD_LEN], enum cs_principal kind, const struct cs_uuid *id,
                     const uint8_t sign_pk[32], const uint8_t box_pk[32])
{
    memcpy(out + RECORD_ID, id->b, 16);
    out[RECORD_KIND] = (uint8_t)kind;
    memset(out + RECORD_ZERO, 0, 3);
    memcpy(out + RECORD_SIGN_PK, sign_pk, 32);
    memcpy(out + RECORD_BOX_PK, box_pk, 32);
}

static void sign_possession(uint8_t record[CS_RECORD_LEN], const struct cs_uuid *workspace, const struct cs_sign_key *k)
{
    uint8_t message[POSSESSION_LEN];

    possession_message(message, workspace->b, record);
    cs_sign(k, "possession", cs_slice(message, sizeof message), record + RECORD_POSSESSION);
}

static void put_record(uint8_t out[CS_RECORD_LEN], const struct cs_rng *r, const struct cs_uuid *workspace,
                       enum cs_principal kind, const struct cs_uuid *id, const struct cs_device_keys *keys,
                       const char *name, const struct cs_epoch_keys *epoch)
{
    put_keys(out, kind, id, keys->sign.pk, keys->box_pk);
    sign_possession(out, workspace, &keys->sign);
    cs_store_u32(out + RECORD_NAME_EPOCH, epoch->epoch);
    put_name(out + RECORD_NAME, r, id, name, epoch);
}

static void put_prefix(uint8_t out[CS_ENTRY_PREFIX_LEN], enum cs_entry_type type, const struct cs_uuid *workspace,
                       const struct cs_membership *m, size_t body_len, const struct cs_uuid *author, int64_t now_ms)
{
    memcpy(out, "CSM1", 4);
    out[ENTRY_TYPE] = (uint8_t)type;
    memset(out + ENTRY_ZERO, 0, 3);
    memcpy(out + ENTRY_WORKSPACE, workspace->b, 16);
    cs_store_u32(out + ENTRY_SEQ, m->seq + 1);
    cs_store_u32(out + ENTRY_BODY_LEN, (uint32_t)body_len);
    memcpy(out + ENTRY_PREV, m->head, 32);
    memcpy(out + ENTRY_AUTHOR, author->b, 16);
    cs_store_u64(out + ENTRY_TIME, (uint64_t)now_ms);
}

/* Signs, checks as any receiver would, and appends. */
static int finish(struct cs_buf *out, uint8_t *entry, size_t body_len, const struct cs_membership *m,
                  const struct cs_sign_key *author, struct cs_error *err)
{
    struct cs_slice e = cs_slice(entry, CS_ENTRY_PREFIX_LEN + body_len + CS_SIGNATURE_LEN);
    int rc;

    cs_sign(author, "member entry", entry_signed(e), entry + CS_ENTRY_PREFIX_LEN + body_len);
    if ((rc = cs_membership_check(m, e, 0, err)) < 0)
        return rc;
    cs_buf_put_slice(out, e);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory; the membership entry was not written") : CS_OK;
}

static int check_name(const char *name, struct cs_error *err)
{
    if (strlen(name) >= NAME_PLAIN_LEN)
        return cs_fail(err, CS_EINVAL, "name of %zu bytes, allowed are %d; nothing was written", strlen(name),
                       NAME_PLAIN_LEN - 1);
    return CS_OK;
}

static int bad_key(struct cs_error *err)
{
    return cs_fail(err, CS_EAUTH, "the new member's encryption key is not a usable one; nothing was written");
}

int cs_entry_genesis(struct cs_buf *out, const struct cs_rng *r, const struct cs_uuid *workspace,
                     const struct cs_uuid *id, const struct cs_device_keys *keys, const char *name,
                     const struct cs_epoch_keys *epoch1, int64_t now_ms, struct cs_error *err)
{
    uint8_t entry[CS_ENTRY_PREFIX_LEN + GENESIS_LEN + CS_SIGNATURE_LEN], *body = entry + CS_ENTRY_PREFIX_LEN;
    struct cs_membership none = { .workspace = *workspace };
    int rc;

    if ((rc = check_name(name, err)) < 0)
        return rc;
    put_prefix(entry, CS_ENTRY_GENESIS, workspace, &none, GENESIS_LEN, id, now_ms);
    put_record(body, r, workspace, CS_PRINCIPAL_DEVICE, id, keys, name, epoch1);
    cs_store_u32(body + GENESIS_EPOCH, epoch1->epoch);
    memcpy(body + GENESIS_COMMITMENT, epoch1->commitment, 32);
    memset(body + GENESIS_HISTORY, 0, 48);
    cs_store_u16(body + GENESIS_COUNT, 1);
    memcpy(body + GENESIS_WRAP_ID, id->b, 16);
    if (!cs_seal(r, keys->box_pk, cs_slice(epoch1->key, 32), body + GENESIS_WRAP))
        return bad_key(err);
    return finish(out, entry, GENESIS_LEN, &none, &keys->sign, err);
}

static void put_floor(uint8_t out[CS_FLOOR_LEN], const struct cs_floor *floor)
{
    cs_store_u64(out, floor->log_id);
    cs_store_u64(out + 8, floor->number);
    memcpy(out + 16, floor->log_hash, 32);
}

int cs_entry_invite(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                    const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                    const struct cs_device_keys *invite, const char *name, const struct cs_epoch_keys *epoch,
                    const struct cs_floor *floor, int64_t expires_ms, const uint8_t hub_key[32], int64_t now_ms,
                    struct cs_error *err)
{
    uint8_t entry[CS_ENTRY_PREFIX_LEN + INVITE_LEN + CS_SIGNATURE_LEN], *body = entry + CS_ENTRY_PREFIX_LEN;
    int rc;

    if ((rc = check_name(name, err)) < 0)
        return rc;
    put_prefix(entry, CS_ENTRY_INVITE, &m->workspace, m, INVITE_LEN, author, now_ms);
    put_record(body, r, &m->workspace, CS_PRINCIPAL_INVITE, &invite->id, invite, name, epoch);
    cs_store_u32(body + ADD_EPOCH, epoch->epoch);
    if (!cs_seal(r, invite->box_pk, cs_slice(epoch->key, 32), body + ADD_WRAP))
        return bad_key(err);
    put_floor(body + INVITE_FLOOR, floor);
    cs_store_u64(body + INVITE_EXPIRES, (uint64_t)expires_ms);
    memcpy(body + INVITE_HUB_KEY, hub_key, 32);
    cs_mac(invite->vouch, cs_slice(entry, CS_ENTRY_PREFIX_LEN + INVITE_VOUCH), body + INVITE_VOUCH, 32);
    return finish(out, entry, INVITE_LEN, m, &author_keys->sign, err);
}

int cs_entry_recovery(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                      const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                      const struct cs_device_keys *paper, const char *name, const struct cs_epoch_keys *epoch,
                      const struct cs_floor *floor, int64_t now_ms, struct cs_error *err)
{
    uint8_t entry[CS_ENTRY_PREFIX_LEN + RECOVERY_LEN + CS_SIGNATURE_LEN], *body = entry + CS_ENTRY_PREFIX_LEN;
    int rc;

    if ((rc = check_name(name, err)) < 0)
        return rc;
    put_prefix(entry, CS_ENTRY_RECOVERY, &m->workspace, m, RECOVERY_LEN, author, now_ms);
    put_record(body, r, &m->workspace, CS_PRINCIPAL_PAPER, &paper->id, paper, name, epoch);
    cs_store_u32(body + ADD_EPOCH, epoch->epoch);
    if (!cs_seal(r, paper->box_pk, cs_slice(epoch->key, 32), body + ADD_WRAP))
        return bad_key(err);
    put_floor(body + RECOVERY_FLOOR, floor);
    cs_mac(paper->vouch, cs_slice(entry, CS_ENTRY_PREFIX_LEN + RECOVERY_VOUCH), body + RECOVERY_VOUCH, 32);
    return finish(out, entry, RECOVERY_LEN, m, &author_keys->sign, err);
}

void cs_candidate_make(struct cs_candidate *out, const struct cs_uuid *workspace, const struct cs_uuid *id,
                       const struct cs_device_keys *keys)
{
    uint8_t record[CS_RECORD_LEN];

    put_keys(record, CS_PRINCIPAL_DEVICE, id, keys->sign.pk, keys->box_pk);
    sign_possession(record, workspace, &keys->sign);
    out->id = *id;
    memcpy(out->sign_pk, keys->sign.pk, 32);
    memcpy(out->box_pk, keys->box_pk, 32);
    memcpy(out->possession, record + RECORD_POSSESSION, CS_SIGNATURE_LEN);
}

bool cs_candidate_verify(const struct cs_candidate *c, const struct cs_uuid *workspace)
{
    uint8_t record[CS_RECORD_LEN], message[POSSESSION_LEN];

    put_keys(record, CS_PRINCIPAL_DEVICE, &c->id, c->sign_pk, c->box_pk);
    possession_message(message, workspace->b, record);
    return cs_verify(c->sign_pk, "possession", cs_slice(message, sizeof message), c->possession);
}

int cs_entry_admit(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                   const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                   const struct cs_candidate *candidate, const char *name, const struct cs_epoch_keys *epoch,
                   int64_t now_ms, struct cs_error *err)
{
    uint8_t entry[CS_ENTRY_PREFIX_LEN + ADD_LEN + CS_SIGNATURE_LEN], *body = entry + CS_ENTRY_PREFIX_LEN;
    int rc;

    if ((rc = check_name(name, err)) < 0)
        return rc;
    put_prefix(entry, CS_ENTRY_ADD, &m->workspace, m, ADD_LEN, author, now_ms);
    put_keys(body, CS_PRINCIPAL_DEVICE, &candidate->id, candidate->sign_pk, candidate->box_pk);
    memcpy(body + RECORD_POSSESSION, candidate->possession, CS_SIGNATURE_LEN);
    cs_store_u32(body + RECORD_NAME_EPOCH, epoch->epoch);
    put_name(body + RECORD_NAME, r, &candidate->id, name, epoch);
    cs_store_u32(body + ADD_EPOCH, epoch->epoch);
    if (!cs_seal(r, candidate->box_pk, cs_slice(epoch->key, 32), body + ADD_WRAP))
        return bad_key(err);
    return finish(out, entry, ADD_LEN, m, &author_keys->sign, err);
}

int cs_entry_add(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                 const struct cs_uuid *author, const struct cs_device_keys *author_keys, const struct cs_uuid *id,
                 const struct cs_device_keys *keys, const char *name, const struct cs_epoch_keys *epoch, int64_t now_ms,
                 struct cs_error *err)
{
    uint8_t entry[CS_ENTRY_PREFIX_LEN + ADD_LEN + CS_SIGNATURE_LEN], *body = entry + CS_ENTRY_PREFIX_LEN;
    int rc;

    if ((rc = check_name(name, err)) < 0)
        return rc;
    put_prefix(entry, CS_ENTRY_ADD, &m->workspace, m, ADD_LEN, author, now_ms);
    put_record(body, r, &m->workspace, CS_PRINCIPAL_DEVICE, id, keys, name, epoch);
    cs_store_u32(body + ADD_EPOCH, epoch->epoch);
    if (!cs_seal(r, keys->box_pk, cs_slice(epoch->key, 32), body + ADD_WRAP))
        return bad_key(err);
    return finish(out, entry, ADD_LEN, m, &author_keys->sign, err);
}

int cs_entry_rename(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                    const struct cs_uuid *author, const struct cs_device_keys *author_keys, const struct cs_uuid *id,
                    const char *name, const struct cs_epoch_keys *epoch, int64_t now_ms, struct cs_error *err)
{
    uint8_t entry[CS_ENTRY_PREFIX_LEN + RENAME_LEN + CS_SIGNATURE_LEN], *body = entry + CS_ENTRY_PREFIX_LEN;
    int rc;

    if ((rc = check_name(name, err)) < 0)
        return rc;
    put_prefix(entry, CS_ENTRY_RENAME, &m->workspace, m, RENAME_LEN, author, now_ms);
    memcpy(body + RENAME_ID, id->b, 16);
    cs_store_u32(body + RENAME_NAME_EPOCH, epoch->epoch);
    put_name(body + RENAME_NAME, r, id, name, epoch);
    return finish(out, entry, RENAME_LEN, m, &author_keys->sign, err);
}

int cs_entry_refill(struct cs_buf *out, const struct cs_membership *m, const struct cs_uuid *author,
                    const struct cs_device_keys *author_keys, const struct cs_floor *from, const struct cs_floor *to,
                    const struct cs_cut *heads, size_t nheads, int64_t now_ms, struct cs_error *err)
{
    enum { MOST = (CS_ENTRY_MAX - CS_ENTRY_PREFIX_LEN - CS_SIGNATURE_LEN - REFILL_HEADS) / CUT_LEN };
    size_t n = nheads < MOST ? nheads : MOST, body_len = REFILL_HEADS + n * CUT_LEN;
    struct cs_buf entry = { 0 };
    uint8_t *e = cs_buf_grow(&entry, CS_ENTRY_PREFIX_LEN + body_len + CS_SIGNATURE_LEN), *body;
    int rc;

    if (e == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the membership entry was not written");
    body = e + CS_ENTRY_PREFIX_LEN;
    put_prefix(e, CS_ENTRY_REFILL, &m->workspace, m, body_len, author, now_ms);
    put_floor(body + REFILL_FROM, from);
    put_floor(body + REFILL_TO, to);
    cs_store_u16(body + REFILL_COUNT, (uint16_t)n);
    for (size_t i = 0; i < n; i++) {
        uint8_t *head = body + REFILL_HEADS + i * CUT_LEN;

        memcpy(head, heads[i].id.b, 16);
        cs_store_u64(head + CUT_NUMBER, heads[i].number);
        memcpy(head + CUT_HASH, heads[i].hash, 32);
    }
    rc = finish(out, e, body_len, m, &author_keys->sign, err);
    cs_buf_free(&entry);
    return rc;
}

/* ---- the next epoch ---- */

static int by_id(const void *a, const void *b)
{
    return memcmp(a, b, 16); /* cuts and wraps begin with an id */
}

/* Will it be active behind an entry with these cuts? */
static bool stays(const struct cs_member *d, struct cs_slice cuts)
{
    if (!d->active)
        return false;
    for (size_t at = 0; at < cuts.len; at += CUT_LEN)
        if (memcmp(cuts.data + at, d->id.b, 16) == 0 ||
            (d->kind == CS_PRINCIPAL_INVITE && memcmp(cuts.data + at, d->added_by.b, 16) == 0))
            return false;
    return true;
}

/* Appended to body, which holds the cuts, if any. */
static int put_epoch_block(struct cs_buf *body, const struct cs_rng *r, const struct cs_membership *m,
                           const struct cs_epoch_keys *current, const struct cs_epoch_keys *next, struct cs_error *err)
{
    static const uint8_t nonce[CS_NONCE_LEN] = { 0 };
    size_t at = body->len, n = 0;
    struct cs_slice cuts = at == 0 ? CS_SLICE_NULL : cs_slice(body->data + REMOVE_CUTS, at - REMOVE_CUTS);
    uint8_t *b, *wrap;

    for (size_t i = 0; i < m->nmembers; i++)
        n += stays(&m->members[i], cuts);
    if (n > UINT16_MAX || (b = cs_buf_grow(body, EPOCH_WRAPS + n * EPOCH_WRAP_LEN)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the membership entry was not written");
    cuts = at == 0 ? cuts : cs_slice(body->data + REMOVE_CUTS, at - REMOVE_CUTS);
    cs_store_u32(b + EPOCH_NUMBER, next->epoch);
    memcpy(b + EPOCH_COMMITMENT, next->commitment, 32);
    cs_box(next->history, nonce, cs_slice(current->key, 32), b + EPOCH_HISTORY);
    cs_store_u16(b + EPOCH_COUNT, (uint16_t)n);
    wrap = b + EPOCH_WRAPS;
    for (size_t i = 0; i < m->nmembers; i++) {
        if (!stays(&m->members[i], cuts))
            continue;
        memcpy(wrap, m->members[i].id.b, 16);
        if (!cs_seal(r, m->members[i].box_pk, cs_slice(next->key, 32), wrap + 16))
            return bad_key(err);
        wrap += EPOCH_WRAP_LEN;
    }
    qsort(b + EPOCH_WRAPS, n, EPOCH_WRAP_LEN, by_id);
    return CS_OK;
}

/* A fresh key for the epoch behind m's, and the entry that begins it: body holds the cuts. */
static int next_epoch(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                      enum cs_entry_type type, const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                      struct cs_buf *body, const struct cs_epoch_keys *current, struct cs_epoch_keys *next,
                      int64_t now_ms, struct cs_error *err)
{
    struct cs_buf entry = { 0 };
    uint8_t key[32], *e;
    int rc;

    memset(next, 0, sizeof *next);
    if (current->epoch != m->epoch || !cs_secret_eq(current->commitment, m->commitment, 32))
        return cs_fail(err, CS_EINVAL, "the key at hand is not that of epoch %u; nothing was written", m->epoch);
    cs_random(r, key, sizeof key);
    cs_epoch_keys_derive(next, key, &m->workspace, m->epoch + 1);
    cs_wipe(key, sizeof key);
    rc = put_epoch_block(body, r, m, current, next, err);
    if (rc == CS_OK && (e = cs_buf_grow(&entry, CS_ENTRY_PREFIX_LEN + body->len + CS_SIGNATURE_LEN)) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory; the membership entry was not written");
    if (rc == CS_OK) {
        put_prefix(e, type, &m->workspace, m, body->len, author, now_ms);
        memcpy(e + CS_ENTRY_PREFIX_LEN, body->data, body->len);
        rc = finish(out, e, body->len, m, &author_keys->sign, err);
    }
    if (rc != CS_OK)
        cs_wipe(next, sizeof *next);
    cs_buf_free(&entry);
    return rc;
}

int cs_entry_rotate(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                    const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                    const struct cs_epoch_keys *current, struct cs_epoch_keys *next, int64_t now_ms,
                    struct cs_error *err)
{
    struct cs_buf body = { 0 };
    int rc = next_epoch(out, r, m, CS_ENTRY_ROTATE, author, author_keys, &body, current, next, now_ms, err);

    cs_buf_free(&body);
    return rc;
}

int cs_entry_remove(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                    const struct cs_uuid *author, const struct cs_device_keys *author_keys, const struct cs_cut *cuts,
                    size_t ncuts, const struct cs_epoch_keys *current, struct cs_epoch_keys *next, int64_t now_ms,
                    struct cs_error *err)
{
    struct cs_buf body = { 0 };
    int rc;

    if (ncuts > (CS_ENTRY_MAX - REMOVE_CUTS) / CUT_LEN)
        return cs_fail(err, CS_ELIMIT, "%zu removals are too many for one entry; nothing was written", ncuts);
    cs_buf_put_u16(&body, (uint16_t)ncuts);
    for (size_t i = 0; i < ncuts; i++) {
        cs_buf_put(&body, cuts[i].id.b, 16);
        cs_buf_put_u64(&body, cuts[i].number);
        cs_buf_put(&body, cuts[i].hash, 32);
    }
    if (body.failed) {
        rc = cs_fail(err, CS_ENOMEM, "out of memory; the membership entry was not written");
    } else {
        qsort(body.data + REMOVE_CUTS, ncuts, CUT_LEN, by_id);
        rc = next_epoch(out, r, m, CS_ENTRY_REMOVE, author, author_keys, &body, current, next, now_ms, err);
    }
    cs_buf_free(&body);
    return rc;
}
