#include "hub/admin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/process.h"
#include "hub/http.h"
#include "hub/internal.h"

enum { WORKSPACES_SHOWN = 1000, DEVICES_SHOWN = 10000 };

extern const uint8_t cs_admin_page[], cs_admin_style[], cs_admin_script[];
extern const size_t cs_admin_page_len, cs_admin_style_len, cs_admin_script_len;

struct shown { /* one of the first workspaces */
    struct cs_uuid id;
    struct cs_store_head head;
};

/* What the store has of all workspaces together. */
struct stored {
    uint64_t workspaces, bytes, entries;
    size_t nshown; /* of shown */
    bool known;    /* the store could be read */
};

struct seen { /* a device that was heard of since the hub began */
    const struct shown *workspace;
    struct cs_uuid id;
    int64_t seen_ms, pulled;
};

typedef void render(struct cs_admin *a, struct cs_buf *out);

struct cs_admin {
    struct cs_job job; /* first: a job is its admin */
    struct cs_hub *hub;
    cs_http_server *server; /* NULL: stopped */
    char *token;            /* guarded; NULL: none */
    int64_t began_ms;
    struct {
        cs_http_request *request;
        render *render;
        const char *type;
    } waiting[CS_HTTP_MAX_CONNECTIONS], asked[CS_HTTP_MAX_CONNECTIONS]; /* asked: when the job began */
    size_t nwaiting, nasked;
    bool reading;         /* [job] has the ones below */
    struct stored stored; /* [job] */
    struct shown *shown;  /* [job] WORKSPACES_SHOWN of them, ascending */
    struct seen *seen;    /* DEVICES_SHOWN of them */
    size_t nseen;
};

/* ---- what is shown ---- */

static bool visit_workspace(void *arg, const struct cs_uuid *ws, const struct cs_store_head *h)
{
    struct cs_admin *a = arg;

    if (a->stored.nshown < WORKSPACES_SHOWN)
        a->shown[a->stored.nshown++] = (struct shown){ *ws, *h };
    a->stored.workspaces++;
    a->stored.bytes += h->bytes;
    a->stored.entries += h->number;
    return true;
}

static void read_run(struct cs_job *j)
{
    static const struct cs_uuid first;
    struct cs_admin *a = (struct cs_admin *)j;
    struct cs_error err = { 0 };
    struct cs_verdict v = { 0 };
    cs_store_tx *tx = NULL;
    int rc;

    a->stored = (struct stored){ 0 };
    rc = cs_store_begin(a->hub->env.store, CS_STORE_READ, NULL, 0, &tx, &err);
    if (rc == CS_OK)
        rc = tx->ops->workspaces(tx, &first, visit_workspace, a, &err);
    cs_store_rollback(tx);
    if (rc != CS_OK)
        cs_refuse_storage(&v, &err); /* logs it */
    a->stored.known = rc == CS_OK;
}

static int by_id(const void *a, const void *b)
{
    return cs_uuid_cmp(a, b); /* a key, and a row that begins with one */
}

static void visit_device(void *arg, const struct cs_uuid *ws, const struct cs_uuid *device, int64_t seen_ms,
                         int64_t pulled)
{
    struct cs_admin *a = arg;
    const struct shown *w = bsearch(ws, a->shown, a->stored.nshown, sizeof *a->shown, by_id);

    if (w != NULL && a->nseen < DEVICES_SHOWN)
        a->seen[a->nseen++] = (struct seen){ w, *device, seen_ms, pulled };
}

static int by_place(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;
    int c = (x->workspace > y->workspace) - (x->workspace < y->workspace);

    return c != 0 ? c : cs_uuid_cmp(&x->id, &y->id);
}

/* Entries of the log that the device has not read; 0 when that is not known. */
static uint64_t lag_of(const struct seen *s)
{
    uint64_t n = s->workspace->head.number;

    return s->pulled < 0 || (uint64_t)s->pulled > n ? 0 : n - (uint64_t)s->pulled;
}

/* ---- /metrics ---- */

static void gauge(struct cs_buf *out, const char *name, const char *help, uint64_t value)
{
    cs_metrics_put(out, "gauge", name, help);
    cs_metrics_value(out, name, "", value);
}

