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
    free(m->epochs);
    *m = (struct cs_membership){ 0 };
}

const struct cs_member *cs_membership_find(const struct cs_membership *m, const struct cs_uuid *id)
{
    for (size_t i = 0; i < m->nmembers; i++)
        if (cs_uuid_cmp(&m->members[i].id, id) == 0)
            return &m->members[i];
    return NULL;
}

size_t cs_membership_devices(const struct cs_membership *m)
{
    size_t n = 0;

    for (size_t i = 0; i < m->nmembers; i++)
        n += m->members[i].active && m->members[i].kind == CS_PRINCIPAL_DEVICE;
    return n;
}

bool cs_membership_was_member(const struct cs_membership *m, const struct cs_uuid *id, uint32_t seq)
{
    const struct cs_member *d = cs_membership_find(m, id);

    return d != NULL && d->kind == CS_PRINCIPAL_DEVICE && d->added_seq <= seq && seq <= m->seq &&
           (d->active || seq < d->ended_seq);
}

uint32_t cs_membership_epoch_at(const struct cs_membership *m, uint32_t seq)
{
    uint32_t epoch = m->epoch;

    if (seq == 0 || seq > m->seq)
        return 0;
    while (m->epochs[epoch - 1].seq > seq)
        epoch--;
    return epoch;
}

const struct cs_epoch_mark *cs_membership_epoch(const struct cs_membership *m, uint32_t epoch)
{
    return epoch == 0 || epoch > m->epoch ? NULL : &m->epochs[epoch - 1];
}

bool cs_membership_past_cut(const struct cs_membership *m, const struct cs_uuid *id, uint64_t number,
                            const uint8_t hash[32])
{
    const struct cs_member *d = cs_membership_find(m, id);

    return d != NULL && d->removed &&
           (number > d->cut.number || (number == d->cut.number && memcmp(hash, d->cut.hash, 32) != 0));
}

/* Epochs begin with shares for all who are active then, and whoever comes later brings its own: so the key is with all
 * but those whose end came no later than the epoch. */
bool cs_member_has_current_key(const struct cs_membership *m, const struct cs_member *d)
{
    return d->active || d->ended_seq > m->epoch_seq;
}

bool cs_invite_expired(const struct cs_member *d, int64_t now_ms)
{
    return d->kind == CS_PRINCIPAL_INVITE && d->active && d->expires_ms < now_ms;
}

enum cs_duty cs_membership_duty(const struct cs_membership *m, int64_t now_ms, const struct cs_member **why)
{
    const struct cs_member *used = NULL, *expired = NULL;

    for (size_t i = m->nmembers; i-- > 0;) {
        const struct cs_member *d = &m->members[i];

        if (d->kind != CS_PRINCIPAL_INVITE || !cs_member_has_current_key(m, d))
            continue;
        if (!d->active)
            used = d;
        else if (cs_invite_expired(d, now_ms))
            expired = d;
    }
    if (why != NULL)
        *why = expired != NULL ? expired : used;
    return expired != NULL ? CS_DUTY_REMOVE : used != NULL ? CS_DUTY_ROTATE : CS_DUTY_NONE;
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
    struct cs_member added;     /* genesis, invite, add */
    struct cs_slice cuts;       /* remove: CUT_LEN each, ids ascending */
    struct cs_slice block;      /* genesis, remove, rotate: the epoch block */
    const struct cs_member *renamed;
    bool refills;
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

