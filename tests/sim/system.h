/* A hub and its engines on the simulated world, as clawsim runs them: their life, what happens to them, and what must
 * hold when they have come to rest. All that is random is drawn from the run's seed. */
#ifndef SIM_SYSTEM_H
#define SIM_SYSTEM_H

#include "engine/engine.h"
#include "hub/hub.h"
#include "sim/sim_disk.h"

enum { DEVICES = 6, HOUR_MS = 3600 * 1000, IDS = 10, NAMES = 5, HUB_PORT = 50051 };
#define YEAR_MS INT64_C(31557600000)

/* Everything that can happen in a step, by the table in steps.c. */
enum { MAX_KINDS = 64 };

/* Columns whose values say which write they are of, for rows 0 … IDS - 1 each. */
enum column { CONTENT, WEIGHT, EXTRA, STATE, VALUE, COLUMNS };

/* A row that one device alone writes: what it holds must be everywhere. */
struct own {
    unsigned version;
    bool deleted;
};

struct device {
    struct run *run;
    struct cs_world *world;
    struct sim_disk *disk;
    char name[16], folder[24], db[40], state[32];
    clawsync_config config;
    clawsync_engine *engine;
    char id[37];
    bool member;  /* it has joined */
    bool gone;    /* revoked, or a copy that was stopped: it need not be like the others */
    bool copied;  /* there is, or was, another with the same id */
    bool extra;   /* its memories have that column */
    bool context; /* it has that table */
    bool asked;   /* it has an invite's code */
    bool refused; /* the hub that lost what it had does not know it, or its membership, and takes no refill from it */
    bool has_backup, backup_extra, backup_context;
    unsigned backup_lives, lives; /* incarnations of its keystore: when it was backed up, and before it went back */
    bool backup_is_unseen;        /* what was written behind our back may be in it */
    bool backup_is_ahead; /* unsent edits in it have times to come, or were sent with others: they would win over later
                             ones */
    bool resealed;        /* unsent edits were given earlier times: a copy of what the hub had refused may still come */
    bool told;            /* an event told of something wrong */
    bool restored;        /* it went back to a backup, and may not have fetched what it had since */
    bool went_back;       /* it ever did: where its clock stood still, it may have given stamps of before once more */
    char code[CLAWSYNC_CODE_MAX];
    bool commanded; /* `command` was handed to the engine */
    struct cs_command command;
    struct cs_refill_report refill; /* what refilling reports */
    struct cs_reconcile_wish wish;  /* what reconciling does */
    struct cs_compact_wish compact; /* what compacting does */
    struct own *own;
    bool has_tables;
    unsigned nown, own_cap;
    uint32_t last[COLUMNS][IDS]; /* number of its last write of each */
};

struct hub {
    struct cs_world *world;
    struct sim_disk *disk;
    cs_loop *loop;
    cs_hub *hub;
    bool stopped;
};

struct run {
    uint64_t seed, without; /* without: bits of the kinds that do not happen */
    cs_sim *sim;
    struct sim_faults faults; /* of a disk that has some; which kinds there are is the seed's */
    unsigned weight[MAX_KINDS];
    uint64_t happened[MAX_KINDS];
    struct hub hub;
    bool compacts; /* devices give snapshots by themselves */
    bool revoked;  /* somebody was */
    bool revived;  /* behind a refill, a device sent all that it has: what was collected meanwhile may live again */
    uint64_t retention_ms, silent_ms; /* the hub's settings */
    struct device devices[DEVICES];
    unsigned ndevices;
    struct written {
        uint8_t column, row, by;
    } * written; /* by the number of the write, from 1 */
    uint32_t nwritten, cap_written;
    unsigned rests, with_snapshot, pruned, collected; /* the last three: of the hub's log when it was looked at */
    int64_t member_seq;                               /* entries of the membership that were looked at */
    bool hub_has_backup;
    bool hub_lost;         /* something that it had, and it may not have got it back */
    bool hub_rotten;       /* bits of its disk are others */
    bool device_rotten;    /* of a device's */
    bool unseen;           /* something was written behind our back, and nobody has reconciled since */
    unsigned blurred[IDS]; /* shared memories to which that happened, on which device (from 1): a version may name two
                              values */
    int64_t copied_at_hlc; /* clock of the device that was copied, when it was */
};

extern const char *sim_keep; /* a folder for the files of a run that failed, or NULL */
extern bool sim_verbose;     /* what happens, on the standard output */
extern bool sim_compact;     /* devices give snapshots, and the hub prunes its log */

