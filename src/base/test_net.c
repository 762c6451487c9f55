/* The simulated network: connections between hosts, each direction a stream of segments that arrive in order.
 *
 *   write ─▶ unsent ─▶ segments in flight ─▶ arrived ─▶ data callback
 *            (pending)  └── at most a window of bytes ──┘ ◀── credit, a latency after the callback */
#include <stdlib.h>

#include "base/test_internal.h"

enum {
    SEGMENT_MAX = 16 * 1024,
    READ_MAX = 64 * 1024,
    WINDOW_MIN = 16 * 1024,
    WINDOW_MAX = 256 * 1024,
    CONNECT_TRIES = 7, /* after 1, 2, 4 … seconds, as Linux does */
    FIRST_PORT = 40001
};

enum cut { WHOLE, RESET, TIMED_OUT, REFUSED, UNKNOWN };

enum kind { DATA, FIN, RST };

struct segment {
    struct segment *next;
    uint64_t at_ns;
    enum kind kind;
    size_t len;
    uint8_t bytes[];
};

struct sim_listener {
    struct cs_listener base;
    struct cs_sim_object o;
    void (*accepted)(void *arg, cs_stream *s);
    void *arg;
    uint16_t port;
    bool local; /* this host only */
};

/* One end of a connection. It lives as long as the connection, for what it wrote goes on after it is closed. */
struct side {
    struct cs_stream base;
    struct cs_sim_object o; /* its event tells the owner what there is to tell */
    struct cs_sim_conn *conn;
    const struct cs_stream_cb *cb;
    void *arg;
    struct sim_listener *listener; /* whose owner has not been told yet */
    bool exists, connecting, connected, reading, ended, closed;
    enum cut broken; /* how, once it is */
    bool must_tell;  /* of the break, also to one who does not read: a write failed */

    struct cs_buf unsent;
    size_t unsent_from;
    struct segment *first, **last;
    uint64_t last_at;
    size_t outstanding, credited; /* bytes on their way or not read yet; read, which this side does not know yet */
    bool finished;                /* the last segment is on its way, or nothing can be */
    struct cs_sim_event arrive, credit, drained;

    struct cs_buf arrived;
    size_t arrived_from;
    bool eof;
    char peer[32], target[300];
};

struct cs_sim_conn {
    struct cs_sim_conn *next, **at;
    cs_sim *sim;
    const struct cs_sim_host *from, *to; /* to NULL: no such host */
    struct side side[2];                 /* the one that connects, the one that accepts */
    uint16_t port;
    size_t window;
    uint64_t id, latency_ns;
    unsigned tries, busy; /* busy: callbacks that run */
    struct cs_sim_event syn, give_up;
};

static struct side *side_of(cs_stream *s)
{
    return (struct side *)s;
}

static struct side *other(struct side *s)
{
    return &s->conn->side[s == &s->conn->side[0]];
}

static void lock(cs_sim *sim)
{
    pthread_mutex_lock(&sim->lock);
}

static void unlock(cs_sim *sim)
{
    pthread_mutex_unlock(&sim->lock);
}

static void *must_alloc(size_t n)
{
    void *p = calloc(1, n);

    if (p == NULL) {
        fprintf(stderr, "simulation: out of memory\n");
        abort();
    }
    return p;
}

static bool is_local_name(const char *name)
{
    return strcmp(name, "127.0.0.1") == 0 || strcmp(name, "localhost") == 0 || strcmp(name, "::1") == 0;
}

static const struct cs_sim_host *resolve(struct cs_sim_host *from, const char *name)
{
    const struct cs_sim_host *h = from->sim->hosts;

    if (is_local_name(name))
        return from;
    while (h != NULL && strcmp(h->name, name) != 0 && strcmp(h->address, name) != 0)
        h = h->next;
    return h;
}

static enum cs_sim_link link_from(const cs_sim *sim, const struct cs_sim_host *from, const struct cs_sim_host *to)
{
    for (const struct partition *p = sim->partitions; p != NULL; p = p->next)
        if (p->from == from && p->to == to)
            return p->how;
    return CS_SIM_UP;
}

/* Does what the one that connected sends come through; or (!forth) what comes back? */
static bool is_up(const struct cs_sim_conn *c, bool forth)
{
    return link_from(c->sim, forth ? c->from : c->to, forth ? c->to : c->from) == CS_SIM_UP;
}

