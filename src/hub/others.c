/* What other hubs on the same store did. They tell it, a line each:
 *
 *   h WORKSPACE          its log or membership moved
 *   r WORKSPACE          there may be something to reconcile
 *   s WORKSPACE          there may be something about a snapshot
 *   x WORKSPACE DEVICE   somebody is removing that device
 *   *                    more than can be told
 *
 * and whoever has watchers of the workspace reads its head again. Now and then, and after anything may have been
 * missed, the heads of all watched workspaces are read. Nothing rests on it but how soon watchers learn: every call
 * reads the membership, and every commit judges under the workspace's lock. */
#include <pthread.h>
#include <stdlib.h>

#include "base/log.h"
#include "hub/internal.h"

enum {
    AGAIN_MS = 500,      /* until a store that did not answer is asked again */
    IN_ONE_READ = 256,   /* workspaces */
    WANTED_MAX = 4096,   /* workspaces that are named; above, all are looked at */
    HEARD_MAX = 1 << 20, /* bytes that wait to be read; above, the same */
    HEX_ID = 32
};

/* A workspace that moved, as the worker found it. */
struct moved {
    struct cs_uuid workspace;
    struct cs_signed_head head;
    bool new_log;
};

struct cs_others {
    struct cs_job job; /* first: a job is its others */
    cs_timer *timer;
    cs_wake *wake;
    uint32_t poll_ms;

    pthread_mutex_t lock; /* guards what the store's thread brings */
    struct cs_buf heard;
    bool missed;

    struct cs_uuid *wanted; /* to be looked at */
    size_t nwanted;
    bool all; /* or everything */

    /* The job's while it runs. */
    bool busy, failed;
    struct cs_watched *watched;
    size_t nwatched;
    struct moved *moved;
    size_t nmoved, cap;
};

static void look(struct cs_hub *h);

/* ---- telling ---- */

static void tell(struct cs_hub *h, char what, const struct cs_uuid *ws, const struct cs_uuid *device)
{
    char line[2 + 2 * HEX_ID];
    size_t n = 1 + HEX_ID;

    if (h->others == NULL)
        return;
    line[0] = what;
    cs_hex(line + 1, ws->b, sizeof ws->b);
    if (device != NULL) {
        cs_hex(line + n, device->b, sizeof device->b);
        n += HEX_ID;
    }
    h->store.ops->tell(h->store.self, cs_slice(line, n));
}

void cs_others_moved(struct cs_hub *h, const struct cs_uuid *ws)
{
    tell(h, 'h', ws, NULL);
}

void cs_others_reconcile(struct cs_hub *h, const struct cs_uuid *ws)
{
    tell(h, 'r', ws, NULL);
}

void cs_others_snapshot(struct cs_hub *h, const struct cs_uuid *ws)
{
    tell(h, 's', ws, NULL);
}

void cs_others_hold(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device)
{
    tell(h, 'x', ws, device);
}

/* ---- looking, on a worker ---- */

static int by_workspace(const void *a, const void *b)
{
    return cs_uuid_cmp(&((const struct cs_watched *)a)->workspace, &((const struct cs_watched *)b)->workspace);
}

static struct moved *moved_add(struct cs_others *o)
{
    size_t cap = o->cap == 0 ? 16 : o->cap * 2;
    struct moved *more;

    if (o->nmoved == o->cap) {
        if ((more = realloc(o->moved, cap * sizeof *more)) == NULL)
            return NULL;
        o->moved = more;
        o->cap = cap;
    }
    return &o->moved[o->nmoved++];
}

