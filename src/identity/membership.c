#include "identity/membership.h"

#include <stdlib.h>

#include "identity/entry_format.h"

static const struct cap {
    size_t most;
    const char *what;
} caps[] = {
    [CS_PRINCIPAL_DEVICE] = { 256, "devices" },
    [CS_PRINCIPAL_PAPER] = { 16, "recovery phrases" },
    [CS_PRINCIPAL_INVITE] = { 32, "open invites" },
};

void cs_membership_free(struct cs_membership *m)
{
    free(m->members);
    *m = (struct cs_membership){ 0 };
}

const struct cs_member *cs_membership_find(const struct cs_membership *m, const struct cs_uuid *id)
{
    for (size_t i = 0; i < m->nmembers; i++)
        if (cs_uuid_cmp(&m->members[i].id, id) == 0)
            return &m->members[i];
    return NULL;
}

bool cs_membership_was_member(const struct cs_membership *m, const struct cs_uuid *id, uint32_t seq)
{
    const struct cs_member *d = cs_membership_find(m, id);

    return d != NULL && d->kind == CS_PRINCIPAL_DEVICE && d->active && d->added_seq <= seq && seq <= m->seq;
}

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

static bool all_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

/* An entry that was taken apart, and what it changes when it is right. */
struct change {
    const uint8_t *prefix, *body, *signature;
    size_t body_len;
    uint8_t type;
    uint32_t seq;
    struct cs_uuid author;
    int64_t time_ms;
    uint8_t hash[32];
    const struct cs_member *by; /* the author, in the state; NULL for genesis */
    struct cs_member added;
    uint8_t commitment[32]; /* genesis */
};

/* Magic, sizes, zeros, workspace. */
static int take_apart(struct change *c, const struct cs_membership *m, struct cs_slice e, struct cs_error *err)
{
    if (e.len >= 4 && memcmp(e.data, "CSM", 3) == 0 && e.data[3] > '1')
        return cs_fail(err, CS_EVERSION, "membership entry of a newer version; update claw-sync to read it");
    if (e.len > CS_ENTRY_MAX)
        return cs_fail(err, CS_ELIMIT, "membership entry of %zu bytes, allowed are %d; it is refused", e.len,
                       CS_ENTRY_MAX);
    if (!entry_whole(e))
        return cs_fail(err, CS_ECORRUPT, "membership entry with a wrong start or length; it is refused");
    c->prefix = e.data;
    c->body = entry_body(e).data;
    c->body_len = entry_body(e).len;
    c->signature = e.data + e.len - CS_SIGNATURE_LEN;
    c->type = e.data[ENTRY_TYPE];
    c->seq = cs_load_u32(e.data + ENTRY_SEQ);
    c->time_ms = (int64_t)cs_load_u64(e.data + ENTRY_TIME);
    memcpy(c->author.b, e.data + ENTRY_AUTHOR, 16);
    cs_entry_hash(e, c->hash);
    if (!all_zero(e.data + ENTRY_ZERO, 3))
        return cs_fail(err, CS_ECORRUPT, "membership entry with reserved bytes set; it is refused");
    if ((m->seq != 0 || !cs_uuid_is_zero(&m->workspace)) && memcmp(e.data + ENTRY_WORKSPACE, m->workspace.b, 16) != 0)
        return cs_fail(err, CS_ECORRUPT, "membership entry of another workspace; it is refused");
    if (c->seq != m->seq + 1 || m->seq == UINT32_MAX)
        return cs_fail(err, CS_EABORTED, "membership entry %u does not follow entry %u; it is refused", c->seq, m->seq);
    if (memcmp(e.data + ENTRY_PREV, m->head, 32) != 0)
        return cs_fail(err, CS_EABORTED, "membership entry %u does not continue this log; it is refused", c->seq);
    return CS_OK;
}

static bool small_order(const uint8_t box_pk[32])
{
    static const uint8_t any_secret[32] = { 1 };
    uint8_t shared[32];

    return !cs_dh(any_secret, box_pk, shared);
}

/* The record that a body begins with: kind, zeros, keys, possession. Ids and sign keys never come twice. */
static int check_record(struct change *c, const struct cs_membership *m, uint8_t kind, uint32_t epoch,
                        struct cs_error *err)
{
    struct cs_member *d = &c->added;
    uint8_t message[POSSESSION_LEN];

