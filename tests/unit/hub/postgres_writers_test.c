/* Many writers on several nodes, with stalls, rollbacks and duplicates, and readers that follow the log meanwhile: no
 * number is missed, repeated or skipped. Nodes are processes of their own, each with two stores, so that a device may
 * change between them. CS_TEST_ROWS says how many batches there are to be, and CS_TEST_GROUP how many a commit may have
 * (8, at most 128); a writer that the others leave
 * 65,536 rows behind is refused, so that a million needs a machine on which none starves. */
#include "unit/hub/store_suite.h"

#include <stdatomic.h>
#include <sys/stat.h>

#include "unit/hub/postgres_scene.h"

enum { NODES = 4, WRITERS = 16, WORKSPACES = 4, GROUP_MAX = 128, ROWS = 6000 };

static void fresh(char place[256])
{
    scene_database(place);
}
static int open_at(struct cs_store *out, const char *place, struct cs_error *err)
{
    struct cs_store_postgres_options o = { .url = place, .connections = WRITERS + 4 };

    return cs_store_postgres_open(out, cs_world_real(), &o, err);
}
static void destroy(const char *place)
{
    (void)place;
}
const struct store_kind store_under_test = { fresh, open_at, destroy };

static size_t group_most = 8;

/* A store that stalls before some of its commits, with the locks held. */
static struct cs_store_ops stalling;
static const struct cs_store_ops *real_ops;

static int stalling_begin(void *self, enum cs_store_mode mode, const struct cs_uuid *ws, size_t n, cs_store_tx **out,
                          struct cs_error *err)
{
    int rc = real_ops->begin(self, mode, ws, n, out, err);

    if (rc == CS_OK)
        (*out)->ops = &stalling;
    return rc;
}
static int stalling_commit(cs_store_tx *tx, struct cs_error *err)
{
    if (rand() % 8 == 0)
        usleep((useconds_t)(rand() % 4000));
    return real_ops->commit(tx, err);
}

/* One node's environments: one per store. */
struct node {
    struct suite side[2];
    _Atomic bool over;
    uint64_t quota; /* batches per writer */
};
struct writer {
    struct node *node;
    struct maker *m;
};

/* In threads nothing is asserted: what is wrong is printed, and ends the node. */
static bool wrong(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    return false;
}

/* Puts the next row, and takes it back. */
static bool roll_back(struct suite *s, const struct maker *m)
{
    struct cs_store_batch b = { .device = m->id, .device_number = m->number + 1 };
    struct cs_slice chunk = cs_slice_str("never");
    struct cs_store_head head;
    struct cs_error err = { 0 };
    cs_store_tx *tx;

    if (cs_store_begin(&s->store, CS_STORE_WRITE, &m->workspace, 1, &tx, &err) != CS_OK ||
        tx->ops->head(tx, &m->workspace, &head, &err) != CS_OK)
        return err.code == CS_EBUSY || wrong("writer", err.msg); /* others had the lock for 10 s */
    b.number = ++head.number;
    if (tx->ops->put_batch(tx, &m->workspace, &b, &chunk, 1, &err) != CS_OK ||
        tx->ops->put_head(tx, &m->workspace, &head, &err) != CS_OK)
        return wrong("writer", err.msg);
    if (rand() % 4 == 0)
        usleep((useconds_t)(rand() % 2000));
    cs_store_rollback(tx);
    return true;
}

