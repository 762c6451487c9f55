/* claw-sync-server: the hub as a program. */
#include <getopt.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "base/process.h"
#include "base/service_manager.h"
#include "crypto/keys.h"
#include "hub/config.h"
#include "hub/hub.h"
#include "hub/migrate.h"
#include "identity/code.h"

enum { EXIT_USAGE = 2, DRAIN_MS = 10000 };
static const char name[] = "claw-sync-server";

static const char help[] =
    "Usage: claw-sync-server [options]\n"
    "       claw-sync-server migrate-store --from URL --to URL\n"
    "The hub: keeps the ordered, encrypted log of workspaces and serves it to their devices.\n"
    "\n"
    "  --listen HOST:PORT  address to listen on (port 0 picks one)\n"
    "  --admin [HOST:]PORT the admin port: a page, /metrics, /healthz; HOST: 127.0.0.1\n"
    "  --data-dir DIR      where hub.db and hub.key are kept\n"
    "  --check-config      print what would be used and exit\n"
    "  --version           print the version and exit\n"
    "  --help              print this and exit\n"
    "\n"
    "Environment (options win):\n"
    "  CLAW_LISTEN_ADDR            HOST:PORT, default 0.0.0.0:50051\n"
    "  CLAW_SYNC_ADMIN_ADDR        [HOST:]PORT of the admin port; default: none\n"
    "  CLAW_SYNC_ADMIN_TOKEN       32 secret characters or more that it asks for; needed where\n"
    "                              HOST is not of this machine alone\n"
    "  CLAW_LOG_LEVEL              error, warn, info (default) or debug; a file log_level in the\n"
    "                              data directory wins, and is read again at SIGHUP\n"
    "  CLAW_LOG_FORMAT             text (default) or json, on standard error\n"
    "  CLAW_SYNC_SERVER_DATA_DIR   default .claw-sync-server\n"
    "  CLAW_SYNC_HUB_DATABASE_URL  sqlite:PATH; default hub.db in the data directory; or\n"
    "                              postgresql://USER:PASSWORD@HOST:PORT/DATABASE; with it:\n"
    "  CLAW_SYNC_HUB_DATABASE_CONNECTIONS  at most; default 8\n"
    "  CLAW_SYNC_HUB_DATABASE_PARTITIONS   of each table, when it is made; default none\n"
    "  CLAW_SYNC_HUB_DATABASE_PREPARE      1, 0: prepared statements, whatever is in between\n"
    "  CLAW_SYNC_HUB_DATABASE_LISTEN_URL   a connection past poolers, to hear of other hubs;\n"
    "                              \"none\": asks twice a second instead; default: the same URL\n"
    "  CLAW_SYNC_HUB_DATABASE_POLL_SECONDS between looks at what was not heard; default 10\n"
    "  CLAW_SYNC_TLS_CERT          PEM file of the certificate chain; with it:\n"
    "  CLAW_SYNC_TLS_KEY           PEM file of its key\n"
    "  CLAW_SYNC_HUB_BEHIND_PROXY  1: proxies in front share connections\n"
    "  CLAW_SYNC_CONNECTIONS, CLAW_SYNC_CONNECTIONS_PER_ADDRESS\n"
    "                              at once; default 16384 and 256; behind a proxy all clients\n"
    "                              have its address\n"
    "  CLAW_SYNC_QUOTA_DEVICES, CLAW_SYNC_QUOTA_BYTES, CLAW_SYNC_QUOTA_BYTES_PER_SECOND\n"
    "                              what one workspace may have and send; \"none\": no limit;\n"
    "                              default 64, 10000000000 and 20000000\n"
    "  CLAW_SYNC_RETENTION_SECONDS  that logs keep what a snapshot has; default 86400; \"none\": for ever\n"
    "  CLAW_SYNC_SILENT_SECONDS    a device away for so long is not waited for; default 7776000; \"none\": all are\n"
    "  CLAW_SYNC_PRUNE_SECONDS     so often the hub looks for what can be pruned; default 60\n"
    "  CLAW_SYNC_SERVER_KEY_SEED   32 secret bytes or more; default: a random key in hub.key\n"
    "\n"
    "migrate-store moves all data from one database to another, each given as in\n"
    "CLAW_SYNC_HUB_DATABASE_URL, or as env:NAME of a variable that holds it, while no hub uses\n"
    "either. Cut off, it goes on when it is run again.\n"
    "\n"
    "Exit status: 0 stopped by a signal, or moved, 1 could not, 2 wrong options or environment.\n";

