/* What runs now and what comes next. A task is a row of steps: for a command of another thread, or for the daemon,
 * which wants a push when something was committed here and a pull when the hub tells of something. One task at a time.
 *
 *   idle ──▶ step ──▶ step ──▶ finished ──▶ idle
 *              └─ transient failure ─▶ pause ─▶ from the first step again */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

enum {
    DEBOUNCE_MS = 20,
    LOOK_GAP_MS = 2,
    RETRY_MAX_MS = 30000,
    COUNT_MS = 500,
    DUTY_MS = 60000,
    CHECKPOINT_MS = 1000,
    POSITIONS_MS = 60000
};
enum { LOG_LENGTH = 10000, LOG_SLICES = 32 }; /* entries of the changelog that wait; slices that one look seals */
enum { RECONCILE_SHARE = 20 }; /* reading the state because the hub asks takes at most a twentieth of the time */

static void schedule(struct clawsync_engine *e);
static void run_step(struct clawsync_engine *e);
static void watch_start(struct clawsync_engine *e);
static void beat_start(struct clawsync_engine *e);
static void look_soon(struct clawsync_engine *e);
static void want_reconcile(struct clawsync_engine *e);
static void want_compact(struct clawsync_engine *e);

static void event(struct clawsync_engine *e, clawsync_event_type type, uint64_t count)
{
    clawsync_event ev = { .type = type, .count = count };

    cs_emit(e, &ev);
}

/* ---- status ---- */

static clawsync_state state_now(const struct cs_schedule *s)
{
    if (s->needs_you)
        return CLAWSYNC_STATE_NEEDS_YOU;
    if (!s->running)
        return CLAWSYNC_STATE_STOPPED;
    if (!s->connected)
        return CLAWSYNC_STATE_OFFLINE;
    return s->busy || s->wanted != 0 ? CLAWSYNC_STATE_SYNCING : CLAWSYNC_STATE_IN_SYNC;
}

/* While no job runs. */
static void publish(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_pull_mark mark;

    if (e->job_running)
        return;
    cs_replica_pull_mark(e->replica, &mark);
    s->compact_due = cs_compact_is_due(e);
    pthread_mutex_lock(&e->lock);
    e->status.state = state_now(s);
    e->status.unsealed = s->counts.unsealed;
    e->status.unsent = s->counts.unsent;
    e->status.bound_batches = s->counts.bound;
    e->status.hidden_rows = s->counts.hidden;
    e->status.conflicts = s->counts.conflicts;
    e->status.manual_conflicts = s->counts.manual_conflicts;
    e->status.tracked_tables = s->counts.tracked;
    e->status.held_back = s->counts.held_back;
    e->status.set_aside = (int64_t)s->queued.failed;
    e->status.log_number = mark.number;
    e->status.hub_log_number = e->head.number;
    e->status.totals = e->totals;
    pthread_mutex_unlock(&e->lock);
}

/* Whoever made the invite does it at once; the others leave it to the fastest of them. */
static void look_for_duty(struct clawsync_engine *e)
{
    const struct cs_member *why = NULL;
    uint8_t r[8];

    e->schedule.duty_ms = 0;
    if (!cs_is_member(e) || cs_membership_duty(&e->members, cs_now_ms(e->world), &why) == CS_DUTY_NONE)
        return;
    cs_random(&e->rng, r, sizeof r);
    e->schedule.duty_ms = 1;
    if (why == NULL || cs_uuid_cmp(&why->added_by, &e->device) != 0)
        e->schedule.duty_ms += cs_load_u64(r) % DUTY_MS;
}

static void count_run(struct clawsync_engine *e, struct cs_job *j)
{
    look_for_duty(e);
    if ((j->rc = cs_replica_counts(e->replica, &e->schedule.counts, &j->err)) == CS_OK && e->queue != NULL)
        j->rc = cs_queue_counts(e->queue, &e->schedule.queued, &j->err);
}

static void count_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_schedule *s = &e->schedule;

    (void)j;
    s->counting = false;
    if (s->duty_ms > 0 && s->running && !s->closing && !s->duty_waits) {
        s->duty_waits = true;
        cs_timer_start(s->duty, s->duty_ms);
    }
    publish(e);
    schedule(e);
}

static void count_start(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;

    if (s->counting || s->closing)
        return;
    s->counting = true;
    s->counted_ms = cs_loop_now_ms(e->loop);
    s->count_job = (struct cs_job){ .run = count_run, .done = count_done };
    cs_engine_job(e, &s->count_job);
}

static void set_error(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    pthread_mutex_lock(&e->lock);
    e->status.last_error.code = rc;
    snprintf(e->status.last_error.msg, sizeof e->status.last_error.msg, "%s", rc == CS_OK ? "" : err->msg);
    pthread_mutex_unlock(&e->lock);
}

/* ---- tasks ---- */

static uint64_t retry_pause(struct clawsync_engine *e, unsigned attempt)
{
    uint64_t base = e->config.retry_base_ms, pause = base << (attempt < 16 ? attempt : 16);
    uint8_t r[8];

    cs_random(&e->rng, r, sizeof r);
    pause += cs_load_u64(r) % (base + 1);
    return pause < RETRY_MAX_MS ? pause : RETRY_MAX_MS;
}

