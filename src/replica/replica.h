/* The replica: everything inside the application's SQLite file. It reads the schema, installs triggers, seals what they
 * logged into versions, extracts what is unsent, and merges what others sent. No network and no keys in here.
 *
 * Threads: one at a time, any (the engine calls it from its worker). Every call may block on the database; the write
 * lock is held for one short transaction at a time. Values returned point into the arena given, or say otherwise.
 * Errors: CS_EBUSY (locked beyond the busy timeout: try again), CS_EDB, CS_ECORRUPT, CS_ENOMEM, besides those named. */
#ifndef CS_REPLICA_REPLICA_H
#define CS_REPLICA_REPLICA_H

#include "base/world.h"
#include "crdt/op.h"

typedef struct cs_replica cs_replica;

struct cs_replica_options {
    const char *path;           /* the database; must exist */
    const char *load_extension; /* CLAW_SYNC_LOAD_EXTENSION: path of a library, or NULL */
    uint32_t busy_timeout_ms;   /* 0: 5000 */
    bool take_lease;            /* one engine per file; false: for commands that only look, or change tracking */
    bool read_only; /* for commands that only look: nothing is written, CS_ENOTFOUND if we never were here */
    bool anywhere;  /* with read_only: opened there too, nothing is tracked then */
};

/* Opens our own connection. The file is refused, untouched, when it is missing (CS_ENOTFOUND), ":memory:" or a
 * temporary database (CS_EINVAL), not a database (CS_ECORRUPT), read-only (CS_EIO), locked (CS_EBUSY), ours of a newer
 * format (CS_EVERSION), or leased to a living engine (CS_EBUSY; the message names its pid). Makes our tables when they
 * are absent. */
int cs_replica_open(cs_replica **out, struct cs_world *w, const struct cs_replica_options *o, struct cs_error *err);
/* The living process whose engine has the lease; 0: none. */
int cs_replica_holder(cs_replica *r, int64_t *pid, struct cs_error *err);
void cs_replica_close(cs_replica *r); /* gives the lease back; NULL is fine */

/* Are there tables of ours in it? */
bool cs_replica_is_set_up(const cs_replica *r);

/* Who we are. Zero ids when nothing is recorded yet. incarnation 0: none yet. */
struct cs_replica_identity {
    struct cs_uuid workspace, device;
    uint64_t incarnation;
};
void cs_replica_identity(const cs_replica *r, struct cs_replica_identity *out);
/* Records it, once; CS_EEXIST when others are recorded (the message says what to do). A fresh incarnation may replace
 * the old. */
int cs_replica_set_identity(cs_replica *r, const struct cs_replica_identity *id, struct cs_error *err);

/* ---- what is tracked ---- */

enum cs_track_state { CS_UNTRACKED = 0, CS_TRACKED = 1, CS_PAUSED = 2 };
struct cs_table_info {
    const char *name;
    enum cs_track_state state;
    int64_t rows;        /* in the application's table */
    int64_t unsealed;    /* changelog rows */
    int64_t hidden;      /* rows that the merged state has and the table does not show */
    bool backfilling;    /* existing rows are still being taken in */
    const char *problem; /* why it cannot be tracked (candidates only), or NULL */
};
/* Tracked tables first, then the other tables of the application, by name. */
int cs_replica_tables(cs_replica *r, struct cs_arena *a, struct cs_table_info **out, size_t *n, struct cs_error *err);

struct cs_track_options {
    bool only_new;        /* CS_OK, and nothing changes, for a table that is paused or was untracked by hand */
    bool force_rowid_key; /* track a table whose key is a rowid alias, that two devices would both hand out */
    void (*warn)(void *arg, const char *sentence); /* foreign_key_check not empty, missing index … ; may be NULL */
    void *arg;
};
/* Installs triggers and begins the backfill. Tracked already: CS_OK, nothing changes. CS_ENOTFOUND; CS_EINVAL with the
 * reason: virtual or shadow table, one of ours, no primary key, custom collation or NULL in a key, UNIQUE over an
 * expression, a rowid alias without force, functions or collations that are not here. */
int cs_replica_track(cs_replica *r, const char *table, const struct cs_track_options *o, struct cs_error *err);
/* Removes the triggers; the merged state keeps the table's rows, and what was not sent goes out. The last one: every
 * table of ours goes. The application's data stays. */
