/* Which rows a change can reach: what project.c decides on. Rows are nodes; what connects them are entries: a claim
 * (rows that cannot be shown together), or a reference (children, and their possible parents).
 *
 * Reached are claimants of the same keys and children, transitively. The state of all others stands, their parents'
 * too: without circles of foreign keys a row depends only on its parents and on older claimants. In a table that is in
 * such a circle, or below one, a row's fate can depend on which of the waiting rows goes first, so there the closure
 * takes in the parents as well. */
#ifndef CS_REPLICA_REACH_H
#define CS_REPLICA_REACH_H

#include "crdt/project.h"
#include "replica/apply.h"

struct cs_reach_link {
    struct cs_reach_link *next;
    struct cs_reach_node *node;
};

struct cs_reach_entry {
    struct cs_reach_entry *next; /* in its bucket */
    struct cs_slice bytes;
    uint64_t hash;
    struct cs_reach_link *rows; /* claimants, or possible parents */
    struct cs_reach_link *kids; /* children that reference them */
    uint32_t id;
    bool asked_rows, asked_kids; /* the application's table was searched for them */
};

struct cs_reach_node {
    struct cs_reach_node *next; /* in its bucket */
    struct cs_reach_node *open; /* in the work list, then in the list of those to decide */
    struct cs_table *t;
    struct cs_slice key;
    uint64_t hash;
    struct cs_version ins, newest; /* newest: of all its cells */
    struct cs_op_cell *cells;      /* the merged values, ascending by column number */
    uint32_t ncells;
    struct cs_value *stored; /* the row in the application's table, or NULL */
    struct cs_value *values; /* what it shows, if it is shown */
    const char *why;         /* it cannot be shown, whatever the others do */
    const char *was;         /* the reason it was hidden for, or NULL */
    struct cs_reach_entry **claims, **up, **down;
    uint32_t nclaims;
    uint32_t index;
    bool live, touched, closed, shown;
    bool lost; /* a key of its is taken */
};

struct cs_reach_seed {
    struct cs_reach_seed *next;
    struct cs_table *t;
    struct cs_slice key;
};

struct cs_reach_freed {
    struct cs_reach_freed *next;
    struct cs_table *t;
    struct cs_value *values;
};

/* A foreign key whose shown rows without a parent are to be looked for. */
struct cs_reach_orphans {
    struct cs_reach_orphans *next;
    struct cs_table *t;
    uint32_t fk;
};

enum { CS_REACH_BUCKETS = 4096 };

/* What was added, and what follows from it. */
struct cs_pending {
    struct cs_arena arena; /* of the running batch */
    struct cs_reach_seed *seeds;
    struct cs_reach_freed *freed;
    struct cs_reach_orphans *orphans;
    struct cs_reach_node *nodes[CS_REACH_BUCKETS];
    struct cs_reach_entry *entries[CS_REACH_BUCKETS];
    struct cs_reach_node *open, *closed;
    bool all_hidden; /* every hidden row of the families concerned is decided again */
    uint32_t nentries, nclosed;
    struct cs_buf buf, key;
    struct cs_pending_counts counts;
};

/* The collection of this replica; NULL: out of memory. */
struct cs_pending *cs_pending_of(struct cs_replica *r, struct cs_error *err);

/* Shown rows of t whose foreign key has no parent are looked for, too. */
int cs_pending_orphans(struct cs_replica *r, struct cs_table *t, uint32_t fk, struct cs_error *err);

/* From all that was added: pending->closed are the rows to decide, tied to their entries. */
int cs_reach(struct cs_replica *r, struct cs_error *err);

#endif
