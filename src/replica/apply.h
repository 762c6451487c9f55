/* What the files that bring merged rows to the application's tables share: apply.c (merging a delta set), project.c
 * (which rows are shown), show.c (what a row shows), write.c and guard.c (the application's triggers).
 *
 * One invariant holds between any two operations, also in the middle of a batch: the merged value of a cell is the one
 * in sync_hidden if there is one, else the one in the application's table. A row whose projection has to wait for the
 * rest of its batch keeps its values in sync_hidden until cs_pending_run decides it. */
#ifndef CS_REPLICA_APPLY_H
#define CS_REPLICA_APPLY_H

#include <stdlib.h>

#include "replica/internal.h"

enum { CS_UPDATE_STMTS = 16 }; /* column sets whose UPDATE is kept prepared, per table */

/* A child: a foreign key of `table` that references the owner of this struct. */
struct cs_child {
    struct cs_table *table;
    uint32_t fk;
    uint32_t *refs;     /* positions in the parent's columns; owned by the sql arena */
    sqlite3_stmt *find; /* SELECT key FROM table WHERE the foreign key's columns = the parent's values */
};
struct cs_update_stmt {
    sqlite3_stmt *stmt;
    uint32_t *cols, ncols; /* positions, ascending */
};
/* t->apply: statements and derived facts of one table. All pointers into `arena`. */
struct cs_table_sql {
    struct cs_arena arena;
    sqlite3_stmt *insert, *del;
    sqlite3_stmt *ahead; /* ahead.c; prepared on first use */
    struct cs_update_stmt updates[CS_UPDATE_STMTS];
    uint32_t next_update;       /* the one to be replaced next */
    struct cs_table **parents;  /* of each foreign key; NULL: not tracked, hides nothing */
    uint32_t **parent_refs;     /* of each foreign key: positions in the parent's columns */
    sqlite3_stmt **find_parent; /* of each foreign key: SELECT key FROM parent WHERE refs = … */
    sqlite3_stmt **claimants;   /* [0] the primary key, then each unique: SELECT key WHERE columns = … */
    sqlite3_stmt **where;       /* of each unique: a partial index's condition on the row in the clone, else NULL */
    struct cs_child *children;
    uint32_t nchildren;
    bool *structural; /* by position: the column is part of a UNIQUE, foreign key, or referenced by one */
    bool partial;     /* a partial unique index: any column may matter */
    uint32_t family;  /* tables connected by foreign keys share it */
    bool circular;    /* in a circle of foreign keys, or below one */
    bool linked;      /* has a UNIQUE, a foreign key, or is a parent: rows depend on each other */
    bool or_abort;    /* a constraint of the table has an ON CONFLICT clause */
    bool probed;      /* own statements were prepared once, so that the guards needed are known */
    bool guard[2];    /* a trigger updates [0] or deletes [1] rows of it */
    bool guarded[2];  /* and our guard is there */
    bool cloned;      /* making the table again in `aside` was tried */
    sqlite3_stmt *clone_put, *clone_clear;
    int64_t npending;              /* rows of nhidden that wait for the end of this very batch */
    struct cs_value *values;       /* scratch: one row, ncolumns */
    struct cs_value *parts;        /* scratch: its key, nkey */
    const struct cs_value **cells; /* scratch: the cells by position, ncolumns */
    bool *aside, *changed;         /* scratch, ncolumns */
    uint32_t *cols;                /* scratch, ncolumns */
};

/* Statements on our tables that only this side uses; their text stands in apply.c. */
enum cs_own_statement {
    CS_OWN_HIDDEN_REASON,
    CS_OWN_HIDDEN_CELL,
    CS_OWN_HIDDEN_CELLS,
    CS_OWN_HIDDEN_ROWS,
    CS_OWN_HIDDEN_COUNT,
    CS_OWN_HIDDEN_INSERT,
    CS_OWN_HIDDEN_UPDATE,
    CS_OWN_HIDDEN_DELETE,
    CS_OWN_HIDDEN_DELETE_ROW,
    CS_OWN_HIDDEN_SHOWN, /* rows that are shown and have cells in sync_hidden */
    CS_OWN_TABLE_NAME,
    CS_OWN_CONFLICT,
    CS_OWN_CONFLICT_VALUE,
    CS_OWN_CONFLICT_CLOSE,
    CS_OWN_LOST,
    CS_OWN_SHARED,
    CS_NOWN
};