int cs_replica_untrack(cs_replica *r, const char *table, struct cs_error *err);
/* Removes the triggers and keeps the rest (around a migration); resume puts them back and closes the capture gap.
 * table NULL: all tracked tables. */
int cs_replica_pause(cs_replica *r, const char *table, struct cs_error *err);
int cs_replica_resume(cs_replica *r, const char *table, struct cs_error *err);
/* Tracks those of the usual tables (memories, memory_tags, …) that exist and were never untracked by hand. */
int cs_replica_track_defaults(cs_replica *r, const struct cs_track_options *o, struct cs_error *err);

/* What becomes of concurrent edits of a table, or of one column (column NULL: of all that have no strategy of their
 * own). false: the last write wins, which can be taken back. true: it wins too, and the conflict waits for a person.
 * From now on, and on all devices: it travels. o as for cs_replica_open. CS_ENOTFOUND: no such table is tracked, no
 * such column. */
int cs_replica_set_strategy(cs_replica *r, const struct cs_replica_options *o, const char *table, const char *column,
                            bool manual, struct cs_error *err);
struct cs_strategy {
    const char *table, *column; /* column NULL: the table's */
    bool manual;
};
/* Those that were set, by table and column, also of tables that are not here; fn ends it with anything but 0. */
int cs_replica_strategies(cs_replica *r, int (*fn)(void *arg, const struct cs_strategy *s), void *arg,
                          struct cs_error *err);

/* Notices schema changes (PRAGMA schema_version): new and dropped columns, rebuilt, dropped and renamed tables, lost
 * triggers; reinstalls and marks capture gaps. *changed: something was. Cheap when nothing changed. */
int cs_replica_check_schema(cs_replica *r, bool *changed, struct cs_error *err);
/* Decides anew every row that is hidden, or shown with values kept aside. */
int cs_replica_project_again(cs_replica *r, struct cs_error *err);
/* PRAGMA schema_version as it was noticed last, by that or by a call that does it too (sealing, applying, …). */
int64_t cs_replica_schema(const cs_replica *r);

/* ---- local changes out ---- */

/* Seals at most max_rows changelog rows (and, when there are none, a slice of backfill or gap comparison) in one write
 * transaction. *more: there is more to do. *sealed: operations made. */
int cs_replica_seal(cs_replica *r, uint32_t max_rows, bool *more, uint64_t *sealed, struct cs_error *err);

/* A delta set of what is unsent, oldest first, at most max_ops operations and about max_bytes of values, from one read
 * snapshot. out->nops == 0: nothing (or all of it is being edited right now: seal first). Lives in the arena. A row
 * above 16 MiB is set aside and counted in cs_replica_counts.held_back. */
int cs_replica_extract(cs_replica *r, struct cs_arena *a, uint32_t max_ops, size_t max_bytes, struct cs_delta *out,
                       struct cs_error *err);
/* Stores the packed form of the last extract's delta set as bound batch `number` and marks its operations as sent, in
 * one durable transaction (synchronous=FULL). Must follow that extract directly, nothing but pure work between. */
int cs_replica_bind(cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_slice stored,
                    struct cs_error *err);

enum cs_bound_state { CS_BOUND_WAITING = 0, CS_BOUND_ACCEPTED = 1, CS_BOUND_REFUSED = 2 };
struct cs_bound {
    uint64_t number;
    uint8_t hash[32];
    enum cs_bound_state state;
    uint64_t log_number; /* accepted ones: where the hub put it, until the pull cursor has passed it */
    bool noted;          /* accepted ones: CS_KEEP_NOTE */
    struct cs_slice stored;
};
/* All bound batches by number (with = true: their bytes too). */
int cs_replica_bound(cs_replica *r, struct cs_arena *a, bool with_bytes, struct cs_bound **out, size_t *n,
                     struct cs_error *err);
/* What is kept of it until the pull cursor has passed it: nothing, its bytes, or that something should have been. */
enum cs_keep { CS_KEEP_NOTHING, CS_KEEP_BYTES, CS_KEEP_NOTE };
/* The hub has it: the chain head moves to it. */
int cs_replica_bound_accepted(cs_replica *r, uint64_t number, uint64_t log_number, enum cs_keep keep,
                              struct cs_error *err);
