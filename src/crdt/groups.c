#include "crdt/groups.h"

#include "base/error.h"
#include "crdt/plant.h"

/* Tarjan, "Depth-first search and linear graph algorithms", 1972, with a stack of its own: a chain of rows may be as
 * long as a table. Parent sets are nodes too, numbered after the entities, so that shared sets are walked once. */
struct search {
    const struct cs_decide_in *in;
    uint32_t *index, *low; /* by node; index 0: not visited */
    uint32_t *next;        /* by node: the edge to look at next */
    bool *open;            /* by node: visited, not yet in a component */
    uint32_t *pending;     /* nodes that are open, in the order of their visit */
    uint32_t *path;        /* from the root to the node at hand */
    uint32_t npending, npath, clock;
};

static uint32_t degree(const struct search *s, uint32_t node)
{
    return node < s->in->n ? s->in->entities[node].nparents : s->in->sets[node - s->in->n].n;
}
static uint32_t edge(const struct search *s, uint32_t node, uint32_t i)
{
    return node < s->in->n ? s->in->n + s->in->entities[node].parents[i] : s->in->sets[node - s->in->n].rows[i];
}

static void visit(struct search *s, uint32_t node)
{
    s->index[node] = s->low[node] = ++s->clock;
    s->open[node] = true;
    s->pending[s->npending++] = node;
    s->path[s->npath++] = node;
}

static void lower(struct search *s, uint32_t node, uint32_t to)
{
    if (s->low[node] > to)
        s->low[node] = to;
}

/* The node is the first that was visited of its component: all that is pending since then belongs to it. */
static void close_component(struct search *s, uint32_t root, uint32_t *group, uint32_t *ngroups)
{
    uint32_t node;
    bool any = false;

    do {
        node = s->pending[--s->npending];
        s->open[node] = false;
        group[node] = *ngroups;
        any = any || node < s->in->n;
    } while (node != root);
    if (any)
        ++*ngroups;
    else
        group[root] = CS_NO_GROUP; /* a set alone: sets are joined by entities only */
}

static void search_from(struct search *s, uint32_t root, uint32_t *group, uint32_t *ngroups)
{
    uint32_t node, to;

    visit(s, root);
    while (s->npath > 0) {
        node = s->path[s->npath - 1];
        if (s->next[node] < degree(s, node)) {
            to = edge(s, node, s->next[node]++);
            if (s->index[to] == 0)
                visit(s, to);
            else if (CS_PLANT(GROUPS_OF_ONE, s->open[to], false))
                lower(s, node, s->index[to]);
            continue;
        }
        s->npath--;
        if (s->low[node] == s->index[node])
            close_component(s, node, group, ngroups);
        else
            lower(s, s->path[s->npath - 1], s->low[node]);
    }
}

int cs_groups(const struct cs_decide_in *in, uint32_t *group, uint32_t *ngroups, struct cs_arena *a)
{
    uint32_t nodes = in->n + in->nsets;
    struct search s = {
        .in = in,
        .index = cs_arena_zalloc(a, nodes, sizeof(uint32_t)),
        .low = cs_arena_zalloc(a, nodes, sizeof(uint32_t)),
        .next = cs_arena_zalloc(a, nodes, sizeof(uint32_t)),
        .open = cs_arena_zalloc(a, nodes, sizeof(bool)),
        .pending = cs_arena_zalloc(a, nodes, sizeof(uint32_t)),
        .path = cs_arena_zalloc(a, nodes, sizeof(uint32_t)),
    };

    *ngroups = 0;
    if (s.index == NULL || s.low == NULL || s.next == NULL || s.open == NULL || s.pending == NULL || s.path == NULL)
        return CS_ENOMEM;
    for (uint32_t e = 0; e < in->n; e++)
        if (s.index[e] == 0)
            search_from(&s, e, group, ngroups);
    return CS_OK;
}
