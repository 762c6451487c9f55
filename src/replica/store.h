/* What the files on the capturing side share: our own tables (db.c, layout.c), unsent edits (unsent.c), triggers. */
#ifndef CS_REPLICA_STORE_H
#define CS_REPLICA_STORE_H

#include <stdlib.h>

#include "replica/internal.h"

/* For "return err_code(err)" after a call that filled err and answers NULL; err may be NULL. */
static inline int err_code(const struct cs_error *err)
{
    return err != NULL && err->code != CS_OK ? err->code : CS_EDB;
}

/* db.c */
int cs_db_step(struct cs_replica *r, sqlite3_stmt *s, const char *what,
               struct cs_error *err); /* to SQLITE_DONE, then reset */
void cs_db_finalize(struct cs_replica *r);
int cs_db_bind_slice(sqlite3_stmt *s, int param, struct cs_slice b); /* a blob, borrowed */
int cs_db_bind_text(sqlite3_stmt *s, int param, struct cs_slice b);
struct cs_slice cs_db_column_blob(sqlite3_stmt *s, int col); /* borrowed until the next step */
int cs_meta_int(struct cs_replica *r, const char *name, int64_t *v, struct cs_error *err); /* CS_ENOTFOUND: *v is 0 */
#define CS_FORMERS "formers" /* of cs_replica_formers: device 16 ‖ number u64 ‖ hash 32, repeated */
int cs_meta_put_int(struct cs_replica *r, const char *name, int64_t v, struct cs_error *err);
int cs_meta_put(struct cs_replica *r, const char *name, struct cs_slice v, struct cs_error *err);
int cs_meta_drop(struct cs_replica *r, const char *name, struct cs_error *err);
int cs_devices_append(struct cs_replica *r, const uint8_t id[16], struct cs_error *err);
int cs_chain_save(struct cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_error *err);
int cs_mark_adopt(struct cs_replica *r, const struct cs_pull_mark *m, const struct cs_known_place *places, size_t n,
                  struct cs_error *err);
int cs_mark_new_log(struct cs_replica *r, uint64_t log_id, struct cs_error *err); /* nothing of it is pulled */
int cs_chain_advance(struct cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_error *err); /* bound.c */
int cs_identity_save(struct cs_replica *r, const struct cs_replica_identity *id, struct cs_error *err);

/* layout.c */
int cs_layout_create(struct cs_replica *r, struct cs_error *err);
int cs_layout_drop(struct cs_replica *r, struct cs_error *err);
int cs_layout_void(struct cs_replica *r, struct cs_error *err);  /* makes sync_void, where it is not there */
int cs_layout_lost(struct cs_replica *r, struct cs_error *err);  /* makes sync_lost, where it is not there */
int cs_layout_check(struct cs_replica *r, struct cs_error *err); /* CS_ENOTFOUND: we never were here; CS_EVERSION */

/* schema.c: reads one table of the application, tracked or not, into the arena; CS_ENOTFOUND. problem: why it cannot be
 * tracked, or NULL. */
int cs_schema_read_table(struct cs_replica *r, struct cs_arena *a, const char *name, struct cs_table *out,
                         const char **problem, struct cs_error *err);

/* triggers.c */
int cs_triggers_install(struct cs_replica *r, const struct cs_table *t, struct cs_error *err);
int cs_triggers_drop(struct cs_replica *r, int64_t table, struct cs_error *err);
/* All of the table's triggers are there as cs_triggers_install would make them. */
int cs_triggers_present(struct cs_replica *r, const struct cs_table *t, bool *present, struct cs_error *err);
/* The same, and each with the very text; for somebody may have replaced one by another of its name. */
int cs_triggers_exact(struct cs_replica *r, const struct cs_table *t, bool *exact, struct cs_error *err);

/* gap.c: one slice of backfill or comparison inside an open transaction; *more: another slice is needed. */
/* track.c: a statement of one call, with ?1 a table's number and ?2 the value, if it has that. */
int cs_tables_run(struct cs_replica *r, const char *sql, int64_t table, int64_t value, struct cs_error *err);
/* The number that sql finds, 0 without a row. sql is freed. */
int cs_one_int(struct cs_replica *r, struct cs_buf *sql, int64_t *out, struct cs_error *err);
int cs_gap_slice(struct cs_replica *r, uint32_t max_rows, bool *more, uint64_t *sealed, struct cs_error *err);
int cs_gap_waits(struct cs_replica *r, bool *out, struct cs_error *err); /* is there anything for cs_gap_slice? */
void cs_gap_rolled_back(struct cs_replica *r);
int cs_gap_paused(struct cs_replica *r, const struct cs_table *t, struct cs_error *err); /* it is, from now on */
int cs_gap_compare(struct cs_replica *r, struct cs_table *t,
                   struct cs_error *err);                                    /* it is tracked, and was written unseen */
int cs_gap_since(struct cs_replica *r, int64_t table, struct cs_error *err); /* its tracking begins now */
int cs_shadow_store(struct cs_replica *r, struct cs_table *t, struct cs_error *err); /* when pausing */
/* Around the merge of a set, inside its transaction: what the application did unseen to the same rows is sealed first.
 */
