/* One measurement of a hub, as JSON on standard output; bench/hub.py runs them in turn and compares. STORE is the path
 * of a SQLite file that is made, or the postgresql:// URL of an empty database.
 *   hub_bench push STORE N GROUP    16 devices send N one-row batches to 64 workspaces; at most GROUP in a commit
 *   hub_bench bulk STORE MIB        one device sends so much in chunks of 64 KiB, another pulls it
 *   hub_bench watch STORE N [CERTIFICATE KEY]
 *                                   N connections watch, over TLS if there is a certificate for 127.0.0.1; 50 pushes;
 *                                   fails when one does not reach its watchers
 *   hub_bench rows STORE N OTHERS   N rows into one workspace beside so many others, by the store alone, and out again
 *   hub_bench blobs FILE MIB        plain SQLite takes the same bytes, and reads them
 *   hub_bench copy URL MIB          PostgreSQL takes and gives them by COPY in binary format
 * The hub is a process of its own and commits durably; what is sent was made and signed before the clock starts. */
#include "unit/hub/service_scene.h"

#include <dirent.h>
#include <libpq-fe.h>
#include <sqlite3.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "hub/internal.h"

enum { DEVICES = 16, WORKSPACES = 64, CHUNK = 64 * 1024, CHUNKS = 16, PER_WORKSPACE = 64, PUSHES = 50 };
enum { INFLIGHT = 4 }; /* batches that a stream has unanswered: an engine's max_push_inflight as it comes */

static struct cs_hub known; /* what a client has to know of the hub: its key */
static struct cs_sign_key hub_key;
static uint16_t port;
static pid_t hub_pid;
static cs_loop *loop;
static const char *certificate, *certificate_key; /* NULL: without TLS */

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "hub_bench: %s: %s\n", what, why);
    if (hub_pid > 0)
        kill(hub_pid, SIGKILL);
    exit(1);
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool is_postgres(const char *store)
{
    return strncmp(store, "postgres", 8) == 0;
}

/* ---- CPU time ---- */

/* Seconds of CPU so far: of this process, of the hub's, and of all of the PostgreSQL server's. */
struct cpu {
    double client, hub, server;
};
static pid_t postmaster; /* 0: there is none */

static double clock_s(clockid_t clock)
{
    struct timespec t = { 0 };

    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Of the process's stat file: its parent, and its CPU time with that of the children that it has waited for. */
static bool stat_read(pid_t pid, pid_t *parent, double *cpu_s)
{
    char path[64], line[1024] = "";
    long long ticks[4] = { 0 };
    const char *at;
    int ppid = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if ((f = fopen(path, "r")) == NULL)
        return false;
    at = fgets(line, sizeof line, f) == NULL ? NULL : strrchr(line, ')');
    fclose(f);
    if (at == NULL || sscanf(at, ") %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lld %lld %lld %lld", &ppid, &ticks[0],
                             &ticks[1], &ticks[2], &ticks[3]) != 5)
        return false;
    *parent = ppid;
    *cpu_s = (double)(ticks[0] + ticks[1] + ticks[2] + ticks[3]) / (double)sysconf(_SC_CLK_TCK);
    return true;
}

static double server_cpu_s(void)
{
    const struct dirent *e;
    double all = 0, one;
    pid_t parent;
    DIR *d;

    if (postmaster == 0 || (d = opendir("/proc")) == NULL)
        return 0;
    while ((e = readdir(d)) != NULL) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);

        if (pid > 0 && stat_read(pid, &parent, &one) && (pid == postmaster || parent == postmaster))
            all += one;
    }
    closedir(d);
    return all;
}

static void postmaster_find(const char *store)
{
    PGconn *conn = PQconnectdb(store);
    double unused;

    if (PQstatus(conn) != CONNECTION_OK || !stat_read(PQbackendPID(conn), &postmaster, &unused))
        die("postgres", PQerrorMessage(conn));
    PQfinish(conn);
}