/* Is another batch than this one acknowledged at that number of the log? Known until the pull cursor has passed it. */
int cs_replica_acknowledged_other(cs_replica *r, uint64_t log_number, const uint8_t hash[32], bool *out,
                                  struct cs_error *err);
/* Replaces the bytes of waiting batch `number` (bound anew under a new header); the old hash is kept as refused. */
int cs_replica_rebind(cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_slice stored,
                      struct cs_error *err);
/* Takes waiting batches back: their operations (decoded by the caller, in order) become unsent again, with their
 * stamps, where those still stand; the bound rows go. Of merged state all is published again. */
int cs_replica_unbind(cs_replica *r, const struct cs_delta *deltas, size_t n, struct cs_error *err);
/* Operations of ours that no hub has are unsent again, with their stamps, where those still stand; they are merged
 * already (cs_replica_apply). Durable when it returns; a second time changes nothing. */
int cs_replica_restore(cs_replica *r, const struct cs_delta *d, struct cs_error *err);
/* Did the hub refuse a batch of this hash, that was bound anew or taken back since? Known until the number is taken. */
int cs_replica_was_refused(cs_replica *r, const uint8_t hash[32], bool *out, struct cs_error *err);
/* Own chain: number and hash of the last accepted batch (0: none). A batch of ours that cs_replica_apply takes from the
 * log moves it too. */
void cs_replica_chain(const cs_replica *r, uint64_t *number, uint8_t hash[32]);
/* It goes on from here, as nothing of it is in the log yet. Nothing may be bound. */
int cs_replica_begin_chain(cs_replica *r, uint64_t number, const uint8_t hash[32], struct cs_error *err);

/* ---- the merged state, whole ---- */

/* All of it is to be sent, with the stamps and devices that it has; a second time while it is: from the beginning. Kept
 * with the rows, as is how far it has come. */
int cs_replica_publish(cs_replica *r, struct cs_error *err);
int cs_replica_publishing(cs_replica *r, bool *out, struct cs_error *err);
/* Could it be, as the tables are now? CS_EINVAL: one is paused. */
int cs_replica_publishable(const cs_replica *r, struct cs_error *err);
/* The next rows of it, as cs_replica_extract gives unsent edits, for cs_replica_bind. *more: there are others, or a row
 * is being edited right now, or is not in its table: seal first, which finds it deleted. Values that went with a
 * dropped table are left out. Nothing and no more: all of it is bound, and that is over. CS_EINVAL: a table is paused,
 * so that its values are not known to be what its versions say. */
int cs_replica_extract_state(cs_replica *r, struct cs_arena *a, uint32_t max_ops, size_t max_bytes,
                             struct cs_delta *out, bool *more, struct cs_error *err);

/* After the hub refused the clock: fresh stamps above `highest` for everything unsent, in one transaction (DESIGN:
 * re-seal). Nothing may be bound (cs_replica_unbind first). *renamed (NULL: not wanted): how many stamps that were,
 * zero if none was above it. */
int cs_replica_reseal(cs_replica *r, int64_t highest, size_t *renamed, struct cs_error *err);
/* Of a set of ours from before that: takes out the operations whose stamps were given up, for they have others now. */
int cs_replica_drop_void(cs_replica *r, struct cs_delta *d, struct cs_error *err);
/* Such a set, refused then, is in the log after all, and will be applied next: fresh stamps above it for everything
 * unsent. Nothing may be bound. One transaction; nothing happens where no stamp of it was given up. */
int cs_replica_revive_void(cs_replica *r, const struct cs_delta *d, struct cs_error *err);
/* This database is another device's from now on, with a chain of its own: what was sent stays the old one's, what is
 * unsent goes out as the new one's. Waiting batches are dropped (cs_replica_unbind first). One transaction. */
int cs_replica_new_device(cs_replica *r, const struct cs_replica_identity *id, struct cs_error *err);

/* ---- others' changes in ---- */

