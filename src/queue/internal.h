/* Inside src/queue only. */
#ifndef CS_QUEUE_INTERNAL_H
#define CS_QUEUE_INTERNAL_H

#include <sqlite3.h>
#include <string.h>

#include "queue/queue.h"

enum {
    STMT_PUT,
    STMT_AGAIN,
    STMT_LIST,
    STMT_COUNT,
    STMT_CONTENT,
    STMT_SENDING,
    STMT_ACCEPTED,
    STMT_RELEASE,
    STMT_DETACH,
    STMT_END,
    STMT_RETRY,
    STMT_PRUNE,
    STMT_SETTLE,
    NSTMTS
};

struct cs_queue {
    sqlite3 *db;
    sqlite3_stmt *stmts[NSTMTS]; /* prepared on first use */
    struct cs_world *world;      /* borrowed */
    const struct cs_rng *rng;    /* borrowed */
    const uint8_t *key;          /* borrowed; NULL: no content */
    uint64_t named;              /* sets that name a batch: only this process writes those */
    struct cs_buf scratch;
};

int cs_queue_fail_db(cs_queue *q, const char *what, struct cs_error *err);
/* Reset and ready to be bound; NULL: err says why. */
sqlite3_stmt *cs_queue_stmt(cs_queue *q, int which, struct cs_error *err);
/* Runs a statement that gives no rows. */
int cs_queue_step(cs_queue *q, sqlite3_stmt *s, const char *what, struct cs_error *err);
int cs_queue_begin(cs_queue *q, struct cs_error *err);
/* Commits when rc is CS_OK, else rolls back; counts the sets that name a batch anew. */
int cs_queue_end(cs_queue *q, int rc, struct cs_error *err);
/* The row that s, of STMT_LIST, stands on. reason is a view of it. */
int cs_queue_entry_of(sqlite3_stmt *s, struct cs_queue_entry *out, struct cs_error *err);
void cs_queue_bind(sqlite3_stmt *s, int param, const void *p, size_t n);

#endif