    if (c->body_len != GENESIS_LEN || !entry_epoch_block(c->type, cs_slice(c->body, c->body_len), &c->block))
        return wrong_length(c, err);
    if ((rc = check_record(c, m, CS_PRINCIPAL_DEVICE, 1, err)) < 0)
        return rc;
    if (cs_uuid_cmp(&c->added.id, &c->author) != 0)
        return cs_fail(err, CS_EAUTH, "genesis entry that its own device did not write; it is refused");
    if (cs_load_u32(c->body + GENESIS_EPOCH) != 1 || !all_zero(c->body + GENESIS_HISTORY, 48) ||
        cs_load_u16(c->body + GENESIS_COUNT) != 1 || memcmp(c->body + GENESIS_WRAP_ID, c->added.id.b, 16) != 0)
        return cs_fail(err, CS_ECORRUPT, "genesis entry with a wrong first epoch; it is refused");
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

static int check_recovery(struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    int rc;

    if (c->body_len != RECOVERY_LEN)
        return wrong_length(c, err);
    if (c->by->kind != CS_PRINCIPAL_DEVICE)
        return cs_fail(err, CS_EAUTH, "recovery phrase that no device wrote; it is refused");
    if ((rc = check_epoch(c, m, err)) < 0 || (rc = check_record(c, m, CS_PRINCIPAL_PAPER, m->epoch, err)) < 0)
        return rc;
    return check_caps(m, c, err);
}

static int check_add(struct change *c, const struct cs_membership *m, int64_t hub_time_ms, struct cs_error *err)
{
    int rc;

    if (c->body_len != ADD_LEN)
        return wrong_length(c, err);
    if (c->by->kind == CS_PRINCIPAL_INVITE &&
        (c->time_ms > c->by->expires_ms || (hub_time_ms > 0 && hub_time_ms - CS_INVITE_SLACK_MS > c->by->expires_ms)))
        return cs_fail(err, CS_EAUTH,
                       "INVITE_EXPIRED: the invite had run out when it was used; membership entry %u is refused",
                       c->seq);
    if ((rc = check_epoch(c, m, err)) < 0 || (rc = check_record(c, m, CS_PRINCIPAL_DEVICE, m->epoch, err)) < 0)
        return rc;
    return check_caps(m, c, err);
}

static bool cut_names(struct cs_slice cuts, const struct cs_uuid *id)
{
    for (size_t at = 0; at < cuts.len; at += CUT_LEN)
        if (memcmp(cuts.data + at, id->b, 16) == 0)
            return true;
    return false;
}

/* Active, and no longer so behind the entry: removed, or an open invite of somebody who is. */
static bool ends(const struct change *c, const struct cs_member *d)
{
    return d->active &&
           (cut_names(c->cuts, &d->id) || (d->kind == CS_PRINCIPAL_INVITE && cut_names(c->cuts, &d->added_by)));
}

/* The next epoch, with its key wrapped for exactly those who are active behind the entry: with as many as there are,
 * ascending, each of them active, none is missing and none too many. */
static int check_next_epoch(const struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    const uint8_t *b = c->block.data, *wrap = b + EPOCH_WRAPS, *end = b + c->block.len;
    size_t stay = 0;

    if (m->epoch == UINT32_MAX || cs_load_u32(b + EPOCH_NUMBER) != m->epoch + 1)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u begins epoch %u while %u is in force; it is refused",
                       c->seq, cs_load_u32(b + EPOCH_NUMBER), m->epoch);
    for (size_t i = 0; i < m->nmembers; i++)
        stay += m->members[i].active && !ends(c, &m->members[i]);
    if (cs_load_u16(b + EPOCH_COUNT) != stay)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u shares its key with %u members, not %zu; it is refused",
                       c->seq, cs_load_u16(b + EPOCH_COUNT), stay);
    for (; wrap < end; wrap += EPOCH_WRAP_LEN) {
        const struct cs_member *d;
        struct cs_uuid id;

        memcpy(id.b, wrap, 16);
        if (wrap > b + EPOCH_WRAPS && memcmp(wrap - EPOCH_WRAP_LEN, wrap, 16) >= 0)
            return cs_fail(err, CS_ECORRUPT, "membership entry %u with shares out of order; it is refused", c->seq);
        if ((d = cs_membership_find(m, &id)) == NULL || !d->active || ends(c, d))
            return cs_fail(err, CS_ECORRUPT, "membership entry %u shares its key with a stranger; it is refused",
                           c->seq);
    }
    return CS_OK;
}