int cs_gap_before_apply(struct cs_replica *r, const struct cs_delta *d, struct cs_error *err);
int cs_gap_after_apply(struct cs_replica *r, const struct cs_delta *d, struct cs_error *err);
/* Do tables with UNIQUE or foreign keys wait to be looked at? Then nothing is projected: it could reach any row. */
bool cs_gap_linked_waits(const struct cs_replica *r);
int cs_gap_finish_linked(struct cs_replica *r, struct cs_error *err); /* at once, in the running transaction */
/* When tracking begins, before what others sent is shown. */
int cs_gap_meet_known(struct cs_replica *r, struct cs_table *t, struct cs_error *err);
/* Before that, where it was untracked, and its rows are as they were then: rows that are gone were deleted, those that
 * others have deleted go. Behind it: the hashes of then go. */
int cs_gap_meet_again(struct cs_replica *r, struct cs_table *t, struct cs_error *err);
int cs_gap_met(struct cs_replica *r, const struct cs_table *t, struct cs_error *err);

/* seal.c: one change of one row, inside an open transaction: versions, unsent record, touched list. */
struct cs_seal_change {
    struct cs_table *table;
    struct cs_slice key;
    enum cs_op_kind kind;
    const struct cs_op_cell *cells; /* columns written, ascending, values unused */
    uint32_t ncells;
    int64_t ms;
};
int cs_seal_change(struct cs_replica *r, const struct cs_seal_change *c, uint64_t *sealed, struct cs_error *err);
int cs_seal_begin(struct cs_replica *r, struct cs_error *err); /* resets the touched list */
/* Saves clock and counters. drained: the changelog is empty now; what was touched is projected. */
int cs_seal_finish(struct cs_replica *r, bool drained, struct cs_error *err);
void cs_seal_null_keys(struct cs_replica *r); /* there may be rows with a NULL in the key, which finish counts */
int cs_null_keys(struct cs_replica *r, int64_t *n, struct cs_error *err); /* track.c: how many there are now */

void cs_seal_free(struct cs_replica *r);
void cs_scratch_reset(struct cs_replica *r);
/* All numbered columns of the table, ascending, in seal.c's scratch; NULL: out of memory. */
const struct cs_op_cell *cs_seal_all_columns(struct cs_replica *r, const struct cs_table *t, uint32_t *n,
                                             struct cs_error *err);

/* unsent.c: what a row has that no batch has carried. */
struct cs_unsent {
    bool ins, del; /* the insert, the delete is unsent */
    bool in_run;   /* a plain insert among others (unsent_run.c); cs_unsent_set takes it out */
    struct cs_row_cell
        *base; /* columns with unsent edits (besides those of an unsent insert): what stood before the first */
    struct cs_row_cell *seen; /* cells that unsent deletes saw */
    uint32_t nbase, nseen;
};
int cs_unsent_decode(struct cs_replica *r, struct cs_arena *a, struct cs_slice bytes, struct cs_unsent *out,
                     struct cs_error *err);
/* CS_ENOTFOUND: the pointer is stale, nothing is unsent (and *out is empty). */
int cs_unsent_get(struct cs_replica *r, struct cs_arena *a, int64_t seq, struct cs_unsent *out, struct cs_error *err);
int cs_unsent_put(struct cs_replica *r, int64_t table, struct cs_slice key, const struct cs_unsent *u, int64_t *seq,
                  struct cs_error *err); /* a new record */
const struct cs_row_cell *cs_unsent_find(const struct cs_row_cell *cells, uint32_t n,
                                         uint32_t col); /* NULL: not there */
/* Adds the cell, or replaces that of its column; the list moves within the arena. */
int cs_unsent_add(struct cs_arena *a, struct cs_row_cell **cells, uint32_t *n, struct cs_row_cell cell,
                  struct cs_error *err);
/* u: what cs_unsent_get gave, changed. */
int cs_unsent_set(struct cs_replica *r, int64_t seq, int64_t table, struct cs_slice key, const struct cs_unsent *u,
                  struct cs_error *err);
int cs_unsent_record(struct cs_replica *r, int64_t seq, int64_t table, struct cs_slice key, const struct cs_unsent *u,
                     struct cs_error *err); /* a new record under a seq that is free */
/* Before the versions of a row change by other means than sealing: what its run says of it would be wrong. */
int cs_unsent_leave_run(struct cs_replica *r, int64_t seq, int64_t table, struct cs_slice key, struct cs_error *err);

/* A column was dropped, and with it the values of edits that no batch has carried: nobody has those, and so they have
 * not been. In the running transaction. */
int cs_unsent_lose_dropped(struct cs_replica *r, struct cs_error *err);

/* unsent_run.c: consecutive fresh inserts. */
enum { CS_RUN_ROWS = 255 }; /* at most; the statement CS_STMT_UNSENT_GET looks back as far */
struct cs_run_row {
    struct cs_slice key; /* empty: the row left */
    int64_t stamp;
};
struct cs_run {
    int64_t first, table;  /* row i has seq first + 1 + i */
    uint32_t *cols, ncols; /* what each insert carried */
    struct cs_run_row *rows;
    uint32_t n, live;
};
/* The seq that the next cs_run_append gives: in the run at hand, or in a new one. */
int cs_run_next(struct cs_replica *r, int64_t table, const struct cs_op_cell *cells, uint32_t ncells, int64_t *seq,
                struct cs_error *err);
