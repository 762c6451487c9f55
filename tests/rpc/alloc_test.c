/* Out of memory, at every allocation that base and rpc make, on either side, during calls of all four kinds, one after
 * the other: each call is still told its end exactly once, nothing leaks, and the channel works again afterwards. */
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

enum {
    LOST_MS = 1000,     /* until a call ends that the server had no memory to hear of */
    PATIENT_MS = 60000, /* more than any call needs that goes well */
};

/* The call, if it could be made at all, to its end: so many messages, each half as long as the one before. */
static void one_call(struct world_case *w, struct seen *s, const struct cs_rpc_call_options *o, struct cs_slice msg,
                     int messages)
{
    struct cs_error err;

    *s = (struct seen){ .loop = w->loop, .stop_loop = true };
    if (cs_rpc_call_open(w->channel, o, &seen_cb, s, &s->call, &err) != CS_OK) {
        assert_int_equal(err.code, CS_ENOMEM);
        return;
    }
    for (; messages > 0; messages--, msg.len /= 2)
        if (cs_rpc_call_send(s->call, msg) != CS_OK)
            break;
    if (messages == 0)
        cs_rpc_call_half_close(s->call);
    else
        cs_rpc_call_cancel(s->call);
    cs_loop_run(w->loop);
    assert_int_equal(s->done, 1);
}

enum { CALLS = 6 };
static uint8_t large[200000];

static void all_calls(struct world_case *w, struct seen seen[CALLS], uint32_t timeout_ms)
{
    static const uint8_t not_found = CS_RPC_NOT_FOUND;
    struct cs_rpc_meta item = { "x-request-bin", cs_slice_str("abc") };
    struct cs_rpc_metadata m = { &item, 1 };
    struct cs_rpc_call_options o = { .metadata = &m, .timeout_ms = timeout_ms };

    w->service.bulk = 3;
    w->service.received = 0;
    o.path = "/t.S/Status"; /* nothing but a status */
    one_call(w, &seen[0], &o, cs_slice(&not_found, 1), 1);
    o.path = "/t.S/Echo"; /* one message each way */
    one_call(w, &seen[1], &o, cs_slice(large, sizeof large), 1);
    o.path = "/t.S/Bulk"; /* many to the client */
    one_call(w, &seen[2], &o, CS_SLICE_NULL, 0);
    o.path = "/t.S/Count"; /* many to the server */
    one_call(w, &seen[3], &o, cs_slice(large, 1000), 3);
    o.path = "/t.S/Lead"; /* many both ways, with leading metadata */
    one_call(w, &seen[4], &o, cs_slice(large, 100000), 3);
    o.path = "/t.S/Packed"; /* compressed both ways; it waits for a server */
    o.compress = o.wait_for_ready = true;
    one_call(w, &seen[5], &o, cs_slice(large, 5000), 3);
}

static void check_calls(const struct seen seen[CALLS])
{
    static const size_t bytes[CALLS] = { 0, sizeof large, 3 * BULK_MESSAGE, 6, 175000, 2 * 8750 };

    for (int i = 0; i < CALLS; i++) {
        assert_int_equal(seen[i].status, i == 0 ? CS_RPC_NOT_FOUND : CS_RPC_OK);
        assert_int_equal(seen[i].bytes, bytes[i]);
    }
}

static void every_allocation_fails_once(void **state)
{
    long n = 0;

    (void)state;
    for (bool all = false; !all; n++) {
        struct world_case w;
        struct seen seen[CALLS];

        case_open(&w);
        cs_timer_start(w.guard, PATIENT_MS * 3);
        countdown = n;
        all_calls(&w, seen, LOST_MS);
        all = countdown >= 0;
        countdown = -1;
        for (int i = 0; i < CALLS; i++)
            seen_free(&seen[i]);
        if (w.up == 0) {
            /* a listener that had no memory to accept with may be stuck: that is the loop's, not ours */
            cs_rpc_server_close(w.server);
            case_serve(&w, NULL);
            run_ms(&w, 10);
        }
        all_calls(&w, seen, PATIENT_MS);
        check_calls(seen);
        for (int i = 0; i < CALLS; i++)
            seen_free(&seen[i]);
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
