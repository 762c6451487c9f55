/* A member that changes the key and does not share it rightly with another: that one says whose fault it is, and goes
 * on when somebody else has changed the key once more. */
#include "unit/engine/forger.h"

#include "identity/entry_format.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

struct scene {
    struct hub hub;
    struct device a, b, c;
    unsigned found;
};

static void on_event(void *arg, const clawsync_event *ev)
{
    struct scene *s = arg;

    s->found += ev->type == CLAWSYNC_EVENT_SYNC_ERROR && strcmp(ev->name, "BAD_WRAP") == 0;
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    assert_non_null(s);
    hub_init(&s->hub);
    device_enter(&s->a, schema, s->hub.endpoint, NULL, on_event, s);
    device_enter(&s->b, schema, s->hub.endpoint, &s->a, on_event, s);
    device_enter(&s->c, schema, s->hub.endpoint, &s->b, on_event, s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    device_fini(&s->a);
    device_fini(&s->b);
    device_fini(&s->c);
    hub_fini(&s->hub);
    free(s);
    return 0;
}

/* ---- a rotation by a's key, bent, and put into the hub's log ---- */

/* The share for that device is bent; the rest is in order, and signed. */
static void rotate_badly(struct forger *f, const char *device, struct cs_buf *entry)
{
    const struct cs_epoch_keys *now = cs_keystore_epoch(f->ks, f->m.epoch);
    struct cs_epoch_keys next;
    struct cs_error err = { 0 };
    struct cs_uuid id;
    struct cs_slice e;
    uint8_t *body;

    assert_non_null(now);
    assert_true(cs_uuid_parse(&id, device));
    assert_int_equal(
        cs_entry_rotate(entry, &f->rng, &f->m, &f->ks->device, &f->keys, now, &next, cs_now_ms(f->rng.world), &err),
        CS_OK);
    e = cs_buf_slice(entry);
    body = entry->data + CS_ENTRY_PREFIX_LEN;
    for (uint16_t i = 0; i < cs_load_u16(body + EPOCH_COUNT); i++)
        if (memcmp(body + EPOCH_WRAPS + i * EPOCH_WRAP_LEN, id.b, 16) == 0)
            body[EPOCH_WRAPS + i * EPOCH_WRAP_LEN + 16 + 40] ^= 1;
    cs_sign(&f->keys.sign, "member entry", entry_signed(e), entry->data + e.len - CS_SIGNATURE_LEN);
    assert_int_equal(cs_membership_check(&f->m, e, 0, &err), CS_OK); /* who has no key to it cannot tell */
}

static void hub_has(struct scene *s, struct cs_slice entry)
{
    sqlite3 *db = hub_open(&s->hub);
    uint8_t hash[32];

    assert_true(cs_entry_hash(entry, hash));
    hub_run(db, "INSERT INTO entry(workspace, seq, hash, entry) SELECT workspace, ?, ?, ? FROM workspace", "ibb",
            (int64_t)cs_entry_seq(entry), cs_slice(hash, sizeof hash), entry);
    hub_run(db, "UPDATE workspace SET member_seq = ?, entry_hash = ?, epoch = epoch + 1", "ib",
            (int64_t)cs_entry_seq(entry), cs_slice(hash, sizeof hash));
    sqlite3_close(db);
}

static int round_of(const struct device *d, clawsync_error *err)
{
    return clawsync_engine_sync_now(d->engine, NULL, err);
}

static void id_of(const struct device *d, char out[37])
{
    clawsync_status st = { .size = sizeof st };

    assert_int_equal(clawsync_engine_status(d->engine, &st, NULL), CLAWSYNC_OK);
    snprintf(out, 37, "%s", st.device_id);
}

static void whose_fault_it_is(void **state)
{
    struct scene *s = *state;
    struct cs_buf entry = { 0 };
    clawsync_error err = { 0 };
    struct forger f;
    char a[37], b[37];
    uint32_t epoch;

    ok(round_of(&s->a, &err), &err);
    id_of(&s->a, a);
    id_of(&s->b, b);
    app(&s->b, "INSERT INTO memories VALUES('unsent', 'x')");
    device_close(&s->a); /* its keystore is on disk */
    forger_init(&f, &s->a);
    rotate_badly(&f, b, &entry);
    hub_stop(&s->hub);
    hub_has(s, cs_buf_slice(&entry));
    hub_start(&s->hub);
    forger_fini(&f);
    cs_buf_free(&entry);
    for (int i = 0; i < 3; i++) {
        if (i == 2) { /* after a restart, too */
            device_close(&s->b);
            s->b.config.hub_endpoint = s->hub.endpoint;
            device_open(&s->b);
            ok(clawsync_engine_subscribe(s->b.engine, on_event, s, &err), &err);
        } else if (i == 0) {
            device_close(&s->b);
            device_close(&s->c);
            s->b.config.hub_endpoint = s->c.config.hub_endpoint = s->hub.endpoint;
            device_open(&s->b);
            device_open(&s->c);
            ok(clawsync_engine_subscribe(s->b.engine, on_event, s, &err), &err);
        }
        assert_int_equal(round_of(&s->b, &err), CLAWSYNC_EAUTH);
        assert_non_null(strstr(err.msg, "BAD_WRAP"));
        assert_non_null(strstr(err.msg, a));
        assert_non_null(strstr(err.msg, "keys rotate"));
    }
    assert_int_equal(s->found, 3);
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM memories"), 1);
    ok(clawsync_engine_rotate_keys(s->c.engine, &epoch, &err), &err);
    app(&s->c, "INSERT INTO memories VALUES('of c', 'x')");
    ok(round_of(&s->c, &err), &err);
    ok(round_of(&s->b, &err), &err);
    ok(round_of(&s->c, &err), &err);
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM memories"), 2);
    assert_int_equal(number_in(&s->c, "SELECT count(*) FROM memories"), 2);
    assert_int_equal(s->found, 3);
}

int main(void)
{
    const struct CMUnitTest t[] = { cmocka_unit_test_setup_teardown(whose_fault_it_is, setup, teardown) };

    return cmocka_run_group_tests_name("shares of the key", t, NULL, NULL);
}