static int check_rotate(struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    if (!entry_epoch_block(c->type, cs_slice(c->body, c->body_len), &c->block))
        return wrong_length(c, err);
    if (c->by->kind != CS_PRINCIPAL_DEVICE)
        return cs_fail(err, CS_EAUTH, "change of keys that no device wrote; it is refused");
    return check_next_epoch(c, m, err);
}

/* One of the removed: active, and a chain to cut if it is a device's. */
static int check_cut(const struct change *c, const struct cs_membership *m, const uint8_t *cut, struct cs_error *err)
{
    uint64_t number = cs_load_u64(cut + CUT_NUMBER);
    const struct cs_member *d;
    struct cs_uuid id;

    memcpy(id.b, cut, 16);
    if (cut > c->cuts.data && memcmp(cut - CUT_LEN, cut, 16) >= 0)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u with removals out of order; it is refused", c->seq);
    if (cs_uuid_cmp(&id, &c->author) == 0)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u removes its own author; it is refused", c->seq);
    if ((d = cs_membership_find(m, &id)) == NULL || !d->active)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u removes somebody who is no member; it is refused",
                       c->seq);
    if ((number != 0 && d->kind != CS_PRINCIPAL_DEVICE) || (number == 0 && !all_zero(cut + CUT_HASH, 32)))
        return cs_fail(err, CS_ECORRUPT, "membership entry %u cuts a chain that is not there; it is refused", c->seq);
    return CS_OK;
}

static int check_remove(struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    struct cs_slice body = cs_slice(c->body, c->body_len);
    size_t devices = 0;
    int rc;

    if (!entry_epoch_block(c->type, body, &c->block) || !remove_cuts(body, &c->cuts) || c->cuts.len == 0)
        return wrong_length(c, err);
    if (c->by->kind != CS_PRINCIPAL_DEVICE && c->by->kind != CS_PRINCIPAL_PAPER)
        return cs_fail(err, CS_EAUTH, "removal by an invite; it is refused");
    for (size_t at = 0; at < c->cuts.len; at += CUT_LEN)
        if ((rc = check_cut(c, m, c->cuts.data + at, err)) < 0)
            return rc;
    for (size_t i = 0; i < m->nmembers; i++)
        devices += m->members[i].kind == CS_PRINCIPAL_DEVICE && m->members[i].active && !ends(c, &m->members[i]);
    if (devices == 0)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u removes the last device; it is refused", c->seq);
    return check_next_epoch(c, m, err);
}

static int check_rename(struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    uint32_t epoch;
    struct cs_uuid id;

    if (c->body_len != RENAME_LEN)
        return wrong_length(c, err);
    if (c->by->kind != CS_PRINCIPAL_DEVICE)
        return cs_fail(err, CS_EAUTH, "change of a name that no device wrote; it is refused");
    memcpy(id.b, c->body + RENAME_ID, 16);
    if ((c->renamed = cs_membership_find(m, &id)) == NULL || !c->renamed->active)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u names somebody who is no member; it is refused", c->seq);
    epoch = cs_load_u32(c->body + RENAME_NAME_EPOCH);
    if (epoch == 0 || epoch > m->epoch)
        return cs_fail(err, CS_ECORRUPT, "membership entry %u with a wrong epoch of a name; it is refused", c->seq);
    return CS_OK;
}

