/* Collecting tombstones, the engine's side (docs/decisions/0017): which batches of the log count how far, what of ours
 * is on its way when a collection comes, and when this device writes one. All in jobs. */
#include <inttypes.h>

#include "engine/engine.h"
#include "replica/review.h"

/* What of ours is not in the log up to a collection, and has stamps that it is about, does not count there behind it
 * unless it is bound anew: then it says what still stands. in_doubt: what waits was seen to (cs_push_doubt). */
static int before(struct clawsync_engine *e, const struct cs_collection *c, bool in_doubt, struct cs_error *err)
{
    struct cs_queue_counts counts = { 0 };
    int rc = e->queue == NULL ? CS_OK : cs_queue_counts(e->queue, &counts, err);

    if (rc == CS_OK && counts.failed > 0)
        rc = cs_offline_take_all(e, err);
    if (rc == CS_OK && !in_doubt)
        rc = cs_push_take_back_old(e, c->through, err);
    return rc == CS_OK ? cs_push_take_back_late(e, c, err) : rc;
}

int cs_collect_judge(struct clawsync_engine *e, const struct cs_batch_header *h, uint64_t log_number,
                     struct cs_arena *a, struct cs_delta *d, struct cs_error *err)
{
    struct cs_collection have, now;
    bool late;
    int rc = cs_replica_collected(e->replica, &have, err);

    if (rc != CS_OK)
        return rc;
    late = have.through > 0 && have.log_id == h->seen_log && h->seen_number < have.number;
    if (late)
        d->skip = have.through;
    if (h->kind != CS_BATCH_COLLECTION)
        return CS_OK;
    now = (struct cs_collection){ .through = d->collect.through, .log_id = h->seen_log, .number = log_number };
    d->collect = (struct cs_collection){ 0 };
    if (late || e->pull.salvage || now.through >= h->top_stamp) { /* whoever wrote it did not know of the last one */
        d->nops = 0;
        return CS_OK;
    }
    if (have.through > now.through)
        now.through = have.through;
    if ((rc = before(e, &now, false, err)) != CS_OK)
        return rc;
    return cs_collection_place(d, a, &now, err);
}

int cs_collect_extract(struct clawsync_engine *e, struct cs_arena *a, struct cs_delta *out, struct cs_error *err)
{
    *out = (struct cs_delta){ 0 };
    return e->collect_through == 0 ? CS_OK : cs_replica_collection(e->replica, a, e->collect_through, out, err);
}

/* ---- others' state ---- */

int cs_collect_missed(struct clawsync_engine *e, const struct cs_collection *told, bool *out, struct cs_error *err)
{
    struct cs_collection have;
    int rc = cs_replica_collected(e->replica, &have, err);

    *out = rc == CS_OK && told->through > 0 &&
           (told->log_id != have.log_id || told->number != have.number || told->through != have.through);
    return rc;
}

int cs_collect_ahead(struct clawsync_engine *e, const struct cs_collection *told, bool in_doubt, struct cs_error *err)
{
    int rc = before(e, told, in_doubt, err);

    return rc == CS_OK ? cs_replica_forget(e->replica, told->through, err) : rc;
}

int cs_collect_taken(struct clawsync_engine *e, const struct cs_uuid *author, bool older,
                     const struct cs_collection *told, struct cs_error *err)
{
    struct cs_sweep how = { .through = told->through, .author = *author, .older = older };
    uint64_t swept = 0;
    bool more = true;
    int rc = CS_OK;

    while (rc == CS_OK && more)
        rc = cs_replica_sweep(e->replica, &how, &more, &swept, err);
    if (swept > 0)
        cs_note(e, CLAWSYNC_EVENT_WARNING, 0, "",
                "%" PRIu64 " rows were deleted by others while this device was away; unsent edits of theirs are "
                "conflicts (claw-sync conflicts list)",
                swept);
    return rc;
}

/* Does the merged state name one that this database has not been through? */
static int is_told(struct clawsync_engine *e, struct cs_collection *told, bool *out, struct cs_error *err)
{
    int rc = cs_replica_told_collected(e->replica, told, err);

    *out = false;
    return rc == CS_OK ? cs_collect_missed(e, told, out, err) : rc;
}

int cs_collect_open(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_collection told;
    int rc = cs_replica_stale(e->replica, &e->stale, err);

    return rc == CS_OK && !e->stale ? is_told(e, &told, &e->stale, err) : rc;
}

int cs_collect_settle(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_uuid *author = &e->device;
    struct cs_collection told;
    bool collected;
    int rc = is_told(e, &told, &collected, err);

    for (size_t i = 0; i < e->members.nmembers && cs_uuid_cmp(author, &e->device) == 0; i++)
        author = &e->members.members[i].id;
    if (rc == CS_OK && collected && (rc = before(e, &told, false, err)) == CS_OK)
        rc = cs_collect_taken(e, author, false, &told, err);
    if (rc == CS_OK && (rc = cs_replica_swept(e->replica, collected ? &told : NULL, err)) == CS_OK)
        e->stale = false;
    return rc;
}

/* ---- when ---- */

/* All devices that the hub hears of have read the log up to where it is pruned: what was deleted before then can go.
 * Who was not heard of for so long takes the snapshot. */
int cs_collect_wanted(struct clawsync_engine *e, const Clawsync__V1__SnapshotResponse *a, bool *out,
                      struct cs_error *err)
{
    const Clawsync__V1__SnapshotInfo *i = a->served;
    const struct cs_member *author;
    struct cs_collection have;
    struct cs_pull_mark mark;
    struct cs_descriptor d;
    struct cs_error why;
    bool lacks;
    int64_t hlc = cs_replica_hlc(e->replica), through;
    int rc;

    *out = false;
    cs_replica_pull_mark(e->replica, &mark);
    if (i == NULL || e->recovering || i->attester_id.len == 0 || i->log_id != mark.log_id ||
        a->pruned_number + 1 < i->log_number || mark.number < i->log_number || !cs_snapshot_counts(e, i->device_id) ||
        cs_descriptor_read(&d, cs_slice(i->descriptor.data, i->descriptor.len), &why) != CS_OK ||
        d.log_id != i->log_id || d.number != i->log_number ||
        (author = cs_membership_find(&e->members, &d.device)) == NULL ||
        !cs_descriptor_verify(cs_slice(i->descriptor.data, i->descriptor.len), author->sign_pk))
        return CS_OK;
    through = d.top_stamp < hlc ? d.top_stamp : hlc;
    if ((rc = cs_replica_collected(e->replica, &have, err)) != CS_OK || have.through >= through)
        return rc;
    if ((rc = cs_review_lacks(e->replica, mark.log_id, &lacks, err)) != CS_OK || lacks) /* a row's insert, say */
        return rc;
    if ((rc = cs_replica_tombstones(e->replica, through, out, err)) == CS_OK && *out)
        e->collect_through = through;
    return rc;
}
