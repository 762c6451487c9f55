/* The simulation itself: the same seed does the same again, and what can be done to hosts and to the network. */
#include "base/test_world.h"

#include "unit/base/base_fixture.h"

enum { HOUR_MS = 3600 * 1000 };

/* A server that echoes, on one host, and a client that sends so many bytes every so often, on another. */
struct net {
    cs_sim *sim;
    struct cs_world *client_host, *server_host;
    cs_loop *client_loop, *server_loop;
    cs_listener *listener;
    cs_stream *client, *server;
    cs_timer *timer;
    uint16_t port;
    size_t sent, got, echoed;
    int connected, accepted, client_ended, server_ended;
    int code; /* of the newest failure at the client */
    char why[512];
    bool failed;
};

static void must(int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        fail_msg("%s (%s)", err->msg, cs_code_name(rc));
}

static void note(struct net *n, const struct cs_error *err)
{
    n->failed = err != NULL;
    n->code = err == NULL ? CS_OK : err->code;
    snprintf(n->why, sizeof n->why, "%s", err == NULL ? "" : err->msg);
}

static void client_connected(void *arg, const struct cs_error *err)
{
    struct net *n = arg;

    n->connected++;
    note(n, err);
    if (err == NULL)
        cs_stream_read(n->client, true);
}

static void client_data(void *arg, struct cs_slice bytes)
{
    ((struct net *)arg)->got += bytes.len;
}

static void client_ended(void *arg, const struct cs_error *err)
{
    struct net *n = arg;

    n->client_ended++;
    note(n, err);
}

static void server_data(void *arg, struct cs_slice bytes)
{
    struct net *n = arg;

    n->echoed += bytes.len;
    assert_int_equal(cs_stream_write(n->server, bytes), CS_OK);
}

static void server_ended(void *arg, const struct cs_error *err)
{
    struct net *n = arg;

    (void)err;
    n->server_ended++;
}

static const struct cs_stream_cb client_cb = { client_connected, client_data, client_ended, NULL };
static const struct cs_stream_cb server_cb = { NULL, server_data, server_ended, NULL };

static void accepted(void *arg, cs_stream *s)
{
    struct net *n = arg;

    n->accepted++;
    cs_stream_close(n->server);
    n->server = s;
    cs_stream_accept(s, &server_cb, n);
    cs_stream_read(s, true);
}

static void send(struct net *n, size_t len)
{
    uint8_t bytes[70000];

    assert_true(len <= sizeof bytes);
    memset(bytes, (int)len, len);
    n->sent += len;
    assert_int_equal(cs_stream_write(n->client, cs_slice(bytes, len)), CS_OK);
}

static void net_listen(struct net *n, const char *host)
{
    struct cs_error err;

    must(cs_loop_new(n->server_host, &n->server_loop, &err), &err);
    must(cs_listen(n->server_loop, host, n->port, accepted, n, &n->listener, &err), &err);
    n->port = cs_listener_port(n->listener);
}

static void net_dial(struct net *n, const char *host)
{
    struct cs_error err;

    cs_stream_close(n->client);
    must(cs_stream_connect(n->client_loop, host, n->port, &client_cb, n, &n->client, &err), &err);
}

static void net_open(struct net *n, uint64_t seed)
{
    struct cs_error err;

    memset(n, 0, sizeof *n);
    assert_non_null(n->sim = cs_sim_new(seed));
    n->client_host = cs_sim_host(n->sim, "alice");
    n->server_host = cs_sim_host(n->sim, "hub");
    assert_ptr_equal(cs_sim_host(n->sim, "alice"), n->client_host);
    must(cs_loop_new(n->client_host, &n->client_loop, &err), &err);
    net_listen(n, "0.0.0.0");
    net_dial(n, "hub");
}

static void net_close(struct net *n)
{
    cs_stream_close(n->client);
    cs_stream_close(n->server);
    cs_listener_close(n->listener);
    cs_loop_free(n->client_loop);
    cs_loop_free(n->server_loop);
    cs_sim_free(n->sim);
}

static bool is_connected(void *arg)
{
    return ((struct net *)arg)->connected > 0;
}

static bool is_echoed(void *arg)
{
    struct net *n = arg;

    return n->got == n->sent;
}

static bool is_over(void *arg)
{
    return ((struct net *)arg)->client_ended > 0;
}

static bool is_accepted(void *arg)
{
    return ((struct net *)arg)->accepted > 0;
}

