/* The admin port's HTTP: what is answered to bytes of every kind, on the simulated network. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/test_world.h"
#include "hub/http.h"

struct scene {
    cs_sim *sim;
    cs_loop *loop;
    cs_http_server *server;
    cs_http_request *kept; /* a request that is answered later */
    unsigned handled;
    char seen[200]; /* path and x-test header of the last one */
};

struct client {
    cs_stream *stream;
    struct cs_slice send;
    size_t piece; /* bytes at a time; 0: all at once */
    struct cs_buf got;
    bool connected, ended;
};

static void handle(void *arg, cs_http_request *r)
{
    struct scene *s = arg;

    s->handled++;
    snprintf(s->seen, sizeof s->seen, "%.100s %.50s", cs_http_path(r), cs_http_header(r, "x-test"));
    if (strcmp(cs_http_path(r), "/later") == 0)
        s->kept = r;
    else
        cs_http_respond(r, 200, "text/plain", cs_slice_str("fine"));
}

static void on_connected(void *arg, const struct cs_error *err)
{
    struct client *c = arg;

    c->connected = err == NULL;
    c->ended = err != NULL;
    if (err != NULL)
        return;
    cs_stream_read(c->stream, true);
    if (c->piece == 0)
        cs_stream_write(c->stream, c->send);
    for (size_t at = 0; c->piece > 0 && at < c->send.len; at += c->piece)
        cs_stream_write(c->stream,
                        cs_slice(c->send.data + at, c->piece < c->send.len - at ? c->piece : c->send.len - at));
}
static void on_data(void *arg, struct cs_slice bytes)
{
    cs_buf_put_slice(&((struct client *)arg)->got, bytes);
}
static void on_ended(void *arg, const struct cs_error *err)
{
    (void)err;
    ((struct client *)arg)->ended = true;
}
static const struct cs_stream_cb client_cb = { .connected = on_connected, .data = on_data, .ended = on_ended };

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    struct cs_error err;

    assert_non_null(s);
    assert_non_null(s->sim = cs_sim_new(1));
    assert_int_equal(cs_loop_new(cs_sim_host(s->sim, "hub"), &s->loop, &err), CS_OK);
    assert_int_equal(cs_http_server_new(s->loop, "127.0.0.1", 0, handle, s, &s->server, &err), CS_OK);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    cs_http_server_close(s->server);
    cs_loop_free(s->loop);
    cs_sim_free(s->sim);
    free(s);
    return 0;
}

static void client_open(struct scene *s, struct client *c, const char *text)
{
    struct cs_error err;

    c->send = cs_slice_str(text);
    assert_int_equal(
        cs_stream_connect(s->loop, "127.0.0.1", cs_http_server_port(s->server), &client_cb, c, &c->stream, &err),
        CS_OK);
}
static void client_close(struct client *c)
{
    cs_stream_close(c->stream);
    cs_buf_free(&c->got);
    *c = (struct client){ 0 };
}
static bool client_ended(void *arg)
{
    return ((struct client *)arg)->ended;
}

/* The whole answer, as text. */
static const char *ask(struct scene *s, struct client *c, const char *text, size_t piece)
{
    c->piece = piece;
    client_open(s, c, text);
    assert_true(cs_sim_run(s->sim, 60000, client_ended, c));
    cs_buf_put_u8(&c->got, 0);
    return (const char *)c->got.data;
}

#define GET(path) "GET " path " HTTP/1.1\r\nHost: localhost\r\n"
static const struct {
    const char *send, *status, *seen; /* seen NULL: the handler got nothing */
} cases[] = {
    { GET("/a") "\r\n", "200 OK", "/a " },
    { GET("/a?b=c") "X-Test:  two words \t\r\n\r\n", "200 OK", "/a two words" },
    { GET("/a") "x-TEST: y\r\nContent-Length: 0\r\n\r\n", "200 OK", "/a y" },
    { "GET /a HTTP/1.0\r\n\r\n", "200 OK", "/a " },
    { "HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", "/a " },
    { "POST /a HTTP/1.1\r\nHost: x\r\n\r\n", "405 ", NULL },
    { "GET /a HTTP/2.0\r\n\r\n", "505 ", NULL },
    { "GET /a HTTP/1.10\r\n\r\n", "505 ", NULL },
    { "GET /a\r\n\r\n", "400 ", NULL },
    { "GET a HTTP/1.1\r\n\r\n", "400 ", NULL },
    { "GET http://x/ HTTP/1.1\r\n\r\n", "400 ", NULL },
    { GET("/a") "no colon\r\n\r\n", "400 ", NULL },
    { GET("/a") ": no name\r\n\r\n", "400 ", NULL },
    { GET("/a") "sp ace: x\r\n\r\n", "400 ", NULL },
    { GET("/a") "Content-Length: 1\r\n\r\nx", "400 ", NULL },
    { GET("/a") "Transfer-Encoding: chunked\r\n\r\n", "400 ", NULL },
    { GET("/a") "x: bare\rreturn\r\n\r\n", "400 ", NULL },
    { "GET /a HTTP/1.1\nHost: x\r\n\r\n", "400 ", NULL },
    { "\r\n\r\n", "400 ", NULL },
    { "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 ", NULL },
};