    if (c->body[RECORD_KIND] != kind || !all_zero(c->body + RECORD_ZERO, 3))
        return cs_fail(err, CS_ECORRUPT, "membership entry %u names a member of a wrong kind; it is refused", c->seq);
    memcpy(d->id.b, c->body + RECORD_ID, 16);
    d->kind = kind;
    d->active = true;
    memcpy(d->sign_pk, c->body + RECORD_SIGN_PK, 32);
    memcpy(d->box_pk, c->body + RECORD_BOX_PK, 32);
    d->added_seq = c->seq;
    d->added_by = c->author;
    d->name_epoch = cs_load_u32(c->body + RECORD_NAME_EPOCH);
    memcpy(d->name, c->body + RECORD_NAME, sizeof d->name);
    if (cs_uuid_is_zero(&d->id) || d->name_epoch == 0 || d->name_epoch > epoch)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u with a wrong id or epoch of a name; it is refused",
                       c->seq);
    for (size_t i = 0; i < m->nmembers; i++)
        if (cs_uuid_cmp(&m->members[i].id, &d->id) == 0 || memcmp(m->members[i].sign_pk, d->sign_pk, 32) == 0)
            return cs_fail(err, CS_ECORRUPT, "membership entry %u brings back an id or key; it is refused", c->seq);
    possession_message(message, c->prefix + ENTRY_WORKSPACE, c->body);
    if (small_order(d->box_pk) ||
        !cs_verify(d->sign_pk, "possession", cs_slice(message, sizeof message), c->body + RECORD_POSSESSION))
        return cs_fail(err, CS_EAUTH, "membership entry %u without proof that the new member has its keys; refused",
                       c->seq);
    return CS_OK;
}

/* An invite that ran out before the entry at hand was written fills no place any more. */
static int check_caps(const struct cs_membership *m, const struct change *c, struct cs_error *err)
{
    const struct cap *cap = &caps[c->added.kind];
    size_t n = 0;

    for (size_t i = 0; i < m->nmembers; i++) {
        const struct cs_member *d = &m->members[i];

        if (d->active && d->kind == c->added.kind && (d->kind != CS_PRINCIPAL_INVITE || d->expires_ms >= c->time_ms))
            n++;
    }
    if (n >= cap->most)
        return cs_fail(err, CS_ELIMIT, "the workspace has %zu %s already, which is the most; the entry is refused", n,
                       cap->what);
    return CS_OK;
}

static int wrong_length(const struct change *c, struct cs_error *err)
{
    return cs_fail(err, CS_ECORRUPT, "membership entry %u of a wrong length; it is refused", c->seq);
}

static int signed_by(const struct change *c, const uint8_t pk[32], struct cs_error *err)
{
    if (!cs_verify_digest(pk, c->hash, c->signature))
        return cs_fail(err, CS_EAUTH, "membership entry %u with a wrong signature; it is refused", c->seq);
    return CS_OK;
}

/* The record signs for itself, has the one wrap of epoch 1, and there is no older key. */
static int check_genesis(struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    int rc;

    if (c->body_len != GENESIS_LEN)
        return wrong_length(c, err);
    if ((rc = check_record(c, m, CS_PRINCIPAL_DEVICE, 1, err)) < 0)
        return rc;
    if (cs_uuid_cmp(&c->added.id, &c->author) != 0)
        return cs_fail(err, CS_EAUTH, "genesis entry that its own device did not write; it is refused");
    if (cs_load_u32(c->body + GENESIS_EPOCH) != 1 || !all_zero(c->body + GENESIS_HISTORY, 48) ||
        cs_load_u16(c->body + GENESIS_COUNT) != 1 || memcmp(c->body + GENESIS_WRAP_ID, c->added.id.b, 16) != 0)
        return cs_fail(err, CS_ECORRUPT, "genesis entry with a wrong first epoch; it is refused");
    memcpy(c->commitment, c->body + GENESIS_COMMITMENT, 32);
    return signed_by(c, c->added.sign_pk, err);
}