/* system.c */
__attribute__((noreturn, format(printf, 2, 3))) void die(const struct run *r, const char *fmt, ...);
void must(const struct run *r, int rc, const void *error, const char *what); /* dies unless rc is good */
uint64_t draw(struct run *r, uint64_t below);
__attribute__((format(printf, 2, 3))) void note(struct run *r, const char *fmt, ...); /* into the trace */
void pass(struct run *r, uint64_t ms);                                                /* virtual time */

void hub_init(struct run *r);
int hub_try_start(struct run *r, struct cs_error *err);
void hub_start(struct run *r);
void hub_stop(struct run *r, uint32_t drain_ms); /* it may crash on the way */
void hub_kill(struct run *r, bool power);

/* The next device, whose database has the tables already. */
struct device *device_init(struct run *r);
int device_try_open(struct device *d, clawsync_error *err);
void device_open(struct device *d);
void device_start(struct device *d);
void device_close(struct device *d); /* also of one that is dead */
void device_kill(struct device *d, bool power);
void heal(struct device *d);       /* nothing fails any more, but for a crash that has happened */
void heal_hub(struct run *r);      /* the same */
void connect_up(struct device *d); /* its network is as good as the weather */
/* Runs SQL as the application, each time with a connection of its own. Its writes are not what is attacked. The number
 * of rows that it changed. */
int app(struct device *d, const char *sql);
int app_unseen(struct device *d, const char *sql); /* the same without triggers */
/* One number that SQL finds in a database. */
int64_t ask(struct run *r, struct sim_disk *disk, const char *path, const char *sql);
sqlite3 *look_into(struct run *r, struct sim_disk *disk, const char *path); /* read only; close_look ends it */
void close_look(struct sim_disk *disk, sqlite3 *db);
/* The first creates the workspace and invites the others; then all replicate by themselves. */
void join_all(struct run *r);
/* Joins by its code, which `by` makes if there is none. False: it did not work, and is to be tried again. */
bool join(struct device *d, struct device *by);
/* The same in three parts: up to the command, the command, and what came of it. False: nothing was begun. */
bool join_prepare(struct device *d, struct device *by);
void join_begin(struct device *d);
bool join_end(struct device *d);
bool is_there(const struct device *d); /* a member like the others */
/* Hands a command to the engine, which may die before it is over. */
void command_begin(struct device *d, struct cs_command c);
/* Until all commands are over, or those who had them are dead. */
void await_commands(struct run *r);
bool command_ended(const struct device *d); /* and d->command tells how */

/* writes.c: what applications write, and what became of it. */
void sim_functions(sqlite3 *db); /* what their SQL calls */
extern const char sim_schema[], sim_context[];
void write_shared(struct device *d);
void write_unique(struct device *d);
void write_slots(struct device *d);
void write_unseen(struct device *d); /* none of our triggers sees it */
void write_own(struct device *d, unsigned n);
void change_own(struct device *d);
void write_context(struct device *d);
void add_column(struct device *d);
void add_context(struct device *d);
void rebuild(struct device *d); /* a table, while it is paused */
void resume(struct device *d);  /* if it died meanwhile */
/* Dies if a table of d shows what nobody wrote. */
void check_nothing_invented(struct device *d);
/* Dies unless what devices alone wrote is in the tables of d. */
void check_own(struct device *d);
/* The device that made it. */
const struct device *writer_of(const struct run *r, int64_t write);
/* Does this value of that column (a name of the tables) in the row of this key come of a write, and of which? -1: not a
 * column that tells; 0: nobody wrote it. */
int64_t write_of(const struct run *r, struct cs_slice column, struct cs_slice key, const struct cs_value *v,
                 enum column *which, unsigned *row);

/* refill.c: the hub loses what it had, and gets it back from devices. */
bool may_lose(struct run *r); /* nothing that it has is anywhere else but with those who are there */
void back_up_hub(struct device *d);
void hub_goes_back(struct device *d);
void empty_hub(struct device *d);
void refill(struct device *d); /* by one or two, who may die in the middle of it, as the hub may */
void refill_for_good(struct run *r);
void renew_one(struct run *r);

/* steps.c */
void draw_weights(struct run *r);
void step(struct run *r);
void raise_the_dead(struct run *r);   /* who crashed is there again */
const char *kind_name(unsigned kind); /* NULL: there are no more */

/* rest.c */
void reconcile_begin(struct device *d);
/* All is well from now on; dies unless all come to rest, are equal and have lost nothing. */
void settle(struct run *r, bool last);
void last_acts(struct run *r); /* what ends a run: bits rot, of the hub or a device; the hub goes back to a backup */

/* log_check.c: the hub's log and membership hold, and what is in them is the state of every device, by the model. */
void check_log(struct run *r);
void find_revoked(struct run *r); /* whom the hub's membership log has removed is gone */

#endif
