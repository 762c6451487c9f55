#include <stdlib.h>

#include "base/error.h"
#include "crdt/groups.h"
#include "crdt/plant.h"

/* The rule looks at the rows in the order of age, again and again, and settles a group whenever neither a parent nor
 * an older claimant is awaited. Here a group is looked at only when something that its answer depends on has changed,
 * at the very moment when that next round would have come to it. So the order of settling is the rule's own. */

enum { NONE = UINT32_MAX };

/* A claim of an undecided entity, in the list of its key by age. */
struct claimant {
    uint32_t entity, prev, next;
};
struct decider {
    const struct cs_decide_in *in;
    uint32_t *order, *rank; /* entities by age, and back */
    uint32_t *group;        /* of each entity, then of each set (crdt/groups.h) */
    uint32_t *start, *left; /* of each group: where its members begin; how many are undecided */
    uint32_t *members;      /* of all groups, each by age */
    uint32_t *stuck;        /* of each group: the rank of the oldest member that could be shown if it were not for
                             * older claimants, or NONE */
    uint32_t ngroups;
    uint8_t *state; /* enum cs_decided of each entity */
    bool *held;     /* by key: a shown row holds it */
    struct claimant *claimants;
    uint32_t *claims_start;         /* of each entity: its first item of claimants */
    uint32_t *first;                /* of each key: the oldest undecided claimant */
    uint32_t *sets_start, *sets_of; /* of each entity: the sets that it is in */
    uint32_t *users_start, *users;  /* of each set: the entities that name it */
    uint32_t *set_shown, *set_left; /* of each set: how many are shown, and undecided */
    bool *set_told;                 /* of each set: its users know that one is shown */
    uint64_t *queue;                /* heap of round << 32 | rank + 1: when which group is looked at */
    uint32_t nqueue;
    bool *queued;    /* of each group */
    uint64_t now;    /* the moment: round << 32 | rank + 1; rank + 1 is 0 before a round's first rank */
    uint32_t *maybe; /* scratch: what of a group is possible */
    uint64_t *member_mark, *claim_mark, mark;
};

/* ---- the queue ---- */

static void push(struct decider *d, uint64_t at)
{
    uint32_t i = d->nqueue++;

    for (; i > 0 && d->queue[(i - 1) / 2] > at; i = (i - 1) / 2)
        d->queue[i] = d->queue[(i - 1) / 2];
    d->queue[i] = at;
}

static uint64_t pop(struct decider *d)
{
    uint64_t top = d->queue[0], last = d->queue[--d->nqueue];
    uint32_t i = 0, child;

    while ((child = 2 * i + 1) < d->nqueue) {
        if (child + 1 < d->nqueue && d->queue[child + 1] < d->queue[child])
            child++;
        if (last <= d->queue[child])
            break;
        d->queue[i] = d->queue[child];
        i = child;
    }
    d->queue[i] = last;
    return top;
}

/* The group's answer may have changed: its turn comes with its next undecided member, in this round or the next. */
static void touch(struct decider *d, uint32_t g)
{
    uint64_t round = d->now >> 32;
    uint32_t first = NONE, rank;

    if (d->queued[g] || d->left[g] == 0)
        return;
    d->queued[g] = true;
    for (uint32_t i = d->start[g]; i < d->start[g + 1]; i++) {
        if (d->state[d->members[i]] != CS_UNDECIDED)
            continue;
        rank = d->rank[d->members[i]];
        if (rank + 1 > (uint32_t)d->now) {
            push(d, round << 32 | (rank + 1));
            return;
        }
        if (first == NONE)
            first = rank;
    }
    push(d, (round + 1) << 32 | (first + 1));
}

/* ---- one entity is decided ---- */

static void unlink_claimant(struct decider *d, uint32_t key, uint32_t i)
{
    struct claimant *c = &d->claimants[i];

    if (c->prev != NONE)
        d->claimants[c->prev].next = c->next;
    else
        d->first[key] = c->next;
    if (c->next != NONE)
        d->claimants[c->next].prev = c->prev;
}

static void touch_users(struct decider *d, uint32_t set)
{
    for (uint32_t i = d->users_start[set]; i < d->users_start[set + 1]; i++)
        touch(d, d->group[d->users[i]]);
}