static void stats_since(struct clawsync_engine *e, clawsync_stats *out)
{
    const clawsync_stats *now = &e->totals, *was = &e->schedule.before;

    *out = (clawsync_stats){ .deltas_pushed = now->deltas_pushed - was->deltas_pushed,
                             .deltas_pulled = now->deltas_pulled - was->deltas_pulled,
                             .operations_pushed = now->operations_pushed - was->operations_pushed,
                             .operations_pulled = now->operations_pulled - was->operations_pulled,
                             .chunks_pushed = now->chunks_pushed - was->chunks_pushed,
                             .chunks_pulled = now->chunks_pulled - was->chunks_pulled,
                             .bytes_pushed = now->bytes_pushed - was->bytes_pushed,
                             .bytes_pulled = now->bytes_pulled - was->bytes_pulled,
                             .last_sequence = now->last_sequence,
                             .pushed_sequence = now->pushed_sequence,
                             .retries = now->retries - was->retries,
                             .duration_ms = cs_loop_now_ms(e->loop) - e->schedule.began_ms };
}

static void checkpoint_soon(struct clawsync_engine *e)
{
    if (e->schedule.checkpoint_waits)
        return;
    e->schedule.checkpoint_waits = true;
    cs_timer_start(e->schedule.checkpoint, CHECKPOINT_MS);
}

/* ---- how it stands, for others to read ---- */

static void standing_soon(struct clawsync_engine *e);

static bool same_standing(const struct cs_standing *a, const struct cs_standing *b)
{
    return a->connected == b->connected && a->last.code == b->last.code && strcmp(a->last.msg, b->last.msg) == 0;
}

/* Commands leave behind what a person has to settle; that all is well is the daemon's word alone. */
static void standing_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_schedule *s = &e->schedule;

    if (s->standing_kept)
        j->rc = cs_standing_save(&s->written, e->world, e->config.data_dir, &j->err);
    else
        j->rc = cs_standing_drop(e->world, e->config.data_dir, &j->err);
}

/* What could not be written is tried again behind the next round. */
static void standing_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_schedule *s = &e->schedule;

    s->standing_waits = false;
    s->standing_known = j->rc == CS_OK;
    if (!same_standing(&s->standing, &s->written))
        standing_soon(e);
}

static void standing_soon(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;

    if (e->beside || s->standing_waits || (s->standing_known && same_standing(&s->standing, &s->written)))
        return;
    s->standing_waits = true;
    s->standing_kept = s->running || s->standing.last.code != CS_OK;
    s->written = s->standing;
    s->standing_job = (struct cs_job){ .run = standing_run, .done = standing_done };
    cs_engine_job(e, &s->standing_job);
}

static void standing_begin(struct clawsync_engine *e)
{
    struct cs_standing *now = &e->schedule.standing;

    now->device = e->device;
    if (now->by.pid == 0)
        cs_process_self(&now->by);
    now->since_ms = cs_now_ms(e->world);
}

/* Did the task look at all that a round looks at, or settle what one finds? */
static bool is_whole(const struct clawsync_engine *e, const struct cs_command *c)
{
    static const cs_step_start settling[] = { cs_step_reconcile, cs_step_refill, cs_step_accept,
                                              cs_step_join,      cs_step_enter,  cs_step_recover };
    const struct cs_schedule *s = &e->schedule;

    if (c == NULL || c->kind == CS_CMD_SYNC)
        return true;
    for (int i = 0; i < s->nsteps; i++)
        for (size_t k = 0; k < sizeof settling / sizeof settling[0]; k++)
            if (s->step[i] == settling[k])
                return true;
    return false;
}

static void standing_after(struct clawsync_engine *e, const struct cs_command *c, int rc, const struct cs_error *err)
{
    struct cs_standing *now = &e->schedule.standing;
    bool round = c == NULL || c->kind == CS_CMD_SYNC || c->kind == CS_CMD_PUSH || c->kind == CS_CMD_PULL;
    bool passes = c != NULL && cs_code_is_transient(rc) && !cs_standing_quota(err);
    bool whole = is_whole(e, c);
    /* why a refill settles nothing is newer than what it was to settle */
    bool unsettled = c != NULL && c->kind == CS_CMD_STEPS && c->step[0] == cs_step_refill && rc == CS_EHUB;

    if (rc == CS_ECANCELED || (rc == CS_OK ? !whole : !(round || unsettled) || passes))
        return;
    standing_begin(e);
    now->last = (struct cs_error){ .code = rc };
    if (rc != CS_OK)
        snprintf(now->last.msg, sizeof now->last.msg, "%s", err->msg);
    standing_soon(e);
}