static void requests_of_every_kind(void **state)
{
    struct scene *s = *state;

    for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
        const char *send = cases[i / 2].send, *want = cases[i / 2].status, *seen = cases[i / 2].seen, *got;
        unsigned handled = s->handled;
        struct client c = { 0 };

        got = ask(s, &c, send, i % 2); /* at once, then a byte at a time */
        if (strncmp(got, "HTTP/1.1 ", 9) != 0 || strncmp(got + 9, want, strlen(want)) != 0)
            fail_msg("%s\n---\n%s", send, got);
        assert_int_equal(s->handled - handled, seen != NULL);
        if (seen != NULL)
            assert_string_equal(s->seen, seen);
        assert_true((strstr(got, "\r\n\r\nfine") != NULL) == (seen != NULL && send[0] == 'G'));
        client_close(&c);
    }
}

static void too_many_headers_and_too_long_ones(void **state)
{
    struct scene *s = *state;
    struct cs_buf b = { 0 };
    struct client c = { 0 };

    cs_buf_put_str(&b, GET("/a"));
    for (int i = 0; i < 70; i++)
        cs_buf_put_str(&b, "a: b\r\n");
    cs_buf_put_str(&b, "\r\n");
    cs_buf_put_u8(&b, 0);
    assert_non_null(strstr(ask(s, &c, (char *)b.data, 0), " 400 "));
    client_close(&c);
    cs_buf_reset(&b);
    cs_buf_put_str(&b, GET("/a") "a: ");
    memset(cs_buf_grow(&b, CS_HTTP_MAX_HEAD), 'x', CS_HTTP_MAX_HEAD);
    cs_buf_put_u8(&b, 0);
    assert_non_null(strstr(ask(s, &c, (char *)b.data, 0), " 431 "));
    client_close(&c);
    cs_buf_free(&b);
    assert_int_equal(s->handled, 0);
}

static void who_says_nothing_is_hung_up_on(void **state)
{
    struct scene *s = *state;
    struct client c = { 0 };
    uint64_t began = cs_sim_now_ms(s->sim);

    assert_non_null(strstr(ask(s, &c, "GET / HT", 0), " 408 "));
    assert_in_range(cs_sim_now_ms(s->sim) - began, CS_HTTP_TIMEOUT_MS, CS_HTTP_TIMEOUT_MS + 1000);
    client_close(&c);
}

static bool has_kept(void *arg)
{
    return ((struct scene *)arg)->kept != NULL;
}

static void an_answer_may_come_later_and_to_nobody(void **state)
{
    struct scene *s = *state;
    struct client c = { 0 };

    for (int gone = 0; gone < 2; gone++) {
        s->kept = NULL;
        client_open(s, &c, GET("/later") "\r\n");
        assert_true(cs_sim_run(s->sim, 60000, has_kept, s));
        if (gone)
            client_close(&c);
        cs_sim_run(s->sim, 60000, NULL, NULL);
        cs_http_respond(s->kept, 200, "text/plain", cs_slice_str("late"));
        if (!gone) {
            assert_true(cs_sim_run(s->sim, 60000, client_ended, &c));
            cs_buf_put_u8(&c.got, 0);
            assert_non_null(strstr((char *)c.got.data, "late"));
            client_close(&c);
        }
    }
}

static void connections_have_a_limit(void **state)
{
    struct scene *s = *state;
    struct client c[CS_HTTP_MAX_CONNECTIONS + 1] = { { 0 } }, *last = &c[CS_HTTP_MAX_CONNECTIONS];

    for (size_t i = 0; i < CS_HTTP_MAX_CONNECTIONS; i++)
        client_open(s, &c[i], "GET");
    cs_sim_run(s->sim, 1000, NULL, NULL);
    client_open(s, last, GET("/a") "\r\n");
    assert_true(cs_sim_run(s->sim, 1000, client_ended, last));
    assert_int_equal(last->got.len, 0);
    client_close(last);
    client_close(&c[0]); /* makes room */
    cs_sim_run(s->sim, 1000, NULL, NULL);
    assert_non_null(strstr(ask(s, last, GET("/a") "\r\n", 0), " 200 "));
    for (size_t i = 0; i <= CS_HTTP_MAX_CONNECTIONS; i++)
        client_close(&c[i]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = { TEST(requests_of_every_kind), TEST(too_many_headers_and_too_long_ones),
                                        TEST(who_says_nothing_is_hung_up_on),
                                        TEST(an_answer_may_come_later_and_to_nobody), TEST(connections_have_a_limit) };

    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
