/* The client program: one table of commands, one way to read configuration, one way to print. */
#ifndef CS_CLI_CLI_H
#define CS_CLI_CLI_H

#include <clawsync/clawsync.h>
#include <jansson.h>

#include "base/arena.h"
#include "base/world.h"

/* Exit codes, part of the interface. */
enum { CS_EXIT_DONE = 0, CS_EXIT_FAILED = 1, CS_EXIT_USAGE = 2, CS_EXIT_OFFLINE = 3, CS_EXIT_HUB = 4 };

/* One run of the program. */
struct cs_cli {
    const char *command; /* as typed: "sync", "keys export" */
    clawsync_config config;
    struct cs_world *world;
    struct cs_arena strings; /* what config points to, beyond argv and the environment */
    bool json, quiet, force, tty;
    const char *passphrase_file;
    uint32_t expires_secs;
    bool qr, distrust, remove, local, watch, take;
    const char *value;   /* of --value, or NULL */
    int keystore_fd;     /* -1: none given */
    const char *args[4]; /* positional arguments of the command */
    int nargs;
    bool only_news;   /* a daemon has begun: what it prints is news, and losing that is no failure of its */
    const char *made; /* what is there although the output is lost, and what to do about it; NULL: nothing is */
};

/* Which options a command takes besides the common ones. */
enum {
    CS_OPT_FORCE = 1,
    CS_OPT_PASSPHRASE = 2,
    CS_OPT_EXPIRES = 4,
    CS_OPT_QR = 8,
    CS_OPT_DISTRUST = 16,
    CS_OPT_REMOVE = 32,
    CS_OPT_STATUS = 64,
    CS_OPT_CHOICE = 128
};

struct cs_cli_command {
    const char *name; /* "keys export" is one name of two words */
    const char *args; /* for the usage line: "TABLE", "[TABLE]", "FILE", "" */
    int min_args, max_args;
    unsigned options;
    const char *summary; /* one line */
    const char *help;    /* more, or NULL */
    int (*run)(struct cs_cli *c);
};

int cs_cli_main(int argc, char **argv, struct cs_world *w);

/* options.c: fills c->config from file, environment and flags, in rising precedence, and the rest of c. */
int cs_cli_parse(struct cs_cli *c, const struct cs_cli_command *cmd, int argc, char **argv, clawsync_error *err);
void cs_cli_print_options(void);