static void set_connected(struct clawsync_engine *e, bool connected, const struct cs_error *why)
{
    struct cs_schedule *s = &e->schedule;

    if (s->connected == connected)
        return;
    s->connected = s->standing.connected = connected;
    if (s->running) {
        standing_begin(e);
        standing_soon(e);
    }
    if (connected) {
        event(e, CLAWSYNC_EVENT_CONNECTED, 0);
        return;
    }
    checkpoint_soon(e); /* it says since when */
    cs_emit_error(e, CLAWSYNC_EVENT_DISCONNECTED, "", why);
}

static void round_events(struct clawsync_engine *e, const clawsync_stats *stats)
{
    clawsync_event ev = { .stats = *stats };

    if (e->schedule.pushed) {
        ev.type = CLAWSYNC_EVENT_PUSH_COMPLETED;
        cs_emit(e, &ev);
    }
    if (e->schedule.pulled) {
        ev.type = CLAWSYNC_EVENT_PULL_COMPLETED;
        cs_emit(e, &ev);
    }
}

/* The word in front of the message, when it is a finding's name. */
static void finding_name(char out[32], const char *msg)
{
    size_t n = strspn(msg, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");

    out[0] = '\0';
    if (n >= 4 && n < 32 && msg[n] == ':') {
        memcpy(out, msg, n);
        out[n] = '\0';
    }
}

static bool is_offline(int rc)
{
    return rc == CS_EUNAVAILABLE || rc == CS_ETIMEDOUT;
}

/* What stands open with the hub that is left for another. */
static void leave_hub(struct clawsync_engine *e)
{
    cs_hub_call_cancel(&e->schedule.watch);
    cs_hub_call_cancel(&e->schedule.beat);
}

static void daemon_failed(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_schedule *s = &e->schedule;
    char name[32];

    s->wanted |= s->taken & (CS_WANT_PUSH | CS_WANT_PULL); /* a count, and the hub, find the others again */
    s->backing_off = true;
    if (is_offline(rc) && cs_failover_next(e)) {
        leave_hub(e);
        cs_timer_start(s->retry, 0);
        return;
    }
    if (is_offline(rc)) {
        set_connected(e, false, err);
        cs_hub_call_cancel(&s->watch);
    } else if (s->failures == 0 || !cs_code_is_transient(rc)) {
        finding_name(name, err->msg);
        cs_emit_error(e, CLAWSYNC_EVENT_SYNC_ERROR, name, err);
    }
    s->needs_you = !cs_code_is_transient(rc);
    cs_timer_start(s->retry,
                   s->needs_you ? (uint64_t)e->config.sync_interval_secs * 1000 : retry_pause(e, s->failures));
    s->failures++;
}

static void daemon_succeeded(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;

    s->failures = 0;
    s->needs_you = false;
    set_connected(e, true, NULL);
    watch_start(e);
}

/* A command and those that share its round. */
static void finish_all(struct clawsync_engine *e, struct cs_command *c, int rc, const struct cs_error *err,
                       const clawsync_stats *stats)
{
    struct cs_command *next;

    for (; c != NULL; c = next) {
        next = c->next; /* it is its caller's, and gone when it is finished */
        c->stats = *stats;
        cs_command_finish(e, c, rc, err);
    }
}

/* ---- the checkpoint file ---- */

static void checkpoint_run(struct clawsync_engine *e, struct cs_job *j)
{
    uint64_t now = cs_monotonic_ns(e->world) / 1000000 + 1;

    j->rc = cs_checkpoint_save(e, &e->schedule.saving, &j->err);
    if (j->rc == CS_OK && (e->schedule.positions_ms == 0 || now - e->schedule.positions_ms >= POSITIONS_MS)) {
        e->schedule.positions_ms = now;
        j->rc = cs_engine_save_positions(e, &j->err);
    }
}

/* The position in the database stands, whatever became of the file. */
static void checkpoint_done(struct clawsync_engine *e, struct cs_job *j)
{
    e->schedule.checkpoint_waits = false;
    if (j->rc != CS_OK)
        cs_emit_error(e, CLAWSYNC_EVENT_WARNING, "", &j->err);
}

static void on_checkpoint(void *arg)
{
    struct clawsync_engine *e = arg;

    if (e->schedule.closing) /* closing writes it */
        return;
    e->schedule.saving = e->schedule.exchanged;
    e->schedule.checkpoint_job = (struct cs_job){ .run = checkpoint_run, .done = checkpoint_done };
    cs_engine_job(e, &e->schedule.checkpoint_job);
}

static void note_moved(struct clawsync_engine *e, const clawsync_stats *s)
{
    int64_t now = cs_now_ms(e->world);

    if (s->deltas_pushed > 0)
        e->schedule.exchanged.push =
            (struct cs_moved){ now,           s->deltas_pushed, s->operations_pushed, s->chunks_pushed, s->bytes_pushed,
                               s->duration_ms };
    if (s->deltas_pulled > 0)
        e->schedule.exchanged.pull =
            (struct cs_moved){ now,           s->deltas_pulled, s->operations_pulled, s->chunks_pulled, s->bytes_pulled,
                               s->duration_ms };
    if (s->deltas_pushed > 0 || s->deltas_pulled > 0)
        checkpoint_soon(e);
}

static void task_finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_command *c = s->current;
    int64_t now = cs_now_ms(e->world);
    clawsync_stats stats;

    stats_since(e, &stats);
    s->busy = false;
    note_moved(e, &stats);
    set_error(e, rc, err);
    standing_after(e, c, rc, err);
    if (rc == CS_OK) {
        cs_failover_connected(e);
        s->exchanged.contact_ms = now;
        s->told_queued = s->told_queued && !s->pushed;
        round_events(e, &stats);
        pthread_mutex_lock(&e->lock);
        if (s->pushed)
            e->status.last_push_ms = now;
        if (s->pulled)
            e->status.last_pull_ms = now;
        pthread_mutex_unlock(&e->lock);
    }
    if (c != NULL) {
        s->current = NULL;
        publish(e);
        if (s->running && rc == CS_OK)
            daemon_succeeded(e);
        else if (s->running && is_offline(rc))
            s->wanted |= CS_WANT_PUSH | CS_WANT_PULL; /* and tried again by itself */
        finish_all(e, c, rc, err, &stats);
    } else if (rc == CS_OK && s->running) {
        daemon_succeeded(e);
    } else if (s->running && !s->closing) {
        daemon_failed(e, rc, err);
    }
    publish(e);
    if (cs_loop_now_ms(e->loop) - s->counted_ms > COUNT_MS || !s->running)
        count_start(e);
    schedule(e);
}

