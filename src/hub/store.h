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
    uint64_t bytes;    /* of ciphertext in its log and its snapshots, and of its reference */
    uint64_t pruned;   /* numbers up to here are in the log no more; 0: all are */
    uint64_t prune_to; /* those below are to go, when the devices are past it; 0: none */
    int64_t prune_ms;  /* Unix ms since when */
};

/* A device's place in its own chain. No row before its first batch or heartbeat. */
struct cs_store_device {
    uint64_t number; /* 0: none yet */
    uint8_t hash[32];
    uint32_t member_seq; /* of that batch */
    int64_t seen_ms;     /* Unix ms */
    uint64_t pulled;     /* how far it had read the log, at least; 0: unknown */
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

/* The reference: one device's state, as a set of entities (crypto/entity_set.h), that the others compare theirs with.
 * Its leaves lie in buckets; a bucket without leaves has no row. */
struct cs_store_reference {
    uint64_t log_id, number; /* where in the log it is of */
    uint32_t epoch;          /* of its tags */
    struct cs_uuid device;
    bool whole;         /* otherwise the device is giving it */
    bool only_prove;    /* differences are found, not healed */
    int64_t changed_ms; /* Unix ms of the last write to it */
    uint64_t rows;      /* entities */
    uint64_t given;     /* how often one was given, in this workspace */
};
struct cs_store_bucket {
    uint32_t prefix; /* first 16 bits of its tags */
    uint32_t rows;
    uint8_t sum[16];
    struct cs_slice leaves; /* borrowed as above; empty when only sums were asked for */
};
/* A device's newest statement about its state. */
struct cs_store_proof {
    struct cs_uuid device;
    uint64_t log_id, number;
    uint64_t given; /* the reference's, when it came */
    struct cs_slice proof;
};

/* A snapshot: one device's merged state at a number of the log, in parts that are sealed as batches are. A workspace
 * has room for two: the one that is served, and the next one. */
enum cs_snapshot_state {
    CS_SNAPSHOT_NONE,   /* what may be left of an earlier one counts for nothing */
    CS_SNAPSHOT_GIVING, /* its device is giving it */
    CS_SNAPSHOT_WHOLE,
    CS_SNAPSHOT_SERVED
};
enum { CS_SNAPSHOT_SLOTS = 2 };
struct cs_store_snapshot {
    unsigned slot;
    enum cs_snapshot_state state;
    uint64_t log_id, number;
    struct cs_uuid device;
    uint32_t parts;     /* that are stored */
    uint8_t digest[32]; /* over the parts so far */
    uint64_t bytes;     /* of ciphertext */
    int64_t changed_ms; /* Unix ms of the last write to it */
    struct cs_uuid attester;
    struct cs_slice descriptor, attestation; /* borrowed as above; empty: not there yet */
};
/* A chunk of a part; the envelope (header ‖ signature ‖ payload hashes) is with the first. */
struct cs_store_part {
    uint32_t part, seq;
    struct cs_slice envelope, payload;
};

/* One row that a writing transaction is about to read, by `device`, `log_hash` or `entry_hash`. */
enum cs_store_need_kind { CS_NEED_DEVICE, CS_NEED_LOG_HASH, CS_NEED_ENTRY_HASH };
struct cs_store_need {
    enum cs_store_need_kind kind;
    struct cs_uuid workspace;
    struct cs_uuid device; /* of CS_NEED_DEVICE only, else zero */
    uint64_t number;       /* of the others: number or seq */
};

/* Visitors return true to go on. They must not call the store. */
typedef bool cs_store_visit_batch(void *arg, const struct cs_store_batch *b);
typedef bool cs_store_visit_chunk(void *arg, uint64_t number, uint32_t seq, struct cs_slice payload);
typedef bool cs_store_visit_entry(void *arg, uint32_t seq, struct cs_slice entry);

typedef bool cs_store_visit_offer(void *arg, const struct cs_store_offer *o);
typedef bool cs_store_visit_workspace(void *arg, const struct cs_uuid *ws, const struct cs_store_head *h);

typedef bool cs_store_visit_bucket(void *arg, const struct cs_store_bucket *b);
typedef bool cs_store_visit_tag(void *arg, uint32_t epoch, const uint8_t tag[16]);
typedef bool cs_store_visit_device(void *arg, const struct cs_uuid *device, const struct cs_store_device *d);
typedef bool cs_store_visit_snapshot(void *arg, const struct cs_store_snapshot *s);
typedef bool cs_store_visit_part(void *arg, const struct cs_store_part *p);
typedef bool cs_store_visit_proof(void *arg, const struct cs_store_proof *p);

typedef struct cs_store_tx cs_store_tx;
/* A payload that another hub on the same store sent: lines; NULL: some may have been missed. */
typedef void cs_store_heard(void *arg, const char *lines);
enum { CS_STORE_NEWS = 100 }; /* bytes that a line may have */

enum cs_store_mode { CS_STORE_READ, CS_STORE_WRITE };

struct cs_store_ops {
    const char *name; /* for logs: "sqlite" */
    bool shared;      /* other hubs may be at work on it: heads move by themselves */

