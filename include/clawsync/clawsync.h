/**
 * libclawsync: one SQLite database on several devices, end-to-end encrypted.
 *
 * An engine replicates one database file with the other devices of its workspace through a hub that cannot read what it
 * stores. Programs go on writing to the file as they always did, from any process; triggers capture what they change.
 *
 * Sharp edges first:
 * - The engine opens its own connection to the file. It takes the write lock for short transactions, so every writer
 *   of the file should set a busy timeout and begin write transactions with BEGIN IMMEDIATE.
 * - One engine per database file, in all processes together. ":memory:" and temporary databases are refused.
 * - Subscribers are called on the engine's own thread, the warn of clawsync_engine_track and the fn of
 *   clawsync_engine_conflicts on a worker thread of it. Return soon, for the engine waits, and call nothing of this
 *   engine from inside one but clawsync_engine_status, _notify and _unsubscribe. Every other callback runs on the
 *   thread that made the call, once the engine has done its part, and may call anything but clawsync_engine_close.
 *
 * Conventions: 0 (CLAWSYNC_OK) is success, a negative code is for the program, the message in clawsync_error for the
 * person. Strings are NUL-terminated UTF-8. Times are Unix milliseconds. Everything may be called from any thread,
 * unless it says otherwise; callers that wait for a round of one kind share the next.
 */
#ifndef CLAWSYNC_CLAWSYNC_H
#define CLAWSYNC_CLAWSYNC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CLAWSYNC_API __attribute__((visibility("default")))
#else
#define CLAWSYNC_API
#endif

/** Result codes. Those marked (retry) may succeed when the same call is made again, later. */
enum {
    CLAWSYNC_OK = 0,
    CLAWSYNC_ENOMEM = -1,        /**< out of memory (retry) */
    CLAWSYNC_EIO = -2,           /**< a file could not be read or written, or the disk is full (retry) */
    CLAWSYNC_EINVAL = -3,        /**< wrong use or configuration */
    CLAWSYNC_ECORRUPT = -4,      /**< a file or message is not what it claims to be */
    CLAWSYNC_EBUSY = -5,         /**< the database is locked, or another engine runs on it (retry) */
    CLAWSYNC_ENOTFOUND = -6,     /**< no such file or table */
    CLAWSYNC_EEXIST = -7,        /**< it exists already, and differs: e.g. the workspace, which must be joined */
    CLAWSYNC_EAUTH = -8,         /**< unknown device, wrong key or passphrase */
    CLAWSYNC_EUNAVAILABLE = -9,  /**< the hub cannot be reached; changes are kept (retry) */
    CLAWSYNC_ETIMEDOUT = -10,    /**< no answer in time; changes are kept (retry) */
    CLAWSYNC_ECANCELED = -11,    /**< the engine was stopped or closed meanwhile */
    CLAWSYNC_EDB = -12,          /**< SQLite refused a statement */
    CLAWSYNC_EVERSION = -13,     /**< written by a newer version: update this one */
    CLAWSYNC_EABORTED = -14,     /**< lost a race (retry) */
    CLAWSYNC_ECLOCK = -15,       /**< this device's clock is too far ahead of the hub's; changes are kept */
    CLAWSYNC_ELIMIT = -16,       /**< over a size or quota (retry) */
    CLAWSYNC_EUNSUPPORTED = -17, /**< not offered by this build or hub */
    CLAWSYNC_EHUB = -18,         /**< the hub misbehaves; nothing more is taken from it */
    CLAWSYNC_EINTERNAL = -19     /**< our own fault */
};

/** The last error of a call: owned by the caller, filled in when the result is negative. NULL may be passed instead. */
typedef struct clawsync_error {
    int code;      /**< one of the codes above */
    char msg[512]; /**< lower case, one sentence: what, the cause, what happens now */
} clawsync_error;

/**
 * Configuration. Fill it with clawsync_config_init or clawsync_config_from_env, then change fields. Pointers are
 * borrowed until clawsync_engine_open returns; NULL or 0 means the default given here, unless it says otherwise.
 */
