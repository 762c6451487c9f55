/* A hub that lost what it had: membership entries that are given back to it, and the beginning of a new log. Part of
 * the group commit; any thread. */
#ifndef CS_HUB_REFILL_H
#define CS_HUB_REFILL_H

#include "hub/commit.h"

/* What a device asks for, borrowed. */
struct cs_refill_content {
    uint64_t log_id, number; /* of the hub's log, as the device saw it; 0: the hub did not know the workspace */
    uint64_t new_log;        /* 0: only entries are given back */
    int64_t top_stamp;       /* the highest stamp that the log before had accepted */
    struct cs_reader entries;
};
bool cs_refill_parse(struct cs_slice content, struct cs_refill_content *out);
/* The next entry; false: there are no more, or (bad) what is there is none. */
bool cs_refill_next(struct cs_refill_content *c, struct cs_slice *entry, bool *bad);

/* The write of a CS_WRITE_REFILL: w->entry is the content, w->device and w->sign_pk who asks. head: where the workspace
 * stands, zeros if it is not there; moved on when the verdict is OK. CS_OK: w->verdict tells. */
int cs_refill_write(const struct cs_commit_env *env, cs_store_tx *tx, bool exists, struct cs_store_head *head,
                    struct cs_write *w, struct cs_error *err);

#endif
