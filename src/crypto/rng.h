/* The one source of random bytes: the operating system's, hedged (docs/protocol.md, randomness). Any thread. */
#ifndef CS_CRYPTO_RNG_H
#define CS_CRYPTO_RNG_H

#include "base/world.h"

struct cs_rng {
    struct cs_world *world; /* borrowed */
    uint8_t hedge[32];      /* the device's hedge secret; zero until the keystore is open */
};

/* n bytes: MAC(H("random key", hedge), 32 fresh bytes of the system, clocks, pid, counter). */
void cs_random(const struct cs_rng *r, void *out, size_t n);
void cs_random_uuid(const struct cs_rng *r, struct cs_uuid *out); /* version 4 */
uint64_t cs_random_u64_nonzero(const struct cs_rng *r);

/* For runs in a test world that must repeat bit by bit: the process id (0: the real one again) and the counter of this
 * process become these. Call before any other thread draws. In the real world the system's bytes still differ. */
void cs_random_replay(uint64_t pid, uint64_t first);

#endif
