/* The checkpoint file: where a device stands, for people and tools to read. The position in the database, saved with
 * the rows, is the truth; the file is made from it. */
#ifndef CS_ENGINE_CHECKPOINT_H
#define CS_ENGINE_CHECKPOINT_H

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"
#include "crdt/version.h"

enum { CS_CHECKPOINT_MAX = 64 * 1024 }; /* bytes of a file */

/* The last round that moved something. at_ms 0: none. */
struct cs_moved {
    int64_t at_ms;
    uint64_t batches, operations, chunks, bytes, duration_ms;
};
/* With the hub. contact_ms: when it last answered; 0: not known. */
struct cs_exchanged {
    struct cs_moved push, pull;
    int64_t contact_ms;
};
struct cs_checkpoint {
    struct cs_uuid workspace, device;
    uint64_t log_id, number; /* the hub's log, and how far it is pulled: "lamport_clock" */
    struct cs_version hlc;   /* of this device */
    uint8_t state_hash[32];  /* of the log up to that number, of which the merged state is made */
    int64_t saved_ms;
    struct cs_exchanged exchanged;
};

int cs_checkpoint_encode(struct cs_buf *out, const struct cs_checkpoint *c, struct cs_error *err);
/* CS_ECORRUPT with the reason; CS_EVERSION: of a newer format. */
int cs_checkpoint_parse(struct cs_checkpoint *out, struct cs_slice text, struct cs_error *err);

#endif