static void record_run(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = cs_record_finding(e, &e->schedule.finding, &j->err);
}

/* The finding stands, also where it could not be written down. */
static void record_done(struct clawsync_engine *e, struct cs_job *j)
{
    (void)j;
    task_finish(e, e->schedule.finding.code, &e->schedule.finding);
}

/* Tried often enough: whoever waits is told that it is queued, the daemon's user once in an outage. */
static bool is_given_up(const struct clawsync_engine *e, int rc)
{
    const struct cs_schedule *s = &e->schedule;
    bool pushes = false;

    for (int i = 0; i < s->nsteps; i++)
        pushes = pushes || s->step[i] == cs_step_push;
    if (!pushes || !is_offline(rc) || s->closing)
        return false;
    return s->current != NULL || (!s->told_queued && s->failures >= e->config.max_retries);
}

static void store_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_schedule *s = &e->schedule;

    if ((j->rc = cs_offline_store(e, s->away.msg, &s->queued_ops, &j->err)) == CS_OK &&
        (j->rc = cs_replica_counts(e->replica, &s->counts, &j->err)) == CS_OK)
        s->queued_ops += (uint64_t)(s->counts.unsent + s->counts.unsealed);
}

/* What could not be copied is still bound. */
static void store_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_schedule *s = &e->schedule;

    if (j->rc != CS_OK)
        cs_emit_error(e, CLAWSYNC_EVENT_WARNING, "", &j->err);
    set_connected(e, false, &s->away);
    s->told_queued = true;
    event(e, CLAWSYNC_EVENT_OFFLINE_QUEUED, s->queued_ops);
    task_finish(e, s->away.code, &s->away);
}

/* A finding that a person can settle says how: of a fork it has to be found out first. */
static void name_command(struct cs_error *err)
{
    const char *command = cs_finding_command(err);
    size_t n = strlen(err->msg);

    if (command != NULL && strstr(err->msg, command) == NULL)
        snprintf(err->msg + n, sizeof err->msg - n, "%s%s",
                 strstr(command, "verify-heads") != NULL ? CS_FIND_OUT_WITH : CS_SETTLE_WITH, command);
}

/* The task from its first step. */
static void again_after(struct clawsync_engine *e, uint64_t ms)
{
    e->schedule.at = 0;
    e->schedule.step_waits = true;
    cs_timer_start(e->schedule.retry, ms);
}

static void step_done(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_error none = { 0 };

    if (rc == CS_OK && s->step[s->at] == cs_step_push)
        s->pushed = true;
    if (rc == CS_OK && s->step[s->at] == cs_step_pull)
        s->pulled = true;
    if (s->step[s->at] == cs_step_reconcile_asked)
        s->reconcile_ms = cs_loop_now_ms(e->loop) + RECONCILE_SHARE * e->reconcile.reading_ms;
    if (rc == CS_OK && ++s->at < s->nsteps) {
        run_step(e);
        return;
    }
    if (rc != CS_OK && s->current != NULL && is_offline(rc) && !s->closing && !s->draining && cs_failover_next(e)) {
        leave_hub(e);
        again_after(e, 0);
        return;
    }
    if (rc != CS_OK && s->current != NULL && cs_code_is_transient(rc) && s->attempt < e->config.max_retries &&
        !s->closing && !s->draining) {
        e->totals.retries++;
        again_after(e, retry_pause(e, s->attempt++));
        return;
    }
    if (rc != CS_OK && is_given_up(e, rc)) {
        s->away = *err;
        s->away.code = rc;
        s->store_job = (struct cs_job){ .run = store_run, .done = store_done };
        cs_engine_job(e, &s->store_job);
        return;
    }
    if (rc != CS_OK) {
        s->finding = *err;
        s->finding.code = rc;
        name_command(&s->finding);
        err = &s->finding;
    }
    if (rc != CS_OK && cs_is_finding(&s->finding)) {
        s->record_job = (struct cs_job){ .run = record_run, .done = record_done };
        cs_engine_job(e, &s->record_job);
        return;
    }
    task_finish(e, rc, rc == CS_OK ? &none : err);
}