struct cs_banned {
    struct cs_banned *next;
    int64_t table;
    struct cs_slice key;
};

struct cs_apply {
    sqlite3_stmt *own[CS_NOWN];
    bool armed;         /* the next row that a guard sees is the engine's own */
    bool guards_wanted; /* a table needs a guard that is not there */
    bool triggers_off;  /* on our connection: no tracked table has one of the application's */
    bool derived;       /* family, circular and the rest of cs_table_sql are set for these tables */
    sqlite3 *aside;     /* a database in memory, where SQLite is asked what it would do with a value or a row */
    sqlite3_stmt *affinity_set[5], *affinity_get[5];
    struct cs_buf a, b; /* scratch for comparing keys */
    struct cs_pending *pending;
    struct cs_batch *batch; /* apply.c's scratch */
    bool counts_known;      /* nhidden and nhidden_cells of the tables are right */
    /* write.c */
    bool careless; /* rows are written without savepoints */
    bool again;    /* the transaction that failed is to begin anew */
    struct cs_arena banned_arena;
    struct cs_banned *banned; /* rows whose triggers rolled this transaction back */
};

static inline struct cs_apply *cs_apply_of(struct cs_replica *r)
{
    return r->apply;
}
static inline struct cs_table_sql *cs_sql_of(const struct cs_table *t)
{
    return t->apply;
}

static inline bool cs_same_value(const struct cs_value *a, const struct cs_value *b)
{
    return a->type == b->type && cs_value_cmp(a, b) == 0;
}

/* apply.c: reset, bindings of the last use still there; NULL: err says why. */
sqlite3_stmt *cs_apply_stmt(struct cs_replica *r, enum cs_own_statement which, struct cs_error *err);
/* Before a projection, inside the write transaction. */
int cs_apply_ready(struct cs_replica *r, struct cs_error *err);

/* guard.c */
int cs_guard_open(struct cs_replica *r, struct cs_error *err);
/* Whether triggers need to run, by the schema as it is. Inside the write transaction. */
int cs_guard_triggers(struct cs_replica *r, struct cs_error *err);
/* Prepares the table's own statements once and installs the guards that its triggers, and theirs, call for. Inside the
 * write transaction. */
int cs_guard_table(struct cs_replica *r, struct cs_table *t, struct cs_error *err);
void cs_guard_rolled_back(struct cs_replica *r);
/* Before the engine's own UPDATE (0) or DELETE (1) is stepped, and after. */
static inline void cs_guard_arm(struct cs_replica *r, const struct cs_table *t, int which)
{
    cs_apply_of(r)->armed = cs_sql_of(t)->guarded[which];
}
static inline void cs_guard_disarm(struct cs_replica *r)
{
    cs_apply_of(r)->armed = false;
}

/* ---- show.c: what a row shows under this schema ---- */

int cs_show_open(struct cs_replica *r, struct cs_error *err); /* a->aside */
/* Derives statements and facts of all tables, once per schema. */
int cs_show_derive(struct cs_replica *r, struct cs_error *err);
/* Prepares insert, delete and the UPDATE of all columns of one table (guard.c looks at what they set off). */
int cs_show_prepare(struct cs_replica *r, struct cs_table *t, struct cs_error *err);
void cs_show_close(struct cs_replica *r);
int cs_show_prepare_update(struct cs_replica *r, const struct cs_table *t, const uint32_t *cols, uint32_t n,
                           sqlite3_stmt **out, struct cs_error *err);

/* The value that the column at `pos` shows. cell: the merged cell, or NULL; part: of the key, for key columns.
 * *aside: the cell differs from what is shown and has to be kept in sync_hidden. *why becomes the reason ("notnull",
 * "type") when the row cannot be shown at all, else it is left alone. Text made here lies in the scratch arena. */
int cs_show_value(struct cs_replica *r, const struct cs_table *t, uint32_t pos, const struct cs_value *cell,
                  const struct cs_value *part, struct cs_value *out, bool *aside, const char **why,
                  struct cs_error *err);
