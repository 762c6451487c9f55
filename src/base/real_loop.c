/* The loop table over libuv. Every object embeds its handle, and is freed in that handle's close callback; what is
 * closed has lost its callbacks at once, so nothing reaches an owner that is gone. */
#include "base/real_loop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <uv.h>

static const struct cs_loop_ops real_ops;

struct real_loop {
    struct cs_loop base;
    uv_loop_t uv;
    uv_async_t stopper; /* cs_loop_stop from any thread */
};

struct real_timer {
    struct cs_timer base;
    uv_timer_t uv;
    void (*cb)(void *arg);
    void *arg;
};

struct real_wake {
    struct cs_wake base;
    uv_async_t uv;
    void (*cb)(void *arg);
    void *arg;
};

struct real_work {
    uv_work_t uv;
    void (*fn)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

enum {
    PIECES = 64,   /* of one write */
    ACCEPTED = 16, /* connections of one turn of the loop, so that those that are there get theirs */
};

struct real_listener {
    struct cs_listener base;
    uv_tcp_t uv;
    uv_idle_t next_turn;
    unsigned taken; /* in this turn */
    bool waiting;   /* libuv holds one more, and hears of no other until it is taken */
    void (*accepted)(void *arg, cs_stream *s);
    void *arg;
};

struct real_stream {
    struct cs_stream base;
    uv_tcp_t uv;
    const struct cs_stream_cb *cb; /* NULL once closed, and before an accepted one is taken on */
    void *arg;
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    struct addrinfo *addresses; /* owned until connected; `next` walks it */
    struct addrinfo *next;
    int last_error;    /* of the address tried last */
    unsigned requests; /* resolve, connect and write requests under way */
    size_t pending;    /* bytes written and not taken */
    bool uv_open;      /* the handle is initialised */
    bool closing, closed, connected, ended;
    char target[300]; /* "host:port" as asked for */
    char peer[80];
};

struct write_request {
    uv_write_t uv;
    struct real_stream *stream;
    size_t len;
    uint8_t bytes[];
};

struct real_watch {
    struct cs_watch base;
    uv_fs_event_t uv;
    void (*cb)(void *arg, const char *name);
    void *arg;
};

struct real_signal {
    struct cs_signal base;
    uv_signal_t uv;
    void (*cb)(void *arg);
    void *arg;
};

static struct real_loop *real(cs_loop *l)
{
    return (struct real_loop *)l;
}

static int code_of(int status)
{
    switch (status) {
    case UV_ENOMEM:
        return CS_ENOMEM;
    case UV_ETIMEDOUT:
        return CS_ETIMEDOUT;
    case UV_ECANCELED:
        return CS_ECANCELED;
    default:
        return CS_EUNAVAILABLE;
    }
}

/* ---- the loop ---- */

static void on_stop(uv_async_t *a)
{
    uv_stop(a->loop);
}

int cs_real_loop_new(struct cs_world *w, cs_loop **out, struct cs_error *err)
{
    struct real_loop *l = calloc(1, sizeof *l);
    int status;

    (void)w;
    *out = NULL;
    if (l == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    l->base.ops = &real_ops;
    if ((status = uv_loop_init(&l->uv)) != 0) {
        free(l);
        return cs_fail(err, CS_EIO, "cannot make an event loop: %s", uv_strerror(status));
    }
    if ((status = uv_async_init(&l->uv, &l->stopper, on_stop)) != 0) {
        uv_loop_close(&l->uv);
        free(l);
        return cs_fail(err, CS_EIO, "cannot make an event loop: %s", uv_strerror(status));
    }
    *out = &l->base;
    return CS_OK;
}

/* A write to a peer that went away must not raise SIGPIPE in a program that embeds us: blocked while the loop runs, and
 * what came meanwhile is consumed. */
static void loop_run(cs_loop *l)
{
    sigset_t pipe, old;
    struct timespec none = { 0 };
    bool blocked;

    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    blocked = pthread_sigmask(SIG_BLOCK, &pipe, &old) == 0;
    uv_run(&real(l)->uv, UV_RUN_DEFAULT);
    if (!blocked || sigismember(&old, SIGPIPE) == 1)
        return;
    while (sigtimedwait(&pipe, NULL, &none) == SIGPIPE)
        ;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void loop_stop(cs_loop *l)
{
    uv_async_send(&real(l)->stopper);
}

/* A closed stream whose peer does not read would wait for its last bytes for ever. */
static void cut_stream(uv_handle_t *h, void *arg);

static void loop_free(cs_loop *l)
{
    struct real_loop *r = real(l);

    uv_close((uv_handle_t *)&r->stopper, NULL);
    uv_walk(&r->uv, cut_stream, NULL);
    while (uv_loop_close(&r->uv) == UV_EBUSY)
        uv_run(&r->uv, UV_RUN_ONCE);
    free(r);
}

static uint64_t loop_now_ms(cs_loop *l)
{
    return uv_now(&real(l)->uv);
}

static void free_data(uv_handle_t *h)
{
    free(h->data);
}

/* ---- timers, bells, work ---- */

static void on_timer(uv_timer_t *h)
{
    struct real_timer *t = h->data;

    t->cb(t->arg);
}

static int timer_new(cs_loop *l, void (*cb)(void *arg), void *arg, cs_timer **out)
{
    struct real_timer *t = calloc(1, sizeof *t);

    *out = NULL;
    if (t == NULL)
        return CS_ENOMEM;
    *t = (struct real_timer){ .base.ops = &real_ops, .cb = cb, .arg = arg };
    uv_timer_init(&real(l)->uv, &t->uv);
    t->uv.data = t;
    *out = &t->base;
    return CS_OK;
}

static void timer_start(cs_timer *t, uint64_t ms)
{
    struct real_timer *r = (struct real_timer *)t;

    uv_update_time(r->uv.loop);
    uv_timer_start(&r->uv, on_timer, ms, 0);
}

static void timer_stop(cs_timer *t)
{
    uv_timer_stop(&((struct real_timer *)t)->uv);
}

static void timer_close(cs_timer *t)
{
    uv_close((uv_handle_t *)&((struct real_timer *)t)->uv, free_data);
}

static void on_wake(uv_async_t *h)
{
    struct real_wake *w = h->data;

    if (w->cb != NULL)
        w->cb(w->arg);
}

static int wake_new(cs_loop *l, void (*cb)(void *arg), void *arg, cs_wake **out)
{
    struct real_wake *w = calloc(1, sizeof *w);

    *out = NULL;
    if (w == NULL)
        return CS_ENOMEM;
    *w = (struct real_wake){ .base.ops = &real_ops, .cb = cb, .arg = arg };
    if (uv_async_init(&real(l)->uv, &w->uv, on_wake) != 0) {
        free(w);
        return CS_EIO;
    }
    w->uv.data = w;
    *out = &w->base;
    return CS_OK;
}

static void wake_send(cs_wake *w)
{
    uv_async_send(&((struct real_wake *)w)->uv);
}

static void wake_close(cs_wake *w)
{
    ((struct real_wake *)w)->cb = NULL;
    uv_close((uv_handle_t *)&((struct real_wake *)w)->uv, free_data);
}

static void on_work(uv_work_t *h)
{
    struct real_work *w = h->data;

    w->fn(w->arg);
}

static void on_work_done(uv_work_t *h, int status)
{
    struct real_work *w = h->data;

    (void)status; /* never cancelled */
    w->done(w->arg);
    free(w);
}

static int loop_work(cs_loop *l, void (*fn)(void *arg), void (*done)(void *arg), void *arg)
{
    struct real_work *w = calloc(1, sizeof *w);

    if (w == NULL)
        return CS_ENOMEM;
    *w = (struct real_work){ .fn = fn, .done = done, .arg = arg };
    w->uv.data = w;
    if (uv_queue_work(&real(l)->uv, &w->uv, on_work, on_work_done) != 0) {
        free(w);
        return CS_EIO;
    }
    return CS_OK;
}

/* ---- streams ---- */

static void release(struct real_stream *s)
{
    if (!s->closed || s->requests > 0)
        return;
    if (s->addresses != NULL)
        uv_freeaddrinfo(s->addresses);
    free(s);
}

static void on_stream_closed(uv_handle_t *h)
{
    struct real_stream *s = h->data;

    s->closed = true;
    release(s);
}

static struct real_stream *stream_new(struct real_loop *l)
{
    struct real_stream *s = calloc(1, sizeof *s);

    if (s == NULL)
        return NULL;
    s->base.ops = &real_ops;
    if (uv_tcp_init(&l->uv, &s->uv) != 0) {
        free(s);
        return NULL;
    }
    s->uv.data = s;
    s->uv_open = true;
    return s;
}

static void remember_peer(struct real_stream *s)
{
    struct sockaddr_storage addr;
    int len = sizeof addr;
    char text[64];

    snprintf(s->peer, sizeof s->peer, "unknown");
    if (uv_tcp_getpeername(&s->uv, (struct sockaddr *)&addr, &len) != 0)
        return;
    if (addr.ss_family == AF_INET) {
        const struct sockaddr_in *a = (const struct sockaddr_in *)&addr;

        uv_ip4_name(a, text, sizeof text);
        snprintf(s->peer, sizeof s->peer, "%s:%u", text, ntohs(a->sin_port));
    } else if (addr.ss_family == AF_INET6) {
        const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)&addr;

        uv_ip6_name(a, text, sizeof text);
        snprintf(s->peer, sizeof s->peer, "[%s]:%u", text, ntohs(a->sin6_port));
    }
}

static void tell_connected(struct real_stream *s, int status)
{
    struct cs_error err;

    if (s->cb == NULL)
        return;
    if (status == 0) {
        s->connected = true;
        s->cb->connected(s->arg, NULL);
        return;
    }
    s->ended = true;
    cs_fail(&err, code_of(status), "connect to %s: %s", s->target, uv_strerror(status));
    s->cb->connected(s->arg, &err);
}

static void tell_ended(struct real_stream *s, int status)
{
    struct cs_error err;

    if (s->ended || s->cb == NULL)
        return;
    s->ended = true;
    uv_read_stop((uv_stream_t *)&s->uv);
    if (status == UV_EOF) {
        s->cb->ended(s->arg, NULL);
        return;
    }
    cs_fail(&err, code_of(status), "connection to %s broke: %s", s->target[0] != '\0' ? s->target : s->peer,
            uv_strerror(status));
    s->cb->ended(s->arg, &err);
}

static void try_next_address(struct real_stream *s);

static void on_reopened(uv_handle_t *h)
{
    struct real_stream *s = h->data;

    s->requests--;
    if (s->closing) {
        s->closed = true;
        release(s);
        return;
    }
    if (uv_tcp_init(h->loop, &s->uv) != 0) {
        s->uv_open = false;
        tell_connected(s, UV_ENOMEM);
        return;
    }
    s->uv.data = s;
    try_next_address(s);
}

static void on_connect(uv_connect_t *c, int status)
{
    struct real_stream *s = c->data;

    s->requests--;
    if (s->closing) {
        release(s);
        return;
    }
    if (status == 0) {
        uv_freeaddrinfo(s->addresses);
        s->addresses = s->next = NULL;
        uv_tcp_nodelay(&s->uv, 1);
        remember_peer(s);
        tell_connected(s, 0);
        return;
    }
    s->last_error = status;
    if (s->next == NULL) {
        tell_connected(s, status);
        return;
    }
    /* a handle whose connect failed cannot be used again: close it and begin anew with the next address */
    s->requests++;
    uv_close((uv_handle_t *)&s->uv, on_reopened);
}

static void try_next_address(struct real_stream *s)
{
    int status = s->last_error != 0 ? s->last_error : UV_EADDRNOTAVAIL;

    while (s->next != NULL) {
        struct addrinfo *a = s->next;

        s->next = a->ai_next;
        s->connect.data = s;
        if ((status = uv_tcp_connect(&s->connect, &s->uv, a->ai_addr, on_connect)) == 0) {
            s->requests++;
            return;
        }
    }
    tell_connected(s, status);
}

static void on_resolved(uv_getaddrinfo_t *g, int status, struct addrinfo *found)
{
    struct real_stream *s = g->data;

    s->requests--;
    s->addresses = s->next = found;
    if (s->closing) {
        release(s);
        return;
    }
    if (status != 0)
        tell_connected(s, status);
    else
        try_next_address(s);
}

static int stream_connect(cs_loop *l, const char *host, uint16_t port, const struct cs_stream_cb *cb, void *arg,
                          cs_stream **out, struct cs_error *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC };
    struct real_stream *s = stream_new(real(l));
    char service[8];
    int status;

    *out = NULL;
    if (s == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    s->cb = cb;
    s->arg = arg;
    s->resolve.data = s;
    snprintf(s->target, sizeof s->target, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
    snprintf(service, sizeof service, "%u", port);
    if ((status = uv_getaddrinfo(&real(l)->uv, &s->resolve, on_resolved, host, service, &hints)) != 0) {
        s->cb = NULL;
        s->closing = true;
        uv_close((uv_handle_t *)&s->uv, on_stream_closed);
        return cs_fail(err, CS_EUNAVAILABLE, "connect to %s: %s", s->target, uv_strerror(status));
    }
    s->requests++;
    *out = &s->base;
    return CS_OK;
}

static void on_refused(uv_handle_t *h)
{
    *(bool *)h->data = false;
}

/* Without memory for a stream the connection is still taken off the queue, and dropped: a listener whose connection is
 * not accepted never tells of another. */
static void refuse(uv_stream_t *server)
{
    static _Thread_local uv_tcp_t spare;
    static _Thread_local bool busy;

    if (busy || uv_tcp_init(server->loop, &spare) != 0)
        return;
    busy = true;
    spare.data = &busy;
    uv_accept(server, (uv_stream_t *)&spare);
    uv_close((uv_handle_t *)&spare, on_refused);
}

static void take_incoming(uv_stream_t *server)
{
    struct real_listener *n = server->data;
    struct real_stream *s;

    if ((s = stream_new((struct real_loop *)((char *)server->loop - offsetof(struct real_loop, uv)))) == NULL) {
        refuse(server);
        return;
    }
    if (uv_accept(server, (uv_stream_t *)&s->uv) != 0) {
        s->closing = true;
        uv_close((uv_handle_t *)&s->uv, on_stream_closed);
        return;
    }
    s->connected = true;
    uv_tcp_nodelay(&s->uv, 1);
    remember_peer(s);
    n->accepted(n->arg, &s->base);
}

static void on_next_turn(uv_idle_t *h)
{
    struct real_listener *n = h->data;

    n->taken = n->waiting;
    if (!n->waiting) {
        uv_idle_stop(h);
        return;
    }
    n->waiting = false;
    take_incoming((uv_stream_t *)&n->uv);
}

static void on_incoming(uv_stream_t *server, int status)
{
    struct real_listener *n = server->data;

    if (status != 0 || n->accepted == NULL)
        return;
    if (n->taken == 0)
        uv_idle_start(&n->next_turn, on_next_turn);
    if (n->taken == ACCEPTED) {
        n->waiting = true;
        return;
    }
    n->taken++;
    take_incoming(server);
}

static void on_listener_closed(uv_handle_t *h)
{
    uv_close((uv_handle_t *)&((struct real_listener *)h->data)->next_turn, free_data);
}

static struct real_listener *listener_new(cs_loop *l, void (*accepted)(void *arg, cs_stream *s), void *arg)
{
    struct real_listener *n = calloc(1, sizeof *n);

    if (n == NULL)
        return NULL;
    *n = (struct real_listener){ .base.ops = &real_ops, .accepted = accepted, .arg = arg };
    uv_tcp_init(&real(l)->uv, &n->uv);
    uv_idle_init(&real(l)->uv, &n->next_turn);
    n->uv.data = n->next_turn.data = n;
    return n;
}

static int stream_listen(cs_loop *l, const char *host, uint16_t port, void (*accepted)(void *arg, cs_stream *s),
                         void *arg, cs_listener **out, struct cs_error *err)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC, .ai_flags = AI_PASSIVE };
    struct real_listener *n;
    uv_getaddrinfo_t resolve;
    char service[8];
    int status;

    *out = NULL;
    snprintf(service, sizeof service, "%u", port);
    if ((status = uv_getaddrinfo(&real(l)->uv, &resolve, NULL, host, service, &hints)) != 0)
        return cs_fail(err, CS_EINVAL, "cannot listen on %s:%u: %s", host, port, uv_strerror(status));
    if ((n = listener_new(l, accepted, arg)) == NULL) {
        uv_freeaddrinfo(resolve.addrinfo);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    status = uv_tcp_bind(&n->uv, resolve.addrinfo->ai_addr, 0);
    if (status == 0)
        status = uv_listen((uv_stream_t *)&n->uv, 1024, on_incoming);
    uv_freeaddrinfo(resolve.addrinfo);
    if (status != 0) {
        uv_close((uv_handle_t *)&n->uv, on_listener_closed);
        return cs_fail(err, CS_EIO, "cannot listen on %s:%u: %s", host, port, uv_strerror(status));
    }
    *out = &n->base;
    return CS_OK;
}

static int stream_listen_on(cs_loop *l, int fd, void (*accepted)(void *arg, cs_stream *s), void *arg, cs_listener **out,
                            struct cs_error *err)
{
    struct real_listener *n = listener_new(l, accepted, arg);
    int status;

    *out = NULL;
    if (n == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((status = uv_tcp_open(&n->uv, fd)) == 0)
        status = uv_listen((uv_stream_t *)&n->uv, 1024, on_incoming);
    if (status != 0) {
        uv_close((uv_handle_t *)&n->uv, on_listener_closed);
        return cs_fail(err, CS_EIO, "cannot listen on the socket that was handed over: %s", uv_strerror(status));
    }
    *out = &n->base;
    return CS_OK;
}

static uint16_t listener_port(cs_listener *n)
{
    struct sockaddr_storage addr;
    int len = sizeof addr;

    if (uv_tcp_getsockname(&((struct real_listener *)n)->uv, (struct sockaddr *)&addr, &len) != 0)
        return 0;
    return ntohs(addr.ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)&addr)->sin6_port
                                            : ((const struct sockaddr_in *)&addr)->sin_port);
}

static void listener_close(cs_listener *n)
{
    ((struct real_listener *)n)->accepted = NULL;
    uv_idle_stop(&((struct real_listener *)n)->next_turn);
    uv_close((uv_handle_t *)&((struct real_listener *)n)->uv, on_listener_closed);
}

static void stream_accept(cs_stream *s, const struct cs_stream_cb *cb, void *arg)
{
    ((struct real_stream *)s)->cb = cb;
    ((struct real_stream *)s)->arg = arg;
}

/* One read buffer a thread: a loop's callbacks never nest, and bytes are valid during the callback only. */
static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    static _Thread_local char memory[64 * 1024];