static void set_decided(struct decider *d, uint32_t e, enum cs_decided to)
{
    const struct cs_entity *ent = &d->in->entities[e];
    uint32_t set;

    d->state[e] = (uint8_t)to;
    d->left[d->group[e]]--;
    for (uint32_t k = 0; k < ent->nclaims; k++) {
        unlink_claimant(d, ent->claims[k], d->claims_start[e] + k);
        d->held[ent->claims[k]] |= CS_PLANT(HIDDEN_CLAIMS, to == CS_SHOWN, true);
    }
    for (uint32_t i = d->sets_start[e]; i < d->sets_start[e + 1]; i++) {
        set = d->sets_of[i];
        d->set_left[set]--;
        d->set_shown[set] += to == CS_SHOWN;
    }
}

static void tell_others(struct decider *d, uint32_t e)
{
    const struct cs_entity *ent = &d->in->entities[e];
    uint32_t set, key;

    touch(d, d->group[e]);
    for (uint32_t k = 0; k < ent->nclaims; k++) {
        key = ent->claims[k];
        if (d->first[key] == NONE)
            continue;
        if (!d->held[key]) /* the oldest that is left; those of other groups wait for it */
            touch(d, d->group[d->claimants[d->first[key]].entity]);
        else if (d->state[e] == CS_SHOWN)
            for (uint32_t i = d->first[key]; i != NONE; i = d->claimants[i].next)
                touch(d, d->group[d->claimants[i].entity]);
    }
    for (uint32_t i = d->sets_start[e]; i < d->sets_start[e + 1]; i++) {
        set = d->sets_of[i];
        if (d->set_shown[set] == 0 && d->set_left[set] == 0)
            touch_users(d, set);
        else if (d->state[e] == CS_SHOWN && !d->set_told[set])
            touch_users(d, set);
        else if (d->set_shown[set] == 0 && d->group[d->in->n + set] != CS_NO_GROUP)
            touch(d, d->group[d->in->n + set]); /* perhaps only members of that group are left */
        d->set_told[set] = d->set_shown[set] > 0;
    }
}

/* ---- looking at a group ---- */

/* Is a parent awaited that is not of this group? */
static bool waits_for_parent(const struct decider *d, uint32_t e)
{
    const struct cs_entity *ent = &d->in->entities[e];
    const struct cs_parents *set;

    for (uint32_t p = 0; p < ent->nparents; p++) {
        if (d->set_shown[ent->parents[p]] > 0 || d->set_left[ent->parents[p]] == 0)
            continue;
        set = &d->in->sets[ent->parents[p]];
        for (uint32_t i = 0; i < set->n; i++)
            if (d->state[set->rows[i]] == CS_UNDECIDED && d->group[set->rows[i]] != d->group[e])
                return true;
    }
    return false;
}

/* Is an older claimant of a free key undecided that is not of this group? */
static bool waits_for_older(const struct decider *d, uint32_t e)
{
    const struct cs_entity *ent = &d->in->entities[e];
    const struct claimant *c;

    for (uint32_t k = 0; k < ent->nclaims; k++) {
        if (d->held[ent->claims[k]])
            continue;
        for (uint32_t i = d->first[ent->claims[k]]; i != NONE; i = c->next) {
            c = &d->claimants[i];
            if (d->rank[c->entity] >= d->rank[e])
                break;
            if (d->group[c->entity] != d->group[e])
                return true;
        }
    }
    return false;
}

/* With the marked members of its group and what is shown already: are its keys free and its parents there? */
static bool fits(const struct decider *d, uint32_t e)
{
    const struct cs_entity *ent = &d->in->entities[e];
    const struct cs_parents *set;
    uint32_t i;

    for (uint32_t k = 0; k < ent->nclaims; k++)
        if (d->held[ent->claims[k]] || d->claim_mark[ent->claims[k]] == d->mark)
            return false;
    for (uint32_t p = 0; p < ent->nparents; p++) {
        set = &d->in->sets[ent->parents[p]];
        if (d->set_shown[ent->parents[p]] > 0)
            continue;
        for (i = 0; i < set->n && d->member_mark[set->rows[i]] != d->mark; i++)
            ;
        if (CS_PLANT(ORPHANS_SHOWN, i == set->n, set->n > 0 && i == set->n))
            return false;
    }
    return true;
}

/* What of a group could be shown now, by age, in d->maybe: a younger claimant inside it yields, an orphan goes, until
 * it holds. Each round judges by the members that the round before left. */