/* Reads the key's parts; false: not as many as this schema's key has. */
bool cs_show_key(const struct cs_table *t, struct cs_slice key, struct cs_value *parts);
/* A value as the column's affinity would store it. */
int cs_show_affinity(struct cs_replica *r, enum cs_affinity affinity, const struct cs_value *in, struct cs_value *out,
                     struct cs_error *err);

/* Are all parents of a row with these values shown? Of foreign keys with a column marked in `changed`, or all. */
int cs_show_parents(struct cs_replica *r, const struct cs_table *t, const struct cs_value *values, const bool *changed,
                    bool *out, struct cs_error *err);
/* Does a shown row reference these values? Of references with a column marked in `changed`, or all. */
int cs_show_has_children(struct cs_replica *r, const struct cs_table *t, const struct cs_value *values,
                         const bool *changed, bool *out, struct cs_error *err);
/* SELECT the keys of shown rows whose foreign key finds no row in the parent's table; the caller finalises it. */
int cs_show_find_orphans(struct cs_replica *r, const struct cs_table *t, uint32_t fk, sqlite3_stmt **out,
                         struct cs_error *err);
/* The stored row, copied into the scratch arena; CS_ENOTFOUND. */
int cs_show_stored(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_value **out,
                   struct cs_error *err);
/* Does the row keep the table's CHECK constraints? True when they cannot be evaluated apart from the table. */
int cs_show_check(struct cs_replica *r, struct cs_table *t, const struct cs_value *values, bool *holds,
                  struct cs_error *err);
/* Does a partial unique index cover the row? */
int cs_show_covered(struct cs_replica *r, struct cs_table *t, uint32_t unique, const struct cs_value *values,
                    bool *covered, struct cs_error *err);

/* ---- write.c: writing rows ---- */

enum cs_written {
    CS_WRITTEN,
    CS_COLLIDES, /* a UNIQUE or primary key is taken */
    CS_REFUSED   /* by a trigger, a type: *why says */
};
/* CS_EABORTED: see cs_write_again. */
int cs_show_insert(struct cs_replica *r, struct cs_table *t, struct cs_slice key, const struct cs_value *values,
                   enum cs_written *out, const char **why, struct cs_error *err);
/* The columns at positions cols[0 … n) become values[position]. */
int cs_show_update(struct cs_replica *r, struct cs_table *t, struct cs_slice key, const uint32_t *cols, uint32_t n,
                   const struct cs_value *values, enum cs_written *out, const char **why, struct cs_error *err);
int cs_show_delete(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err);
/* Around a long transaction, which is tried without savepoints first. cs_write_again is called after its end, whatever
 * that was, and says whether it is to begin anew. */
void cs_write_begin(struct cs_replica *r);
bool cs_write_again(struct cs_replica *r);

/* ---- project.c: rows whose projection waits for the end of the batch ---- */

struct cs_pending_counts {
    uint32_t changed, hidden, conflicts;
};
/* Is a row of the table's family hidden since before this batch? Then a change may reach it; rows that wait since this
 * batch are decided anyway. */
bool cs_family_waits(const struct cs_replica *r, const struct cs_table *t);
/* The row must be decided; it is a tracked table's. */
int cs_pending_add(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err);
/* A shown row changes or goes: what these values (by position; the structural ones are looked at) held is free. */
int cs_pending_freed(struct cs_replica *r, struct cs_table *t, const struct cs_value *values, struct cs_error *err);
/* The same for a hidden row, with the values that sync_hidden still has. */
int cs_pending_freed_hidden(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err);
/* Decides what was added, and all that depends on it, and brings tables and sync_hidden in line. */
int cs_pending_run(struct cs_replica *r, struct cs_pending_counts *counts, struct cs_error *err);
void cs_pending_reset(struct cs_replica *r);
void cs_pending_free(struct cs_replica *r);

/* ---- hidden.c: writing sync_hidden; keeps t->nhidden and t->nhidden_cells ---- */

int cs_hidden_count(struct cs_replica *r, struct cs_error *err); /* counts anew (after a rollback) */
int cs_hidden_put_row(struct cs_replica *r, int64_t table, struct cs_slice key, const char *reason,
                      struct cs_error *err); /* replaces the reason */
int cs_hidden_put_cell(struct cs_replica *r, int64_t table, struct cs_slice key, uint32_t col, const struct cs_value *v,
                       struct cs_error *err);