/* The worse of both directions. */
static enum cs_sim_link link_between(const struct cs_sim_conn *c)
{
    enum cs_sim_link forth = link_from(c->sim, c->from, c->to), back = link_from(c->sim, c->to, c->from);

    return forth > back ? forth : back;
}

/* ---- a connection's life ---- */

static void conn_free(struct cs_sim_conn *c)
{
    cs_sim_unplan(c->sim, &c->syn);
    cs_sim_unplan(c->sim, &c->give_up);
    for (int i = 0; i < 2; i++) {
        struct side *s = &c->side[i];

        if (s->exists)
            cs_sim_object_drop(&s->o);
        cs_sim_unplan(c->sim, &s->arrive);
        cs_sim_unplan(c->sim, &s->credit);
        cs_sim_unplan(c->sim, &s->drained);
        while (s->first != NULL) {
            struct segment *g = s->first;

            s->first = g->next;
            free(g);
        }
        cs_buf_free(&s->unsent);
        cs_buf_free(&s->arrived);
    }
    *c->at = c->next;
    if (c->next != NULL)
        c->next->at = c->at;
    free(c);
}

void cs_sim_conns_free(cs_sim *sim)
{
    while (sim->conns != NULL)
        conn_free(sim->conns);
}

static bool is_done(const struct side *s)
{
    return !s->exists || (s->closed && s->finished && s->first == NULL);
}

/* Nobody has it any more, and nothing of it is on its way. */
static void release(struct cs_sim_conn *c)
{
    if (c->busy == 0 && c->syn.slot == 0 && is_done(&c->side[0]) && is_done(&c->side[1]))
        conn_free(c);
}

static void tell_soon(struct side *s)
{
    if (s->exists && !s->closed && !s->ended)
        cs_sim_plan(s->conn->sim, &s->o.event, s->conn->sim->now_ns);
}

static void drop_flight(struct side *s)
{
    cs_sim_unplan(s->conn->sim, &s->arrive);
    while (s->first != NULL) {
        struct segment *g = s->first;

        s->first = g->next;
        free(g);
    }
    s->last = &s->first;
}

static void drop_unsent(struct side *s)
{
    if (s->unsent.len > s->unsent_from)
        s->must_tell = true;
    cs_buf_reset(&s->unsent);
    s->unsent_from = 0;
}

static void break_side(struct side *s, enum cut how)
{
    if (!s->exists || s->broken != WHOLE)
        return;
    s->broken = how;
    s->finished = true;
    drop_unsent(s);
    drop_flight(s);
    tell_soon(s);
}

/* ---- sending ---- */

static uint64_t one_way(struct cs_sim_conn *c)
{
    return c->latency_ns + cs_sim_draw(c->sim, c->latency_ns / 4 + 1);
}

static bool strikes(cs_sim *sim, uint32_t rate, uint64_t *count)
{
    if (rate == 0 || cs_sim_draw(sim, UINT64_C(1) << 20) >= rate)
        return false;
    ++*count;
    return true;
}

static void send_segment(struct side *s, enum kind kind, struct cs_slice bytes)
{
    cs_sim *sim = s->conn->sim;
    struct segment *g = must_alloc(sizeof *g + bytes.len);
    uint64_t at = sim->now_ns + one_way(s->conn);

    g->kind = kind;
    g->len = bytes.len;
    if (bytes.len > 0)
        memcpy(g->bytes, bytes.data, bytes.len);
    if (kind == DATA && strikes(sim, sim->weather.lost, &sim->lost))
        at += 200 * CS_SIM_MS << cs_sim_draw(sim, 8);
    g->at_ns = s->last_at = at > s->last_at ? at : s->last_at;
    *s->last = g;
    s->last = &g->next;
    if (s->first == g)
        cs_sim_plan(sim, &s->arrive, g->at_ns);
}

static void finish(struct side *s, enum kind kind)
{
    if (s->finished)
        return;
    s->finished = true;
    send_segment(s, kind, CS_SLICE_NULL);
}

/* As much as the window takes, in pieces of any size; then the end, if the owner closed it. One who closes without
 * having read everything breaks the connection, as TCP has it. */