    (void)h;
    (void)suggested;
    *buf = uv_buf_init(memory, sizeof memory);
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *buf)
{
    struct real_stream *s = h->data;

    if (n > 0 && s->cb != NULL)
        s->cb->data(s->arg, cs_slice(buf->base, (size_t)n));
    else if (n < 0)
        tell_ended(s, (int)n);
}

static void stream_read(cs_stream *st, bool on)
{
    struct real_stream *s = (struct real_stream *)st;

    if (s->closing || s->ended || !s->connected)
        return;
    if (on)
        uv_read_start((uv_stream_t *)&s->uv, on_alloc, on_read);
    else
        uv_read_stop((uv_stream_t *)&s->uv);
}

static void on_written(uv_write_t *h, int status)
{
    struct write_request *w = h->data;
    struct real_stream *s = w->stream;

    s->requests--;
    s->pending -= w->len;
    free(w);
    if (s->closing) {
        release(s);
        return;
    }
    if (status != 0)
        tell_ended(s, status);
    else if (s->pending == 0 && s->cb != NULL && s->cb->drained != NULL)
        s->cb->drained(s->arg);
}

/* What the kernel takes of the pieces at once, in bytes. */
static size_t write_now(struct real_stream *s, const struct cs_slice *pieces, size_t n)
{
    uv_buf_t bufs[PIECES];
    size_t done = 0, asked, taken, k;
    int r;

    if (s->pending > 0)
        return 0;
    for (; n > 0; pieces += k, n -= k) {
        for (k = asked = 0; k < n && k < PIECES; k++) {
            bufs[k] = uv_buf_init((char *)pieces[k].data, (unsigned)pieces[k].len);
            asked += pieces[k].len;
        }
        r = asked == 0 ? 0 : uv_try_write((uv_stream_t *)&s->uv, bufs, (unsigned)k);
        taken = r > 0 ? (size_t)r : 0;
        done += taken;
        if (taken < asked)
            break;
    }
    return done;
}

