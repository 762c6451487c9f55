/* What a loop promises, of the real loop and of the simulated one. */
#include <pthread.h>

#include "unit/base/both_worlds.h"

enum { MIB = 1 << 20, FULL = 64 * 1024 };

/* ---- timers ---- */

struct tick {
    struct bench *b;
    char *order; /* every timer appends its name */
    char name;
    bool last, again;
    cs_timer *timer, *stops, *closes;
    int count;
};

static void on_tick(void *arg)
{
    struct tick *t = arg;
    char name[2] = { t->name, '\0' };

    t->count++;
    if (t->order != NULL)
        strcat(t->order, name);
    if (t->stops != NULL)
        cs_timer_stop(t->stops);
    if (t->closes != NULL) {
        cs_timer_close(t->closes);
        cs_timer_close(t->timer);
    }
    if (t->again && t->count < 3)
        cs_timer_start(t->timer, 1);
    else if (t->last)
        cs_loop_stop(t->b->loop);
}

static void tick_init(struct tick *t, struct bench *b, char *order, char name)
{
    *t = (struct tick){ .b = b, .order = order, .name = name };
    assert_int_equal(cs_timer_new(b->loop, on_tick, t, &t->timer), CS_OK);
}

static void timers_come_in_order(void **state)
{
    struct bench b;
    struct tick t[4];
    char order[16] = "";

    bench_open(&b, state);
    for (int i = 0; i < 4; i++)
        tick_init(&t[i], &b, order, (char)('a' + i));
    t[0].last = true;
    cs_timer_start(t[0].timer, 60);
    cs_timer_start(t[1].timer, 20);
    cs_timer_start(t[2].timer, 40);
    cs_timer_start(t[3].timer, 0);
    assert_string_equal(order, ""); /* not from inside the start */
    cs_loop_run(b.loop);
    assert_string_equal(order, "dbca");
    for (int i = 0; i < 4; i++)
        cs_timer_close(t[i].timer);
    bench_close(&b);
}

static void a_start_replaces_the_earlier_one(void **state)
{
    struct bench b;
    struct tick early, late;
    char order[16] = "";

    bench_open(&b, state);
    tick_init(&early, &b, order, 'e');
    tick_init(&late, &b, order, 'l');
    late.last = true;
    cs_timer_start(early.timer, 3600000);
    cs_timer_start(early.timer, 1);
    cs_timer_start(late.timer, 1);
    cs_timer_start(late.timer, 50);
    cs_loop_run(b.loop);
    assert_string_equal(order, "el");
    cs_timer_close(early.timer);
    cs_timer_close(late.timer);
    bench_close(&b);
}

static void a_stopped_timer_is_silent_and_starts_again(void **state)
{
    struct bench b;
    struct tick stopper, stopped, end;
    char order[16] = "";

    bench_open(&b, state);
    tick_init(&stopper, &b, order, '1');
    tick_init(&stopped, &b, order, '2');
    tick_init(&end, &b, order, '3');
    stopper.stops = stopped.timer;
    end.last = stopped.last = true;
    cs_timer_start(stopper.timer, 1);
    cs_timer_start(stopped.timer, 50);
    cs_timer_start(end.timer, 100);
    cs_loop_run(b.loop);
    assert_string_equal(order, "13");
    cs_timer_start(stopped.timer, 1);
    cs_loop_run(b.loop);
    assert_string_equal(order, "132");
    cs_timer_close(stopper.timer);
    cs_timer_close(stopped.timer);
    cs_timer_close(end.timer);
    bench_close(&b);
}

static void a_timer_is_started_in_its_callback(void **state)
{
    struct bench b;
    struct tick again;
    char order[16] = "";

    bench_open(&b, state);
    tick_init(&again, &b, order, 'a');
    again.again = again.last = true;
    cs_timer_start(again.timer, 0);
    cs_loop_run(b.loop);
    assert_string_equal(order, "aaa");
    cs_timer_close(again.timer);
    bench_close(&b);
}

static void timers_are_closed_in_callbacks(void **state)
{
    struct bench b;
    struct tick closer, closed, end;
    char order[16] = "";

    bench_open(&b, state);
    tick_init(&closer, &b, order, 'c');
    tick_init(&closed, &b, order, 'x');
    tick_init(&end, &b, order, 'e');
    end.last = true;
    closer.closes = closed.timer;
    cs_timer_start(closer.timer, 10);
    cs_timer_start(closed.timer, 20);
    cs_timer_start(end.timer, 30);
    cs_loop_run(b.loop);
    assert_string_equal(order, "ce");
    cs_timer_close(end.timer);
    bench_close(&b);
}