static uint64_t trace_of(uint64_t seed, uint64_t *events)
{
    struct net n;
    uint64_t trace;

    net_open(&n, seed);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_false(n.failed);
    for (size_t i = 1; i < 6; i++) {
        send(&n, i * 10000);
        assert_true(cs_sim_run(n.sim, HOUR_MS, is_echoed, &n));
    }
    trace = cs_sim_trace(n.sim);
    *events = cs_sim_events(n.sim);
    net_close(&n);
    return trace;
}

static void a_seed_repeats_itself(void **state)
{
    uint64_t events[4], first = trace_of(1, &events[0]);

    (void)state;
    assert_true(trace_of(1, &events[1]) == first);
    assert_true(events[0] == events[1]);
    assert_true(events[0] > 50);
    assert_true(trace_of(2, &events[2]) != first);
    assert_true(trace_of(0, &events[3]) != first);
}

static void what_is_noted_is_in_the_trace(void **state)
{
    cs_sim *a = cs_sim_new(1), *b = cs_sim_new(1);

    (void)state;
    assert_true(cs_sim_trace(a) == cs_sim_trace(b));
    cs_sim_note(a, cs_slice_str("one"));
    cs_sim_note(b, cs_slice_str("one"));
    assert_true(cs_sim_trace(a) == cs_sim_trace(b));
    cs_sim_note(a, cs_slice_str("two"));
    cs_sim_note(b, cs_slice_str("too"));
    assert_true(cs_sim_trace(a) != cs_sim_trace(b));
    cs_sim_free(a);
    cs_sim_free(b);
    cs_sim_free(NULL);
}

static uint64_t trace_with_payload(uint8_t byte, bool on)
{
    struct net n;
    uint64_t trace;

    net_open(&n, 1);
    cs_sim_trace_payload(n.sim, on);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    n.sent = 1;
    cs_stream_write(n.client, cs_slice(&byte, 1));
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_echoed, &n));
    trace = cs_sim_trace(n.sim);
    net_close(&n);
    return trace;
}

static void bytes_are_in_the_trace_if_wanted(void **state)
{
    (void)state;
    assert_true(trace_with_payload(1, true) != trace_with_payload(2, true));
    assert_true(trace_with_payload(1, false) == trace_with_payload(2, false));
}

static void time_passes_as_far_as_it_may(void **state)
{
    struct net n;
    uint64_t before;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    before = cs_sim_now_ms(n.sim);
    assert_true(before < 1000);
    assert_false(cs_sim_run(n.sim, 24ull * HOUR_MS, NULL, NULL));
    assert_true(cs_sim_now_ms(n.sim) - before == 24ull * HOUR_MS);
    assert_true(cs_loop_now_ms(n.client_loop) == cs_sim_now_ms(n.sim));
    net_close(&n);
}

static void clocks_differ_by_their_skew(void **state)
{
    struct net n;
    uint64_t mono;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_now_ms(n.client_host) == cs_now_ms(n.server_host));
    assert_true(cs_now_ms(n.client_host) == CS_SIM_EPOCH_MS);
    mono = cs_monotonic_ns(n.client_host);
    cs_sim_skew(n.client_host, -90000);
    assert_true(cs_now_ms(n.client_host) == CS_SIM_EPOCH_MS - 90000);
    assert_true(cs_now_ms(n.server_host) == CS_SIM_EPOCH_MS);
    assert_true(cs_monotonic_ns(n.client_host) == mono); /* only the wall clock jumps */
    cs_sim_run(n.sim, 5000, NULL, NULL);
    assert_true(cs_now_ms(n.server_host) - cs_now_ms(n.client_host) == 90000);
    assert_true(cs_now_ms(n.server_host) - CS_SIM_EPOCH_MS == 5000);
    net_close(&n);
}

static void hosts_have_files_of_their_own(void **state)
{
    struct cs_sim *sim = cs_sim_new(1);
    struct cs_world *a = cs_sim_host(sim, "a"), *b = cs_sim_host(sim, "b");
    struct cs_file_info in_a, in_b;

    (void)state;
    assert_int_equal(a->files.ops->write_new(a->files.self, "/f", cs_slice_str("x"), 0600, NULL), CS_OK);
    assert_int_equal(b->files.ops->stat(b->files.self, "/f", &in_b, NULL), CS_ENOTFOUND);
    assert_int_equal(b->files.ops->write_new(b->files.self, "/f", cs_slice_str("x"), 0600, NULL), CS_OK);
    assert_int_equal(a->files.ops->stat(a->files.self, "f", &in_a, NULL), CS_OK); /* from "/" */
    assert_int_equal(b->files.ops->stat(b->files.self, "/f", &in_b, NULL), CS_OK);
    assert_true(in_a.device != in_b.device);
    cs_sim_free(sim);
}

