/* The receiver's checks, row by row: batches that a member has signed, or a hub has made up, with one thing wrong. Each
 * has its name, stops what it should, and changes nothing in the database. */
#include "unit/delta/sample.h"
#include "unit/engine/forger.h"

#include "replica/review.h"
#include "rpc/rpc.h"

static const char schema[] = "CREATE TABLE memories(id TEXT PRIMARY KEY, content TEXT);";

struct scene;
struct row {
    const char *what, *name; /* NULL: nothing is wrong, it is taken */
    int code;                /* of the pull: CLAWSYNC_OK, the batch or its device is set aside */
    void (*header)(struct scene *s, struct cs_batch_header *h); /* before it is sealed and signed */
    void (*batch)(struct scene *s, struct cs_batch *b);         /* afterwards; signed once more if `sign` */
    bool sign;
    bool other_key;    /* sealed under another epoch's key */
    bool after_rotate; /* others have a newer epoch in the log */
    bool again;        /* under a number that was used */
};

struct scene {
    struct hub hub;
    struct device a, b;
    struct forger f;
    cs_packer *packer;
    char found[32];
};

static void on_event(void *arg, const clawsync_event *ev)
{
    struct scene *s = arg;

    if (ev->type == CLAWSYNC_EVENT_SYNC_ERROR)
        snprintf(s->found, sizeof s->found, "%s", ev->name);
}

/* Both have a batch of a's, and a is the forger from now on. */
static void begin(struct scene *s)
{
    clawsync_error err = { 0 };

    hub_init(&s->hub);
    device_enter(&s->a, schema, s->hub.endpoint, NULL, on_event, s);
    device_enter(&s->b, schema, s->hub.endpoint, &s->a, on_event, s);
    app(&s->a, "INSERT INTO memories VALUES('honest', 'x')");
    for (int i = 0; i < 2; i++) {
        ok(clawsync_engine_sync_now(s->a.engine, NULL, &err), &err);
        ok(clawsync_engine_sync_now(s->b.engine, NULL, &err), &err);
    }
    device_close(&s->a);
    forger_init(&s->f, &s->a);
    assert_int_equal(cs_packer_new(&s->packer, &s->f.rng, NULL), CS_OK);
}

static void end(struct scene *s)
{
    cs_packer_free(s->packer);
    forger_fini(&s->f);
    device_fini(&s->a);
    device_fini(&s->b);
    hub_fini(&s->hub);
}

/* ---- what is wrong ---- */

static void resign(const struct scene *s, struct cs_batch *b)
{
    struct cs_buf m = { 0 };

    cs_buf_put(&m, b->header, sizeof b->header);
    cs_buf_put_slice(&m, cs_buf_slice(&b->hashes));
    cs_sign(&s->f.keys.sign, "batch", cs_buf_slice(&m), b->signature);
    cs_buf_free(&m);
}

static void rehash(struct cs_batch *b)
{
    for (uint32_t i = 0; i < b->nchunks; i++)
        cs_hash_plain(cs_batch_chunk(b, i), b->hashes.data + (size_t)i * 32);
}

static void newer_format(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->header[3] = '2';
}
static void reserved_byte(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->header[7] = 1;
}
static void other_workspace(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->header[8] ^= 1;
}
static void stranger(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->header[24] ^= 1;
}
static void wrong_signature(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->signature[9] ^= 1;
}
static void wrong_chunk(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->sealed.data[b->sealed.len - 1] ^= 1;
}
static void wrong_ciphertext(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->sealed.data[b->sealed.len - 1] ^= 1;
    rehash(b);
}
static void wrong_commitment(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->sealed.data[0] ^= 1;
    rehash(b);
}
static void gap(struct scene *s, struct cs_batch_header *h)
{
    (void)s;
    h->number++;
}
static void other_prev(struct scene *s, struct cs_batch_header *h)
{
    (void)s;
    h->prev[0] ^= 1;
}
static void epoch_not_in_force(struct scene *s, struct cs_batch_header *h)
{
    (void)s;
    h->epoch = 1;
}
static void cite(struct scene *s, struct cs_batch_header *h, uint8_t log_hash0)
{
    uint8_t l[32];

    memcpy(l, s->f.ks->log_hash, 32);
    l[0] ^= log_hash0;
    cs_seen_digest(&h->workspace, h->seen_log, h->seen_number, l, h->member_seq, s->f.m.head, h->seen);
}
static void older_membership(struct scene *s, struct cs_batch_header *h)
{
    h->member_seq--;
    h->epoch = 1; /* which was in force there */
    cite(s, h, 0);
}
static void unknown_membership(struct scene *s, struct cs_batch_header *h)
{
    h->member_seq += 7;
    cite(s, h, 0);
}
static void other_log_seen(struct scene *s, struct cs_batch_header *h)
{
    cite(s, h, 1);
}
static void other_log_id(struct scene *s, struct cs_batch_header *h)
{
    h->seen_log++;
    cite(s, h, 0);
}
static void seen_itself(struct scene *s, struct cs_batch_header *h)
{
    h->seen_number += 1;
    cite(s, h, 0);
}
static void snapshot(struct scene *s, struct cs_batch *b)
{
    (void)s;
    b->header[4] = CS_BATCH_SNAPSHOT;
}