static struct cpu cpu_now(void)
{
    struct cpu c = { .client = clock_s(CLOCK_PROCESS_CPUTIME_ID), .server = server_cpu_s() };
    clockid_t hub;

    if (clock_getcpuclockid(hub_pid, &hub) == 0)
        c.hub = clock_s(hub);
    return c;
}

static struct cpu cpu_since(struct cpu then)
{
    struct cpu now = cpu_now();

    return (struct cpu){ now.client - then.client, now.hub - then.hub, now.server - then.server };
}

/* ---- the hub's process ---- */

static void fds_raise(void)
{
    struct rlimit most;

    if (getrlimit(RLIMIT_NOFILE, &most) == 0) {
        most.rlim_cur = most.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &most);
    }
}

static _Noreturn void hub_serve(const char *store, uint32_t group, int out)
{
    struct cs_hub_options o = { .host = "127.0.0.1",
                                .database = store,
                                .group_max = group,
                                .connections = 20000,
                                .connections_per_address = 20000,
                                .cert_file = certificate,
                                .key_file = certificate_key };
    struct cs_error err = { 0 };
    uint16_t at;
    cs_hub *h;
    cs_loop *l;

    prctl(PR_SET_PDEATHSIG, SIGKILL);           /* a client that fails takes it along */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); /* as claw-sync-server does */
    memset(o.key_seed, 7, sizeof o.key_seed);
    if (is_postgres(store))
        o.postgres = (struct cs_store_postgres_options){ .url = store, .listen = store, .connections = 8 };
    if (cs_crypto_init(&err) != CS_OK || cs_loop_new(cs_world_real(), &l, &err) != CS_OK ||
        cs_hub_start(cs_world_real(), l, &o, &h, &err) != CS_OK)
        die("hub", err.msg);
    at = cs_hub_port(h);
    if (write(out, &at, sizeof at) != sizeof at)
        die("hub", "nobody waits for it");
    cs_loop_run(l);
    _exit(0);
}

static void hub_begin(const char *store, uint32_t group)
{
    uint8_t seed[32];
    struct cs_error err = { 0 };
    int fd[2];

    fds_raise();
    signal(SIGPIPE, SIG_IGN);
    if (is_postgres(store))
        postmaster_find(store);
    if (is_postgres(store))
        postmaster_find(store);
    if (pipe(fd) != 0 || (hub_pid = fork()) < 0)
        die("hub", "no process");
    if (hub_pid == 0)
        hub_serve(store, group, fd[1]);
    close(fd[1]);
    if (read(fd[0], &port, sizeof port) != sizeof port)
        die("hub", "it does not start");
    close(fd[0]);
    if (cs_crypto_init(&err) != CS_OK || cs_loop_new(cs_world_real(), &loop, &err) != CS_OK)
        die("client", err.msg);
    memset(seed, 7, sizeof seed);
    cs_sign_key_from_seed(&hub_key, seed);
    known.key = &hub_key;
}

static void hub_end(void)
{
    kill(hub_pid, SIGKILL);
    waitpid(hub_pid, NULL, 0);
}

static double hub_kib(const char *what)
{
    char path[64], line[256];
    double kib = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/status", (int)hub_pid);
    if ((f = fopen(path, "r")) == NULL)
        return 0;
    while (fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, what, strlen(what)) == 0)
            kib = strtod(line + strlen(what) + 1, NULL);
    fclose(f);
    return kib;
}

/* ---- clients ---- */

/* A connection, of whatever device. */
static struct scene *client_new(void)
{
    struct scene *s = calloc(1, sizeof *s);
    struct cs_rpc_tls tls = { .ca_file = certificate };
    struct cs_rpc_channel_options c = {
        .host = "127.0.0.1", .port = port, .max_connections = 1, .tls = certificate != NULL ? &tls : NULL
    };
    struct cs_error err = { 0 };