static void names_lead_to_hosts(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_false(n.failed);
    assert_memory_equal(cs_stream_peer(n.client), "10.0.", 5);
    n.connected = 0;
    net_dial(&n, "nowhere.example");
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_int_equal(n.code, CS_EUNAVAILABLE);
    assert_non_null(strstr(n.why, "unknown"));
    assert_non_null(strstr(n.why, "nowhere.example"));
    n.connected = 0;
    net_dial(&n, "127.0.0.1"); /* the client's own host, where nobody listens */
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_int_equal(n.code, CS_EUNAVAILABLE);
    assert_non_null(strstr(n.why, "refused"));
    net_close(&n);
}

/* What listens on 127.0.0.1 is not there for others. */
static void a_local_listener_is_local(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    cs_listener_close(n.listener);
    cs_loop_free(n.server_loop);
    net_listen(&n, "127.0.0.1");
    net_dial(&n, "hub");
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_non_null(strstr(n.why, "refused"));
    net_close(&n);
}

static void a_partition_holds_bytes_until_it_heals(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    cs_sim_partition(n.sim, n.client_host, n.server_host, CS_SIM_HELD);
    send(&n, 5000);
    cs_sim_run(n.sim, 30000, NULL, NULL);
    assert_int_equal(n.echoed, 0);
    assert_int_equal(n.client_ended, 0);
    cs_sim_partition(n.sim, n.client_host, n.server_host, CS_SIM_UP);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_echoed, &n));
    assert_int_equal(n.client_ended + n.server_ended, 0);
    net_close(&n);
}

static void a_connection_that_is_held_for_long_times_out(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    cs_sim_partition(n.sim, n.server_host, n.client_host, CS_SIM_HELD);
    send(&n, 5000);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_over, &n));
    assert_int_equal(n.code, CS_ETIMEDOUT);
    assert_int_equal(n.server_ended, 0); /* it waited for nothing */
    cs_sim_partition(n.sim, n.client_host, n.server_host, CS_SIM_UP);
    n.connected = 0;
    net_dial(&n, "hub");
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_false(n.failed);
    net_close(&n);
}

static void a_partition_breaks_connections(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_accepted, &n));
    cs_sim_partition(n.sim, n.client_host, n.server_host, CS_SIM_BROKEN);
    assert_true(cs_sim_run(n.sim, 10000, is_over, &n));
    assert_int_equal(n.code, CS_EUNAVAILABLE);
    assert_non_null(strstr(n.why, "reset"));
    cs_sim_run(n.sim, 1000, NULL, NULL);
    assert_int_equal(n.server_ended, 1);
    n.connected = 0;
    net_dial(&n, "hub");
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_int_equal(n.code, CS_ETIMEDOUT);
    net_close(&n);
}

/* An attempt to connect goes on when the network is back. */
static void a_short_partition_only_delays_connecting(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    cs_sim_partition(n.sim, n.client_host, n.server_host, CS_SIM_HELD);
    assert_false(cs_sim_run(n.sim, 10000, is_connected, &n));
    cs_sim_partition(n.sim, n.client_host, n.server_host, CS_SIM_UP);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_false(n.failed);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_accepted, &n));
    net_close(&n);
}

static void never(void *arg)
{
    (void)arg;
    fail_msg("a dead loop called back");
}

static void a_killed_host_resets_its_peers(void **state)
{
    struct net n;
    cs_timer *timer;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_accepted, &n));
    assert_int_equal(cs_timer_new(n.server_loop, never, NULL, &timer), CS_OK);
    cs_timer_start(timer, 1);
    send(&n, 60000);
    cs_sim_kill_host(n.server_host);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_over, &n));
    assert_int_equal(n.code, CS_EUNAVAILABLE);
    assert_int_equal(n.echoed, 0);
    /* its process is gone, the host is not */
    n.connected = 0;
    net_dial(&n, "hub");
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_non_null(strstr(n.why, "refused"));
    cs_timer_close(timer);
    cs_stream_close(n.server);
    n.server = NULL;
    cs_listener_close(n.listener);
    cs_loop_free(n.server_loop);
    net_listen(&n, "hub");
    n.connected = 0;
    net_dial(&n, "hub");
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_false(n.failed);
    send(&n, 60000);
    n.sent = 60000;
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_echoed, &n));
    net_close(&n);
}