typedef struct clawsync_config {
    size_t size;                /**< sizeof(clawsync_config), set by the initialisers: the version of this struct */
    const char *workspace_id;   /**< UUID; required. CLAW_WORKSPACE_ID */
    const char *device_id;      /**< UUID; default: a random one, made once and kept in data_dir. CLAW_DEVICE_ID */
    const char *hub_endpoint;   /**< http://localhost:50051. http[s]://HOST[:PORT] and nothing behind it, not even "/";
                                     HOST: a name, an IPv4 address, or an IPv6 address in brackets. Without a port: 443
                                     with https, else 80. https:// turns TLS on; http:// without TLS is for localhost,
                                     127.* and [::1], unless allow_plaintext is set. Up to 8, separated by commas: hubs
                                     of one store, the preferred one first. CLAW_HUB_ENDPOINT */
    const char *data_dir;       /**< .claw-sync. CLAW_DATA_DIR */
    const char *db_path;        /**< claw_sync.db; must exist. CLAW_DB_PATH */
    const char *tables;         /**< further tables to track, comma-separated. CLAW_SYNC_TABLES */
    const char *load_extension; /**< SQLite extension that the tables need. CLAW_SYNC_LOAD_EXTENSION */
    const char *tls_ca_file;    /**< PEM; default: the system's. CLAW_TLS_CA_FILE */
    const char *tls_pin_sha256; /**< 64 hex digits over the hub's public key info; default: none. CLAW_TLS_PIN_SHA256 */
    const char *passphrase;     /**< of the keystore; default: none. Never read from the environment */
    int tls_enabled;            /**< 0; others turn TLS on for http:// too, which stays on port 80. CLAW_TLS_ENABLED */
    uint32_t connect_timeout_secs;    /**< 10; 1 … 3600. CLAW_CONNECT_TIMEOUT_SECS */
    uint32_t request_timeout_secs;    /**< 30; 1 … 3600; silence of the hub in a call. CLAW_REQUEST_TIMEOUT_SECS */
    uint32_t sync_interval_secs;      /**< 30; 1 … 604800; the backstop, not the pace. CLAW_SYNC_INTERVAL_SECS */
    uint32_t heartbeat_interval_secs; /**< 15; 1 … 86400. CLAW_HEARTBEAT_INTERVAL_SECS */
    uint32_t max_retries;     /**< 0 … 1000; how often a call that talks to the hub (push, pull, sync, and all others)
                                   begins anew after failures that may pass; here 0 means never, and the initialisers
                                   set 5. Going to the next hub of a list is not counted. Continuous replication
                                   never gives up; after so many failures in a row it says
                                   CLAWSYNC_EVENT_OFFLINE_QUEUED. CLAW_MAX_RETRIES */
    uint32_t retry_base_ms;   /**< 500; 1 … 30000. CLAW_RETRY_BASE_MS */
    uint32_t max_delta_rows;  /**< 1000; 1 … 100000; operations of a batch. CLAW_MAX_DELTA_ROWS */
    uint32_t max_chunk_bytes; /**< 65536; 1024 … 1048576. CLAW_MAX_CHUNK_BYTES */
    uint32_t max_pull_chunks; /**< 128; 1 … 1000000; at least one whole batch is sent. CLAW_MAX_PULL_CHUNKS */
    uint32_t max_push_inflight; /**< 4; 1 … 64; bound batches in flight. CLAW_MAX_PUSH_INFLIGHT */
    uint32_t compact_after; /**< 4096; 0 … 1000000000; batches that the log may grow by before this device gives the
                                 hub a snapshot by itself; 0: never, and the initialisers set it.
                                 CLAW_COMPACT_AFTER */
    int allow_plaintext;    /**< 0; others allow http:// to a hub that is not on this machine. CLAW_ALLOW_PLAINTEXT */
    const char *padding;    /**< padme; none: the hub sees exact sizes of what is packed. CLAW_SYNC_PADDING */
} clawsync_config;

/** Sets every field to its default. */
CLAWSYNC_API void clawsync_config_init(clawsync_config *c);

/**
 * clawsync_config_init, then the CLAW_* variables of the environment. The fields point into the environment.
 * @return CLAWSYNC_OK; CLAWSYNC_EINVAL naming the variable that is malformed.
 * Threads: not while another thread changes the environment.
 */
CLAWSYNC_API int clawsync_config_from_env(clawsync_config *c, clawsync_error *err);

/**
 * Sets one field by its name in this struct or by its variable, from text: "sync_interval_secs" or
 * "CLAW_SYNC_INTERVAL_SECS". Text is borrowed for string fields.
 * @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND: no such field; CLAWSYNC_EINVAL: not a value for it (size, passphrase:
 * refused).
 */
CLAWSYNC_API int clawsync_config_set(clawsync_config *c, const char *field, const char *value, clawsync_error *err);

/**
 * Checks form and range of every field, as clawsync_engine_open does first; touches nothing. Whether files are there
 * and fit, and whether the hub may be talked to without TLS, clawsync_engine_open finds.
 * @return CLAWSYNC_OK; CLAWSYNC_EINVAL naming the first field that is wrong.
 */
CLAWSYNC_API int clawsync_config_check(const clawsync_config *c, clawsync_error *err);

/** An engine: one database, one workspace, one thread of its own, and worker threads of the process. */
typedef struct clawsync_engine clawsync_engine;

/**
 * Opens the database named in the configuration, the keystore in data_dir (made on first use), and tracks the usual
 * tables and those of the configuration. Replicates nothing yet and does not reach for the network.
 * @return CLAWSYNC_OK with *out; CLAWSYNC_EINVAL, CLAWSYNC_ENOTFOUND, CLAWSYNC_EBUSY (locked, or leased to another
 *         engine), CLAWSYNC_ECORRUPT, CLAWSYNC_EVERSION, CLAWSYNC_EEXIST (another workspace or device is recorded
 *         here), CLAWSYNC_EAUTH (passphrase), CLAWSYNC_EIO, CLAWSYNC_EDB, CLAWSYNC_ENOMEM. On failure *out is NULL.
 *         Nothing was changed where the configuration is wrong, the keystore does not open or fit, or the database is
 *         missing, none, leased or another device's. After other failures what was made until then stays, and the next
 *         opening goes on from it: our tables in the database, and triggers on the application's; data_dir, with
 *         keystore, audit.db, queue.db and checkpoint.
 * Ownership: the caller closes *out.
 */
CLAWSYNC_API int clawsync_engine_open(clawsync_engine **out, const clawsync_config *c, clawsync_error *err);

struct sqlite3;
/**
 * The same for the file behind a caller's connection; c->db_path is ignored. The connection serves to find the file
 * only: it is not kept, and may be closed. @return as above; CLAWSYNC_EINVAL for in-memory and temporary databases.
 */
CLAWSYNC_API int clawsync_engine_open_db(clawsync_engine **out, struct sqlite3 *db, const clawsync_config *c,
                                         clawsync_error *err);

/**
 * Stops; an engine that replicates and is connected sends what is unsent first, any other waits for what is in flight,
 * at most request_timeout_secs. Calls of other threads that wait end with CLAWSYNC_ECANCELED; no new ones may be made.
 * Saves where everything stands, and frees. NULL is fine. No callback runs after it returns. Not from inside a
 * callback.
 */
CLAWSYNC_API void clawsync_engine_close(clawsync_engine *e);

/**
 * Begins continuous replication: local commits are sent at once, others' are fetched when the hub tells of them.
 * Returns when the engine runs, connected or not; it reconnects by itself. Calling it again does nothing. A device
 * without a membership creates the workspace; when it exists already, or the hub refuses this device, a
 * CLAWSYNC_EVENT_SYNC_ERROR event says so and replication waits.
 */
CLAWSYNC_API int clawsync_engine_start(clawsync_engine *e, clawsync_error *err);