struct program {
    struct cs_world *world;
    cs_loop *loop;
    cs_hub *hub;
    const struct cs_hub_config *config;
    int listen_fd; /* from the service manager; -1: none */
    cs_signal *term, *interrupt, *hangup;
    bool stopping;
};

static void log_text(void *arg, enum cs_log_level level, const char *line)
{
    (void)arg;
    if (level == CS_LOG_INFO)
        fprintf(stderr, "%s: %s\n", name, line);
    else
        fprintf(stderr, "%s: %s: %s\n", name, level == CS_LOG_WARN ? "warning" : cs_log_level_name(level), line);
}

/* One write a line: lines of several threads do not mix. */
static void log_json(void *world, enum cs_log_level level, const char *line)
{
    struct cs_buf out = { 0 };

    cs_log_json(&out, cs_now_ms(world), level, line);
    cs_buf_put_u8(&out, '\n');
    if (!out.failed)
        fwrite(out.data, 1, out.len, stderr);
    cs_buf_free(&out);
}

static const char *environment(const char *variable)
{
    return getenv(variable);
}

static int fail(int status, const struct cs_error *err)
{
    fprintf(stderr, "%s: %s\n", name, err->msg);
    return status;
}

static void stopped(void *arg)
{
    struct program *p = arg;

    cs_loop_stop(p->loop);
}

static void stop_asked(void *arg)
{
    struct program *p = arg;

    if (p->stopping)
        return;
    p->stopping = true;
    cs_log(CS_LOG_INFO, "stopping");
    cs_service_notify("STOPPING=1");
    cs_hub_stop(p->hub, DRAIN_MS, stopped, p);
}

/* A running process's environment cannot change, so the level is also taken from a file, which wins. */
static void level_read(const struct cs_hub_config *c, struct cs_world *world)
{
    enum cs_log_level level = c->log_level;
    struct cs_buf text = { 0 };
    struct cs_error err = { 0 };
    char path[sizeof c->data_dir + 16];
    int rc;

    snprintf(path, sizeof path, "%s/log_level", c->data_dir);
    rc = world->files.ops->read(world->files.self, path, 16, &text, &err);
    while (text.len > 0 && (text.data[text.len - 1] == '\n' || text.data[text.len - 1] == ' '))
        text.len--;
    cs_buf_put_u8(&text, 0);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        cs_log(CS_LOG_WARN, "%s", err.msg);
    else if (rc == CS_OK && (text.failed || !cs_log_level_parse(&level, (char *)text.data)))
        cs_log(CS_LOG_WARN, "\"%s\" holds none of error, warn, info and debug", path);
    cs_log_set_level(level);
    cs_buf_free(&text);
}

static void read_again(struct program *p)
{
    struct cs_error err;

    level_read(p->config, p->world);
    if (p->config->cert_file == NULL)
        return;
    if (cs_hub_certificate(p->hub, p->config->cert_file, p->config->key_file, &err) == CS_OK)
        cs_log(CS_LOG_INFO, "certificate read again");
    else
        cs_log(CS_LOG_WARN, "%s; the certificate in use stays", err.msg);
}

static void reload_asked(void *arg)
{
    struct program *p = arg;
    char state[64];

    if (p->stopping || p->hub == NULL)
        return;
    snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%llu",
             (unsigned long long)(cs_monotonic_ns(p->world) / 1000));
    cs_service_notify(state);
    read_again(p);
    cs_service_notify("READY=1");
}

static void print_quota(const char *what, uint64_t most)
{
    if (most == 0)
        printf("quota of %s: none\n", what);
    else
        printf("quota of %s: %llu\n", what, (unsigned long long)most);
}