static void the_loops_clock_goes_on_with_the_timers(void **state)
{
    struct bench b;
    struct tick t;
    uint64_t before, mono;
    int64_t wall;

    bench_open(&b, state);
    tick_init(&t, &b, NULL, 't');
    t.last = true;
    before = cs_loop_now_ms(b.loop);
    mono = cs_monotonic_ns(b.world);
    wall = cs_now_ms(b.world);
    assert_true(wall > 1700000000000);
    cs_timer_start(t.timer, 25);
    cs_loop_run(b.loop);
    assert_true(cs_loop_now_ms(b.loop) >= before + 25);
    assert_true(cs_monotonic_ns(b.world) > mono);
    cs_timer_close(t.timer);
    bench_close(&b);
}

/* ---- bells and stops ---- */

struct bell {
    struct bench *b;
    cs_wake *wake;
    int sent, seen, calls; /* seen: what was sent at the newest call */
    int want;
};

static void on_bell(void *arg)
{
    struct bell *bell = arg;

    bell->calls++;
    bell->seen = __atomic_load_n(&bell->sent, __ATOMIC_ACQUIRE);
    if (bell->seen == bell->want)
        cs_loop_stop(bell->b->loop);
}

static void bells_merge(void **state)
{
    struct bench b;
    struct bell bell = { .b = &b, .want = 5 };

    bench_open(&b, state);
    assert_int_equal(cs_wake_new(b.loop, on_bell, &bell, &bell.wake), CS_OK);
    for (int i = 0; i < 5; i++) {
        bell.sent++;
        cs_wake_send(bell.wake);
    }
    assert_int_equal(bell.calls, 0);
    cs_loop_run(b.loop);
    assert_true(bell.calls >= 1 && bell.calls <= 5);
    assert_int_equal(bell.seen, 5);
    cs_wake_close(bell.wake);
    bench_close(&b);
}

static void *ring(void *arg)
{
    struct bell *bell = arg;

    for (int i = 0; i < bell->want; i++) {
        __atomic_add_fetch(&bell->sent, 1, __ATOMIC_RELEASE);
        cs_wake_send(bell->wake);
    }
    return NULL;
}

static void a_bell_rings_from_another_thread(void **state)
{
    struct bench b;
    struct bell bell = { .b = &b, .want = 1000 };
    pthread_t thread;

    bench_open(&b, state);
    cs_timer_stop(b.guard); /* a simulation with nothing else to do would go straight to it */
    assert_int_equal(cs_wake_new(b.loop, on_bell, &bell, &bell.wake), CS_OK);
    assert_int_equal(pthread_create(&thread, NULL, ring, &bell), 0);
    cs_loop_run(b.loop);
    pthread_join(thread, NULL);
    assert_int_equal(bell.seen, 1000);
    assert_true(bell.calls >= 1 && bell.calls <= 1000);
    cs_wake_close(bell.wake);
    bench_close(&b);
}

static void *stop(void *arg)
{
    cs_loop_stop(arg);
    return NULL;
}

static void a_loop_is_stopped_from_another_thread_and_runs_again(void **state)
{
    struct bench b;
    struct bell bell = { .b = &b, .want = 1 };
    pthread_t thread;

    bench_open(&b, state);
    cs_timer_stop(b.guard);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&thread, NULL, stop, b.loop), 0);
        cs_loop_run(b.loop);
        pthread_join(thread, NULL);
    }
    cs_loop_stop(b.loop); /* before it runs: it returns soon */
    cs_loop_run(b.loop);
    assert_int_equal(cs_wake_new(b.loop, on_bell, &bell, &bell.wake), CS_OK);
    bell.sent = 1;
    cs_wake_send(bell.wake);
    cs_loop_run(b.loop);
    assert_int_equal(bell.calls, 1);
    cs_wake_close(bell.wake);
    bench_close(&b);
}

/* ---- work ---- */

struct chore {
    struct bench *b;
    int *left;
    pthread_t loop_thread;
    bool ran, done;
};

static void chore_run(void *arg)
{
    ((struct chore *)arg)->ran = true;
}

