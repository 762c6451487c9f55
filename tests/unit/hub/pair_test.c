/* The mailbox of joining without a code: who may put what, when, and who sees it. */
#include "unit/hub/service_scene.h"

#include <sqlite3.h>

#include "hub/offers.h"
#include "identity/pair.h"

/* A device that waits, and its side of the exchange. */
struct waiter {
    struct maker m;
    struct cs_pair pair;
    uint8_t hash[32];
};

static void waiter_init(struct waiter *w, uint8_t workspace, uint8_t id)
{
    maker_init(&w->m, workspace, id);
    cs_pair_offer(&w->pair, &w->m.rng, &w->m.workspace, &w->m.id, &w->m.keys);
    cs_hash_plain(cs_slice(w->pair.offer, sizeof w->pair.offer), w->hash);
}

static int offer(struct scene *s, const struct waiter *w, int want_state)
{
    const Clawsync__V1__RegisterDeviceResponse *a;
    struct call k;
    int status;

    register_call_with(&k, s, &w->m, CS_SLICE_NULL, cs_slice(w->pair.offer, sizeof w->pair.offer));
    status = k.status;
    if (status == CS_RPC_OK) {
        assert_int_equal(k.n, 1);
        a = clawsync__v1__register_device_response__unpack(NULL, k.message[0].len, k.message[0].data);
        assert_non_null(a);
        assert_int_equal(a->state, want_state);
        assert_null(a->head); /* of a workspace that is none of its business yet */
        FREE_ANSWER(a);
    }
    call_fini(&k);
    return status;
}
#define PENDING CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_PENDING

static void pair_call(struct call *k, struct scene *s, const struct maker *m, struct cs_slice message,
                      const uint8_t *hash)
{
    Clawsync__V1__PairRequest req = CLAWSYNC__V1__PAIR_REQUEST__INIT;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];

    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    req.workspace_id = ws;
    req.device_id = id;
    req.message = (ProtobufCBinaryData){ message.len, (uint8_t *)(uintptr_t)message.data };
    if (hash != NULL)
        req.offer_hash = (ProtobufCBinaryData){ 32, (uint8_t *)(uintptr_t)hash };
    ask(k, s, m, "Pair", &req.base);
}

static int put(struct scene *s, const struct maker *m, const uint8_t *message, size_t len, const uint8_t *hash)
{
    struct call k;
    int status;

    pair_call(&k, s, m, cs_slice(message, len), hash);
    status = k.status;
    call_fini(&k);
    return status;
}

/* How many exchanges m sees; the one of w, or NULL, as far as it has come: 1 to 4 messages. */
static size_t sees(struct scene *s, const struct maker *m, const struct waiter *w, int *come)
{
    Clawsync__V1__PairResponse *a;
    struct call k;
    size_t n;

    pair_call(&k, s, m, CS_SLICE_NULL, NULL);
    assert_int_equal(k.status, CS_RPC_OK);
    a = clawsync__v1__pair_response__unpack(NULL, k.message[0].len, k.message[0].data);
    assert_non_null(a);
    *come = 0;
    for (size_t i = 0; i < a->n_exchanges; i++) {
        const Clawsync__V1__PairExchange *x = a->exchanges[i];

        if (w != NULL && x->offer.len == sizeof w->pair.offer &&
            memcmp(x->offer.data, w->pair.offer, x->offer.len) == 0)
            *come = 1 + (x->answer.len > 0) + (x->reveal.len > 0) + (x->done.len > 0);
    }
    n = a->n_exchanges;
    clawsync__v1__pair_response__free_unpacked(a, NULL);
    call_fini(&k);
    return n;
}

static void workspace_of_a(struct scene *s)
{
    struct cs_buf genesis = { 0 };

    maker_genesis(&s->a, &genesis);
    maker_learn(&s->a, cs_buf_slice(&genesis));
    register_ok(s, &s->a, cs_buf_slice(&genesis));
    cs_buf_free(&genesis);
}

static void member_answers(struct scene *s, const struct waiter *w, struct cs_pair *p)
{
    struct cs_error err = { 0 };

    assert_int_equal(cs_pair_answer(p, &s->a.rng, cs_slice(w->pair.offer, sizeof w->pair.offer), &s->a.workspace,
                                    &s->a.id, s->a.keys.sign.pk, s->a.members.genesis, cs_hub_public_key(s->hub), &err),
                     CS_OK);
}

