/* What the hub checks of a batch, in the order of docs/protocol.md: first failure answers. Pure functions, any thread.
 * Shape, hashes and signature need only the request; the rest is judged under the workspace's lock, from its state. */
#ifndef CS_HUB_LOG_RULES_H
#define CS_HUB_LOG_RULES_H

#include "base/arena.h"
#include "clawsync/v1/sync.pb-c.h"
#include "crypto/batch_header.h"
#include "crypto/keys.h"
#include "hub/store.h"
#include "rpc/rpc.h"

enum {
    CS_RULES_MAX_CHUNK = 1024 * 1024, /* bytes of one chunk's payload */
    CS_RULES_MAX_TAG = 64,            /* bytes of an entity type */
    CS_RULES_SEEN_WINDOW = 65536      /* log numbers that a batch's seen position may lie behind the head */
};

/* What came of a request. status CS_RPC_OK: yes. */
struct cs_verdict {
    int status;       /* enum cs_rpc_status */
    const char *kind; /* one word for programs; static */
    char reason[256];
};
/* Fills v and returns false, so that refusing is one line. */
__attribute__((format(printf, 4, 5))) bool cs_refuse(struct cs_verdict *v, int status, const char *kind,
                                                     const char *fmt, ...);

/* A batch as it came: slices borrow the request. */
struct cs_batch {
    struct cs_batch_header h;
    struct cs_slice header, signature, payload_hashes;
    struct cs_slice entity_type;
    const struct cs_slice *chunks; /* h.chunk_count payloads, in the arena */
    size_t bytes;                  /* of all payloads */
    uint8_t hash[32];
    const char *bad_chunk; /* id of the first chunk with a wrong hash, in the arena; NULL: none */
};

/* Sizes, reserved bytes, kind, order of chunks, every payload hash. */
bool cs_rules_shape(struct cs_batch *out, const Clawsync__V1__PushRequest *req, struct cs_arena *a,
                    struct cs_verdict *v);
/* The same of a part of a snapshot. */
bool cs_rules_part_shape(struct cs_batch *out, Clawsync__V1__DeltaChunk **chunks, size_t n, struct cs_arena *a,
                         struct cs_verdict *v);
bool cs_rules_signature(const struct cs_batch *b, const uint8_t sign_pk[32], struct cs_verdict *v);

/* The state that a batch meets under the lock. */
struct cs_log_state {
    struct cs_store_head head;
    struct cs_store_device last; /* the device's newest batch */
    bool active;                 /* a kind-1 member at head.member_seq */
    uint32_t epoch_seq;          /* entry that began head.epoch */
    int64_t now_ms;
    /* Only where the batch asks for it: see cs_rules_wants_*. */
    const uint8_t *stored_hash;   /* of the device's batch of that number; NULL: pruned */
    const uint8_t *seen_log_hash; /* L_seen_number; NULL: not looked up */
    const uint8_t *entry_hash;    /* of entry member_seq; NULL: not looked up */
};
bool cs_rules_wants_stored(const struct cs_batch_header *h, const struct cs_log_state *s);
bool cs_rules_wants_seen(const struct cs_batch_header *h, const struct cs_log_state *s);

enum cs_judgement {
    CS_ACCEPT,        /* new, and next in line */
    CS_ACCEPT_AGAIN,  /* the very batch that is stored */
    CS_REFUSE_STORED, /* refused; the answer shows the stored batch of that number */
    CS_REFUSE_LAST,   /* refused; the answer shows the device's newest batch */
    CS_REFUSE
};
enum cs_judgement cs_rules_judge(const struct cs_batch *b, const struct cs_log_state *s, struct cs_verdict *v);

/* The hub's clock rule: highest <= max((now_ms + 60000) << 16, highest_accepted + CS_CLOCK_ROOM). Saturates. The room
 * is for devices whose log is ahead of the clock: stamps of what waits are dense above the highest, but a batch may
 * hold some of the last ones (docs/decisions/0007). */
enum { CS_CLOCK_ROOM = 1 << 24 };
bool cs_rules_clock(int64_t now_ms, int64_t highest_accepted, int64_t highest);

#endif
