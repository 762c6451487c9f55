#include "crdt/version.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "crdt/plant.h"

enum { COUNTER_BITS = 16, SKEW_MS = 60000 };
static const int64_t MS_MAX = INT64_MAX >> COUNTER_BITS;

int cs_version_cmp(const struct cs_version *a, const struct cs_version *b)
{
    if (a->stamp != b->stamp)
        return a->stamp < b->stamp ? -1 : 1;
    return CS_PLANT(DEVICE_DECIDES_NOTHING, cs_uuid_cmp(&a->device, &b->device), 0);
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
/* Saturates: a clock that is out of the range of stamps counts as at its edge. */
static int64_t stamp_of_ms(int64_t ms)
{
    return ms < 0 ? 0 : ms > MS_MAX ? INT64_MAX : ms << COUNTER_BITS;
}
static int64_t plus(int64_t a, int64_t b)
{
    return a > INT64_MAX - b ? INT64_MAX : a + b;
}

int64_t cs_hlc_tick(int64_t hlc, int64_t row_ms, int64_t now_ms)
{
    return max64(plus(hlc, 1), stamp_of_ms(CS_PLANT(TICK_NOW, min64(row_ms, now_ms), now_ms)));
}

int64_t cs_hlc_receive(int64_t hlc, int64_t stamp)
{
    return max64(hlc, stamp);
}

bool cs_hlc_hub_accepts(int64_t hub_now_ms, int64_t highest_accepted, int64_t highest, uint32_t ops)
{
    int64_t limit = max64(stamp_of_ms(plus(hub_now_ms, SKEW_MS)), plus(highest_accepted, ops));

    return CS_PLANT(HUB_LIMIT, highest <= limit, highest < limit);
}

static int order(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

int64_t cs_hlc_reseal(int64_t *stamps, size_t n, int64_t highest)
{
    int64_t *old, *at;
    size_t distinct = 0;

    if (n == 0)
        return highest;
    if (n > SIZE_MAX / sizeof *old || (old = malloc(n * sizeof *old)) == NULL)
        return -1;
    memcpy(old, stamps, n * sizeof *old);
    qsort(old, n, sizeof *old, order);
    for (size_t i = 0; i < n; i++)
        if (CS_PLANT(RESEAL_SPLITS_EQUALS, i == 0 || old[i] != old[i - 1], true))
            old[distinct++] = old[i];
    for (size_t i = 0; i < n; i++) {
        at = bsearch(&stamps[i], old, distinct, sizeof *old, order);
        stamps[i] = plus(highest, 1 + (at - old));
    }
    free(old);
    return plus(highest, (int64_t)distinct);
}

void cs_version_text(char out[CS_STAMP_TEXT], const struct cs_version *v)
{
    char device[CS_UUID_TEXT];

    cs_uuid_text(device, &v->device);
    snprintf(out, CS_STAMP_TEXT, "%016" PRIx64 "-%08x-%s", (uint64_t)v->stamp >> COUNTER_BITS,
             (unsigned)(v->stamp & 0xffff), device);
}
