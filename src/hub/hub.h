/* The hub: the server side of clawsync.v1.SyncService on one loop. It orders and keeps what it cannot read.
 * Threads: all calls on the loop's thread. */
#ifndef CS_HUB_HUB_H
#define CS_HUB_HUB_H

#include "base/loop.h"
#include "hub/store.h"

struct cs_hub_options {
    const char *host;                          /* copied by start, as is everything here */
    uint16_t port;                             /* 0 picks one */
    int listen_fd;                             /* above 0: a socket that listens already, instead of both */
    const char *cert_file, *key_file;          /* PEM, both or neither: TLS */
    const char *database;                      /* path of the SQLite file; its directory exists */
    struct cs_store_postgres_options postgres; /* url: this instead of the file */
    uint32_t group_max;   /* writes in one commit at most; 0: the usual number, which only a benchmark changes */
    uint32_t poll_ms;     /* how often a hub that has company on its store looks at everything; 0: twice a second */
    uint8_t key_seed[32]; /* of the hub's Ed25519 key; wiped by the caller */
    /* Proxies in front end HTTP/2 and share connections: a session may then be used from any of them. */
    bool behind_proxy;
    uint32_t connections, connections_per_address; /* at once; 0: the usual numbers */
    uint32_t quota_devices;                        /* of one workspace; 0: no limit, as for those that follow */
    uint64_t quota_bytes;                          /* of ciphertext that it has here */
    uint64_t quota_bytes_per_s;                    /* that it sends */
    uint64_t retention_ms;                         /* that a log keeps what a snapshot has; UINT64_MAX: for ever */
    uint64_t silent_ms;      /* after which a device is not waited for with that; 0: it always is */
    uint64_t flush_ms;       /* how often it writes down how far devices have read, and prunes; 0: once a minute */
    bool limit_loopback;     /* the limits per address hold for this machine too */
    const char *admin_host;  /* metrics and the admin page; NULL: no such port */
    uint16_t admin_port;     /* 0 picks one */
    const char *admin_token; /* secret that they ask for; NULL: none, and only this machine may ask */
};

typedef struct cs_hub cs_hub;
/* CS_OK; CS_EUNAVAILABLE or CS_EIO (address in use, file not usable), CS_EVERSION, CS_ENOMEM. On failure nothing is
 * left running. world and loop are borrowed until stopped. */
int cs_hub_start(struct cs_world *world, cs_loop *loop, const struct cs_hub_options *o, cs_hub **out,
                 struct cs_error *err);
uint16_t cs_hub_port(const cs_hub *h);
uint16_t cs_hub_admin_port(const cs_hub *h);       /* 0: there is none */
const uint8_t *cs_hub_public_key(const cs_hub *h); /* 32 bytes */
/* The certificate's files were renewed: connections from now on get what is in them. CS_EINVAL: they are no good, and
 * nothing changed. */
int cs_hub_certificate(cs_hub *h, const char *cert_file, const char *key_file, struct cs_error *err);

/* Takes no new calls, lets running ones end for at most drain_ms (0: cuts them), finishes what is being written, closes
 * the store and frees h; then `stopped` comes, on the loop. */
void cs_hub_stop(cs_hub *h, uint32_t drain_ms, void (*stopped)(void *arg), void *arg);

#endif
