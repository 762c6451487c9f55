/* TLS 1.3: who is believed, and that calls work as without. Keys and certificates are made afresh. */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include "scratch.h"
#include "unit/rpc/wire_fixture.h"

static char dir[SCRATCH_LEN];
static char ca[128], other_ca[128], cert[128], key[128], pin[65];

__attribute__((format(printf, 1, 2))) static void sh(const char *fmt, ...)
{
    char cmd[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    if (system(cmd) != 0)
        fail_msg("command: %s", cmd);
}

static int make_keys(void **state)
{
    char path[128];
    FILE *f;

    (void)state;
    assert_non_null(scratch_folder(dir, "tls"));
    snprintf(ca, sizeof ca, "%s/ca.pem", dir);
    snprintf(other_ca, sizeof other_ca, "%s/other.pem", dir);
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    for (int i = 0; i < 2; i++)
        sh("cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s.key -out %s.pem "
           "-days 2 -subj /CN=test-%d 2>/dev/null",
           dir, i == 0 ? "ca" : "other", i == 0 ? "ca" : "other", i);
    sh("cd %s && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out req.pem "
       "-subj /CN=hub 2>/dev/null && echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' > ext && "
       "openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem "
       "2>/dev/null && openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform der | "
       "openssl dgst -sha256 -r | cut -c 1-64 > pin",
       dir);
    snprintf(path, sizeof path, "%s/pin", dir);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_non_null(fgets(pin, sizeof pin, f));
    fclose(f);
    return 0;
}

static int drop_keys(void **state)
{
    (void)state;
    sh("rm -r %s", dir);
    return 0;
}

static void open_tls(struct world_case *w, const char *host, const char *ca_file, const char *pin_text)
{
    struct cs_rpc_tls tls = { ca_file, pin_text };

    case_loop(w, cs_world_real());
    case_serve(w, &(struct cs_rpc_server_options){ .cert_file = cert, .key_file = key });
    case_dial(w, &(struct cs_rpc_channel_options){ .host = host, .tls = &tls, .connect_timeout_ms = 3000 });
}

static void calls_over_tls(void **state)
{
    static const char *const hosts[] = { "127.0.0.1", "localhost" };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct world_case w;
        struct seen s = { 0 }, stream = { .to_send = 200, .size = 100000, .half_close = true }, bulk = { 0 };

        open_tls(&w, hosts[i], ca, i == 0 ? NULL : pin);
        unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
        assert_string_equal(s.text, "");
        assert_int_equal(s.status, CS_RPC_OK);
        assert_memory_equal(s.first.data, "hello", 5);
        start_call(&w, &stream, "/t.S/Echo", NULL, 0);
        seen_fill(stream.call, &stream);
        finish_call(&w, &stream);
        assert_int_equal(stream.bytes, 20000000);
        w.service.bulk = 320;
        start_call(&w, &bulk, "/t.S/Bulk", NULL, 0);
        cs_rpc_call_half_close(bulk.call);
        finish_call(&w, &bulk);
        assert_int_equal(bulk.bytes, 320 * BULK_MESSAGE);
        assert_int_equal(w.up, 1);
        seen_free(&s);
        seen_free(&stream);
        seen_free(&bulk);
        case_close(&w);
    }
}

