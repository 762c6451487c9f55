#include "rpc/tls.h"

#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

enum { PIN = 32 };

struct cs_rpc_tls_context {
    SSL_CTX *ssl;
    unsigned refs; /* the owner's, and one of each session */
    bool client;
    bool pinned;
    uint8_t pin[PIN]; /* SHA-256 of the server key's SubjectPublicKeyInfo */
    char *host;       /* owned; client only */
    bool host_is_ip;
};

struct cs_rpc_tls_session {
    cs_rpc_tls_context *context; /* counted */
    SSL *ssl;
    BIO *in, *out; /* the session's two memory buffers; owned by ssl */
    bool ready;
};

static const unsigned char alpn_h2[] = { 2, 'h', '2' };

/* The newest reason in OpenSSL's queue; it says more than its oldest does. */
static const char *reason(void)
{
    unsigned long e = ERR_peek_last_error();
    const char *text = e == 0 ? NULL : ERR_reason_error_string(e);

    return text != NULL ? text : "unknown cause";
}

/* ---- contexts ---- */

static int context_new(const SSL_METHOD *method, cs_rpc_tls_context **out, struct cs_error *err)
{
    cs_rpc_tls_context *x = calloc(1, sizeof *x);

    *out = NULL;
    ERR_clear_error();
    if (x == NULL || (x->ssl = SSL_CTX_new(method)) == NULL) {
        free(x);
        return cs_fail(err, CS_ENOMEM, "out of memory for TLS");
    }
    x->refs = 1;
    SSL_CTX_set_min_proto_version(x->ssl, TLS1_3_VERSION);
    SSL_CTX_set_mode(x->ssl, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(x->ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(x->ssl, 0);
    *out = x;
    return CS_OK;
}

static bool is_literal_address(const char *host)
{
    ASN1_OCTET_STRING *ip = a2i_IPADDRESS(host);

    ASN1_OCTET_STRING_free(ip);
    ERR_clear_error();
    return ip != NULL;
}

int cs_rpc_tls_client(const struct cs_rpc_tls *o, const char *host, cs_rpc_tls_context **out, struct cs_error *err)
{
    cs_rpc_tls_context *x;
    int rc;

    if ((rc = context_new(TLS_client_method(), &x, err)) != CS_OK)
        return rc;
    x->client = true;
    x->host_is_ip = is_literal_address(host);
    x->host = strdup(host);
    if (x->host == NULL || SSL_CTX_set_alpn_protos(x->ssl, alpn_h2, sizeof alpn_h2) != 0) {
        rc = cs_fail(err, CS_ENOMEM, "out of memory for TLS");
        goto out;
    }
    SSL_CTX_set_verify(x->ssl, SSL_VERIFY_PEER, NULL);
    if (o->ca_file != NULL ? SSL_CTX_load_verify_locations(x->ssl, o->ca_file, NULL) != 1
                           : SSL_CTX_set_default_verify_paths(x->ssl) != 1) {
        rc = cs_fail(err, CS_EINVAL, "cannot read the CA certificates in \"%s\": %s",
                     o->ca_file != NULL ? o->ca_file : "the system's store", reason());
        goto out;
    }
    x->pinned = o->pin_sha256 != NULL;
    if (x->pinned && !cs_unhex(x->pin, sizeof x->pin, o->pin_sha256)) {
        rc = cs_fail(err, CS_EINVAL, "the pin of the server's key must be 64 hexadecimal digits");
        goto out;
    }
    *out = x;
    x = NULL;
out:
    cs_rpc_tls_context_free(x);
    ERR_clear_error();
    return rc;
}

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *outlen, const unsigned char *in,
                     unsigned int inlen, void *arg)
{
    unsigned char *chosen;

    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto(&chosen, outlen, alpn_h2, sizeof alpn_h2, in, inlen) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

int cs_rpc_tls_server(const char *cert_file, const char *key_file, cs_rpc_tls_context **out, struct cs_error *err)
{
    cs_rpc_tls_context *x;
    int rc;

    if ((rc = context_new(TLS_server_method(), &x, err)) != CS_OK)
        return rc;
    SSL_CTX_set_alpn_select_cb(x->ssl, select_h2, NULL);
    if (SSL_CTX_use_certificate_chain_file(x->ssl, cert_file) != 1)
        rc = cs_fail(err, CS_EINVAL, "cannot read the certificate \"%s\": %s", cert_file, reason());
    else if (SSL_CTX_use_PrivateKey_file(x->ssl, key_file, SSL_FILETYPE_PEM) != 1)
        rc = cs_fail(err, CS_EINVAL, "cannot use the key \"%s\": %s", key_file, reason());
    else if (SSL_CTX_check_private_key(x->ssl) != 1)
        rc = cs_fail(err, CS_EINVAL, "the key \"%s\" does not belong to the certificate \"%s\"", key_file, cert_file);
    ERR_clear_error();
    if (rc != CS_OK)
        cs_rpc_tls_context_free(x);
    else
        *out = x;
    return rc;
}

void cs_rpc_tls_context_free(cs_rpc_tls_context *x)
{
    if (x == NULL || --x->refs > 0)
        return;
    SSL_CTX_free(x->ssl);
    free(x->host);
    free(x);
}

/* ---- sessions ---- */

static bool expect_host(const cs_rpc_tls_context *x, SSL *ssl)
{
    if (x->host_is_ip)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), x->host) == 1;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, x->host) == 1 && SSL_set_tlsext_host_name(ssl, x->host) == 1;
}