/* One workspace, and those who watch it. */
static int look_at(struct cs_others *o, cs_store_tx *tx, struct cs_watched *w, size_t n, struct cs_error *err)
{
    const struct cs_commit_env *env = &o->job.hub->env;
    bool moved = false, new_log = false;
    struct cs_store_head head;
    struct cs_member_info member;
    struct moved *m;
    int rc = tx->ops->head(tx, &w->workspace, &head, err);

    if (rc == CS_ENOTFOUND)
        return CS_OK;
    for (size_t i = 0; rc == CS_OK && i < n; i++) {
        moved = moved || w[i].log_id != head.log_id || w[i].number < head.number || w[i].told_seq < head.member_seq;
        new_log = new_log || w[i].log_id != head.log_id;
        if (w[i].member_seq >= head.member_seq)
            continue;
        rc = cs_members_find(env->members, tx, &w->workspace, &head, &w[i].device, &member, err);
        w[i].removed = rc == CS_OK && member.kind == CS_PRINCIPAL_DEVICE && !member.active;
        w[i].member_seq = head.member_seq;
    }
    if (rc != CS_OK || !moved)
        return rc;
    if ((m = moved_add(o)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    m->workspace = w->workspace;
    m->new_log = new_log;
    cs_head_sign(env, &w->workspace, &head, &m->head);
    return CS_OK;
}

/* So many workspaces from *from on, which moves, in one transaction. */
static int look_at_some(struct cs_others *o, size_t *from, struct cs_error *err)
{
    struct cs_uuid ids[IN_ONE_READ];
    struct cs_watched *w = o->watched;
    size_t n = 0, end = *from;
    cs_store_tx *tx;
    int rc;

    for (; end < o->nwatched; end++) {
        bool same = n > 0 && cs_uuid_cmp(&ids[n - 1], &w[end].workspace) == 0;

        if (!same && n == IN_ONE_READ)
            break;
        if (!same)
            ids[n++] = w[end].workspace;
    }
    if ((rc = cs_store_begin(o->job.hub->env.store, CS_STORE_READ, ids, n, &tx, err)) != CS_OK)
        return rc;
    while (*from < end && rc == CS_OK) {
        size_t to = *from + 1;

        while (to < end && cs_uuid_cmp(&w[to].workspace, &w[*from].workspace) == 0)
            to++;
        rc = look_at(o, tx, &w[*from], to - *from, err);
        *from = to;
    }
    cs_store_rollback(tx);
    return rc;
}

static void look_run(struct cs_job *j)
{
    struct cs_others *o = (struct cs_others *)j;
    struct cs_error err = { 0 };
    int rc = CS_OK;

    qsort(o->watched, o->nwatched, sizeof *o->watched, by_workspace);
    for (size_t from = 0; from < o->nwatched && rc == CS_OK;)
        rc = look_at_some(o, &from, &err);
    if ((o->failed = rc != CS_OK))
        cs_log(CS_LOG_WARN, "cannot look at what other hubs did, cause=\"%s\"", err.msg);
}

/* ---- on the loop ---- */

static void look_end(struct cs_others *o)
{
    free(o->watched);
    o->watched = NULL;
    o->nwatched = o->nmoved = 0;
    o->busy = false;
}

static void look_done(struct cs_job *j)
{
    struct cs_others *o = (struct cs_others *)j;
    struct cs_hub *h = j->hub;

    for (size_t i = 0; i < o->nmoved; i++) {
        cs_watch_notify(h, &o->moved[i].workspace, &o->moved[i].head);
        if (o->moved[i].new_log)
            cs_presence_forget(h, &o->moved[i].workspace);
    }
    for (size_t i = 0; i < o->nwatched; i++) {
        cs_watch_checked(h, &o->watched[i]);
        if (o->watched[i].removed)
            cs_gate_end(h, &o->watched[i].workspace, &o->watched[i].device);
    }
    look_end(o);
    if (o->failed && !h->stopping)
        cs_timer_start(o->timer, AGAIN_MS);
    look(h);
}

/* Those who watch what is to be looked at. */
static size_t watched_list(const struct cs_hub *h, const struct cs_others *o, struct cs_watched *out, size_t cap)
{
    size_t n = 0;

    if (o->all)
        return cs_watch_list(h, NULL, out, cap);
    for (size_t i = 0; i < o->nwanted; i++)
        n += cs_watch_list(h, &o->wanted[i], out == NULL ? NULL : out + n, cap - n);
    return n;
}

static void look(struct cs_hub *h)
{
    struct cs_others *o = h->others;
    size_t n;

    if (o->busy || h->stopping || (!o->all && o->nwanted == 0))
        return;
    n = watched_list(h, o, NULL, 0);
    if (n > 0 && (o->watched = calloc(n, sizeof *o->watched)) != NULL)
        o->nwatched = watched_list(h, o, o->watched, n);
    o->busy = o->nwatched > 0 && cs_job_start(h, &o->job) == CS_OK;
    if (n > 0 && !o->busy) { /* no memory */
        look_end(o);
        cs_timer_start(o->timer, AGAIN_MS);
    }
    o->all = false;
    o->nwanted = 0;
}

static void want(struct cs_hub *h, const struct cs_uuid *ws)
{
    struct cs_others *o = h->others;

    if (o->all || cs_watch_list(h, ws, NULL, 0) == 0)
        return;
    for (size_t i = 0; i < o->nwanted; i++)
        if (cs_uuid_cmp(&o->wanted[i], ws) == 0)
            return;
    if (o->nwanted == WANTED_MAX)
        o->all = true;
    else
        o->wanted[o->nwanted++] = *ws;
}

void cs_others_unsure(struct cs_hub *h, const struct cs_uuid *ws)
{
    if (h->others == NULL)
        return;
    cs_others_moved(h, ws);
    want(h, ws);
    look(h);
}

static bool read_id(struct cs_uuid *out, struct cs_slice line, size_t at)
{
    char hex[HEX_ID + 1];

    memcpy(hex, line.data + at, HEX_ID);
    hex[HEX_ID] = '\0';
    return cs_unhex(out->b, sizeof out->b, hex);
}

/* What does not look like one of ours is passed over: a newer hub may say more. */
static void line_read(struct cs_hub *h, struct cs_slice line)
{
    struct cs_uuid ws, device;
    char what = line.len == 0 ? '\0' : (char)line.data[0];

    if (what == '*')
        h->others->all = true;
    if (line.len < 1 + HEX_ID || !read_id(&ws, line, 1))
        return;
    if (what == 'h' && line.len == 1 + HEX_ID)
        want(h, &ws);
    else if (what == 'r' && line.len == 1 + HEX_ID)
        cs_watch_reconcile(h, &ws);
    else if (what == 's' && line.len == 1 + HEX_ID)
        cs_watch_snapshot(h, &ws);
    else if (what == 'x' && line.len == 1 + 2 * HEX_ID && read_id(&device, line, 1 + HEX_ID))
        cs_hold(h, &ws, &device);
}

static void heard_due(void *arg)
{
    struct cs_hub *h = arg;
    struct cs_others *o = h->others;
    struct cs_buf heard;

    pthread_mutex_lock(&o->lock);
    heard = o->heard;
    o->heard = (struct cs_buf){ 0 };
    o->all = o->all || o->missed;
    o->missed = false;
    pthread_mutex_unlock(&o->lock);
    if (h->stopping) {
        cs_buf_free(&heard);
        return;
    }
    for (size_t at = 0; at < heard.len;) {
        const uint8_t *p = heard.data + at, *end = memchr(p, '\n', heard.len - at);
        size_t n = end == NULL ? heard.len - at : (size_t)(end - p);

        line_read(h, cs_slice(p, n));
        at += n + 1;
    }
    cs_buf_free(&heard);
    look(h);
}

/* On the store's thread. */
static void heard(void *arg, const char *lines)
{
    struct cs_others *o = ((struct cs_hub *)arg)->others;

    pthread_mutex_lock(&o->lock);
    if (lines != NULL && o->heard.len < HEARD_MAX) {
        cs_buf_put_str(&o->heard, lines);
        cs_buf_put_u8(&o->heard, '\n');
    } else {
        o->missed = true;
    }
    if (o->heard.failed) {
        cs_buf_reset(&o->heard);
        o->missed = true;
    }
    pthread_mutex_unlock(&o->lock);
    cs_wake_send(o->wake);
}

static void poll_due(void *arg)
{
    struct cs_hub *h = arg;

    h->others->all = true;
    cs_timer_start(h->others->timer, h->others->poll_ms);
    look(h);
}

int cs_others_start(struct cs_hub *h, uint32_t poll_ms, struct cs_error *err)
{
    struct cs_others *o;
    int rc;

    if (!h->store.ops->shared)
        return CS_OK;
    if ((o = calloc(1, sizeof *o)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    pthread_mutex_init(&o->lock, NULL);
    h->others = o;
    o->job = (struct cs_job){ .hub = h, .run = look_run, .done = look_done };
    o->poll_ms = poll_ms == 0 ? AGAIN_MS : poll_ms;
    if ((o->wanted = calloc(WANTED_MAX, sizeof *o->wanted)) == NULL ||
        cs_timer_new(h->loop, poll_due, h, &o->timer) != CS_OK || cs_wake_new(h->loop, heard_due, h, &o->wake) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_timer_start(o->timer, o->poll_ms);
    rc = h->store.ops->listen(h->store.self, heard, h, err);
    return rc == CS_EUNSUPPORTED ? CS_OK : rc;
}

void cs_others_stop(struct cs_hub *h)
{
    if (h->others != NULL)
        cs_timer_stop(h->others->timer);
}

void cs_others_free(struct cs_others *o)
{
    if (o == NULL)
        return;
    cs_timer_close(o->timer);
    cs_wake_close(o->wake);
    pthread_mutex_destroy(&o->lock);
    cs_buf_free(&o->heard);
    free(o->wanted);
    free(o->watched);
    free(o->moved);
    free(o);
}