static const struct row rows[] = {
    { .what = "in order" },
    { "a newer format", "UPDATE_NEEDED", CLAWSYNC_EVERSION, NULL, newer_format, true, 0, 0, 0 },
    { "a reserved byte", "BAD_HEADER", CLAWSYNC_OK, NULL, reserved_byte, true, 0, 0, 0 },
    { "a snapshot", "BAD_HEADER", CLAWSYNC_OK, NULL, snapshot, true, 0, 0, 0 },
    { "another workspace", "WRONG_WORKSPACE", CLAWSYNC_EHUB, NULL, other_workspace, true, 0, 0, 0 },
    { "membership that nobody has", "HUB_WITHHELD", CLAWSYNC_EHUB, unknown_membership, NULL, false, 0, 0, 0 },
    { "a stranger", "NOT_A_MEMBER", CLAWSYNC_OK, NULL, stranger, true, 0, 0, 0 },
    { "another signature", "BAD_SIGNATURE", CLAWSYNC_OK, NULL, wrong_signature, false, 0, 0, 0 },
    { "a gap in the device's chain", "BROKEN_CHAIN", CLAWSYNC_OK, gap, NULL, false, 0, 0, 0 },
    { "another batch before", "BROKEN_CHAIN", CLAWSYNC_OK, other_prev, NULL, false, 0, 0, 0 },
    { "a number twice", "BATCH_FORK", CLAWSYNC_EHUB, NULL, NULL, false, 0, 0, .again = true },
    { "an epoch that was not in force", "BAD_HEADER", CLAWSYNC_OK, epoch_not_in_force, NULL, false, 0, 0, 0 },
    { "membership below the last batch's", "BAD_HEADER", CLAWSYNC_OK, older_membership, NULL, false, 0, 0, 0 },
    { "an epoch that was over", "EPOCH_REPLAYED", CLAWSYNC_EHUB, NULL, NULL, false, 0, .after_rotate = true, 0 },
    { "another log seen", "HUB_FORK", CLAWSYNC_EHUB, other_log_seen, NULL, false, 0, 0, 0 },
    { "another log's id seen", "HUB_FORK", CLAWSYNC_EHUB, other_log_id, NULL, false, 0, 0, 0 },
    { "itself seen", "HUB_FORK", CLAWSYNC_EHUB, seen_itself, NULL, false, 0, 0, 0 },
    { "a chunk without its hash", "BAD_CHUNK", CLAWSYNC_OK, NULL, wrong_chunk, false, 0, 0, 0 },
    { "another commitment", "BAD_COMMITMENT", CLAWSYNC_OK, NULL, wrong_commitment, true, 0, 0, 0 },
    { "another epoch's key", "BAD_COMMITMENT", CLAWSYNC_OK, NULL, NULL, false, .other_key = true, 0, 0 },
    { "a box that does not open", "BAD_CIPHERTEXT", CLAWSYNC_OK, NULL, wrong_ciphertext, true, 0, 0, 0 },
};
enum { NROWS = sizeof rows / sizeof rows[0] };

/* ---- making it ---- */