static uint32_t possible(struct decider *d, uint32_t g)
{
    const struct cs_entity *ent;
    uint32_t n = 0, kept;

    for (uint32_t i = d->start[g]; i < d->start[g + 1]; i++)
        if (d->state[d->members[i]] == CS_UNDECIDED)
            d->maybe[n++] = d->members[i];
    for (;;) {
        d->mark++;
        for (uint32_t i = 0; i < n; i++)
            d->member_mark[d->maybe[i]] = d->mark;
        kept = 0;
        for (uint32_t i = 0; i < n; i++) {
            if (!fits(d, d->maybe[i]))
                continue;
            ent = &d->in->entities[d->maybe[i]];
            for (uint32_t k = 0; k < ent->nclaims; k++)
                d->claim_mark[ent->claims[k]] = d->mark;
            d->maybe[kept++] = d->maybe[i];
        }
        if (kept == n)
            return n;
        n = kept;
    }
}

/* Shows the n entities in d->maybe; none: the whole rest of the group is hidden. */
static void settle(struct decider *d, uint32_t g, uint32_t n)
{
    enum cs_decided to = n > 0 ? CS_SHOWN : CS_HIDDEN;

    if (n == 0)
        for (uint32_t i = d->start[g]; i < d->start[g + 1]; i++)
            if (d->state[d->members[i]] == CS_UNDECIDED)
                d->maybe[n++] = d->members[i];
    for (uint32_t i = 0; i < n; i++)
        set_decided(d, d->maybe[i], to);
    for (uint32_t i = 0; i < n; i++)
        tell_others(d, d->maybe[i]);
}

static void look(struct decider *d, uint32_t g)
{
    bool older = false;
    uint32_t n, e;

    d->stuck[g] = NONE;
    for (uint32_t i = d->start[g]; i < d->start[g + 1]; i++) {
        e = d->members[i];
        if (d->state[e] != CS_UNDECIDED)
            continue;
        if (CS_PLANT(PARENTS_NOT_AWAITED, waits_for_parent(d, e), false))
            return;
        older = older || CS_PLANT(OLDER_NOT_AWAITED, waits_for_older(d, e), false);
    }
    n = possible(d, g);
    if (older && n > 0)
        d->stuck[g] = d->rank[d->maybe[0]];
    else
        settle(d, g, n);
}

/* Rows wait for each other in a circle of parents and older claimants: the oldest row that is possible goes first. */
static bool break_circle(struct decider *d)
{
    uint32_t best = NONE, g;

    for (uint32_t i = 0; i < d->ngroups; i++)
        if (d->left[i] > 0 && d->stuck[i] != NONE &&
            CS_PLANT(CIRCLE_YOUNGEST_FIRST, d->stuck[i] < best, best == NONE || d->stuck[i] > best))
            best = d->stuck[i];
    if (best == NONE)
        return false;
    g = d->group[d->order[best]];
    d->now = ((d->now >> 32) + 1) << 32; /* a new round begins, before the first rank */
    settle(d, g, possible(d, g));
    return true;
}

/* ---- setting up ---- */

static bool in_range(const struct cs_decide_in *in)
{
    uint64_t claims = 0, parents = 0, rows = 0;

    if (in->n >= NONE / 2 || in->nsets >= NONE / 2 - in->n)
        return false;
    for (uint32_t i = 0; i < in->n; i++) {
        claims += in->entities[i].nclaims;
        parents += in->entities[i].nparents;
        for (uint32_t k = 0; k < in->entities[i].nclaims; k++)
            if (in->entities[i].claims[k] >= in->nclaims)
                return false;
        for (uint32_t k = 0; k < in->entities[i].nparents; k++)
            if (in->entities[i].parents[k] >= in->nsets)
                return false;
    }
    for (uint32_t i = 0; i < in->nsets; i++) {
        rows += in->sets[i].n;
        for (uint32_t k = 0; k < in->sets[i].n; k++)
            if (in->sets[i].rows[k] >= in->n)
                return false;
    }
    return claims < NONE && parents < NONE && rows < NONE;
}

struct aged {
    const struct cs_age *age;
    uint32_t entity;
};
static int by_age(const void *a, const void *b)
{
    return cs_age_cmp(((const struct aged *)a)->age, ((const struct aged *)b)->age);
}

int cs_age_cmp(const struct cs_age *a, const struct cs_age *b)
{
    int c = CS_PLANT(YOUNGEST_KEEPS_KEY, cs_version_cmp(&a->ins, &b->ins), cs_version_cmp(&b->ins, &a->ins));

    if (c == 0)
        c = cs_slice_cmp(a->table, b->table);
    return c != 0 ? c : cs_slice_cmp(a->key, b->key);
}