    if (s == NULL)
        die("client", "out of memory");
    s->world = cs_world_real();
    s->loop = loop;
    s->hub = &known;
    s->a.rng = (struct cs_rng){ .world = s->world };
    if (cs_timer_new(loop, timed_out, s, &s->timer) != CS_OK ||
        cs_rpc_channel_new(loop, &c, &s->channel, &err) != CS_OK)
        die("client", "out of memory");
    return s;
}

/* A workspace whose members are the n makers, who know all of its entries. */
static void workspace_of(struct scene *s, struct maker *m, size_t n, unsigned workspace)
{
    struct cs_buf entry = { 0 };

    for (size_t i = 0; i < n; i++) {
        maker_init(&m[i], 1, (uint8_t)(i + 1));
        cs_store_u32(m[i].workspace.b + 12, workspace);
        cs_epoch_keys_derive(&m[i].epoch, hub_key.pk, &m[i].workspace, 1);
        cs_buf_reset(&entry);
        if (i == 0)
            maker_genesis(&m[0], &entry);
        else
            maker_add(&m[i], &m[0], &entry);
        maker_learn(&m[0], cs_buf_slice(&entry));
        register_ok(s, &m[i], cs_buf_slice(&entry));
    }
    for (size_t i = 1; i < n; i++) {
        m[i].members = (struct cs_membership){ .seq = m[0].members.seq, .epoch = m[0].members.epoch };
        memcpy(m[i].members.head, m[0].members.head, 32);
        m[i].log_id = m[0].log_id;
        memcpy(m[i].seen_log_hash, m[0].seen_log_hash, 32);
    }
    cs_buf_free(&entry);
}

/* A stream that counts what comes, and how many streams still wait for something. */
struct stream {
    struct scene *s;
    cs_rpc_call *call;
    size_t got, want;
    uint64_t bytes;
    double last_s;
    bool answers;             /* of pushes: each has to say yes */
    bool to_end;              /* wants the end */
    const struct cs_buf *out; /* batches, of which so many were sent and so many there are */
    size_t sent, nout;
};
static size_t nwaiting;

static void one_less(const struct stream *k)
{
    if (--nwaiting == 0)
        cs_loop_stop(k->s->loop);
}

static void stream_message(cs_rpc_call *c, void *arg, struct cs_slice msg)
{
    struct stream *k = arg;

    (void)c;
    if (k->answers) {
        Clawsync__V1__PushResponse *a = clawsync__v1__push_response__unpack(NULL, msg.len, msg.data);

        if (a == NULL || !a->accepted)
            die("a batch was refused", a == NULL ? "" : a->reason);
        clawsync__v1__push_response__free_unpacked(a, NULL);
    }
    k->bytes += msg.len;
    k->last_s = now_s();
    if (k->sent < k->nout)
        cs_rpc_call_send(k->call, cs_buf_slice(&k->out[k->sent++]));
    if (++k->got == k->want)
        one_less(k);
}

static void stream_done(cs_rpc_call *c, void *arg, int status, const char *text, const struct cs_rpc_metadata *m)
{
    struct stream *k = arg;

    (void)c;
    (void)m;
    if (status != CS_RPC_OK && status != CS_RPC_CANCELLED)
        die("a call ended", text == NULL ? "" : text);
    if (k->to_end)
        one_less(k);
    k->call = NULL;
}

static const struct cs_rpc_client_cb stream_cb = { .message = stream_message, .done = stream_done };

static void stream_open(struct stream *k, struct scene *s, const struct maker *m, const char *method,
                        const struct cs_slice *body)
{
    char text[CS_CALL_PROOF_TEXT], path[80];
    struct cs_rpc_meta meta = { "authorization", { 0 } };
    struct cs_rpc_metadata md = { &meta, 1 };
    struct cs_call_proof p;
    struct cs_error err = { 0 };

    *k = (struct stream){ .s = s };
    prove(s, m, method, body, &p);
    cs_call_proof_text(&p, text);
    meta.value = cs_slice_str(text);
    snprintf(path, sizeof path, SERVICE "%s", method);
    if (cs_rpc_call_new(s->channel, path, &md, 0, &stream_cb, k, &k->call, &err) != CS_OK)
        die("a call", err.msg);
    if (body == NULL)
        return;
    cs_rpc_call_send(k->call, *body);
    cs_rpc_call_half_close(k->call);
}