/* "HOST:PORT", an IPv6 address in brackets. */
static const char *address(const struct cs_hub_address *a, uint16_t port, char out[300])
{
    bool brackets = strchr(a->host, ':') != NULL;

    snprintf(out, 300, "%s%s%s:%u", brackets ? "[" : "", a->host, brackets ? "]" : "", (unsigned)port);
    return out;
}

static void print_config(const struct cs_hub_config *c)
{
    struct cs_error err;
    char text[300];

    printf("listen: %s\n", address(&c->listen, c->listen.port, text));
    printf("admin port: %s\n", c->admin.host[0] == '\0' ? "none" : address(&c->admin, c->admin.port, text));
    printf("data directory: %s\n", c->data_dir);
    if (c->postgres.url == NULL)
        printf("database: sqlite:%s\n", c->database);
    else if (cs_store_postgres_name(c->postgres.url, text, sizeof text, &err) == CS_OK)
        printf("database: %s, at most %u connections\n", text, c->postgres.connections);
    if (c->postgres.listen != NULL && cs_store_postgres_name(c->postgres.listen, text, sizeof text, &err) == CS_OK)
        printf("hears of other hubs over: %s\n", text);
    else if (c->postgres.url != NULL)
        printf("hears of other hubs over: nothing; looks every %u ms\n", c->poll_ms);
    printf("tls: %s\n", c->cert_file != NULL ? c->cert_file : "off");
    printf("hub key: %s\n", c->key_seed != NULL ? "from CLAW_SYNC_SERVER_KEY_SEED" : "hub.key in the data directory");
    printf("connections: %u, %u from one address\n", c->connections, c->connections_per_address);
    print_quota("devices", c->quota_devices);
    print_quota("bytes", c->quota_bytes);
    print_quota("bytes per second", c->quota_bytes_per_s);
}

/* A file descriptor a connection, and some: as many as we are let have. */
static void descriptors_raise(const struct cs_hub_config *c)
{
    enum { OTHERS = 256 };
    struct rlimit most;

    if (getrlimit(RLIMIT_NOFILE, &most) != 0)
        return;
    if (most.rlim_cur < most.rlim_max) {
        most.rlim_cur = most.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &most);
    }
    if (getrlimit(RLIMIT_NOFILE, &most) == 0 && most.rlim_cur < (rlim_t)c->connections + OTHERS)
        cs_log(CS_LOG_WARN, "the system lets it have %llu open files, fewer than %u connections need (LimitNOFILE=)",
               (unsigned long long)most.rlim_cur, c->connections);
}

static int start(struct program *p, struct cs_world *world, const struct cs_hub_config *c, struct cs_error *err)
{
    struct cs_hub_options o = { .host = c->listen.host,
                                .port = c->listen.port,
                                .listen_fd = p->listen_fd,
                                .admin_host = c->admin.host[0] == '\0' ? NULL : c->admin.host,
                                .admin_port = c->admin.port,
                                .admin_token = c->admin_token,
                                .behind_proxy = c->behind_proxy,
                                .connections = c->connections,
                                .connections_per_address = c->connections_per_address,
                                .quota_devices = c->quota_devices,
                                .quota_bytes = c->quota_bytes,
                                .quota_bytes_per_s = c->quota_bytes_per_s,
                                .retention_ms = c->retention_ms,
                                .silent_ms = c->silent_ms,
                                .flush_ms = c->flush_ms,
                                .cert_file = c->cert_file,
                                .key_file = c->key_file,
                                .database = c->database,
                                .postgres = c->postgres,
                                .poll_ms = c->poll_ms };
    int rc = world->files.ops->mkdir(world->files.self, c->data_dir, 0700, err);

    if (rc == CS_OK)
        rc = cs_hub_config_key(c, world, o.key_seed, err);
    if (rc != CS_OK)
        return rc;
    rc = cs_hub_start(world, p->loop, &o, &p->hub, err);
    cs_wipe(o.key_seed, sizeof o.key_seed);
    return rc;
}

