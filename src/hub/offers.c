#include "hub/offers.h"

#include "identity/pair.h"
#include "rpc/rpc.h"

struct reading {
    struct cs_arena *arena;
    struct cs_offers *out;
    int64_t since_ms;
    bool failed;
};

static bool copy(struct reading *r, struct cs_slice *s)
{
    struct cs_slice c = s->len == 0 ? CS_SLICE_NULL : cs_arena_copy(r->arena, *s);

    r->failed = r->failed || (s->len > 0 && c.data == NULL);
    *s = c;
    return !r->failed;
}

static bool keep(void *arg, const struct cs_store_offer *o)
{
    struct reading *r = arg;
    struct cs_store_offer c = *o;

    if (o->made_ms < r->since_ms)
        return true;
    if (r->out->n == CS_OFFERS_MAX || !copy(r, &c.offer) || !copy(r, &c.answer) || !copy(r, &c.reveal) ||
        !copy(r, &c.done))
        return false;
    r->out->of[r->out->n++] = c;
    return true;
}

int cs_offers_read(cs_store_tx *tx, const struct cs_uuid *ws, int64_t now_ms, struct cs_arena *a, struct cs_offers *out,
                   struct cs_error *err)
{
    struct reading r = { .arena = a, .out = out, .since_ms = now_ms - CS_OFFER_MS };
    int rc;

    out->n = 0;
    rc = tx->ops->offers(tx, ws, keep, &r, err);
    return rc == CS_OK && r.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : rc;
}

static struct cs_store_offer *of_device(struct cs_offers *o, const struct cs_uuid *device)
{
    for (size_t i = 0; i < o->n; i++)
        if (cs_uuid_cmp(&o->of[i].device, device) == 0)
            return &o->of[i];
    return NULL;
}

int cs_offers_key(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, int64_t now_ms,
                  uint8_t sign_pk[32], struct cs_error *err)
{
    const struct cs_store_offer *mine = NULL;
    struct cs_offers all = { 0 };
    struct cs_candidate who;
    struct cs_arena a = { 0 };
    int rc = cs_offers_read(tx, ws, now_ms, &a, &all, err);

    if (rc == CS_OK && (mine = of_device(&all, device)) != NULL && cs_pair_offer_read(mine->offer, NULL, &who))
        memcpy(sign_pk, who.sign_pk, sizeof who.sign_pk);
    else if (rc == CS_OK)
        rc = cs_fail(err, CS_ENOTFOUND, "no device of this id waits");
    cs_arena_free(&a);
    return rc;
}

/* ---- putting ---- */

struct putting {
    cs_store_tx *tx;
    struct cs_write *w;
    struct cs_offers all;
    int64_t now_ms;
    bool by_member;
};

/* Whoever may not know what is here is told the same, and nothing is kept. */
static int put_offer(struct putting *p, struct cs_error *err)
{
    struct cs_store_offer *there = of_device(&p->all, &p->w->device);
    struct cs_store_offer mine = { .device = p->w->device, .made_ms = p->now_ms, .offer = p->w->entry };
    struct cs_candidate old, new;

    if (there != NULL && cs_slice_eq(there->offer, mine.offer))
        return CS_OK;
    if (there != NULL &&
        (!cs_pair_offer_read(there->offer, NULL, &old) || !cs_pair_offer_read(mine.offer, NULL, &new) ||
         memcmp(old.sign_pk, new.sign_pk, sizeof old.sign_pk) != 0))
        return CS_OK;
    if (there == NULL && p->all.n == CS_OFFERS_MAX) {
        cs_refuse(&p->w->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
                  "%d devices wait to be let into this workspace already; try again in 15 minutes, or join with a code",
                  (int)CS_OFFERS_MAX);
        return CS_OK;
    }
    return p->tx->ops->put_offer(p->tx, &p->w->workspace, &mine, err);
}

