/* Entries of the membership log that are right but for one thing: whose they are, or what was signed. */
#include "unit/identity/member_scene.h"

/* A log with every type in it, some of them twice. */
enum { LOG_LEN = 12 };
struct log {
    struct cs_buf entry[LOG_LEN];
    const struct cs_device_keys *author[LOG_LEN];
    size_t n;
};

static void take(struct scene *s, struct log *log, const struct cs_device_keys *author, int built)
{
    assert_int_equal(built, CS_OK);
    assert_int_equal(apply(s, 0), CS_OK);
    assert_true(log->n < LOG_LEN);
    log->author[log->n] = author;
    log->entry[log->n++] = s->entry;
    s->entry = (struct cs_buf){ 0 };
}

static void take_genesis(struct scene *s, struct log *log)
{
    cs_buf_put_slice(&log->entry[0], cs_buf_slice(&s->genesis));
    log->author[0] = &s->a;
    log->n = 1;
}

static void write_log(struct scene *s, struct log *log, struct cs_device_keys *paper)
{
    const struct cs_rng *r = &s->f.rng;
    struct cs_epoch_keys next;
    struct cs_cut cut = { s->c_id, 7, { 'c' } };

    derive(paper, CS_PRINCIPAL_PAPER, 5, &s->workspace);
    take_genesis(s, log);
    take(s, log, &s->a, build_invite(s));
    take(s, log, &s->invite, build_add(s, &s->invite.id, &s->invite, &s->b_id, &s->b, NOW));
    take(s, log, &s->b, build_add(s, &s->b_id, &s->b, &s->c_id, &s->c, NOW));
    for (int i = 0; i < 2; i++) {
        const struct cs_device_keys *by = i == 0 ? &s->a : &s->b;

        take(s, log, by,
             cs_entry_rotate(&s->entry, r, &s->m, i == 0 ? &s->a_id : &s->b_id, by, &s->epoch, &next, NOW, NULL));
        s->epoch = next;
        take(s, log, by,
             cs_entry_rename(&s->entry, r, &s->m, i == 0 ? &s->a_id : &s->b_id, by, &s->c_id, i == 0 ? "one" : "two",
                             &s->epoch, NOW, NULL));
    }
    take(s, log, &s->a,
         cs_entry_recovery(&s->entry, r, &s->m, &s->a_id, &s->a, paper, "p", &s->epoch, &floor_of_a, NOW, NULL));
    take(s, log, &s->b, cs_entry_remove(&s->entry, r, &s->m, &s->b_id, &s->b, &cut, 1, &s->epoch, &next, NOW, NULL));
    s->epoch = next;
    take(s, log, &s->a, cs_entry_rotate(&s->entry, r, &s->m, &s->a_id, &s->a, &s->epoch, &next, NOW, NULL));
    s->epoch = next;
    take(s, log, &s->b, cs_entry_rename(&s->entry, r, &s->m, &s->b_id, &s->b, &s->a_id, "desk", &s->epoch, NOW, NULL));
}

static void free_log(struct log *log)
{
    for (size_t i = 0; i < log->n; i++)
        cs_buf_free(&log->entry[i]);
}

/* The fold over the entries of these places, up to the first that is refused. */
static void fold(struct cs_membership *m, const struct log *log, const size_t *places, size_t n, int want)
{
    int rc = CS_OK;

    *m = (struct cs_membership){ 0 };
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        rc = cs_membership_apply(m, cs_buf_slice(&log->entry[places[i]]), 0, NULL);
    assert_true(want == CS_OK ? rc == CS_OK : rc < 0);
}

static void up_to(struct cs_membership *m, const struct log *log, size_t n)
{
    static const size_t places[LOG_LEN] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 };

    fold(m, log, places, n, CS_OK);
    assert_int_equal(m->seq, n);
}

static void left_out_doubled_swapped_and_cut_off(void **state)
{
    struct scene *s = *state;
    struct cs_device_keys paper;
    struct log log = { 0 };
    struct cs_membership m;
    size_t at[LOG_LEN + 1];

    write_log(s, &log, &paper);
    assert_int_equal(log.n, LOG_LEN);
    up_to(&m, &log, LOG_LEN);
    assert_memory_equal(m.head, s->m.head, 32);
    cs_membership_free(&m);
    for (size_t i = 0; i < LOG_LEN; i++) {
        size_t n = 0;

        up_to(&m, &log, i); /* what is cut off can only be seen by who knows the end */
        assert_true(m.seq < s->m.seq && memcmp(m.head, s->m.head, 32) != 0);
        cs_membership_free(&m);

        for (size_t k = 0; k < LOG_LEN; k++)
            if (k != i)
                at[n++] = k;
        if (i < LOG_LEN - 1) {
            fold(&m, &log, at, n, CS_ECORRUPT);
            assert_int_equal(m.seq, i);
            cs_membership_free(&m);
        }

        n = 0;
        for (size_t k = 0; k < LOG_LEN; k++) {
            at[n++] = k;
            if (k == i)
                at[n++] = k;
        }
        fold(&m, &log, at, n, CS_ECORRUPT);
        assert_int_equal(m.seq, i + 1);
        cs_membership_free(&m);

        for (size_t other = i + 1; other < LOG_LEN; other++) {
            for (size_t k = 0; k < LOG_LEN; k++)
                at[k] = k == i ? other : k == other ? i : k;
            fold(&m, &log, at, LOG_LEN, CS_ECORRUPT);
            assert_int_equal(m.seq, i);
            cs_membership_free(&m);
        }
    }
    free_log(&log);
}