static int check_epoch(const struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    uint32_t epoch = cs_load_u32(c->body + ADD_EPOCH);

    if (epoch != m->epoch)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u shares epoch %u while %u is in force; it is refused",
                       c->seq, epoch, m->epoch);
    return CS_OK;
}

static int check_invite(struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    int rc;

    if (c->body_len != INVITE_LEN)
        return wrong_length(c, err);
    if (c->by->kind != CS_PRINCIPAL_DEVICE)
        return cs_fail(err, CS_EAUTH, "invite that no device wrote; it is refused");
    if ((rc = check_epoch(c, m, err)) < 0 || (rc = check_record(c, m, CS_PRINCIPAL_INVITE, m->epoch, err)) < 0)
        return rc;
    c->added.expires_ms = (int64_t)cs_load_u64(c->body + INVITE_EXPIRES);
    return check_caps(m, c, err);
}

static int check_add(struct change *c, const struct cs_membership *m, int64_t hub_time_ms, struct cs_error *err)
{
    int rc;

    if (c->body_len != ADD_LEN)
        return wrong_length(c, err);
    if (c->by->kind == CS_PRINCIPAL_INVITE &&
        (c->time_ms > c->by->expires_ms || (hub_time_ms > 0 && hub_time_ms - CS_INVITE_SLACK_MS > c->by->expires_ms)))
        return cs_fail(err, CS_EAUTH, "the invite had expired when it was used; membership entry %u is refused",
                       c->seq);
    if ((rc = check_epoch(c, m, err)) < 0 || (rc = check_record(c, m, CS_PRINCIPAL_DEVICE, m->epoch, err)) < 0)
        return rc;
    return check_caps(m, c, err);
}

/* All checks of one entry. The signature comes before the type's own rules, so that only a member can make anyone
 * believe that an update is needed. */
static int verify(struct change *c, const struct cs_membership *m, struct cs_slice entry, int64_t hub_time_ms,
                  struct cs_error *err)
{
    int rc;

    if ((rc = take_apart(c, m, entry, err)) < 0)
        return rc;
    if ((c->type == CS_ENTRY_GENESIS) != (c->seq == 1))
        return cs_fail(err, CS_ECORRUPT, "membership log that does not begin with its one genesis; it is refused");
    if (c->type == CS_ENTRY_GENESIS)
        return check_genesis(c, m, err);
    if ((c->by = cs_membership_find(m, &c->author)) == NULL)
        return cs_fail(err, CS_EAUTH, "membership entry %u by an unknown author; it is refused", c->seq);
    if ((rc = signed_by(c, c->by->sign_pk, err)) < 0)
        return rc;
    if (!c->by->active)
        return cs_fail(err, CS_EAUTH, "membership entry %u by %s; it is refused", c->seq,
                       c->by->kind == CS_PRINCIPAL_INVITE ? "an invite that was used already" : "a removed author");
    if (c->type == CS_ENTRY_INVITE)
        return check_invite(c, m, err);
    if (c->type == CS_ENTRY_ADD)
        return check_add(c, m, hub_time_ms, err);
    return cs_fail(err, CS_EVERSION, "membership entry %u of unknown type %u; update claw-sync to go on", c->seq,
                   c->type);
}

int cs_membership_check(const struct cs_membership *m, struct cs_slice entry, int64_t hub_time_ms, struct cs_error *err)
{
    struct change c = { 0 };

    return verify(&c, m, entry, hub_time_ms, err);
}

