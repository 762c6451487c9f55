/* Sealing in slices, a job for each: a backfill of a million rows tells how far it is, and others' jobs get between. */
#include "engine/engine.h"

enum { SLICE = 1000 };

int cs_engine_seal(struct clawsync_engine *e, bool *more, struct cs_error *err)
{
    struct cs_sealing *s = &e->sealing;
    uint64_t sealed = 0;
    int64_t rest = 0;
    int rc = cs_replica_seal(e->replica, SLICE, more, &sealed, err);

    s->count += sealed;
    if (e->reconcile.doubtful)
        e->reconcile.result.report.sealed += sealed;
    if (rc == CS_OK && *more && s->total == 0) { /* the first of several */
        rc = cs_replica_unsealed(e->replica, &rest, err);
        s->total = (uint64_t)rest > s->count ? (uint64_t)rest : s->count;
    }
    if (rc == CS_OK && s->total > 0) {
        if (!*more || s->count > s->total)
            s->total = s->count; /* what was already sealed was counted too, or more came in */
        cs_note_progress(e, "sealing", s->count, s->total);
    }
    if (rc != CS_OK || !*more)
        *s = (struct cs_sealing){ 0 };
    return rc;
}
