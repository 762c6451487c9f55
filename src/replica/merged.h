/* The merged state, read row by row in the order of the canonical dump, from one snapshot; and rows of it as operations
 * with their original stamps and devices, as whoever misses them needs them. Threads and errors as in replica.h. */
#ifndef CS_REPLICA_MERGED_H
#define CS_REPLICA_MERGED_H

#include "replica/replica.h"

/* row: its bytes in the dump. All last for the call. Anything but CS_OK stops the walk and is its result. */
typedef int (*cs_merged_fn)(void *arg, struct cs_slice table, struct cs_slice key, struct cs_slice row,
                            struct cs_error *err);
struct cs_merged_info {
    bool unsettled;    /* something is unsealed, unsent or on its way: fn was not called */
    const char *doubt; /* a table whose rows are not what our versions say: written, or lost, behind our back; NULL */
    uint64_t gone;     /* values that the application dropped with their column or table, and others may still have */
    uint64_t left_out; /* rows that cannot be sent (too large) and so are nobody else's */
    struct cs_pull_mark mark;
};
/* Is all that was written here at the hub? Rows that cannot be sent are not waited for. CS_EINVAL: a table is paused.
 */
int cs_replica_settled(cs_replica *r, bool *out, struct cs_error *err);
/* Is there a column, or a table, that the application does not have (any more)? Then values may be gone. */
int cs_replica_dropped(cs_replica *r, bool *out, struct cs_error *err);
/* Calls fn for each row. settled: only when all local edits are at the hub. Reads everything, in one read transaction;
 * with a rollback journal writers wait for its end. CS_EINVAL: a table is paused. */
int cs_replica_merged(cs_replica *r, bool settled, cs_merged_fn fn, void *arg, struct cs_merged_info *info,
                      struct cs_error *err);
/* Sealing will compare the tables that were doubted since it last did (at_all: every one) with their versions, and seal
 * the differences. */
int cs_replica_look_closer(cs_replica *r, bool at_all, struct cs_error *err);

struct cs_entity {
    struct cs_slice table, key;
};
/* All that the merged state has of these rows, as many of them (*taken) as fit. Nothing may be extracted between this
 * and cs_replica_bind. *taken 0 with *busy: rows are being edited right now, seal first. Rows that are not there (any
 * more) give nothing. Lives in the arena. */
int cs_replica_full(cs_replica *r, struct cs_arena *a, const struct cs_entity *list, size_t n, uint32_t max_ops,
                    size_t max_bytes, struct cs_delta *out, size_t *taken, bool *busy, struct cs_error *err);

#endif