/** Ends continuous replication after the round that runs. The engine stays open; push, pull and sync still work. */
CLAWSYNC_API int clawsync_engine_stop(clawsync_engine *e, clawsync_error *err);

/** What one round, or all since opening, did. Pushed: acknowledged by the hub; pulled: merged here. */
typedef struct clawsync_stats {
    uint64_t deltas_pushed, deltas_pulled;         /**< batches; pulled: parts of a snapshot too */
    uint64_t operations_pushed, operations_pulled; /**< changes of rows */
    uint64_t chunks_pushed, chunks_pulled;         /**< pieces that their authors cut batches into: max_chunk_bytes */
    uint64_t bytes_pushed, bytes_pulled;           /**< encrypted payload */
    uint64_t last_sequence;   /**< number in the workspace's log that this device has reached; not of the round alone */
    uint64_t pushed_sequence; /**< log number of the newest batch acknowledged since opening; 0: none yet */
    uint64_t retries;         /**< times that a call began anew (max_retries), or a push after a refusal */
    uint64_t duration_ms;     /**< milliseconds from the round's begin to its end; 0 in clawsync_status.totals */
} clawsync_stats;

/**
 * Seals and sends everything that is unsent now, and waits for the hub's acknowledgements.
 * @param stats Optional; filled in even on failure (what was acknowledged stays so).
 * @return CLAWSYNC_OK; CLAWSYNC_EUNAVAILABLE or CLAWSYNC_ETIMEDOUT after max_retries (changes stay queued; call again);
 *         CLAWSYNC_EEXIST: the workspace exists, join it; CLAWSYNC_EAUTH, CLAWSYNC_ECLOCK, CLAWSYNC_EHUB, CLAWSYNC_EDB.
 * Not from inside a callback.
 */
CLAWSYNC_API int clawsync_engine_push_now(clawsync_engine *e, clawsync_stats *stats, clawsync_error *err);
/** Fetches and applies everything that the hub has now. Otherwise as clawsync_engine_push_now. */
CLAWSYNC_API int clawsync_engine_pull_now(clawsync_engine *e, clawsync_stats *stats, clawsync_error *err);
/** Pull, push, pull. Otherwise as clawsync_engine_push_now. */
CLAWSYNC_API int clawsync_engine_sync_now(clawsync_engine *e, clawsync_stats *stats, clawsync_error *err);

/** Tells the engine that something was committed, so that it looks at once. Never blocks. */
CLAWSYNC_API void clawsync_engine_notify(clawsync_engine *e);

/** How continuous replication stands. */
typedef enum clawsync_state {
    CLAWSYNC_STATE_STOPPED = 0,  /**< not replicating */
    CLAWSYNC_STATE_OFFLINE = 1,  /**< the hub cannot be reached; tried again by itself */
    CLAWSYNC_STATE_SYNCING = 2,  /**< connected, work in progress */
    CLAWSYNC_STATE_IN_SYNC = 3,  /**< connected, nothing unsent, everything fetched up to the newest known head */
    CLAWSYNC_STATE_NEEDS_YOU = 4 /**< waits for the user: last_error says for what */
} clawsync_state;

/**
 * A copy, the caller's. Counts are the engine's last ones: it counts behind rounds and other calls, while it replicates
 * at most twice a second.
 */
typedef struct clawsync_status {
    size_t size; /**< set by the caller to sizeof(clawsync_status) */
    clawsync_state state;
    char workspace_id[37];     /**< UUID */
    char device_id[37];        /**< UUID */
    char hub_endpoint[256];    /**< as configured, a list whole; cut off at 255 bytes */
    int64_t unsealed;          /**< logged changes not sealed yet, rows */
    int64_t unsent;            /**< rows with changes that no hub has acknowledged, bound ones not counted */
    int64_t bound_batches;     /**< batches bound and not acknowledged */
    int64_t hidden_rows;       /**< rows of the merged state that the tables cannot show */
    int64_t conflicts;         /**< open records of concurrent edits */
    int64_t tracked_tables;    /**< paused ones included */
    int64_t held_back;         /**< rows that cannot be sent (too large, NULL in the key) */
    int64_t set_aside;         /**< sets of operations that the hub refused for good: claw-sync queue list */
    uint64_t log_number;       /**< how far this device has pulled */
    uint64_t hub_log_number;   /**< of the newest head that was verified; 0: none since opening */
    int64_t last_push_ms;      /**< Unix ms of the last push that ended well, also of one that had nothing to send; 0:
                                    none since opening */
    int64_t last_pull_ms;      /**< the same of a pull */
    int64_t clock_skew_ms;     /**< hub's clock minus ours at the last heartbeat, which only continuous replication
                                    sends; 0: none yet */
    clawsync_stats totals;     /**< since opening */
    clawsync_error last_error; /**< of the last round, or other call that talked to the hub; code 0: it went well */
    int64_t manual_conflicts;  /**< of conflicts: those that want a decision */
} clawsync_status;

/**
 * Never blocks on the network, nor on the database. May be called from inside a callback.
 * @return CLAWSYNC_OK; CLAWSYNC_EINVAL: size is not sizeof(clawsync_status).
 */
CLAWSYNC_API int clawsync_engine_status(clawsync_engine *e, clawsync_status *out, clawsync_error *err);