static void run_step(struct clawsync_engine *e)
{
    struct cs_error err = { 0 };

    if (e->schedule.closing)
        task_finish(e, cs_fail(&err, CS_ECANCELED, "the engine is being closed"), &err);
    else
        e->schedule.step[e->schedule.at](e, step_done);
}

static void task_begin(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;

    s->busy = true;
    s->at = 0;
    s->attempt = 0;
    s->pushed = s->pulled = false;
    s->before = e->totals;
    s->began_ms = cs_loop_now_ms(e->loop);
    pthread_mutex_lock(&e->lock);
    e->status.state = state_now(s); /* the counts are those of the last time that all was quiet */
    pthread_mutex_unlock(&e->lock);
    run_step(e);
}

static void task_round(struct clawsync_engine *e, bool pull_first, bool push, bool pull, unsigned more)
{
    struct cs_schedule *s = &e->schedule;
    bool duty = more & CS_WANT_DUTY;
    /* While the hub is watched, what it says of the membership comes with the heads, and a refusal tells the rest. */
    bool member = duty || !cs_hub_call_running(&s->watch) || e->head.member_seq > e->members.seq || s->failures > 0;
    const struct {
        bool wanted;
        cs_step_start step;
    } all[] = {
        { more & CS_WANT_COMPACT, cs_step_attest },
        { member, cs_step_member },
        { pull_first, cs_step_pull },
        { push, cs_step_push },
        { push, cs_step_tell },
        { pull, cs_step_pull },
        { duty, cs_step_duty },
        { more & CS_WANT_RECONCILE, cs_step_reconcile_asked },
        { more & CS_WANT_COMPACT, cs_step_compact_asked },
    };

    _Static_assert(sizeof all / sizeof all[0] <= CS_MAX_STEPS, "a round may have all of them");
    s->nsteps = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].wanted)
            s->step[s->nsteps++] = all[i].step;
    task_begin(e);
}

static void local_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_command *c = e->schedule.current;

    j->rc = c->local(e, c->arg, &j->err);
}

static void local_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_command *c = s->current;

    s->current = NULL;
    s->busy = false;
    cs_command_finish(e, c, j->rc, &j->err);
    count_start(e);
    look_soon(e);
    schedule(e);
}

/* ---- the daemon ---- */

static void interval_start(struct clawsync_engine *e)
{
    cs_timer_start(e->schedule.interval, (uint64_t)e->config.sync_interval_secs * 1000);
}

static void on_file(void *arg, const char *name)
{
    (void)name;
    look_soon(arg);
}

static void daemon_start(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_error err = { 0 };

    if (s->running)
        return;
    s->running = true;
    s->failures = 0;
    s->wanted = CS_WANT_PUSH | CS_WANT_PULL;
    if (s->watch_files == NULL && cs_watch_new(e->loop, e->db_dir, on_file, e, &s->watch_files, &err) != CS_OK)
        cs_emit_error(e, CLAWSYNC_EVENT_SYNC_ERROR, "", &err); /* the interval still finds changes */
    standing_begin(e);
    standing_soon(e);
    interval_start(e);
    cs_timer_start(s->heartbeat, (uint64_t)e->config.heartbeat_interval_secs * 1000);
}

static void daemon_stop(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;

    s->running = s->connected = s->standing.connected = s->backing_off = s->needs_you = false;
    s->wanted = 0;
    cs_hub_call_cancel(&s->watch);
    cs_hub_call_cancel(&s->beat);
    cs_watch_close(s->watch_files);
    s->watch_files = NULL;
    cs_timer_stop(s->interval);
    cs_timer_stop(s->heartbeat);
    cs_timer_stop(s->look);
    cs_timer_stop(s->duty);
    cs_timer_stop(s->reconcile);
    s->duty_waits = false;
    if (!s->busy)
        cs_timer_stop(s->retry);
    publish(e);
}

/* A changelog grows with every edit, what is sealed with every row: while nothing is sent, the former is kept short. */
static int shorten_log(struct clawsync_engine *e, bool *more, struct cs_error *err)
{
    int64_t entries = 0;
    bool rest;
    int rc = cs_replica_logged(e->replica, &entries, err);

    for (int i = 0; rc == CS_OK && entries > LOG_LENGTH && i < LOG_SLICES; i++)
        if ((rc = cs_engine_seal(e, &rest, err)) == CS_OK)
            rc = cs_replica_logged(e->replica, &entries, err);
    *more = entries > LOG_LENGTH;
    return rc;
}