int cs_run_append(struct cs_replica *r, struct cs_slice key, int64_t stamp, struct cs_error *err);
int cs_run_flush(struct cs_replica *r, struct cs_error *err); /* cs_db_commit does it */
void cs_run_forget(struct cs_replica *r);                     /* after a rollback */
void cs_run_free(struct cs_replica *r);
bool cs_run_holds(const struct cs_replica *r, int64_t seq); /* in the run at hand? */
bool cs_run_has(struct cs_slice bytes, int64_t first, int64_t seq);
/* bytes are borrowed by the result. */
int cs_run_decode(struct cs_arena *a, int64_t first, int64_t table, struct cs_slice bytes, struct cs_run *out,
                  struct cs_error *err);
int cs_run_leave(struct cs_replica *r, int64_t seq, struct cs_error *err); /* CS_ENOTFOUND */
/* n rows of one run are in a batch. */
int cs_run_sent(struct cs_replica *r, const int64_t *seqs, size_t n, struct cs_error *err);
int cs_run_dissolve_all(struct cs_replica *r, struct cs_error *err); /* a record for each row */

/* lease.c */
int cs_lease_take(struct cs_replica *r, struct cs_error *err);
int cs_lease_note(struct cs_replica *r, struct cs_error *err); /* the row that names us */
void cs_lease_give(struct cs_replica *r);

/* replica.c */
int cs_schema_version(struct cs_replica *r, int64_t *out, struct cs_error *err);

/* extract.c */
void cs_extract_free(struct cs_replica *r);
int cs_extract_drop_taken(struct cs_replica *r, struct cs_error *err); /* what the last extract took is bound: sent */
void cs_extract_stale(struct cs_replica *r);  /* versions change: what was extracted must not be bound any more */
void cs_extract_forget(struct cs_replica *r); /* what is bound next was not extracted */
void cs_over_sort(struct cs_op_over *over, uint32_t n);
/* A read transaction in which the schema is the one in memory, and its end. */
int cs_snapshot_begin(struct cs_replica *r, struct cs_error *err);
void cs_snapshot_end(struct cs_replica *r);

/* collect.c. Inside a write transaction, the scratch arena reset: every tombstone up to c->through goes, and c is what
 * is collected here. */
enum { CS_COLLECTION_LEN = 24 };
void cs_collection_encode(const struct cs_collection *c, uint8_t out[CS_COLLECTION_LEN]);
int cs_collect(struct cs_replica *r, const struct cs_collection *c, struct cs_error *err);
/* As if the row had never been here. unsent: its number in sync_unsent, 0: it has none. */
int cs_row_forget(struct cs_replica *r, int64_t table, struct cs_slice key, int64_t unsent, struct cs_error *err);
/* The position in the set of a table of ours by number, which is put there if it is not. */
int cs_collect_table(struct cs_replica *r, struct cs_arena *a, struct cs_delta *d, int64_t id, uint32_t *cap,
                     uint32_t *out, struct cs_error *err);
int cs_stale_mark(struct cs_replica *r, struct cs_error *err); /* all rows that are here */
int cs_stale_strike(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_error *err);
/* An update of the set; it is kept if the row is marked. */
int cs_stale_edited(struct cs_replica *r, const struct cs_delta *d, const struct cs_op *op, int64_t table,
                    struct cs_error *err);
int cs_stale_clear(struct cs_replica *r, struct cs_error *err);
int cs_swept(struct cs_replica *r, const struct cs_collection *c, struct cs_error *err);

/* publish.c: the row up to which the merged state is bound. */
int cs_publish_save(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_error *err);
int cs_publish_load(struct cs_replica *r, struct cs_arena *a, int64_t *table, struct cs_slice *key,
                    struct cs_error *err); /* CS_ENOTFOUND: nothing is published */
int cs_publish_end(struct cs_replica *r, struct cs_error *err);

/* dump.c: where a row's merged values are. */
struct cs_merged_place {
    struct cs_table *t; /* NULL: not tracked here */
    int64_t table;
    struct cs_slice key;
    bool shown, read; /* it should be in the application's table; t->read stands on it */
    bool aside;       /* sync_hidden may have some */
};
int cs_merged_locate(struct cs_replica *r, struct cs_table *t, int64_t table, struct cs_slice key,
                     const struct cs_row *row, struct cs_merged_place *out, struct cs_error *err);
/* CS_ENOTFOUND: the application dropped it with its column, and *out is NULL. Text and blob last until the next row is
 * located, or are the arena's. */
int cs_merged_value(struct cs_replica *r, struct cs_arena *a, const struct cs_merged_place *p, uint32_t col,
                    struct cs_value *out, struct cs_error *err);
void cs_merged_leave(const struct cs_merged_place *p);

#endif