/* Until nobody waits any more. */
static void wait_all(void)
{
    if (nwaiting > 0)
        cs_loop_run(loop);
}

/* The next batch of m, packed. */
static void batch_make(struct maker *m, uint32_t len, uint32_t nchunks, struct cs_buf *out)
{
    struct made *b = maker_batch(m, len, nchunks);
    size_t n = clawsync__v1__push_request__get_packed_size(&b->req);

    clawsync__v1__push_request__pack(&b->req, cs_buf_grow(out, n));
    maker_commit(m, b);
    cs_arena_free(&m->arena);
}

/* ---- push ---- */

/* Sends so many, and one more for each answer. */
static void stream_send(struct stream *k, const struct cs_buf *batches, size_t n)
{
    k->out = batches;
    k->nout = k->want = n;
    k->answers = true;
    while (k->sent < n && k->sent < INFLIGHT)
        cs_rpc_call_send(k->call, cs_buf_slice(&k->out[k->sent++]));
}

static void push(const char *store, size_t n, uint32_t group)
{
    static struct maker m[WORKSPACES][DEVICES];
    static struct stream k[WORKSPACES][DEVICES];
    struct scene *s[DEVICES];
    size_t each = (n + WORKSPACES * DEVICES - 1) / (WORKSPACES * DEVICES);
    struct cs_buf *batch = calloc(WORKSPACES * DEVICES * each, sizeof *batch);
    double begin, took;
    struct cpu cpu;

    hub_begin(store, group);
    for (size_t d = 0; d < DEVICES; d++)
        s[d] = client_new();
    for (unsigned w = 0; w < WORKSPACES; w++)
        workspace_of(s[0], m[w], DEVICES, w);
    for (size_t w = 0; w < WORKSPACES; w++)
        for (size_t d = 0; d < DEVICES; d++) {
            for (size_t i = 0; i < each; i++)
                batch_make(&m[w][d], 200, 1, &batch[(w * DEVICES + d) * each + i]);
            stream_open(&k[w][d], s[d], &m[w][d], "Push", NULL);
        }
    nwaiting = WORKSPACES * DEVICES;
    cpu = cpu_now();
    begin = now_s();
    for (size_t w = 0; w < WORKSPACES; w++)
        for (size_t d = 0; d < DEVICES; d++)
            stream_send(&k[w][d], &batch[(w * DEVICES + d) * each], each);
    wait_all();
    took = now_s() - begin;
    cpu = cpu_since(cpu);
    n = each * WORKSPACES * DEVICES;
    printf("{\"batches\": %zu, \"seconds\": %.4f, \"per_s\": %.1f, \"client_us\": %.1f, \"hub_us\": %.1f, "
           "\"server_us\": %.1f}\n",
           n, took, (double)n / took, cpu.client * 1e6 / (double)n, cpu.hub * 1e6 / (double)n,
           cpu.server * 1e6 / (double)n);
    hub_end();
}

/* ---- bulk ---- */