/* Where the pull stands, saved in the same transaction as the rows. */
struct cs_pull_mark {
    uint64_t log_id, number;
    uint8_t log_hash[32];  /* L_number */
    struct cs_uuid device; /* author of the batch at `number`; zero: none */
    uint64_t device_number;
    uint8_t device_hash[32];
    uint32_t device_member_seq;
    uint32_t highest_epoch;
    int64_t top_stamp;   /* highest that a batch of the log up to `number` declared */
    bool header_refused; /* only log_id, number and log_hash advance */
};
struct cs_apply_result {
    uint64_t ops, changed; /* operations in it; rows of the application that changed */
    uint32_t conflicts, manual_conflicts, hidden;
};
/* Seals what is left, then merges and projects the delta set and saves the mark, in one BEGIN IMMEDIATE transaction.
 * d NULL or empty: only the mark (header-only, own or set-aside batches). */
int cs_replica_apply(cs_replica *r, const struct cs_delta *d, const struct cs_pull_mark *mark,
                     struct cs_apply_result *out, struct cs_error *err);
void cs_replica_pull_mark(const cs_replica *r, struct cs_pull_mark *out); /* the newest; number 0: nothing pulled yet */
/* L_number of one of the last 65,536 numbers; CS_ENOTFOUND. */
int cs_replica_log_hash(cs_replica *r, uint64_t number, uint8_t out[32], struct cs_error *err);
/* All of a snapshot is merged: the position is the snapshot's from now on, which is beyond the present one. Devices'
 * places are as it says; one that is known further stays. c: what is collected by then, all that this device has of it
 * being swept; or NULL. One durable transaction. */
struct cs_known_place {
    struct cs_uuid device;
    uint64_t number;
    uint8_t hash[32];
    uint32_t member_seq;
};
int cs_replica_adopt(cs_replica *r, const struct cs_pull_mark *mark, const struct cs_known_place *places, size_t n,
                     const struct cs_collection *c, struct cs_error *err);
/* What is known of a device's chain: CS_ENOTFOUND before its first batch. */
struct cs_peer {
    uint64_t number;
    uint8_t hash[32];
    uint32_t member_seq;
};
int cs_replica_peer(cs_replica *r, const struct cs_uuid *device, struct cs_peer *out, struct cs_error *err);
/* All whose batches are known, by id, in the arena. */
struct cs_known_peer {
    struct cs_uuid device;
    uint64_t number;
    uint8_t hash[32];
};
int cs_replica_peers(cs_replica *r, struct cs_arena *a, struct cs_known_peer **out, size_t *n, struct cs_error *err);
/* Whose this database was before (cs_replica_new_device), and up to which of its batches each had sent: nobody else may
 * have those. Until the log is another one. In the arena. */
int cs_replica_formers(cs_replica *r, struct cs_arena *a, struct cs_known_peer **out, size_t *n, struct cs_error *err);
/* The hub's log is another one from now on, of which nothing was pulled; own batches follow the chain head given. What
 * waits was taken back before (cs_replica_unbind). publish: as cs_replica_publish; sweep: as cs_replica_mark_stale.
 * forget: values of the engine's that go, or NULL. One durable transaction. */
struct cs_new_log {
    uint64_t log_id, chain_number;
    uint8_t chain_hash[32];
    bool publish, sweep;
    const char *forget[2];
};
int cs_replica_new_log(cs_replica *r, const struct cs_new_log *n, struct cs_error *err);

/* ---- collecting tombstones (docs/decisions/0017) ---- */

/* Up to where this database has forgotten them: through 0: none yet. told: what the merged state says of it, which is
 * further only while others' state was merged in place of the log. */
int cs_replica_collected(cs_replica *r, struct cs_collection *out, struct cs_error *err);
int cs_replica_told_collected(cs_replica *r, struct cs_collection *out, struct cs_error *err);
/* Is there one with a stamp up to this? Reads all rows where there is none. */
int cs_replica_tombstones(cs_replica *r, int64_t through, bool *out, struct cs_error *err);
/* The set that says so, for cs_replica_bind, in the arena. Its place is that of its batch: nothing of it is merged
 * before it is known (cs_collection_place, then cs_replica_apply). */
int cs_replica_collection(cs_replica *r, struct cs_arena *a, int64_t through, struct cs_delta *out,
                          struct cs_error *err);
/* What it says of a collection, if it has that row of the merged state; else *out stays. */
void cs_collection_in(const struct cs_delta *d, struct cs_collection *out);
int cs_collection_place(struct cs_delta *d, struct cs_arena *a, const struct cs_collection *c, struct cs_error *err);
/* Others' merged state is to come: rows that it will not name may have been deleted, and their tombstones collected.
 * One transaction. *out: that is so. */
