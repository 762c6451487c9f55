/* What the files of the replica share. The tables of ours in the application's database are described in layout.c.
 *
 * Column numbers: a column that carries cells has a persistent number per table (sync_columns), given when it is first
 * seen, here or in a batch. Key columns carry a cell (their literal value) only where the literal can differ from the
 * canonical key: collation NOCASE or RTRIM, or no affinity; other key columns have no number. Table numbers likewise
 * (sync_tables), for unknown tables too. Devices are small integers into sync_devices. */
#ifndef CS_REPLICA_INTERNAL_H
#define CS_REPLICA_INTERNAL_H

#include <sqlite3.h>

#include "base/arena.h"
#include "crdt/merge.h"
#include "replica/replica.h"

/* Type affinities (https://www.sqlite.org/datatype3.html §3.1). */
enum cs_affinity { CS_AFF_BLOB, CS_AFF_TEXT, CS_AFF_NUMERIC, CS_AFF_INTEGER, CS_AFF_REAL };

enum { CS_NO_COLUMN = UINT32_MAX };

struct cs_column {
    const char *name;
    uint32_t id; /* persistent number; CS_NO_COLUMN: a key column without literal cells */
    int key_pos; /* position in the key from 0, or -1 */
    enum cs_affinity affinity;
    enum cs_collation collation;
    bool notnull, has_default;     /* has_default: a constant, not NULL */
    struct cs_value default_value; /* after affinity, as the table would store it */
    char strict;                   /* STRICT tables: 'I' INTEGER, 'R' REAL, 'T' TEXT, 'B' BLOB, 'A' ANY; else 0 */
};
/* A UNIQUE index besides the primary key. Columns are positions in cs_table.columns. */
struct cs_unique {
    uint32_t *cols, ncols;
    enum cs_collation *collations; /* of the index, which may differ from the columns' */
    const char *where;             /* a partial index: its condition, else NULL */
};
struct cs_fk {
    uint32_t *cols, ncols; /* child columns */
    const char *parent;    /* table name */
    const char **refs;     /* parent's columns by name */
};
struct cs_table {
    int64_t id;
    const char *name;
    enum cs_track_state state;
    bool without_rowid, strict, show_orphans, has_check;
    bool backfilling;
    bool remade;      /* what it lacks then was not deleted (gap.c) */
    int64_t since_ms; /* when tracking began, while what it held then is taken in; -1: not noted, 0: not read yet */
    struct cs_column *columns; /* all but generated and hidden ones, in table order */
    uint32_t ncolumns;
    uint32_t *key, nkey; /* positions of the key columns in key order */
    struct cs_unique *uniques;
    uint32_t nuniques;
    struct cs_fk *fks;
    uint32_t nfks;
    bool is_parent;        /* some tracked table has a foreign key to it */
    uint32_t ncolumn_ids;  /* how many persistent numbers sync_columns has for it (also of unknown columns) */
    uint32_t *by_id;       /* persistent number -> position, or CS_NO_COLUMN: a column this schema does not have */
    int64_t nhidden;       /* rows of it hidden at present (rows, not cells) */
    bool doubted;          /* reading the merged state met what our versions do not say */
    int64_t nhidden_cells; /* cells in sync_hidden of rows that are shown */
    sqlite3_stmt *read;    /* SELECT all columns in order WHERE key; owned; prepared on first use */
    void *apply;           /* apply.c's statements and scratch; owned there */
};
/* Where the table has the column of this persistent number; CS_NO_COLUMN: nowhere. */
static inline uint32_t cs_column_position(const struct cs_table *t, uint32_t id)
{
    return id < t->ncolumn_ids ? t->by_id[id] : CS_NO_COLUMN;
}

/* What a transaction may change of the database's mirror in memory, for its rollback. */
struct cs_mirror {
    struct cs_replica_identity id;
    int64_t hlc, huge;
    uint32_t ndevices;
    uint64_t next_unsent, chain_number;
    uint8_t chain_hash[32];
    struct cs_pull_mark mark;
};