int cs_rpc_tls_new(cs_rpc_tls_context *x, cs_rpc_tls_session **out, struct cs_error *err)
{
    cs_rpc_tls_session *t = calloc(1, sizeof *t);

    *out = NULL;
    ERR_clear_error();
    if (t == NULL || (t->ssl = SSL_new(x->ssl)) == NULL)
        goto nomem;
    t->context = x;
    x->refs++;
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    if (t->in == NULL || t->out == NULL) {
        BIO_free(t->in);
        BIO_free(t->out);
        goto nomem;
    }
    SSL_set_bio(t->ssl, t->in, t->out);
    if (x->client && !expect_host(x, t->ssl))
        goto nomem;
    if (x->client)
        SSL_set_connect_state(t->ssl);
    else
        SSL_set_accept_state(t->ssl);
    *out = t;
    return CS_OK;
nomem:
    cs_rpc_tls_free(t);
    return cs_fail(err, CS_ENOMEM, "out of memory for TLS");
}

void cs_rpc_tls_free(cs_rpc_tls_session *t)
{
    if (t == NULL)
        return;
    SSL_free(t->ssl);
    cs_rpc_tls_context_free(t->context);
    free(t);
}

int cs_rpc_tls_feed(cs_rpc_tls_session *t, struct cs_slice in, struct cs_error *err)
{
    if (in.len > INT_MAX || BIO_write(t->in, in.data, (int)in.len) != (int)in.len)
        return cs_fail(err, CS_ENOMEM, "out of memory for TLS");
    return CS_OK;
}

/* Why SSL_do_handshake or SSL_read did not succeed; CS_OK: it only wants more input. */
static int why(cs_rpc_tls_session *t, int ret, struct cs_error *err)
{
    long verdict;

    switch (SSL_get_error(t->ssl, ret)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return CS_OK;
    case SSL_ERROR_ZERO_RETURN:
        return cs_fail(err, CS_EUNAVAILABLE, "the peer closed the connection");
    default:
        verdict = SSL_get_verify_result(t->ssl);
        if (t->context->client && !t->ready && verdict != X509_V_OK)
            return cs_fail(err, CS_EAUTH, "the server's certificate is refused: %s",
                           X509_verify_cert_error_string(verdict));
        return cs_fail(err, CS_EUNAVAILABLE, "TLS: %s", reason());
    }
}

static int check_pin(cs_rpc_tls_session *t, struct cs_error *err)
{
    X509 *cert = SSL_get1_peer_certificate(t->ssl);
    unsigned char *spki = NULL;
    uint8_t digest[PIN];
    int n = cert == NULL ? -1 : i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &spki);
    bool same = n > 0 && EVP_Digest(spki, (size_t)n, digest, NULL, EVP_sha256(), NULL) == 1 &&
                memcmp(digest, t->context->pin, PIN) == 0;

    OPENSSL_free(spki);
    X509_free(cert);
    return same ? CS_OK : cs_fail(err, CS_EAUTH, "the server's key is not the pinned one");
}

static int handshake(cs_rpc_tls_session *t, struct cs_error *err)
{
    const unsigned char *alpn;
    unsigned int alpnlen;
    int ret, rc;

    if ((ret = SSL_do_handshake(t->ssl)) != 1)
        return why(t, ret, err);
    SSL_get0_alpn_selected(t->ssl, &alpn, &alpnlen);
    if (alpnlen != 2 || memcmp(alpn, "h2", 2) != 0)
        return cs_fail(err, CS_EUNAVAILABLE, "the peer does not offer HTTP/2");
    if (t->context->pinned && (rc = check_pin(t, err)) != CS_OK)
        return rc;
    t->ready = true;
    return CS_OK;
}

int cs_rpc_tls_read(cs_rpc_tls_session *t, void *out, size_t n, size_t *got, struct cs_error *err)
{
    int ret, rc;

    *got = 0;
    ERR_clear_error();
    if (!t->ready && ((rc = handshake(t, err)) != CS_OK || !t->ready))
        return rc;
    if ((ret = SSL_read(t->ssl, out, n > INT_MAX ? INT_MAX : (int)n)) <= 0)
        return why(t, ret, err);
    *got = (size_t)ret;
    return CS_OK;
}

bool cs_rpc_tls_ready(const cs_rpc_tls_session *t)
{
    return t->ready;
}

int cs_rpc_tls_write(cs_rpc_tls_session *t, struct cs_slice plain, struct cs_error *err)
{
    size_t done;

    ERR_clear_error();
    /* a memory buffer takes everything: anything but complete success is an error */
    if (plain.len > 0 && (SSL_write_ex(t->ssl, plain.data, plain.len, &done) != 1 || done != plain.len))
        return cs_fail(err, CS_EUNAVAILABLE, "TLS: %s", reason());
    return CS_OK;
}

void cs_rpc_tls_shutdown(cs_rpc_tls_session *t)
{
    ERR_clear_error();
    if (t->ready)
        SSL_shutdown(t->ssl);
    ERR_clear_error();
}

struct cs_slice cs_rpc_tls_output(cs_rpc_tls_session *t)
{
    char *p = NULL;
    long n = BIO_get_mem_data(t->out, &p);

    return n > 0 ? cs_slice(p, (size_t)n) : CS_SLICE_NULL;
}

void cs_rpc_tls_output_sent(cs_rpc_tls_session *t)
{
    (void)BIO_reset(t->out);
}
