/* When each device was last heard of, and up to which log number it has read, in memory; both go to the store once in
 * a while. */
#include <stdlib.h>

#include "hub/internal.h"

enum { BUCKETS = 4096, FLUSH_MAX = 4096 };

struct device {
    struct device *next;
    struct cs_uuid workspace, id;
    int64_t seen_ms;
    uint64_t pulled, log_id; /* of that log */
    bool dirty, has_pulled;
    bool told; /* the store knows that there is such a device, since this process began */
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

struct telling {
    struct cs_write write;
    struct cs_hub *hub;
};

static void told(struct cs_write *w)
{
    struct telling *t = (struct telling *)w;

    if (w->verdict.status == CS_RPC_OK && w->prune)
        cs_snapshot_prune_soon(t->hub, &w->workspace);
    free(t);
}

/* false: out of memory; it stays to be told. */
static bool tell_store(struct cs_hub *h, struct device *d)
{
    struct telling *t = calloc(1, sizeof *t);

    if (t == NULL)
        return false;
    t->hub = h;
    t->write = (struct cs_write){ .kind = CS_WRITE_SEEN,
                                  .workspace = d->workspace,
                                  .device = d->id,
                                  .seen_ms = d->seen_ms,
                                  .log_id = d->log_id,
                                  .pulled = d->has_pulled ? d->pulled : 0,
                                  .done = told };
    d->dirty = false;
    cs_writer_submit(h, &t->write);
    return true;
}

void cs_presence_seen(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device)
{
    struct device *d = device_at(h->presence, ws, device, true);

    if (d == NULL)
        return;
    d->seen_ms = cs_now_ms(h->world);
    d->dirty = true;
    if (!d->told) /* whoever reads is waited for before a log is pruned */
        d->told = tell_store(h, d);
}

void cs_presence_pulled(struct cs_hub *h, const struct cs_uuid *ws, const struct cs_uuid *device, uint64_t log_id,
                        uint64_t number, bool now)
{
    struct device *d = device_at(h->presence, ws, device, true);

    if (d == NULL)
        return;
    d->pulled = number;
    d->log_id = log_id;
    d->has_pulled = true;
    if (now)
        tell_store(h, d);
}

void cs_presence_forget(struct cs_hub *h, const struct cs_uuid *ws)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct device *d = h->presence->bucket[i]; d != NULL; d = d->next)
            if (cs_uuid_cmp(&d->workspace, ws) == 0) {
                d->pulled = 0;
                d->has_pulled = false;
            }
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

void cs_presence_each(const struct cs_hub *h, cs_presence_visit *visit, void *arg)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (const struct device *d = h->presence->bucket[i]; d != NULL; d = d->next)
            visit(arg, &d->workspace, &d->id, d->seen_ms, d->has_pulled ? (int64_t)d->pulled : -1);
}

void cs_presence_flush(struct cs_hub *h)
{
    size_t n = 0;

    for (size_t i = 0; i < BUCKETS; i++)
        for (struct device *d = h->presence->bucket[i]; d != NULL && n < FLUSH_MAX; d = d->next)
            n += d->dirty && tell_store(h, d);
}