    /* workspaces: the ones this transaction will touch, ascending, each once; a store behind a network locks and
     * fetches their heads in one round trip. A workspace that does not exist yet is locked all the same. */
    int (*begin)(void *self, enum cs_store_mode mode, const struct cs_uuid *workspaces, size_t n, cs_store_tx **out,
                 struct cs_error *err);
    /* Durable (fsynced, or confirmed by the server) before CS_OK, nothing of it otherwise. Ends tx either way. */
    int (*commit)(cs_store_tx *tx, struct cs_error *err);
    void (*rollback)(cs_store_tx *tx); /* ends tx; also how a reading one ends */
    /* What will be read soon, so that a store behind a network reads it in one round trip; in a writing transaction,
     * before its first put. What is named need not be there. NULL where reads are near. */
    int (*foresee)(cs_store_tx *tx, const struct cs_store_need *needs, size_t n, struct cs_error *err);
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
    /* Chunks from (from, seq) on up to number `to`, ascending, as long as the visitor wants more and at most `most`:
     * a store behind a network fetches that many. */
    int (*chunks)(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint32_t seq, uint64_t to, uint32_t most,
                  cs_store_visit_chunk *visit, void *arg, struct cs_error *err);
    int (*entries)(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t from, uint32_t to, cs_store_visit_entry *visit,
                   void *arg, struct cs_error *err);

    int (*offers)(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_offer *visit, void *arg,
                  struct cs_error *err);

    /* All workspaces behind `after` (the zero id: from the first one), ascending, as long as the visitor wants more:
     * for whoever runs the hub, never for a device. In a reading transaction that names none. */
    int (*workspaces)(cs_store_tx *tx, const struct cs_uuid *after, cs_store_visit_workspace *visit, void *arg,
                      struct cs_error *err);

    int (*reference)(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_store_reference *out, struct cs_error *err);
    /* Sums, then leaves too, of the buckets first … last, ascending. */
    int (*bucket_sums)(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t first, uint32_t last,
                       cs_store_visit_bucket *visit, void *arg, struct cs_error *err);
    int (*bucket_leaves)(cs_store_tx *tx, const struct cs_uuid *ws, uint32_t first, uint32_t last,
                         cs_store_visit_bucket *visit, void *arg, struct cs_error *err);
    /* What the device is to publish, ascending. */
    int (*wanted)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, cs_store_visit_tag *visit,
                  void *arg, struct cs_error *err);
    int (*proofs)(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_proof *visit, void *arg,
                  struct cs_error *err);
    /* All that have a place, removed ones too. */
    int (*devices)(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_device *visit, void *arg,
                   struct cs_error *err);
    int (*snapshots)(cs_store_tx *tx, const struct cs_uuid *ws, cs_store_visit_snapshot *visit, void *arg,
                     struct cs_error *err);
    /* Chunks from (part, seq) on, ascending, as long as the visitor wants more. */
    int (*snapshot_parts)(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot, uint32_t part, uint32_t seq,
                          cs_store_visit_part *visit, void *arg, struct cs_error *err);

    /* Writes. put_head, put_device, put_offer, put_reference, put_bucket, put_wanted, put_proof and put_snapshot
     * replace; the others are new rows: CS_EEXIST. A store may hold errors of puts back until keep or commit; the
     * transaction is lost then. */
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

    int (*put_reference)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_reference *r,
                         struct cs_error *err);
    /* Without rows: there is none any more. */
    int (*put_bucket)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_bucket *b, struct cs_error *err);
    int (*put_wanted)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, uint32_t epoch,
                      const uint8_t tag[16], struct cs_error *err);
    /* tag NULL: all that is wanted of it. */
    int (*drop_wanted)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_uuid *device, const uint8_t *tag,
                       struct cs_error *err);
    int (*put_proof)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_proof *p, struct cs_error *err);
    int (*put_snapshot)(cs_store_tx *tx, const struct cs_uuid *ws, const struct cs_store_snapshot *s,
                        struct cs_error *err);
    int (*put_snapshot_part)(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot, const struct cs_store_part *p,
                             struct cs_error *err);
    /* The chunks of parts from … to. */
    int (*drop_snapshot_parts)(cs_store_tx *tx, const struct cs_uuid *ws, unsigned slot, uint32_t from, uint32_t to,
                               struct cs_error *err);
    /* Batches from … to, and their ciphertext, of which that many bytes. */
    int (*prune_log)(cs_store_tx *tx, const struct cs_uuid *ws, uint64_t from, uint64_t to, uint64_t *bytes,
                     struct cs_error *err);
    /* All batches of the log and their ciphertext, and all snapshots; devices stand before their first batch, and have
     * read nothing. */
    int (*drop_log)(cs_store_tx *tx, const struct cs_uuid *ws, struct cs_error *err);

    /* Hubs on a shared store tell each other what they did; both NULL where it is not shared. Nobody may rely on it:
     * what is told comes soon, or not at all. heard comes on a thread of the store's own, until close. CS_EUNSUPPORTED:
     * here they do not. */
    int (*listen)(void *self, cs_store_heard *heard, void *arg, struct cs_error *err);
    /* A line without its end. Any thread; does not block; before listen it does nothing. */
    void (*tell)(void *self, struct cs_slice line);

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
static inline int cs_store_foresee(cs_store_tx *tx, const struct cs_store_need *needs, size_t n, struct cs_error *err)
{
    return n == 0 || tx->ops->foresee == NULL ? CS_OK : tx->ops->foresee(tx, needs, n, err);
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

/* PostgreSQL, which any number of hubs may use at once. */
struct cs_store_postgres_options {
    const char *url;    /* postgresql://…; copied; secret, for the password in it */
    const char *listen; /* the same, for a session's connection over which hubs hear of each other; NULL: they do not */
    unsigned connections; /* at most, for transactions; from 2 */
    unsigned partitions;  /* of tables that are made now; 0: none */
    int prepare;          /* statements are prepared by name: 1 always, -1 never, 0 unless a pooler is in between */
};
int cs_store_postgres_open(struct cs_store *out, struct cs_world *world, const struct cs_store_postgres_options *o,
                           struct cs_error *err);
/* The connection string without its password, to be shown. CS_EINVAL: it is none. */
int cs_store_postgres_name(const char *url, char *out, size_t size, struct cs_error *err);

#endif