/** What happened, and which fields of clawsync_event tell of it; the others are 0 or "". */
typedef enum clawsync_event_type {
    CLAWSYNC_EVENT_PUSH_COMPLETED = 1,      /**< stats: this round */
    CLAWSYNC_EVENT_PULL_COMPLETED = 2,      /**< stats: this round */
    CLAWSYNC_EVENT_CONFLICT_DETECTED = 3,   /**< one that wants a decision, or a row in the way of others; name: its id,
                                                 for clawsync_engine_resolve_conflict; error.msg: where, and what */
    CLAWSYNC_EVENT_OFFLINE_QUEUED = 4,      /**< after max_retries, of continuous replication once in an outage; count:
                                                 operations that wait for the hub */
    CLAWSYNC_EVENT_SYNC_ERROR = 5,          /**< error; name: the named finding, as "BAD_SIGNATURE", or "" */
    CLAWSYNC_EVENT_CONNECTED = 6,           /**< continuous replication has the hub: a round went well */
    CLAWSYNC_EVENT_DISCONNECTED = 7,        /**< it has lost the hub; error: why */
    CLAWSYNC_EVENT_RECONCILE_COMPLETED = 8, /**< count: entities that differed; total: entities in all */
    CLAWSYNC_EVENT_WORKSPACE_CREATED = 9,   /**< this device is the first of a new workspace */
    CLAWSYNC_EVENT_PROGRESS = 10, /**< long work: count of total; name: "sealing" (rows), "pushing" (operations),
                                       "pulling" (numbers of the log, or parts of a snapshot), "compacting" (parts of a
                                       snapshot that is given). total may grow meanwhile */
    CLAWSYNC_EVENT_WARNING = 11   /**< error.msg: something to look at; nothing failed, whatever error.code is */
} clawsync_event_type;

/** An event; valid during the callback, and to be copied whole. */
typedef struct clawsync_event {
    clawsync_event_type type;
    int64_t at_ms;         /**< Unix ms, by this device's clock */
    uint64_t count, total; /**< of what, the type says */
    clawsync_stats stats;  /**< of the round */
    clawsync_error error;  /**< code 0 and "" where there is none */
    char name[32];         /**< a finding (docs/operations.md), a conflict's id, or what is in progress */
} clawsync_event;

/** arg: as given to clawsync_engine_subscribe. */
typedef void (*clawsync_event_fn)(void *arg, const clawsync_event *event);

/**
 * Calls fn for every event from now on, on the engine's thread; several may subscribe. What opening found (a table
 * that cannot be tracked, say) comes to each of them first, as warnings.
 * @return a positive id for clawsync_engine_unsubscribe, or a negative code.
 */
CLAWSYNC_API int clawsync_engine_subscribe(clawsync_engine *e, clawsync_event_fn fn, void *arg, clawsync_error *err);
/** After it returns, fn is not called any more (from inside a callback: once that callback has returned). */
CLAWSYNC_API void clawsync_engine_unsubscribe(clawsync_engine *e, int id);

/** A table as clawsync_engine_tables tells it. */
typedef struct clawsync_table {
    const char *name;    /**< as the schema spells it */
    int state;           /**< 0 not tracked, 1 tracked, 2 paused */
    int64_t rows;        /**< in the application's table */
    int64_t unsealed;    /**< logged changes not sealed yet; 0 when it is not tracked, as the next two */
    int64_t hidden;      /**< rows that cannot be shown at present */
    int backfilling;     /**< 1: existing rows are still being taken in */
    const char *problem; /**< of one that is not tracked: why it cannot be, a sentence; or NULL */
} clawsync_table;
/** Calls fn for each table of the application, tracked ones first; the struct is valid during the call. Counts rows. */
CLAWSYNC_API int clawsync_engine_tables(clawsync_engine *e, void (*fn)(void *arg, const clawsync_table *t), void *arg,
                                        clawsync_error *err);
/**
 * Tracks a table from now on; its rows are sent too. force != 0: also when its key is a rowid alias, which two devices
 * would both hand out. warn (may be NULL) receives sentences about what the user should look at, each valid during its
 * call. A table that is tracked already stays as it is.
 * @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND; CLAWSYNC_EINVAL with the reason why it cannot be tracked.
 */
CLAWSYNC_API int clawsync_engine_track(clawsync_engine *e, const char *table, int force,
                                       void (*warn)(void *arg, const char *sentence), void *arg, clawsync_error *err);
/**
 * Stops tracking: the triggers go, the application's data stays as it is. What is unsent is still sent, and what others
 * write from then on is kept as that of a table that is not here. With the last table all that is ours goes from the
 * file. @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND: it is not tracked.
 */
CLAWSYNC_API int clawsync_engine_untrack(clawsync_engine *e, const char *table, clawsync_error *err);
/**
 * Takes the triggers off a table (NULL: all tracked ones), as before a migration.
 * @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND: it is not tracked.
 */
CLAWSYNC_API int clawsync_engine_pause(clawsync_engine *e, const char *table, clawsync_error *err);
/** Puts them back (NULL: on all) and finds what changed meanwhile. @return as above. */
CLAWSYNC_API int clawsync_engine_resume(clawsync_engine *e, const char *table, clawsync_error *err);

/** SQLite's storage classes, and which field of clawsync_value counts; the others are 0 or NULL. */
typedef enum clawsync_value_type {
    CLAWSYNC_NULL = 0,
    CLAWSYNC_INTEGER = 1, /**< integer */
    CLAWSYNC_REAL = 2,    /**< real */
    CLAWSYNC_TEXT = 3,    /**< bytes; SQLite's need not be UTF-8, and nothing ends them */
    CLAWSYNC_BLOB = 4     /**< bytes */
} clawsync_value_type;
/**
 * A SQLite value. What the engine gives is its own, and valid during the callback; what it is given, it borrows until
 * the call returns.
 */
typedef struct clawsync_value {
    clawsync_value_type type;
    int64_t integer;
    double real;       /**< given to the engine: not NaN */
    const void *bytes; /**< may be NULL where length is 0 */
    size_t length;     /**< of bytes */
} clawsync_value;