/* What died without being closed is freed with the simulation. */
static void the_dead_need_no_closing(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    send(&n, 60000);
    cs_sim_kill_host(n.server_host);
    cs_sim_kill_host(n.client_host);
    cs_sim_run(n.sim, HOUR_MS, NULL, NULL);
    cs_sim_free(n.sim);
}

/* Bytes that nobody has read when a stream is closed break the connection. */
static void closing_unread_bytes_resets(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_accepted, &n));
    cs_stream_read(n.server, false);
    send(&n, 1000);
    cs_sim_run(n.sim, 1000, NULL, NULL);
    cs_stream_close(n.server);
    n.server = NULL;
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_over, &n));
    assert_int_equal(n.code, CS_EUNAVAILABLE);
    net_close(&n);
}

/* Who does not read learns of a break when a write fails. */
static void a_write_to_the_dead_is_told(void **state)
{
    struct net n;

    (void)state;
    net_open(&n, 1);
    assert_true(cs_sim_run(n.sim, HOUR_MS, is_connected, &n));
    cs_stream_read(n.client, false);
    cs_sim_kill_host(n.server_host);
    assert_false(cs_sim_run(n.sim, 1000, is_over, &n));
    send(&n, 1);
    assert_true(cs_sim_run(n.sim, 1000, is_over, &n));
    assert_int_equal(n.code, CS_EUNAVAILABLE);
    net_close(&n);
}

static void a_full_disk_leaves_what_was_there(void **state)
{
    cs_sim *sim = cs_sim_new(1);
    struct cs_world *w = cs_sim_host(sim, "h");
    const struct cs_files *f = &w->files;
    struct cs_buf got = { 0 };
    struct cs_error err;

    (void)state;
    must(f->ops->write_atomic(f->self, "/f", cs_slice_str("old"), 0600, &err), &err);
    cs_sim_disk_full(w, true);
    assert_int_equal(f->ops->write_atomic(f->self, "/f", cs_slice_str("new"), 0600, &err), CS_EIO);
    assert_non_null(strstr(err.msg, "No space"));
    assert_int_equal(f->ops->write_new(f->self, "/g", cs_slice_str("new"), 0600, &err), CS_EIO);
    assert_int_equal(f->ops->mkdir(f->self, "/d", 0700, &err), CS_EIO);
    must(f->ops->read(f->self, "/f", 10, &got, &err), &err);
    assert_true(cs_slice_eq(cs_buf_slice(&got), cs_slice_str("old")));
    assert_int_equal(f->ops->read(f->self, "/g", 10, &got, &err), CS_ENOTFOUND);
    cs_sim_disk_full(w, false);
    must(f->ops->write_atomic(f->self, "/f", cs_slice_str("new"), 0600, &err), &err);
    cs_buf_free(&got);
    cs_sim_free(sim);
}

struct writer {
    struct cs_world *w;
    cs_timer *timer;
    int writes, failures;
};

static void write_on(void *arg)
{
    struct writer *t = arg;
    char text[16];

    snprintf(text, sizeof text, "%d", ++t->writes);
    if (t->w->files.ops->write_atomic(t->w->files.self, "/f", cs_slice_str(text), 0600, NULL) != CS_OK)
        t->failures++;
    if (t->failures > 0) /* for the rest of this event everything fails */
        assert_int_equal(t->w->files.ops->write_atomic(t->w->files.self, "/g", cs_slice_str(text), 0600, NULL), CS_EIO);
    cs_timer_start(t->timer, 10);
}