static void send_more(struct side *s)
{
    struct cs_sim_conn *c = s->conn;
    size_t left;

    while (!s->finished && (left = s->unsent.len - s->unsent_from) > 0 && s->outstanding < c->window) {
        size_t n = cs_sim_draw(c->sim, 8) == 0 ? 16 : SEGMENT_MAX;

        n = 1 + (size_t)cs_sim_draw(c->sim, n);
        n = n < left ? n : left;
        n = n < c->window - s->outstanding ? n : c->window - s->outstanding;
        send_segment(s, DATA, cs_slice(s->unsent.data + s->unsent_from, n));
        s->outstanding += n;
        s->unsent_from += n;
        if (strikes(c->sim, c->sim->weather.reset, &c->sim->reset)) {
            break_side(s, RESET);
            break_side(other(s), RESET);
        }
    }
    if (s->unsent_from == s->unsent.len) {
        cs_buf_reset(&s->unsent);
        s->unsent_from = 0;
        if (s->closed)
            finish(s, s->arrived.len > s->arrived_from ? RST : FIN);
    }
}

static void credit_event(void *arg)
{
    struct side *s = arg;
    bool waited = s->unsent.len > s->unsent_from;

    if (!is_up(s->conn, s != &s->conn->side[0]))
        return;
    s->outstanding -= s->credited;
    s->credited = 0;
    send_more(s);
    if (waited && s->unsent.len == 0 && !s->closed && !s->ended)
        cs_sim_plan(s->conn->sim, &s->drained, s->conn->sim->now_ns);
    release(s->conn);
}

static void drained_event(void *arg)
{
    struct side *s = arg;
    struct cs_sim_conn *c = s->conn;
    cs_sim *sim = c->sim;

    if (s->closed || s->ended || s->unsent.len > 0 || s->cb == NULL || s->cb->drained == NULL)
        return;
    c->busy++;
    unlock(sim);
    s->cb->drained(s->arg);
    lock(sim);
    c->busy--;
    release(c);
}

/* ---- arriving ---- */

static void arrive_at(struct side *s, const struct segment *g)
{
    struct side *from = other(s);

    if (g->kind == RST) {
        break_side(s, RESET);
    } else if (g->kind == FIN) {
        s->eof = true;
        tell_soon(s);
    } else if (s->closed || s->broken != WHOLE || s->o.loop == NULL || s->o.loop->dead) {
        drop_unsent(s); /* bytes for nobody: the sender learns it */
        s->finished = true;
        drop_flight(s);
        send_segment(s, RST, CS_SLICE_NULL);
        from->outstanding -= g->len;
    } else {
        cs_buf_put(&s->arrived, g->bytes, g->len);
        tell_soon(s);
    }
}

static void arrive_event(void *arg)
{
    struct side *s = arg;
    struct cs_sim_conn *c = s->conn;
    struct segment *g = s->first;

    if (!is_up(c, s == &c->side[0]))
        return;
    if ((s->first = g->next) == NULL)
        s->last = &s->first;
    cs_sim_trace_word(c->sim, c->id << 4 | (uint64_t)(s != &c->side[0]) << 3 | (uint64_t)g->kind);
    cs_sim_trace_word(c->sim, g->len);
    if (c->sim->trace_payload)
        cs_sim_trace_bytes(c->sim, cs_slice(g->bytes, g->len));
    if (s->first != NULL)
        cs_sim_plan(c->sim, &s->arrive, s->first->at_ns);
    arrive_at(other(s), g);
    free(g);
    release(c);
}

/* ---- telling the owner ---- */

static const char *why_of(enum cut how)
{
    switch (how) {
    case TIMED_OUT:
        return "connection timed out";
    case REFUSED:
        return "connection refused";
    case UNKNOWN:
        return "unknown node or service";
    case RESET:
    case WHOLE:
        break;
    }
    return "connection reset by peer";
}

static void tell_connected(struct side *s)
{
    const char *why = why_of(s->broken);
    struct cs_error err;

    s->connecting = false;
    if (s->broken == WHOLE) {
        s->connected = true;
        unlock(s->conn->sim);
        s->cb->connected(s->arg, NULL);
        lock(s->conn->sim);
        return;
    }
    s->ended = true;
    cs_fail(&err, s->broken == TIMED_OUT ? CS_ETIMEDOUT : CS_EUNAVAILABLE, "connect to %s: %s", s->target, why);
    unlock(s->conn->sim);
    s->cb->connected(s->arg, &err);
    lock(s->conn->sim);
}