struct cs_replica {
    sqlite3 *db; /* our own connection; foreign_keys=OFF, recursive_triggers=OFF */
    struct cs_world *world;
    struct cs_replica_identity id;
    int64_t hlc;
    struct cs_arena schema_arena; /* tables and all they point to; renewed when the schema changed */
    struct cs_table *tables;      /* tracked and paused ones, by name */
    size_t ntables;
    int64_t schema_version;
    uint64_t data_version;   /* as of the last cs_replica_poll */
    uint64_t mirror_version; /* the same, as of the last transaction: memory mirrors the database as it was then */
    bool mirrors, stale;     /* mirrors: cs_db_load has read it; stale: and must do so again */
    struct cs_uuid *devices; /* owned; small integer -> id; [0] unused */
    uint32_t ndevices, devices_cap;
    uint64_t next_unsent; /* next sync_unsent.seq; only grows */
    struct cs_pull_mark mark;
    uint64_t chain_number;
    uint8_t chain_hash[32];
    struct cs_arena scratch; /* of the running call */
    struct cs_row row;       /* scratch row with its cells */
    sqlite3_stmt **stmts;    /* owned; fixed statements, prepared on first use (db.c) */
    void *extract;           /* extract.c: what the last extract took, for bind */
    void *apply;             /* apply.c's state: guards, probes */
    bool lease_held, read_only;
    struct cs_file_info leased; /* the file of the lease that is held */
    bool begun;                 /* a transaction of ours is open, before is what it found */
    bool stays;                 /* one could not be rolled back, as memory was out; cs_db_leave is to try again */
    bool bare;            /* ours are gone since the last table was untracked, or never were: until one is tracked */
    int64_t huge;         /* rows above 16 MiB that the last extract left */
    int64_t collected_ms; /* when old conflicts were looked for last */
    struct cs_buf meta;   /* scratch: a row's versions, encoded */
    void *seal;           /* seal.c's state of the running transaction */
    void *run;            /* unsent_run.c: the run at hand */
    struct cs_mirror before;
};

/* db.c: statements, transactions and errors. */
#define CS_IF_DAMAGED                                                                                                  \
    "keep it, put a backup or an empty database with the same tables in its place, then: claw-sync sync; the rest "    \
    "comes back from the hub, what was not sent is in the kept file alone"
int cs_db_fail(struct cs_replica *r, struct cs_error *err, const char *what); /* from sqlite3_errcode: EBUSY, EIO … */
#ifdef __clang_analyzer__
#define cs_db_fail(r, err, what) ((void)cs_db_fail(r, err, what), cs_fail_code(CS_EDB))
#endif
int cs_db_exec(struct cs_replica *r, const char *sql, struct cs_error *err);
/* The next row of s, if *rc is CS_OK; false: there is none, or *rc says why it cannot be read. An error is never taken
 * for the end: what is half read would be believed. */
bool cs_db_row(struct cs_replica *r, sqlite3_stmt *s, int *rc, const char *what, struct cs_error *err);
#ifdef __clang_analyzer__ /* which does not look into another file */
#define cs_db_row(r, s, rc, what, err) (*(rc) == CS_OK && cs_db_row(r, s, rc, what, err) && *(rc) == CS_OK)
#endif
/* BEGIN IMMEDIATE; and memory mirrors the database again, if another process changed what it mirrors. */
int cs_db_begin(struct cs_replica *r, struct cs_error *err);
int cs_db_data_version(struct cs_replica *r, uint64_t *out, struct cs_error *err);
/* track.c: that; under the write lock the schema cannot change any more: it is the one in memory, or is looked at
 * first. */
int cs_db_begin_with_schema(struct cs_replica *r, struct cs_error *err);
int cs_db_commit(struct cs_replica *r, struct cs_error *err); /* on failure rolled back */
/* Ends a transaction, if there is one, and forgets nothing. The statement was prepared when it began, as memory that is
 * out must not keep a lock; where the transaction changed the schema that does not help, and the next to begin one
 * makes up for it. */