/* Has anybody committed anything? The application may make a table that it did not have. */
static void look_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_queue_counts queued = { 0 };
    bool changed, unsealed = false, unsent = false;

    s->look_pending = s->look_asked = s->look_more = false;
    if ((j->rc = cs_replica_poll(e->replica, &changed, &j->err)) == CS_OK && changed &&
        (j->rc = cs_engine_follow_schema(e, &j->err)) == CS_OK)
        j->rc = cs_aside_asked(e, &s->look_asked, &j->err);
    if (j->rc == CS_OK && changed)
        j->rc = cs_asked_look(e, &j->err);
    if (j->rc == CS_OK)
        j->rc = cs_replica_pending(e->replica, &unsealed, &unsent, &j->err);
    if (j->rc == CS_OK && unsealed && s->look_alone)
        j->rc = shorten_log(e, &s->look_more, &j->err);
    if (j->rc == CS_OK && !unsealed && !unsent && e->queue != NULL)
        j->rc = cs_queue_counts(e->queue, &queued, &j->err);
    s->look_pending = unsealed || unsent || queued.own > 0;
}

/* The write of a file is told before the commit can be seen: in WAL mode the writer syncs the log first, for as long as
 * its disk takes, and then shows the commit in shared memory, untold. So a look that finds nothing is repeated. */
static const uint64_t relook_ms[] = { 2, 5, 20, 100, 500, 1000, 2000, 5000, 10000 };
enum { RELOOKS = sizeof relook_ms / sizeof relook_ms[0] };

static void look_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_schedule *s = &e->schedule;

    s->looking = false;
    s->looked_ms = cs_loop_now_ms(e->loop);
    if (s->running && s->look_asked)
        s->wanted |= CS_WANT_PULL;
    if (s->running && (s->look_pending || j->rc != CS_OK)) {
        s->wanted |= CS_WANT_PUSH;
        s->found_ms = s->looked_ms;
    }
    if (s->look_again || (s->look_more && j->rc == CS_OK))
        look_soon(e);
    else if (s->running && !s->look_pending && s->relooks < RELOOKS)
        cs_timer_start(s->look, relook_ms[s->relooks++]);
    s->look_again = false;
    schedule(e);
}

static void on_look(void *arg)
{
    struct clawsync_engine *e = arg;
    struct cs_schedule *s = &e->schedule;

    if (!s->running || s->closing)
        return;
    if (s->looking) {
        s->look_again = true;
        return;
    }
    s->looking = true;
    s->look_alone = !s->connected || s->failures > 0;
    s->look_job = (struct cs_job){ .run = look_run, .done = look_done };
    cs_engine_job(e, &s->look_job);
}

/* The first change at once, a stream of them every DEBOUNCE_MS; looks that find nothing hold nothing up. */
static void look_soon(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;
    uint64_t now = cs_loop_now_ms(e->loop), found = now - s->found_ms, looked = now - s->looked_ms;
    uint64_t wait = found < DEBOUNCE_MS ? DEBOUNCE_MS - found : looked < LOOK_GAP_MS ? LOOK_GAP_MS - looked : 0;

    if (!s->running || s->closing)
        return;
    s->relooks = 0;
    if (s->looking)
        s->look_again = true;
    else
        cs_timer_start(s->look, wait);
}

static void on_interval(void *arg)
{
    struct clawsync_engine *e = arg;

    if (!e->schedule.running)
        return;
    e->schedule.wanted |= CS_WANT_PUSH | CS_WANT_PULL;
    interval_start(e);
    schedule(e);
}

static void on_duty(void *arg)
{
    struct clawsync_engine *e = arg;

    e->schedule.duty_waits = false;
    if (!e->schedule.running)
        return;
    e->schedule.wanted |= CS_WANT_DUTY;
    schedule(e);
}

static void on_reconcile(void *arg)
{
    struct clawsync_engine *e = arg;

    if (!e->schedule.running)
        return;
    e->schedule.wanted |= CS_WANT_PULL | CS_WANT_RECONCILE;
    schedule(e);
}

static void want_reconcile(struct clawsync_engine *e)
{
    uint64_t now = cs_loop_now_ms(e->loop), at = e->schedule.reconcile_ms;

    cs_timer_start(e->schedule.reconcile, at > now ? at - now : 0);
}

static void want_compact(struct clawsync_engine *e)
{
    e->schedule.wanted |= CS_WANT_PULL | CS_WANT_COMPACT;
}

static void on_retry(void *arg)
{
    struct clawsync_engine *e = arg;
    struct cs_schedule *s = &e->schedule;

    s->backing_off = false;
    if (s->step_waits) {
        s->step_waits = false;
        run_step(e);
    } else {
        schedule(e); /* what runs in the meantime runs on */
    }
}

static void lost(struct clawsync_engine *e, const struct cs_error *err)
{
    struct cs_schedule *s = &e->schedule;
    bool another = e->hubs.n > 1; /* which is tried before anybody is told */

    if (!another || s->closing || !s->running)
        set_connected(e, false, err);
    if (s->closing || !s->running)
        return;
    s->wanted |= CS_WANT_PUSH | CS_WANT_PULL;
    if (!s->busy && !s->backing_off && another) {
        s->backing_off = true;
        cs_timer_start(s->retry, 0);
    } else if (!s->busy && !s->backing_off) {
        s->backing_off = true;
        cs_timer_start(s->retry, retry_pause(e, s->failures++));
    }
    publish(e);
}