/* The signature of each entry, over the same bytes, under every other label that a device signs. */
static void signatures_under_other_labels(void **state)
{
    static const char *const labels[] = {
        "audit row", "batch", "hub head", "possession", "register", "rpc", "session"
    };
    struct scene *s = *state;
    struct cs_device_keys paper;
    struct log log = { 0 };
    struct cs_membership m;

    write_log(s, &log, &paper);
    for (size_t i = 0; i < LOG_LEN; i++) {
        struct cs_slice e = cs_buf_slice(&log.entry[i]);
        uint8_t *sig = log.entry[i].data + e.len - CS_SIGNATURE_LEN;

        up_to(&m, &log, i);
        for (size_t k = 0; k < sizeof labels / sizeof labels[0]; k++) {
            cs_sign(&log.author[i]->sign, labels[k], entry_signed(e), sig);
            assert_true(cs_membership_check(&m, e, 0, NULL) < 0);
        }
        cs_sign(&log.author[i]->sign, "member entry", entry_signed(e), sig);
        assert_int_equal(cs_membership_check(&m, e, 0, NULL), CS_OK);
        cs_membership_free(&m);
    }
    free_log(&log);
}

/* The new member's own signature over its keys, made for something else, in an entry that is right otherwise. */
static void possession_under_other_labels(void **state)
{
    static const char *const labels[] = { "audit row", "batch", "hub head", "member entry",
                                          "register",  "rpc",   "session",  "possession" };
    struct scene *s = *state;
    uint8_t message[POSSESSION_LEN], *record;

    assert_int_equal(build_add(s, &s->a_id, &s->a, &s->b_id, &s->b, NOW), CS_OK);
    record = s->entry.data + CS_ENTRY_PREFIX_LEN;
    possession_message(message, s->workspace.b, record);
    for (size_t i = 0; i < sizeof labels / sizeof labels[0]; i++) {
        cs_sign(&s->b.sign, labels[i], cs_slice(message, sizeof message), record + RECORD_POSSESSION);
        resign(s, &s->a);
        assert_int_equal(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL),
                         strcmp(labels[i], "possession") == 0 ? CS_OK : CS_EAUTH);
    }
}

/* Every span of 16 bytes of an entry replaced by what stands there in another of its type: of another device, another
 * epoch, another time. */
static void parts_of_another_entry(void **state)
{
    struct scene *s = *state;
    struct cs_device_keys paper;
    struct log log = { 0 };
    struct cs_membership m;
    size_t changed = 0;

    write_log(s, &log, &paper);
    for (size_t i = 0; i < LOG_LEN; i++) {
        up_to(&m, &log, i);
        for (size_t other = 0; other < LOG_LEN; other++) {
            struct cs_slice from = cs_buf_slice(&log.entry[other]), e = cs_buf_slice(&log.entry[i]);

            if (other == i || from.len != e.len || from.data[4] != e.data[4])
                continue;
            for (size_t at = 0; at + 16 <= e.len; at++) {
                uint8_t kept[16];

                if (memcmp(e.data + at, from.data + at, 16) == 0)
                    continue;
                memcpy(kept, e.data + at, 16);
                memcpy(log.entry[i].data + at, from.data + at, 16);
                assert_true(cs_membership_check(&m, e, 0, NULL) < 0);
                memcpy(log.entry[i].data + at, kept, 16);
                changed++;
            }
        }
        cs_membership_free(&m);
    }
    assert_true(changed > 1000);
    up_to(&m, &log, LOG_LEN);
    assert_memory_equal(m.head, s->m.head, 32);
    cs_membership_free(&m);
    free_log(&log);
}

/* Every span of 16 bytes of an entry replaced by what stands there in the same entry of another workspace, and back. */
static void parts_of_another_workspace(void **state)
{
    struct scene *s = *state, *t;
    void *other = NULL;
    size_t changed = 0;

    setup(&other);
    t = other;
    cs_membership_free(&t->m);
    t->m = (struct cs_membership){ 0 };
    cs_buf_reset(&t->genesis);
    memset(t->workspace.b, 'v', 16);
    derive(&t->a, CS_PRINCIPAL_DEVICE, 9, &t->workspace);
    derive(&t->invite, CS_PRINCIPAL_INVITE, 9, &t->workspace);
    assert_int_equal(
        cs_entry_genesis(&t->genesis, &t->f.rng, &t->workspace, &t->b_id, &t->a, "laptop", &t->epoch, NOW, NULL),
        CS_OK);
    assert_int_equal(cs_membership_apply(&t->m, cs_buf_slice(&t->genesis), 0, NULL), CS_OK);
    t->a_id = t->b_id;
    assert_int_equal(build_invite(s), CS_OK);
    assert_int_equal(build_invite(t), CS_OK);
    assert_int_equal(s->entry.len, t->entry.len);
    for (size_t at = 0; at + 16 <= s->entry.len; at++) {
        uint8_t kept[16];

        memcpy(kept, s->entry.data + at, 16);
        if (memcmp(kept, t->entry.data + at, 16) == 0)
            continue;
        changed++;
        memcpy(s->entry.data + at, t->entry.data + at, 16);
        assert_true(cs_membership_check(&s->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
        assert_true(cs_membership_check(&t->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
        memcpy(s->entry.data + at, kept, 16);
    }
    assert_true(changed > 100);
    assert_true(cs_membership_check(&t->m, cs_buf_slice(&s->entry), 0, NULL) < 0);
    assert_int_equal(apply(s, 0), CS_OK);
    teardown(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = { SCENE(left_out_doubled_swapped_and_cut_off),
                                        SCENE(signatures_under_other_labels), SCENE(possession_under_other_labels),
                                        SCENE(parts_of_another_entry), SCENE(parts_of_another_workspace) };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("tamper", tests, NULL, NULL);
}
