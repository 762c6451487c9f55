/* The step that appends a membership entry of ours to the hub's log.
 *
 *   build ──▶ AppendMembership ──▶ fetch ──▶ is it in? ──▶ done
 *     └──────◀── another entry came first ◀────┘
 *
 * A lost answer is no harm: the fetch tells whether the entry is in. */
#include <inttypes.h>

#include "engine/engine.h"

enum { MAX_TRIES = 8 };

static void build(struct clawsync_engine *e);

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    cs_hub_call_cancel(&e->append.call);
    e->append.done(e, rc, err);
}

static void next_job(struct clawsync_engine *e, void (*run)(struct clawsync_engine *, struct cs_job *),
                     void (*done)(struct clawsync_engine *, struct cs_job *))
{
    e->append.job = (struct cs_job){ .run = run, .done = done };
    cs_engine_job(e, &e->append.job);
}

static void fetched(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_append_step *s = &e->append;
    const uint8_t *at = rc == CS_OK ? cs_entry_hash_at(e, s->seq) : NULL;
    struct cs_error none = { 0 };

    if (rc != CS_OK)
        finish(e, rc, err);
    else if (at != NULL && memcmp(at, s->hash, 32) == 0)
        finish(e, CS_OK, &none);
    else if (s->tries < MAX_TRIES)
        build(e);
    else
        finish(e, cs_fail(&none, CS_EABORTED, "other devices change the membership all the time; try again"), &none);
}

/* A refusal of the compare-and-swap may be about the end of a removed device's chain: the log knows more of it. */
static void caught_up(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        finish(e, rc, err);
    else
        cs_step_member(e, fetched);
}

static void on_appended(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (!c->ended)
        return;
    if (c->rc == CS_EABORTED && !e->beside && e->append.tries > 1)
        cs_step_pull(e, caught_up);
    else if (c->rc == CS_EABORTED && e->append.tries > 1)
        finish(e, c->rc, &c->err); /* who runs beside us pulls; the task is tried again */
    else if (c->rc == CS_OK || c->rc == CS_EABORTED)
        cs_step_member(e, fetched);
    else
        finish(e, c->rc, &c->err);
}

static void build_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_append_step *s = &e->append;

    cs_buf_reset(&s->entry);
    if ((j->rc = s->build(e, s->arg, &s->entry, &j->err)) != CS_OK || s->entry.len == 0)
        return;
    s->seq = cs_entry_seq(cs_buf_slice(&s->entry));
    cs_entry_hash(cs_buf_slice(&s->entry), s->hash);
}

static void build_done(struct clawsync_engine *e, struct cs_job *j)
{
    Clawsync__V1__AppendMembershipRequest req = CLAWSYNC__V1__APPEND_MEMBERSHIP_REQUEST__INIT;
    struct cs_append_step *s = &e->append;

    s->tries++;
    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.entry = (ProtobufCBinaryData){ s->entry.len, s->entry.data };
    if (j->rc == CS_OK && s->entry.len > 0)
        j->rc = cs_hub_call_start(e, &s->call, "AppendMembership", &req.base, true, on_appended, &j->err);
    if (j->rc != CS_OK || s->entry.len == 0)
        finish(e, j->rc, &j->err);
}

static void build(struct clawsync_engine *e)
{
    next_job(e, build_run, build_done);
}

void cs_step_append(struct clawsync_engine *e, cs_entry_build fn, void *arg, cs_step_done done)
{
    struct cs_append_step *s = &e->append;

    s->build = fn;
    s->arg = arg;
    s->done = done;
    s->tries = 0;
    build(e);
}

/* ---- entries that begin an epoch ---- */

static int current_epoch(struct clawsync_engine *e, const struct cs_epoch_keys **out, struct cs_error *err)
{
    if ((*out = cs_keystore_epoch(e->ks, e->members.epoch)) != NULL)
        return CS_OK;
    return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
}

/* The new key comes back to us in the entry's wrap, when the entry is in and stored. */
int cs_append_rotate(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    const uint32_t *from = arg; /* the epoch to be ended; NULL: whatever is in force */
    struct cs_epoch_keys *next;
    const struct cs_epoch_keys *now;
    int rc;

    if (from != NULL && e->members.epoch > *from)
        return CS_OK;
    if ((rc = current_epoch(e, &now, err)) != CS_OK)
        return rc;
    if ((next = cs_secret_alloc(sizeof *next)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    rc = cs_entry_rotate(entry, &e->rng, &e->members, &e->device, e->keys, now, next, cs_now_ms(e->world), err);
    cs_secret_free(next);
    return rc;
}

int cs_append_remove(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    const struct cs_removal *r = arg;
    struct cs_epoch_keys *next;
    const struct cs_epoch_keys *now;
    int rc;

    if (r->n == 0)
        return CS_OK;
    if ((rc = current_epoch(e, &now, err)) != CS_OK)
        return rc;
    if ((next = cs_secret_alloc(sizeof *next)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    rc = cs_entry_remove(entry, &e->rng, &e->members, &e->device, e->keys, r->cut, r->n, now, next, cs_now_ms(e->world),
                         err);
    cs_secret_free(next);
    return rc;
}

/* ---- what an invite that is over leaves to do ---- */

static int duty_entry(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    const struct cs_member *why = NULL;
    int64_t now = cs_now_ms(e->world);
    struct cs_removal r = { 0 };

    (void)arg;
    switch (cs_is_member(e) ? cs_membership_duty(&e->members, now, &why) : CS_DUTY_NONE) {
    case CS_DUTY_ROTATE:
        return cs_append_rotate(e, NULL, entry, err);
    case CS_DUTY_REMOVE:
        for (size_t i = 0; i < e->members.nmembers && r.n < CS_REMOVAL_MAX; i++)
            if (cs_invite_expired(&e->members.members[i], now))
                r.cut[r.n++].id = e->members.members[i].id;
        return cs_append_remove(e, &r, entry, err);
    case CS_DUTY_NONE:
        break;
    }
    return CS_OK;
}

void cs_step_duty(struct clawsync_engine *e, cs_step_done done)
{
    cs_step_append(e, duty_entry, NULL, done);
}
