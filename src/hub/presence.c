/* When each device was last heard of, and up to which log number it has read, in memory; the first goes to the store
 * once in a while, the second is only a hint and is forgotten with the process. */
#include <stdlib.h>

#include "hub/internal.h"

enum { BUCKETS = 4096, FLUSH_MAX = 4096 };

struct device {
    struct device *next;
    struct cs_uuid workspace, id;
    int64_t seen_ms;
    uint64_t pulled;
    bool dirty, has_pulled;
};

struct cs_presence {
    struct device *bucket[BUCKETS];
};

int cs_presence_new(struct cs_presence **out)
{
    return (*out = calloc(1, sizeof **out)) == NULL ? CS_ENOMEM : CS_OK;
}

void cs_presence_free(struct cs_presence *p)
{
    for (size_t i = 0; p != NULL && i < BUCKETS; i++)
        while (p->bucket[i] != NULL) {
            struct device *d = p->bucket[i];

            p->bucket[i] = d->next;
            free(d);
        }
    free(p);
}

/* Only devices that were found in their workspace's membership get here, so there are as many as members. */
static struct device *device_at(struct cs_presence *p, const struct cs_uuid *ws, const struct cs_uuid *id, bool make)
{
    size_t at = (size_t)(cs_load_u32(ws->b + 12) ^ cs_load_u32(id->b + 12)) % BUCKETS;
    struct device *d = p->bucket[at];

    while (d != NULL && (cs_uuid_cmp(&d->id, id) != 0 || cs_uuid_cmp(&d->workspace, ws) != 0))
        d = d->next;
    if (d != NULL || !make || (d = calloc(1, sizeof *d)) == NULL)
        return d;
    d->workspace = *ws;
    d->id = *id;
    d->next = p->bucket[at];
    p->bucket[at] = d;
    return d;
}

void cs_presence_seen(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device)
{
    struct device *d = device_at(h->presence, ws, device, true);

    if (d == NULL)
        return;
    d->seen_ms = cs_now_ms(h->world);
    d->dirty = true;
}

void cs_presence_pulled(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device, uint64_t number)
{
    struct device *d = device_at(h->presence, ws, device, true);

    if (d == NULL)
        return;
    d->pulled = number;
    d->has_pulled = true;
}

uint64_t cs_presence_position(const struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device)
{
    const struct device *d = device_at(h->presence, ws, device, false);

    return d == NULL ? 0 : d->pulled;
}

int64_t cs_presence_time(const struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device)
{
    const struct device *d = device_at(h->presence, ws, device, false);

    return d == NULL ? 0 : d->seen_ms;
}

int64_t cs_presence_pulled_to(const struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device)
{
    const struct device *d = device_at(h->presence, ws, device, false);

    return d == NULL || !d->has_pulled ? -1 : (int64_t)d->pulled;
}

static void seen_done(struct cs_write *w)
{
    free(w);
}

void cs_presence_flush(struct cs_hub *h)
{
    size_t n = 0;

    for (size_t i = 0; i < BUCKETS; i++)
        for (struct device *d = h->presence->bucket[i]; d != NULL && n < FLUSH_MAX; d = d->next) {
            struct cs_write *w;

            if (!d->dirty || (w = calloc(1, sizeof *w)) == NULL)
                continue;
            *w = (struct cs_write){ .kind = CS_WRITE_SEEN,
                                    .workspace = d->workspace,
                                    .device = d->id,
                                    .seen_ms = d->seen_ms,
                                    .done = seen_done };
            d->dirty = false;
            n++;
            cs_writer_submit(h, w);
        }
}
