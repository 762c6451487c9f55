/* Out of memory, at every allocation that base and rpc make during two calls, one after the other: each call is still
 * told its end exactly once, nothing leaks, and the channel works again afterwards. */
#include "unit/rpc/rpc_fixture.h"

void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);

static long countdown = -1; /* allocations until the one that fails; negative: none does */

static bool fails(void)
{
    return countdown >= 0 && countdown-- == 0;
}
void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}
char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

/* The call, if it could be made at all, to its end. */
static void one_call(struct world_case *w, struct seen *s, const char *path, struct cs_slice msg)
{
    struct cs_rpc_meta item = { "x-request-bin", cs_slice_str("abc") };
    struct cs_rpc_metadata m = { &item, 1 };
    struct cs_error err;

    *s = (struct seen){ .loop = w->loop, .stop_loop = true };
    if (cs_rpc_call_new(w->channel, path, &m, 300, &seen_cb, s, &s->call, &err) != CS_OK) {
        assert_int_equal(err.code, CS_ENOMEM);
        return;
    }
    if (cs_rpc_call_send(s->call, msg) == CS_OK)
        cs_rpc_call_half_close(s->call);
    else
        cs_rpc_call_cancel(s->call);
    cs_loop_run(w->loop);
    assert_int_equal(s->done, 1);
}

static void every_allocation_fails_once(void **state)
{
    static uint8_t large[200000];
    long n = 0;

    (void)state;
    for (bool all = false; !all; n++) {
        static const uint8_t not_found = CS_RPC_NOT_FOUND;
        struct world_case w;
        struct seen a, b, c;

        case_open(&w);
        countdown = n;
        one_call(&w, &a, "/t.S/Status", cs_slice(&not_found, 1));
        one_call(&w, &b, "/t.S/Echo", cs_slice(large, sizeof large));
        all = countdown >= 0;
        countdown = -1;
        if (all) {
            assert_int_equal(a.status, CS_RPC_NOT_FOUND);
            assert_int_equal(b.status, CS_RPC_OK);
        }
        if (w.up == 0) {
            /* a listener that had no memory to accept with may be stuck: that is the loop's, not ours */
            cs_rpc_server_close(w.server);
            case_serve(&w, NULL);
            run_ms(&w, 10);
        }
        one_call(&w, &c, "/t.S/Echo", cs_slice(large, sizeof large));
        assert_int_equal(c.status, CS_RPC_OK);
        assert_int_equal(c.bytes, sizeof large);
        seen_free(&a);
        seen_free(&b);
        seen_free(&c);
        case_close(&w);
    }
    assert_true(n > 30);
    print_message("%ld allocations\n", n - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_allocation_fails_once) };

    return cmocka_run_group_tests_name("rpc out of memory", tests, NULL, NULL);
}
