/* An event loop with timers, streams, a bell for other threads, background work and file watching, as an ops table:
 * libuv in the real world (real_loop.c), a simulated network under virtual time in the test world (test_loop.c).
 *
 * Threads: a loop and all that hangs on it belong to the thread that runs it (before cs_loop_run: the one that made
 * it). The only calls allowed from other threads are cs_wake_send and cs_loop_stop. Callbacks run on the loop's
 * thread, never from inside the call that caused them, but for closes, which are silent.
 * Ownership: every object is released by its own close; a closed object calls nothing back any more. */
#ifndef CS_BASE_LOOP_H
#define CS_BASE_LOOP_H

#include "base/world.h"

typedef struct cs_timer cs_timer;
typedef struct cs_wake cs_wake;
typedef struct cs_stream cs_stream;
typedef struct cs_listener cs_listener;
typedef struct cs_watch cs_watch;
typedef struct cs_signal cs_signal;

/* What a stream tells its owner. All three may close the stream. */
struct cs_stream_cb {
    /* cs_stream_connect is done: err NULL when connected, else the stream is dead (close it). Not for accepted ones. */
    void (*connected)(void *arg, const struct cs_error *err);
    /* Bytes arrived (valid during the call), after cs_stream_read(s, true). */
    void (*data)(void *arg, struct cs_slice bytes);
    /* The peer closed (err NULL) or the stream broke; nothing follows. */
    void (*ended)(void *arg, const struct cs_error *err);
    /* Everything written so far is in the kernel's hands (cs_stream_pending is 0). May be NULL. */
    void (*drained)(void *arg);
};

struct cs_loop_ops {
    void (*run)(cs_loop *l); /* until cs_loop_stop */
    void (*stop)(cs_loop *l);
    void (*free)(cs_loop *l); /* everything on it is closed already; waits for background work */
    uint64_t (*now_ms)(cs_loop *l);

    int (*timer_new)(cs_loop *l, void (*cb)(void *arg), void *arg, cs_timer **out);
    void (*timer_start)(cs_timer *t, uint64_t ms); /* once, ms from now; replaces an earlier start */
    void (*timer_stop)(cs_timer *t);
    void (*timer_close)(cs_timer *t);

    int (*wake_new)(cs_loop *l, void (*cb)(void *arg), void *arg, cs_wake **out);
    void (*wake_send)(cs_wake *w);
    void (*wake_close)(cs_wake *w);

    int (*work)(cs_loop *l, void (*fn)(void *arg), void (*done)(void *arg), void *arg);

    int (*connect)(cs_loop *l, const char *host, uint16_t port, const struct cs_stream_cb *cb, void *arg,
                   cs_stream **out, struct cs_error *err);
    int (*listen)(cs_loop *l, const char *host, uint16_t port, void (*accepted)(void *arg, cs_stream *s), void *arg,
                  cs_listener **out, struct cs_error *err);
    int (*listen_on)(cs_loop *l, int fd, void (*accepted)(void *arg, cs_stream *s), void *arg, cs_listener **out,
                     struct cs_error *err); /* NULL: this world has no such sockets */
    uint16_t (*listener_port)(cs_listener *s);
    void (*listener_close)(cs_listener *s);

    void (*stream_accept)(cs_stream *s, const struct cs_stream_cb *cb, void *arg);
    void (*stream_read)(cs_stream *s, bool on);
    int (*stream_write)(cs_stream *s, const struct cs_slice *pieces, size_t n);
    size_t (*stream_pending)(const cs_stream *s);
    const char *(*stream_peer)(const cs_stream *s);
    void (*stream_close)(cs_stream *s);

    int (*watch_new)(cs_loop *l, const char *dir, void (*cb)(void *arg, const char *name), void *arg, cs_watch **out,
                     struct cs_error *err);
    void (*watch_close)(cs_watch *w);

    int (*signal_new)(cs_loop *l, int signum, void (*cb)(void *arg), void *arg, cs_signal **out);
    void (*signal_close)(cs_signal *s);
};

/* Every object begins with its loop's table, every loop with its own. */
struct cs_loop {
    const struct cs_loop_ops *ops;
};
struct cs_timer {
    const struct cs_loop_ops *ops;
};
struct cs_wake {
    const struct cs_loop_ops *ops;
};
struct cs_stream {
    const struct cs_loop_ops *ops;
};
struct cs_listener {
    const struct cs_loop_ops *ops;
};
struct cs_watch {
    const struct cs_loop_ops *ops;
};
struct cs_signal {
    const struct cs_loop_ops *ops;
};

static inline int cs_loop_new(struct cs_world *w, cs_loop **out, struct cs_error *err)
{
    return w->loop_new(w, out, err);
}
static inline void cs_loop_run(cs_loop *l)
{
    l->ops->run(l);
}
/* From any thread. cs_loop_run returns soon; it may be run again. */
static inline void cs_loop_stop(cs_loop *l)
{
    l->ops->stop(l);
}
static inline void cs_loop_free(cs_loop *l)
{
    if (l != NULL)
        l->ops->free(l);
}
/* Monotonic ms, as of this turn of the loop. */
static inline uint64_t cs_loop_now_ms(cs_loop *l)
{
    return l->ops->now_ms(l);
}