static void serve(struct program *p, const struct cs_hub_config *c)
{
    char text[300], key[24];

    if (c->cert_file == NULL && !c->listen.loopback)
        cs_log(CS_LOG_WARN, "no TLS: what devices send is encrypted, but who talks when is not hidden");
    if (c->admin.host[0] != '\0')
        cs_log(CS_LOG_INFO, "admin page on http://%s/", address(&c->admin, cs_hub_admin_port(p->hub), text));
    cs_fingerprint(cs_hub_public_key(p->hub), key);
    cs_log(CS_LOG_INFO, "its key %s", key);
    cs_log(CS_LOG_INFO, "listening on %s", address(&c->listen, cs_hub_port(p->hub), text));
    cs_service_notify("READY=1");
    cs_loop_run(p->loop);
}

static int run(const struct cs_hub_config *c, int listen_fd)
{
    struct cs_world *world = cs_world_real();
    struct program p = { .config = c, .listen_fd = listen_fd, .world = world };
    struct cs_error err = { 0 };
    int rc;

    cs_log_set(c->log_json ? log_json : log_text, world, c->log_level);
    level_read(c, world);
    descriptors_raise(c);
    signal(SIGPIPE, SIG_IGN); /* a peer that went away is an error of a write */
    if (cs_crypto_init(&err) != CS_OK || cs_loop_new(world, &p.loop, &err) != CS_OK)
        return fail(EXIT_FAILURE, &err);
    if (cs_signal_new(p.loop, SIGTERM, stop_asked, &p, &p.term) != CS_OK ||
        cs_signal_new(p.loop, SIGINT, stop_asked, &p, &p.interrupt) != CS_OK ||
        cs_signal_new(p.loop, SIGHUP, reload_asked, &p, &p.hangup) != CS_OK)
        rc = cs_fail(&err, CS_EIO, "cannot wait for signals");
    else if ((rc = start(&p, world, c, &err)) == CS_OK)
        serve(&p, c);
    cs_signal_close(p.term);
    cs_signal_close(p.interrupt);
    cs_signal_close(p.hangup);
    cs_loop_free(p.loop);
    return rc == CS_OK ? EXIT_SUCCESS : fail(EXIT_FAILURE, &err);
}

/* ---- migrate-store ---- */

struct side {
    const char *option, *url;
    struct cs_hub_config config;
    char name[4200]; /* to be shown */
    struct cs_store store;
};

static int side_read(struct side *s, struct cs_error *err)
{
    int rc;

    if (strncmp(s->url, "env:", 4) == 0) {
        const char *value = environment(s->url + 4);

        if (value == NULL || value[0] == '\0')
            return cs_fail(err, CS_EINVAL, "%s: the variable %.100s is not set", s->option, s->url + 4);
        s->url = value;
    } else if (strncmp(s->url, "postgres", 8) == 0 &&
               cs_store_postgres_name(s->url, s->name, sizeof s->name, err) == CS_OK && strstr(s->name, ":***") != NULL)
        return cs_fail(
            err, CS_EINVAL,
            "%s: a password on the command line can be read by everybody on this machine; put the URL into a "
            "variable and give env:NAME, or the password into PGPASSFILE",
            s->option);
    if ((rc = cs_hub_config_database(&s->config, environment, s->url, err)) != CS_OK)
        return rc;
    if (s->config.postgres.url != NULL)
        return cs_store_postgres_name(s->url, s->name, sizeof s->name, err);
    snprintf(s->name, sizeof s->name, "sqlite:%s", s->config.database);
    return CS_OK;
}

static int side_open(struct side *s, struct cs_world *world, bool must_exist, struct cs_error *err)
{
    if (s->config.postgres.url != NULL)
        return cs_store_postgres_open(&s->store, world, &s->config.postgres, err);
    if (must_exist && access(s->config.database, F_OK) != 0)
        return cs_fail(err, CS_ENOTFOUND, "there is no \"%s\" to move from", s->config.database);
    return cs_store_sqlite_open(&s->store, world, s->config.database, err);
}

static void moved_so_far(void *arg, const struct cs_migrated *m)
{
    int64_t *said_ms = arg, now = cs_now_ms(cs_world_real());

    if (now - *said_ms < 5000)
        return;
    *said_ms = now;
    fprintf(stderr, "%s: %llu workspaces, %llu batches moved\n", name, (unsigned long long)m->workspaces,
            (unsigned long long)m->batches);
}