static void make(struct scene *s, const struct row *r, struct cs_batch *b)
{
    const struct cs_keystore *ks = s->f.ks;
    struct cs_epoch_keys keys = *cs_keystore_epoch(ks, s->f.m.epoch);
    struct cs_batch_header h = { .kind = CS_BATCH_OPERATIONS,
                                 .codec = CS_CODEC_ZSTD,
                                 .padding = CS_PADDING_PADME,
                                 .workspace = ks->workspace,
                                 .device = ks->device,
                                 .incarnation = ks->incarnations[ks->nincarnations - 1],
                                 .epoch = s->f.m.epoch,
                                 .number = ks->own_number + (r->again ? 0 : 1),
                                 .member_seq = s->f.m.seq,
                                 .seen_log = ks->log_id,
                                 .seen_number = ks->log_number };
    struct cs_arena arena = { 0 };
    struct cs_delta d;
    struct cs_error err = { 0 };

    if (!r->again)
        memcpy(h.prev, ks->own_hash, 32);
    cite(s, &h, 0);
    if (r->header != NULL)
        r->header(s, &h);
    keys.epoch = h.epoch; /* whatever it says: the packer takes what it is given */
    if (r->other_key)
        memcpy(keys.batch, cs_keystore_epoch(ks, 1)->batch, 32);
    sample_delta(&d, &arena, 3, 40);
    d.devices[0] = ks->device;
    if (cs_pack(s->packer, &d, &h, &keys, &s->f.keys.sign, 65536, b, &err) != CS_OK)
        fail_msg("%s", err.msg);
    if (r->batch != NULL)
        r->batch(s, b);
    if (r->sign)
        resign(s, b);
    cs_arena_free(&arena);
}

