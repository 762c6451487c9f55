/* The audit log of one device: audit.db, table sync_audit_log. Every row is signed by the device and carries the hash
 * of the row before it, so that nothing in it can be changed, taken out, put in or moved unseen; what is cut off at its
 * end shows where a batch header names a later row. Bytes: docs/protocol.md.
 *
 * Threads: one at a time per log. Errors: CS_EIO, CS_EDB, CS_EBUSY, CS_ENOMEM, and those that are named. */
#ifndef CS_AUDIT_AUDIT_H
#define CS_AUDIT_AUDIT_H

#include "base/uuid.h"
#include "base/world.h"
#include "crypto/keys.h"

/* Whose log it is: a device of a workspace. */
struct cs_audit_owner {
    struct cs_uuid workspace, device;
};

/* A row, as written and as read. Texts are UTF-8 without NUL. */
struct cs_audit_row {
    uint64_t sequence; /* from 1, without a gap */
    struct cs_audit_owner owner;
    int64_t occurred_at;         /* Unix ms, by the device's clock */
    uint64_t ops_count;          /* operations that it is about */
    struct cs_slice event_type;  /* "PUSH", "PULL", "DEVICE_REGISTERED" …; at most 65,535 bytes */
    struct cs_slice entity_type; /* what entity_ids are: "batch", "device" …; may be empty; at most 65,535 bytes */
    struct cs_slice entity_ids;  /* separated by commas; at most 1 MiB */
    struct cs_slice payload;     /* more, any bytes; at most 1 MiB */
    uint8_t payload_hash[32];    /* B3(payload) */
    uint8_t prev_entry_hash[32]; /* of the row before; of the first: H("audit start", workspace ‖ device) */
    uint8_t signer_pub_key[32];  /* the device's Ed25519 key */
    uint8_t signature[CS_SIGNATURE_LEN]; /* SIG(device, "audit row", row bytes) */
};

/* The row bytes, appended to out. CS_EINVAL: a text is too long; CS_ENOMEM. */
int cs_audit_row_bytes(struct cs_buf *out, const struct cs_audit_row *row, struct cs_error *err);
/* What the first row has for a predecessor. */
void cs_audit_start(const struct cs_audit_owner *o, uint8_t out[32]);

typedef struct cs_audit cs_audit;

/* Opens the log of `owner`, with read_only only one that is there. Makes the file with mode 0600.
 * CS_ENOTFOUND: read_only, and there is none. CS_EEXIST: the file is another device's, who keeps it. CS_ECORRUPT: not a
 * log, or its last row is damaged. CS_EVERSION: of a newer claw-sync. */
int cs_audit_open(cs_audit **out, struct cs_world *w, const char *path, bool read_only,
                  const struct cs_audit_owner *owner, struct cs_error *err);
void cs_audit_close(cs_audit *a); /* NULL is fine */

/* What happened: those fields of a row that the log does not know by itself. */
struct cs_audit_event {
    const char *event_type, *entity_type, *entity_ids; /* NULL: "" */
    uint64_t ops_count;
    int64_t occurred_at;
    struct cs_slice payload;
};
/* Appends n rows in one durable transaction: all or none. CS_EINVAL: a text is no UTF-8 or too long. */
int cs_audit_append(cs_audit *a, const struct cs_sign_key *key, const struct cs_audit_event *events, size_t n,
                    struct cs_error *err);
/* The last row's sequence and hash; 0 and zeros: there is none. */
void cs_audit_head(const cs_audit *a, uint64_t *sequence, uint8_t hash[32]);

/* The rows from `from` on, in order, as they are: nothing is verified. fn returns false to end. Views last as long as
 * the call. CS_ECORRUPT: a column is not what it should be. */
int cs_audit_read(cs_audit *a, uint64_t from, bool (*fn)(void *arg, const struct cs_audit_row *row), void *arg,
                  struct cs_error *err);

/* A row that a signed batch header names. */
struct cs_audit_anchor {
    uint64_t sequence;
    uint8_t hash[32];
};
struct cs_audit_verdict {
    bool ok;
    uint64_t rows;            /* that were read */
    uint64_t first_broken_at; /* the sequence where it goes wrong, if !ok */
    char broken_reason[160];  /* a sentence, if !ok */
};
/* Reads the whole log, in constant memory, and trusts nothing in it: `key` is the device's, as the membership log has
 * it, and anchors (ascending by sequence) are from headers that others hold too. Signatures are verified by `threads`
 * threads, 1 … 64. CS_OK whatever the verdict is; an error: it could not be read to the end, and there is none. */
int cs_audit_verify(cs_audit *a, const uint8_t key[32], const struct cs_audit_anchor *anchors, size_t nanchors,
                    unsigned threads, struct cs_audit_verdict *out, struct cs_error *err);

#endif
