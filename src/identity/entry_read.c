/* Reading entries without a state. */
#include "identity/entry_format.h"

bool cs_entry_hash(struct cs_slice entry, uint8_t out[32])
{
    if (entry.len < CS_ENTRY_PREFIX_LEN + CS_SIGNATURE_LEN)
        return false;
    cs_hash_label("member entry", entry_signed(entry), out);
    return true;
}

uint32_t cs_entry_seq(struct cs_slice entry)
{
    return entry_whole(entry) ? cs_load_u32(entry.data + ENTRY_SEQ) : 0;
}

bool cs_entry_cut(struct cs_slice entry, size_t i, struct cs_cut *out)
{
    struct cs_slice cuts;

    if (!entry_whole(entry) || entry.data[ENTRY_TYPE] != CS_ENTRY_REMOVE || !remove_cuts(entry_body(entry), &cuts) ||
        i >= cuts.len / CUT_LEN)
        return false;
    *out = cut_load(cuts.data + i * CUT_LEN);
    return true;
}

static int block_wrap(struct cs_slice block, const struct cs_uuid *id, uint32_t *epoch, uint8_t wrap[CS_WRAP_LEN])
{
    for (size_t at = EPOCH_WRAPS; at < block.len; at += EPOCH_WRAP_LEN)
        if (memcmp(block.data + at, id->b, 16) == 0) {
            *epoch = cs_load_u32(block.data + EPOCH_NUMBER);
            memcpy(wrap, block.data + at + 16, CS_WRAP_LEN);
            return CS_OK;
        }
    return CS_ENOTFOUND;
}

int cs_entry_wrap(struct cs_slice entry, const struct cs_uuid *id, uint32_t *epoch, uint8_t wrap[CS_WRAP_LEN])
{
    struct cs_slice body, block;
    uint8_t type;

    if (!entry_whole(entry))
        return CS_ENOTFOUND;
    body = entry_body(entry);
    type = entry.data[ENTRY_TYPE];
    if (entry_epoch_block(type, body, &block))
        return block_wrap(block, id, epoch, wrap);
    if (!(type == CS_ENTRY_INVITE && body.len == INVITE_LEN) && !(type == CS_ENTRY_ADD && body.len == ADD_LEN) &&
        !(type == CS_ENTRY_RECOVERY && body.len == RECOVERY_LEN))
        return CS_ENOTFOUND;
    if (memcmp(body.data + RECORD_ID, id->b, 16) != 0)
        return CS_ENOTFOUND;
    *epoch = cs_load_u32(body.data + ADD_EPOCH);
    memcpy(wrap, body.data + ADD_WRAP, CS_WRAP_LEN);
    return CS_OK;
}

int cs_wrap_open(uint8_t key[32], const uint8_t wrap[CS_WRAP_LEN], const struct cs_device_keys *keys,
                 const struct cs_uuid *workspace, uint32_t epoch, const uint8_t commitment[32], struct cs_error *err)
{
    struct cs_epoch_keys e;
    uint8_t opened[32];
    int rc = CS_OK;

    if (!cs_seal_open(keys->box_secret, keys->box_pk, cs_slice(wrap, CS_WRAP_LEN), opened))
        return cs_fail(err, CS_EAUTH, "the key of epoch %u was not shared with this device rightly", epoch);
    cs_epoch_keys_derive(&e, opened, workspace, epoch);
    if (cs_secret_eq(e.commitment, commitment, 32))
        memcpy(key, opened, 32);
    else
        rc = cs_fail(err, CS_EAUTH, "the key shared for epoch %u is not that epoch's", epoch);
    cs_wipe(&e, sizeof e);
    cs_wipe(opened, sizeof opened);
    return rc;
}

int cs_epoch_older(struct cs_epoch_keys *older, const struct cs_membership *m, const struct cs_epoch_keys *newer,
                   struct cs_error *err)
{
    static const uint8_t nonce[CS_NONCE_LEN] = { 0 };
    const struct cs_epoch_mark *at = cs_membership_epoch(m, newer->epoch);
    const struct cs_epoch_mark *before = cs_membership_epoch(m, newer->epoch - 1);
    struct cs_epoch_keys e;
    uint8_t key[32];
    int rc = CS_OK;

    if (at == NULL || before == NULL || !cs_secret_eq(newer->commitment, at->commitment, 32))
        return cs_fail(err, CS_ENOTFOUND, "no epoch comes before epoch %u of this workspace", newer->epoch);
    if (!cs_box_open(newer->history, nonce, cs_slice(at->history, sizeof at->history), key))
        return cs_fail(err, CS_EAUTH, "entry %u did not hand the key of epoch %u on rightly", at->seq,
                       newer->epoch - 1);
    cs_epoch_keys_derive(&e, key, &m->workspace, newer->epoch - 1);
    if (cs_secret_eq(e.commitment, before->commitment, 32))
        *older = e;
    else
        rc = cs_fail(err, CS_EAUTH, "entry %u handed on another key than that of epoch %u", at->seq, e.epoch);
    cs_wipe(&e, sizeof e);
    cs_wipe(key, sizeof key);
    return rc;
}

bool cs_entry_floor(struct cs_slice entry, struct cs_floor *out)
{
    struct cs_slice body;

    if (!entry_whole(entry))
        return false;
    body = entry_body(entry);
    if (entry.data[ENTRY_TYPE] == CS_ENTRY_INVITE && body.len == INVITE_LEN)
        *out = floor_load(body.data + INVITE_FLOOR);
    else if (entry.data[ENTRY_TYPE] == CS_ENTRY_RECOVERY && body.len == RECOVERY_LEN)
        *out = floor_load(body.data + RECOVERY_FLOOR);
    else
        return false;
    return true;
}