static void chore_done(void *arg)
{
    struct chore *c = arg;

    assert_true(c->ran);
    assert_true(pthread_equal(pthread_self(), c->loop_thread));
    c->done = true;
    if (--*c->left == 0)
        cs_loop_stop(c->b->loop);
}

static void work_is_done_on_the_loop(void **state)
{
    enum { N = 20 };
    struct bench b;
    struct chore c[N];
    int left = N;

    bench_open(&b, state);
    for (int i = 0; i < N; i++) {
        c[i] = (struct chore){ .b = &b, .left = &left, .loop_thread = pthread_self() };
        assert_int_equal(cs_loop_work(b.loop, chore_run, chore_done, &c[i]), CS_OK);
        assert_false(c[i].done);
    }
    cs_loop_run(b.loop);
    for (int i = 0; i < N; i++)
        assert_true(c[i].done);
    bench_close(&b);
}

static void freeing_a_loop_waits_for_its_work(void **state)
{
    struct bench b;
    struct chore c;
    int left = 2;

    bench_open(&b, state);
    c = (struct chore){ .b = &b, .left = &left, .loop_thread = pthread_self() };
    assert_int_equal(cs_loop_work(b.loop, chore_run, chore_done, &c), CS_OK);
    bench_close(&b);
    assert_true(c.done);
}

/* ---- streams ---- */

/* One end of a connection, which writes `to_send` bytes of a pattern and keeps count of what it gets. */
struct end {
    struct bench *b;
    cs_stream *s;
    size_t to_send, sent, got;
    uint64_t sum;
    size_t most_pending;
    bool echo, close_at_end, close_when_sent, stop_at_end, paused, keep_paused;
    size_t stop_at; /* bytes received */
    int connected, ended, drained;
    bool failed;
    int code; /* of the error of connected or ended */
    char why[512];
};

static uint8_t pattern(size_t at)
{
    return (uint8_t)(at * 131 + (at >> 8) * 7);
}

static uint64_t fold(uint64_t sum, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum = sum * 31 + p[i];
    return sum;
}

static uint64_t pattern_sum(size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        uint8_t byte = pattern(i);

        sum = fold(sum, &byte, 1);
    }
    return sum;
}

static void end_write(struct end *e, struct cs_slice bytes)
{
    assert_int_equal(cs_stream_write(e->s, bytes), CS_OK);
    if (cs_stream_pending(e->s) > e->most_pending)
        e->most_pending = cs_stream_pending(e->s);
}

static void end_close(struct end *e)
{
    cs_stream *s = e->s;

    e->s = NULL;
    cs_stream_close(s);
}

static void end_fill(struct end *e)
{
    uint8_t piece[5000];

    while (e->s != NULL && e->sent < e->to_send && cs_stream_pending(e->s) < FULL) {
        size_t n = e->to_send - e->sent < sizeof piece ? e->to_send - e->sent : sizeof piece;

        for (size_t i = 0; i < n; i++)
            piece[i] = pattern(e->sent + i);
        e->sent += n;
        end_write(e, cs_slice(piece, n));
    }
    if (e->s != NULL && e->close_when_sent && e->sent == e->to_send)
        end_close(e);
}

static void note_error(struct end *e, const struct cs_error *err)
{
    e->failed = err != NULL;
    e->code = err == NULL ? CS_OK : err->code;
    snprintf(e->why, sizeof e->why, "%s", err == NULL ? "" : err->msg);
}

static void end_begin(struct end *e)
{
    assert_non_null(strchr(cs_stream_peer(e->s), ':'));
    if (!e->keep_paused)
        cs_stream_read(e->s, true);
    end_fill(e);
}

static void on_connected(void *arg, const struct cs_error *err)
{
    struct end *e = arg;

    e->connected++;
    note_error(e, err);
    if (err == NULL)
        end_begin(e);
    else
        cs_loop_stop(e->b->loop);
}

static void on_data(void *arg, struct cs_slice bytes)
{
    struct end *e = arg;

    assert_true(bytes.len > 0);
    assert_int_equal(e->ended, 0);
    assert_false(e->paused);
    e->sum = fold(e->sum, bytes.data, bytes.len);
    e->got += bytes.len;
    if (e->echo) {
        end_write(e, bytes);
        e->paused = cs_stream_pending(e->s) >= FULL;
        cs_stream_read(e->s, !e->paused);
    }
    if (e->stop_at != 0 && e->got >= e->stop_at)
        cs_loop_stop(e->b->loop);
}

