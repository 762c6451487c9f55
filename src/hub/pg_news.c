#include "hub/pg_news.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/world.h"
#include "crypto/keys.h"
#include "hub/pg.h"

enum {
    AGAIN_MS = 500,           /* between attempts to connect */
    GAP_MS = 5,               /* between two sendings, for what comes meanwhile to go out as one */
    PAYLOAD_MAX = 7900,       /* bytes; the server takes less than 8,000 */
    WAITING_MAX = 256 * 1024, /* bytes; above, the others are told to look at everything */
    MS = 1000000              /* ns */
};

/* In place of lines: everything may have changed. */
static const char everything[] = "*\n";

enum stmt { S_LISTEN, S_QUICK, S_NOTIFY, NSTMT };
static const struct cs_pg_stmt stmts[NSTMT] = {
    [S_LISTEN] = { "LISTEN claw_sync", 0, 0, "LISTEN" },
    [S_QUICK] = { "SET synchronous_commit = off", 0, 0, "SET" }, /* nothing that this session does has to last */
    [S_NOTIFY] = { "SELECT pg_notify('claw_sync', $1::text)", 1, 1, NULL },
};

struct cs_pg_news {
    struct cs_world *world;
    char *url; /* secret */
    cs_store_heard *heard;
    void *arg;
    pthread_t thread;
    int bell[2]; /* a pipe: the thread has something to do */
    pthread_mutex_t lock;
    struct cs_buf waiting; /* lines; with the lock, as the next two */
    bool all;              /* the others are to look at everything */
    bool stop;
    /* The thread's. */
    cs_pg *pg; /* NULL: not connected */
    struct cs_buf sending;
    uint64_t sent_ns; /* monotonic: when it last sent */
    bool complained;
};

/* ---- any thread ---- */

static void ring(const struct cs_pg_news *n)
{
    ssize_t wrote = write(n->bell[1], "", 1);

    (void)wrote; /* a pipe that is full rings already */
}

static bool is_waiting(const struct cs_buf *b, struct cs_slice line)
{
    for (size_t at = 0; at < b->len;) {
        const uint8_t *p = b->data + at, *end = memchr(p, '\n', b->len - at);
        size_t len = end == NULL ? b->len - at : (size_t)(end - p);

        if (len == line.len && memcmp(p, line.data, len) == 0)
            return true;
        at += len + 1;
    }
    return false;
}

void cs_pg_news_tell(cs_pg_news *n, struct cs_slice line)
{
    bool first;

    pthread_mutex_lock(&n->lock);
    first = n->waiting.len == 0 && !n->all;
    if (n->waiting.len + line.len > WAITING_MAX) {
        n->all = true;
    } else if (!is_waiting(&n->waiting, line)) {
        cs_buf_put_slice(&n->waiting, line);
        cs_buf_put_u8(&n->waiting, '\n');
    }
    if (n->waiting.failed) {
        cs_buf_reset(&n->waiting);
        n->all = true;
    }
    pthread_mutex_unlock(&n->lock);
    if (first)
        ring(n);
}

/* ---- the thread ---- */

static int connect_to(struct cs_pg_news *n, struct cs_error *err)
{
    int rc = cs_pg_open(&n->pg, n->url, CS_PG_PREPARE_AUTO, stmts, NSTMT, err);

    if (rc != CS_OK)
        return rc;
    if (cs_pg_pooled(n->pg)) {
        rc = cs_fail(err, CS_EINVAL,
                     "hubs hear from each other by LISTEN, which needs a session of its own, and a pooler is in "
                     "between; set CLAW_SYNC_HUB_DATABASE_LISTEN_URL to a connection string that goes past it, or to "
                     "\"none\": then each hub asks twice a second");
    } else {
        cs_pg_queue(n->pg, S_QUICK, NULL);
        cs_pg_queue(n->pg, S_LISTEN, NULL);
        rc = cs_pg_run(n->pg, err);
    }
    if (rc != CS_OK) {
        cs_pg_close(n->pg);
        n->pg = NULL;
    }
    return rc;
}

static void hear(struct cs_pg_news *n)
{
    const char *payload;
    bool own;

    while (cs_pg_notified(n->pg, &payload, &own))
        if (!own)
            n->heard(n->arg, payload);
}

static void take(struct cs_pg_news *n)
{
    pthread_mutex_lock(&n->lock);
    if (n->all) {
        cs_buf_reset(&n->sending);
        cs_buf_put_str(&n->sending, everything);
    } else {
        cs_buf_put_slice(&n->sending, cs_buf_slice(&n->waiting));
    }
    n->all = n->sending.failed;
    if (n->sending.failed)
        cs_buf_reset(&n->sending);
    cs_buf_reset(&n->waiting);
    pthread_mutex_unlock(&n->lock);
}

/* Whole lines, as many as a payload takes. */
static size_t payload_len(const struct cs_buf *b, size_t at)
{
    size_t len = b->len - at;

    if (len <= PAYLOAD_MAX)
        return len;
    for (len = PAYLOAD_MAX; len > 0 && b->data[at + len - 1] != '\n';)
        len--;
    return len;
}

