/* What claw-sync-server runs with: the environment, then the command line over it. */
#ifndef CS_HUB_CONFIG_H
#define CS_HUB_CONFIG_H

#include "base/log.h"
#include "base/world.h"
#include "hub/store.h"

struct cs_hub_address {
    char host[256];
    uint16_t port; /* 0: any */
    bool loopback; /* host is an address of this machine only */
};

struct cs_hub_config {
    struct cs_hub_address listen;
    struct cs_hub_address admin; /* host empty: no admin port */
    const char *admin_token;     /* secret; borrowed; NULL: none */
    enum cs_log_level log_level;
    bool log_json;
    char data_dir[2048];
    char database[4096];                       /* path of the SQLite file, or empty */
    struct cs_store_postgres_options postgres; /* url: borrowed from the environment, secret; NULL: SQLite */
    uint32_t poll_ms;                          /* with it: between looks at what other hubs did */
    const char *cert_file, *key_file;          /* borrowed from the environment; NULL: plain text */
    bool behind_proxy;
    uint32_t connections, connections_per_address; /* at once */
    uint32_t quota_devices;                        /* of one workspace, as the next ones; 0: no limit */
    uint64_t quota_bytes, quota_bytes_per_s;
    uint64_t retention_ms; /* as in struct cs_hub_options */
    uint64_t silent_ms, flush_ms;
    const char *key_seed; /* secret; borrowed; NULL: a key in data_dir */
};

/* A variable's value, or NULL: getenv, or a test's. */
typedef const char *cs_getenv(const char *name);
/* listen, admin and data_dir: from the command line, or NULL. CS_EINVAL with a sentence for the person. */
int cs_hub_config_read(struct cs_hub_config *out, cs_getenv *env, const char *listen, const char *admin,
                       const char *data_dir, struct cs_error *err);
/* A store by its URL, as CLAW_SYNC_HUB_DATABASE_URL gives it, alone: database and postgres of *out. `url` is borrowed.
 */
int cs_hub_config_database(struct cs_hub_config *out, cs_getenv *env, const char *url, struct cs_error *err);
/* The hub key's seed: from the configured string, or from data_dir/hub.key, which is made when it is not there. */
int cs_hub_config_key(const struct cs_hub_config *c, struct cs_world *world, uint8_t seed[32], struct cs_error *err);

#endif
