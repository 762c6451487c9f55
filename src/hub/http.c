#include "hub/http.h"

#include <stdlib.h>

enum { MAX_HEADERS = 64, LINGER_MS = 500 };

struct header {
    const char *name, *value; /* into the request's head */
};

struct cs_http_request {
    struct cs_http_server *server;
    struct cs_http_request *next, **link;
    cs_stream *stream; /* NULL: the peer has gone */
    cs_timer *timer;   /* until the head is there, then until the answer is taken */
    struct cs_buf head;
    const char *method, *path;
    struct header headers[MAX_HEADERS];
    size_t nheaders;
    bool handled;  /* the handler has it, and will answer */
    bool answered; /* nothing but writing is left */
    bool lingers;  /* the peer may still be sending: closing at once would have its system drop our answer */
};

struct cs_http_server {
    cs_loop *loop;
    cs_listener *listener;
    void (*handle)(void *arg, cs_http_request *r);
    void *arg;
    struct cs_http_request *requests;
    size_t n;
};

static void request_free(struct cs_http_request *r)
{
    *r->link = r->next;
    if (r->next != NULL)
        r->next->link = r->link;
    r->server->n--;
    cs_stream_close(r->stream);
    cs_timer_close(r->timer);
    cs_buf_free(&r->head);
    free(r);
}

/* The peer is gone, or too slow. What the handler still has stays until it answers. */
static void request_drop(struct cs_http_request *r)
{
    if (!r->handled || r->answered) {
        request_free(r);
        return;
    }
    cs_stream_close(r->stream);
    r->stream = NULL;
    cs_timer_stop(r->timer);
}

static const char *reason_of(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = { { 200, "OK" },
                    { 400, "Bad Request" },
                    { 401, "Unauthorized" },
                    { 403, "Forbidden" },
                    { 404, "Not Found" },
                    { 405, "Method Not Allowed" },
                    { 408, "Request Timeout" },
                    { 431, "Request Header Fields Too Large" },
                    { 503, "Service Unavailable" },
                    { 505, "HTTP Version Not Supported" } };

    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Internal Server Error";
}

static void written(struct cs_http_request *r)
{
    if (r->lingers)
        cs_timer_start(r->timer, LINGER_MS);
    else
        request_free(r); /* what was written is still sent */
}

/* Nothing of it may be kept or framed, and a page may load from here alone. */
static const char safety[] = "Cache-Control: no-store\r\n"
                             "X-Content-Type-Options: nosniff\r\n"
                             "Referrer-Policy: no-referrer\r\n"
                             "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; "
                             "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                             "frame-ancestors 'none'\r\n";

void cs_http_respond(cs_http_request *r, int status, const char *type, struct cs_slice body)
{
    struct cs_buf head = { 0 };
    bool head_only = r->method != NULL && strcmp(r->method, "HEAD") == 0;

    r->answered = true;
    if (r->stream == NULL) {
        request_free(r);
        return;
    }
    cs_buf_printf(&head, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n%s%s%s\r\n",
                  status, reason_of(status), type, body.len, status == 401 ? "WWW-Authenticate: Bearer\r\n" : "",
                  status == 405 ? "Allow: GET, HEAD\r\n" : "", safety);
    if (head.failed || cs_stream_write(r->stream, cs_buf_slice(&head)) != CS_OK ||
        (!head_only && cs_stream_write(r->stream, body) != CS_OK)) {
        cs_buf_free(&head);
        request_free(r);
        return;
    }
    cs_buf_free(&head);
    if (cs_stream_pending(r->stream) == 0)
        written(r);
    else
        cs_timer_start(r->timer, CS_HTTP_TIMEOUT_MS);
}

static void refuse(struct cs_http_request *r, int status)
{
    r->lingers = true;
    cs_http_respond(r, status, "text/plain; charset=utf-8", cs_slice_str(reason_of(status)));
}

/* ---- reading ---- */

/* Cuts the line at p off the text and returns it; NULL: it holds a bare CR or NUL, or there is none. */
static char *next_line(char **p, const char *end)
{
    char *line = *p, *lf = memchr(line, '\n', (size_t)(end - line));

    if (lf == NULL || lf == line || lf[-1] != '\r')
        return NULL;
    lf[-1] = '\0';
    *p = lf + 1;
    return strlen(line) == (size_t)(lf - 1 - line) && strchr(line, '\r') == NULL ? line : NULL;
}

static bool header_read(struct cs_http_request *r, char *line)
{
    static const char token[] = "abcdefghijklmnopqrstuvwxyz0123456789-_!#$%&'*+.^`|~";
    char *colon = strchr(line, ':'), *value, *end;

    if (colon == NULL || colon == line || r->nheaders == MAX_HEADERS)
        return false;
    *colon = '\0';
    for (char *c = line; *c != '\0'; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c + 32);
    if (line[strspn(line, token)] != '\0')
        return false;
    value = colon + 1 + strspn(colon + 1, " \t");
    for (end = value + strlen(value); end > value && (end[-1] == ' ' || end[-1] == '\t');)
        *--end = '\0';
    r->headers[r->nheaders++] = (struct header){ line, value };
    return true;
}

