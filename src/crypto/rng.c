#include "crypto/rng.h"

#include <stdatomic.h>
#include <unistd.h>

#include "crypto/hash.h"
#include "crypto/keys.h"

/* Counts the calls of this process. A fork copies it, and then the process ids differ. */
static _Atomic uint64_t counter;
/* What stands in for the process id in a replayed run; 0: the real one. */
static _Atomic uint64_t replayed_pid;

void cs_random_replay(uint64_t pid, uint64_t first)
{
    atomic_store(&replayed_pid, pid);
    atomic_store(&counter, first);
}

void cs_random(const struct cs_rng *r, void *out, size_t n)
{
    const struct cs_world *w = r->world;
    uint64_t pid = atomic_load_explicit(&replayed_pid, memory_order_relaxed);
    uint8_t key[32], in[32 + 4 * 8];

    w->random.ops->fill(w->random.self, in, 32);
    cs_store_u64(in + 32, w->clock.ops->now_ns(w->clock.self));
    cs_store_u64(in + 40, w->clock.ops->monotonic_ns(w->clock.self));
    cs_store_u64(in + 48, pid != 0 ? pid : (uint64_t)getpid());
    cs_store_u64(in + 56, atomic_fetch_add_explicit(&counter, 1, memory_order_relaxed));
    cs_hash_label("random key", cs_slice(r->hedge, sizeof r->hedge), key);
    cs_mac(key, cs_slice(in, sizeof in), out, n);
    cs_wipe(key, sizeof key);
    cs_wipe(in, sizeof in);
}

void cs_random_uuid(const struct cs_rng *r, struct cs_uuid *out)
{
    cs_random(r, out->b, sizeof out->b);
    cs_uuid_set_v4(out);
}

uint64_t cs_random_u64_nonzero(const struct cs_rng *r)
{
    uint64_t v;

    do
        cs_random(r, &v, sizeof v);
    while (v == 0);
    return v;
}