/* There may be something to reconcile: what it is, is asked then. */
static void note_bells(struct clawsync_engine *e, const struct cs_messages *in)
{
    for (const struct cs_message *m = in->first; m != NULL; m = m->next) {
        Clawsync__V1__WatchResponse *r = clawsync__v1__watch_response__unpack(NULL, m->len, m->data);

        if (r == NULL)
            continue;
        if (r->reconcile)
            want_reconcile(e);
        if (r->snapshot)
            want_compact(e);
        clawsync__v1__watch_response__free_unpacked(r, NULL);
    }
}

static void on_watch(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;
    struct cs_error err = c->err;

    if (c->in.first != NULL) {
        note_bells(e, &c->in);
        cs_messages_free(&c->in); /* the head in it is not verified and not used: the pull brings one that is */
        e->schedule.wanted |= CS_WANT_PULL;
        cs_hub_call_idle(c, false); /* silence is normal here; the heartbeat notices a dead hub */
    }
    if (c->ended) {
        if (c->rc == CS_OK)
            cs_fail(&err, CS_EUNAVAILABLE, "hub %.150s ended the connection; changes stay queued",
                    e->config.hub_endpoint);
        cs_hub_call_cancel(c);
        lost(e, &err);
        return;
    }
    schedule(e);
}

static void watch_start(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;
    Clawsync__V1__WatchRequest req = CLAWSYNC__V1__WATCH_REQUEST__INIT;

    if (!s->running || s->closing || cs_hub_call_running(&s->watch))
        return;
    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    cs_hub_call_start(e, &s->watch, "Watch", &req.base, true, on_watch, NULL);
}

static void on_beat(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;
    struct cs_schedule *s = &e->schedule;
    const struct cs_message *m = c->in.first;
    Clawsync__V1__HeartbeatResponse *r;
    int64_t skew;

    if (!c->ended)
        return;
    if (c->rc == CS_OK && m != NULL && (r = clawsync__v1__heartbeat_response__unpack(NULL, m->len, m->data)) != NULL) {
        s->exchanged.contact_ms = cs_now_ms(e->world);
        skew = r->server_time - s->exchanged.contact_ms;
        pthread_mutex_lock(&e->lock);
        e->status.clock_skew_ms = skew;
        pthread_mutex_unlock(&e->lock);
        if (r->sync_required)
            s->wanted |= CS_WANT_PULL;
        if (r->reconcile)
            want_reconcile(e);
        if (r->snapshot || s->compact_due)
            want_compact(e);
        clawsync__v1__heartbeat_response__free_unpacked(r, NULL);
    } else if (c->rc != CS_OK && cs_hub_call_running(&s->watch)) {
        struct cs_error err = c->err;

        cs_hub_call_cancel(&s->watch);
        lost(e, &err);
    }
    cs_hub_call_cancel(c);
    schedule(e);
}

static void beat_start(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;
    Clawsync__V1__HeartbeatRequest req = CLAWSYNC__V1__HEARTBEAT_REQUEST__INIT;

    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.timestamp = cs_now_ms(e->world);
    cs_hub_call_start(e, &s->beat, "Heartbeat", &req.base, true, on_beat, NULL);
}

static void on_heartbeat(void *arg)
{
    struct clawsync_engine *e = arg;
    struct cs_schedule *s = &e->schedule;

    if (!s->running || s->closing)
        return;
    cs_timer_start(s->heartbeat, (uint64_t)e->config.heartbeat_interval_secs * 1000);
    if (s->connected && s->beat.call == NULL)
        beat_start(e);
}

/* ---- what is next ---- */

/* Callers that wait for a round of the same kind have this one: it begins after all of them asked. */
static void join_round(struct cs_schedule *s, struct cs_command *c)
{
    struct cs_command **at = &s->waiting, *w, **joined = &c->next;

    while ((w = *at) != NULL) {
        if (w->kind != c->kind) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        w->next = NULL;
        *joined = w;
        joined = &w->next;
    }
}

static void begin_command(struct clawsync_engine *e, struct cs_command *c)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_error err = { 0 };

    s->current = c;
    if (c->kind == CS_CMD_PUSH || c->kind == CS_CMD_PULL || c->kind == CS_CMD_SYNC)
        join_round(s, c);
    switch (c->kind) {
    case CS_CMD_PUSH:
        task_round(e, false, true, false, 0);
        return;
    case CS_CMD_PULL:
        task_round(e, true, false, false, 0);
        return;
    case CS_CMD_SYNC:
        task_round(e, true, true, true, 0);
        return;
    case CS_CMD_STEPS:
        if (s->running && c->stopped) {
            s->current = NULL;
            cs_command_finish(e, c, cs_fail(&err, CS_EINVAL, "stop replication before joining a workspace"), &err);
            schedule(e);
            return;
        }
        for (s->nsteps = 0; s->nsteps < CS_MAX_STEPS && c->step[s->nsteps] != NULL; s->nsteps++)
            s->step[s->nsteps] = c->step[s->nsteps];
        task_begin(e);
        return;
    case CS_CMD_LOCAL:
        s->busy = true;
        s->job = (struct cs_job){ .run = local_run, .done = local_done };
        cs_engine_job(e, &s->job);
        return;
    case CS_CMD_START:
    case CS_CMD_STOP:
    case CS_CMD_CLOSE:
        s->current = NULL;
        if (c->kind == CS_CMD_START)
            daemon_start(e);
        else
            daemon_stop(e);
        cs_command_finish(e, c, CS_OK, &err);
        schedule(e);
        return;
    }
}