/* print.c */
void cs_cli_say(const struct cs_cli *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));                          /* not if quiet or json */
void cs_cli_warn(void *cli, const char *sentence);                  /* to stderr; cli is only read */
int cs_cli_fail(const struct cs_cli *c, const clawsync_error *err); /* prints, returns the exit code */
int cs_cli_usage(const struct cs_cli *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cs_cli_json(json_t *o); /* one line on stdout; takes the reference */
struct cs_value;
json_t *cs_cli_json_value(const struct cs_value *v); /* NULL pointer: null */
/* Of the keystore or of an invite file: wrong use, which CLAWSYNC_EAUTH alone does not tell. */
bool cs_cli_wrong_passphrase(const clawsync_error *err);
const char *cs_cli_time(int64_t ms, char out[32]); /* Unix ms in local time; 0: "-" */
/* A name is another device's to choose: nothing in it reaches the terminal as a control. */
const char *cs_cli_printable(const char *name, char out[64]);
const char *cs_cli_s(int64_t n);  /* "s", as in rows; "": it is one */
const char *cs_cli_es(int64_t n); /* the same for batches */
/* "; " and what to do about a failure where whoever found it cannot know; "": it says so itself. */
const char *cs_cli_advice(const clawsync_error *err);

/* progress.c: a bar on a terminal, plain lines otherwise, on stderr. */
struct cs_cli_progress {
    const struct cs_cli *cli;
    char name[32]; /* of what is going on */
    uint64_t last_ns;
    bool drawn;
};
void cs_cli_progress_event(struct cs_cli_progress *p, const clawsync_event *e);
void cs_cli_progress_end(struct cs_cli_progress *p);

/* The engine of the configuration, its keystore opened with the passphrase that --keystore-passphrase-fd, systemd or
 * the person gives. */
int cs_cli_open(const struct cs_cli *c, clawsync_engine **out, clawsync_error *err);
/* Calls fn with that passphrase in the configuration. */
int cs_cli_unlocked(const struct cs_cli *c, int (*fn)(void *arg, const clawsync_config *config, clawsync_error *err),
                    void *arg, clawsync_error *err);
/* Would that ask the person for it? */
bool cs_cli_must_ask(const struct cs_cli *c);
/* passphrase.c: from --passphrase-file (its first line) or a prompt without echo; twice when it is new. Guarded memory,
 * released with cs_secret_free. */
int cs_cli_passphrase(const struct cs_cli *c, bool is_new, char **out, clawsync_error *err);

/* qr.c: text as a QR code on standard output, dark on light, two modules high per line. False: out of memory, or the
 * text is too long. */
bool cs_cli_qr(const char *text);

/* The same for commands on the membership: beside the engine that runs, if one runs. */
int cs_cli_open_member(const struct cs_cli *c, clawsync_engine **out, clawsync_error *err);
int cs_cli_say_joined(const struct cs_cli *c);
int cs_cli_join_waiting(struct cs_cli *c); /* pair.c: claw-sync join without a code */
/* One line of standard input into out, without its end; CLAWSYNC_EINVAL: there is none, or it is longer. */
int cs_cli_read_line(char *out, size_t size, clawsync_error *err);

/* open_replica.c: the configured database beside a daemon that may be running, without the lease. options: NULL, or
 * takes those it was opened with, as cs_review_resolve wants them. The caller closes *out. */
struct cs_replica;
struct cs_replica_options;
int cs_cli_open_replica(const struct cs_cli *c, bool read_only, struct cs_replica_options *options,
                        struct cs_replica **out, clawsync_error *err);
/* Are the workspace the database's and data_dir the one of the device that replicates it? CS_EINVAL, CS_EEXIST: they
 * are not. CS_ENOTFOUND: there are no keys in data_dir. CS_OK also when nobody can tell: the database has no device
 * yet, or the keystore does not open with this passphrase or, NULL, without one (whoever wants the keys says why). */
int cs_cli_check_data_dir(const struct cs_cli *c, const struct cs_replica *r, const char *passphrase,
                          clawsync_error *err);
/* The same for a keystore that is open. database: zero where it has no device yet. */
struct cs_uuid;
int cs_cli_check_device(const struct cs_cli *c, const struct cs_uuid *database, const struct cs_uuid *keystore,
                        clawsync_error *err);

/* beside.c: the process that replicates this database, which has the lease, does it. what: an enum cs_ask_kind. *out:
 * to be freed, also on failure. CS_EBUSY: nobody did. */
enum { CS_CLI_WAIT_MS = 20000 }; /* for other devices to compare */
struct cs_reconcile_result;
int cs_cli_ask(struct cs_cli *c, unsigned what, struct cs_reconcile_result **out, clawsync_error *err);

/* The commands, one file each or one per family. */
int cs_cmd_run(struct cs_cli *c);
int cs_cmd_sync(struct cs_cli *c);
int cs_cmd_push(struct cs_cli *c);
int cs_cmd_pull(struct cs_cli *c);
int cs_cmd_status(struct cs_cli *c);
int cs_cmd_tables(struct cs_cli *c);
int cs_cmd_track(struct cs_cli *c);
int cs_cmd_untrack(struct cs_cli *c);
int cs_cmd_pause(struct cs_cli *c);
int cs_cmd_resume(struct cs_cli *c);
int cs_cmd_strategy(struct cs_cli *c);
int cs_cmd_keys_export(struct cs_cli *c);
int cs_cmd_keys_import(struct cs_cli *c);
int cs_cmd_hidden_list(struct cs_cli *c);
int cs_cmd_hidden_show(struct cs_cli *c);
int cs_cmd_hidden_export(struct cs_cli *c);
int cs_cmd_hidden_retry(struct cs_cli *c);
int cs_cmd_hidden_dismiss(struct cs_cli *c);
int cs_cmd_conflicts_list(struct cs_cli *c);
int cs_cmd_conflicts_show(struct cs_cli *c);
int cs_cmd_conflicts_resolve(struct cs_cli *c);
int cs_cmd_conflicts_restore(struct cs_cli *c);
int cs_cmd_invite(struct cs_cli *c);
int cs_cmd_join(struct cs_cli *c);
int cs_cmd_devices(struct cs_cli *c);
int cs_cmd_devices_approve(struct cs_cli *c);
int cs_cmd_devices_rename(struct cs_cli *c);
int cs_cmd_devices_revoke(struct cs_cli *c);
int cs_cmd_identity_new(struct cs_cli *c);
int cs_cmd_keys_passphrase(struct cs_cli *c);
int cs_cmd_keys_rotate(struct cs_cli *c);
int cs_cmd_recovery_create(struct cs_cli *c);
int cs_cmd_recovery_use(struct cs_cli *c);
int cs_cmd_audit_verify(struct cs_cli *c);
int cs_cmd_audit_tail(struct cs_cli *c);
int cs_cmd_audit_export(struct cs_cli *c);
int cs_cmd_queue_list(struct cs_cli *c);
int cs_cmd_queue_retry(struct cs_cli *c);
int cs_cmd_queue_export(struct cs_cli *c);
int cs_cmd_reconcile(struct cs_cli *c);
int cs_cmd_compact(struct cs_cli *c);
int cs_cmd_prove(struct cs_cli *c);
int cs_cmd_doctor(struct cs_cli *c);
int cs_cmd_hub_refill(struct cs_cli *c);
int cs_cmd_hub_accept(struct cs_cli *c);
int cs_cmd_verify_heads(struct cs_cli *c);
int cs_cmd_version(struct cs_cli *c);

#endif