static void on_ended(void *arg, const struct cs_error *err)
{
    struct end *e = arg;

    e->ended++;
    note_error(e, err);
    if (e->close_at_end)
        end_close(e);
    if (e->stop_at_end)
        cs_loop_stop(e->b->loop);
}

static void on_drained(void *arg)
{
    struct end *e = arg;

    e->drained++;
    assert_int_equal(cs_stream_pending(e->s), 0);
    if (e->paused) {
        e->paused = false;
        cs_stream_read(e->s, true);
    }
    end_fill(e);
}

static const struct cs_stream_cb end_cb = { on_connected, on_data, on_ended, on_drained };

struct wire {
    struct bench b;
    cs_listener *listener;
    uint16_t port;
    struct end client, server;
    int accepted;
    bool refuse; /* closes what is accepted at once */
};

static void on_accepted(void *arg, cs_stream *s)
{
    struct wire *w = arg;

    w->accepted++;
    if (w->refuse || w->accepted > 1) {
        cs_stream_close(s);
        return;
    }
    w->server.s = s;
    cs_stream_accept(s, &end_cb, &w->server);
    end_begin(&w->server);
}

static void wire_open(struct wire *w, void **state)
{
    struct cs_error err;

    memset(w, 0, sizeof *w);
    bench_open(&w->b, state);
    w->client.b = w->server.b = &w->b;
    must(cs_listen(w->b.loop, "127.0.0.1", 0, on_accepted, w, &w->listener, &err), &err);
    w->port = cs_listener_port(w->listener);
    assert_int_not_equal(w->port, 0);
}

static void wire_dial(struct wire *w, struct end *e)
{
    struct cs_error err;

    must(cs_stream_connect(w->b.loop, "127.0.0.1", w->port, &end_cb, e, &e->s, &err), &err);
    assert_int_equal(e->connected, 0);
}

static void wire_close(struct wire *w)
{
    cs_stream_close(w->client.s);
    cs_stream_close(w->server.s);
    cs_listener_close(w->listener);
    bench_close(&w->b);
}

/* A millisecond of the loop. */
static void wire_turn(struct wire *w)
{
    struct tick t;

    tick_init(&t, &w->b, NULL, 't');
    t.last = true;
    cs_timer_start(t.timer, 1);
    cs_loop_run(w->b.loop);
    cs_timer_close(t.timer);
}

static void echo_of_a_mebibyte_each_way(void **state)
{
    struct wire w;

    wire_open(&w, state);
    w.client.to_send = w.client.stop_at = MIB;
    w.server.echo = true;
    wire_dial(&w, &w.client);
    cs_loop_run(w.b.loop);
    assert_int_equal(w.client.connected, 1);
    assert_false(w.client.failed);
    assert_int_equal(w.server.connected, 0); /* not for accepted ones */
    assert_int_equal(w.client.got, MIB);
    assert_int_equal(w.server.got, MIB);
    assert_true(w.client.sum == pattern_sum(MIB));
    assert_true(w.client.most_pending < FULL + 5000);
    wire_close(&w);
}

static void both_ends_send_at_once(void **state)
{
    struct wire w;

    wire_open(&w, state);
    w.client.to_send = w.server.to_send = MIB;
    w.client.stop_at = w.server.stop_at = MIB;
    wire_dial(&w, &w.client);
    while (w.client.got < MIB || w.server.got < MIB)
        cs_loop_run(w.b.loop);
    assert_true(w.client.sum == pattern_sum(MIB));
    assert_true(w.server.sum == pattern_sum(MIB));
    wire_close(&w);
}

/* Nobody reads: the sender's bytes wait with it, and go on when somebody does. */
static void a_reader_that_waits_holds_the_writer_up(void **state)
{
    enum { MUCH = 16 * MIB };
    uint8_t *bytes = calloc(1, MUCH);
    struct wire w;

    wire_open(&w, state);
    w.server.keep_paused = true;
    w.server.stop_at = MUCH;
    wire_dial(&w, &w.client);
    while (w.accepted == 0 || w.client.connected == 0)
        wire_turn(&w);
    end_write(&w.client, cs_slice(bytes, MUCH));
    assert_true(cs_stream_pending(w.client.s) > 0);
    assert_int_equal(w.client.drained, 0);
    assert_int_equal(w.server.got, 0);
    cs_stream_read(w.server.s, true);
    cs_loop_run(w.b.loop);
    assert_int_equal(w.server.got, MUCH);
    while (w.client.drained == 0)
        wire_turn(&w);
    assert_int_equal(cs_stream_pending(w.client.s), 0);
    wire_close(&w);
    free(bytes);
}

