/* Refill: a hub gets membership entries back, and a new log; from whom, and from whom not. */
#include "unit/hub/service_scene.h"

enum { NEW_LOG = 77, OTHER_LOG = 78, STAMP = 5 };

/* A's and B's workspace, and what a refill says of it. */
struct lost {
    struct scene *s;
    struct cs_buf entries[4];
    size_t n;
    struct cs_hub_head head; /* of the last answer */
    uint64_t log_id, number, new_log;
    bool wrong_signature;
};

static void put_content(const struct lost *l, struct cs_buf *out)
{
    cs_buf_put_u64(out, l->log_id);
    cs_buf_put_u64(out, l->number);
    cs_buf_put_u64(out, l->new_log);
    cs_buf_put_u64(out, STAMP);
    for (size_t i = 0; i < l->n; i++) {
        cs_buf_put_u32(out, (uint32_t)l->entries[i].len);
        cs_buf_put_slice(out, cs_buf_slice(&l->entries[i]));
    }
}

static void request(struct lost *l, const struct maker *m, struct cs_call_proof *p, struct cs_buf *body)
{
    Clawsync__V1__RefillRequest req = CLAWSYNC__V1__REFILL_REQUEST__INIT;
    struct cs_refill_proof proof = { .workspace = m->workspace, .device = m->id };
    struct scene *s = l->s;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_buf content = { 0 };
    uint8_t sig[64];

    if (!s->has_session)
        session_open(s);
    put_content(l, &content);
    proof.counter = ++s->counter;
    proof.content = cs_buf_slice(&content);
    cs_refill_prove(&s->session, &m->keys.sign, &proof, sig);
    sig[3] ^= l->wrong_signature;
    *p = (struct cs_call_proof){ .counter = proof.counter, .workspace = m->workspace, .device = m->id };
    memcpy(p->session, s->session.id, sizeof p->session);
    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    req.workspace_id = ws;
    req.device_id = id;
    req.signed_challenge = (ProtobufCBinaryData){ sizeof sig, sig };
    req.content = (ProtobufCBinaryData){ content.len, content.data };
    clawsync__v1__refill_request__pack(&req, cs_buf_grow(body, clawsync__v1__refill_request__get_packed_size(&req)));
    cs_buf_free(&content);
}

static int send_request(struct lost *l, const struct maker *m, const struct cs_call_proof *p, const struct cs_buf *body)
{
    struct call k;
    int status;

    call_with(&k, l->s, "Refill", p);
    k.unary = true;
    assert_int_equal(cs_rpc_call_send(k.call, cs_buf_slice(body)), CS_OK);
    cs_rpc_call_half_close(k.call);
    call_finish(&k);
    status = k.status;
    if (status == CS_RPC_OK) {
        const Clawsync__V1__RefillResponse *a =
            clawsync__v1__refill_response__unpack(NULL, k.message[0].len, k.message[0].data);

        assert_true(k.genuine);
        assert_non_null(a);
        check_head(l->s, &m->workspace, a->head, &l->head);
        FREE_ANSWER(a);
    } else if (status == CS_RPC_UNAUTHENTICATED && strcmp(k.kind, "new-session") != 0) {
        assert_string_equal(k.text, "unknown device or wrong key"); /* whatever is wrong, the same words */
    }
    call_fini(&k);
    return status;
}

static int refill(struct lost *l, const struct maker *m)
{
    struct cs_buf body = { 0 };
    struct cs_call_proof p;
    int status;

    request(l, m, &p, &body);
    status = send_request(l, m, &p, &body);
    cs_buf_free(&body);
    return status;
}

static void membership(struct lost *l, struct scene *s)
{
    *l = (struct lost){ .s = s, .n = 2, .new_log = NEW_LOG };
    maker_genesis(&s->a, &l->entries[0]);
    maker_learn(&s->a, cs_buf_slice(&l->entries[0]));
    maker_add(&s->b, &s->a, &l->entries[1]);
    for (int i = 0; i < 2; i++) {
        if (i > 0)
            maker_learn(&s->a, cs_buf_slice(&l->entries[i]));
        maker_learn(&s->b, cs_buf_slice(&l->entries[i]));
    }
}