static struct cs_store_offer *of_hash(struct cs_offers *o, const uint8_t hash[32])
{
    uint8_t h[32];

    for (size_t i = 0; i < o->n; i++) {
        cs_hash_plain(o->of[i].offer, h);
        if (memcmp(h, hash, sizeof h) == 0)
            return &o->of[i];
    }
    return NULL;
}

static int refuse(struct putting *p, int status, const char *why)
{
    cs_refuse(&p->w->verdict, status, "validation", "%s", why);
    return CS_OK;
}

/* Where the message goes, or NULL and the verdict says why not. */
static struct cs_slice *place_of(struct putting *p, struct cs_store_offer *o)
{
    bool mine = cs_uuid_cmp(&o->device, &p->w->device) == 0;
    struct cs_pair_answerer by = { 0 };
    struct cs_slice *to = NULL;

    switch (cs_pair_kind(p->w->entry)) {
    case CS_PAIR_ANSWER:
        if (p->by_member && !mine && cs_pair_answer_is_to(p->w->entry, p->w->offer_hash, &p->w->device))
            to = &o->answer;
        break;
    case CS_PAIR_REVEAL:
        if (mine && o->answer.len > 0)
            to = &o->reveal;
        break;
    case CS_PAIR_DONE:
        cs_pair_answer_read(o->answer, &by);
        if (p->by_member && o->reveal.len > 0 && cs_uuid_cmp(&by.id, &p->w->device) == 0)
            to = &o->done;
        break;
    default:
        break;
    }
    if (to == NULL)
        refuse(p, CS_RPC_FAILED_PRECONDITION, "this message is not what comes next in the exchange, or not from you");
    return to;
}

static int put_message(struct putting *p, struct cs_error *err)
{
    struct cs_store_offer *o = of_hash(&p->all, p->w->offer_hash);
    struct cs_slice *to;

    /* who may not see an exchange is told that there is none */
    if (o == NULL || (!p->by_member && cs_uuid_cmp(&o->device, &p->w->device) != 0))
        return refuse(p, CS_RPC_NOT_FOUND, "no device waits with this request any more; it has 15 minutes");
    if ((to = place_of(p, o)) == NULL || cs_slice_eq(*to, p->w->entry))
        return CS_OK;
    if (to->len > 0)
        return refuse(p, CS_RPC_FAILED_PRECONDITION, "another message of this kind is in the exchange already");
    *to = p->w->entry;
    return p->tx->ops->put_offer(p->tx, &p->w->workspace, o, err);
}

int cs_offers_write(const struct cs_commit_env *env, cs_store_tx *tx, const struct cs_store_head *head,
                    struct cs_write *w, int64_t now_ms, struct cs_error *err)
{
    struct putting p = { .tx = tx, .w = w, .now_ms = now_ms };
    bool is_offer = cs_pair_kind(w->entry) == CS_PAIR_OFFER;
    struct cs_member_info who;
    struct cs_arena a = { 0 };
    int rc;

    if (head == NULL) {
        if (!is_offer)
            refuse(&p, CS_RPC_NOT_FOUND, "no device waits with this request any more; it has 15 minutes");
        return CS_OK;
    }
    if ((rc = cs_members_find(env->members, tx, &w->workspace, head, &w->device, &who, err)) != CS_OK)
        return rc;
    p.by_member = who.kind == CS_PRINCIPAL_DEVICE && who.active;
    rc = tx->ops->drop_offers(tx, &w->workspace, now_ms - CS_OFFER_MS, err);
    if (rc == CS_OK)
        rc = cs_offers_read(tx, &w->workspace, now_ms, &a, &p.all, err);
    if (rc == CS_OK && is_offer)
        rc = who.kind != 0 ? CS_OK : put_offer(&p, err); /* an id that was ever in use is not offered again */
    else if (rc == CS_OK)
        rc = put_message(&p, err);
    cs_arena_free(&a);
    return rc;
}
