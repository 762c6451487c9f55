/* The server of rpc_compare.py on nghttp2 and epoll, and nothing else: what gRPC's framing costs with no library for
 * it. It trusts its peer. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc_peer.h"

enum { BATCH = 64 * 1024, READ = 64 * 1024, PREFIX = 5, ECHO_MAX = 64 * 1024, WINDOW = 1 << 20, WINDOW_CONN = 4 << 20 };

struct conn {
    int fd;
    nghttp2_session *h2;
    uint8_t *out; /* BATCH bytes; NULL: nothing is waiting */
    size_t out_at, out_len;
    bool want_write;
};

struct stream {
    char method; /* the first letter of the path's last part */
    uint8_t *body;
    size_t len, at;
    struct bench_down down;
    size_t sent; /* of the message that is going out */
};

static int epoll;
static uint8_t zeros[BENCH_MAX_MESSAGE + PREFIX];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

#define NV(n, v)                                                                                                       \
    {                                                                                                                  \
        (uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), sizeof(n) - 1, sizeof(v) - 1,                            \
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                                               \
    }

static void end_stream(nghttp2_session *h2, int32_t id, uint32_t *flags)
{
    static const nghttp2_nv trailers[] = { NV("grpc-status", "0") };

    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    nghttp2_submit_trailer(h2, id, trailers, 1);
}

static ssize_t pull_body(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
                         nghttp2_data_source *source, void *arg)
{
    struct stream *s = source->ptr;
    size_t left = s->len - s->at;

    (void)arg;
    if (n > left)
        n = left;
    memcpy(buf, s->body + s->at, n);
    s->at += n;
    if (s->at == s->len)
        end_stream(h2, id, flags);
    return (ssize_t)n;
}

static ssize_t pull_down(nghttp2_session *h2, int32_t id, uint8_t *buf, size_t n, uint32_t *flags,
                         nghttp2_data_source *source, void *arg)
{
    struct stream *s = source->ptr;
    size_t done = 0, whole = PREFIX + s->down.size;

    (void)arg;
    while (done < n && s->down.messages > 0) {
        size_t m = whole - s->sent < n - done ? whole - s->sent : n - done;

        memcpy(buf + done, zeros + s->sent, m);
        for (size_t i = s->sent; i < PREFIX && i < s->sent + m; i++)
            buf[done + i - s->sent] = (uint8_t)(i == 0 ? 0 : s->down.size >> (8 * (4 - i)));
        done += m;
        if ((s->sent += m) == whole) {
            s->sent = 0;
            s->down.messages--;
        }
    }
    if (s->down.messages == 0)
        end_stream(h2, id, flags);
    return (ssize_t)done;
}

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    struct stream *s = calloc(1, sizeof *s);

    (void)arg;
    if (s == NULL)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(h2, frame->hd.stream_id, s);
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                     const uint8_t *value, size_t valuelen, uint8_t flags, void *arg)
{
    struct stream *s = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);

    (void)flags;
    (void)arg;
    if (s != NULL && namelen == 5 && memcmp(name, ":path", 5) == 0 && valuelen > 5)
        s->method = (char)value[5];
    return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *arg)
{
    struct stream *s = nghttp2_session_get_stream_user_data(h2, id);

    (void)flags;
    (void)arg;
    if (s == NULL || s->method == 'U')
        return 0;
    if (s->len + len > ECHO_MAX || (s->body = realloc(s->body, s->len + len)) == NULL)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    memcpy(s->body + s->len, data, len);
    s->len += len;
    return 0;
}

static int respond(nghttp2_session *h2, int32_t id, struct stream *s)
{
    static const nghttp2_nv head[] = { NV(":status", "200"), NV("content-type", "application/grpc") };
    nghttp2_data_provider provider = { .source = { .ptr = s }, .read_callback = pull_body };

    if (s->method == 'D') {
        if (s->len != PREFIX + BENCH_DOWN_LEN)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        s->down = (struct bench_down){ bench_u32(s->body + PREFIX), bench_u32(s->body + PREFIX + 4) };
        provider.read_callback = pull_down;
    } else if (s->method == 'U') {
        if ((s->body = calloc(1, PREFIX)) == NULL)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        s->len = PREFIX;
    }
    return nghttp2_submit_response(h2, id, head, 2, &provider);
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *arg)
{
    struct stream *s;

    (void)arg;
    if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
        (s = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id)) != NULL)
        return respond(h2, frame->hd.stream_id, s);
    return 0;
}