static void in_use(struct lost *l, struct scene *s)
{
    membership(l, s);
    register_ok(s, &s->a, cs_buf_slice(&l->entries[0]));
    register_ok(s, &s->b, cs_buf_slice(&l->entries[1]));
    push_ok(s, &s->a, 100, 1);
    push_ok(s, &s->b, 100, 1);
    l->log_id = s->a.log_id;
    l->number = 2;
}

static void lost_fini(struct lost *l)
{
    for (size_t i = 0; i < sizeof l->entries / sizeof l->entries[0]; i++)
        cs_buf_free(&l->entries[i]);
}

/* The maker's chain as it is in a log that the first refill began. */
static void goes_over(struct maker *m, const struct cs_hub_head *head)
{
    maker_saw(m, head);
    m->number = CS_CHAIN_BASE(1);
    cs_chain_start(&m->workspace, head->log_id, m->prev);
}

static const char *push_kind(struct scene *s, struct maker *m)
{
    static char kind[32];
    struct made *b = maker_batch(m, 100, 1);
    const Clawsync__V1__PushResponse *a;
    struct call k;

    ask(&k, s, m, "Push", &b->req.base);
    assert_int_equal(k.n, 1);
    a = push_answer(&k, 0);
    snprintf(kind, sizeof kind, "%s", a->accepted ? "accepted" : a->kind);
    FREE_ANSWER(a);
    call_fini(&k);
    return kind;
}

static void an_emptied_hub(void **state)
{
    struct scene *s = *state;
    struct pulled p;
    struct lost l;

    membership(&l, s);
    assert_int_equal(refill(&l, &s->b), CS_RPC_OK); /* not by the one who made the workspace */
    assert_int_equal(l.head.log_id, NEW_LOG);
    assert_int_equal(l.head.refilled, 1);
    assert_int_equal(l.head.number, 0);
    assert_int_equal(l.head.member_seq, 2);
    maker_saw(&s->a, &l.head);
    assert_string_equal(push_kind(s, &s->a), "order"); /* its chain of the log that is gone */
    goes_over(&s->a, &l.head);
    push_ok(s, &s->a, 100, 1);
    push_ok(s, &s->a, 100, 1);
    goes_over(&s->b, &l.head);
    push_ok(s, &s->b, 100, 1);
    pull(s, &s->b, (struct pull_options){ .log_id = NEW_LOG }, &p);
    assert_int_equal(p.last, 3);
    lost_fini(&l);
}

static void a_log_is_ended_once(void **state)
{
    struct scene *s = *state;
    struct pulled p;
    struct lost l;
    bool required;
    struct call k;

    in_use(&l, s);
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    l.number = 1;
    assert_int_equal(refill(&l, &s->a), CS_RPC_ABORTED); /* it has moved since it was looked at */
    l.number = 2;
    l.log_id++;
    assert_int_equal(refill(&l, &s->a), CS_RPC_ABORTED);
    l.log_id = l.number = 0;
    assert_int_equal(refill(&l, &s->a), CS_RPC_ABORTED); /* it knows the workspace */
    pull(s, &s->b, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.last, 2);
    l.log_id = s->a.log_id;
    l.number = 2;
    assert_int_equal(refill(&l, &s->a), CS_RPC_OK);
    assert_int_equal(l.head.number, 0);
    goes_over(&s->a, &l.head);
    push_ok(s, &s->a, 100, 1);
    assert_int_equal(refill(&l, &s->a), CS_RPC_OK); /* the answer was lost: the log stays */
    assert_int_equal(l.head.number, 1);
    l.new_log = OTHER_LOG;
    assert_int_equal(refill(&l, &s->b), CS_RPC_ABORTED); /* B looked before A began */
    heartbeat(&k, s, &s->b, &required);
    assert_true(required); /* how far B had read was in the other log */
    call_fini(&k);
    lost_fini(&l);
}