static double pull_all(struct scene *s, const struct maker *m, uint64_t *bytes)
{
    Clawsync__V1__PullRequest req = CLAWSYNC__V1__PULL_REQUEST__INIT;
    Clawsync__V1__SyncCursor cursor = CLAWSYNC__V1__SYNC_CURSOR__INIT;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_buf body = { 0 };
    struct cs_slice packed;
    struct stream k;
    double begin;

    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    cursor.workspace_id = req.workspace_id = ws;
    cursor.device_id = id;
    req.client_cursor = &cursor;
    clawsync__v1__pull_request__pack(&req, cs_buf_grow(&body, clawsync__v1__pull_request__get_packed_size(&req)));
    packed = cs_buf_slice(&body);
    nwaiting = 1;
    begin = now_s();
    stream_open(&k, s, m, "Pull", &packed);
    k.to_end = true;
    wait_all();
    *bytes = k.bytes;
    cs_buf_free(&body);
    return now_s() - begin;
}

static void bulk(const char *store, size_t mib)
{
    static struct maker m[2];
    struct cs_buf *batch = calloc(mib, sizeof *batch);
    struct stream k;
    struct scene *s;
    double begin, took, pulled[3], mb;
    struct cpu cpu, put, got;
    uint64_t bytes = 0;

    hub_begin(store, 0);
    s = client_new();
    workspace_of(s, m, 2, 1);
    for (size_t i = 0; i < mib; i++)
        batch_make(&m[0], CHUNKS * CHUNK - 64 * CHUNKS, CHUNKS, &batch[i]);
    stream_open(&k, s, &m[0], "Push", NULL);
    nwaiting = 1;
    cpu = cpu_now();
    begin = now_s();
    stream_send(&k, batch, mib);
    wait_all();
    took = now_s() - begin;
    put = cpu_since(cpu);
    cpu = cpu_now();
    for (size_t i = 0; i < 3; i++) {
        pulled[i] = pull_all(s, &m[1], &bytes);
        if (bytes < mib * 1000000)
            die("pull", "it did not bring everything");
    }
    got = cpu_since(cpu);
    mb = (double)bytes / 1e6;
    printf("{\"mb\": %.1f, \"push_mb_s\": %.1f, \"pull_mb_s\": [%.1f, %.1f, %.1f], "
           "\"push_cpu_ms_mb\": [%.2f, %.2f, %.2f], \"pull_cpu_ms_mb\": [%.2f, %.2f, %.2f]}\n",
           mb, (double)mib * 1.048576 / took, mb / pulled[0], mb / pulled[1], mb / pulled[2], put.client * 1e3 / mb,
           put.hub * 1e3 / mb, put.server * 1e3 / mb, got.client * 1e3 / mb / 3, got.hub * 1e3 / mb / 3,
           got.server * 1e3 / mb / 3);
    hub_end();
}

static void random_fill(uint8_t *p, size_t n)
{
    struct cs_rng rng = { .world = cs_world_real() };

    cs_random(&rng, p, n);
}