/* The pieces without the first `skip` bytes. */
static void join(uint8_t *out, const struct cs_slice *pieces, size_t n, size_t skip)
{
    for (size_t i = 0; i < n; i++) {
        size_t from = skip < pieces[i].len ? skip : pieces[i].len;

        skip -= from;
        if (pieces[i].len > from)
            memcpy(out, pieces[i].data + from, pieces[i].len - from);
        out += pieces[i].len - from;
    }
}

static int stream_write(cs_stream *st, const struct cs_slice *pieces, size_t n)
{
    struct real_stream *s = (struct real_stream *)st;
    struct write_request *w;
    size_t done, len = 0;
    uv_buf_t buf;

    if (s->closing || s->ended || !s->connected)
        return CS_OK;
    for (size_t i = 0; i < n; i++)
        len += pieces[i].len;
    done = write_now(s, pieces, n);
    if (done == len)
        return CS_OK;
    if ((w = malloc(sizeof *w + len - done)) == NULL)
        return CS_ENOMEM;
    join(w->bytes, pieces, n, done);
    w->len = len - done;
    w->stream = s;
    w->uv.data = w;
    buf = uv_buf_init((char *)w->bytes, (unsigned)w->len);
    if (uv_write(&w->uv, (uv_stream_t *)&s->uv, &buf, 1, on_written) != 0) {
        free(w); /* the break itself comes by the read side */
        return CS_OK;
    }
    s->requests++;
    s->pending += w->len;
    return CS_OK;
}