bool cs_entry_author(struct cs_slice entry, struct cs_uuid *out)
{
    if (!entry_whole(entry))
        return false;
    memcpy(out->b, entry.data + ENTRY_AUTHOR, 16);
    return true;
}

bool cs_entry_refilled(struct cs_slice entry, struct cs_floor *to)
{
    struct cs_slice heads;

    if (!entry_whole(entry) || entry.data[ENTRY_TYPE] != CS_ENTRY_REFILL || !refill_heads(entry_body(entry), &heads))
        return false;
    *to = floor_load(entry_body(entry).data + REFILL_TO);
    return true;
}

bool cs_entry_head(struct cs_slice entry, size_t i, struct cs_cut *out)
{
    struct cs_slice heads;

    if (!entry_whole(entry) || entry.data[ENTRY_TYPE] != CS_ENTRY_REFILL || !refill_heads(entry_body(entry), &heads) ||
        i >= heads.len / CUT_LEN)
        return false;
    *out = cut_load(heads.data + i * CUT_LEN);
    return true;
}

int64_t cs_entry_time(struct cs_slice entry)
{
    return entry_whole(entry) ? (int64_t)cs_load_u64(entry.data + ENTRY_TIME) : 0;
}

/* An entry that `keys` stand for and vouch for, with the vouch at the body's end: so it is the author's own view. The
 * body, or NULL. */
static const uint8_t *vouched(struct cs_slice entry, enum cs_entry_type type, size_t body_len,
                              const struct cs_device_keys *keys, const char *what, struct cs_error *err)
{
    const uint8_t *b;
    uint8_t vouch[32];

    if (!entry_whole(entry) || entry.data[ENTRY_TYPE] != type || entry_body(entry).len != body_len) {
        cs_fail(err, CS_ECORRUPT, "not %s entry", what);
        return NULL;
    }
    b = entry_body(entry).data;
    cs_mac(keys->vouch, cs_slice(entry.data, CS_ENTRY_PREFIX_LEN + body_len - 32), vouch, sizeof vouch);
    if (memcmp(b + RECORD_ID, keys->id.b, 16) != 0 || memcmp(b + RECORD_SIGN_PK, keys->sign.pk, 32) != 0 ||
        memcmp(b + RECORD_BOX_PK, keys->box_pk, 32) != 0) {
        cs_fail(err, CS_EAUTH, "%s entry that belongs to another secret", what);
        return NULL;
    }
    if (!cs_secret_eq(vouch, b + body_len - 32, sizeof vouch)) {
        cs_fail(err, CS_EAUTH, "%s entry that was not made by whoever made the secret; nothing was joined", what);
        return NULL;
    }
    return b;
}

int cs_invite_open(struct cs_invite_info *out, struct cs_slice entry, const struct cs_device_keys *invite,
                   struct cs_error *err)
{
    struct cs_error why = { 0 };
    const uint8_t *b = vouched(entry, CS_ENTRY_INVITE, INVITE_LEN, invite, "an invite", &why);

    if (b == NULL)
        return cs_fail(err, why.code, "%s", why.msg);
    out->id = invite->id;
    out->epoch = cs_load_u32(b + ADD_EPOCH);
    memcpy(out->wrap, b + ADD_WRAP, CS_WRAP_LEN);
    out->floor = floor_load(b + INVITE_FLOOR);
    out->expires_ms = (int64_t)cs_load_u64(b + INVITE_EXPIRES);
    memcpy(out->hub_key, b + INVITE_HUB_KEY, 32);
    return CS_OK;
}

int cs_recovery_open(struct cs_recovery_info *out, struct cs_slice entry, const struct cs_device_keys *paper,
                     struct cs_error *err)
{
    struct cs_error why = { 0 };
    const uint8_t *b = vouched(entry, CS_ENTRY_RECOVERY, RECOVERY_LEN, paper, "a recovery", &why);

    if (b == NULL)
        return cs_fail(err, why.code, "%s", why.msg);
    out->id = paper->id;
    out->epoch = cs_load_u32(b + ADD_EPOCH);
    memcpy(out->wrap, b + ADD_WRAP, CS_WRAP_LEN);
    out->floor = floor_load(b + RECOVERY_FLOOR);
    return CS_OK;
}

/* nonce 24 ‖ BOX(MAC(name key, id, 32), nonce, length u8 ‖ name, zero-padded to 64) */
static bool open_name(const struct cs_member *m, const struct cs_epoch_keys *epoch, char out[64])
{
    uint8_t key[32], plain[NAME_PLAIN_LEN];
    bool ok;

    cs_mac(epoch->name, cs_slice(m->id.b, 16), key, sizeof key);
    ok = cs_box_open(key, m->name, cs_slice(m->name + CS_NONCE_LEN, NAME_BOX_LEN - CS_NONCE_LEN), plain) &&
         plain[0] < NAME_PLAIN_LEN && memchr(plain + 1, 0, plain[0]) == NULL &&
         all_zero(plain + 1 + plain[0], NAME_PLAIN_LEN - 1u - plain[0]);
    if (ok) {
        memcpy(out, plain + 1, plain[0]);
        out[plain[0]] = '\0';
    }
    cs_wipe(key, sizeof key);
    cs_wipe(plain, sizeof plain);
    return ok;
}

bool cs_member_name(const struct cs_member *m, const struct cs_epoch_keys *keys, size_t n, char out[64])
{
    out[0] = '\0';
    for (size_t i = 0; i < n; i++)
        if (keys[i].epoch == m->name_epoch)
            return open_name(m, &keys[i], out);
    return false;
}