/* Some batches, and some of them twice. */
static bool write_group(struct suite *s, struct maker *m, size_t n)
{
    struct cs_batch batch[GROUP_MAX];
    struct cs_write w[2 * GROUP_MAX] = { 0 }, *group[2 * GROUP_MAX];
    struct cs_arena arena = { 0 };
    size_t all = n + (size_t)rand() % (n + 1);
    bool good = true;

    for (size_t i = 0; i < all; i++) {
        if (i < n) {
            struct made *b = maker_batch(m, 100, 1);

            good = good && cs_rules_shape(&batch[i], &b->req, &arena, &w[i].verdict);
            maker_commit(m, b);
        }
        w[i].kind = CS_WRITE_BATCH;
        w[i].workspace = m->workspace;
        w[i].batch = &batch[i % n];
        group[i] = &w[i];
    }
    /* Until all of it is stored, as a device does that is told UNAVAILABLE; and perhaps again, as if the first answers
     * had been lost. */
    for (int again = rand() % 4 == 0; good && again >= 0;) {
        const struct cs_verdict *bad = NULL;
        bool unavailable = false;

        for (size_t i = 0; i < all; i++)
            w[i].verdict = (struct cs_verdict){ 0 };
        cs_commit_group(&s->env, group, all);
        for (size_t i = 0; i < all; i++) {
            unavailable = unavailable || w[i].verdict.status == CS_RPC_UNAVAILABLE;
            if (bad == NULL && w[i].verdict.status != CS_RPC_OK)
                bad = &w[i].verdict;
            cs_buf_free(&w[i].stored);
        }
        if (unavailable)
            continue;
        if (bad != NULL)
            good = wrong("writer", bad->reason);
        for (size_t i = 0; i < all && good; i++)
            if (w[i].log_number != w[i % n].log_number || (i > 0 && i < n && w[i].log_number <= w[i - 1].log_number))
                good = wrong("writer", "numbers are not in order, or a batch has two");
        if (good) { /* a batch is bound near the log's end: within 65,536 of it */
            m->seen_number = w[0].head.head.number;
            memcpy(m->seen_log_hash, w[0].head.head.log_hash, 32);
        }
        again--;
    }
    cs_arena_free(&arena);
    cs_arena_free(&m->arena);
    return good;
}

static void *write_all(void *arg)
{
    struct writer *wr = arg;
    uint64_t left = wr->node->quota;

    while (left > 0) {
        struct suite *s = &wr->node->side[rand() % 2];
        size_t n = 1 + (size_t)rand() % group_most;

        n = n < left ? n : left;
        if ((rand() % 16 == 0 && !roll_back(s, wr->m)) || !write_group(s, wr->m, n))
            return NULL;
        left -= n;
    }
    return wr;
}

struct reader {
    struct node *node;
    struct cs_uuid ws;
};

static bool next_row(void *arg, const struct cs_store_batch *b)
{
    struct log_check *c = arg;
    char text[80];

    cs_log_next(c->log_hash, b->number, b->hash, c->log_hash);
    if (b->number == c->next && memcmp(c->log_hash, b->log_hash, 32) == 0) {
        c->next++;
        return true;
    }
    snprintf(text, sizeof text, "%llu where %llu should be", (unsigned long long)b->number,
             (unsigned long long)c->next);
    return wrong("the log", text);
}

/* Goes on where it was: everything up to the head that it sees, in order, nothing behind it. */
static bool follow(struct suite *s, const struct cs_uuid *ws, struct log_check *c, bool *began)
{
    struct cs_store_head head;
    struct cs_error err = { 0 };
    cs_store_tx *tx;
    bool good = false;

    if (cs_store_begin(&s->store, CS_STORE_READ, ws, 1, &tx, &err) != CS_OK)
        return err.code == CS_EBUSY || wrong("reader", err.msg);
    if (tx->ops->head(tx, ws, &head, &err) == CS_OK) {
        if (!*began)
            cs_log_start(ws, head.log_id, head.refilled, c->log_hash);
        *began = true;
        good = tx->ops->batches(tx, ws, c->next, INT64_MAX, next_row, c, &err) == CS_OK && head.number == c->next - 1 &&
               memcmp(head.log_hash, c->log_hash, 32) == 0;
    }
    cs_store_rollback(tx);
    return good || wrong("reader", err.msg[0] == '\0' ? "the log does not end where its head is" : err.msg);
}

static void *read_on(void *arg)
{
    struct reader *r = arg;
    struct log_check c = { .next = 1 };
    bool began = false;

    while (!r->node->over) {
        if (!follow(&r->node->side[rand() % 2], &r->ws, &c, &began))
            return NULL;
        usleep(1000);
    }
    return r;
}

