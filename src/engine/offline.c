/* What becomes of batches that the hub does not take: copies of those that wait while it is away go to queue.db, one
 * that it refuses for good is set aside there, and sets that are retried come back as unsent edits. The application's
 * database stays the truth about everything that is bound or unsent (docs/decisions/0006). All in jobs. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

enum { ASIDE_MAX = 64 }; /* a hub that refuses more than so many sets is what is wrong */

int cs_offline_open(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_queue_options o = { .key = e->keys->local, .rng = &e->rng };
    size_t n = strlen(e->config.data_dir) + sizeof "/queue.db";
    char *path = cs_arena_alloc(&e->strings, n);

    if (path == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    snprintf(path, n, "%s/queue.db", e->config.data_dir);
    o.path = path;
    return cs_queue_open(&e->queue, e->world, &o, err);
}

void cs_offline_close(struct clawsync_engine *e)
{
    cs_queue_close(e->queue);
    e->queue = NULL;
}

/* ---- the batches that wait, opened ---- */

struct waiting {
    struct cs_arena arena;
    struct cs_batch batch;
    size_t n;
    struct {
        uint64_t number;
        uint8_t hash[32];
        cs_packer *packer; /* holds the delta set that it opened */
        struct cs_delta delta;
    } set[CS_PUSH_MAX];
};

static void waiting_free(struct waiting *w)
{
    if (w == NULL)
        return;
    for (size_t i = 0; i < w->n; i++)
        cs_packer_free(w->set[i].packer);
    cs_batch_free(&w->batch);
    cs_arena_free(&w->arena);
    free(w);
}

static int open_one(struct clawsync_engine *e, struct waiting *w, const struct cs_bound *bound, struct cs_error *err)
{
    size_t i = w->n;
    const struct cs_epoch_keys *keys;
    struct cs_batch_header h;
    enum cs_unpack_fault fault;
    int rc;

    cs_batch_free(&w->batch);
    if ((rc = cs_batch_decode(&w->batch, bound->stored, err)) != CS_OK ||
        (rc = cs_batch_header_decode(&h, cs_slice(w->batch.header, sizeof w->batch.header), err)) != CS_OK ||
        (rc = cs_packer_new(&w->set[i].packer, &e->rng, err)) != CS_OK)
        return rc;
    w->n++;
    w->set[i].number = bound->number;
    memcpy(w->set[i].hash, bound->hash, 32);
    if ((keys = cs_keystore_epoch(e->ks, h.epoch)) == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", h.epoch);
    return cs_unpack(w->set[i].packer, &w->batch, keys, &w->set[i].delta, &fault, err);
}

/* Waiting ones, or accepted ones whose bytes are kept: the newest that there is room for. */
struct wanted {
    enum cs_bound_state state;
    uint64_t behind; /* accepted ones: this number of the log */
    uint64_t below;  /* this number of our own */
};

static bool is_wanted(const struct wanted *x, const struct cs_bound *b)
{
    return b->state == x->state && b->number < x->below &&
           (x->state == CS_BOUND_WAITING || (b->stored.len > 0 && b->log_number > x->behind));
}

static int load(struct clawsync_engine *e, const struct wanted *x, struct waiting **out, struct cs_error *err)
{
    struct waiting *w = calloc(1, sizeof *w);
    struct cs_bound *bound = NULL;
    size_t n = 0, there = 0;
    int rc;

    *out = NULL;
    if (w == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    rc = cs_replica_bound(e->replica, &w->arena, true, &bound, &n, err);
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        there += is_wanted(x, &bound[i]);
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        if (is_wanted(x, &bound[i]) && there-- <= CS_PUSH_MAX)
            rc = open_one(e, w, &bound[i], err);
    if (rc == CS_OK)
        *out = w;
    else
        waiting_free(w);
    return rc;
}

static int waiting_load(struct clawsync_engine *e, struct waiting **out, struct cs_error *err)
{
    return load(e, &(struct wanted){ .state = CS_BOUND_WAITING, .below = UINT64_MAX }, out, err);
}

struct bound_list {
    struct cs_bound *bound;
    size_t n;
};

static bool is_bound(void *arg, const uint8_t batch[32])
{
    const struct bound_list *l = arg;

    for (size_t i = 0; i < l->n; i++)
        if (l->bound[i].state == CS_BOUND_WAITING && memcmp(l->bound[i].hash, batch, 32) == 0)
            return true;
    return false;
}

/* What a death, or a failing disk, left undone between the two files. */
static int reconcile(struct clawsync_engine *e, struct cs_error *err)
{
    struct bound_list list = { NULL, 0 };
    struct cs_queue_truth truth = { .bound = is_bound, .arg = &list };
    struct cs_arena arena = { 0 };
    uint8_t hash[32];
    int rc;

    cs_replica_chain(e->replica, &truth.accepted, hash);
    if ((rc = cs_replica_bound(e->replica, &arena, false, &list.bound, &list.n, err)) == CS_OK)
        rc = cs_queue_reconcile(e->queue, &truth, err);
    cs_arena_free(&arena);
    return rc;
}

/* Takes them back, all but one, whose operations do not become unsent again; except == n: all. */
static int take_back(struct clawsync_engine *e, const struct waiting *w, size_t except, struct cs_error *err)
{
    struct cs_delta delta[CS_PUSH_MAX];
    size_t n = 0;
    int rc = e->queue == NULL ? CS_OK : reconcile(e, err); /* a restored database may not have what the queue has */

    if (rc == CS_OK && e->queue != NULL)
        rc = cs_queue_release(e->queue, err);
    for (size_t i = 0; i < w->n; i++)
        if (i != except)
            delta[n++] = w->set[i].delta;
    return rc == CS_OK && w->n > 0 ? cs_replica_unbind(e->replica, delta, n, err) : rc;
}

int cs_push_take_back(struct clawsync_engine *e, struct cs_error *err)
{
    struct waiting *w;
    int rc = waiting_load(e, &w, err);

    if (rc != CS_OK)
        return rc;
    rc = take_back(e, w, w->n, err);
    waiting_free(w);
    return rc;
}

int cs_push_take_back_old(struct clawsync_engine *e, int64_t through, struct cs_error *err)
{
    struct waiting *w;
    bool old = false;
    int rc = waiting_load(e, &w, err);

    if (rc != CS_OK)
        return rc;
    for (size_t i = 0; i < w->n; i++)
        old = old || cs_push_lowest(&w->set[i].delta) <= through;
    if (old)
        rc = take_back(e, w, w->n, err);
    waiting_free(w);
    return rc;
}

/* What of them is of stamps up to this, and still stands, is unsent again. */
static int restore_old(struct clawsync_engine *e, struct waiting *w, int64_t through, struct cs_error *err)
{
    int rc = CS_OK;

    for (size_t i = w->n; i > 0 && rc == CS_OK; i--) { /* the newest first, as when they are taken back */
        struct cs_delta d = w->set[i - 1].delta;

        d.nops = 0;
        for (uint32_t k = 0; k < w->set[i - 1].delta.nops; k++)
            if (d.ops[k].stamp <= through)
                d.ops[d.nops++] = d.ops[k];
        if (d.nops > 0)
            rc = cs_replica_restore(e->replica, &d, err);
    }
    return rc;
}

int cs_push_take_back_late(struct clawsync_engine *e, const struct cs_collection *c, struct cs_error *err)
{
    /* all of a log that began after it was collected in the one before */
    struct wanted x = { .state = CS_BOUND_ACCEPTED,
                        .behind = c->log_id == e->head.log_id ? c->number : 0,
                        .below = UINT64_MAX };
    struct cs_bound *bound = NULL;
    struct cs_arena a = { 0 };
    struct waiting *w;
    bool noted = false;
    size_t n = 0;
    int rc = cs_replica_bound(e->replica, &a, false, &bound, &n, err);

    for (size_t i = 0; i < n && rc == CS_OK; i++)
        noted = noted || (bound[i].noted && bound[i].log_number > x.behind);
    cs_arena_free(&a);
    if (rc != CS_OK || (noted && (rc = cs_replica_publish(e->replica, err)) != CS_OK))
        return rc;
    do {
        if ((rc = load(e, &x, &w, err)) != CS_OK)
            return rc;
        if ((n = w->n) > 0)
            x.below = w->set[0].number;
        rc = restore_old(e, w, c->through, err);
        waiting_free(w);
    } while (rc == CS_OK && n == CS_PUSH_MAX);
    return rc;
}

int cs_push_doubt(struct clawsync_engine *e, uint64_t number, struct cs_error *err)
{
    struct waiting *w;
    int rc = waiting_load(e, &w, err);

    if (rc != CS_OK)
        return rc;
    for (size_t i = w->n; i > 0 && rc == CS_OK; i--)
        if (w->set[i - 1].number > number || (rc = cs_replica_doubt(e->replica, &w->set[i - 1].delta, err)) == CS_OK)
            rc = cs_replica_restore(e->replica, &w->set[i - 1].delta, err);
    waiting_free(w);
    return rc;
}

/* ---- into the queue ---- */

static int put_set(struct clawsync_engine *e, const struct waiting *w, size_t i, enum cs_queue_state state,
                   const char *reason, struct cs_error *err)
{
    struct cs_queue_set set = { .number = w->set[i].number, .operations = w->set[i].delta.nops };
    struct cs_buf content = { 0 };
    int rc = cs_delta_encode(&content, &w->set[i].delta, err);

    memcpy(set.batch, w->set[i].hash, 32);
    set.content = cs_buf_slice(&content);
    if (rc == CS_OK)
        rc = cs_queue_put(e->queue, &set, 1, state, reason, err);
    cs_buf_free(&content);
    return rc;
}

int cs_offline_store(struct clawsync_engine *e, const char *reason, uint64_t *operations, struct cs_error *err)
{
    struct waiting *w;
    int rc;

    *operations = 0;
    if (e->queue == NULL)
        return CS_OK;
    if ((rc = waiting_load(e, &w, err)) != CS_OK)
        return rc;
    for (size_t i = 0; i < w->n && rc == CS_OK; i++) {
        *operations += w->set[i].delta.nops;
        rc = put_set(e, w, i, CS_QUEUE_PENDING, reason, err);
    }
    waiting_free(w);
    return rc;
}

/* Into the queue first, and then out of the database: between the two it is in both, and sent and refused again. */
int cs_offline_aside(struct clawsync_engine *e, uint64_t number, const char *reason, struct cs_error *err)
{
    struct cs_queue_counts counts;
    struct waiting *w = NULL;
    size_t k = 0;
    int rc = cs_queue_counts(e->queue, &counts, err);

    if (rc == CS_OK && counts.failed >= ASIDE_MAX)
        return cs_fail(err, CS_EINTERNAL,
                       "the hub refused %" PRIu64 " sets of changes, which are set aside (claw-sync queue list), and "
                       "now %s; changes stay queued",
                       counts.failed, reason);
    if (rc != CS_OK || (rc = waiting_load(e, &w, err)) != CS_OK)
        return rc;
    while (k < w->n && w->set[k].number != number)
        k++;
    if (k == w->n)
        rc = cs_fail(err, CS_EHUB, "the hub refused batch %" PRIu64 ", which does not wait for it", number);
    if (rc == CS_OK && (rc = put_set(e, w, k, CS_QUEUE_FAILED, reason, err)) == CS_OK &&
        (rc = take_back(e, w, k, err)) == CS_OK && (rc = cs_queue_detach(e->queue, w->set[k].hash, err)) == CS_OK)
        cs_note(e, CLAWSYNC_EVENT_SYNC_ERROR, CS_EINTERNAL, "SET_ASIDE",
                "the hub refused %" PRIu32 " operations for good: %s; they are set aside (claw-sync queue list), the "
                "rest goes on",
                w->set[k].delta.nops, reason);
    waiting_free(w);
    return rc;
}

/* ---- and back ---- */

/* Merged first: a database that was restored from an older copy does not have it. Then it is unsent, where it still
 * stands. Doing it again changes nothing. What was deleted, and the tombstone collected, is not brought to life: such
 * edits become conflicts. */
static int bring_back(struct clawsync_engine *e, const uint8_t id[CS_QUEUE_ID_LEN], struct cs_error *err)
{
    struct cs_apply_result result;
    struct cs_arena arena = { 0 };
    struct cs_buf content = { 0 };
    struct cs_collection collected;
    struct cs_pull_mark mark;
    struct cs_delta delta;
    int rc;

    cs_replica_pull_mark(e->replica, &mark);
    if ((rc = cs_replica_collected(e->replica, &collected, err)) != CS_OK ||
        (rc = cs_queue_content(e->queue, id, &content, err)) != CS_OK ||
        (rc = cs_delta_decode(&delta, &arena, cs_buf_slice(&content), INT64_MAX, err)) != CS_OK ||
        delta.collect.through > 0) { /* a collection is made again, if it is still wanted */
        cs_buf_free(&content);
        cs_arena_free(&arena);
        return rc;
    }
    delta.skip = collected.through;
    delta.told = true;
    if ((rc = cs_replica_drop_void(e->replica, &delta, err)) == CS_OK &&
        (rc = cs_replica_apply(e->replica, &delta, &mark, &result, err)) == CS_OK)
        rc = cs_replica_restore(e->replica, &delta, err);
    cs_buf_free(&content);
    cs_arena_free(&arena);
    return rc;
}

int cs_offline_begin(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_queue_entry own;
    int rc;

    if (e->queue == NULL || e->recovering) /* what this device sent is fetched first */
        return CS_OK;
    rc = reconcile(e, err);
    while (rc == CS_OK && (rc = cs_queue_next_own(e->queue, &own, err)) == CS_OK) {
        if ((rc = bring_back(e, own.id, err)) == CS_OK)
            rc = cs_queue_done(e->queue, own.id, "taken back, and sent with what is unsent", err);
        else if (rc == CS_ECORRUPT)
            rc = cs_queue_failed(e->queue, own.id, err->msg, err);
    }
    return rc == CS_ENOTFOUND ? cs_queue_sending(e->queue, err) : rc;
}

int cs_offline_take_all(struct clawsync_engine *e, struct cs_error *err)
{
    uint64_t n;
    int rc = cs_queue_retry(e->queue, NULL, &n, err);

    return rc == CS_OK ? cs_offline_begin(e, err) : rc;
}
