/* What the files of the simulation share. Everything is guarded by the simulation's lock. Events are functions that are
 * called with the lock held and give it up around what they call back. */
#ifndef CS_BASE_TEST_INTERNAL_H
#define CS_BASE_TEST_INTERNAL_H

#include <pthread.h>

#include "base/test_world.h"

struct cs_sim_host;
struct cs_sim_loop;

/* Something that happens once, later: part of the object that it happens to. */
struct cs_sim_event {
    uint64_t at_ns, tie; /* the order: time, then a random number, then seq */
    uint64_t seq;
    size_t slot; /* 1 + place in the heap; 0: not planned */
    const char *kind;
    void (*fn)(void *arg); /* with the lock held */
    void *arg;
    struct cs_sim_loop *loop; /* on whose behalf, for the trace; NULL: the network */
};

enum cs_sim_kind {
    CS_SIM_TIMER,
    CS_SIM_WAKE,
    CS_SIM_WORK,
    CS_SIM_LISTENER,
    CS_SIM_STREAM,
    CS_SIM_WATCH,
    CS_SIM_SIGNAL
};

/* Every object on a loop has one of these behind its table pointer. */
struct cs_sim_object {
    struct cs_sim_object *next, **at; /* of the loop's list */
    struct cs_sim_loop *loop;
    enum cs_sim_kind kind;
    uint64_t id;
    struct cs_sim_event event;
};

struct cs_sim_loop {
    struct cs_loop base;
    struct cs_sim_loop *next, **at; /* of the host's list */
    struct cs_sim_host *host;
    struct cs_sim_object *objects;
    uint64_t id;
    bool stop, dead;
};

struct cs_sim_file {
    char *path; /* absolute, normal; "/" is always there */
    bool is_dir;
    uint32_t mode;
    uint64_t inode;
    struct cs_buf data;
};

struct cs_sim_host {
    struct cs_world world;
    struct cs_sim_host *next;
    cs_sim *sim;
    char *name;
    unsigned number;
    char address[16];
    int64_t skew_ms;
    bool frozen;
    uint64_t frozen_at; /* virtual time that the wall clock shows while it stands */
    struct cs_sim_loop *loops;
    uint16_t next_port;
    struct cs_sim_file *files;
    size_t nfiles, capfiles;
    uint64_t next_inode;
    bool disk_full, down; /* down: crashed inside a write, and not yet killed */
    unsigned crash_in;    /* writes until then; 0: never */
    struct cs_sim_event kill;
};

struct cs_sim_conn;

struct cs_sim {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* something was planned or stopped, by another thread perhaps */
    uint64_t now_ns, random, seq, next_id;
    struct cs_sim_event **heap;
    size_t nheap, capheap;
    struct cs_sim_host *hosts, **last_host;
    unsigned nhosts;
    struct cs_sim_loop *dead; /* killed, and not freed yet */
    struct cs_sim_conn *conns;
    struct partition {
        struct partition *next;
        const struct cs_sim_host *from, *to;
        enum cs_sim_link how;
    } * partitions;
    struct cs_sim_weather weather;
    uint64_t lost, reset; /* segments that were sent again, connections that broke */
    uint64_t latency_min_ns, latency_max_ns;
    uint64_t trace, nevents;
    bool trace_payload, running;
    FILE *log;
};

/* test_world.c */
#define CS_SIM_MS UINT64_C(1000000)
static inline struct cs_sim_host *cs_sim_host_of(struct cs_world *w)
{
    return w->self;
}
uint64_t cs_sim_draw(cs_sim *sim, uint64_t below);                            /* below > 0 */
uint64_t cs_sim_draw_between(cs_sim *sim, uint64_t least, uint64_t greatest); /* both included */
/* Plans e for at_ns, or now if that is over; replaces an earlier plan. A dead loop's events are not planned. */
void cs_sim_plan(cs_sim *sim, struct cs_sim_event *e, uint64_t at_ns);
void cs_sim_unplan(cs_sim *sim, struct cs_sim_event *e);
void cs_sim_crash(struct cs_sim_host *h); /* dies when the present event is over */
void cs_sim_trace_word(cs_sim *sim, uint64_t v);
void cs_sim_trace_bytes(cs_sim *sim, struct cs_slice s);
/* Runs one event; false: there is none. The lock is held before and after. */
bool cs_sim_step(cs_sim *sim);
/* For loops that run until they are stopped: one thread at a time, which this checks. */
void cs_sim_enter(cs_sim *sim);
void cs_sim_leave(cs_sim *sim);
/* For a runner that has nothing to do: until another thread changes something. Gives up after a minute of real time. */
void cs_sim_wait(cs_sim *sim);

/* test_files.c */
extern const struct cs_file_ops cs_sim_file_ops;
int cs_sim_files_init(struct cs_sim_host *h);
void cs_sim_files_free(struct cs_sim_host *h);

/* test_loop.c */
extern const struct cs_loop_ops cs_sim_loop_ops;
int cs_sim_loop_new(struct cs_world *w, cs_loop **out, struct cs_error *err);
void cs_sim_loop_discard(struct cs_sim_loop *l); /* with all that is on it */
void cs_sim_loop_kill(struct cs_sim_loop *l);
void cs_sim_object_init(struct cs_sim_loop *l, struct cs_sim_object *o, enum cs_sim_kind kind, const char *event,
                        void (*fn)(void *arg), void *arg);
void cs_sim_object_drop(struct cs_sim_object *o); /* from its loop; its memory stays */
void cs_sim_watch_tell(struct cs_sim_host *h, const char *path);

/* test_net.c */
int cs_sim_connect(cs_loop *l, const char *host, uint16_t port, const struct cs_stream_cb *cb, void *arg,
                   cs_stream **out, struct cs_error *err);
int cs_sim_listen(cs_loop *l, const char *host, uint16_t port, void (*accepted)(void *arg, cs_stream *s), void *arg,
                  cs_listener **out, struct cs_error *err);
uint16_t cs_sim_listener_port(cs_listener *s);
void cs_sim_listener_close(cs_listener *s);
void cs_sim_stream_accept(cs_stream *s, const struct cs_stream_cb *cb, void *arg);
void cs_sim_stream_read(cs_stream *s, bool on);
int cs_sim_stream_write(cs_stream *s, const struct cs_slice *pieces, size_t n);
size_t cs_sim_stream_pending(const cs_stream *s);
const char *cs_sim_stream_peer(const cs_stream *s);
void cs_sim_stream_close(cs_stream *s);
void cs_sim_stream_cut(struct cs_sim_object *o);  /* its loop goes: whatever it still had to send is lost */
void cs_sim_stream_kill(struct cs_sim_object *o); /* its process died */
void cs_sim_listener_discard(struct cs_sim_object *o);
void cs_sim_conns_free(cs_sim *sim);

#endif
