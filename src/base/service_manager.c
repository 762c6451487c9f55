#include "base/service_manager.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { FIRST_FD = 3 }; /* SD_LISTEN_FDS_START */

void cs_service_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    size_t len;
    int fd;

    if (path == NULL || (path[0] != '/' && path[0] != '@') || (len = strlen(path)) >= sizeof to.sun_path)
        return;
    memcpy(to.sun_path, path, len);
    if (path[0] == '@') /* an abstract name */
        to.sun_path[0] = '\0';
    if ((fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0)
        return;
    (void)!sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&to,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
    close(fd);
}

/* A whole number and nothing else; -1: it is none. */
static long number_of(const char *name)
{
    const char *text = getenv(name);
    char *end;
    long n;

    if (text == NULL || text[0] < '0' || text[0] > '9')
        return -1;
    n = strtol(text, &end, 10);
    return *end == '\0' ? n : -1;
}

static bool is_listening(int fd)
{
    int yes = 0;
    socklen_t len = sizeof yes;

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &len) == 0 && yes != 0;
}

static bool address_of(int fd, char out[64])
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at = { .v6 = { 0 } };
    char host[INET6_ADDRSTRLEN];
    socklen_t len = sizeof at;

    if (getsockname(fd, &at.any, &len) != 0)
        return false;
    if (at.any.sa_family == AF_INET && inet_ntop(AF_INET, &at.v4.sin_addr, host, sizeof host) != NULL)
        snprintf(out, 64, "%s:%u", host, ntohs(at.v4.sin_port));
    else if (at.any.sa_family == AF_INET6 && inet_ntop(AF_INET6, &at.v6.sin6_addr, host, sizeof host) != NULL)
        snprintf(out, 64, "[%s]:%u", host, ntohs(at.v6.sin6_port));
    else
        return false;
    return true;
}

int cs_service_socket(int *fd, char address[64], struct cs_error *err)
{
    long pid = number_of("LISTEN_PID"), n = number_of("LISTEN_FDS");

    *fd = -1;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    if (pid != (long)getpid() || n < 1)
        return CS_OK;
    if (n > 1)
        return cs_fail(err, CS_EINVAL, "%ld sockets were handed over; one is wanted", n);
    if (!is_listening(FIRST_FD) || !address_of(FIRST_FD, address))
        return cs_fail(err, CS_EINVAL, "the socket that was handed over does not listen for TCP");
    fcntl(FIRST_FD, F_SETFD, FD_CLOEXEC);
    *fd = FIRST_FD;
    return CS_OK;
}