static int migrate(int argc, char **argv)
{
    static const struct option options[] = {
        { "from", required_argument, NULL, 'f' },
        { "to", required_argument, NULL, 't' },
        { NULL, 0, NULL, 0 },
    };
    static struct side from = { .option = "--from" }, to = { .option = "--to" };
    struct cs_world *world = cs_world_real();
    struct cs_error err = { 0 };
    struct cs_migrated done;
    int64_t said_ms = cs_now_ms(world);
    int opt, rc;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt != 'f' && opt != 't')
            return EXIT_USAGE; /* getopt has said why */
        (opt == 'f' ? &from : &to)->url = optarg;
    }
    if (optind < argc) {
        fprintf(stderr, "%s: unexpected argument \"%s\"\n", name, argv[optind]);
        return EXIT_USAGE;
    }
    if (from.url == NULL || to.url == NULL)
        rc = cs_fail(&err, CS_EINVAL, "migrate-store needs --from URL and --to URL");
    else if (strcmp(from.url, to.url) == 0)
        rc = cs_fail(&err, CS_EINVAL, "--from and --to are the same database");
    else if ((rc = side_read(&from, &err)) == CS_OK)
        rc = side_read(&to, &err);
    if (rc != CS_OK)
        return fail(EXIT_USAGE, &err);
    cs_log_set(log_text, world, CS_LOG_INFO);
    if ((rc = cs_crypto_init(&err)) == CS_OK && (rc = side_open(&from, world, true, &err)) == CS_OK &&
        (rc = side_open(&to, world, false, &err)) == CS_OK)
        rc = cs_migrate(&from.store, &to.store, moved_so_far, &said_ms, &done, &err);
    cs_store_close(&from.store);
    cs_store_close(&to.store);
    if (rc != CS_OK)
        return fail(EXIT_FAILURE, &err);
    printf("%s now has what %s had: %llu workspaces (moved: %llu membership entries, %llu batches, %llu bytes), read "
           "again and compared. Start the hub on it, with the same key.\n",
           to.name, from.name, (unsigned long long)done.workspaces, (unsigned long long)done.entries,
           (unsigned long long)done.batches, (unsigned long long)done.bytes);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "listen", required_argument, NULL, 'l' },
        { "admin", required_argument, NULL, 'a' },
        { "data-dir", required_argument, NULL, 'd' },
        { "check-config", no_argument, NULL, 'c' },
        { "version", no_argument, NULL, 'v' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    const char *listen = NULL, *admin = NULL, *data_dir = NULL;
    struct cs_hub_config config;
    struct cs_error err = { 0 };
    bool check = false;
    char handed[64];
    int opt, listen_fd;

    cs_process_keep_private();
    /* Before SQLite's first use: counting every allocation takes a lock that the store's threads share. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    if (argc > 1 && strcmp(argv[1], "migrate-store") == 0)
        return migrate(argc - 1, argv + 1);
    while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (opt) {
        case 'l':
            listen = optarg;
            break;
        case 'a':
            admin = optarg;
            break;
        case 'd':
            data_dir = optarg;
            break;
        case 'c':
            check = true;
            break;
        case 'v':
            printf("%s %s\n", name, CS_VERSION);
            return EXIT_SUCCESS;
        case 'h':
            fputs(help, stdout);
            return EXIT_SUCCESS;
        default:
            return EXIT_USAGE; /* getopt has said why */
        }
    }
    if (optind < argc) {
        fprintf(stderr, "%s: unexpected argument \"%s\"\n", name, argv[optind]);
        return EXIT_USAGE;
    }
    if (cs_service_socket(&listen_fd, handed, &err) != CS_OK ||
        cs_hub_config_read(&config, environment, listen_fd >= 0 ? handed : listen, admin, data_dir, &err) != CS_OK)
        return fail(EXIT_USAGE, &err);
    if (!check)
        return run(&config, listen_fd);
    print_config(&config);
    return EXIT_SUCCESS;
}