static int reserve(struct cs_membership *m, struct cs_error *err)
{
    size_t cap = m->cap < 8 ? 8 : m->cap * 2;
    struct cs_member *p;

    if (m->nmembers < m->cap)
        return CS_OK;
    if ((p = realloc(m->members, cap * sizeof *p)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the membership entry was not taken");
    m->members = p;
    m->cap = cap;
    return CS_OK;
}

int cs_membership_apply(struct cs_membership *m, struct cs_slice entry, int64_t hub_time_ms, struct cs_error *err)
{
    struct change c = { 0 };
    int rc;

    if ((rc = reserve(m, err)) < 0 || (rc = verify(&c, m, entry, hub_time_ms, err)) < 0)
        return rc;
    if (c.type == CS_ENTRY_GENESIS) {
        memcpy(m->workspace.b, c.prefix + ENTRY_WORKSPACE, 16);
        memcpy(m->genesis, c.hash, 32);
        memcpy(m->commitment, c.commitment, 32);
        m->epoch = 1;
        m->epoch_seq = c.seq;
    }
    if (c.by != NULL && c.by->kind == CS_PRINCIPAL_INVITE)
        m->members[c.by - m->members].active = false; /* used */
    m->members[m->nmembers++] = c.added;
    m->seq = c.seq;
    memcpy(m->head, c.hash, 32);
    return CS_OK;
}

/* Reading entries without a state */

int cs_entry_wrap(struct cs_slice entry, const struct cs_uuid *id, uint32_t *epoch, uint8_t wrap[CS_WRAP_LEN])
{
    struct cs_slice body;
    size_t at_epoch, at_wrap;

    if (!entry_whole(entry))
        return CS_ENOTFOUND;
    body = entry_body(entry);
    if (entry.data[ENTRY_TYPE] == CS_ENTRY_GENESIS && body.len == GENESIS_LEN) {
        at_epoch = GENESIS_EPOCH;
        at_wrap = GENESIS_WRAP;
    } else if ((entry.data[ENTRY_TYPE] == CS_ENTRY_INVITE && body.len == INVITE_LEN) ||
               (entry.data[ENTRY_TYPE] == CS_ENTRY_ADD && body.len == ADD_LEN)) {
        at_epoch = ADD_EPOCH;
        at_wrap = ADD_WRAP;
    } else {
        return CS_ENOTFOUND;
    }
    if (memcmp(body.data + RECORD_ID, id->b, 16) != 0)
        return CS_ENOTFOUND;
    *epoch = cs_load_u32(body.data + at_epoch);
    memcpy(wrap, body.data + at_wrap, CS_WRAP_LEN);
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

int cs_invite_open(struct cs_invite_info *out, struct cs_slice entry, const struct cs_device_keys *invite,
                   struct cs_error *err)
{
    uint8_t vouch[32];
    const uint8_t *b;

    if (!entry_whole(entry) || entry.data[ENTRY_TYPE] != CS_ENTRY_INVITE || entry_body(entry).len != INVITE_LEN)
        return cs_fail(err, CS_ECORRUPT, "not an invite entry");
    b = entry_body(entry).data;
    if (memcmp(b + RECORD_ID, invite->id.b, 16) != 0 || memcmp(b + RECORD_SIGN_PK, invite->sign.pk, 32) != 0 ||
        memcmp(b + RECORD_BOX_PK, invite->box_pk, 32) != 0)
        return cs_fail(err, CS_EAUTH, "the invite entry belongs to another code");
    cs_mac(invite->vouch, cs_slice(entry.data, CS_ENTRY_PREFIX_LEN + INVITE_VOUCH), vouch, sizeof vouch);
    if (!cs_secret_eq(vouch, b + INVITE_VOUCH, sizeof vouch))
        return cs_fail(err, CS_EAUTH, "the invite entry was not made by whoever made the code; nothing was joined");
    out->id = invite->id;
    out->epoch = cs_load_u32(b + ADD_EPOCH);
    memcpy(out->wrap, b + ADD_WRAP, CS_WRAP_LEN);
    out->floor.log_id = cs_load_u64(b + INVITE_FLOOR);
    out->floor.number = cs_load_u64(b + INVITE_FLOOR + 8);
    memcpy(out->floor.log_hash, b + INVITE_FLOOR + 16, 32);
    out->expires_ms = (int64_t)cs_load_u64(b + INVITE_EXPIRES);
    memcpy(out->hub_key, b + INVITE_HUB_KEY, 32);
    return CS_OK;
}

/* nonce 24 ‖ BOX(MAC(name key, id, 32), nonce, length u8 ‖ name, zero-padded to 64) */
bool cs_member_name(const struct cs_member *m, const struct cs_epoch_keys *epoch, char out[64])
{
    uint8_t key[32], plain[NAME_PLAIN_LEN];
    bool ok;

    out[0] = '\0';
    if (epoch->epoch != m->name_epoch)
        return false;
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