static void an_exchange(void **state)
{
    struct scene *s = *state;
    uint8_t reveal[CS_PAIR_REVEAL_LEN], done[CS_PAIR_DONE_LEN], junk[CS_PAIR_REVEAL_LEN] = "CSJ3";
    struct cs_pair_done end = { .member_seq = 2 };
    struct cs_pair member, late;
    struct waiter w, other;
    struct cs_error err = { 0 };
    int come;

    workspace_of_a(s);
    waiter_init(&w, 'w', 'n');
    waiter_init(&other, 'w', 'o');
    assert_int_equal(offer(s, &w, PENDING), CS_RPC_OK);
    assert_int_equal(offer(s, &w, PENDING), CS_RPC_OK); /* the answer was lost: the same again */
    assert_int_equal(offer(s, &other, PENDING), CS_RPC_OK);
    assert_int_equal(sees(s, &s->a, &w, &come), 2);
    assert_int_equal(come, 1);
    assert_int_equal(sees(s, &w.m, &w, &come), 1); /* its own only */
    assert_int_equal(come, 1);
    assert_int_equal(cs_pair_reveal(&w.pair, reveal, &err), CS_EINVAL);

    member_answers(s, &w, &member);
    member_answers(s, &w, &late);
    /* in its order, and by whoever it is to come from */
    assert_int_equal(put(s, &w.m, junk, sizeof junk, w.hash), CS_RPC_FAILED_PRECONDITION);
    assert_int_equal(put(s, &w.m, member.answer, sizeof member.answer, w.hash), CS_RPC_FAILED_PRECONDITION);
    assert_int_equal(put(s, &other.m, junk, sizeof junk, w.hash), CS_RPC_NOT_FOUND);
    assert_int_equal(put(s, &s->a, member.answer, sizeof member.answer, other.hash), CS_RPC_FAILED_PRECONDITION);
    assert_int_equal(put(s, &s->a, member.answer, sizeof member.answer, w.hash), CS_RPC_OK);
    assert_int_equal(put(s, &s->a, member.answer, sizeof member.answer, w.hash), CS_RPC_OK);
    assert_int_equal(put(s, &s->a, late.answer, sizeof late.answer, w.hash), CS_RPC_FAILED_PRECONDITION);
    assert_int_equal(sees(s, &w.m, &w, &come), 1);
    assert_int_equal(come, 2);
    assert_int_equal(cs_pair_take_answer(&w.pair, cs_slice(member.answer, sizeof member.answer), &err), CS_OK);
    assert_int_equal(cs_pair_reveal(&w.pair, reveal, &err), CS_OK);
    assert_int_equal(put(s, &s->a, reveal, sizeof reveal, w.hash), CS_RPC_FAILED_PRECONDITION);
    assert_int_equal(put(s, &w.m, reveal, sizeof reveal, w.hash), CS_RPC_OK);
    assert_int_equal(put(s, &w.m, junk, sizeof junk, w.hash), CS_RPC_FAILED_PRECONDITION);
    assert_int_equal(cs_pair_take_reveal(&member, cs_slice(reveal, sizeof reveal), &err), CS_OK);
    assert_int_equal(cs_pair_done(&member, &s->a.rng, &end, done, &err), CS_OK);
    assert_int_equal(put(s, &w.m, done, sizeof done, w.hash), CS_RPC_FAILED_PRECONDITION);
    assert_int_equal(put(s, &s->a, done, sizeof done, w.hash), CS_RPC_OK);
    assert_int_equal(sees(s, &w.m, &w, &come), 1);
    assert_int_equal(come, 4);
    /* what is none of the four */
    assert_int_equal(put(s, &s->a, done, sizeof done - 1, w.hash), CS_RPC_INVALID_ARGUMENT);
    assert_int_equal(put(s, &s->a, w.pair.offer, sizeof w.pair.offer, w.hash), CS_RPC_INVALID_ARGUMENT);
    assert_int_equal(put(s, &s->a, done, sizeof done, NULL), CS_RPC_INVALID_ARGUMENT);

    waiter_init(&w, 'w', 'n'); /* begins anew: in the old one's place */
    assert_int_equal(offer(s, &w, PENDING), CS_RPC_OK);
    assert_int_equal(sees(s, &s->a, &w, &come), 2);
    assert_int_equal(come, 1);
    maker_fini(&w.m);
    maker_fini(&other.m);
}

/* A device that waits may do nothing else, and one that waits nowhere not even that. */
static void waiting_is_no_membership(void **state)
{
    static const char *const methods[] = { "Heartbeat", "Pull", "Watch", "GetMembership", "AppendMembership" };
    struct scene *s = *state;
    struct waiter w, nowhere;
    struct call k;

    workspace_of_a(s);
    waiter_init(&w, 'w', 'n');
    waiter_init(&nowhere, 'x', 'n');
    assert_int_equal(offer(s, &w, PENDING), CS_RPC_OK);
    assert_int_equal(offer(s, &nowhere, PENDING), CS_RPC_OK); /* the same answer, and nothing is kept */
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        ask_bytes(&k, s, &w.m, methods[i], CS_SLICE_NULL);
        call_finish(&k);
        assert_int_equal(k.status, CS_RPC_PERMISSION_DENIED);
        assert_string_equal(k.kind, "pending");
        call_fini(&k);
    }
    pair_call(&k, s, &nowhere.m, CS_SLICE_NULL, NULL);
    assert_int_equal(k.status, CS_RPC_UNAUTHENTICATED);
    assert_string_equal(k.kind, "auth");
    call_fini(&k);
    maker_fini(&w.m);
    maker_fini(&nowhere.m);
}