static int on_close(nghttp2_session *h2, int32_t id, uint32_t error, void *arg)
{
    struct stream *s = nghttp2_session_get_stream_user_data(h2, id);

    (void)error;
    (void)arg;
    if (s != NULL)
        free(s->body);
    free(s);
    return 0;
}

static nghttp2_session *session_new(struct conn *c)
{
    static const nghttp2_settings_entry settings[] = { { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW },
                                                       { NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 100 } };
    nghttp2_session_callbacks *cb;
    nghttp2_session *h2;

    if (nghttp2_session_callbacks_new(&cb) != 0)
        die("nghttp2");
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_close);
    if (nghttp2_session_server_new(&h2, cb, c) != 0)
        die("nghttp2");
    nghttp2_session_callbacks_del(cb);
    nghttp2_submit_settings(h2, NGHTTP2_FLAG_NONE, settings, 2);
    nghttp2_session_set_local_window_size(h2, NGHTTP2_FLAG_NONE, 0, WINDOW_CONN);
    return h2;
}

static void conn_close(struct conn *c)
{
    close(c->fd);
    nghttp2_session_del(c->h2);
    free(c->out);
    free(c);
}

static void watch(struct conn *c, bool write)
{
    struct epoll_event e = { .events = EPOLLIN | (write ? (uint32_t)EPOLLOUT : 0), .data = { .ptr = c } };

    if (write != c->want_write && epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e) != 0)
        die("epoll_ctl");
    c->want_write = write;
}

/* false: the connection is broken. `full`: the kernel takes no more. */
static bool write_some(struct conn *c, const uint8_t *p, size_t n, bool *full)
{
    ssize_t w = write(c->fd, p, n);

    if (w < 0 && errno != EAGAIN)
        return false;
    if (w < 0)
        w = 0;
    if ((*full = (size_t)w < n)) {
        if (c->out == NULL && (c->out = malloc(BATCH)) == NULL)
            die("malloc");
        memmove(c->out, p + w, n - (size_t)w);
        c->out_len = n - (size_t)w;
        c->out_at = 0;
    }
    return true;
}

static bool flush(struct conn *c)
{
    static uint8_t batch[BATCH];
    const uint8_t *p = NULL;
    bool full = false;
    ssize_t n = 0;

    if (c->out_len > 0) {
        size_t waiting = c->out_len;

        c->out_len = 0;
        if (!write_some(c, c->out + c->out_at, waiting, &full))
            return false;
    }
    while (!full) {
        size_t len = 0;

        while (len < BATCH / 2 && (n = nghttp2_session_mem_send(c->h2, &p)) > 0) {
            memcpy(batch + len, p, (size_t)n); /* a frame has 16 KiB and its header at most */
            len += (size_t)n;
        }
        if (n < 0)
            return false;
        if (len == 0)
            break;
        if (!write_some(c, batch, len, &full))
            return false;
    }
    if (!full) {
        free(c->out);
        c->out = NULL;
    }
    watch(c, full);
    return nghttp2_session_want_read(c->h2) || nghttp2_session_want_write(c->h2);
}

static bool readable(struct conn *c)
{
    static uint8_t in[READ];
    ssize_t n = read(c->fd, in, sizeof in);

    if (n < 0 && errno == EAGAIN)
        return true;
    return n > 0 && nghttp2_session_mem_recv(c->h2, in, (size_t)n) >= 0;
}

static void accept_one(int listener)
{
    struct epoll_event e = { .events = EPOLLIN };
    struct conn *c;
    int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);

    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if ((c = calloc(1, sizeof *c)) == NULL)
        die("calloc");
    c->fd = fd;
    c->h2 = session_new(c);
    e.data.ptr = c;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) != 0)
        die("epoll_ctl");
    if (!flush(c))
        conn_close(c);
}

int main(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct epoll_event events[64], e = { .events = EPOLLIN };
    socklen_t len = sizeof a;
    int n;

    signal(SIGPIPE, SIG_IGN);
    if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) != 0 || listen(listener, 1024) != 0 ||
        getsockname(listener, (struct sockaddr *)&a, &len) != 0 || (epoll = epoll_create1(0)) < 0 ||
        epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e) != 0)
        die("listen");
    printf("listening on %u\n", ntohs(a.sin_port));
    fflush(stdout);
    for (;;) {
        if ((n = epoll_wait(epoll, events, 64, -1)) < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;

            if (c == NULL)
                accept_one(listener);
            else if (((events[i].events & ~(uint32_t)EPOLLOUT) != 0 && !readable(c)) || !flush(c))
                conn_close(c);
        }
    }
}