/** An edit that lost to another one, or a row's trouble. */
typedef struct clawsync_conflict {
    const char *id;    /**< 24 hexadecimal digits, the same on every device that saw it */
    const char *why;   /**< "overwritten", "deleted" (by a concurrent delete), "copied-device", "unique", "check" */
    const char *state; /**< "manual": wants a decision; "auto": the rules decided, and it can be taken back for 30 days;
                            "resolved": somebody decided; "closed": what was in the way is gone */
    const char *table, *column; /**< column NULL: it is about the whole row */
    const clawsync_value *key;  /**< nkey of them, in the order of the primary key, as they are compared: folded where
                                     a column is NOCASE, trimmed where it is RTRIM */
    size_t nkey;
    const clawsync_value *losing; /**< the value that lost; NULL: none is kept */
    const clawsync_value *now;    /**< what the table shows; NULL: not the row, or not the column */
    const char *device;           /**< UUID: of the losing edit */
    int64_t edited_ms;            /**< Unix ms of that edit, by that device's clock */
    int64_t noticed_ms;           /**< Unix ms, by this device's clock: when it came into this state here */
} clawsync_conflict;
/**
 * Calls fn for each that is open, by table and key; settled != 0: the others too. The struct, and all that it points
 * to, is valid during the call. @return CLAWSYNC_OK; CLAWSYNC_EINVAL: fn is NULL.
 */
CLAWSYNC_API int clawsync_engine_conflicts(clawsync_engine *e, int settled,
                                           void (*fn)(void *arg, const clawsync_conflict *c), void *arg,
                                           clawsync_error *err);
/** What clawsync_engine_resolve_conflict is to leave in the table. */
typedef enum clawsync_choice {
    CLAWSYNC_KEEP = 0, /**< what is shown */
    CLAWSYNC_TAKE = 1, /**< the value that lost; a deleted row as it was here with that edit, if it was here so */
    CLAWSYNC_GIVEN = 2 /**< another value */
} clawsync_choice;
/**
 * Decides about a conflict, by a new edit that travels like any other and closes the conflict on every device. The
 * application's triggers run and its constraints hold. id: its first digits will do. value: with CLAWSYNC_GIVEN.
 * @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND: none is open with this id; CLAWSYNC_EINVAL: several are, there is no value
 * to take, or the table does not take it.
 */
CLAWSYNC_API int clawsync_engine_resolve_conflict(clawsync_engine *e, const char *id, clawsync_choice choice,
                                                  const clawsync_value *value, clawsync_error *err);
/**
 * What becomes of concurrent edits of a table, or of one column of it (NULL: of all that have none of their own), from
 * now on and on all devices. manual 0: the last write wins (the default). manual 1: it wins too, and each such conflict
 * waits for a decision. @return CLAWSYNC_ENOTFOUND: no such table is tracked, or it has no such column.
 */
CLAWSYNC_API int clawsync_engine_set_strategy(clawsync_engine *e, const char *table, const char *column, int manual,
                                              clawsync_error *err);

/**
 * Invites a device: appends an invite to the workspace's membership log through the hub and writes it, with the
 * workspace's keys, to a new file of mode 0600 under a passphrase. Whoever has both can join once, until it expires.
 * @param expires_secs  Life of the invite in seconds; 0: 24 hours.
 * @return CLAWSYNC_OK; CLAWSYNC_EEXIST: the file exists; CLAWSYNC_EUNAVAILABLE; CLAWSYNC_EINVAL: empty passphrase.
 */
CLAWSYNC_API int clawsync_engine_export_keys(clawsync_engine *e, const char *path, const char *passphrase,
                                             uint32_t expires_secs, clawsync_error *err);
/**
 * Joins the workspace with such a file. The engine must not be started, and not be a member yet. The hub of the
 * configuration is used. Nothing is written before everything has been verified.
 * @return CLAWSYNC_OK; CLAWSYNC_EAUTH: wrong passphrase, or keys that are not this workspace's; CLAWSYNC_EEXIST: a
 * member already, or the invite is used; CLAWSYNC_ENOTFOUND: no such file; CLAWSYNC_EUNAVAILABLE; CLAWSYNC_EHUB: forged
 * log.
 */
CLAWSYNC_API int clawsync_engine_import_keys(clawsync_engine *e, const char *path, const char *passphrase,
                                             clawsync_error *err);

/**
 * Writes the keystore anew under a passphrase (Argon2id), or without one (NULL). From then on it must be given in
 * clawsync_config.passphrase. @return CLAWSYNC_OK; CLAWSYNC_EINVAL: empty; CLAWSYNC_EIO.
 */
CLAWSYNC_API int clawsync_engine_set_passphrase(clawsync_engine *e, const char *passphrase, clawsync_error *err);

/** Room for an invite's code with its NUL. */
#define CLAWSYNC_CODE_MAX 640
/**
 * Invites a device: appends an invite to the workspace's membership log through the hub and gives its code, as text.
 * Whoever has the code can join once, until it expires; it is a password. The inviter may be offline then.
 * @param expires_secs  Life of the invite in seconds; 0: 24 hours.
 * @param code          Receives the text; at least CLAWSYNC_CODE_MAX bytes, which the caller wipes.
 * @return CLAWSYNC_OK; CLAWSYNC_EAUTH: this device is no member; CLAWSYNC_EUNAVAILABLE, CLAWSYNC_EHUB.
 */
CLAWSYNC_API int clawsync_engine_invite(clawsync_engine *e, uint32_t expires_secs, char *code, size_t size,
                                        clawsync_error *err);
/**
 * Joins the workspace of the configuration with such a code. The engine must not be started, and not be a member yet.
 * Nothing is written before everything has been verified.
 * @return CLAWSYNC_OK; CLAWSYNC_EINVAL: not a code; CLAWSYNC_EEXIST: a member already, or the invite is used, withdrawn
 * or expired; CLAWSYNC_EUNAVAILABLE; CLAWSYNC_EHUB: forged log.
 */
CLAWSYNC_API int clawsync_engine_join(clawsync_engine *e, const char *code, clawsync_error *err);