/* A crash inside the third write: afterwards there is the second or the third, and both happen. */
static void a_crash_inside_a_write_leaves_the_old_or_the_new(void **state)
{
    int seen[2] = { 0 };

    (void)state;
    for (uint64_t seed = 0; seed < 32; seed++) {
        cs_sim *sim = cs_sim_new(seed);
        struct writer t = { .w = cs_sim_host(sim, "h") };
        struct cs_buf got = { 0 };
        struct cs_error err;
        cs_loop *loop;

        must(cs_loop_new(t.w, &loop, &err), &err);
        assert_int_equal(cs_timer_new(loop, write_on, &t, &t.timer), CS_OK);
        cs_timer_start(t.timer, 1);
        cs_sim_crash_at_write(t.w, 3);
        cs_sim_run(sim, HOUR_MS, NULL, NULL);
        assert_int_equal(t.writes, 3);
        assert_int_equal(t.failures, 1);
        must(t.w->files.ops->read(t.w->files.self, "/f", 10, &got, &err), &err);
        assert_int_equal(got.len, 1);
        assert_true(got.data[0] == '2' || got.data[0] == '3');
        seen[got.data[0] - '2']++;
        assert_int_equal(t.w->files.ops->read(t.w->files.self, "/g", 10, &got, &err), CS_ENOTFOUND);
        cs_buf_free(&got);
        cs_timer_close(t.timer);
        cs_loop_free(loop);
        cs_sim_free(sim);
    }
    assert_true(seen[0] > 0 && seen[1] > 0);
}

static void bump(void *arg, const char *name)
{
    assert_string_equal(name, "app.db");
    ++*(int *)arg;
}

static void touching_tells_the_watches(void **state)
{
    cs_sim *sim = cs_sim_new(1);
    struct cs_world *w = cs_sim_host(sim, "h");
    struct cs_error err;
    cs_watch *watch;
    cs_loop *loop;
    int calls = 0;

    (void)state;
    must(cs_sim_touch(w, "/data/app.db", &err), &err);
    must(cs_loop_new(w, &loop, &err), &err);
    must(cs_watch_new(loop, "/data/", bump, &calls, &watch, &err), &err);
    must(cs_sim_touch(w, "/data/app.db", &err), &err);
    must(cs_sim_touch(w, "/data/app.db", &err), &err);
    cs_sim_run(sim, 1000, NULL, NULL);
    assert_int_equal(calls, 1); /* merged */
    must(cs_sim_touch(w, "/elsewhere", &err), &err);
    cs_sim_run(sim, 1000, NULL, NULL);
    assert_int_equal(calls, 1);
    cs_watch_close(watch);
    cs_loop_free(loop);
    cs_sim_free(sim);
}

struct ordered {
    char *order, name;
};

static void append(void *arg)
{
    struct ordered *o = arg;
    char name[2] = { o->name, '\0' };

    strcat(o->order, name);
}

/* Timers of one moment come in an order that the seed decides. */
static void what_is_due_at_once_comes_in_any_order(void **state)
{
    int first[3] = { 0 };

    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        cs_sim *sim = cs_sim_new(seed);
        char order[8] = "";
        struct ordered o[3] = { { order, 'a' }, { order, 'b' }, { order, 'c' } };
        struct cs_error err;
        cs_timer *t[3];
        cs_loop *loop;

        must(cs_loop_new(cs_sim_host(sim, "h"), &loop, &err), &err);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(cs_timer_new(loop, append, &o[i], &t[i]), CS_OK);
            cs_timer_start(t[i], 5);
        }
        cs_sim_run(sim, 10, NULL, NULL);
        assert_int_equal(strlen(order), 3);
        first[order[0] - 'a']++;
        for (int i = 0; i < 3; i++)
            cs_timer_close(t[i]);
        cs_loop_free(loop);
        cs_sim_free(sim);
    }
    assert_true(first[0] > 0 && first[1] > 0 && first[2] > 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ONLY(a_seed_repeats_itself),
        ONLY(what_is_noted_is_in_the_trace),
        ONLY(bytes_are_in_the_trace_if_wanted),
        ONLY(time_passes_as_far_as_it_may),
        ONLY(clocks_differ_by_their_skew),
        ONLY(hosts_have_files_of_their_own),
        ONLY(names_lead_to_hosts),
        ONLY(a_local_listener_is_local),
        ONLY(a_partition_holds_bytes_until_it_heals),
        ONLY(a_connection_that_is_held_for_long_times_out),
        ONLY(a_partition_breaks_connections),
        ONLY(a_short_partition_only_delays_connecting),
        ONLY(a_killed_host_resets_its_peers),
        ONLY(the_dead_need_no_closing),
        ONLY(closing_unread_bytes_resets),
        ONLY(a_write_to_the_dead_is_told),
        ONLY(a_full_disk_leaves_what_was_there),
        ONLY(a_crash_inside_a_write_leaves_the_old_or_the_new),
        ONLY(touching_tells_the_watches),
        ONLY(what_is_due_at_once_comes_in_any_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