static void tell_accepted(struct side *s)
{
    struct sim_listener *n = s->listener;

    s->listener = NULL;
    s->connected = true;
    unlock(s->conn->sim);
    n->accepted(n->arg, &s->base);
    lock(s->conn->sim);
}

static void tell_data(struct side *s)
{
    struct cs_sim_conn *c = s->conn;
    struct side *from = other(s);
    size_t n = s->arrived.len - s->arrived_from;
    uint8_t *bytes;

    n = n < READ_MAX ? n : READ_MAX;
    if (cs_sim_draw(c->sim, 4) == 0)
        n = 1 + (size_t)cs_sim_draw(c->sim, n);
    bytes = must_alloc(n);
    memcpy(bytes, s->arrived.data + s->arrived_from, n);
    s->arrived_from += n;
    if (s->arrived_from == s->arrived.len) {
        cs_buf_reset(&s->arrived);
        s->arrived_from = 0;
    }
    from->credited += n;
    if (from->credit.slot == 0)
        cs_sim_plan(c->sim, &from->credit, c->sim->now_ns + one_way(c));
    unlock(c->sim);
    s->cb->data(s->arg, cs_slice(bytes, n));
    lock(c->sim);
    free(bytes);
}

static void tell_ended(struct side *s)
{
    struct cs_error err;

    s->ended = true;
    s->reading = false;
    if (s->broken != WHOLE)
        cs_fail(&err, s->broken == TIMED_OUT ? CS_ETIMEDOUT : CS_EUNAVAILABLE, "connection to %s broke: %s",
                s->target[0] != '\0' ? s->target : s->peer, why_of(s->broken));
    unlock(s->conn->sim);
    s->cb->ended(s->arg, s->broken != WHOLE ? &err : NULL);
    lock(s->conn->sim);
}

/* One callback at a time; what is left has a turn of its own. */
static void tell_event(void *arg)
{
    struct side *s = arg;
    struct cs_sim_conn *c = s->conn;
    bool has_data = s->arrived.len > s->arrived_from;

    c->busy++;
    if (s->listener != NULL)
        tell_accepted(s);
    else if (s->connecting)
        tell_connected(s);
    else if (s->connected && !s->ended && !s->closed && s->cb != NULL) {
        if (s->reading && has_data)
            tell_data(s);
        else if ((s->reading && (s->eof || s->broken != WHOLE)) || (s->must_tell && s->broken != WHOLE))
            tell_ended(s);
    }
    c->busy--;
    if (s->reading && (s->arrived.len > s->arrived_from || s->eof || s->broken != WHOLE))
        tell_soon(s);
    release(c);
}

/* ---- connecting ---- */

static void side_init(struct cs_sim_conn *c, struct side *s, struct cs_sim_loop *l)
{
    s->base.ops = &cs_sim_loop_ops;
    s->conn = c;
    s->exists = true;
    cs_sim_object_init(l, &s->o, CS_SIM_STREAM, "stream", tell_event, s);
    s->arrive = (struct cs_sim_event){ .kind = "arrive", .fn = arrive_event, .arg = s };
    s->credit = (struct cs_sim_event){ .kind = "credit", .fn = credit_event, .arg = s };
    s->drained = (struct cs_sim_event){ .kind = "drained", .fn = drained_event, .arg = s, .loop = l };
}

static struct sim_listener *find_listener(const struct cs_sim_host *h, uint16_t port, bool local)
{
    for (struct cs_sim_loop *l = h->loops; l != NULL; l = l->next)
        for (struct cs_sim_object *o = l->objects; o != NULL; o = o->next) {
            struct sim_listener *n = (struct sim_listener *)(void *)((char *)o - offsetof(struct sim_listener, o));

            if (o->kind == CS_SIM_LISTENER && n->port == port && (local || !n->local))
                return n;
        }
    return NULL;
}

static void connect_failed(struct cs_sim_conn *c, enum cut how, uint64_t after_ns)
{
    struct side *s = &c->side[0];

    s->broken = how;
    s->finished = true;
    cs_sim_plan(c->sim, &s->o.event, c->sim->now_ns + after_ns);
}