/* Nothing new begins; what runs ends soon, and what waits for a retry at once. */
static void close_now(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;

    s->closing = true;
    if (s->step_waits) {
        cs_timer_stop(s->retry);
        cs_timer_start(s->retry, 0);
    }
}

static void cut(void *arg)
{
    struct clawsync_engine *e = arg;

    close_now(e);
    cs_hub_disconnect(e); /* every step that waits for the hub ends with "canceled" */
}

bool cs_schedule_is_closed(const struct clawsync_engine *e)
{
    return e->schedule.closing && !e->schedule.busy && !e->job_running && e->jobs == NULL;
}

static void schedule(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_command *c;

    if (s->drain.finished && !s->busy)
        close_now(e);
    if (cs_schedule_is_closed(e))
        cs_loop_stop(e->loop);
    if (s->closing || s->busy)
        return;
    if (cs_failover_go_back(e)) {
        leave_hub(e);
        s->wanted |= s->running ? CS_WANT_PUSH | CS_WANT_PULL : 0;
    }
    if ((c = cs_asked_next(e)) != NULL) {
        c->next = s->waiting;
        s->waiting = c;
    }
    if ((c = s->waiting) != NULL) {
        s->waiting = c->next;
        c->next = NULL;
        begin_command(e, c);
        return;
    }
    if (!s->running || s->backing_off || s->wanted == 0) {
        publish(e);
        return;
    }
    s->taken = s->wanted;
    s->wanted = 0;
    task_round(e, false, s->taken & CS_WANT_PUSH, s->taken & CS_WANT_PULL, s->taken);
}

/* Who was connected sends what is unsent first, as long as the timer lets it. */
static void close_begin(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;
    bool connected = s->running && s->connected;

    if (s->closing || s->draining)
        return;
    daemon_stop(e);
    cs_timer_start(s->close, (uint64_t)e->config.request_timeout_secs * 1000);
    if (!connected) {
        close_now(e);
        return;
    }
    s->draining = true;
    s->drain = (struct cs_command){ .kind = CS_CMD_STEPS, .step = { cs_step_push }, .next = s->waiting };
    s->waiting = &s->drain;
}

void cs_schedule_wake(struct clawsync_engine *e, struct cs_command *commands, bool notified)
{
    struct cs_schedule *s = &e->schedule;
    struct cs_command **at = &s->waiting, *c, *next;

    while (*at != NULL)
        at = &(*at)->next;
    for (c = commands; c != NULL; c = next) {
        next = c->next;
        c->next = NULL;
        if (c->kind == CS_CMD_CLOSE) {
            close_begin(e);
            continue;
        }
        *at = c;
        at = &c->next;
    }
    if (notified)
        look_soon(e);
    schedule(e);
}

int cs_schedule_open(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_schedule *s = &e->schedule;

    s->counted_ms = s->looked_ms = s->found_ms = 0;
    e->tell.wanted = true; /* what the last run could not tell */
    if (cs_timer_new(e->loop, on_retry, e, &s->retry) != CS_OK ||
        cs_timer_new(e->loop, on_look, e, &s->look) != CS_OK ||
        cs_timer_new(e->loop, on_interval, e, &s->interval) != CS_OK ||
        cs_timer_new(e->loop, on_heartbeat, e, &s->heartbeat) != CS_OK ||
        cs_timer_new(e->loop, on_checkpoint, e, &s->checkpoint) != CS_OK ||
        cs_timer_new(e->loop, on_reconcile, e, &s->reconcile) != CS_OK ||
        cs_timer_new(e->loop, on_duty, e, &s->duty) != CS_OK || cs_timer_new(e->loop, cut, e, &s->close) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    return cs_failover_open(e, err);
}

void cs_schedule_hub_back(struct clawsync_engine *e)
{
    schedule(e);
}

void cs_schedule_free(struct clawsync_engine *e)
{
    struct cs_schedule *s = &e->schedule;

    cs_hub_call_free(&s->watch);
    cs_hub_call_free(&s->beat);
    cs_watch_close(s->watch_files);
    cs_timer_close(s->retry);
    cs_timer_close(s->look);
    cs_timer_close(s->interval);
    cs_timer_close(s->heartbeat);
    cs_timer_close(s->close);
    cs_timer_close(s->duty);
    cs_timer_close(s->reconcile);
    cs_timer_close(s->checkpoint);
}
