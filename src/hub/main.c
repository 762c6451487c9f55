/* claw-sync-server: the hub as a program. */
#include <getopt.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "crypto/keys.h"
#include "hub/config.h"
#include "hub/hub.h"

enum { EXIT_USAGE = 2, DRAIN_MS = 10000 };
static const char name[] = "claw-sync-server";

static const char help[] = "Usage: claw-sync-server [options]\n"
                           "The hub: keeps the ordered, encrypted log of workspaces and serves it to their devices.\n"
                           "\n"
                           "  --listen HOST:PORT  address to listen on (port 0 picks one)\n"
                           "  --data-dir DIR      where hub.db and hub.key are kept\n"
                           "  --check-config      print what would be used and exit\n"
                           "  --version           print the version and exit\n"
                           "  --help              print this and exit\n"
                           "\n"
                           "Environment (options win):\n"
                           "  CLAW_LISTEN_ADDR            HOST:PORT, default 0.0.0.0:50051\n"
                           "  CLAW_SYNC_SERVER_DATA_DIR   default .claw-sync-server\n"
                           "  CLAW_SYNC_HUB_DATABASE_URL  sqlite:PATH; default hub.db in the data directory\n"
                           "  CLAW_SYNC_TLS_CERT          PEM file of the certificate chain; with it:\n"
                           "  CLAW_SYNC_TLS_KEY           PEM file of its key\n"
                           "  CLAW_SYNC_HUB_BEHIND_PROXY  1: proxies in front share connections\n"
                           "  CLAW_SYNC_QUOTA_DEVICES, CLAW_SYNC_QUOTA_BYTES, CLAW_SYNC_QUOTA_BYTES_PER_SECOND\n"
                           "                              what one workspace may have and send; \"none\": no limit;\n"
                           "                              default 64, 10000000000 and 20000000\n"
                           "  CLAW_SYNC_SERVER_KEY_SEED   32 secret bytes or more; default: a random key in hub.key\n"
                           "\n"
                           "Exit status: 0 stopped by a signal, 1 could not run, 2 wrong options or environment.\n";

struct program {
    cs_loop *loop;
    cs_hub *hub;
    const struct cs_hub_config *config;
    cs_signal *term, *interrupt, *hangup;
    bool stopping;
};

static void log_line(void *arg, enum cs_log_level level, const char *line)
{
    (void)arg;
    fprintf(stderr, "%s: %s: %s\n", name, cs_log_level_name(level), line);
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
    fprintf(stderr, "%s: stopping\n", name);
    cs_hub_stop(p->hub, DRAIN_MS, stopped, p);
}

static void reload_asked(void *arg)
{
    struct program *p = arg;
    struct cs_error err;

    if (p->stopping || p->hub == NULL || p->config->cert_file == NULL)
        return;
    if (cs_hub_certificate(p->hub, p->config->cert_file, p->config->key_file, &err) == CS_OK)
        fprintf(stderr, "%s: certificate read again\n", name);
    else
        fprintf(stderr, "%s: warning: %s; the certificate in use stays\n", name, err.msg);
}

static void print_quota(const char *what, uint64_t most)
{
    if (most == 0)
        printf("quota of %s: none\n", what);
    else
        printf("quota of %s: %llu\n", what, (unsigned long long)most);
}

/* "HOST:PORT", an IPv6 address in brackets. */
static const char *address(const struct cs_hub_config *c, uint16_t port, char out[300])
{
    bool brackets = strchr(c->host, ':') != NULL;

    snprintf(out, 300, "%s%s%s:%u", brackets ? "[" : "", c->host, brackets ? "]" : "", (unsigned)port);
    return out;
}

static void print_config(const struct cs_hub_config *c)
{
    char text[300];

    printf("listen: %s\n", address(c, c->port, text));
    printf("data directory: %s\n", c->data_dir);
    printf("database: sqlite:%s\n", c->database);
    printf("tls: %s\n", c->cert_file != NULL ? c->cert_file : "off");
    printf("hub key: %s\n", c->key_seed != NULL ? "from CLAW_SYNC_SERVER_KEY_SEED" : "hub.key in the data directory");
    print_quota("devices", c->quota_devices);
    print_quota("bytes", c->quota_bytes);
    print_quota("bytes per second", c->quota_bytes_per_s);
}

static int start(struct program *p, struct cs_world *world, const struct cs_hub_config *c, struct cs_error *err)
{
    struct cs_hub_options o = { .host = c->host,
                                .port = c->port,
                                .behind_proxy = c->behind_proxy,
                                .quota_devices = c->quota_devices,
                                .quota_bytes = c->quota_bytes,
                                .quota_bytes_per_s = c->quota_bytes_per_s,
                                .cert_file = c->cert_file,
                                .key_file = c->key_file,
                                .database = c->database };
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
    char text[300];

    if (c->cert_file == NULL && !c->loopback)
        fprintf(stderr, "%s: warning: no TLS: what devices send is encrypted, but who talks when is not hidden\n",
                name);
    fprintf(stderr, "%s: listening on %s\n", name, address(c, cs_hub_port(p->hub), text));
    cs_loop_run(p->loop);
}

static int run(const struct cs_hub_config *c)
{
    struct cs_world *world = cs_world_real();
    struct program p = { .config = c };
    struct cs_error err = { 0 };
    int rc;

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

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "listen", required_argument, NULL, 'l' }, { "data-dir", required_argument, NULL, 'd' },
        { "check-config", no_argument, NULL, 'c' }, { "version", no_argument, NULL, 'v' },
        { "help", no_argument, NULL, 'h' },         { NULL, 0, NULL, 0 },
    };
    const char *listen = NULL, *data_dir = NULL;
    struct cs_hub_config config;
    struct cs_error err = { 0 };
    bool check = false;
    int opt;

    /* Before SQLite's first use: counting every allocation takes a lock that the store's threads share. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (opt) {
        case 'l':
            listen = optarg;
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
    cs_log_set(log_line, NULL, CS_LOG_INFO);
    if (cs_hub_config_read(&config, environment, listen, data_dir, &err) != CS_OK)
        return fail(EXIT_USAGE, &err);
    if (!check)
        return run(&config);
    print_config(&config);
    return EXIT_SUCCESS;
}
