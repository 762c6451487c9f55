/* Versions: a hybrid logical clock stamp and the device that made it, and the one order of them.
 * A stamp is ms << 16 | counter (48-bit Unix milliseconds, 16-bit counter); a full counter carries into ms.
 * After Kulkarni et al., "Logical Physical Clocks", 2014. Pure functions, any thread. */
#ifndef CS_CRDT_VERSION_H
#define CS_CRDT_VERSION_H

#include <stddef.h>

#include "base/uuid.h"

struct cs_version {
    int64_t stamp; /* 1 … INT64_MAX; 0 with the zero device is "never" */
    struct cs_uuid device;
};

#define CS_NEVER ((struct cs_version){ 0 })

/* Stamp first, then the device's 16 bytes. */
int cs_version_cmp(const struct cs_version *a, const struct cs_version *b);
static inline bool cs_version_is_never(const struct cs_version *v)
{
    return v->stamp == 0;
}

/* The stamp of a local change, which is also the new HLC: max(hlc + 1, min(row_ms, now_ms) << 16). */
int64_t cs_hlc_tick(int64_t hlc, int64_t row_ms, int64_t now_ms);
/* The HLC after a remote stamp was applied. */
int64_t cs_hlc_receive(int64_t hlc, int64_t stamp);
/* The hub's rule: highest <= max((hub_now_ms + 60000) << 16, highest_accepted + ops). Saturates, never overflows. */
bool cs_hlc_hub_accepts(int64_t hub_now_ms, int64_t highest_accepted, int64_t highest, uint32_t ops);
/* Fresh stamps for n unsent ones after a rejection: same order, equal stays equal, all above `highest`.
 * stamps[i] becomes its fresh stamp; returns the new HLC, or -1 when out of memory (nothing changed). The array is
 * sorted in no particular way and stays in place. */
int64_t cs_hlc_reseal(int64_t *stamps, size_t n, int64_t highest);

enum { CS_STAMP_TEXT = 16 + 1 + 8 + 1 + 36 + 1 };
/* "{ms:016x}-{counter:08x}-{device uuid}" */
void cs_version_text(char out[CS_STAMP_TEXT], const struct cs_version *v);

#endif