static void a_closed_peer_ends_the_stream_after_all_its_bytes(void **state)
{
    struct wire w;

    wire_open(&w, state);
    w.server.to_send = MIB;
    w.server.close_when_sent = true;
    w.client.stop_at_end = true;
    wire_dial(&w, &w.client);
    cs_loop_run(w.b.loop);
    assert_int_equal(w.client.ended, 1);
    assert_false(w.client.failed);
    assert_int_equal(w.client.got, MIB);
    assert_true(w.client.sum == pattern_sum(MIB));
    /* dead, but there: nothing may come of using it */
    cs_stream_read(w.client.s, true);
    assert_int_equal(cs_stream_write(w.client.s, cs_slice_str("x")), CS_OK);
    assert_int_equal(cs_stream_pending(w.client.s), 0);
    wire_close(&w);
}

/* Bytes that wait when a stream is closed are still sent. */
static void closing_sends_what_was_written(void **state)
{
    enum { MUCH = 8 * MIB };
    uint8_t *bytes = malloc(MUCH);
    struct wire w;

    for (size_t i = 0; i < MUCH; i++)
        bytes[i] = pattern(i);
    wire_open(&w, state);
    w.server.stop_at_end = true;
    wire_dial(&w, &w.client);
    w.client.keep_paused = true;
    while (w.client.connected == 0)
        wire_turn(&w);
    end_write(&w.client, cs_slice(bytes, MUCH));
    end_close(&w.client);
    cs_loop_run(w.b.loop);
    assert_int_equal(w.server.got, MUCH);
    assert_true(w.server.sum == pattern_sum(MUCH));
    assert_false(w.server.failed);
    assert_int_equal(w.client.drained, 0); /* a closed stream is silent */
    wire_close(&w);
    free(bytes);
}

static void closing_is_silent(void **state)
{
    struct wire w;

    wire_open(&w, state);
    w.server.stop_at_end = true;
    w.server.to_send = MIB;
    w.client.close_when_sent = true; /* at once */
    wire_dial(&w, &w.client);
    cs_loop_run(w.b.loop);
    assert_int_equal(w.client.connected, 1);
    assert_null(w.client.s);
    assert_int_equal(w.client.got, 0);
    assert_int_equal(w.client.ended, 0);
    assert_int_equal(w.client.drained, 0);
    wire_close(&w);
}

static void a_stream_is_closed_while_it_connects(void **state)
{
    struct wire w;

    wire_open(&w, state);
    wire_dial(&w, &w.client);
    end_close(&w.client);
    for (int i = 0; i < 20; i++)
        wire_turn(&w);
    assert_int_equal(w.client.connected, 0);
    wire_close(&w);
}

static void a_server_may_refuse(void **state)
{
    struct wire w;

    wire_open(&w, state);
    w.refuse = true;
    w.client.stop_at_end = true;
    wire_dial(&w, &w.client);
    cs_loop_run(w.b.loop);
    assert_int_equal(w.client.connected, 1);
    assert_int_equal(w.client.ended, 1);
    assert_int_equal(w.accepted, 1);
    wire_close(&w);
}

/* Nobody listens there any more; what was accepted before stays. */
static void a_closed_listener_refuses_and_keeps_its_connections(void **state)
{
    struct wire w;
    struct end late = { .b = NULL };

    wire_open(&w, state);
    late.b = &w.b;
    w.server.echo = true;
    w.client.to_send = w.client.stop_at = 1000;
    wire_dial(&w, &w.client);
    cs_loop_run(w.b.loop);
    cs_listener_close(w.listener);
    w.listener = NULL;
    wire_dial(&w, &late);
    cs_loop_run(w.b.loop);
    assert_int_equal(late.connected, 1);
    assert_true(late.failed);
    assert_int_equal(late.code, CS_EUNAVAILABLE);
    assert_non_null(strstr(late.why, "refused"));
    cs_stream_close(late.s);
    w.client.stop_at = w.client.to_send = 2000;
    end_fill(&w.client);
    cs_loop_run(w.b.loop);
    assert_int_equal(w.client.got, 2000);
    wire_close(&w);
}