static void process_text(const struct cs_admin *a, struct cs_buf *out)
{
    struct cs_process_usage u;

    cs_process_usage(&u);
    gauge(out, "process_resident_memory_bytes", "Resident memory.", u.resident_bytes);
    gauge(out, "process_open_fds", "Open file descriptors.", u.open_files);
    gauge(out, "process_max_fds", "As many as may be open.", u.max_files);
    cs_metrics_put(out, "counter", "process_cpu_seconds_total", "User and system time.");
    cs_buf_printf(out, "process_cpu_seconds_total %" PRIu64 ".%09" PRIu64 "\n", u.cpu_ns / 1000000000,
                  u.cpu_ns % 1000000000);
    gauge(out, "process_start_time_seconds", "Unix time of the start.", (uint64_t)(a->began_ms / 1000));
}

static void lag_text(const struct cs_admin *a, struct cs_buf *out)
{
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT], labels[2 * CS_UUID_TEXT + 32];

    cs_metrics_put(out, "gauge", "claw_sync_device_lag_entries",
                   "Entries of its workspace's log that a device has not pulled, of those that have since the start.");
    for (size_t i = 0; i < a->nseen; i++) {
        if (a->seen[i].pulled < 0)
            continue;
        cs_uuid_text(ws, &a->seen[i].workspace->id);
        cs_uuid_text(id, &a->seen[i].id);
        snprintf(labels, sizeof labels, "workspace=\"%s\",device=\"%s\"", ws, id);
        cs_metrics_value(out, "claw_sync_device_lag_entries", labels, lag_of(&a->seen[i]));
    }
}

static void metrics_render(struct cs_admin *a, struct cs_buf *out)
{
    struct cs_rpc_server_stats s = { 0 };

    if (a->hub->server != NULL)
        cs_rpc_server_stats(a->hub->server, &s);
    gauge(out, "claw_sync_connections", "Connections now.", s.connections);
    gauge(out, "claw_sync_calls", "Calls now.", s.calls);
    gauge(out, "claw_sync_watchers", "Devices that wait for news of their workspace.", a->hub->nwatchers);
    cs_metrics_put(out, "counter", "claw_sync_connections_accepted_total", "Connections, ever.");
    cs_metrics_value(out, "claw_sync_connections_accepted_total", "", s.accepted);
    cs_metrics_put(out, "counter", "claw_sync_connections_refused_total", "Connections over a limit.");
    cs_metrics_value(out, "claw_sync_connections_refused_total", "", s.refused);
    cs_metrics_put(out, "counter", "claw_sync_connections_calmed_total", "Connections ended for flooding or stalling.");
    cs_metrics_value(out, "claw_sync_connections_calmed_total", "", s.calmed);
    gauge(out, "claw_sync_store_up", "1: the store could be read just now.", a->stored.known);
    if (a->stored.known) {
        gauge(out, "claw_sync_workspaces", "Workspaces.", a->stored.workspaces);
        gauge(out, "claw_sync_log_entries", "Entries of their logs.", a->stored.entries);
        gauge(out, "claw_sync_stored_ciphertext_bytes", "Bytes of ciphertext in them.", a->stored.bytes);
        lag_text(a, out);
    }
    cs_metrics_text(a->hub->metrics, out);
    process_text(a, out);
}

/* ---- /state.json: ids, numbers, and words of our own; nothing in it needs escaping ---- */

static void devices_json(const struct cs_admin *a, const struct shown *w, size_t *at, struct cs_buf *out)
{
    char id[CS_UUID_TEXT];

    for (const char *comma = ""; *at < a->nseen && a->seen[*at].workspace == w; comma = ",", (*at)++) {
        const struct seen *s = &a->seen[*at];

        cs_uuid_text(id, &s->id);
        cs_buf_printf(out, "%s{\"id\":\"%s\",\"seen_ms\":%" PRId64 ",\"pulled\":%" PRId64 ",\"lag\":%" PRIu64 "}",
                      comma, id, s->seen_ms, s->pulled, lag_of(s));
    }
}

static void workspaces_json(const struct cs_admin *a, struct cs_buf *out)
{
    char id[CS_UUID_TEXT];
    size_t at = 0;

    for (size_t i = 0; i < a->stored.nshown; i++) {
        const struct shown *w = &a->shown[i];

        cs_uuid_text(id, &w->id);
        cs_buf_printf(out,
                      "%s{\"id\":\"%s\",\"number\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"epoch\":%" PRIu32
                      ",\"member_seq\":%" PRIu32 ",\"devices\":[",
                      i == 0 ? "" : ",", id, w->head.number, w->head.bytes, w->head.epoch, w->head.member_seq);
        devices_json(a, w, &at, out);
        cs_buf_put_str(out, "]}");
    }
}