static void whose_offer_it_is(void **state)
{
    struct scene *s = *state;
    struct waiter w, thief, member;
    struct call k;
    int come;

    workspace_of_a(s);
    waiter_init(&w, 'w', 'n');
    assert_int_equal(offer(s, &w, PENDING), CS_RPC_OK);
    waiter_init(&thief, 'w', 't'); /* another key for the same id: told the same, and the first stands */
    thief.m.id = w.m.id;
    cs_pair_offer(&thief.pair, &thief.m.rng, &thief.m.workspace, &thief.m.id, &thief.m.keys);
    assert_int_equal(offer(s, &thief, PENDING), CS_RPC_OK);
    assert_int_equal(sees(s, &s->a, &w, &come), 1);
    assert_int_equal(come, 1);
    thief.pair.offer[150] ^= 1; /* no proof that it has the key */
    assert_int_equal(offer(s, &thief, PENDING), CS_RPC_INVALID_ARGUMENT);
    register_call_with(&k, s, &thief.m, CS_SLICE_NULL, cs_slice(w.pair.offer, sizeof w.pair.offer));
    assert_int_equal(k.status, CS_RPC_INVALID_ARGUMENT); /* another's */
    call_fini(&k);
    register_call_with(&k, s, &w.m, CS_SLICE_NULL, cs_slice(w.pair.offer, sizeof w.pair.offer - 1));
    assert_int_equal(k.status, CS_RPC_INVALID_ARGUMENT);
    call_fini(&k);
    member = (struct waiter){ .m = s->a }; /* one that is in is told so */
    cs_pair_offer(&member.pair, &s->a.rng, &s->a.workspace, &s->a.id, &s->a.keys);
    assert_int_equal(offer(s, &member, CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_MEMBER), CS_RPC_OK);
    assert_int_equal(sees(s, &s->a, &w, &come), 1);
    maker_fini(&w.m);
    maker_fini(&thief.m);
}

static void few_wait_at_a_time(void **state)
{
    struct scene *s = *state;
    struct waiter w[CS_OFFERS_MAX + 1];
    int come;

    workspace_of_a(s);
    for (size_t i = 0; i <= CS_OFFERS_MAX; i++) {
        waiter_init(&w[i], 'w', (uint8_t)(0x80 + i));
        assert_int_equal(offer(s, &w[i], PENDING), i < CS_OFFERS_MAX ? CS_RPC_OK : CS_RPC_RESOURCE_EXHAUSTED);
    }
    assert_int_equal(sees(s, &s->a, &w[0], &come), CS_OFFERS_MAX);
    for (size_t i = 0; i <= CS_OFFERS_MAX; i++)
        maker_fini(&w[i].m);
}

/* And fewer of one address, which a hub counts for all but its own machine, unless told otherwise. */
static void few_of_an_address(void **state)
{
    struct scene *s = *state;
    struct waiter w[3];

    hub_down(s, 0);
    s->options.limit_loopback = true;
    hub_up(s);
    workspace_of_a(s);
    for (size_t i = 0; i < 3; i++) {
        waiter_init(&w[i], i == 1 ? 'x' : 'w', (uint8_t)(0x80 + i)); /* whichever workspace it is */
        assert_int_equal(offer(s, &w[i], PENDING), i < 2 ? CS_RPC_OK : CS_RPC_RESOURCE_EXHAUSTED);
    }
    assert_int_equal(offer(s, &w[0], PENDING), CS_RPC_OK); /* the same device once more takes no more room */
    for (size_t i = 0; i < 3; i++)
        maker_fini(&w[i].m);
}

/* A restart keeps them; time ends them. */
static void they_last_and_run_out(void **state)
{
    struct scene *s = *state;
    struct waiter w;
    struct call k;
    sqlite3 *db;
    int come;

    workspace_of_a(s);
    waiter_init(&w, 'w', 'n');
    assert_int_equal(offer(s, &w, PENDING), CS_RPC_OK);
    hub_down(s, 0);
    hub_up(s);
    assert_int_equal(sees(s, &s->a, &w, &come), 1);
    hub_down(s, 0);
    assert_int_equal(sqlite3_open(s->database, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE offer SET made_ms = made_ms - 900001", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    hub_up(s);
    assert_int_equal(sees(s, &s->a, &w, &come), 0);
    pair_call(&k, s, &w.m, CS_SLICE_NULL, NULL);
    assert_int_equal(k.status, CS_RPC_UNAUTHENTICATED);
    call_fini(&k);
    assert_int_equal(offer(s, &w, PENDING), CS_RPC_OK);
    assert_int_equal(sees(s, &s->a, &w, &come), 1);
    maker_fini(&w.m);
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test_setup_teardown(an_exchange, setup, teardown),
        cmocka_unit_test_setup_teardown(waiting_is_no_membership, setup, teardown),
        cmocka_unit_test_setup_teardown(whose_offer_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(few_wait_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(few_of_an_address, setup, teardown),
        cmocka_unit_test_setup_teardown(they_last_and_run_out, setup, teardown),
    };

    return cmocka_run_group_tests_name("pair", t, NULL, NULL);
}