/* The same bytes into a table like the hub's, a commit per MiB as well. */
static void blobs(const char *file, size_t mib)
{
    static uint8_t chunk[CHUNK];
    sqlite3_stmt *insert, *select;
    sqlite3 *db;
    double begin, put;
    size_t got = 0;

    random_fill(chunk, sizeof chunk);
    if (sqlite3_open(file, &db) != SQLITE_OK ||
        sqlite3_exec(db,
                     "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                     "CREATE TABLE chunk(workspace BLOB, number INT, seq INT, payload BLOB,"
                     " PRIMARY KEY(workspace, number, seq))",
                     NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(db, "INSERT INTO chunk VALUES (zeroblob(16), ?, ?, ?)", -1, &insert, NULL) != SQLITE_OK)
        die("sqlite", sqlite3_errmsg(db));
    begin = now_s();
    for (size_t i = 0; i < mib; i++) {
        sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
        for (int c = 0; c < CHUNKS; c++) {
            chunk[0]++;
            sqlite3_bind_int64(insert, 1, (sqlite3_int64)i);
            sqlite3_bind_int(insert, 2, c);
            sqlite3_bind_blob(insert, 3, chunk, sizeof chunk, SQLITE_STATIC);
            if (sqlite3_step(insert) != SQLITE_DONE)
                die("sqlite", sqlite3_errmsg(db));
            sqlite3_reset(insert);
        }
        if (sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
            die("sqlite", sqlite3_errmsg(db));
    }
    put = now_s() - begin;
    sqlite3_finalize(insert);
    if (sqlite3_prepare_v2(db, "SELECT payload FROM chunk ORDER BY workspace, number, seq", -1, &select, NULL) !=
        SQLITE_OK)
        die("sqlite", sqlite3_errmsg(db));
    begin = now_s();
    while (sqlite3_step(select) == SQLITE_ROW) {
        memcpy(chunk, sqlite3_column_blob(select, 0), sizeof chunk);
        got += sizeof chunk;
    }
    if (got != mib * CHUNKS * CHUNK)
        die("sqlite", sqlite3_errmsg(db));
    printf("{\"mb_s\": %.1f, \"read_mb_s\": %.1f}\n", (double)mib * 1.048576 / put,
           (double)mib * 1.048576 / (now_s() - begin));
    sqlite3_finalize(select);
    sqlite3_close(db);
}

static void copy(const char *url, size_t mib)
{
    static const char head[19] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0";
    struct cs_buf row = { 0 };
    PGconn *conn = PQconnectdb(url);
    PGresult *result;
    double begin, put, took, mb;
    struct cpu cpu, put_cpu;
    size_t got = 0;
    char *data;
    int len;

    if (PQresultStatus(PQexec(conn,
                              "CREATE TABLE plain(number int8, seq int8, payload bytea, PRIMARY KEY (number, seq));"
                              "ALTER TABLE plain ALTER payload SET STORAGE EXTERNAL")) != PGRES_COMMAND_OK)
        die("postgres", PQerrorMessage(conn));
    postmaster_find(url);
    cpu = cpu_now();
    begin = now_s();
    if (PQresultStatus(PQexec(conn, "COPY plain FROM STDIN (FORMAT binary)")) != PGRES_COPY_IN)
        die("postgres", PQerrorMessage(conn));
    PQputCopyData(conn, head, sizeof head);
    for (size_t i = 0; i < mib * CHUNKS; i++) {
        cs_buf_reset(&row);
        cs_buf_put_u16(&row, 3);
        cs_buf_put_u32(&row, 8);
        cs_buf_put_u64(&row, i / CHUNKS);
        cs_buf_put_u32(&row, 8);
        cs_buf_put_u64(&row, i % CHUNKS);
        cs_buf_put_u32(&row, CHUNK);
        if (i == 0)
            random_fill(cs_buf_grow(&row, CHUNK), CHUNK); /* what comes next is in the buffer still */
        else
            (void)cs_buf_grow(&row, CHUNK);
        if (PQputCopyData(conn, (const char *)row.data, (int)row.len) != 1)
            die("postgres", PQerrorMessage(conn));
    }
    PQputCopyData(conn, "\377\377", 2);
    PQputCopyEnd(conn, NULL);
    if (PQresultStatus(PQgetResult(conn)) != PGRES_COMMAND_OK)
        die("postgres", PQerrorMessage(conn));
    put = now_s() - begin;
    put_cpu = cpu_since(cpu);
    while ((result = PQgetResult(conn)) != NULL)
        PQclear(result);
    begin = now_s();
    if (PQresultStatus(PQexec(
            conn, "COPY (SELECT payload FROM plain ORDER BY number, seq) TO STDOUT (FORMAT binary)")) != PGRES_COPY_OUT)
        die("postgres", PQerrorMessage(conn));
    while ((len = PQgetCopyData(conn, &data, 0)) > 0) {
        got += (size_t)len;
        PQfreemem(data);
    }
    if (got < mib * CHUNKS * CHUNK)
        die("postgres", PQerrorMessage(conn));
    took = now_s() - begin;
    cpu = cpu_since(cpu);
    mb = (double)mib * 1.048576;
    printf("{\"mb_s\": %.1f, \"read_mb_s\": %.1f, \"push_cpu_ms_mb\": [%.2f, 0, %.2f], \"pull_cpu_ms_mb\": [%.2f, 0, "
           "%.2f]}\n",
           mb / put, mb / took, put_cpu.client * 1e3 / mb, put_cpu.server * 1e3 / mb, cpu.client * 1e3 / mb,
           cpu.server * 1e3 / mb);
    cs_buf_free(&row);
    PQfinish(conn);
}

/* ---- watch ---- */

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void watch_open(struct stream *k, struct scene *s, const struct maker *m)
{
    Clawsync__V1__WatchRequest req = CLAWSYNC__V1__WATCH_REQUEST__INIT;
    char ws[CS_UUID_TEXT], id[CS_UUID_TEXT];
    struct cs_buf body = { 0 };
    struct cs_slice packed;

    cs_uuid_text(ws, &m->workspace);
    cs_uuid_text(id, &m->id);
    req.workspace_id = ws;
    req.device_id = id;
    clawsync__v1__watch_request__pack(&req, cs_buf_grow(&body, clawsync__v1__watch_request__get_packed_size(&req)));
    packed = cs_buf_slice(&body);
    nwaiting = 1;
    stream_open(k, s, m, "Watch", &packed);
    k->want = 1;
    wait_all();
    cs_buf_free(&body);
}

static void watch(const char *store, size_t n, const char *cert_file, const char *key_file)
{
    size_t nws = (n + PER_WORKSPACE - 1) / PER_WORKSPACE, ntimes = 0;
    struct maker *m = calloc(nws, sizeof *m);
    struct stream *k = calloc(n, sizeof *k), pushing;
    double *times = calloc(PUSHES * PER_WORKSPACE, sizeof *times), before, after;
    struct scene *s;

    certificate = cert_file;
    certificate_key = key_file;
    hub_begin(store, 0);
    s = client_new();
    for (unsigned w = 0; w < nws; w++)
        workspace_of(s, &m[w], 1, w);
    before = hub_kib("VmRSS:");
    for (size_t i = 0; i < n; i++)
        watch_open(&k[i], client_new(), &m[i / PER_WORKSPACE]);
    after = hub_kib("VmRSS:");
    for (size_t p = 0; p < PUSHES; p++) {
        size_t w = p * 7 % nws, first = w * PER_WORKSPACE, end = first + PER_WORKSPACE < n ? first + PER_WORKSPACE : n;
        struct cs_buf batch = { 0 };
        double begin;

        batch_make(&m[w], 200, 1, &batch);
        stream_open(&pushing, s, &m[w], "Push", NULL);
        pushing.want = 1;
        pushing.answers = pushing.to_end = true;
        nwaiting = end - first + 2;
        for (size_t i = first; i < end; i++)
            k[i].want = k[i].got + 1;
        begin = now_s();
        cs_rpc_call_send(pushing.call, cs_buf_slice(&batch));
        cs_rpc_call_half_close(pushing.call);
        wait_all();
        for (size_t i = first; i < end; i++)
            times[ntimes++] = (k[i].last_s - begin) * 1000;
        cs_buf_free(&batch);
    }
    qsort(times, ntimes, sizeof *times, by_size);
    printf("{\"watchers\": %zu, \"kib_each\": %.2f, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.2f}\n", n,
           (after - before) / (double)n, times[ntimes / 2], times[ntimes * 99 / 100], times[ntimes - 1]);
    hub_end();
}

/* ---- rows ---- */

static bool count_row(void *arg, const struct cs_store_batch *b)
{
    (void)b;
    ++*(uint64_t *)arg;
    return true;
}

/* Commits of 256 rows, each of one chunk of 300 bytes. */
static void rows_put(const struct cs_store *st, const struct cs_uuid *ws, uint64_t n)
{
    struct cs_store_head head = { .log_id = 1 };
    struct cs_error err = { 0 };
    uint8_t payload[300] = { 0 }, header[200] = { 0 };
    struct cs_slice chunk = cs_slice(payload, sizeof payload);
    cs_store_tx *tx;

    random_fill(payload, sizeof payload);
    for (uint64_t at = 0; at < n;) {
        if (cs_store_begin(st, CS_STORE_WRITE, ws, 1, &tx, &err) != CS_OK)
            die("store", err.msg);
        for (int i = 0; i < 256 && at < n; i++, at++) {
            struct cs_store_batch b = { .number = at + 1,
                                        .device_number = at + 1,
                                        .header = cs_slice(header, sizeof header),
                                        .signature = cs_slice(header, 64),
                                        .payload_hashes = cs_slice(header, 32) };

            if (tx->ops->put_batch(tx, ws, &b, &chunk, 1, &err) != CS_OK)
                die("store", err.msg);
        }
        head.number = at;
        if (tx->ops->put_head(tx, ws, &head, &err) != CS_OK || cs_store_commit(tx, &err) != CS_OK)
            die("store", err.msg);
    }
}

static void rows(const char *store, uint64_t n, unsigned others)
{
    struct cs_store_postgres_options o = { .url = store, .connections = 2 };
    struct cs_uuid ws = { { 1 } };
    struct cs_error err = { 0 };
    struct cs_store st;
    cs_store_tx *tx;
    double begin, put, got;
    uint64_t seen = 0;
    int rc = is_postgres(store) ? cs_store_postgres_open(&st, cs_world_real(), &o, &err)
                                : cs_store_sqlite_open(&st, cs_world_real(), store, &err);

    if (rc != CS_OK || cs_crypto_init(&err) != CS_OK)
        die("store", err.msg);
    for (unsigned i = 0; i < others; i++) {
        struct cs_uuid other = { { 2 } };

        cs_store_u32(other.b + 4, i);
        rows_put(&st, &other, 10);
    }
    begin = now_s();
    rows_put(&st, &ws, n);
    put = now_s() - begin;
    begin = now_s();
    if (cs_store_begin(&st, CS_STORE_READ, &ws, 1, &tx, &err) != CS_OK ||
        tx->ops->batches(tx, &ws, 1, n, count_row, &seen, &err) != CS_OK || seen != n)
        die("store", err.msg);
    cs_store_rollback(tx);
    got = now_s() - begin;
    printf("{\"rows\": %llu, \"others\": %u, \"put_s\": %.4f, \"get_s\": %.4f}\n", (unsigned long long)n, others, put,
           got);
    cs_store_close(&st);
}

static size_t number(const char *s)
{
    size_t n = strtoull(s, NULL, 10);

    if (n == 0)
        die(s, "is no number above 0");
    return n;
}

int main(int argc, char **argv)
{
    const char *what = argc < 4 ? "" : argv[1];

    if (strcmp(what, "push") == 0 && argc == 5)
        push(argv[2], number(argv[3]), (uint32_t)number(argv[4]));
    else if (strcmp(what, "bulk") == 0 && argc == 4)
        bulk(argv[2], number(argv[3]));
    else if (strcmp(what, "watch") == 0 && (argc == 4 || argc == 6))
        watch(argv[2], number(argv[3]), argv[4], argc == 6 ? argv[5] : NULL);
    else if (strcmp(what, "rows") == 0 && argc == 5)
        rows(argv[2], number(argv[3]), (unsigned)strtoul(argv[4], NULL, 10));
    else if (strcmp(what, "blobs") == 0 && argc == 4)
        blobs(argv[2], number(argv[3]));
    else if (strcmp(what, "copy") == 0 && argc == 4)
        copy(argv[2], number(argv[3]));
    else
        die("use", "push STORE N GROUP | bulk STORE MIB | watch STORE N [CERTIFICATE KEY] | rows STORE N OTHERS | "
                   "blobs FILE MIB | copy "
                   "URL MIB");
    return 0;
}