/* The log that it names has to be a new one: of the same there is no refill. */
static int check_refill(struct change *c, const struct cs_membership *m, struct cs_error *err)
{
    struct cs_slice heads;
    struct cs_floor from, to;

    if (!refill_heads(cs_slice(c->body, c->body_len), &heads))
        return wrong_length(c, err);
    if (c->by->kind != CS_PRINCIPAL_DEVICE)
        return cs_fail(err, CS_EAUTH, "refill that no device wrote; it is refused");
    from = floor_load(c->body + REFILL_FROM);
    to = floor_load(c->body + REFILL_TO);
    if (to.log_id == 0 || to.log_id == from.log_id || (m->refills > 0 && to.log_id == m->refill.log_id))
        return cs_fail(err, CS_ECORRUPT, "membership entry %u begins no new log; it is refused", c->seq);
    for (size_t at = CUT_LEN; at < heads.len; at += CUT_LEN)
        if (memcmp(heads.data + at - CUT_LEN, heads.data + at, 16) >= 0)
            return cs_fail(err, CS_ECORRUPT, "membership entry %u with chains out of order; it is refused", c->seq);
    c->refills = true;
    return CS_OK;
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
    if (c->type == CS_ENTRY_REMOVE)
        return check_remove(c, m, err);
    if (c->type == CS_ENTRY_ROTATE)
        return check_rotate(c, m, err);
    if (c->type == CS_ENTRY_RECOVERY)
        return check_recovery(c, m, err);
    if (c->type == CS_ENTRY_RENAME)
        return check_rename(c, m, err);
    if (c->type == CS_ENTRY_REFILL)
        return check_refill(c, m, err);
    return cs_fail(err, CS_EVERSION, "membership entry %u of unknown type %u; update claw-sync to go on", c->seq,
                   c->type);
}

int cs_membership_check(const struct cs_membership *m, struct cs_slice entry, int64_t hub_time_ms, struct cs_error *err)
{
    struct change c = { 0 };

    return verify(&c, m, entry, hub_time_ms, err);
}

/* Room for one more member and one more epoch. */
static int reserve(struct cs_membership *m, struct cs_error *err)
{
    size_t cap = m->cap < 8 ? 8 : m->cap * 2, epochs_cap = m->epochs_cap < 4 ? 4 : m->epochs_cap * 2;
    void *p;

    if (m->nmembers == m->cap) {
        if ((p = realloc(m->members, cap * sizeof *m->members)) == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory; the membership entry was not taken");
        m->members = p;
        m->cap = cap;
    }
    if (m->epoch == m->epochs_cap) {
        if ((p = realloc(m->epochs, epochs_cap * sizeof *m->epochs)) == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory; the membership entry was not taken");
        m->epochs = p;
        m->epochs_cap = epochs_cap;
    }
    return CS_OK;
}

static void begin_epoch(struct cs_membership *m, const struct change *c)
{
    struct cs_epoch_mark *e = &m->epochs[m->epoch++];

    e->seq = c->seq;
    memcpy(e->commitment, c->block.data + EPOCH_COMMITMENT, 32);
    memcpy(e->history, c->block.data + EPOCH_HISTORY, EPOCH_HISTORY_LEN);
    m->epoch_seq = c->seq;
    memcpy(m->commitment, e->commitment, 32);
}

static void end_member(struct cs_member *d, uint32_t seq)
{
    d->active = false;
    d->ended_seq = seq;
}

static void end_removed(struct cs_membership *m, const struct change *c)
{
    for (size_t i = 0; i < m->nmembers; i++)
        if (ends(c, &m->members[i]))
            end_member(&m->members[i], c->seq);
    for (size_t at = 0; at < c->cuts.len; at += CUT_LEN) {
        struct cs_cut cut = cut_load(c->cuts.data + at);
        struct cs_member *d = &m->members[cs_membership_find(m, &cut.id) - m->members];

        d->removed = true;
        d->cut = cut;
    }
}

static void rename_member(struct cs_member *d, const uint8_t *body)
{
    d->name_epoch = cs_load_u32(body + RENAME_NAME_EPOCH);
    memcpy(d->name, body + RENAME_NAME, NAME_BOX_LEN);
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
    }
    if (c.type == CS_ENTRY_ADD && c.by->kind == CS_PRINCIPAL_INVITE)
        end_member(&m->members[c.by - m->members], c.seq); /* used */
    end_removed(m, &c);
    if (c.renamed != NULL)
        rename_member(&m->members[c.renamed - m->members], c.body);
    if (c.block.len > 0)
        begin_epoch(m, &c);
    if (c.refills) {
        m->refills++;
        m->refill_seq = c.seq;
        m->refill = floor_load(c.body + REFILL_TO);
    }
    if (c.added.kind != 0)
        m->members[m->nmembers++] = c.added;
    m->seq = c.seq;
    memcpy(m->head, c.hash, 32);
    return CS_OK;
}