static inline int cs_timer_new(cs_loop *l, void (*cb)(void *arg), void *arg, cs_timer **out)
{
    return l->ops->timer_new(l, cb, arg, out);
}
static inline void cs_timer_start(cs_timer *t, uint64_t ms)
{
    t->ops->timer_start(t, ms);
}
static inline void cs_timer_stop(cs_timer *t)
{
    t->ops->timer_stop(t);
}
static inline void cs_timer_close(cs_timer *t)
{
    if (t != NULL)
        t->ops->timer_close(t);
}

static inline int cs_wake_new(cs_loop *l, void (*cb)(void *arg), void *arg, cs_wake **out)
{
    return l->ops->wake_new(l, cb, arg, out);
}
/* From any thread. cb runs at least once after the newest send; several sends may merge into one call. */
static inline void cs_wake_send(cs_wake *w)
{
    w->ops->wake_send(w);
}
static inline void cs_wake_close(cs_wake *w)
{
    if (w != NULL)
        w->ops->wake_close(w);
}

/* fn(arg) runs on a worker thread, where it may block; then done(arg) on the loop. Several run at once, in no order. */
static inline int cs_loop_work(cs_loop *l, void (*fn)(void *arg), void (*done)(void *arg), void *arg)
{
    return l->ops->work(l, fn, done, arg);
}

/* TCP. host is a name or a literal address; resolving does not block the loop. The result comes by cb->connected. */
static inline int cs_stream_connect(cs_loop *l, const char *host, uint16_t port, const struct cs_stream_cb *cb,
                                    void *arg, cs_stream **out, struct cs_error *err)
{
    return l->ops->connect(l, host, port, cb, arg, out, err);
}
/* Port 0 picks one. `accepted` receives each new connection and owns it: it calls cs_stream_accept or closes it. */
static inline int cs_listen(cs_loop *l, const char *host, uint16_t port, void (*accepted)(void *arg, cs_stream *s),
                            void *arg, cs_listener **out, struct cs_error *err)
{
    return l->ops->listen(l, host, port, accepted, arg, out, err);
}
/* The same on a socket that listens already, which is the listener's from then on, but on failure. */
static inline int cs_listen_on(cs_loop *l, int fd, void (*accepted)(void *arg, cs_stream *s), void *arg,
                               cs_listener **out, struct cs_error *err)
{
    return l->ops->listen_on != NULL ? l->ops->listen_on(l, fd, accepted, arg, out, err)
                                     : cs_fail(err, CS_EUNSUPPORTED, "sockets cannot be handed over here");
}
static inline uint16_t cs_listener_port(cs_listener *s)
{
    return s->ops->listener_port(s);
}
static inline void cs_listener_close(cs_listener *s)
{
    if (s != NULL)
        s->ops->listener_close(s);
}
/* Takes on an accepted connection: sets its callbacks. Reading starts with cs_stream_read. */
static inline void cs_stream_accept(cs_stream *s, const struct cs_stream_cb *cb, void *arg)
{
    s->ops->stream_accept(s, cb, arg);
}
static inline void cs_stream_read(cs_stream *s, bool on)
{
    s->ops->stream_read(s, on);
}
/* Sends the pieces one after the other, and copies what the kernel does not take at once; CS_ENOMEM, or CS_OK (a later
 * break comes by cb->ended). */
static inline int cs_stream_write_pieces(cs_stream *s, const struct cs_slice *pieces, size_t n)
{
    return s->ops->stream_write(s, pieces, n);
}
static inline int cs_stream_write(cs_stream *s, struct cs_slice bytes)
{
    return s->ops->stream_write(s, &bytes, 1);
}
/* Bytes written and not yet taken by the kernel. */
static inline size_t cs_stream_pending(const cs_stream *s)
{
    return s->ops->stream_pending(s);
}
/* "address:port" of the other side, "[address]:port" for IPv6; lasts as long as the stream. */
static inline const char *cs_stream_peer(const cs_stream *s)
{
    return s->ops->stream_peer(s);
}
/* What was written before is still sent if the peer takes it; nothing is called back any more. */
static inline void cs_stream_close(cs_stream *s)
{
    if (s != NULL)
        s->ops->stream_close(s);
}

/* Changes of files in a directory: cb gets the name inside it, or NULL when it is not known. Several may merge. */
static inline int cs_watch_new(cs_loop *l, const char *dir, void (*cb)(void *arg, const char *name), void *arg,
                               cs_watch **out, struct cs_error *err)
{
    return l->ops->watch_new(l, dir, cb, arg, out, err);
}
static inline void cs_watch_close(cs_watch *w)
{
    if (w != NULL)
        w->ops->watch_close(w);
}

/* A signal of this process, delivered on the loop. The test world never sends one. */
static inline int cs_signal_new(cs_loop *l, int signum, void (*cb)(void *arg), void *arg, cs_signal **out)
{
    return l->ops->signal_new(l, signum, cb, arg, out);
}
static inline void cs_signal_close(cs_signal *s)
{
    if (s != NULL)
        s->ops->signal_close(s);
}

#endif