int cs_hidden_drop_row(struct cs_replica *r, int64_t table, struct cs_slice key,
                       struct cs_error *err); /* a loser's conflict is closed with it */
int cs_hidden_drop_cell(struct cs_replica *r, int64_t table, struct cs_slice key, uint32_t col, struct cs_error *err);
/* The application wrote over a row that was hidden: what it wrote stands in its table now, and what sync_hidden keeps
 * of the same columns is old. row: after the change. Called when the change is sealed, before the next one is looked
 * at. */
int cs_hidden_uncover(struct cs_replica *r, struct cs_table *t, struct cs_slice key, const struct cs_row *row,
                      struct cs_error *err);
/* Keys of a table's hidden rows (CS_OWN_HIDDEN_ROWS) or of its shown rows with cells kept aside (…_SHOWN). */
int cs_hidden_keys(struct cs_replica *r, struct cs_arena *a, enum cs_own_statement which, int64_t table,
                   struct cs_slice **out, size_t *n, struct cs_error *err);

/* ---- ahead.c: reading the rows of operations that follow each other ---- */

struct cs_ahead {
    struct cs_table *table; /* its window is open; NULL: none is */
    uint32_t next, end;     /* operations: the one that the next step stands for, and the end of the window */
    uint32_t last, streak;  /* the last one asked for, and how many were asked for one after the other */
};
/* As cs_table_read for the row of operation `op`, whose table here is t; *out: the statement that stands on the row,
 * which may be left as it is. */
int cs_ahead_read(struct cs_replica *r, struct cs_ahead *a, struct cs_table *t, const struct cs_delta *d, uint32_t op,
                  sqlite3_stmt **out, struct cs_error *err);
void cs_ahead_end(struct cs_ahead *a); /* before the transaction ends */

/* ---- conflicts.c ---- */

/* All that a row held which was deleted although somebody had changed it: conflicts of it name what was changed only.
 * row: see sync_lost. */
int cs_conflict_keep_row(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_slice row,
                         struct cs_error *err);
/* What this row was in conflict with (unique, check) is no more. but: it is of this version; NULL: of none. */
int cs_conflict_close(struct cs_replica *r, int64_t table, struct cs_slice key, const char *why,
                      const struct cs_version *but, struct cs_error *err);
/* Of a shown row whose values, or versions, are other ones: is there a CHECK that it breaks? newest: of the merged row,
 * which is the same to all who have it. *raised counts what is recorded. */
int cs_conflict_check(struct cs_replica *r, struct cs_table *t, struct cs_slice key, const struct cs_value *values,
                      const struct cs_version *newest, uint32_t *raised, struct cs_error *err);
/* What CS_SHARED says is resolved, is. After rows of it were applied or sealed. */
int cs_conflict_settle(struct cs_replica *r, struct cs_error *err);
/* Inside a write transaction: what was settled 30 days ago goes, now and then. */
enum { CS_CONFLICT_DAYS = 30, CS_CONFLICT_COLLECT_MS = 3600 * 1000 };
int cs_conflict_collect(struct cs_replica *r, struct cs_error *err);

/* ---- shared.c: CS_SHARED ---- */

int cs_shared_create(struct cs_replica *r, struct cs_error *err); /* the table, inside a transaction */
int cs_shared_ensure(struct cs_replica *r, struct cs_error *err); /* it is there and tracked; outside of one */
/* *value in the scratch arena; CS_ENOTFOUND. */
int cs_shared_get(struct cs_replica *r, const char *what, struct cs_slice name, struct cs_slice *value,
                  struct cs_error *err);
int cs_strategy_is_manual(struct cs_replica *r, int64_t table, struct cs_slice column, bool *manual,
                          struct cs_error *err);

/* ---- application.c: writing as the application would ---- */

/* A connection on which the triggers that log see what is written; foreign keys are enforced, BEGIN IMMEDIATE is done.
 */
int cs_application_open(sqlite3 **db, const struct cs_replica_options *o, struct cs_error *err);
/* Commits if rc is CS_OK, else rolls back, and closes; NULL is fine. The outcome. */
int cs_application_close(sqlite3 *db, int rc, struct cs_error *err);
int cs_application_fail(sqlite3 *db, const char *what, struct cs_error *err); /* a constraint: CS_EINVAL */

#endif
