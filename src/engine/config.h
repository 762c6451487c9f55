/* The configuration's fields, and the engine's own copy of them. Any thread. */
#ifndef CS_ENGINE_CONFIG_H
#define CS_ENGINE_CONFIG_H

#include <clawsync/clawsync.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/uuid.h"

enum { CS_HOST_MAX = 253 };

/* Where the hub is: http[s]://host[:port], nothing behind it. */
struct cs_endpoint {
    char host[CS_HOST_MAX + 1]; /* an IPv6 address without its brackets */
    uint16_t port;
    bool tls;
};
/* The port that is not written is 443 with TLS and 80 without. */
bool cs_endpoint_is_local(const struct cs_endpoint *ep); /* by its name: this machine */
int cs_endpoint_parse(struct cs_endpoint *out, const char *url, struct cs_error *err);

/* One or more of them, separated by commas: hubs that serve the same store, the preferred one first. */
enum { CS_HUBS_MAX = 8 };
struct cs_endpoints {
    size_t n;
    struct cs_endpoint of[CS_HUBS_MAX];
};
int cs_endpoints_parse(struct cs_endpoints *out, const char *urls, struct cs_error *err);

const char *cs_config_data_dir(const clawsync_config *c); /* as given, or the usual one; nothing else is checked */
/* A checked copy whose strings live in the arena and whose zeros are replaced by the defaults. */
int cs_config_copy(clawsync_config *out, struct cs_arena *a, const clawsync_config *c, struct cs_error *err);

#endif