static bool sort_by_age(struct decider *d, struct cs_arena *a)
{
    struct aged *items = cs_arena_zalloc(a, d->in->n, sizeof *items);

    if (items == NULL)
        return false;
    for (uint32_t i = 0; i < d->in->n; i++)
        items[i] = (struct aged){ &d->in->entities[i].age, i };
    if (d->in->n > 0)
        qsort(items, d->in->n, sizeof *items, by_age);
    for (uint32_t r = 0; r < d->in->n; r++) {
        d->order[r] = items[r].entity;
        d->rank[items[r].entity] = r;
    }
    return true;
}

/* Before: start[i + 1] is how many there are of i. After: start[i] is where those of i begin. */
static void sum_up(uint32_t *start, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        start[i + 1] += start[i];
}

static bool list_members(struct decider *d, struct cs_arena *a)
{
    uint32_t n = d->in->n, *at;

    d->start = cs_arena_zalloc(a, d->ngroups + 1, sizeof *d->start);
    at = cs_arena_zalloc(a, d->ngroups, sizeof *at);
    if (d->start == NULL || at == NULL)
        return false;
    for (uint32_t i = 0; i < n; i++)
        d->start[d->group[i] + 1]++;
    sum_up(d->start, d->ngroups);
    for (uint32_t r = 0; r < n; r++) {
        uint32_t g = d->group[d->order[r]];

        d->members[d->start[g] + at[g]++] = d->order[r];
        d->left[g]++;
    }
    return true;
}

static bool list_claimants(struct decider *d, struct cs_arena *a)
{
    const struct cs_decide_in *in = d->in;
    uint32_t *last, n = 0, i;

    d->claims_start = cs_arena_zalloc(a, in->n, sizeof *d->claims_start);
    last = cs_arena_zalloc(a, in->nclaims, sizeof *last);
    if (d->claims_start == NULL || last == NULL)
        return false;
    for (uint32_t e = 0; e < in->n; e++) {
        d->claims_start[e] = n;
        n += in->entities[e].nclaims;
    }
    if ((d->claimants = cs_arena_zalloc(a, n, sizeof *d->claimants)) == NULL)
        return false;
    memset(d->first, 0xff, in->nclaims * sizeof *d->first); /* NONE */
    memset(last, 0xff, in->nclaims * sizeof *last);
    for (uint32_t r = 0; r < in->n; r++) {
        const struct cs_entity *ent = &in->entities[d->order[r]];

        for (uint32_t k = 0; k < ent->nclaims; k++) {
            i = d->claims_start[d->order[r]] + k;
            d->claimants[i] = (struct claimant){ d->order[r], last[ent->claims[k]], NONE };
            if (last[ent->claims[k]] == NONE)
                d->first[ent->claims[k]] = i;
            else
                d->claimants[last[ent->claims[k]]].next = i;
            last[ent->claims[k]] = i;
        }
    }
    return true;
}

/* Which sets an entity is in, and which entities name a set. */
static bool list_sets(struct decider *d, struct cs_arena *a)
{
    const struct cs_decide_in *in = d->in;
    uint32_t *at_set, *at_user;

    d->sets_start = cs_arena_zalloc(a, (size_t)in->n + 1, sizeof *d->sets_start);
    d->users_start = cs_arena_zalloc(a, (size_t)in->nsets + 1, sizeof *d->users_start);
    at_set = cs_arena_zalloc(a, in->n, sizeof *at_set);
    at_user = cs_arena_zalloc(a, in->nsets, sizeof *at_user);
    if (d->sets_start == NULL || d->users_start == NULL || at_set == NULL || at_user == NULL)
        return false;
    for (uint32_t s = 0; s < in->nsets; s++)
        for (uint32_t i = 0; i < in->sets[s].n; i++)
            d->sets_start[in->sets[s].rows[i] + 1]++;
    for (uint32_t e = 0; e < in->n; e++)
        for (uint32_t p = 0; p < in->entities[e].nparents; p++)
            d->users_start[in->entities[e].parents[p] + 1]++;
    sum_up(d->sets_start, in->n);
    sum_up(d->users_start, in->nsets);
    d->sets_of = cs_arena_zalloc(a, d->sets_start[in->n], sizeof *d->sets_of);
    d->users = cs_arena_zalloc(a, d->users_start[in->nsets], sizeof *d->users);
    if (d->sets_of == NULL || d->users == NULL)
        return false;
    for (uint32_t s = 0; s < in->nsets; s++)
        for (uint32_t i = 0; i < in->sets[s].n; i++) {
            uint32_t e = in->sets[s].rows[i];

            d->sets_of[d->sets_start[e] + at_set[e]++] = s;
        }
    for (uint32_t e = 0; e < in->n; e++)
        for (uint32_t p = 0; p < in->entities[e].nparents; p++) {
            uint32_t s = in->entities[e].parents[p];

            d->users[d->users_start[s] + at_user[s]++] = e;
        }
    return true;
}

