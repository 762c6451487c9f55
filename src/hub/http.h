/* A small HTTP/1.1 server on a cs_loop, for the admin port: GET and HEAD, one request per connection, no bodies (RFC
 * 9112). It is not a server for the public: it bounds what a peer may send and hold, and does nothing more.
 *
 * Threads: everything on the loop's. Ownership: a request belongs to the server; its handler answers it once, at once
 * or later; what it points to lasts until then. */
#ifndef CS_HUB_HTTP_H
#define CS_HUB_HTTP_H

#include "base/loop.h"

enum { CS_HTTP_MAX_HEAD = 8192, CS_HTTP_MAX_CONNECTIONS = 64, CS_HTTP_TIMEOUT_MS = 10000 };

typedef struct cs_http_server cs_http_server;
typedef struct cs_http_request cs_http_request;

/* CS_OK; CS_EUNAVAILABLE or CS_EIO: it cannot listen there; CS_ENOMEM. handle gets each well-formed request; others are
 * answered with 400, 405, 408, 414, 431 or 505 before it. loop is borrowed. */
int cs_http_server_new(cs_loop *loop, const char *host, uint16_t port, void (*handle)(void *arg, cs_http_request *r),
                       void *arg, cs_http_server **out, struct cs_error *err);
uint16_t cs_http_server_port(const cs_http_server *s);
/* Cuts every connection; requests that were not answered must not be afterwards. NULL is fine. */
void cs_http_server_close(cs_http_server *s);

/* The path as it was sent, without what follows a '?'. */
const char *cs_http_path(const cs_http_request *r);
/* A header's value, "" when it is not there. The name in lower case. */
const char *cs_http_header(const cs_http_request *r, const char *name);

/* Answers and frees the request. type: a media type. body is copied. */
void cs_http_respond(cs_http_request *r, int status, const char *type, struct cs_slice body);

#endif