static int node_run(const char *place, struct maker *makers, unsigned seed, uint64_t quota)
{
    static const uint8_t key_seed[32] = { 1 };
    struct node node = { .quota = quota };
    struct writer writer[WRITERS];
    struct reader reader = { &node, makers[seed % WORKSPACES].workspace };
    pthread_t thread[WRITERS], following;
    void *good;
    int failed = 0;

    srand(seed);
    for (int i = 0; i < 2; i++) {
        snprintf(node.side[i].place, sizeof node.side[i].place, "%s", place);
        cs_sign_key_from_seed(&node.side[i].key, key_seed);
        suite_open(&node.side[i]);
        real_ops = node.side[i].store.ops;
        stalling = *real_ops;
        stalling.begin = stalling_begin;
        stalling.commit = stalling_commit;
        node.side[i].store.ops = &stalling;
    }
    for (size_t i = 0; i < WRITERS; i++) {
        writer[i] = (struct writer){ &node, &makers[i] };
        failed += pthread_create(&thread[i], NULL, write_all, &writer[i]) != 0;
    }
    failed += pthread_create(&following, NULL, read_on, &reader) != 0;
    for (size_t i = 0; i < WRITERS && failed == 0; i++) {
        pthread_join(thread[i], &good);
        failed += good == NULL;
    }
    node.over = true;
    pthread_join(following, &good);
    failed += good == NULL;
    for (int i = 0; i < 2; i++)
        suite_close(&node.side[i]);
    return failed;
}

static void sees(struct maker *m, const struct maker *of)
{
    m->members = (struct cs_membership){ .seq = of->members.seq, .epoch = of->members.epoch };
    memcpy(m->members.head, of->members.head, 32);
    m->log_id = of->log_id;
    memcpy(m->seen_log_hash, of->seen_log_hash, 32);
}

/* A workspace whose members are the devices of every fourth writer of every node. */
static void workspace_found(struct suite *s, struct maker (*makers)[WRITERS], size_t ws)
{
    struct maker first;

    maker_init(&first, (uint8_t)('p' + ws), 1);
    found(s, &first);
    for (size_t node = 0; node < NODES; node++)
        for (size_t i = ws; i < WRITERS; i += WORKSPACES) {
            struct cs_buf add = { 0 };
            struct cs_write *w;

            maker_init(&makers[node][i], (uint8_t)('p' + ws), (uint8_t)(2 + node * WRITERS + i));
            maker_add(&makers[node][i], &first, &add);
            maker_learn(&first, cs_buf_slice(&add));
            w = entry_write_of(s, &first, &add, false);
            commit(s, &w, 1);
            assert_int_equal(w->verdict.status, CS_RPC_OK);
            cs_buf_free(&add);
        }
    for (size_t node = 0; node < NODES; node++)
        for (size_t i = ws; i < WRITERS; i += WORKSPACES)
            sees(&makers[node][i], &first);
    maker_fini(&first);
}

static void many_writers(void **state)
{
    static struct maker makers[NODES][WRITERS];
    const char *rows = getenv("CS_TEST_ROWS"), *most = getenv("CS_TEST_GROUP");
    uint64_t quota = (rows == NULL ? ROWS : strtoull(rows, NULL, 10)) / (NODES * WRITERS), total = 0;
    struct suite *s = *state;
    pid_t node[NODES];
    int status;

    if (most != NULL)
        group_most = strtoull(most, NULL, 10);
    assert_in_range(group_most, 1, GROUP_MAX);
    for (size_t ws = 0; ws < WORKSPACES; ws++)
        workspace_found(s, makers, ws);
    suite_close(s);
    for (unsigned i = 0; i < NODES; i++)
        if ((node[i] = fork()) == 0)
            _exit(node_run(s->place, makers[i], i, quota) == 0 ? 0 : 1);
    for (unsigned i = 0; i < NODES; i++) {
        assert_int_equal(waitpid(node[i], &status, 0), node[i]);
        assert_int_equal(status, 0);
    }
    suite_open(s);
    for (size_t ws = 0; ws < WORKSPACES; ws++)
        total += log_checked(s, &makers[0][ws].workspace);
    assert_int_equal(total, quota * NODES * WRITERS);
    for (size_t i = 0; i < NODES * WRITERS; i++)
        maker_fini(&makers[i / WRITERS][i % WRITERS]);
}

int main(void)
{
    const struct CMUnitTest tests[] = { SUITE(many_writers) };
    int failed;

    signal(SIGPIPE, SIG_IGN);
    scene_start();
    failed = cmocka_run_group_tests_name("hub store postgres writers", tests, NULL, NULL);
    scene_stop();
    return failed;
}