static size_t stream_pending(const cs_stream *s)
{
    return ((const struct real_stream *)s)->pending;
}

static const char *stream_peer(const cs_stream *s)
{
    return ((const struct real_stream *)s)->peer;
}

/* After the last byte is out the handle goes. */
static void on_shutdown(uv_shutdown_t *h, int status)
{
    struct real_stream *s = h->data;

    (void)status;
    free(h);
    s->requests--;
    if (!uv_is_closing((uv_handle_t *)&s->uv))
        uv_close((uv_handle_t *)&s->uv, on_stream_closed);
}

static void cut_stream(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (h->type == UV_TCP && !uv_is_closing(h))
        uv_close(h, on_stream_closed);
}

static void stream_close(cs_stream *st)
{
    struct real_stream *s = (struct real_stream *)st;
    uv_shutdown_t *shutdown;

    if (s->closing)
        return;
    s->closing = true;
    s->cb = NULL;
    if (!s->uv_open) {
        s->closed = true;
        release(s);
        return;
    }
    if (uv_is_closing((uv_handle_t *)&s->uv))
        return; /* between two addresses: on_reopened releases it */
    uv_read_stop((uv_stream_t *)&s->uv);
    if (s->pending > 0 && !s->ended && (shutdown = malloc(sizeof *shutdown)) != NULL) {
        shutdown->data = s;
        if (uv_shutdown(shutdown, (uv_stream_t *)&s->uv, on_shutdown) == 0) {
            s->requests++;
            return;
        }
        free(shutdown);
    }
    uv_cancel((uv_req_t *)&s->resolve);
    uv_close((uv_handle_t *)&s->uv, on_stream_closed);
}