int cs_replica_mark_stale(cs_replica *r, struct cs_error *err);
int cs_replica_stale(cs_replica *r, bool *out, struct cs_error *err);
/* Whether the log had this set of ours before what is collected, or not at all, is not known. */
int cs_replica_doubt(cs_replica *r, const struct cs_delta *d, struct cs_error *err);
/* This set of ours goes out now: the others will have the rows that it inserts, and its edits of others, so they stay
 * here, too. */
int cs_replica_names(cs_replica *r, const struct cs_delta *d, struct cs_error *err);
/* And before it comes: it may have something again that a tombstone of this device's, which it has forgotten, would
 * meet. One transaction. */
int cs_replica_forget(cs_replica *r, int64_t through, struct cs_error *err);
/* All of it is there, up to collection `through`: some of the rows that it did not name, and that have something up to
 * that stamp that is not unsent, are deleted; edits of theirs that are become conflicts. older: so do inserts, which
 * this device may have sent in a life that it does not remember. *swept counts them. */
struct cs_sweep {
    int64_t through;
    struct cs_uuid author; /* of the deletes, which nobody else sees */
    bool older;
};
int cs_replica_sweep(cs_replica *r, const struct cs_sweep *how, bool *more, uint64_t *swept, struct cs_error *err);
/* They are all looked at. c: as for cs_replica_adopt. One transaction. */
int cs_replica_swept(cs_replica *r, const struct cs_collection *c, struct cs_error *err);

/* ---- looking ---- */

int64_t cs_replica_hlc(const cs_replica *r); /* the newest stamp made or received; 0: none yet */
struct cs_replica_counts {
    int64_t unsealed, unsent, bound, hidden, conflicts, held_back, tracked;
    int64_t manual_conflicts; /* of conflicts: those that want a person */
    int64_t publishing;       /* 1: the merged state is being sent, whole */
    int64_t paused;           /* of tracked: tables that are */
    int64_t taking_in; /* tables whose rows were not all looked at yet: existing ones, or those of a capture gap */
    int64_t hlc;
    uint64_t data_version; /* changes when another connection committed */
};
int cs_replica_counts(cs_replica *r, struct cs_replica_counts *out, struct cs_error *err);
/* Rows that sealing has still to look at, about: the changelog's, and all of the tables that are being taken in or
 * compared. Reads all of them. */
int cs_replica_unsealed(cs_replica *r, int64_t *rows, struct cs_error *err);
/* How the file is kept, and whether our triggers are on it as we made them. */
struct cs_replica_health {
    char journal_mode[16];
    int sqlite_version; /* of the library that this program uses, as sqlite3_libversion_number() */
    int64_t tracked, altered;
    char altered_table[64]; /* the first of those */
    bool schema_unseen;     /* the application changed its schema, and no engine has looked at it yet */
};
int cs_replica_health(cs_replica *r, struct cs_replica_health *out, struct cs_error *err);
/* Has another connection committed since the last call? Cheap. */
int cs_replica_poll(cs_replica *r, bool *changed, struct cs_error *err);
/* How long the changelog is, at most. Cheap. */
int cs_replica_logged(cs_replica *r, int64_t *entries, struct cs_error *err);
/* Is anything waiting in the changelog, the backfill or unsent? Cheap (no counting). */
int cs_replica_pending(cs_replica *r, bool *unsealed, bool *unsent, struct cs_error *err);
/* Canonical dump of the merged state (docs/protocol.md), for tests and comparison; reads everything. */
int cs_replica_dump(cs_replica *r, struct cs_buf *out, struct cs_error *err);
/* Such a value, as long as rows of a table that was made again are missing here: its name. Reconciling brings them. */
#define CS_REMADE "engine.remade"
/* Small values of the engine's, kept with the rows: name is ours ("engine.…"). CS_ENOTFOUND. */
int cs_replica_meta_get(cs_replica *r, const char *name, struct cs_buf *out, struct cs_error *err);
int cs_replica_meta_set(cs_replica *r, const char *name, struct cs_slice value, struct cs_error *err);
int cs_replica_meta_drop(cs_replica *r, const char *name, struct cs_error *err); /* fine if there is none */

#endif