static void connect_reached(struct cs_sim_conn *c, struct sim_listener *n)
{
    struct side *a = &c->side[0], *b = &c->side[1];

    side_init(c, b, n->o.loop);
    b->listener = n;
    b->last_at = c->sim->now_ns + one_way(c); /* nothing it sends comes before the answer */
    snprintf(b->peer, sizeof b->peer, "%s:%u", c->from == c->to ? "127.0.0.1" : c->from->address,
             (unsigned)(32768 + c->id % 28000));
    snprintf(a->peer, sizeof a->peer, "%s:%u", c->from == c->to ? "127.0.0.1" : c->to->address, (unsigned)c->port);
    cs_sim_plan(c->sim, &a->o.event, b->last_at);
    cs_sim_plan(c->sim, &b->o.event, c->sim->now_ns + cs_sim_draw(c->sim, CS_SIM_MS));
}

static void syn_event(void *arg)
{
    struct cs_sim_conn *c = arg;
    struct sim_listener *n;

    if (c->side[0].closed || c->side[0].o.loop->dead) {
        release(c);
    } else if (c->to == NULL) {
        connect_failed(c, UNKNOWN, 0);
    } else if (link_between(c) != CS_SIM_UP) {
        if (c->tries == CONNECT_TRIES)
            connect_failed(c, TIMED_OUT, 0);
        else
            cs_sim_plan(c->sim, &c->syn, c->sim->now_ns + (1000 * CS_SIM_MS << c->tries++));
    } else if ((n = find_listener(c->to, c->port, c->from == c->to)) == NULL) {
        connect_failed(c, REFUSED, one_way(c));
    } else {
        connect_reached(c, n);
    }
}

static void give_up_event(void *arg);