static void who_is_not_believed(void **state)
{
    static const char wrong_pin[] = "0000000000000000000000000000000000000000000000000000000000000000";
    const struct {
        const char *host, *ca, *pin, *why;
    } cases[] = {
        { "127.0.0.1", other_ca, NULL, "certificate is refused" },
        { "127.0.0.1", NULL, NULL, "certificate is refused" },
        { "127.0.0.2", ca, NULL, "IP address mismatch" },
        { "127.0.0.1", ca, wrong_pin, "not the pinned one" },
        { "127.0.0.1", other_ca, pin, "certificate is refused" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct world_case w;
        struct seen s = { 0 };
        struct cs_rpc_tls tls = { cases[i].ca, cases[i].pin };

        case_loop(&w, cs_world_real());
        case_serve(&w, &(struct cs_rpc_server_options){ .host = "0.0.0.0", .cert_file = cert, .key_file = key });
        case_dial(&w, &(struct cs_rpc_channel_options){ .host = cases[i].host, .tls = &tls });
        unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
        assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
        if (strstr(s.text, cases[i].why) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", s.text, cases[i].why);
        assert_int_equal(w.service.started, 0);
        seen_free(&s);
        run_ms(&w, 10);
        case_close(&w);
    }
}

/* New connections get the new certificate; those that are there notice nothing, and a bad file changes nothing. */
static void a_renewed_certificate(void **state)
{
    struct cs_rpc_tls old_tls = { ca, NULL }, new_tls = { other_ca, NULL };
    char fresh[160];
    struct world_case w;
    struct seen before = { 0 }, during = { 0 }, after = { 0 };
    struct cs_error err;
    cs_rpc_channel *old;

    (void)state;
    snprintf(fresh, sizeof fresh, "%s/fresh.pem", dir);
    sh("cd %s && openssl x509 -req -in req.pem -CA other.pem -CAkey other.key -CAcreateserial -days 2 -extfile ext "
       "-out fresh.pem 2>/dev/null",
       dir);
    open_tls(&w, "127.0.0.1", ca, NULL);
    unary(&w, &before, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
    assert_int_equal(before.status, CS_RPC_OK);
    assert_int_equal(cs_rpc_server_certificate(w.server, "/nonexistent", key, &err), CS_EINVAL);
    assert_int_equal(cs_rpc_server_certificate(w.server, ca, key, &err), CS_EINVAL);
    assert_int_equal(cs_rpc_server_certificate(w.server, fresh, key, &err), CS_OK);
    unary(&w, &during, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
    assert_int_equal(during.status, CS_RPC_OK);
    assert_int_equal(w.up, 1);
    old = w.channel;
    case_dial(&w, &(struct cs_rpc_channel_options){ .host = "127.0.0.1", .tls = &new_tls, .connect_timeout_ms = 3000 });
    unary(&w, &after, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
    assert_string_equal(after.text, "");
    assert_int_equal(after.status, CS_RPC_OK);
    cs_rpc_channel_close(w.channel);
    case_dial(&w, &(struct cs_rpc_channel_options){ .host = "127.0.0.1", .tls = &old_tls, .connect_timeout_ms = 3000 });
    seen_free(&after);
    after = (struct seen){ 0 };
    unary(&w, &after, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
    assert_int_equal(after.status, CS_RPC_UNAVAILABLE);
    cs_rpc_channel_close(old);
    seen_free(&before);
    seen_free(&during);
    seen_free(&after);
    run_ms(&w, 10);
    case_close(&w);
}

/* The certificate is for localhost and 127.0.0.1 only. */
static void a_wrong_name(void **state)
{
    struct world_case w;
    struct seen s = { 0 };

    (void)state;
    sh("cd %s && echo 'subjectAltName=DNS:elsewhere.example' > ext && openssl x509 -req -in req.pem -CA ca.pem "
       "-CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem 2>/dev/null",
       dir);
    open_tls(&w, "localhost", ca, NULL);
    unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    assert_non_null(strstr(s.text, "hostname mismatch"));
    seen_free(&s);
    case_close(&w);
}

static void plain_meets_tls(void **state)
{
    struct cs_rpc_tls tls = { ca, NULL };
    struct world_case w;
    struct seen s = { 0 }, t = { 0 };

    (void)state;
    open_tls(&w, "127.0.0.1", ca, NULL);
    cs_rpc_channel_close(w.channel);
    case_dial(&w, NULL);
    unary(&w, &s, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
    assert_int_equal(s.status, CS_RPC_UNAVAILABLE);
    cs_rpc_channel_close(w.channel);
    cs_rpc_server_close(w.server);
    case_serve(&w, NULL);
    case_dial(&w, &(struct cs_rpc_channel_options){ .tls = &tls, .connect_timeout_ms = 300 });
    unary(&w, &t, "/t.S/Echo", NULL, 5000, cs_slice_str("hello"));
    assert_int_equal(t.status, CS_RPC_UNAVAILABLE);
    seen_free(&s);
    seen_free(&t);
    run_ms(&w, 10);
    case_close(&w);
}

static void bad_files(void **state)
{
    static const struct cs_rpc_tls tls[] = { { "/nonexistent", NULL }, { NULL, "abc" } };
    const struct cs_rpc_server_options servers[] = {
        { .host = "127.0.0.1", .cert_file = "/nonexistent", .key_file = key },
        { .host = "127.0.0.1", .cert_file = cert, .key_file = "/nonexistent" },
        { .host = "127.0.0.1", .cert_file = ca, .key_file = key },
        { .host = "127.0.0.1", .cert_file = cert },
    };
    struct world_case w;
    struct cs_error err;
    cs_rpc_channel *ch;
    cs_rpc_server *s;

    (void)state;
    case_loop(&w, cs_world_real());
    for (size_t i = 0; i < sizeof tls / sizeof tls[0]; i++) {
        struct cs_rpc_channel_options o = { .host = "localhost", .port = 1, .tls = &tls[i] };

        assert_int_equal(cs_rpc_channel_new(w.loop, &o, &ch, &err), CS_EINVAL);
        assert_null(ch);
    }
    for (size_t i = 0; i < sizeof servers / sizeof servers[0]; i++) {
        assert_int_equal(cs_rpc_server_new(w.loop, &servers[i], &s, &err), CS_EINVAL);
        assert_null(s);
    }
    case_close(&w);
}

/* ---- clients that speak another TLS ---- */

struct foreigner {
    SSL_CTX *context;
    SSL *ssl;
    struct wire x;
    size_t fed;        /* bytes of what was heard that TLS was given */
    bool secured;      /* its handshake is done */
    int reason;        /* of the error that ended it; 0: there was none */
    size_t kept_aside; /* bytes that it holds back at the end of each flight */
};

static void put_flight(struct foreigner *f, struct cs_buf *out)
{
    size_t n = BIO_ctrl_pending(SSL_get_wbio(f->ssl));
    uint8_t *room;

    if (n <= f->kept_aside || (room = cs_buf_grow(out, n - f->kept_aside)) == NULL)
        return;
    assert_int_equal(BIO_read(SSL_get_wbio(f->ssl), room, (int)(n - f->kept_aside)), n - f->kept_aside);
}

static void step(struct foreigner *f)
{
    size_t left = f->x.heard.len - f->fed;
    uint8_t plain[256];
    int rc;

    if (left > 0)
        assert_int_equal(BIO_write(SSL_get_rbio(f->ssl), f->x.heard.data + f->fed, (int)left), left);
    f->fed += left;
    ERR_clear_error();
    rc = f->secured ? SSL_read(f->ssl, plain, sizeof plain) : SSL_do_handshake(f->ssl);
    if (rc <= 0 && SSL_get_error(f->ssl, rc) == SSL_ERROR_SSL)
        f->reason = ERR_GET_REASON(ERR_peek_error());
    else if (rc == 1)
        f->secured = true;
}

static void meet(struct world_case *w, struct foreigner *f, int version, const char *alpn)
{
    assert_non_null(f->context = SSL_CTX_new(TLS_client_method()));
    assert_int_equal(SSL_CTX_set_max_proto_version(f->context, version), 1);
    if (alpn != NULL)
        assert_int_equal(SSL_CTX_set_alpn_protos(f->context, (const uint8_t *)alpn, (unsigned)strlen(alpn)), 0);
    assert_non_null(f->ssl = SSL_new(f->context));
    SSL_set_bio(f->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(f->ssl);
    step(f);
    put_flight(f, &f->x.say);
    wire_dial(&f->x, w);
    while (!f->x.ended) {
        struct cs_buf more = { 0 };

        run_ms(w, 1);
        step(f);
        put_flight(f, &more);
        if (more.len > 0 && !f->x.ended)
            wire_say(&f->x, cs_buf_slice(&more));
        cs_buf_free(&more);
    }
    step(f);
}

/* An older TLS, another protocol or none above it, and a handshake that stops half way: each is hung up on, the first
 * two are told why, and those who came for gRPC notice nothing. */
static void foreigners(void **state)
{
    static const struct {
        const char *name, *alpn;
        int version;
        size_t kept_aside;
        int reason;
        bool secured;
    } cases[] = {
        { "TLS 1.2", "\2h2", TLS1_2_VERSION, 0, SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, false },
        { "HTTP/1.1", "\10http/1.1", TLS1_3_VERSION, 0, SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL, false },
        { "no protocol", NULL, TLS1_3_VERSION, 0, 0, true },
        { "half a hello", "\2h2", TLS1_3_VERSION, 50, 0, false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct foreigner f = { .kept_aside = cases[i].kept_aside };
        struct cs_rpc_tls tls = { ca, NULL };
        struct cs_rpc_server_stats stats;
        struct seen before = { 0 }, after = { 0 };
        struct world_case w;

        case_loop(&w, cs_world_real());
        case_serve(&w, &(struct cs_rpc_server_options){ .cert_file = cert, .key_file = key, .handshake_ms = 2000 });
        case_dial(&w, &(struct cs_rpc_channel_options){ .host = "localhost", .tls = &tls });
        unary(&w, &before, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
        meet(&w, &f, cases[i].version, cases[i].alpn);
        unary(&w, &after, "/t.S/Echo", NULL, 0, cs_slice_str("x"));
        if (f.reason != cases[i].reason || f.secured != cases[i].secured)
            fail_msg("%s: %s, %d", cases[i].name, ERR_reason_error_string(ERR_PACK(ERR_LIB_SSL, 0, f.reason)),
                     f.secured);
        assert_int_equal(before.status, CS_RPC_OK);
        assert_int_equal(after.status, CS_RPC_OK);
        cs_rpc_server_stats(w.server, &stats);
        assert_int_equal(stats.connections, 1);
        assert_int_equal(w.up, 1);
        SSL_free(f.ssl);
        SSL_CTX_free(f.context);
        wire_close(&f.x);
        seen_free(&before);
        seen_free(&after);
        case_close(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_over_tls),  cmocka_unit_test(who_is_not_believed),
        cmocka_unit_test(plain_meets_tls), cmocka_unit_test(bad_files),
        cmocka_unit_test(foreigners),      cmocka_unit_test(a_renewed_certificate),
        cmocka_unit_test(a_wrong_name),
    };

    return cmocka_run_group_tests_name("rpc tls", tests, make_keys, drop_keys);
}
