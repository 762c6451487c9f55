#include "hub/members.h"

#include <pthread.h>
#include <stdlib.h>

enum { NSLOTS = 256, WAYS = 4 }; /* a slot holds WAYS folds; the least recently used one makes room */

struct fold {
    struct cs_membership m;
    uint64_t used; /* 0: empty */
};

struct cs_members {
    /* Guards all below. Taken inside a transaction, never around the beginning of one; store reads happen under it, so
     * that one load serves all who wait. */
    pthread_mutex_t lock;
    uint64_t turn;
    struct fold slot[NSLOTS][WAYS];
};

int cs_members_new(cs_members **out, struct cs_error *err)
{
    if ((*out = calloc(1, sizeof **out)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    pthread_mutex_init(&(*out)->lock, NULL);
    return CS_OK;
}

void cs_members_free(cs_members *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < NSLOTS; i++)
        for (size_t k = 0; k < WAYS; k++)
            cs_membership_free(&m->slot[i][k].m);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void fold_reset(struct fold *f)
{
    cs_membership_free(&f->m);
    f->m = (struct cs_membership){ 0 };
    f->used = 0;
}

static struct fold *fold_lookup(cs_members *m, const struct cs_uuid *ws)
{
    struct fold *set = m->slot[(ws->b[0] << 8 | ws->b[15]) % NSLOTS];

    for (size_t k = 0; k < WAYS; k++)
        if (set[k].used != 0 && cs_uuid_cmp(&set[k].m.workspace, ws) == 0) {
            set[k].used = ++m->turn;
            return &set[k];
        }
    return NULL;
}

/* The workspace's fold, or an empty one in the place of the least recently used. */
static struct fold *fold_take(cs_members *m, const struct cs_uuid *ws)
{
    struct fold *set = m->slot[(ws->b[0] << 8 | ws->b[15]) % NSLOTS], *f = fold_lookup(m, ws);

    if (f != NULL)
        return f;
    f = set;
    for (size_t k = 1; k < WAYS; k++)
        if (set[k].used < f->used)
            f = &set[k];
    fold_reset(f);
    return f;
}

struct loading {
    struct cs_membership *m;
    struct cs_error *err;
    int rc;
};

static bool load_entry(void *arg, uint32_t seq, struct cs_slice entry)
{
    struct loading *l = arg;

    (void)seq;
    /* Expiry was judged when the entry came; it is history now. */
    l->rc = cs_membership_apply(l->m, entry, 0, l->err);
    return l->rc == CS_OK;
}

/* Brings the fold of ws to the head that tx sees. A fold that is ahead of it, or of another history, comes from a
 * transaction that was rolled back: it starts anew. */
static int fold_at(cs_members *m, cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *head,
                   struct fold **out, struct cs_error *err)
{
    struct fold *f = fold_take(m, ws);
    struct loading l = { &f->m, err, CS_OK };
    int rc;

    *out = f;
    for (int attempt = 0;; attempt++) {
        if (f->m.seq == head->member_seq && (f->m.seq == 0 || memcmp(f->m.head, head->entry_hash, 32) == 0))
            break;
        if (attempt == 2)
            return cs_fail(err, CS_EDB, "the stored membership entries do not lead to their head");
        if (attempt == 1 || f->m.seq >= head->member_seq)
            fold_reset(f);
        rc = tx->ops->entries(tx, ws, f->m.seq + 1, head->member_seq, load_entry, &l, err);
        if (rc == CS_OK && l.rc != CS_OK && attempt == 1)
            rc = cs_fail(err, CS_EDB, "a stored membership entry does not verify");
        if (rc != CS_OK)
            return rc;
        l.rc = CS_OK;
    }
    if (f->m.seq != 0)
        f->used = ++m->turn;
    return CS_OK;
}

int cs_members_find(cs_members *m, cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *head,
                    const struct cs_uuid *id, struct cs_member_info *out, struct cs_error *err)
{
    const struct cs_member *member;
    struct fold *f;
    int rc;

    *out = (struct cs_member_info){ 0 };
    pthread_mutex_lock(&m->lock);
    if ((rc = fold_at(m, tx, ws, head, &f, err)) == CS_OK) {
        out->epoch_seq = f->m.epoch_seq;
        out->refills = f->m.refills;
        if ((member = cs_membership_find(&f->m, id)) != NULL) {
            out->kind = member->kind;
            out->active = member->active;
            memcpy(out->sign_pk, member->sign_pk, 32);
            memcpy(out->box_pk, member->box_pk, 32);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

bool cs_members_cached_key(cs_members *m, const struct cs_uuid *ws, const struct cs_uuid *id, uint8_t sign_pk[32])
{
    const struct cs_member *member = NULL;
    struct fold *f;

    pthread_mutex_lock(&m->lock);
    if ((f = fold_lookup(m, ws)) != NULL && (member = cs_membership_find(&f->m, id)) != NULL)
        memcpy(sign_pk, member->sign_pk, 32);
    pthread_mutex_unlock(&m->lock);
    return member != NULL;
}

int cs_members_devices(cs_members *m, cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *head,
                       struct cs_uuid *out, size_t cap, size_t *n, struct cs_error *err)
{
    struct fold *f;
    int rc;

    *n = 0;
    pthread_mutex_lock(&m->lock);
    if ((rc = fold_at(m, tx, ws, head, &f, err)) == CS_OK)
        for (size_t i = 0; i < f->m.nmembers && *n < cap; i++)
            if (f->m.members[i].kind == CS_PRINCIPAL_DEVICE && f->m.members[i].active)
                out[(*n)++] = f->m.members[i].id;
    pthread_mutex_unlock(&m->lock);
    return rc;
}

int cs_members_append(cs_members *m, cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_head *head,
                      struct cs_slice entry, int64_t hub_now_ms, size_t *before, size_t *after, struct cs_error *err)
{
    struct fold *f;
    int rc;

    pthread_mutex_lock(&m->lock);
    *before = *after = 0;
    if ((rc = fold_at(m, tx, ws, head, &f, err)) == CS_OK)
        *before = cs_membership_devices(&f->m);
    if (rc == CS_OK)
        /* the verification grants a client's slack between two clocks; the hub's own clock has none */
        rc = cs_membership_apply(&f->m, entry, hub_now_ms == 0 ? 0 : hub_now_ms + CS_INVITE_SLACK_MS, err);
    if (rc == CS_OK && cs_uuid_cmp(&f->m.workspace, ws) != 0) {
        fold_reset(f);
        rc = cs_fail(err, CS_ECORRUPT, "the entry is of another workspace");
    }
    if (rc == CS_OK) {
        *after = cs_membership_devices(&f->m);
        f->used = ++m->turn;
        head->member_seq = f->m.seq;
        head->epoch = f->m.epoch;
        memcpy(head->entry_hash, f->m.head, 32);
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}
