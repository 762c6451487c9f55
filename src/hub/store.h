/* What the hub asks of durable storage. A backend is one file and one constant table (store_sqlite.c); the wrappers
 * below are what the hub calls, and where the contract is checked once for all of them.
 *
 * Everything happens in transactions, on worker threads, where calls may block. A transaction belongs to one thread at
 * a time. Reading ones see one committed state; there may be many. Writing ones exclude each other per workspace, at
 * least: from cs_store_begin to its end nobody else changes the workspaces named there, so that what was read under it
 * is still true when it commits.
 * Every key starts with the workspace, so that tables can be split by it unchanged.
 *
 * Errors: CS_ENOTFOUND and CS_EEXIST where said; CS_EBUSY, CS_EIO, CS_EDB, CS_ENOMEM from below. After one of the
 * latter a transaction may be lost as a whole: its commit then fails too and nothing of it is stored. */
#ifndef CS_HUB_STORE_H
#define CS_HUB_STORE_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"

/* A workspace's head row. */
struct cs_store_head {
    uint64_t log_id;      /* never 0 */
    uint64_t refilled;    /* B: entries that a refill re-sent */
    uint64_t number;      /* n: the newest batch's number; 0: none yet */
    uint8_t log_hash[32]; /* L_n */
    int64_t top_stamp;    /* highest stamp accepted */
    uint32_t member_seq;  /* newest membership entry */
    uint32_t epoch;       /* in force since some entry at or below member_seq */
    uint8_t entry_hash[32];
    uint64_t bytes; /* of ciphertext in its log */
};

/* A device's place in its own chain. No row before its first batch or heartbeat. */
struct cs_store_device {
    uint64_t number; /* 0: none yet */
    uint8_t hash[32];
    uint32_t member_seq; /* of that batch */
    int64_t seen_ms;     /* Unix ms */
};

/* A row of the log. Slices are borrowed: put_batch copies them, visitors get them for the length of the visit. */
struct cs_store_batch {
    uint64_t number; /* in the workspace's log, from 1, without gaps */
    struct cs_uuid device;
    uint64_t device_number;
    uint8_t hash[32];     /* batch hash */
    uint8_t log_hash[32]; /* L_number */
    struct cs_slice header, signature, payload_hashes;
    struct cs_slice entity_type; /* a tag, or empty */
};

/* A device that asks to be let in, and the messages of its exchange with a member; slices borrowed as above, empty: not
 * there yet. */
struct cs_store_offer {
    struct cs_uuid device;
    int64_t made_ms; /* Unix ms */
    struct cs_slice offer, answer, reveal, done;
};

/* Visitors return true to go on. They must not call the store. */
typedef bool cs_store_visit_batch(void *arg, const struct cs_store_batch *b);
typedef bool cs_store_visit_chunk(void *arg, uint32_t seq, struct cs_slice payload);
typedef bool cs_store_visit_entry(void *arg, uint32_t seq, struct cs_slice entry);

typedef bool cs_store_visit_offer(void *arg, const struct cs_store_offer *o);

typedef struct cs_store_tx cs_store_tx;
enum cs_store_mode { CS_STORE_READ, CS_STORE_WRITE };

struct cs_store_ops {
    const char *name; /* for logs: "sqlite" */

    /* workspaces: the ones this transaction will touch, ascending, each once; a store behind a network locks and
     * fetches their heads in one round trip. A workspace that does not exist yet is locked all the same. */
    int (*begin)(void *self, enum cs_store_mode mode, const struct cs_uuid *workspaces, size_t n, cs_store_tx **out,
                 struct cs_error *err);
    /* Durable (fsynced, or confirmed by the server) before CS_OK, nothing of it otherwise. Ends tx either way. */
    int (*commit)(cs_store_tx *tx, struct cs_error *err);
    void (*rollback)(cs_store_tx *tx); /* ends tx; also how a reading one ends */
    /* One level of savepoint: what was put since `save` is kept, or is as if it had never been put. */
    int (*save)(cs_store_tx *tx, struct cs_error *err);
    int (*keep)(cs_store_tx *tx, struct cs_error *err);
    int (*undo)(cs_store_tx *tx, struct cs_error *err);

    /* Reads, in either mode; a writing transaction sees its own puts. */
    int (*head)(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_head *out, struct cs_error *err);
    int (*device)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, struct cs_store_device *out,
                  struct cs_error *err);
    int (*log_hash)(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t number, uint8_t out[32], struct cs_error *err);
    int (*entry_hash)(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, uint8_t out[32], struct cs_error *err);
    /* The device's batch of that number: one visit, or CS_ENOTFOUND. */
    int (*device_batch)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, uint64_t device_number,
                        cs_store_visit_batch *visit, void *arg, struct cs_error *err);
    /* Rows from … to, ascending, as long as the visitor wants more. */
    int (*batches)(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint64_t to, cs_store_visit_batch *visit,
                   void *arg, struct cs_error *err);
    int (*chunks)(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t number, uint32_t from_seq,
                  cs_store_visit_chunk *visit, void *arg, struct cs_error *err);
    int (*entries)(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t from, uint32_t to, cs_store_visit_entry *visit,
                   void *arg, struct cs_error *err);

    int (*offers)(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_offer *visit, void *arg,
                  struct cs_error *err);

    /* Writes. put_head, put_device and put_offer replace; the others are new rows: CS_EEXIST. A store may hold errors
     * of puts back until keep or commit. */
    int (*put_head)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_head *h, struct cs_error *err);
    int (*put_device)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device,
                      const struct cs_store_device *d, struct cs_error *err);
    int (*put_batch)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_batch *b,
                     const struct cs_slice *chunks, size_t nchunks, struct cs_error *err);
    int (*put_entry)(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t seq, const uint8_t hash[32],
                     struct cs_slice entry, struct cs_error *err);

    int (*put_offer)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_offer *o, struct cs_error *err);
    /* Those made before that time. */
    int (*drop_offers)(cs_store_tx *tx, const struct cs_uuid *ws, int64_t before_ms, struct cs_error *err);

    void (*close)(void *self); /* no transaction is open */
};

struct cs_store {
    const struct cs_store_ops *ops;
    void *self;
};

struct cs_store_tx { /* every backend's begins so */
    const struct cs_store_ops *ops;
};

static inline int cs_store_begin(const struct cs_store *s, enum cs_store_mode mode, const struct cs_uuid *workspaces,
                                 size_t n, cs_store_tx **out, struct cs_error *err)
{
    return s->ops->begin(s->self, mode, workspaces, n, out, err);
}
static inline int cs_store_commit(cs_store_tx *tx, struct cs_error *err)
{
    return tx->ops->commit(tx, err);
}
static inline void cs_store_rollback(cs_store_tx *tx)
{
    if (tx != NULL)
        tx->ops->rollback(tx);
}
static inline void cs_store_close(struct cs_store *s)
{
    if (s->ops != NULL)
        s->ops->close(s->self);
    s->ops = NULL;
}

/* One file of SQLite 3, made with mode 0600 when it is not there, in a directory that exists. */
struct cs_world;
int cs_store_sqlite_open(struct cs_store *out, struct cs_world *world, const char *path, struct cs_error *err);

#endif