static void strangers(void **state)
{
    struct scene *s = *state;
    struct cs_buf body = { 0 };
    struct cs_call_proof p;
    struct maker c;
    struct lost l;

    membership(&l, s);
    maker_init(&c, 'w', 'c');
    assert_int_equal(refill(&l, &c), CS_RPC_UNAUTHENTICATED); /* not in what it brings */
    l.wrong_signature = true;
    assert_int_equal(refill(&l, &s->a), CS_RPC_UNAUTHENTICATED);
    l.wrong_signature = false;
    request(&l, &s->a, &p, &body);
    body.data[body.len - 1] ^= 1; /* of the last entry: the proof is over it */
    assert_int_equal(send_request(&l, &s->a, &p, &body), CS_RPC_UNAUTHENTICATED);
    cs_buf_reset(&body);
    l.entries[1].data[100] ^= 1; /* and with a proof over a forged one */
    assert_int_equal(refill(&l, &s->a), CS_RPC_INVALID_ARGUMENT);
    l.entries[1].data[100] ^= 1;
    l.n = 0;
    assert_int_equal(refill(&l, &s->a), CS_RPC_UNAUTHENTICATED);
    l.n = 2;
    request(&l, &s->a, &p, &body);
    assert_int_equal(send_request(&l, &s->a, &p, &body), CS_RPC_OK);
    assert_int_equal(send_request(&l, &s->a, &p, &body), CS_RPC_UNAUTHENTICATED); /* each counter once */
    cs_buf_free(&body);
    maker_fini(&c);
    lost_fini(&l);
}

/* Whoever the hub does not have in its own membership gets in by an entry that it brings along no way: neither with an
 * invite that ran out, nor after its removal. */
static void no_way_in(void **state)
{
    struct scene *s = *state;
    struct cs_epoch_keys *next = cs_secret_alloc(sizeof *next);
    struct cs_cut cut;
    struct cs_error err;
    struct pulled p;
    struct maker c;
    struct lost l;

    in_use(&l, s);
    maker_init(&c, 'w', 'c');
    maker_add(&c, &s->a, &l.entries[2]);
    l.n = 3;
    assert_int_equal(refill(&l, &c), CS_RPC_UNAUTHENTICATED);
    cs_buf_reset(&l.entries[2]);
    cut = (struct cs_cut){ .id = s->b.id, .number = s->b.number };
    memcpy(cut.hash, s->b.prev, 32);
    assert_non_null(next);
    assert_int_equal(cs_entry_remove(&l.entries[2], &s->a.rng, &s->a.members, &s->a.id, &s->a.keys, &cut, 1,
                                     &s->a.epoch, next, cs_now_ms(s->world), &err),
                     CS_OK);
    l.new_log = 0; /* an entry that the hub had lost, and nothing more */
    assert_int_equal(refill(&l, &s->a), CS_RPC_OK);
    assert_int_equal(l.head.member_seq, 3);
    assert_int_equal(l.head.log_id, s->a.log_id);
    l.new_log = NEW_LOG;
    assert_int_equal(refill(&l, &s->b), CS_RPC_UNAUTHENTICATED);
    l.n = 2;
    assert_int_equal(refill(&l, &s->b), CS_RPC_UNAUTHENTICATED);
    pull(s, &s->a, (struct pull_options){ 0 }, &p);
    assert_int_equal(p.last, 2);
    cs_secret_free(next);
    maker_fini(&c);
    lost_fini(&l);
}

static void another_membership(void **state)
{
    struct scene *s = *state;
    struct lost l;

    in_use(&l, s);
    l.entries[1].data[l.entries[1].len - 1] ^= 1; /* not the entry that the hub has there */
    assert_int_equal(refill(&l, &s->a), CS_RPC_ABORTED);
    l.entries[1].data[l.entries[1].len - 1] ^= 1;
    l.n = 1; /* what the hub has beyond stays */
    assert_int_equal(refill(&l, &s->a), CS_RPC_OK);
    assert_int_equal(l.head.member_seq, 2);
    lost_fini(&l);
}

static int append_refill(struct scene *s, struct lost *l, const struct cs_floor *to)
{
    Clawsync__V1__AppendMembershipRequest req = CLAWSYNC__V1__APPEND_MEMBERSHIP_REQUEST__INIT;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_floor from = { .log_id = 1 };
    struct cs_buf entry = { 0 };
    struct cs_error err;
    struct call k;

    assert_int_equal(
        cs_entry_refill(&entry, &s->a.members, &s->a.id, &s->a.keys, &from, to, NULL, 0, cs_now_ms(s->world), &err),
        CS_OK);
    cs_uuid_text(ws, &s->a.workspace);
    cs_uuid_text(id, &s->a.id);
    req.workspace_id = ws;
    req.device_id = id;
    req.entry = (ProtobufCBinaryData){ entry.len, entry.data };
    ask(&k, s, &s->a, "AppendMembership", &req.base);
    if (k.status == CS_RPC_OK) {
        maker_learn(&s->a, cs_buf_slice(&entry));
        cs_buf_put_slice(&l->entries[2], cs_buf_slice(&entry));
    }
    call_fini(&k);
    cs_buf_free(&entry);
    return k.status;
}

