#include "rpc/peers.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY = CS_RPC_PEER_KEY, IPV6_NETWORK = 8 };

struct cs_rpc_peer {
    struct cs_rpc_peer *next;
    size_t n;
    char key[KEY];
};

void cs_rpc_peer_key(char key[CS_RPC_PEER_KEY], const char *address_port)
{
    const char *colon = strrchr(address_port, ':');
    size_t n = colon == NULL ? strlen(address_port) : (size_t)(colon - address_port);
    struct in6_addr a;

    snprintf(key, KEY, "%.*s", (int)(n < KEY ? n : KEY - 1), address_port);
    n = strlen(key);
    if (n < 2 || key[0] != '[' || key[n - 1] != ']')
        return;
    key[n - 1] = 0;
    if (inet_pton(AF_INET6, key + 1, &a) != 1 || IN6_IS_ADDR_V4MAPPED(&a))
        return;
    for (size_t i = 0; i < IPV6_NETWORK; i++)
        snprintf(key + 2 * i, KEY - 2 * i, "%02x", a.s6_addr[i]);
}

/* Attackers choose addresses, but not enough of them at once to matter: connections are counted too. */
static struct cs_rpc_peer **bucket_of(struct cs_rpc_peers *p, const char *key)
{
    uint32_t h = 2166136261;

    for (; *key != 0; key++)
        h = (h ^ (uint8_t)*key) * 16777619;
    return &p->buckets[(h ^ h >> 16) % CS_RPC_PEER_BUCKETS];
}

struct cs_rpc_peer *cs_rpc_peers_enter(struct cs_rpc_peers *p, const char *address_port, size_t max)
{
    struct cs_rpc_peer *peer, **bucket;
    char key[KEY];

    cs_rpc_peer_key(key, address_port);
    bucket = bucket_of(p, key);
    for (peer = *bucket; peer != NULL && strcmp(peer->key, key) != 0;)
        peer = peer->next;
    if (peer == NULL) {
        if (max == 0 || (peer = calloc(1, sizeof *peer)) == NULL)
            return NULL;
        memcpy(peer->key, key, sizeof key);
        peer->next = *bucket;
        *bucket = peer;
    }
    if (peer->n >= max)
        return NULL;
    peer->n++;
    return peer;
}

void cs_rpc_peers_leave(struct cs_rpc_peers *p, struct cs_rpc_peer *peer)
{
    struct cs_rpc_peer **at;

    if (peer == NULL || --peer->n > 0)
        return;
    for (at = bucket_of(p, peer->key); *at != peer;)
        at = &(*at)->next;
    *at = peer->next;
    free(peer);
}