static void refusals_json(const struct cs_admin *a, struct cs_buf *out)
{
    struct cs_refusal r[CS_METRICS_REFUSALS];
    size_t n = cs_metrics_refusals(a->hub->metrics, r);

    for (size_t i = 0; i < n; i++)
        cs_buf_printf(out, "%s{\"at_ms\":%" PRId64 ",\"method\":\"%s\",\"code\":\"%s\",\"kind\":\"%s\"}",
                      i == 0 ? "" : ",", r[i].at_ms, r[i].method, cs_rpc_status_name(r[i].status), r[i].kind);
}

static void state_render(struct cs_admin *a, struct cs_buf *out)
{
    struct cs_rpc_server_stats s = { 0 };
    struct cs_metrics_totals t;
    struct cs_process_usage u;

    if (a->hub->server != NULL)
        cs_rpc_server_stats(a->hub->server, &s);
    cs_metrics_totals(a->hub->metrics, &t);
    cs_process_usage(&u);
    cs_buf_printf(out,
                  "{\"version\":\"%s\",\"store\":\"%s\",\"store_up\":%s,\"stopping\":%s,\"now_ms\":%" PRId64
                  ",\"began_ms\":%" PRId64 ",\"connections\":%zu,\"calls\":%zu,\"watchers\":%zu,",
                  CS_VERSION, a->hub->store.ops->name, a->stored.known ? "true" : "false",
                  a->hub->stopping ? "true" : "false", cs_now_ms(a->hub->world), a->began_ms, s.connections, s.calls,
                  a->hub->nwatchers);
    cs_buf_printf(out,
                  "\"totals\":{\"calls\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"stored_batches\":%" PRIu64
                  ",\"stored_operations\":%" PRIu64 ",\"stored_bytes\":%" PRIu64 ",\"given_batches\":%" PRIu64
                  ",\"given_bytes\":%" PRIu64 ",\"commits\":%" PRIu64 "},",
                  t.calls, t.refused, t.stored_batches, t.stored_operations, t.stored_bytes, t.given_batches,
                  t.given_bytes, t.commits);
    cs_buf_printf(
        out,
        "\"process\":{\"resident_bytes\":%" PRIu64 ",\"cpu_ms\":%" PRIu64 ",\"open_files\":%" PRIu64
        "},\"workspace_count\":%" PRIu64 ",\"log_entries\":%" PRIu64 ",\"stored_bytes\":%" PRIu64 ",\"workspaces\":[",
        u.resident_bytes, u.cpu_ns / 1000000, u.open_files, a->stored.workspaces, a->stored.entries, a->stored.bytes);
    workspaces_json(a, out);
    cs_buf_put_str(out, "],\"refusals\":[");
    refusals_json(a, out);
    cs_buf_put_str(out, "]}\n");
}

/* ---- answering: everybody who asked while the store was read gets the next reading ---- */

static void read_start(struct cs_admin *a);

static void read_done(struct cs_job *j)
{
    struct cs_admin *a = (struct cs_admin *)j;
    struct cs_buf out = { 0 };

    a->reading = false;
    a->nseen = 0;
    cs_presence_each(a->hub, visit_device, a);
    qsort(a->seen, a->nseen, sizeof *a->seen, by_place);
    for (size_t i = 0; i < a->nasked; i++) {
        cs_buf_reset(&out);
        a->asked[i].render(a, &out);
        if (out.failed)
            cs_http_respond(a->asked[i].request, 503, "text/plain; charset=utf-8", cs_slice_str("out of memory\n"));
        else
            cs_http_respond(a->asked[i].request, 200, a->asked[i].type, cs_buf_slice(&out));
    }
    a->nasked = 0;
    cs_buf_free(&out);
    read_start(a);
}

static void read_start(struct cs_admin *a)
{
    if (a->reading || a->nwaiting == 0)
        return;
    memcpy(a->asked, a->waiting, a->nwaiting * sizeof *a->waiting);
    a->nasked = a->nwaiting;
    a->nwaiting = 0;
    a->job = (struct cs_job){ .run = read_run, .done = read_done };
    a->reading = true;
    if (cs_job_start(a->hub, &a->job) == CS_OK)
        return;
    a->reading = false;
    for (size_t i = 0; i < a->nasked; i++)
        cs_http_respond(a->asked[i].request, 503, "text/plain; charset=utf-8", cs_slice_str("out of memory\n"));
    a->nasked = 0;
}

static bool names_this_machine(const char *host)
{
    static const char *const names[] = { "localhost", "127.0.0.1", "[::1]" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t n = strlen(names[i]);

        if (strncmp(host, names[i], n) == 0 && (host[n] == '\0' || host[n] == ':'))
            return true;
    }
    return false;
}