void cs_db_leave(struct cs_replica *r);
int cs_db_make_up(struct cs_replica *r, struct cs_error *err);     /* for that; CS_ENOMEM: again not */
void cs_db_rollback(struct cs_replica *r);                         /* also when none is open: then nothing happens */
int cs_db_end(struct cs_replica *r, int rc, struct cs_error *err); /* commits what went well, rolls back what did not */
/* Reads all that memory mirrors: hlc, mark, chain, devices, next_unsent. */
int cs_db_load(struct cs_replica *r, struct cs_error *err);
sqlite3_stmt *cs_db_stmt(struct cs_replica *r, int which,
                         struct cs_error *err); /* enum in statements.h; reset, no bindings */
void cs_value_from_column(struct cs_value *out, sqlite3_stmt *s, int col);     /* borrowed until the next step */
int cs_value_bind(sqlite3_stmt *s, int param, const struct cs_value *v);       /* SQLITE_STATIC */
void cs_put_identifier(struct cs_buf *out, const char *name);                  /* "name", quotes doubled */
int cs_db_load_extension(sqlite3 *db, const char *path, struct cs_error *err); /* path NULL or "": nothing */

/* Save what memory mirrors, inside a write transaction. */
int cs_hlc_save(struct cs_replica *r, struct cs_error *err);
int cs_mark_save(struct cs_replica *r, const struct cs_pull_mark *m,
                 struct cs_error *err); /* also device, sync_log, bound */

/* schema.c */
void cs_schema_release(struct cs_replica *r);
int cs_schema_load(struct cs_replica *r, struct cs_error *err);
struct cs_table *cs_table_by_name(struct cs_replica *r, struct cs_slice name); /* NULL: not tracked here */
struct cs_table *cs_table_by_id(struct cs_replica *r, int64_t id);
int cs_table_number(struct cs_replica *r, struct cs_slice name, int64_t *id,
                    struct cs_error *err); /* gives one if new */
int cs_column_number(struct cs_replica *r, int64_t table, struct cs_slice name, uint32_t *id, struct cs_error *err);
int cs_column_name(struct cs_replica *r, int64_t table, uint32_t id, struct cs_slice *name, struct cs_error *err);
int cs_device_number(struct cs_replica *r, const struct cs_uuid *device, uint32_t *n, struct cs_error *err);
/* Canonical key bytes of a statement's columns first, first + 1 … in key order; false: a NULL among them. */
bool cs_table_key(const struct cs_table *t, sqlite3_stmt *s, int first, struct cs_buf *out);
/* Binds the key parts from first_param on. Canonical parts find the row: = under the key's collation. */
int cs_table_bind_key(const struct cs_table *t, sqlite3_stmt *s, int first_param, struct cs_slice key);
/* Steps t->read for this key: SQLITE_ROW (columns in table order, until the next use), SQLITE_DONE or an error. */
int cs_table_read(struct cs_replica *r, struct cs_table *t, struct cs_slice key, struct cs_error *err);

/* rows.c: sync_rows. meta = varint device of ins ‖ varint device of del ‖ varint n ‖ entries: columns below n have the
 * version `ins` unless an entry says otherwise; an entry is varint column ‖ varint device (0: no cell) ‖ zigzag varint
 * stamp - ins (not with device 0). */
int cs_rows_get(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_row *row, int64_t *unsent,
                struct cs_error *err); /* CS_ENOTFOUND: *row is empty */
/* The same from a statement whose first columns are ins, del and meta; table and key are for the error. */
int cs_rows_read(struct cs_replica *r, sqlite3_stmt *s, int64_t table, struct cs_slice key, struct cs_row *row,
                 struct cs_error *err);
int cs_rows_insert(
    struct cs_replica *r, int64_t table, struct cs_slice key, const struct cs_row *row, int64_t unsent,
    struct cs_error *err); /* CS_EEXIST: one is there (tries the insert first: one lookup for a new row) */