static void a_port_has_one_listener(void **state)
{
    struct wire w;
    cs_listener *second = NULL;
    struct cs_error err;

    wire_open(&w, state);
    assert_int_equal(cs_listen(w.b.loop, "127.0.0.1", w.port, on_accepted, &w, &second, &err), CS_EIO);
    assert_null(second);
    assert_non_null(strstr(err.msg, "in use"));
    wire_close(&w);
}

static void a_loop_is_freed_with_bytes_on_their_way(void **state)
{
    static uint8_t bytes[4 * MIB];
    struct wire w;

    wire_open(&w, state);
    w.server.keep_paused = true;
    wire_dial(&w, &w.client);
    while (w.client.connected == 0)
        wire_turn(&w);
    end_write(&w.client, cs_slice(bytes, sizeof bytes));
    wire_close(&w);
}

/* ---- files that change ---- */

struct seen {
    struct bench *b;
    int calls;
    char name[64];
};

static void on_file(void *arg, const char *name)
{
    struct seen *s = arg;

    s->calls++;
    snprintf(s->name, sizeof s->name, "%s", name == NULL ? "" : name);
    cs_loop_stop(s->b->loop);
}

static void a_watch_tells_of_files(void **state)
{
    struct bench b;
    struct seen seen = { .b = &b };
    struct cs_error err;
    cs_watch *watch;
    char path[100];

    bench_open(&b, state);
    snprintf(path, sizeof path, "%s/file", b.dir);
    must(cs_watch_new(b.loop, b.dir, on_file, &seen, &watch, &err), &err);
    must(b.world->files.ops->write_atomic(b.world->files.self, path, cs_slice_str("x"), 0600, &err), &err);
    while (seen.name[0] != '\0' ? strncmp(seen.name, "file", 4) != 0 : seen.calls == 0)
        cs_loop_run(b.loop);
    seen.calls = 0;
    must(b.world->files.ops->remove(b.world->files.self, path, &err), &err);
    while (seen.calls == 0)
        cs_loop_run(b.loop);
    cs_watch_close(watch);
    bench_close(&b);
}

static void a_folder_that_is_not_there_is_not_watched(void **state)
{
    struct bench b;
    struct cs_error err;
    cs_watch *watch;
    char path[100];

    bench_open(&b, state);
    snprintf(path, sizeof path, "%s/none", b.dir);
    assert_int_equal(cs_watch_new(b.loop, path, on_file, NULL, &watch, &err), CS_EIO);
    assert_null(watch);
    assert_non_null(strstr(err.msg, path));
    bench_close(&b);
}

static void on_signal(void *arg)
{
    cs_loop_stop(arg);
}

static void a_signal_comes_on_the_loop(void **state)
{
    struct bench b;
    cs_signal *s;

    bench_open(&b, state);
    assert_int_equal(cs_signal_new(b.loop, SIGUSR1, on_signal, b.loop, &s), CS_OK);
    if (b.sim == NULL) { /* the simulated world sends none */
        raise(SIGUSR1);
        cs_loop_run(b.loop);
    }
    cs_signal_close(s);
    bench_close(&b);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        BOTH(timers_come_in_order),
        BOTH(a_start_replaces_the_earlier_one),
        BOTH(a_stopped_timer_is_silent_and_starts_again),
        BOTH(a_timer_is_started_in_its_callback),
        BOTH(timers_are_closed_in_callbacks),
        BOTH(the_loops_clock_goes_on_with_the_timers),
        BOTH(bells_merge),
        BOTH(a_bell_rings_from_another_thread),
        BOTH(a_loop_is_stopped_from_another_thread_and_runs_again),
        BOTH(work_is_done_on_the_loop),
        BOTH(freeing_a_loop_waits_for_its_work),
        BOTH(echo_of_a_mebibyte_each_way),
        BOTH(both_ends_send_at_once),
        BOTH(a_reader_that_waits_holds_the_writer_up),
        BOTH(a_closed_peer_ends_the_stream_after_all_its_bytes),
        BOTH(closing_sends_what_was_written),
        BOTH(closing_is_silent),
        BOTH(a_stream_is_closed_while_it_connects),
        BOTH(a_server_may_refuse),
        BOTH(a_closed_listener_refuses_and_keeps_its_connections),
        BOTH(a_port_has_one_listener),
        BOTH(a_loop_is_freed_with_bytes_on_their_way),
        BOTH(a_watch_tells_of_files),
        BOTH(a_folder_that_is_not_there_is_not_watched),
        BOTH(a_signal_comes_on_the_loop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