int cs_sim_connect(cs_loop *base, const char *host, uint16_t port, const struct cs_stream_cb *cb, void *arg,
                   cs_stream **out, struct cs_error *err)
{
    struct cs_sim_loop *l = (struct cs_sim_loop *)base;
    cs_sim *sim = l->host->sim;
    struct cs_sim_conn *c = calloc(1, sizeof *c);
    struct side *s;

    *out = NULL;
    if (c == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    lock(sim);
    s = &c->side[0];
    c->sim = sim;
    c->id = ++sim->next_id;
    c->from = l->host;
    c->to = resolve(l->host, host);
    c->port = port;
    c->window = (size_t)cs_sim_draw_between(sim, WINDOW_MIN, WINDOW_MAX);
    c->latency_ns = c->from == c->to ? cs_sim_draw_between(sim, 5000, 50000)
                                     : cs_sim_draw_between(sim, sim->latency_min_ns, sim->latency_max_ns);
    c->syn = (struct cs_sim_event){ .kind = "connect", .fn = syn_event, .arg = c };
    c->give_up = (struct cs_sim_event){ .kind = "break", .fn = give_up_event, .arg = c };
    if ((c->next = sim->conns) != NULL)
        c->next->at = &c->next;
    c->at = &sim->conns;
    sim->conns = c;
    c->side[0].last = &c->side[0].first;
    c->side[1].last = &c->side[1].first;
    side_init(c, s, l);
    s->cb = cb;
    s->arg = arg;
    s->connecting = true;
    snprintf(s->target, sizeof s->target, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
    cs_sim_plan(sim, &c->syn, sim->now_ns + one_way(c));
    unlock(sim);
    *out = &s->base;
    return CS_OK;
}

/* ---- listening ---- */

int cs_sim_listen(cs_loop *base, const char *host, uint16_t port, void (*accepted)(void *arg, cs_stream *s), void *arg,
                  cs_listener **out, struct cs_error *err)
{
    struct cs_sim_loop *l = (struct cs_sim_loop *)base;
    cs_sim *sim = l->host->sim;
    bool any = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
    const struct cs_sim_host *own = any ? l->host : resolve(l->host, host);
    struct sim_listener *n;

    *out = NULL;
    if (own == NULL)
        return cs_fail(err, CS_EINVAL, "cannot listen on %s:%u: unknown node or service", host, port);
    if (own != l->host)
        return cs_fail(err, CS_EIO, "cannot listen on %s:%u: address not available", host, port);
    if ((n = calloc(1, sizeof *n)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    lock(sim);
    if (port != 0 && find_listener(l->host, port, true) != NULL) {
        unlock(sim);
        free(n);
        return cs_fail(err, CS_EIO, "cannot listen on %s:%u: address already in use", host, port);
    }
    while (port == 0) {
        l->host->next_port = l->host->next_port < FIRST_PORT ? FIRST_PORT : (uint16_t)(l->host->next_port + 1);
        if (l->host->next_port != 0 && find_listener(l->host, l->host->next_port, true) == NULL)
            port = l->host->next_port;
    }
    *n = (struct sim_listener){ .base.ops = &cs_sim_loop_ops, .accepted = accepted, .arg = arg, .port = port };
    n->local = is_local_name(host);
    cs_sim_object_init(l, &n->o, CS_SIM_LISTENER, "listener", NULL, n);
    unlock(sim);
    *out = &n->base;
    return CS_OK;
}

uint16_t cs_sim_listener_port(cs_listener *n)
{
    return ((struct sim_listener *)n)->port;
}

/* Connections that its owner was not told of are reset. */
void cs_sim_listener_discard(struct cs_sim_object *o)
{
    struct sim_listener *n = (struct sim_listener *)(void *)((char *)o - offsetof(struct sim_listener, o));
    struct cs_sim_conn *c, *next;

    for (c = o->loop->host->sim->conns; c != NULL; c = next) {
        next = c->next;
        if (c->side[1].listener == n)
            cs_sim_stream_cut(&c->side[1].o);
    }
    cs_sim_object_drop(o);
    free(n);
}

void cs_sim_listener_close(cs_listener *n)
{
    cs_sim *sim = ((struct sim_listener *)n)->o.loop->host->sim;

    lock(sim);
    cs_sim_listener_discard(&((struct sim_listener *)n)->o);
    unlock(sim);
}

/* ---- streams ---- */

void cs_sim_stream_accept(cs_stream *s, const struct cs_stream_cb *cb, void *arg)
{
    side_of(s)->cb = cb;
    side_of(s)->arg = arg;
}

void cs_sim_stream_read(cs_stream *base, bool on)
{
    struct side *s = side_of(base);
    cs_sim *sim = s->conn->sim;

    lock(sim);
    if (!s->closed && !s->ended && s->connected) {
        s->reading = on;
        if (on && (s->arrived.len > s->arrived_from || s->eof || s->broken != WHOLE))
            tell_soon(s);
    }
    unlock(sim);
}

int cs_sim_stream_write(cs_stream *base, const struct cs_slice *pieces, size_t n)
{
    struct side *s = side_of(base);
    cs_sim *sim = s->conn->sim;
    size_t len = 0;
    bool failed;

    for (size_t i = 0; i < n; i++)
        len += pieces[i].len;
    if (s->closed || s->ended || !s->connected || len == 0)
        return CS_OK;
    lock(sim);
    if (s->finished) {
        s->must_tell = true;
        tell_soon(s);
        unlock(sim);
        return CS_OK;
    }
    failed = !cs_buf_reserve(&s->unsent, len);
    s->unsent.failed = false;
    if (!failed) {
        for (size_t i = 0; i < n; i++)
            cs_buf_put_slice(&s->unsent, pieces[i]);
        send_more(s);
    }
    unlock(sim);
    return failed ? CS_ENOMEM : CS_OK;
}

size_t cs_sim_stream_pending(const cs_stream *base)
{
    const struct side *s = (const struct side *)base;

    return s->unsent.len - s->unsent_from;
}

const char *cs_sim_stream_peer(const cs_stream *s)
{
    return ((const struct side *)s)->peer;
}

static void close_side(struct side *s)
{
    cs_sim *sim = s->conn->sim;

    s->closed = true;
    s->reading = false;
    s->cb = NULL;
    cs_sim_unplan(sim, &s->o.event);
    cs_sim_unplan(sim, &s->drained);
    if (s->connecting) {
        /* an answer that is on its way finds nobody */
        cs_sim_unplan(sim, &s->conn->syn);
        s->connecting = false;
        if (!other(s)->exists)
            s->finished = true;
    }
    send_more(s);
}

void cs_sim_stream_close(cs_stream *base)
{
    struct side *s = side_of(base);
    cs_sim *sim = s->conn->sim;

    lock(sim);
    close_side(s);
    release(s->conn);
    unlock(sim);
}

void cs_sim_stream_kill(struct cs_sim_object *o)
{
    struct side *s = (struct side *)(void *)((char *)o - offsetof(struct side, o));

    cs_sim_unplan(s->conn->sim, &s->drained);
    if (s->connecting)
        cs_sim_unplan(s->conn->sim, &s->conn->syn);
    s->listener = NULL;
    drop_unsent(s);
    if (other(s)->exists)
        finish(s, RST);
    s->finished = true;
}

void cs_sim_stream_cut(struct cs_sim_object *o)
{
    struct side *s = (struct side *)(void *)((char *)o - offsetof(struct side, o));

    s->listener = NULL;
    if (!s->closed)
        close_side(s);
    drop_unsent(s);
    if (other(s)->exists)
        finish(s, RST);
    s->finished = true;
    cs_sim_object_drop(o);
    o->loop = o->event.loop = s->drained.loop = NULL;
    release(s->conn);
}

/* ---- partitions ---- */

static void plan_give_up(struct cs_sim_conn *c)
{
    uint64_t ms = link_between(c) == CS_SIM_BROKEN ? cs_sim_draw_between(c->sim, 10, 5000)
                                                   : cs_sim_draw_between(c->sim, 60000, 900000);

    cs_sim_plan(c->sim, &c->give_up, c->sim->now_ns + ms * CS_SIM_MS);
}

/* A side that waits for nothing does not notice. */
static void give_up_event(void *arg)
{
    struct cs_sim_conn *c = arg;
    enum cs_sim_link link = link_between(c);

    if (link == CS_SIM_UP)
        return;
    for (int i = 0; i < 2; i++) {
        struct side *s = &c->side[i];

        if (s->exists && !s->connecting && (link == CS_SIM_BROKEN || s->first != NULL || s->outstanding > 0))
            break_side(s, link == CS_SIM_BROKEN ? RESET : TIMED_OUT);
    }
    plan_give_up(c);
    release(c);
}

static void relink(struct cs_sim_conn *c)
{
    uint64_t now = c->sim->now_ns;

    if (link_between(c) == CS_SIM_UP)
        cs_sim_unplan(c->sim, &c->give_up);
    else
        plan_give_up(c);
    for (int i = 0; i < 2; i++) {
        struct side *s = &c->side[i];

        if (is_up(c, i == 0) && s->first != NULL && s->arrive.slot == 0)
            cs_sim_plan(c->sim, &s->arrive, now + one_way(c));
        if (is_up(c, i != 0) && s->credited > 0 && s->credit.slot == 0)
            cs_sim_plan(c->sim, &s->credit, now + one_way(c));
    }
}

static void set_link(cs_sim *sim, const struct cs_sim_host *from, const struct cs_sim_host *to, enum cs_sim_link how)
{
    struct partition *p = sim->partitions;

    while (p != NULL && (p->from != from || p->to != to))
        p = p->next;
    if (p == NULL) {
        p = must_alloc(sizeof *p);
        *p = (struct partition){ .next = sim->partitions, .from = from, .to = to };
        sim->partitions = p;
    }
    p->how = how;
}

static void relink_all(cs_sim *sim, const struct cs_sim_host *a, const struct cs_sim_host *b)
{
    for (struct cs_sim_conn *c = sim->conns; c != NULL; c = c->next)
        if ((c->from == a && c->to == b) || (c->from == b && c->to == a))
            relink(c);
}

void cs_sim_partition_one_way(cs_sim *sim, struct cs_world *from, struct cs_world *to, enum cs_sim_link how)
{
    const struct cs_sim_host *a = cs_sim_host_of(from), *b = cs_sim_host_of(to);

    lock(sim);
    set_link(sim, a, b, how);
    relink_all(sim, a, b);
    unlock(sim);
}

void cs_sim_partition(cs_sim *sim, struct cs_world *a, struct cs_world *b, enum cs_sim_link how)
{
    const struct cs_sim_host *ha = cs_sim_host_of(a), *hb = cs_sim_host_of(b);

    lock(sim);
    set_link(sim, ha, hb, how);
    set_link(sim, hb, ha, how);
    relink_all(sim, ha, hb);
    unlock(sim);
}

void cs_sim_set_weather(cs_sim *sim, struct cs_sim_weather w)
{
    lock(sim);
    sim->weather = w;
    unlock(sim);
}

void cs_sim_weather_counts(cs_sim *sim, uint64_t *lost, uint64_t *reset)
{
    lock(sim);
    *lost = sim->lost;
    *reset = sim->reset;
    unlock(sim);
}