static int64_t hub_number(const struct scene *s, uint8_t log_hash[32])
{
    sqlite3 *db = hub_open(&s->hub);
    sqlite3_stmt *q = NULL;
    int64_t n;

    assert_int_equal(sqlite3_prepare_v2(db, "SELECT number, log_hash FROM workspace", -1, &q, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    n = sqlite3_column_int64(q, 0);
    memcpy(log_hash, sqlite3_column_blob(q, 1), 32);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

/* At the end of the hub's log, as if it had accepted it. */
static void hub_takes(const struct scene *s, struct cs_batch *b)
{
    uint8_t log_hash[32];
    int64_t number = hub_number(s, log_hash) + 1;
    sqlite3 *db = hub_open(&s->hub);

    cs_batch_hash(cs_slice(b->header, sizeof b->header), cs_buf_slice(&b->hashes), b->hash);
    cs_log_next(log_hash, (uint64_t)number, b->hash, log_hash);
    hub_run(
        db,
        "INSERT INTO log(workspace, number, device, device_number, hash, log_hash, header, signature, payload_hashes,"
        " entity_type) SELECT workspace, ?1, ?2, 1000 + ?1, ?3, ?4, ?5, ?6, ?7, '' FROM workspace",
        "ibbbbbb", number, cs_slice(b->header + 24, 16), cs_slice(b->hash, 32), cs_slice(log_hash, 32),
        cs_slice(b->header, sizeof b->header), cs_slice(b->signature, sizeof b->signature), cs_buf_slice(&b->hashes));
    for (uint32_t i = 0; i < b->nchunks; i++)
        hub_run(db, "INSERT INTO chunk(workspace, number, seq, payload) SELECT workspace, ?, ?, ? FROM workspace",
                "iib", number, (int64_t)i, cs_batch_chunk(b, i));
    hub_run(db, "UPDATE workspace SET number = ?, log_hash = ?", "ib", number, cs_slice(log_hash, 32));
    sqlite3_close(db);
}

static int64_t state_of(const struct device *d)
{
    return number_in(d, "SELECT (SELECT count(*) FROM sync_rows) * 1000 + (SELECT count(*) FROM memories)");
}

static void a_row_of_the_table(void **state)
{
    const struct row *r = *state;
    struct scene *s = calloc(1, sizeof *s);
    struct cs_batch b = { 0 };
    clawsync_error err = { 0 };
    int64_t before;
    int rc;

    assert_non_null(s);
    begin(s);
    make(s, r, &b);
    if (r->after_rotate) { /* which the forger has not seen */
        app(&s->b, "INSERT INTO memories VALUES('newer', 'x')");
        ok(clawsync_engine_rotate_keys(s->b.engine, NULL, &err), &err);
        ok(clawsync_engine_sync_now(s->b.engine, NULL, &err), &err);
    }
    hub_takes(s, &b);
    before = state_of(&s->b);
    rc = clawsync_engine_pull_now(s->b.engine, NULL, &err);
    if (r->name == NULL) {
        ok(rc, &err);
        assert_int_equal(state_of(&s->b), before + 3000);
        assert_string_equal(s->found, "");
    } else {
        assert_int_equal(rc, r->code);
        if (strstr(rc == CLAWSYNC_OK ? s->found : err.msg, r->name) == NULL)
            fail_msg("%s instead of %s", rc == CLAWSYNC_OK ? s->found : err.msg, r->name);
        assert_int_equal(state_of(&s->b), before);
    }
    cs_batch_free(&b);
    end(s);
    free(s);
}

/* ---- what was set aside, once more ---- */

static int64_t set_aside(const struct device *d)
{
    return number_in(d, "SELECT count(*) FROM sync_meta WHERE name GLOB 'engine.aside.*'");
}

static void pull(struct scene *s)
{
    clawsync_error err = { 0 };

    ok(clawsync_engine_pull_now(s->b.engine, NULL, &err), &err);
}

/* As another run of the program, which tries once more. */
static void open_again(struct scene *s)
{
    clawsync_error err = { 0 };

    device_close(&s->b);
    device_open(&s->b);
    ok(clawsync_engine_subscribe(s->b.engine, on_event, s, &err), &err);
    s->found[0] = '\0';
    pull(s);
}

/* What a person asks for; the engine goes on. */
static void ask_again(struct scene *s)
{
    struct cs_replica_options o = { .path = s->b.db };
    struct cs_replica *r = NULL;
    struct cs_error err = { 0 };

    assert_int_equal(cs_replica_open(&r, cs_world_real(), &o, &err), CS_OK);
    assert_int_equal(cs_review_ask_retry(r, &err), CS_OK);
    cs_replica_close(r);
    s->found[0] = '\0';
    pull(s);
}

static void chunks_become(const struct scene *s, int64_t number, const struct cs_batch *b)
{
    sqlite3 *db = hub_open(&s->hub);

    for (uint32_t i = 0; i < b->nchunks; i++)
        hub_run(db, "UPDATE chunk SET payload = ? WHERE number = ? AND seq = ?", "bii", cs_batch_chunk(b, i), number,
                (int64_t)i);
    sqlite3_close(db);
}

static void signature_becomes(const struct scene *s, int64_t number, const struct cs_batch *b)
{
    sqlite3 *db = hub_open(&s->hub);

    hub_run(db, "UPDATE log SET signature = ? WHERE number = ?", "bi", cs_slice(b->signature, sizeof b->signature),
            number);
    sqlite3_close(db);
}

/* The next batch of the forger's chain. */
static void goes_on(struct scene *s, const struct cs_batch *b)
{
    s->f.ks->own_number++;
    memcpy(s->f.ks->own_hash, b->hash, 32);
}

/* It is no news, takes nothing in, and stands in nobody's way, however often it is tried. */
static void what_is_wrong_stays_aside(void **state)
{
    const struct row *r = *state;
    struct scene *s = calloc(1, sizeof *s);
    struct cs_batch b = { 0 };
    clawsync_error err = { 0 };
    int64_t before;

    assert_non_null(s);
    begin(s);
    make(s, r, &b);
    hub_takes(s, &b);
    before = state_of(&s->b);
    pull(s);
    assert_non_null(strstr(s->found, r->name));
    assert_int_equal(set_aside(&s->b), 1);
    for (int i = 0; i < 2; i++) {
        if (i == 0)
            open_again(s);
        else
            ask_again(s);
        assert_string_equal(s->found, "");
        assert_int_equal(set_aside(&s->b), 1);
        assert_int_equal(state_of(&s->b), before);
    }
    app(&s->b, "INSERT INTO memories VALUES('own', 'x')");
    ok(clawsync_engine_sync_now(s->b.engine, NULL, &err), &err);
    cs_batch_free(&b);
    end(s);
    free(s);
}

/* A hub whose storage was damaged, and is whole again. */
static void a_chunk_that_is_mended(void **state)
{
    const bool by_asking = *state != NULL;
    struct scene *s = calloc(1, sizeof *s);
    static const struct row fine = { .what = "in order" };
    struct cs_batch b = { 0 }, broken = { 0 }, next = { 0 };
    uint8_t log_hash[32];
    int64_t before, number;

    assert_non_null(s);
    begin(s);
    make(s, &fine, &b);
    hub_takes(s, &b);
    number = hub_number(s, log_hash);
    before = state_of(&s->b);
    broken.chunk_len = b.chunk_len;
    broken.nchunks = b.nchunks;
    cs_buf_put_slice(&broken.sealed, cs_buf_slice(&b.sealed));
    wrong_chunk(s, &broken);
    chunks_become(s, number, &broken);
    pull(s);
    assert_string_equal(s->found, "BAD_CHUNK");
    goes_on(s, &b);
    make(s, &fine, &next); /* its device's chain goes on: the same rows again, so that those of the first would do */
    hub_takes(s, &next);
    pull(s);
    assert_int_equal(state_of(&s->b), before + 3000);
    assert_int_equal(set_aside(&s->b), 1);
    chunks_become(s, number, &b);
    pull(s);
    assert_int_equal(set_aside(&s->b), 1); /* not by itself: nobody told it */
    if (by_asking)
        ask_again(s);
    else
        open_again(s);
    assert_int_equal(set_aside(&s->b), 0);
    assert_int_equal(number_in(&s->b, "SELECT count(*) FROM sync_meta WHERE name = 'engine.retry'"), 0);
    cs_batch_free(&b);
    cs_batch_free(&broken);
    cs_batch_free(&next);
    end(s);
    free(s);
}

/* Somebody on the way changed a signature: its device's later batches do not follow, and do when it is taken in. */
static void a_chain_that_is_mended(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    static const struct row fine = { .what = "in order" };
    struct cs_batch b[3];
    uint8_t log_hash[32];
    int64_t before, number[3];

    (void)state;
    assert_non_null(s);
    memset(b, 0, sizeof b);
    begin(s);
    before = state_of(&s->b);
    for (int i = 0; i < 3; i++) {
        make(s, &fine, &b[i]);
        hub_takes(s, &b[i]);
        number[i] = hub_number(s, log_hash);
        goes_on(s, &b[i]);
    }
    wrong_signature(s, &b[0]);
    signature_becomes(s, number[0], &b[0]);
    pull(s);
    assert_string_equal(s->found, "BROKEN_CHAIN");
    assert_int_equal(set_aside(&s->b), 3);
    open_again(s);
    assert_int_equal(set_aside(&s->b), 3);
    assert_int_equal(state_of(&s->b), before);
    wrong_signature(s, &b[0]); /* right again; and the last one's content is not */
    signature_becomes(s, number[0], &b[0]);
    wrong_chunk(s, &b[2]);
    chunks_become(s, number[2], &b[2]);
    ask_again(s);
    assert_int_equal(set_aside(&s->b), 1);
    assert_int_equal(state_of(&s->b), before + 3000);
    wrong_chunk(s, &b[2]);
    chunks_become(s, number[2], &b[2]);
    ask_again(s);
    assert_int_equal(set_aside(&s->b), 0);
    cs_batch_free(&b[1]);
    make(s, &fine, &b[1]); /* its chain stands where it should */
    hub_takes(s, &b[1]);
    pull(s);
    assert_string_equal(s->found, "");
    assert_int_equal(set_aside(&s->b), 0);
    for (int i = 0; i < 3; i++)
        cs_batch_free(&b[i]);
    end(s);
    free(s);
}

int main(void)
{
    struct CMUnitTest tests[2 * NROWS + 3];
    size_t n = NROWS;

    if (cs_crypto_init(NULL) < 0)
        return 1;
    for (int i = 0; i < NROWS; i++)
        tests[i] = (struct CMUnitTest){ .name = rows[i].what,
                                        .test_func = a_row_of_the_table,
                                        .initial_state = (void *)(uintptr_t)&rows[i] };
    for (int i = 0; i < NROWS; i++)
        if (rows[i].name != NULL && rows[i].code == CLAWSYNC_OK)
            tests[n++] = (struct CMUnitTest){ .name = rows[i].what,
                                              .test_func = what_is_wrong_stays_aside,
                                              .initial_state = (void *)(uintptr_t)&rows[i] };
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_chunk_that_is_mended);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test_prestate(a_chunk_that_is_mended, (void *)(uintptr_t)&rows[0]);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(a_chain_that_is_mended);
    return _cmocka_run_group_tests("what a receiver checks", tests, n, NULL, NULL);
}
