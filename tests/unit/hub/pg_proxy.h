/* Stands between a store and its server, and cuts a connection around its COMMIT. It knows a COMMIT by its text, so
 * statements must not be prepared by name. */
#ifndef CS_TESTS_PG_PROXY_H
#define CS_TESTS_PG_PROXY_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>

enum cut { CUT_NEVER, CUT_BEFORE_COMMIT, CUT_AFTER_COMMIT };

static struct {
    char dir[80], server[80]; /* folders of the sockets */
    int listener;
    _Atomic enum cut cut; /* of the next COMMIT that passes; CUT_NEVER again once it has happened */
} proxy;

static struct sockaddr_un proxy_address(const char *dir)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };

    snprintf(a.sun_path, sizeof a.sun_path, "%.70s/.s.PGSQL.5432", dir);
    return a;
}

/* One direction's bytes on; false: this connection ends. */
static bool proxy_pass(int from, int to, bool to_server, enum cut *cut)
{
    static const char word[] = "COMMIT";
    char bytes[65536];
    ssize_t n = read(from, bytes, sizeof bytes);
    /* ISOLATION LEVEL READ COMMITTED is another word: the NUL belongs to it */
    bool commit = n > 0 && memmem(bytes, (size_t)n, word, sizeof word) != NULL;

    if (n <= 0)
        return false;
    if (to_server && commit && *cut == CUT_NEVER)
        *cut = atomic_exchange(&proxy.cut, CUT_NEVER);
    if (to_server && *cut == CUT_BEFORE_COMMIT)
        return false;
    if (!to_server && *cut == CUT_AFTER_COMMIT)
        return !commit; /* the server has done it, and nobody hears of it */
    for (ssize_t at = 0, sent; at < n; at += sent)
        if ((sent = write(to, bytes + at, (size_t)(n - at))) <= 0)
            return false;
    return true;
}

static void *proxy_connection(void *arg)
{
    struct sockaddr_un a = proxy_address(proxy.server);
    int client = (int)(intptr_t)arg, server = socket(AF_UNIX, SOCK_STREAM, 0);
    struct pollfd p[2] = { { .fd = client, .events = POLLIN }, { .fd = server, .events = POLLIN } };
    enum cut cut = CUT_NEVER;

    if (connect(server, (struct sockaddr *)&a, sizeof a) == 0)
        while (poll(p, 2, -1) > 0)
            if ((p[0].revents != 0 && !proxy_pass(client, server, true, &cut)) ||
                (p[1].revents != 0 && !proxy_pass(server, client, false, &cut)))
                break;
    close(client);
    close(server);
    return NULL;
}

static void *proxy_accept(void *arg)
{
    int client;

    (void)arg;
    while ((client = accept(proxy.listener, NULL, NULL)) >= 0) {
        pthread_t t;

        if (pthread_create(&t, NULL, proxy_connection, (void *)(intptr_t)client) != 0)
            exit(1);
        pthread_detach(t);
    }
    return NULL;
}

/* Listens in dir/proxy for what is in `server`. For the life of the program. */
static void proxy_start(const char *dir, const char *server)
{
    struct sockaddr_un a;
    pthread_t t;

    snprintf(proxy.dir, sizeof proxy.dir, "%.60s/proxy", dir);
    snprintf(proxy.server, sizeof proxy.server, "%.79s", server);
    a = proxy_address(proxy.dir);
    if (mkdir(proxy.dir, 0700) != 0 || (proxy.listener = socket(AF_UNIX, SOCK_STREAM, 0)) < 0 ||
        bind(proxy.listener, (struct sockaddr *)&a, sizeof a) != 0 || listen(proxy.listener, 16) != 0 ||
        pthread_create(&t, NULL, proxy_accept, NULL) != 0)
        exit(1);
    pthread_detach(t);
}

#endif