static void the_entry_names_this_log(void **state)
{
    struct scene *s = *state;
    struct cs_floor to = { .log_id = NEW_LOG, .number = 1 };
    struct pulled p;
    struct lost l;

    in_use(&l, s);
    assert_int_equal(refill(&l, &s->a), CS_RPC_OK);
    goes_over(&s->a, &l.head);
    push_ok(s, &s->a, 100, 1);
    pull(s, &s->a, (struct pull_options){ .log_id = NEW_LOG }, &p);
    memcpy(to.log_hash, p.head.log_hash, 32);
    to.number = 2; /* more than there is */
    assert_int_equal(append_refill(s, &l, &to), CS_RPC_ABORTED);
    to.number = 1;
    to.log_hash[0] ^= 1;
    assert_int_equal(append_refill(s, &l, &to), CS_RPC_ABORTED);
    to.log_hash[0] ^= 1;
    to.log_id = OTHER_LOG; /* which another refill has ended meanwhile */
    assert_int_equal(append_refill(s, &l, &to), CS_RPC_ABORTED);
    to.log_id = NEW_LOG;
    assert_int_equal(append_refill(s, &l, &to), CS_RPC_OK);
    l.log_id = NEW_LOG;
    l.number = 1;
    l.new_log = OTHER_LOG;
    assert_int_equal(refill(&l, &s->b), CS_RPC_ABORTED); /* B looked before the entry was there */
    l.n = 3;
    assert_int_equal(refill(&l, &s->b), CS_RPC_OK); /* the next one is the second */
    assert_int_equal(l.head.refilled, 2);
    lost_fini(&l);
}

/* Of a device that has sent nothing since a removal names what its chain begins with. */
static void removal_after_a_refill(void **state)
{
    struct scene *s = *state;
    Clawsync__V1__AppendMembershipRequest req = CLAWSYNC__V1__APPEND_MEMBERSHIP_REQUEST__INIT;
    struct cs_epoch_keys *next = cs_secret_alloc(sizeof *next);
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_cut cut = { .id = s->b.id };
    struct cs_error err;
    struct call k;
    struct lost l;

    in_use(&l, s);
    assert_non_null(next);
    assert_int_equal(refill(&l, &s->a), CS_RPC_OK);
    goes_over(&s->a, &l.head);
    cs_uuid_text(ws, &s->a.workspace);
    cs_uuid_text(id, &s->a.id);
    req.workspace_id = ws;
    req.device_id = id;
    for (int right = 0; right < 2; right++) {
        struct cs_buf entry = { 0 };

        cut.number = right ? CS_CHAIN_BASE(1) : s->b.number; /* not where it was in the log that is gone */
        memcpy(cut.hash, s->b.prev, 32);
        if (right)
            cs_chain_start(&s->a.workspace, NEW_LOG, cut.hash);
        assert_int_equal(cs_entry_remove(&entry, &s->a.rng, &s->a.members, &s->a.id, &s->a.keys, &cut, 1, &s->a.epoch,
                                         next, cs_now_ms(s->world), &err),
                         CS_OK);
        req.entry = (ProtobufCBinaryData){ entry.len, entry.data };
        ask(&k, s, &s->a, "AppendMembership", &req.base);
        assert_int_equal(k.status, right ? CS_RPC_OK : CS_RPC_ABORTED);
        call_fini(&k);
        cs_buf_free(&entry);
    }
    cs_secret_free(next);
    lost_fini(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_emptied_hub, setup, teardown),
        cmocka_unit_test_setup_teardown(a_log_is_ended_once, setup, teardown),
        cmocka_unit_test_setup_teardown(strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(no_way_in, setup, teardown),
        cmocka_unit_test_setup_teardown(another_membership, setup, teardown),
        cmocka_unit_test_setup_teardown(the_entry_names_this_log, setup, teardown),
        cmocka_unit_test_setup_teardown(removal_after_a_refill, setup, teardown),
    };

    return cmocka_run_group_tests_name("refill", tests, NULL, NULL);
}