static bool allocate(struct decider *d, struct cs_arena *a)
{
    const struct cs_decide_in *in = d->in;
    uint32_t n = in->n;

    d->order = cs_arena_zalloc(a, n, sizeof *d->order);
    d->rank = cs_arena_zalloc(a, n, sizeof *d->rank);
    d->group = cs_arena_zalloc(a, (size_t)n + in->nsets, sizeof *d->group);
    d->left = cs_arena_zalloc(a, n, sizeof *d->left);
    d->members = cs_arena_zalloc(a, n, sizeof *d->members);
    d->stuck = cs_arena_zalloc(a, n, sizeof *d->stuck);
    d->state = cs_arena_zalloc(a, n, sizeof *d->state);
    d->held = cs_arena_zalloc(a, in->nclaims, sizeof *d->held);
    d->first = cs_arena_zalloc(a, in->nclaims, sizeof *d->first);
    d->set_shown = cs_arena_zalloc(a, in->nsets, sizeof *d->set_shown);
    d->set_left = cs_arena_zalloc(a, in->nsets, sizeof *d->set_left);
    d->set_told = cs_arena_zalloc(a, in->nsets, sizeof *d->set_told);
    d->queue = cs_arena_zalloc(a, n, sizeof *d->queue);
    d->queued = cs_arena_zalloc(a, n, sizeof *d->queued);
    d->maybe = cs_arena_zalloc(a, n, sizeof *d->maybe);
    d->member_mark = cs_arena_zalloc(a, n, sizeof *d->member_mark);
    d->claim_mark = cs_arena_zalloc(a, in->nclaims, sizeof *d->claim_mark);
    return d->order != NULL && d->rank != NULL && d->group != NULL && d->left != NULL && d->members != NULL &&
           d->stuck != NULL && d->state != NULL && d->held != NULL && d->first != NULL && d->set_shown != NULL &&
           d->set_left != NULL && d->set_told != NULL && d->queue != NULL && d->queued != NULL && d->maybe != NULL &&
           d->member_mark != NULL && d->claim_mark != NULL;
}

static int set_up(struct decider *d, struct cs_arena *a)
{
    if (!allocate(d, a) || cs_groups(d->in, d->group, &d->ngroups, a) != CS_OK || !sort_by_age(d, a) ||
        !list_members(d, a) || !list_claimants(d, a) || !list_sets(d, a))
        return CS_ENOMEM;
    for (uint32_t s = 0; s < d->in->nsets; s++)
        d->set_left[s] = d->in->sets[s].n;
    for (uint32_t e = 0; e < d->in->n; e++)
        if (d->in->entities[e].fixed != CS_UNDECIDED)
            set_decided(d, e, d->in->entities[e].fixed);
    for (uint32_t s = 0; s < d->in->nsets; s++)
        d->set_told[s] = d->set_shown[s] > 0;
    return CS_OK;
}

int cs_decide(const struct cs_decide_in *in, bool *shown, struct cs_arena *a)
{
    struct decider d = { .in = in };
    uint32_t g;
    int rc;

    if (!in_range(in))
        return CS_EINVAL;
    if ((rc = set_up(&d, a)) != CS_OK)
        return rc;
    for (uint32_t i = 0; i < d.ngroups; i++)
        touch(&d, i);
    do
        while (d.nqueue > 0) {
            d.now = pop(&d);
            g = d.group[d.order[(uint32_t)d.now - 1]];
            d.queued[g] = false;
            look(&d, g);
        }
    while (break_circle(&d));
    for (uint32_t e = 0; e < in->n; e++)
        shown[e] = d.state[e] == CS_SHOWN;
    return CS_OK;
}