/* ---- watching and signals ---- */

static void on_watch(uv_fs_event_t *h, const char *name, int events, int status)
{
    struct real_watch *w = h->data;

    (void)events;
    if (w->cb != NULL)
        w->cb(w->arg, status == 0 ? name : NULL);
}

static int watch_new(cs_loop *l, const char *dir, void (*cb)(void *arg, const char *name), void *arg, cs_watch **out,
                     struct cs_error *err)
{
    struct real_watch *w = calloc(1, sizeof *w);
    int status;

    *out = NULL;
    if (w == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    *w = (struct real_watch){ .base.ops = &real_ops, .cb = cb, .arg = arg };
    uv_fs_event_init(&real(l)->uv, &w->uv);
    w->uv.data = w;
    if ((status = uv_fs_event_start(&w->uv, on_watch, dir, 0)) != 0) {
        uv_close((uv_handle_t *)&w->uv, free_data);
        return cs_fail(err, CS_EIO, "cannot watch \"%s\": %s", dir, uv_strerror(status));
    }
    *out = &w->base;
    return CS_OK;
}

static void watch_close(cs_watch *w)
{
    ((struct real_watch *)w)->cb = NULL;
    uv_close((uv_handle_t *)&((struct real_watch *)w)->uv, free_data);
}

static void on_signal(uv_signal_t *h, int signum)
{
    struct real_signal *s = h->data;

    (void)signum;
    s->cb(s->arg);
}

static int signal_new(cs_loop *l, int signum, void (*cb)(void *arg), void *arg, cs_signal **out)
{
    struct real_signal *s = calloc(1, sizeof *s);

    *out = NULL;
    if (s == NULL)
        return CS_ENOMEM;
    *s = (struct real_signal){ .base.ops = &real_ops, .cb = cb, .arg = arg };
    uv_signal_init(&real(l)->uv, &s->uv);
    s->uv.data = s;
    if (uv_signal_start(&s->uv, on_signal, signum) != 0) {
        uv_close((uv_handle_t *)&s->uv, free_data);
        return CS_EIO;
    }
    *out = &s->base;
    return CS_OK;
}

static void signal_close(cs_signal *s)
{
    uv_close((uv_handle_t *)&((struct real_signal *)s)->uv, free_data);
}

static const struct cs_loop_ops real_ops = {
    .run = loop_run,
    .stop = loop_stop,
    .free = loop_free,
    .now_ms = loop_now_ms,
    .timer_new = timer_new,
    .timer_start = timer_start,
    .timer_stop = timer_stop,
    .timer_close = timer_close,
    .wake_new = wake_new,
    .wake_send = wake_send,
    .wake_close = wake_close,
    .work = loop_work,
    .connect = stream_connect,
    .listen = stream_listen,
    .listen_on = stream_listen_on,
    .listener_port = listener_port,
    .listener_close = listener_close,
    .stream_accept = stream_accept,
    .stream_read = stream_read,
    .stream_write = stream_write,
    .stream_pending = stream_pending,
    .stream_peer = stream_peer,
    .stream_close = stream_close,
    .watch_new = watch_new,
    .watch_close = watch_close,
    .signal_new = signal_new,
    .signal_close = signal_close,
};
