/* What a person looks at: rows that the application's tables do not show, and edits that lost; and taking a lost edit
 * back. As for the rest of the room: one thread at a time. */
#ifndef CS_REPLICA_REVIEW_H
#define CS_REPLICA_REVIEW_H

#include "replica/replica.h"

struct cs_review_cell {
    const char *column;
    struct cs_value value;
};

/* A row that is hidden, or one that is shown while some of its values are kept aside (reason NULL: a column that is
 * not here, or a value that the column would change). All of it is valid until the callback returns. */
struct cs_review_hidden {
    const char *table;
    const struct cs_value *key; /* its parts, as compared; as many as the row's device has */
    uint32_t nkey;
    const char *reason;  /* "fk", "unique", "notnull", "type", "trigger", "key", or NULL */
    const char *blocker; /* a sentence on what stands in its way, or NULL */
    const struct cs_review_cell *cells;
    uint32_t ncells;
};

/* Calls fn for each, by table and key; table NULL: all tables. fn returns 0 to go on, anything else ends it. blockers:
 * looks for what stands in the way, a search or two per row.
 * CS_OK; CS_ENOTFOUND: no such table is known; database errors. */
int cs_review_hidden(cs_replica *r, const char *table, bool blockers,
                     int (*fn)(void *arg, const struct cs_review_hidden *h), void *arg, struct cs_error *err);

enum { CS_REVIEW_ID = 17 }; /* bytes of a printed id with its NUL */

/* An edit that lost, or a row's trouble. Valid until the callback returns. */
struct cs_review_conflict {
    char id[CS_REVIEW_ID]; /* the same on every device that saw it */
    const char *why;       /* "overwritten", "deleted", "unique", "check", "copied-device" … */
    const char *state;     /* "manual": a person has to decide; "auto": the rules did; "closed" */
    const char *table;
    const struct cs_value *key;
    uint32_t nkey;
    const char *column;            /* NULL: it is about the whole row */
    const struct cs_value *losing; /* NULL: none is kept */
    const struct cs_value *now;    /* what the application's table shows; NULL: it does not show the row or column */
    struct cs_uuid device;         /* of the losing edit */
    int64_t edited_ms;             /* by that device's clock */
    int64_t noticed_ms;            /* here */
};

/* Calls fn for each, by table and key; closed: those that are settled, too. */
int cs_review_conflicts(cs_replica *r, bool closed, int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg,
                        struct cs_error *err);

/* The conflict is settled as things stand.
 * CS_ENOTFOUND: no open one has this id (as printed, or its first digits); CS_EINVAL: several begin with it. */
int cs_review_close(cs_replica *r, const char *id, struct cs_error *err);

/* The lost value is written again, by an ordinary UPDATE that the application could have made (its triggers run, its
 * constraints hold), or, where the row was deleted, by an INSERT of the values that were lost with it; then the
 * conflict is closed. It travels like any edit. On a connection of its own: o as for cs_replica_open. As above, and
 * CS_EINVAL: there is no value to restore, or the table cannot take it, with the reason. */
int cs_review_restore(cs_replica *r, const struct cs_replica_options *o, const char *id, struct cs_error *err);

#endif
