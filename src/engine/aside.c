/* Batches of the log that could not be taken in, and taking them in when that can be: whatever was in their way (a hub
 * whose storage was damaged, somebody on the way, this program's version, the batch before them) may be gone. They are
 * fetched once more when the engine was opened anew, and when a person asks for it. The merge does not mind that they
 * come late. What is still not in order is no news. */
#include <inttypes.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "replica/review.h"

enum { MOST = 1024 }; /* in one pull: a device that misbehaves may have sent any number */

int cs_aside_note(struct clawsync_engine *e, const char *finding, bool follows, struct cs_error *err)
{
    const struct cs_pull_step *s = &e->pull;
    struct cs_review_aside a = { .log_id = e->head.log_id,
                                 .log_number = s->log_number,
                                 .finding = finding,
                                 .follows = follows,
                                 .noticed_ms = cs_now_ms(e->world) };
    struct cs_batch_header h;

    if (cs_batch_header_decode(&h, cs_slice(s->batch.header, sizeof s->batch.header), NULL) == CS_OK)
        a.device = h.device;
    memcpy(a.hash, s->batch.hash, sizeof a.hash);
    return cs_review_put_aside(e->replica, &a, err);
}

/* ---- which, and where ---- */

static int keep(void *arg, const struct cs_review_aside *a)
{
    static const uint8_t unknown[32];
    struct clawsync_engine *e = arg;
    struct cs_pull_step *s = &e->pull;

    if (a->log_id != s->mark.log_id || a->log_number > s->mark.number || memcmp(a->hash, unknown, 32) == 0)
        return 0;
    s->aside[s->naside] = *a;
    s->aside[s->naside++].finding = NULL; /* gone after this */
    return s->naside == MOST;
}

int cs_aside_load(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;

    s->at = s->naside = 0;
    if ((s->aside = cs_arena_zalloc(&s->aside_arena, MOST, sizeof *s->aside)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return cs_review_aside(e->replica, keep, e, err);
}

bool cs_aside_next(struct clawsync_engine *e)
{
    return e->pull.at++ < e->pull.naside;
}

uint64_t cs_aside_place(const struct clawsync_engine *e)
{
    return e->pull.aside[e->pull.at - 1].log_number;
}

void cs_aside_free(struct clawsync_engine *e)
{
    cs_arena_free(&e->pull.aside_arena);
    e->pull.aside = NULL;
    e->pull.naside = e->pull.at = 0;
}

/* ---- taking it in ---- */

/* Is it what was set aside, and does it follow its device's last one? mark: the one to save with it. *take: go on. */
static int check(struct clawsync_engine *e, const struct cs_review_aside *note, struct cs_pull_mark *mark,
                 struct cs_batch_header *h, bool *take, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    struct cs_error why = { 0 };
    struct cs_finding f;

    *take = false;
    *mark = s->mark;
    if (s->log_number != note->log_number || s->envelope_bad || s->header_only ||
        memcmp(s->batch.hash, note->hash, 32) != 0)
        return CS_OK;
    if (note->follows) { /* signed and in order, as it was found then; its device's chain stands behind it */
        mark->header_refused = true;
        *take = cs_batch_header_decode(h, cs_slice(s->batch.header, sizeof s->batch.header), &why) == CS_OK;
        return CS_OK;
    }
    switch (cs_verify_again(e, &s->mark, &s->batch, note->log_number, h, &f, &why)) {
    case CS_FINE:
        break;
    case CS_FAILED:
        *err = why;
        return why.code;
    default:
        return CS_OK;
    }
    if (f.known) /* it was taken in, and then the power went */
        return cs_review_drop_aside(e->replica, note->log_number, err);
    if (cs_uuid_cmp(&h->device, &e->device) == 0)
        return CS_OK;
    mark->header_refused = false;
    mark->device = h->device;
    mark->device_number = h->number;
    memcpy(mark->device_hash, s->batch.hash, 32);
    mark->device_member_seq = h->member_seq;
    mark->highest_epoch = h->epoch > mark->highest_epoch ? h->epoch : mark->highest_epoch;
    mark->top_stamp = h->top_stamp > mark->top_stamp ? h->top_stamp : mark->top_stamp;
    *take = true;
    return CS_OK;
}

static int apply(struct clawsync_engine *e, const struct cs_pull_mark *mark, const struct cs_delta *d,
                 struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    struct cs_apply_result result;
    int rc = cs_replica_apply(e->replica, d, mark, &result, err);

    if (rc != CS_OK || d == NULL)
        return rc;
    e->totals.deltas_pulled++;
    e->totals.operations_pulled += result.ops;
    e->totals.chunks_pulled += s->batch.nchunks;
    e->totals.bytes_pulled += s->batch.sealed.len;
    return cs_record_taken_in(e, s->log_number, result.ops, err);
}

/* Its header is in order by now, its content is not: those behind it may follow. */
static int only_header(struct clawsync_engine *e, const struct cs_review_aside *note, const struct cs_pull_mark *mark,
                       const char *finding, struct cs_error *err)
{
    int rc = note->follows ? CS_OK : cs_aside_note(e, finding, true, err);

    return rc == CS_OK && !note->follows ? apply(e, mark, NULL, err) : rc;
}

int cs_aside_take(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_pull_step *s = &e->pull;
    const struct cs_review_aside *note = &s->aside[s->at - 1];
    enum cs_unpack_fault fault = CS_FAULT_NONE;
    const struct cs_epoch_keys *keys;
    struct cs_delta delta = { 0 };
    struct cs_pull_mark mark;
    struct cs_batch_header h;
    bool take;
    int rc = check(e, note, &mark, &h, &take, err);

    if (rc != CS_OK || !take || (keys = cs_keystore_epoch(e->ks, h.epoch)) == NULL)
        return rc;
    if (s->uneven)
        return only_header(e, note, &mark, "BAD_CHUNK: chunks of a batch have the wrong sizes", err);
    if ((rc = cs_unpack(e->packer, &s->batch, keys, &delta, &fault, err)) == CS_ECORRUPT) {
        struct cs_error why = *err;

        cs_fail_context(&why, "%s", cs_unpack_fault_name(fault));
        return only_header(e, note, &mark, why.msg, err);
    }
    if (rc != CS_OK || (rc = cs_collect_judge(e, &h, note->log_number, &s->arena, &delta, err)) != CS_OK ||
        (rc = apply(e, &mark, &delta, err)) != CS_OK ||
        (rc = cs_review_drop_aside(e->replica, note->log_number, err)) != CS_OK)
        return rc;
    cs_note(e, CLAWSYNC_EVENT_WARNING, 0, "",
            "number %" PRIu64 " of the log, which had been set aside, is in order now and was taken in",
            note->log_number);
    return cs_conflict_news(e, err);
}

int cs_aside_open(struct clawsync_engine *e, struct cs_error *err)
{
    bool asked;

    e->aside_wanted = true;
    return cs_aside_asked(e, &asked, err);
}

int cs_aside_asked(struct clawsync_engine *e, bool *asked, struct cs_error *err)
{
    int rc = cs_review_retry_asked(e->replica, asked, err);

    if (rc != CS_OK || !*asked)
        return rc;
    e->aside_wanted = true;
    return cs_review_retry(e->replica, err);
}
