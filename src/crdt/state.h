/* A whole merged state in memory: rows with their values, by table and key. For tests, comparison, and as what a
 * projection is made from. Names and values are copied in; everything lies in one arena and goes with the state, also
 * values that were overwritten since. Not thread-safe. */
#ifndef CS_CRDT_STATE_H
#define CS_CRDT_STATE_H

#include "crdt/intern.h"
#include "crdt/merge.h"

struct cs_state_row {
    uint32_t table;          /* index into the state's tables */
    struct cs_slice key;     /* canonical key bytes */
    struct cs_row row;       /* columns: index into the table's columns */
    struct cs_value *values; /* by column; meaningful where the row has a cell */
    uint32_t nvalues;
};
struct cs_state_table {
    struct cs_slice name;
    struct cs_intern columns; /* names, in the order they were first heard of */
};
struct cs_state {
    struct cs_arena arena;
    struct cs_intern names, keys; /* table names; (table, key) of each row */
    struct cs_state_table *tables;
    struct cs_state_row *rows; /* as first heard of; rows with nothing in them included (cs_row_is_empty) */
    uint32_t ntables, nrows, tables_cap, rows_cap;
    struct cs_merge_out out; /* scratch */
};

/* Zero-initialised is empty and valid. */
void cs_state_free(struct cs_state *s);

/* One conflict record of an operation; c and what it points to last for the call. */
typedef void (*cs_state_conflict_fn)(void *arg, const struct cs_state_row *row, const struct cs_merge_conflict *c);

/* state := state JOIN each operation of the set, in its order. conflict may be NULL. CS_ENOMEM, or CS_EINVAL for a set
 * that breaks the rules of crdt/op.h (indices, stamps, order of cells); the operations before that one are merged. */
int cs_state_apply(struct cs_state *s, const struct cs_delta *d, cs_state_conflict_fn conflict, void *arg);
/* state := state JOIN other. CS_ENOMEM: partly joined. */
int cs_state_join(struct cs_state *s, const struct cs_state *other);

/* NULL: never heard of. */
const struct cs_state_row *cs_state_find(const struct cs_state *s, struct cs_slice table, struct cs_slice key);
struct cs_slice cs_state_column(const struct cs_state *s, const struct cs_state_row *row, uint32_t col);
/* The value of a column, or NULL where the row has no cell. */
const struct cs_value *cs_state_value(const struct cs_state_row *row, uint32_t col);
/* All rows that are not empty, by (table name, key bytes), in arena a; NULL: out of memory. */
const struct cs_state_row **cs_state_sorted(const struct cs_state *s, struct cs_arena *a, uint32_t *n);
/* Its canonical bytes (crdt/dump.h). Sets out->failed when memory is out. */
void cs_state_dump(const struct cs_state *s, struct cs_buf *out);

#endif