int cs_rows_update(struct cs_replica *r, int64_t table, struct cs_slice key, const struct cs_row *row, int64_t unsent,
                   struct cs_error *err);

/* hidden.c: sync_hidden holds the values that the application's table does not show: whole rows (an entry with column
 * -1 and the reason, and one for each cell), and single cells of shown rows (unknown column, substituted or changed
 * value). */
int cs_hidden_row_reason(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_buf *reason,
                         struct cs_error *err); /* CS_ENOTFOUND: the row is not hidden */
/* The cell's value kept aside, copied into the arena; CS_ENOTFOUND: read it from the application's table. */
int cs_hidden_cell(struct cs_replica *r, struct cs_arena *a, int64_t table, struct cs_slice key, uint32_t col,
                   struct cs_value *out, struct cs_error *err);
/* All values kept aside for one row, as (column, value), ascending. */
int cs_hidden_cells(struct cs_replica *r, struct cs_arena *a, int64_t table, struct cs_slice key,
                    struct cs_op_cell **out, uint32_t *n, struct cs_error *err);

/* project.c: rows whose versions sealing changed, decided again at the end of the sealing transaction: a local delete
 * can free a key or make an orphan; a local insert can be an orphan, or cover a hidden row. */
struct cs_touched {
    struct cs_table *table;
    struct cs_slice key; /* in the scratch arena */
    enum cs_op_kind kind;
    bool was_hidden;   /* the row was in sync_hidden when the application wrote over it */
    uint64_t mask_any; /* updates: nonzero when a column of a UNIQUE or foreign key changed */
};
int cs_project_touched(struct cs_replica *r, const struct cs_touched *rows, size_t n, struct cs_error *err);
/* The schema, or what is tracked, changed: everything hidden is decided again, cells of new columns are shown. */
int cs_project_schema_changed(struct cs_replica *r, struct cs_error *err);

/* conflicts.c */
struct cs_conflict_in {
    const char *why; /* overwritten, deleted, copied-device, unique, check */
    int64_t table;
    struct cs_slice key;
    uint32_t col; /* CS_NO_COLUMN: the whole row */
    struct cs_version losing;
    const struct cs_value *value; /* the losing value, or NULL */
};
enum { CS_CONFLICT_ID = 16 };
enum cs_recorded { CS_RECORDED_BEFORE, CS_RECORDED_AUTO, CS_RECORDED_MANUAL }; /* before: or resolved already */
int cs_conflict_record(struct cs_replica *r, const struct cs_conflict_in *c, enum cs_recorded *out,
                       struct cs_error *err);

/* shared.c: a table of ours that is replicated. */
#define CS_SHARED "sync_shared"
static inline bool cs_is_shared(const char *table)
{
    return sqlite3_stricmp(table, CS_SHARED) == 0;
}

/* Of a conflict; older versions recorded some about CS_SHARED too. */
#define CS_NOT_SHARED "tbl NOT IN (SELECT id FROM main.sync_tables WHERE name = '" CS_SHARED "')"

/* apply.c */
int cs_apply_open(struct cs_replica *r, struct cs_error *err); /* authorizer and guards of our connection */
void cs_apply_close(struct cs_replica *r);
void cs_apply_counts_changed(struct cs_replica *r); /* of hidden rows: another process may have changed them */
void cs_apply_schema_changed(struct cs_replica *r); /* drops prepared statements; called before tables are renewed */

/* guard.c: statements prepared from here on have the application's triggers in them, until the next write transaction
 * after a change of schema decides anew. */
int cs_guard_all_triggers(struct cs_replica *r, struct cs_error *err);

/* seal.c: one slice inside a transaction that is open already (apply calls it, before merging). */
int cs_seal_slice(struct cs_replica *r, uint32_t max_rows, bool *more, uint64_t *sealed, struct cs_error *err);

#endif
