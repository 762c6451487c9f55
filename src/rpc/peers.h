/* How many connections each address has. */
#ifndef CS_RPC_PEERS_H
#define CS_RPC_PEERS_H

#include <stddef.h>
#include <stdint.h>

struct cs_rpc_peer;
enum { CS_RPC_PEER_BUCKETS = 256, CS_RPC_PEER_KEY = 64 };
/* What counts as one address: "address:port" without its port; an IPv6 address as its network in hexadecimal. */
void cs_rpc_peer_key(char key[CS_RPC_PEER_KEY], const char *address_port);

/* Zero-initialised is empty and valid. */
struct cs_rpc_peers {
    struct cs_rpc_peer *buckets[CS_RPC_PEER_BUCKETS]; /* owned */
};

/* One more from this "address:port"; of IPv6 the first 64 bits count, as one customer gets at least so many. NULL: it
 * has `max` already, or there is no memory. */
struct cs_rpc_peer *cs_rpc_peers_enter(struct cs_rpc_peers *p, const char *address_port, size_t max);
/* One less; NULL is fine. */
void cs_rpc_peers_leave(struct cs_rpc_peers *p, struct cs_rpc_peer *peer);

#endif
