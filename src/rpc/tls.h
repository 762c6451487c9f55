/* TLS 1.3 with ALPN "h2": bytes in, bytes out; the connection carries them. */
#ifndef CS_RPC_TLS_H
#define CS_RPC_TLS_H

#include "rpc/rpc.h"

/* What all connections of one channel or server share. */
typedef struct cs_rpc_tls_context cs_rpc_tls_context;
/* The server must have a certificate for `host` (a name or an address) that leads to the CA, and the pinned key. */
int cs_rpc_tls_client(const struct cs_rpc_tls *o, const char *host, cs_rpc_tls_context **out, struct cs_error *err);
int cs_rpc_tls_server(const char *cert_file, const char *key_file, cs_rpc_tls_context **out, struct cs_error *err);
/* The sessions that are there keep it alive. */
void cs_rpc_tls_context_free(cs_rpc_tls_context *x);

typedef struct cs_rpc_tls_session cs_rpc_tls_session;
int cs_rpc_tls_new(cs_rpc_tls_context *x, cs_rpc_tls_session **out, struct cs_error *err);
void cs_rpc_tls_free(cs_rpc_tls_session *t);
/* Takes the peer's bytes. */
int cs_rpc_tls_feed(cs_rpc_tls_session *t, struct cs_slice in, struct cs_error *err);
/* Goes on with the handshake, then decrypts: *got bytes, 0 when more input is needed. CS_EAUTH: the peer is not who it
 * should be; CS_EUNAVAILABLE: the peer ended the session; the output may hold an alert for it then. */
int cs_rpc_tls_read(cs_rpc_tls_session *t, void *out, size_t n, size_t *got, struct cs_error *err);
/* The handshake is done and everything about the peer checked. */
bool cs_rpc_tls_ready(const cs_rpc_tls_session *t);
int cs_rpc_tls_write(cs_rpc_tls_session *t, struct cs_slice plain, struct cs_error *err);
/* Says goodbye, into the output. */
void cs_rpc_tls_shutdown(cs_rpc_tls_session *t);
/* Bytes for the peer, and that they were sent. */
struct cs_slice cs_rpc_tls_output(cs_rpc_tls_session *t);
void cs_rpc_tls_output_sent(cs_rpc_tls_session *t);

#endif