/* What does not get out is kept for the next connection. */
static int send_all(struct cs_pg_news *n, struct cs_error *err)
{
    int rc;

    take(n);
    for (size_t at = 0, len; at < n->sending.len; at += len) {
        struct cs_slice payload;

        if ((len = payload_len(&n->sending, at)) == 0)
            break;
        payload = cs_slice(n->sending.data + at, len);
        cs_pg_queue(n->pg, S_NOTIFY, &payload);
    }
    if (n->sending.len == 0)
        return CS_OK;
    n->sent_ns = cs_monotonic_ns(n->world);
    if ((rc = cs_pg_run(n->pg, err)) == CS_OK)
        cs_buf_reset(&n->sending);
    hear(n);
    return rc;
}

/* ms until what waits may go out; -1: nothing does. */
static int due_ms(struct cs_pg_news *n)
{
    uint64_t since = (cs_monotonic_ns(n->world) - n->sent_ns) / MS;
    bool some;

    pthread_mutex_lock(&n->lock);
    some = n->waiting.len > 0 || n->all;
    pthread_mutex_unlock(&n->lock);
    if (!some && n->sending.len == 0)
        return -1;
    return since >= GAP_MS ? 0 : (int)(GAP_MS - since);
}

/* Until something is to be done, or for so long; fd: the server's. */
static void wait_for(struct cs_pg_news *n, int fd, int ms)
{
    struct pollfd p[2] = { { .fd = n->bell[0], .events = POLLIN }, { .fd = fd, .events = POLLIN } };
    char drained[64];

    if (poll(p, fd < 0 ? 1 : 2, ms) > 0 && p[0].revents != 0)
        while (read(n->bell[0], drained, sizeof drained) == (ssize_t)sizeof drained)
            ;
}

static bool is_over(struct cs_pg_news *n)
{
    bool stop;

    pthread_mutex_lock(&n->lock);
    stop = n->stop;
    pthread_mutex_unlock(&n->lock);
    return stop;
}

static void lost(struct cs_pg_news *n, const struct cs_error *err)
{
    if (!n->complained)
        cs_log(CS_LOG_WARN, "hears nothing of other hubs until it is connected again, cause=\"%s\"", err->msg);
    n->complained = true;
    cs_pg_close(n->pg);
    n->pg = NULL;
}

/* What was told meanwhile nobody repeats: everything has to be looked at again, once the new session listens. */
static void come_back(struct cs_pg_news *n)
{
    struct cs_error err = { 0 };

    if (connect_to(n, &err) != CS_OK) {
        lost(n, &err);
        wait_for(n, -1, AGAIN_MS);
        return;
    }
    if (n->complained)
        cs_log(CS_LOG_INFO, "hears of other hubs again");
    n->complained = false;
    n->heard(n->arg, NULL);
}

static void *run(void *arg)
{
    struct cs_pg_news *n = arg;
    struct cs_error err;

    while (!is_over(n)) {
        int due;

        if (n->pg == NULL) {
            come_back(n);
            continue;
        }
        err = (struct cs_error){ 0 };
        hear(n);
        if ((due = due_ms(n)) == 0 && send_all(n, &err) != CS_OK)
            lost(n, &err);
        else if (!cs_pg_alive(n->pg))
            lost(n, cs_pg_failure(n->pg, &err));
        else if (due != 0)
            wait_for(n, cs_pg_socket(n->pg), due);
    }
    if (n->pg != NULL && due_ms(n) >= 0)
        (void)send_all(n, &err);
    return NULL;
}

/* ---- opening and closing ---- */

static void news_free(struct cs_pg_news *n)
{
    cs_pg_close(n->pg);
    for (size_t i = 0; i < 2; i++)
        if (n->bell[i] >= 0)
            close(n->bell[i]);
    cs_buf_free(&n->waiting);
    cs_buf_free(&n->sending);
    if (n->url != NULL)
        cs_wipe(n->url, strlen(n->url));
    free(n->url);
    free(n);
}

/* Signals are the main thread's. */
static int thread_start(struct cs_pg_news *n)
{
    sigset_t all, before;
    int failed;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_init(&n->lock, NULL);
    if ((failed = pthread_create(&n->thread, NULL, run, n)) != 0)
        pthread_mutex_destroy(&n->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

int cs_pg_news_open(cs_pg_news **out, struct cs_world *world, const char *url, cs_store_heard *heard, void *arg,
                    struct cs_error *err)
{
    struct cs_pg_news *n = calloc(1, sizeof *n);
    int rc = CS_OK;

    *out = NULL;
    if (n == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    *n = (struct cs_pg_news){ .world = world, .heard = heard, .arg = arg, .bell = { -1, -1 } };
    if ((n->url = strdup(url)) == NULL || pipe2(n->bell, O_CLOEXEC | O_NONBLOCK) != 0)
        rc = cs_fail(err, CS_ENOMEM, "out of memory or file descriptors");
    if (rc == CS_OK)
        rc = connect_to(n, err);
    if (rc == CS_OK && thread_start(n) != 0)
        rc = cs_fail(err, CS_ENOMEM, "no thread can be started");
    if (rc != CS_OK) {
        news_free(n);
        return rc;
    }
    *out = n;
    return CS_OK;
}

void cs_pg_news_close(cs_pg_news *n)
{
    if (n == NULL)
        return;
    pthread_mutex_lock(&n->lock);
    n->stop = true;
    pthread_mutex_unlock(&n->lock);
    ring(n);
    pthread_join(n->thread, NULL);
    pthread_mutex_destroy(&n->lock);
    news_free(n);
}