/* 0, or the status that refuses it. */
static int refused(const struct cs_admin *a, const cs_http_request *r)
{
    const char *given = cs_http_header(r, "authorization");
    uint8_t want[32], got[32];

    if (a->token == NULL)
        return names_this_machine(cs_http_header(r, "host")) ? 0 : 403;
    if (strncmp(given, "Bearer ", 7) != 0)
        return 401;
    /* Hashes, so that neither length nor place of a difference shows. */
    cs_hash_plain(cs_slice_str(a->token), want);
    cs_hash_plain(cs_slice_str(given + 7), got);
    return cs_secret_eq(want, got, sizeof want) ? 0 : 401;
}

static void handle(void *arg, cs_http_request *r)
{
    static const struct {
        const char *path, *type;
        const uint8_t *bytes;
        const size_t *len;
    } files[] = { { "/", "text/html; charset=utf-8", cs_admin_page, &cs_admin_page_len },
                  { "/admin.css", "text/css; charset=utf-8", cs_admin_style, &cs_admin_style_len },
                  { "/admin.js", "text/javascript; charset=utf-8", cs_admin_script, &cs_admin_script_len } };
    static const struct {
        const char *path, *type;
        render *render;
    } views[] = { { "/metrics", "text/plain; version=0.0.4; charset=utf-8", metrics_render },
                  { "/state.json", "application/json", state_render } };
    struct cs_admin *a = arg;
    const char *path = cs_http_path(r);
    int status;

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (strcmp(path, files[i].path) == 0) {
            cs_http_respond(r, 200, files[i].type, cs_slice(files[i].bytes, *files[i].len));
            return;
        }
    if (strcmp(path, "/healthz") == 0) {
        cs_http_respond(r, a->hub->stopping ? 503 : 200, "text/plain; charset=utf-8",
                        cs_slice_str(a->hub->stopping ? "stopping\n" : "ok\n"));
        return;
    }
    if ((status = refused(a, r)) != 0) {
        cs_http_respond(r, status, "text/plain; charset=utf-8",
                        cs_slice_str(status == 401 ? "give the token: Authorization: Bearer TOKEN\n"
                                                   : "ask for localhost, or set CLAW_SYNC_ADMIN_TOKEN\n"));
        return;
    }
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++)
        if (strcmp(path, views[i].path) == 0) {
            /* The server lets no more connections in than there are places. */
            a->waiting[a->nwaiting].request = r;
            a->waiting[a->nwaiting].render = views[i].render;
            a->waiting[a->nwaiting++].type = views[i].type;
            read_start(a);
            return;
        }
    cs_http_respond(r, 404, "text/plain; charset=utf-8", cs_slice_str("there is /, /metrics, /state.json, /healthz\n"));
}

/* ---- its life ---- */

static int token_keep(struct cs_admin *a, const char *token)
{
    size_t n = token == NULL ? 0 : strlen(token) + 1;

    if (token == NULL)
        return CS_OK;
    if ((a->token = cs_secret_alloc(n)) == NULL)
        return CS_ENOMEM;
    memcpy(a->token, token, n);
    return CS_OK;
}

int cs_admin_new(struct cs_hub *h, const struct cs_hub_options *o, struct cs_admin **out, struct cs_error *err)
{
    struct cs_admin *a = calloc(1, sizeof *a);
    int rc;

    *out = a;
    if (a == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    a->hub = h;
    a->began_ms = cs_now_ms(h->world);
    a->shown = calloc(WORKSPACES_SHOWN, sizeof *a->shown);
    a->seen = calloc(DEVICES_SHOWN, sizeof *a->seen);
    if (a->shown == NULL || a->seen == NULL || token_keep(a, o->admin_token) != CS_OK)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else
        rc = cs_http_server_new(h->loop, o->admin_host, o->admin_port, handle, a, &a->server, err);
    if (rc == CS_OK)
        return CS_OK;
    cs_admin_free(a);
    *out = NULL;
    return rc;
}

uint16_t cs_admin_port(const struct cs_admin *a)
{
    return a == NULL ? 0 : cs_http_server_port(a->server);
}

void cs_admin_stop(struct cs_admin *a)
{
    if (a == NULL)
        return;
    a->nwaiting = a->nasked = 0; /* the server frees them */
    cs_http_server_close(a->server);
    a->server = NULL;
}

void cs_admin_free(struct cs_admin *a)
{
    if (a == NULL)
        return;
    cs_admin_stop(a);
    cs_secret_free(a->token);
    free(a->shown);
    free(a->seen);
    free(a);
}