/* 0, or the status that says what is wrong. */
static int head_read(struct cs_http_request *r)
{
    char *p = (char *)r->head.data, *line = next_line(&p, (char *)r->head.data + r->head.len), *path, *version;

    if (line == NULL || (path = strchr(line, ' ')) == NULL || (version = strchr(path + 1, ' ')) == NULL)
        return 400;
    *path++ = '\0';
    *version++ = '\0';
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return 505;
    while ((line = next_line(&p, (char *)r->head.data + r->head.len)) != NULL && line[0] != '\0')
        if (!header_read(r, line))
            return 400;
    if (line == NULL || path[0] != '/')
        return 400;
    r->method = line = (char *)r->head.data;
    if (strcmp(line, "GET") != 0 && strcmp(line, "HEAD") != 0)
        return 405;
    if (cs_http_header(r, "transfer-encoding")[0] != '\0' ||
        (cs_http_header(r, "content-length")[0] != '\0' && strcmp(cs_http_header(r, "content-length"), "0") != 0))
        return 400;
    path[strcspn(path, "?#")] = '\0';
    r->path = path;
    return 0;
}

const char *cs_http_path(const cs_http_request *r)
{
    return r->path;
}

const char *cs_http_header(const cs_http_request *r, const char *name)
{
    for (size_t i = 0; i < r->nheaders; i++)
        if (strcmp(r->headers[i].name, name) == 0)
            return r->headers[i].value;
    return "";
}

static bool head_is_whole(const struct cs_buf *b)
{
    for (size_t i = 3; i < b->len; i++)
        if (memcmp(b->data + i - 3, "\r\n\r\n", 4) == 0)
            return true;
    return false;
}

static void on_data(void *arg, struct cs_slice bytes)
{
    struct cs_http_request *r = arg;
    int status;

    if (r->handled || r->answered)
        return; /* one request is all there is */
    cs_buf_put(&r->head, bytes.data,
               bytes.len < CS_HTTP_MAX_HEAD - r->head.len ? bytes.len : CS_HTTP_MAX_HEAD - r->head.len);
    if (r->head.failed) {
        request_free(r);
        return;
    }
    if (!head_is_whole(&r->head)) {
        if (r->head.len == CS_HTTP_MAX_HEAD)
            refuse(r, 431);
        return;
    }
    cs_timer_stop(r->timer);
    if ((status = head_read(r)) != 0) {
        refuse(r, status);
        return;
    }
    r->handled = true;
    r->server->handle(r->server->arg, r);
}

static void on_ended(void *arg, const struct cs_error *err)
{
    (void)err;
    request_drop(arg);
}

static void on_drained(void *arg)
{
    struct cs_http_request *r = arg;

    if (r->answered)
        written(r);
}

static void on_timeout(void *arg)
{
    struct cs_http_request *r = arg;

    if (r->answered || r->handled)
        request_drop(r);
    else
        refuse(r, 408);
}

static const struct cs_stream_cb stream_cb = { .data = on_data, .ended = on_ended, .drained = on_drained };

static void on_accepted(void *arg, cs_stream *stream)
{
    struct cs_http_server *s = arg;
    struct cs_http_request *r = s->n < CS_HTTP_MAX_CONNECTIONS ? calloc(1, sizeof *r) : NULL;

    if (r == NULL || cs_timer_new(s->loop, on_timeout, r, &r->timer) != CS_OK) {
        free(r);
        cs_stream_close(stream);
        return;
    }
    r->server = s;
    r->stream = stream;
    r->next = s->requests;
    r->link = &s->requests;
    if (r->next != NULL)
        r->next->link = &r->next;
    s->requests = r;
    s->n++;
    cs_timer_start(r->timer, CS_HTTP_TIMEOUT_MS);
    cs_stream_accept(stream, &stream_cb, r);
    cs_stream_read(stream, true);
}

int cs_http_server_new(cs_loop *loop, const char *host, uint16_t port, void (*handle)(void *arg, cs_http_request *r),
                       void *arg, cs_http_server **out, struct cs_error *err)
{
    struct cs_http_server *s = calloc(1, sizeof *s);
    int rc;

    *out = NULL;
    if (s == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    *s = (struct cs_http_server){ .loop = loop, .handle = handle, .arg = arg };
    if ((rc = cs_listen(loop, host, port, on_accepted, s, &s->listener, err)) != CS_OK) {
        free(s);
        return rc;
    }
    *out = s;
    return CS_OK;
}

uint16_t cs_http_server_port(const cs_http_server *s)
{
    return cs_listener_port(s->listener);
}

void cs_http_server_close(cs_http_server *s)
{
    struct cs_http_request *next;

    if (s == NULL)
        return;
    cs_listener_close(s->listener);
    for (struct cs_http_request *r = s->requests; r != NULL; r = next) {
        next = r->next;
        request_free(r);
    }
    free(s);
}