/** Room for the characters that both sides of a joining without a code show, with the NUL. */
#define CLAWSYNC_CHARACTERS 16
/**
 * Joining without a code, on the new device: asks the workspace of the configuration to be let in, and waits until a
 * member answers (clawsync_engine_waiting), at most 15 minutes. The engine must not be started, and not be a member
 * yet.
 * @param text  Receives the 8 characters to show to the person; at least CLAWSYNC_CHARACTERS bytes.
 * @return CLAWSYNC_OK; CLAWSYNC_ETIMEDOUT: nobody answered; CLAWSYNC_EEXIST: a member already, or removed before;
 * CLAWSYNC_EAUTH: forged, or no such workspace; CLAWSYNC_EUNAVAILABLE.
 */
CLAWSYNC_API int clawsync_engine_ask_to_join(clawsync_engine *e, char *text, size_t size, clawsync_error *err);
/**
 * Joins, after the person said that the member's device accepted those characters; waits for that device, at most 15
 * minutes. Nothing is written before everything has been verified. @return as above; CLAWSYNC_EHUB: forged log.
 */
CLAWSYNC_API int clawsync_engine_enter(clawsync_engine *e, clawsync_error *err);

/** A device that waits to be let in, by its own word. Strings are the engine's, valid during the call. */
typedef struct clawsync_waiting {
    const char *id;          /**< UUID */
    const char *fingerprint; /**< of its signing key */
} clawsync_waiting;
/**
 * On a member: calls fn for each device that waits and that nobody has answered; the struct is valid during the call.
 * answer != 0: answers them, upon which they show their characters, and clawsync_engine_approve on this same engine is
 * the next step.
 */
CLAWSYNC_API int clawsync_engine_waiting(clawsync_engine *e, int answer,
                                         void (*fn)(void *arg, const clawsync_waiting *w), void *arg,
                                         clawsync_error *err);
/**
 * Lets in the one of them that shows these characters, as a person has read them there: any case, spaces and dashes
 * skipped. One wrong try ends the exchanges. @param id Optional: 37 bytes, receives the device's id.
 * @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND: none has shown its characters yet, try again; CLAWSYNC_EAUTH:
 * PAIR_MISMATCH or PAIR_FORGED; CLAWSYNC_EUNAVAILABLE.
 */
CLAWSYNC_API int clawsync_engine_approve(clawsync_engine *e, const char *typed, char id[37], clawsync_error *err);

/** Who is in the workspace, as clawsync_engine_devices tells it. Strings are the engine's, valid during the call. */
typedef struct clawsync_device {
    const char *id;          /**< UUID */
    const char *name;        /**< decrypted here, at most 63 bytes; the hub does not know it. "": cannot be decrypted */
    const char *fingerprint; /**< of the signing key, for people to compare */
    const char *added_by;    /**< UUID of the device or phrase that let it in, or made the invite */
    int kind;                /**< 1 device, 2 recovery phrase, 3 open invite */
    int self;                /**< 1: this device */
    int64_t added_ms;        /**< Unix ms, by the clock of whoever let it in */
    int64_t expires_ms;      /**< Unix ms, of invites; 0 of others */
    int64_t seen_ms;         /**< Unix ms when the hub last heard of it, by the hub's word; 0: unknown */
    int64_t behind;          /**< entries of the log that it has not fetched, by the hub's word; -1: unknown */
} clawsync_device;
/** Calls fn for each who is a member now; the struct is valid during the call. Asks the hub. */
CLAWSYNC_API int clawsync_engine_devices(clawsync_engine *e, void (*fn)(void *arg, const clawsync_device *d), void *arg,
                                         clawsync_error *err);
/**
 * Gives a member another name of at most 63 bytes. device: its id, the first characters of it, or its name.
 * @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND; CLAWSYNC_EINVAL: more than one is meant, or not a name.
 */
CLAWSYNC_API int clawsync_engine_rename_device(clawsync_engine *e, const char *device, const char *name,
                                               clawsync_error *err);
/**
 * Removes a device, phrase or open invite and begins a new epoch of the key, in one entry that names the last batch of
 * it that counts. distrust != 0: also everyone whom it let in. fn (may be NULL) is called for whom it let in and who
 * stays.
 * @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND; CLAWSYNC_EINVAL: this device itself, or more than one is meant.
 */
CLAWSYNC_API int clawsync_engine_revoke_device(clawsync_engine *e, const char *device, int distrust,
                                               void (*fn)(void *arg, const clawsync_device *d), void *arg,
                                               clawsync_error *err);
/** Begins a new epoch of the workspace's key. @param epoch Optional: its number. */
CLAWSYNC_API int clawsync_engine_rotate_keys(clawsync_engine *e, uint32_t *epoch, clawsync_error *err);

/** What a device has seen of the hub's log and of the membership, as a short code for people to compare. */
typedef struct clawsync_heads {
    uint64_t number;     /**< in: the place in the log, 0: as far as it is read; out: it */
    uint32_t member_seq; /**< in: the membership entry, 0: the newest known; out: it */
    uint64_t log_id;     /**< out: of the hub's log */
    char code[10];       /**< out: 40 bits, "XXXX-XXXX" */
} clawsync_heads;
/**
 * The code of that place: devices that were shown the same log and membership have the same one. Asks nobody.
 * @return CLAWSYNC_OK; CLAWSYNC_ENOTFOUND: not read so far, or too long ago (the last 65,536 numbers are known).
 */
CLAWSYNC_API int clawsync_engine_verify_heads(clawsync_engine *e, clawsync_heads *heads, clawsync_error *err);

