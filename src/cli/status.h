/* What `claw-sync status` found, and what it says of it: the one word, and the reasons. */
#ifndef CS_CLI_STATUS_H
#define CS_CLI_STATUS_H

#include "engine/engine.h"

struct cs_looked {
    bool local; /* the hub is not to be asked */
    struct cs_replica_identity id;
    struct cs_replica_counts n;
    struct cs_replica_health health;
    struct cs_pull_mark mark;
    struct cs_queue_counts queue;
    int64_t batches_aside, batches_past_cut, daemon_pid, contact_ms;
    bool set_up;
    bool refilling; /* begun, and not over */
    bool differs;   /* from another device, as the last comparison found: the first row here, as far as it was named */
    char differing[400];
    char remade[128]; /* a table that lacks rows since it was made again; empty: none */

    /* what a round left behind, or the daemon says; code CS_ENOTFOUND in rc: nothing */
    int standing_rc;
    struct cs_standing standing;

    struct cs_error audit; /* why no row can be added to the audit log; code CS_OK: nothing stands against it */

    bool asked;    /* the hub; what follows is its answer */
    bool stranger; /* this device is no member, as far as it knows */
    int rc;
    struct cs_error err;
    struct cs_hub_look hub;
};

/* What waits for the user, and what settles it. */
enum { CS_REASONS = 16, CS_REASON_MAX = 640 };
struct cs_reasons {
    size_t n;
    struct {
        char text[CS_REASON_MAX];
        const char *what_to_do;
    } of[CS_REASONS];
};
void cs_status_reasons(const struct cs_looked *l, struct cs_reasons *out);

/* Of them: what the last round found, as it left it behind. */
void cs_status_round_failed(const struct cs_looked *l, struct cs_reasons *out);
/* Fills in the standing of l->id.device, and none if the file is another device's or cannot be read. */
void cs_status_look_at_standing(struct cs_looked *l, struct cs_world *w, const char *data_dir);
/* A database whose device is not the one of data_dir, which has no keys. CS_ENOTFOUND. */
int cs_status_keys_are_lost(const struct cs_uuid *device, const char *data_dir, struct cs_error *err);

enum cs_word { CS_NOT_SET_UP, CS_NOT_KNOWN, CS_OFFLINE, CS_STOPPED, CS_SYNCING, CS_IN_SYNC, CS_NEEDS_YOU };
enum cs_word cs_status_word(const struct cs_looked *l, const struct cs_reasons *r);

/* Is what the standing says the word of the process that replicates now? */
bool cs_status_daemon_told(const struct cs_looked *l);
/* Rows, and what else there is to send. */
int64_t cs_status_to_send(const struct cs_looked *l);
/* Is there nothing in the hub's log that is not here? Only when the hub answered. */
bool cs_status_has_all(const struct cs_looked *l);

#endif
