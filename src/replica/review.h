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
    const char *reason;  /* "fk", "unique", "notnull", "type", "trigger", "key", "table", or NULL */
    const char *blocker; /* a sentence on what stands in its way, or NULL */
    const struct cs_review_cell *cells;
    uint32_t ncells;
};

/* Calls fn for each, by table and key; table NULL: all tables. fn returns 0 to go on, anything else ends it. blockers:
 * looks for what stands in the way, a search or two per row.
 * CS_OK; CS_ENOTFOUND: no such table is known; database errors. */
int cs_review_hidden(cs_replica *r, const char *table, bool blockers,
                     int (*fn)(void *arg, const struct cs_review_hidden *h), void *arg, struct cs_error *err);

/* A batch of the log that could not be taken in. */
struct cs_review_aside {
    uint64_t log_id, log_number;
    const char *finding;   /* its name first: "BAD_CHUNK: …" */
    struct cs_uuid device; /* that it says it is of; zero: its header cannot be read */
    uint8_t hash[32];      /* of the batch; zeros: not known, so that it cannot be tried again */
    bool follows;          /* its header was in order: its device's chain goes on behind it */
    int64_t noticed_ms;
};

/* It is from behind its device's removal, which is for ever: it counts on no device, and nothing that counts is
 * missing. */
bool cs_review_never_counts(const struct cs_review_aside *a);

/* Is there one of this log, and that counts? Then this database does not have all that the log has. */
int cs_review_lacks(cs_replica *r, uint64_t log_id, bool *out, struct cs_error *err);

/* Calls fn for each, by number; all of it is valid until the callback returns, in which nothing else is asked of r. fn
 * returns 0 to go on, anything else ends it. */
int cs_review_aside(cs_replica *r, int (*fn)(void *arg, const struct cs_review_aside *a), void *arg,
                    struct cs_error *err);
int cs_review_put_aside(cs_replica *r, const struct cs_review_aside *a, struct cs_error *err); /* or replaces it */
int cs_review_drop_aside(cs_replica *r, uint64_t log_number, struct cs_error *err);            /* it was taken in */
/* Nobody has more than this device: what was in all of them is not missed any more. */
int cs_review_aside_settled(cs_replica *r, struct cs_error *err);

/* A person wants what is hidden to be tried again: noted, and done by the engine, which keeps the projection to itself.
 */
int cs_review_ask_retry(cs_replica *r, struct cs_error *err);
int cs_review_retry_asked(cs_replica *r, bool *out, struct cs_error *err);
/* Decides all rows that are hidden, or shown with values kept aside, anew, and forgets that it was asked for. */
int cs_review_retry(cs_replica *r, struct cs_error *err);

enum { CS_REVIEW_ID = 25 }; /* bytes of a printed id with its NUL: the first 12 of 16 bytes */

/* An edit that lost, or a row's trouble. Valid until the callback returns. */
struct cs_review_conflict {
    char id[CS_REVIEW_ID]; /* the same on every device that saw it */
    const char *why;       /* "overwritten", "deleted", "unique", "check", "copied-device" … */
    const char *state;     /* "manual": a person has to decide; "auto": the rules did, and it can be taken back for 30
                              days; "resolved": somebody did, here or elsewhere; "closed": its cause is gone */
    const char *table;
    const struct cs_value *key;
    uint32_t nkey;
    const char *column;            /* NULL: it is about the whole row */
    const struct cs_value *losing; /* NULL: none is kept */
    const struct cs_value *now;    /* what the application's table shows; NULL: it does not show the row or column */
    struct cs_uuid device;         /* of the losing edit */
    int64_t edited_ms;             /* by that device's clock */
    int64_t noticed_ms;            /* here: when it came into this state */
    int64_t stamp;                 /* of the losing edit */
    struct cs_slice whole_id, key_bytes;
};

/* Calls fn for each, by table and key; closed: those that are settled, too. */
int cs_review_conflicts(cs_replica *r, bool closed, int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg,
                        struct cs_error *err);

/* What a person decides. Whatever it is, it is an ordinary newer write (of the value, by an UPDATE that the application
 * could have made: its triggers run, its constraints hold; or, where the row was deleted, by an INSERT of the row
 * as it was with the edits that were lost) and it travels like any edit, together with the word that the conflict is
 * resolved, which closes the record on every device. o as for cs_replica_open: a connection of its own. CS_ENOTFOUND:
 * no open one has this id (as printed, or its first digits); CS_EINVAL: several begin with it, there is no value to
 * take, the row was deleted here before the edit came (the edit alone is no row), or the table cannot take it, with the
 * reason. */
enum cs_review_choice {
    CS_REVIEW_KEEP, /* what is shown; where that is nothing, that */
    CS_REVIEW_TAKE, /* the value that lost */
    CS_REVIEW_GIVEN /* another: `given` */
};
int cs_review_resolve(cs_replica *r, const struct cs_replica_options *o, const char *id, enum cs_review_choice choice,
                      const struct cs_value *given, struct cs_error *err);

/* ---- for the engine ---- */

/* Conflicts whose state is new since cs_review_noted; resolutions made here that the hub has not been told of. At most
 * so many, oldest first. */
int cs_review_news(cs_replica *r, uint32_t most, int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg,
                   struct cs_error *err);
int cs_review_untold(cs_replica *r, uint32_t most, int (*fn)(void *arg, const struct cs_review_conflict *c), void *arg,
                     struct cs_error *err);
struct cs_review_mark {
    uint8_t id[16];
    char state[12]; /* as it was seen: one that changed since is news again */
};
int cs_review_noted(cs_replica *r, const struct cs_review_mark *m, size_t n, struct cs_error *err);
int cs_review_told(cs_replica *r, const struct cs_review_mark *m, size_t n, struct cs_error *err);

#endif