/** Where a device's state stands beside this one's. */
typedef enum clawsync_proof_state {
    CLAWSYNC_PROOF_SELF = 0,    /**< this device */
    CLAWSYNC_PROOF_EQUAL = 1,   /**< it signed the same root and number of rows, at the same number of the log */
    CLAWSYNC_PROOF_DIFFERS = 2, /**< it signed another root at that number */
    CLAWSYNC_PROOF_BEHIND = 3,  /**< it is connected, and has signed nothing for that number, or, proving, not again */
    CLAWSYNC_PROOF_OFFLINE = 4  /**< it is not, and has not either */
} clawsync_proof_state;
/** A device's newest statement about its state. Strings are the engine's, valid during the call. */
typedef struct clawsync_proof {
    const char *device_id, *name; /**< UUID; name as in clawsync_device */
    clawsync_proof_state state;
    uint64_t log_number; /**< of the newest that it signed; 0: none known */
    uint64_t rows;       /**< of that: tombstones and hidden rows included */
    const char *root;    /**< of that, 64 hexadecimal digits; "": none */
    int64_t signed_ms;   /**< when it signed that, Unix ms by its own clock; 0: never */
    int connected; /**< the hub says that it is. Of one that is, a proof that was asked for is of now; of one that is
                      not, of signed_ms: what it edited since, and has not sent, is not in it. */
} clawsync_proof;

/** What reconciling or proving found and did. The caller's; filled in even on failure, as far as it came. */
typedef struct clawsync_reconciled {
    uint64_t log_number, rows; /**< this device's state in the end: number of the log, rows of the merged state */
    char root[65];             /**< BLAKE3 of its canonical dump, hexadecimal; "": it was not read */
    uint64_t missing_here;     /**< entities that another device has and this one had not */
    uint64_t missing_there;    /**< the other way round */
    uint64_t conflicting;      /**< entities that differ */
    uint64_t sealed;           /**< operations: what was written here behind our back, as local edits now */
    uint64_t published;        /**< entities whose full state this device sent for others */
    uint64_t rounds; /**< of sending, fetching and comparing: one more whenever the log has moved; 12 at most */
    uint64_t bytes_sent, bytes_received;        /**< of comparing, before framing */
    uint32_t equal, differing, behind, offline; /**< other devices, in the end; see clawsync_proof_state */
    char first_table[128], first_key[256];      /**< proving: the first entity of this device that differs, its key's
                                                     parts separated by ", ", both cut off where they are long; or "" */
} clawsync_reconciled;
/**
 * Compares this device's merged state with the others' through the hub, at one number of the log: sends and fetches
 * what is outstanding first, then finds the entities that differ, publishes their full state where this device has
 * some, and has the others publish theirs, until no device that is connected differs. What the application wrote behind
 * our back (without our triggers) is found and sealed first. Devices that are away compare when they reconcile
 * themselves.
 * @param wait_ms  How long to wait for devices that are connected, and for one that reconciles at present, in
 *                 milliseconds.
 * @param fn       Optional: called for each member device in the end; the struct is valid during the call.
 * @return CLAWSYNC_OK whatever was found; CLAWSYNC_EUNSUPPORTED: the hub is too old; CLAWSYNC_EBUSY: the application
 *         writes all the time; CLAWSYNC_EABORTED: another device reconciled all the while; CLAWSYNC_EINVAL: a table is
 * paused; otherwise as clawsync_engine_sync_now. Not from inside a callback.
 */
CLAWSYNC_API int clawsync_engine_reconcile(clawsync_engine *e, uint32_t wait_ms, clawsync_reconciled *out,
                                           void (*fn)(void *arg, const clawsync_proof *p), void *arg,
                                           clawsync_error *err);
/**
 * The same, but heals nothing: every device that is connected signs the root of its state and the number of its rows at
 * one number of the log; where another root is signed, the first entity that differs is named. Otherwise as above.
 */
CLAWSYNC_API int clawsync_engine_prove(clawsync_engine *e, uint32_t wait_ms, clawsync_reconciled *out,
                                       void (*fn)(void *arg, const clawsync_proof *p), void *arg, clawsync_error *err);
/** What became of a snapshot. The caller's. */
typedef struct clawsync_compacted {
    uint64_t log_number;    /**< that it is of */
    uint64_t rows;          /**< in it: tombstones and hidden rows included */
    uint64_t parts, bytes;  /**< that this device sent, bytes of ciphertext; 0: there was nothing to send */
    uint64_t served_number; /**< of the snapshot that new devices get; 0: there is none */
    uint64_t pruned_number; /**< the hub's log has nothing up to here any more */
    uint32_t attested;      /**< 1: another device has signed that it has the same state there */
} clawsync_compacted;
/**
 * Gives the hub a signed and encrypted snapshot of this device's merged state, so that new devices need not read all
 * that ever happened, and the hub's log can lose what is older, once another device has attested the snapshot and all
 * are past it. Sends and fetches what is outstanding first. A snapshot that another device gave of the same number is
 * attested instead.
 * @return CLAWSYNC_EUNSUPPORTED: the hub is too old; CLAWSYNC_EBUSY: the application writes all the time;
 *         CLAWSYNC_EABORTED: another device is giving one; CLAWSYNC_EINVAL: this device does not have all that the log
 *         has (a paused table, a dropped column, a batch set aside); otherwise as clawsync_engine_sync_now.
 * Not from inside a callback.
 */
CLAWSYNC_API int clawsync_engine_compact(clawsync_engine *e, clawsync_compacted *out, clawsync_error *err);
/**
 * For a hub that lost what it had: restored from a backup, emptied, or another one under the same address. Gives it the
 * membership back and a new log, fills that with all that this device has, and tells the other devices in a signed
 * membership entry, which they follow by themselves. Never without the user's word: what only the hub's old log had,
 * and no device, is gone then, but for what could be read there. After a failure or a crash the next call goes on.
 * @param needed  Optional: 0 if the hub has all that it had, and nothing was done.
 * @return CLAWSYNC_EABORTED: another device is at it; CLAWSYNC_EINVAL: a table is paused, and the hub is as it was.
 */
CLAWSYNC_API int clawsync_engine_refill_hub(clawsync_engine *e, int *needed, clawsync_error *err);
/**
 * Pins the key that the hub has now in the place of the one that was pinned. fingerprint: of the new key, as the one
 * who runs the hub tells it; NULL: only looks, and fails with CLAWSYNC_EINVAL.
 * @param out  Receives the fingerprint of the hub's new key, or ""; not NULL.
 * @return CLAWSYNC_EEXIST: the hub has the key that is pinned; CLAWSYNC_EINVAL: its key is another one than that.
 */
