/* Collects writes while a group commit runs, and hands all that waited to the next one. */
#include <stdlib.h>

#include "hub/internal.h"

enum { GROUP_MAX = 1024, GROUP_BYTES = 64 * 1024 * 1024 };

static void group_start(struct cs_hub *h);

static void group_run(struct cs_job *j)
{
    struct cs_writer *wr = &j->hub->writer;

    uint64_t began = cs_monotonic_ns(j->hub->world);

    cs_commit_group(&j->hub->env, wr->group, wr->ngroup);
    wr->took_ns = cs_monotonic_ns(j->hub->world) - began;
}

/* What an entry means for calls that are open: whoever is removed has none, and whoever is being removed sends nothing
 * for a while. */
static void entry_done(struct cs_hub *h, const struct cs_write *w)
{
    struct cs_cut cut;

    if (!cs_uuid_is_zero(&w->hold)) {
        cs_hold(h, &w->workspace, &w->hold);
        cs_others_hold(h, &w->workspace, &w->hold);
    }
    for (size_t i = 0; w->changed && cs_entry_cut(w->entry, i, &cut); i++)
        cs_gate_end(h, &w->workspace, &cut.id);
}

static void group_done(struct cs_job *j)
{
    struct cs_hub *h = j->hub;
    struct cs_writer *wr = &h->writer;

    cs_metrics_commit(h->metrics, wr->ngroup, wr->took_ns);
    for (size_t i = 0; i < wr->ngroup; i++) {
        struct cs_write *w = wr->group[i];
        bool newest = i + 1 == wr->ngroup || cs_uuid_cmp(&w->workspace, &wr->group[i + 1]->workspace) != 0;
        bool changed = false, unsure = false;

        if (w->kind == CS_WRITE_ENTRY)
            entry_done(h, w);
        /* The group is sorted by workspace; its last write stands for all of them. */
        for (size_t k = i + 1; newest && k-- > 0;) {
            if (cs_uuid_cmp(&wr->group[k]->workspace, &w->workspace) != 0)
                break;
            changed = changed || wr->group[k]->changed;
            unsure = unsure || wr->group[k]->unsure;
        }
        if (changed && w->has_head) {
            cs_watch_notify(h, &w->workspace, &w->head);
            cs_others_moved(h, &w->workspace);
        }
        if (unsure)
            cs_others_unsure(h, &w->workspace);
    }
    for (size_t i = 0; i < wr->ngroup; i++)
        wr->group[i]->done(wr->group[i]);
    wr->ngroup = 0;
    wr->busy = false;
    group_start(h);
}

static bool group_room(struct cs_writer *wr)
{
    size_t cap = wr->cap == 0 ? 64 : wr->cap * 2;
    struct cs_write **more;

    if (wr->ngroup < wr->cap)
        return true;
    if ((more = realloc(wr->group, cap * sizeof(struct cs_write *))) == NULL)
        return false;
    wr->group = more;
    wr->cap = cap;
    return true;
}

static void group_take(struct cs_writer *wr)
{
    size_t bytes = 0;

    while (wr->first != NULL && wr->ngroup < wr->most && (wr->ngroup == 0 || bytes < GROUP_BYTES) && group_room(wr)) {
        struct cs_write *w = wr->first;

        if ((wr->first = w->next) == NULL)
            wr->last = &wr->first;
        bytes += w->bytes;
        wr->group[wr->ngroup++] = w;
    }
}

/* No memory even for one: everything that waits is answered so. */
static void waiting_fail(struct cs_writer *wr)
{
    struct cs_write *w = wr->first;

    wr->first = NULL;
    wr->last = &wr->first;
    while (w != NULL) {
        struct cs_write *next = w->next;

        cs_refuse(&w->verdict, CS_RPC_UNAVAILABLE, "storage", "the hub is out of memory; try again");
        w->done(w);
        w = next;
    }
}

static void group_start(struct cs_hub *h)
{
    struct cs_writer *wr = &h->writer;

    if (wr->busy || wr->first == NULL)
        return;
    group_take(wr);
    wr->busy = true;
    if (wr->ngroup > 0 && cs_job_start(h, &wr->job) == CS_OK)
        return;
    wr->busy = false;
    for (size_t i = wr->ngroup; i-- > 0;) { /* back to the front of the line */
        if ((wr->group[i]->next = wr->first) == NULL)
            wr->last = &wr->group[i]->next;
        wr->first = wr->group[i];
    }
    wr->ngroup = 0;
    waiting_fail(wr);
}

void cs_writer_init(struct cs_hub *h, uint32_t most)
{
    h->writer =
        (struct cs_writer){ .job = { .run = group_run, .done = group_done }, .most = most == 0 ? GROUP_MAX : most };
    h->writer.last = &h->writer.first;
}

void cs_writer_submit(struct cs_hub *h, struct cs_write *w)
{
    w->next = NULL;
    *h->writer.last = w;
    h->writer.last = &w->next;
    group_start(h);
}

bool cs_writer_idle(const struct cs_hub *h)
{
    return !h->writer.busy && h->writer.first == NULL;
}

void cs_writer_fini(struct cs_hub *h)
{
    free(h->writer.group);
    h->writer.group = NULL;
}