CLAWSYNC_API int clawsync_engine_accept_hub(clawsync_engine *e, const char *fingerprint, char out[24],
                                            clawsync_error *err);

/** Room for a recovery phrase with its NUL. */
#define CLAWSYNC_PHRASE_MAX 128
/**
 * Makes a recovery phrase of 24 words: a paper device, with which a bare machine joins.
 * @param phrase  Receives it; at least CLAWSYNC_PHRASE_MAX bytes, which the caller wipes.
 */
CLAWSYNC_API int clawsync_engine_recovery_create(clawsync_engine *e, char *phrase, size_t size, clawsync_error *err);
/**
 * Joins the workspace of the configuration with such a phrase, which stays good. Otherwise as clawsync_engine_join.
 * @return CLAWSYNC_EINVAL: mistyped; CLAWSYNC_EEXIST: a member already, or the phrase was revoked.
 */
CLAWSYNC_API int clawsync_engine_recover(clawsync_engine *e, const char *phrase, clawsync_error *err);

/** What clawsync_verify_audit_log found. */
typedef struct clawsync_audit_report {
    int ok;                   /**< 1: every row is as it was written, and none is missing that a batch names */
    uint64_t rows;            /**< that were read */
    uint64_t first_broken_at; /**< sequence where it goes wrong; 0: nowhere */
    char broken_reason[160];  /**< a sentence; empty: none */
} clawsync_audit_report;
/**
 * Verifies the audit log of the configuration's data_dir (audit.db): numbers, hashes, and every signature against this
 * device's key as the pinned membership log has it, never against a key of the file; and the rows that signed batches
 * name. Constant memory, all cores. Works beside a running engine, and writes nothing.
 * @return CLAWSYNC_OK whatever the report says; CLAWSYNC_ENOTFOUND: no device or no log there; CLAWSYNC_EIO.
 */
CLAWSYNC_API int clawsync_verify_audit_log(const clawsync_config *c, clawsync_audit_report *out, clawsync_error *err);

/** A row of the audit log. Strings are the library's, valid during the call, and never NULL. */
typedef struct clawsync_audit_entry {
    uint64_t sequence;           /**< from 1 */
    int64_t occurred_ms;         /**< Unix ms, by this device's clock */
    uint64_t ops_count;          /**< operations that it is about; 0: none */
    const char *event_type;      /**< "PUSH", "PULL" … (docs/operations.md) */
    const char *entity_type;     /**< what entity_ids are: "batch", "log number", "device" … */
    const char *entity_ids;      /**< separated by commas, or a range "3-7"; may be "" */
    const char *payload;         /**< more: a JSON object */
    const char *workspace_id;    /**< UUID */
    const char *device_id;       /**< UUID: this device's */
    const char *payload_hash;    /**< BLAKE3 of payload, 64 hexadecimal digits */
    const char *prev_entry_hash; /**< of the row before, 64 hexadecimal digits */
    const char *signature;       /**< Ed25519, 128 hexadecimal digits */
    const char *signer_pub_key;  /**< as the row has it, 64 hexadecimal digits */
} clawsync_audit_entry;
/**
 * Calls fn for each of the newest `last` rows (0: all), oldest first; the struct is valid during the call. Nothing is
 * verified. Works beside a running engine.
 * @return CLAWSYNC_ENOTFOUND: no device or no log there; CLAWSYNC_ECORRUPT: a row cannot be read.
 */
CLAWSYNC_API int clawsync_read_audit_log(const clawsync_config *c, uint64_t last,
                                         void (*fn)(void *arg, const clawsync_audit_entry *e), void *arg,
                                         clawsync_error *err);

/** A set of operations in the queue (queue.db). Strings are the library's, valid during the call. */
typedef struct clawsync_queue_entry {
    const char *id;                /**< 32 hexadecimal digits: of its content */
    const char *state;             /**< "pending", "in_flight", "failed" (refused by the hub for good), "done" */
    const char *reason;            /**< a sentence: why it is here, or how it left */
    uint64_t operations, bytes;    /**< bytes: of the content, before it is packed */
    uint64_t attempts;             /**< how often it came here: 1, and one more with each further outage or refusal */
    uint64_t batch_number;         /**< of the batch that carries it, or carried it last: this device's number, not the
                                        log's */
    int64_t queued_ms, changed_ms; /**< Unix ms, by this device's clock: when it came first, when its state changed */
} clawsync_queue_entry;
/**
 * Calls fn for each set in the queue of the configuration's data_dir, oldest first; the struct is valid during the
 * call. Edits that are unsent are not here: the application's database keeps those, and they coalesce
 * (clawsync_status). Works beside a running engine.
 * @return CLAWSYNC_ENOTFOUND: there is no queue yet; CLAWSYNC_ECORRUPT.
 */
CLAWSYNC_API int clawsync_queue_list(const clawsync_config *c, void (*fn)(void *arg, const clawsync_queue_entry *e),
                                     void *arg, clawsync_error *err);
/**
 * Sends a refused set once more, with the next round: its edits become unsent again, where nothing newer took their
 * place. id: the set's, or the beginning of it; NULL: all. Works beside a running engine. @param n Optional: how many.
 * @return CLAWSYNC_ENOTFOUND: no queue, or no refused set has this id; CLAWSYNC_EINVAL: more than one begins with it.
 */
CLAWSYNC_API int clawsync_queue_retry(const clawsync_config *c, const char *id, uint64_t *n, clawsync_error *err);

/** A short stable name of a code, as "unavailable". Never NULL. */
CLAWSYNC_API const char *clawsync_code_name(int code);
/** 1 when the same call may succeed later, unchanged. */
CLAWSYNC_API int clawsync_code_is_transient(int code);
/** "MAJOR.MINOR.PATCH" */
CLAWSYNC_API const char *clawsync_version(void);

#ifdef __cplusplus
}
#endif

#endif
