/* Opening, the thread, jobs, commands, events, closing. */
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

_Static_assert(sizeof(struct cs_error) == sizeof(clawsync_error), "the two error structs are one");

/* ---- jobs: one at a time, in the order of their start ---- */

/* Some callbacks of the API are called in a job: a call from inside one would wait for that very job. */
static _Thread_local bool in_job;

static void job_fn(void *arg)
{
    struct clawsync_engine *e = arg;

    in_job = true;
    e->jobs->run(e, e->jobs);
    in_job = false;
}

static void emit_notes(struct clawsync_engine *e)
{
    int n = e->nnotes;

    e->nnotes = 0;
    for (int i = 0; i < n; i++) {
        const struct cs_note *note = &e->notes[i];
        clawsync_event ev = { .type = note->type, .count = note->count, .total = note->total };

        ev.error.code = note->code;
        snprintf(ev.error.msg, sizeof ev.error.msg, "%s", note->msg);
        snprintf(ev.name, sizeof ev.name, "%s", note->name);
        cs_emit(e, &ev);
    }
}

static void job_next(struct clawsync_engine *e);

static void job_done(void *arg)
{
    struct clawsync_engine *e = arg;
    struct cs_job *j = e->jobs;

    e->jobs = j->next;
    if (e->jobs == NULL)
        e->last_job = NULL;
    e->job_running = false;
    emit_notes(e);
    j->done(e, j);
    job_next(e);
    if (e->schedule.closing)
        cs_schedule_wake(e, NULL, false);
}

static void job_next(struct clawsync_engine *e)
{
    struct cs_job *j = e->jobs;

    if (j == NULL || e->job_running)
        return;
    e->job_running = true;
    if (cs_loop_work(e->loop, job_fn, job_done, e) == CS_OK)
        return;
    job_fn(e); /* no worker to be had: slow beats stuck */
    job_done(e);
}

void cs_engine_job(struct clawsync_engine *e, struct cs_job *j)
{
    j->next = NULL;
    if (e->last_job != NULL)
        e->last_job->next = j;
    else
        e->jobs = j;
    e->last_job = j;
    if (!e->job_running && e->jobs == j)
        job_next(e);
}

/* ---- events ---- */

void cs_note(struct clawsync_engine *e, clawsync_event_type type, int code, const char *name, const char *fmt, ...)
{
    struct cs_note *note;
    va_list ap;

    if (e->nnotes == CS_MAX_NOTES) /* the first ones tell enough */
        return;
    note = &e->notes[e->nnotes++];
    *note = (struct cs_note){ .type = type, .code = code };
    snprintf(note->name, sizeof note->name, "%s", name);
    va_start(ap, fmt);
    vsnprintf(note->msg, sizeof note->msg, fmt, ap);
    va_end(ap);
}

void cs_note_progress(struct clawsync_engine *e, const char *name, uint64_t count, uint64_t total)
{
    int at = e->nnotes;

    cs_note(e, CLAWSYNC_EVENT_PROGRESS, 0, name, "%s", "");
    if (at < e->nnotes) {
        e->notes[at].count = count;
        e->notes[at].total = total;
    }
}

static void drop_gone(struct clawsync_engine *e)
{
    struct cs_subscriber **at = &e->subscribers, *s;

    while ((s = *at) != NULL) {
        if (!s->gone) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        free(s);
    }
}

void cs_emit(struct clawsync_engine *e, const clawsync_event *event)
{
    clawsync_event ev = *event;

    ev.at_ms = cs_now_ms(e->world);
    pthread_mutex_lock(&e->lock);
    e->emitting = true;
    for (struct cs_subscriber *s = e->subscribers; s != NULL; s = s->next) {
        if (s->gone)
            continue;
        pthread_mutex_unlock(&e->lock);
        s->fn(s->arg, &ev);
        pthread_mutex_lock(&e->lock);
    }
    e->emitting = false;
    drop_gone(e);
    pthread_cond_broadcast(&e->cond);
    pthread_mutex_unlock(&e->lock);
}

/* What opening found, to those who subscribed since. */
static void emit_warnings(struct clawsync_engine *e)
{
    clawsync_event ev = { .type = CLAWSYNC_EVENT_WARNING, .at_ms = cs_now_ms(e->world) };

    pthread_mutex_lock(&e->lock);
    e->emitting = true;
    for (struct cs_subscriber *s = e->subscribers; s != NULL; s = s->next) {
        if (s->told)
            continue;
        s->told = true;
        for (const struct cs_warning *w = e->warnings; w != NULL && !s->gone; w = w->next) {
            pthread_mutex_unlock(&e->lock);
            snprintf(ev.error.msg, sizeof ev.error.msg, "%s", w->text);
            s->fn(s->arg, &ev);
            pthread_mutex_lock(&e->lock);
        }
    }
    e->emitting = false;
    drop_gone(e);
    pthread_cond_broadcast(&e->cond);
    pthread_mutex_unlock(&e->lock);
}

void cs_emit_error(struct clawsync_engine *e, clawsync_event_type t, const char *name, const struct cs_error *err)
{
    clawsync_event ev = { .type = t };

    if (err != NULL) {
        ev.error.code = err->code;
        snprintf(ev.error.msg, sizeof ev.error.msg, "%s", err->msg);
    }
    snprintf(ev.name, sizeof ev.name, "%s", name);
    cs_emit(e, &ev);
}

int clawsync_engine_subscribe(clawsync_engine *e, clawsync_event_fn fn, void *arg, clawsync_error *err)
{
    struct cs_subscriber *s = fn == NULL ? NULL : calloc(1, sizeof *s), **at;
    int id;

    if (fn == NULL)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "a subscriber needs a function");
    if (s == NULL)
        return cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
    s->fn = fn;
    s->arg = arg;
    pthread_mutex_lock(&e->lock);
    id = s->id = ++e->next_id;
    for (at = &e->subscribers; *at != NULL; at = &(*at)->next)
        ;
    *at = s;
    pthread_mutex_unlock(&e->lock);
    if (e->warnings != NULL)
        cs_wake_send(e->wake);
    return id;
}

void clawsync_engine_unsubscribe(clawsync_engine *e, int id)
{
    bool inside = !e->has_thread || pthread_equal(pthread_self(), e->thread);

    pthread_mutex_lock(&e->lock);
    for (struct cs_subscriber *s = e->subscribers; s != NULL; s = s->next)
        if (s->id == id)
            s->gone = true;
    while (e->emitting && !inside)
        pthread_cond_wait(&e->cond, &e->lock);
    if (!e->emitting)
        drop_gone(e);
    pthread_mutex_unlock(&e->lock);
}

/* ---- commands ---- */

static void on_wake(void *arg)
{
    struct clawsync_engine *e = arg;
    struct cs_command *c;
    bool notified;

    pthread_mutex_lock(&e->lock);
    c = e->commands;
    e->commands = NULL;
    e->last_command = &e->commands;
    notified = e->notified;
    e->notified = false;
    pthread_mutex_unlock(&e->lock);
    emit_warnings(e);
    cs_schedule_wake(e, c, notified);
}

void cs_command_finish(struct clawsync_engine *e, struct cs_command *c, int rc, const struct cs_error *err)
{
    pthread_mutex_lock(&e->lock);
    c->rc = rc;
    if (rc != CS_OK)
        c->err = *err;
    c->finished = true;
    pthread_cond_broadcast(&e->cond);
    pthread_mutex_unlock(&e->lock);
    if (!e->has_thread)
        cs_loop_stop(e->loop); /* its caller runs it */
}

/* Under the lock. */
static void command_put(clawsync_engine *e, struct cs_command *c)
{
    *e->last_command = c;
    e->last_command = &c->next;
    cs_wake_send(e->wake);
}

void cs_engine_command_send(clawsync_engine *e, struct cs_command *c)
{
    pthread_mutex_lock(&e->lock);
    command_put(e, c);
    pthread_mutex_unlock(&e->lock);
}

static int being_closed(struct cs_error *err)
{
    return cs_fail(err, CS_ECANCELED, "the engine is being closed");
}

int cs_engine_command(clawsync_engine *e, struct cs_command *c, clawsync_error *err)
{
    if (in_job || (e->has_thread && pthread_equal(pthread_self(), e->thread)))
        return cs_fail((struct cs_error *)err, CS_EINVAL, "this call is not allowed inside a callback");
    pthread_mutex_lock(&e->lock);
    if (e->closed) {
        pthread_mutex_unlock(&e->lock);
        return being_closed((struct cs_error *)err);
    }
    e->callers++;
    command_put(e, c);
    pthread_mutex_unlock(&e->lock);
    while (!e->has_thread && !c->finished)
        cs_loop_run(e->loop);
    pthread_mutex_lock(&e->lock);
    while (!c->finished)
        pthread_cond_wait(&e->cond, &e->lock);
    e->callers--;
    pthread_cond_broadcast(&e->cond); /* whoever closes waits for it */
    pthread_mutex_unlock(&e->lock);
    if (c->rc != CS_OK && err != NULL)
        *(struct cs_error *)err = c->err;
    return c->rc;
}

static int simple(clawsync_engine *e, enum cs_command_kind kind, clawsync_stats *stats, clawsync_error *err)
{
    struct cs_command c = { .kind = kind };
    int rc = cs_engine_command(e, &c, err);

    if (stats != NULL)
        *stats = c.stats;
    return rc;
}

int clawsync_engine_start(clawsync_engine *e, clawsync_error *err)
{
    return simple(e, CS_CMD_START, NULL, err);
}
int clawsync_engine_stop(clawsync_engine *e, clawsync_error *err)
{
    return simple(e, CS_CMD_STOP, NULL, err);
}
int clawsync_engine_push_now(clawsync_engine *e, clawsync_stats *stats, clawsync_error *err)
{
    return simple(e, CS_CMD_PUSH, stats, err);
}
int clawsync_engine_pull_now(clawsync_engine *e, clawsync_stats *stats, clawsync_error *err)
{
    return simple(e, CS_CMD_PULL, stats, err);
}
int clawsync_engine_sync_now(clawsync_engine *e, clawsync_stats *stats, clawsync_error *err)
{
    return simple(e, CS_CMD_SYNC, stats, err);
}

int clawsync_engine_export_keys(clawsync_engine *e, const char *path, const char *passphrase, uint32_t expires_secs,
                                clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_STEPS,
                            .step = { cs_step_member, cs_step_export },
                            .path = path,
                            .passphrase = passphrase,
                            .expires_secs = expires_secs };

    if (path == NULL || passphrase == NULL || passphrase[0] == '\0')
        return cs_fail((struct cs_error *)err, CS_EINVAL, "an export needs a file name and a passphrase");
    return cs_engine_command(e, &c, err);
}

int clawsync_engine_import_keys(clawsync_engine *e, const char *path, const char *passphrase, clawsync_error *err)
{
    struct cs_command c = {
        .kind = CS_CMD_STEPS, .step = { cs_step_join }, .stopped = true, .path = path, .passphrase = passphrase
    };

    if (path == NULL || passphrase == NULL || passphrase[0] == '\0')
        return cs_fail((struct cs_error *)err, CS_EINVAL, "an import needs a file name and a passphrase");
    return cs_engine_command(e, &c, err);
}

void clawsync_engine_notify(clawsync_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->notified = true;
    pthread_mutex_unlock(&e->lock);
    cs_wake_send(e->wake);
}

int clawsync_engine_status(clawsync_engine *e, clawsync_status *out, clawsync_error *err)
{
    if (out == NULL || out->size != sizeof *out)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "set size to sizeof(clawsync_status)");
    pthread_mutex_lock(&e->lock);
    *out = e->status;
    pthread_mutex_unlock(&e->lock);
    return CLAWSYNC_OK;
}

/* ---- the thread ---- */

static void *thread_main(void *arg)
{
    struct clawsync_engine *e = arg;

    cs_loop_run(e->loop);
    return NULL;
}

/* ---- opening ---- */

static void warn(void *arg, const char *sentence)
{
    struct clawsync_engine *e = arg;
    struct cs_warning *w = cs_arena_zalloc(&e->strings, 1, sizeof *w);

    if (w == NULL || (w->text = cs_arena_str(&e->strings, sentence)) == NULL)
        return;
    *e->last_warning = w;
    e->last_warning = &w->next;
}

/* Without TLS whoever is on the way sees who talks when, and can cut it short; what is said they can neither read nor
 * change. */
static int check_transport(struct clawsync_engine *e, struct cs_error *err)
{
    bool plain = false;

    for (size_t i = 0; i < e->hubs.n; i++)
        plain = plain || (!e->hubs.of[i].tls && !cs_endpoint_is_local(&e->hubs.of[i]));
    if (!plain)
        return CS_OK;
    if (!e->config.allow_plaintext)
        return cs_fail(err, CS_EINVAL,
                       "%.200s is not on this machine and has no TLS; use https://, or set CLAW_ALLOW_PLAINTEXT=1",
                       e->config.hub_endpoint);
    warn(e, "the connection to the hub has no TLS: what is sent is encrypted, but who talks when is not hidden");
    return CS_OK;
}

void cs_open_warning(struct clawsync_engine *e, const char *sentence)
{
    warn(e, sentence);
}

/* Those of the configuration that are there by now. One that cannot be tracked does not keep the others from it. */
static int track_configured(struct clawsync_engine *e, const struct cs_track_options *o, struct cs_error *err)
{
    struct cs_arena a = { 0 };
    char *names = cs_arena_str(&a, e->config.tables), *name, *save = NULL;
    int rc = names == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;

    for (name = rc == CS_OK ? strtok_r(names, ",", &save) : NULL; name != NULL && rc == CS_OK;
         name = strtok_r(NULL, ",", &save)) {
        char *end = name + strlen(name);

        while (*name == ' ')
            name++;
        while (end > name && end[-1] == ' ')
            *--end = '\0';
        if (*name != '\0')
            rc = cs_replica_track(e->replica, name, o, err);
        if (rc == CS_ENOTFOUND || rc == CS_EINVAL) {
            o->warn(o->arg, err->msg);
            rc = CS_OK;
        }
    }
    cs_arena_free(&a);
    return rc;
}

/* Remembers for which schema it was done, once all of it is. */
static int track_tables(struct clawsync_engine *e, const struct cs_track_options *o, struct cs_error *err)
{
    int rc = cs_replica_track_defaults(e->replica, o, err);

    if (rc == CS_OK && e->config.tables != NULL)
        rc = track_configured(e, o, err);
    if (rc == CS_OK)
        e->tracked_schema = cs_replica_schema(e->replica);
    e->was_set_up = e->was_set_up || cs_replica_is_set_up(e->replica);
    return rc;
}

static int track_opening(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_track_options o = { .warn = warn, .arg = e };

    return track_tables(e, &o, err);
}

static void note_warning(void *arg, const char *sentence)
{
    cs_note(arg, CLAWSYNC_EVENT_WARNING, 0, "", "%s", sentence);
}

int cs_engine_follow_schema(struct clawsync_engine *e, struct cs_error *err)
{
    /* our own pausing and untracking change the schema too, and stand */
    const struct cs_track_options o = { .only_new = true, .warn = note_warning, .arg = e };
    bool changed;
    int rc = cs_replica_check_schema(e->replica, &changed, err);

    /* not `changed`: whoever sealed or applied in between noticed the schema before us, or we failed the last time */
    if (rc != CS_OK || e->beside || cs_replica_schema(e->replica) == e->tracked_schema ||
        (e->was_set_up && !cs_replica_is_set_up(e->replica)))
        return rc;
    return track_tables(e, &o, err);
}

static int find_db_dir(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_buf path = { 0 };
    char *dir, *slash;
    int rc = e->world->files.ops->realpath(e->world->files.self, e->config.db_path, &path, err);

    dir = rc != CS_OK || path.failed ? NULL : cs_arena_str(&e->strings, (const char *)path.data);
    cs_buf_free(&path);
    if (rc != CS_OK)
        return rc;
    if (dir == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    slash = strrchr(dir, '/');
    if (slash != NULL)
        slash[slash == dir ? 1 : 0] = '\0';
    e->db_dir = dir;
    return CS_OK;
}

static int open_replica(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_replica_options o = { .path = e->config.db_path,
                                    .load_extension = e->config.load_extension,
                                    .read_only = e->beside,
                                    .take_lease = !e->beside };

    return cs_replica_open(&e->replica, e->world, &o, err);
}

static void first_status(struct clawsync_engine *e)
{
    clawsync_status *st = &e->status;
    struct cs_pull_mark mark;

    cs_replica_pull_mark(e->replica, &mark);
    st->log_number = e->totals.last_sequence = mark.number;
    st->size = sizeof *st;
    snprintf(st->workspace_id, sizeof st->workspace_id, "%s", e->workspace_text);
    snprintf(st->device_id, sizeof st->device_id, "%s", e->device_text);
    snprintf(st->hub_endpoint, sizeof st->hub_endpoint, "%s", e->config.hub_endpoint);
    if (cs_replica_counts(e->replica, &e->schedule.counts, NULL) == CS_OK) {
        st->unsealed = e->schedule.counts.unsealed;
        st->unsent = e->schedule.counts.unsent;
        st->bound_batches = e->schedule.counts.bound;
        st->hidden_rows = e->schedule.counts.hidden;
        st->conflicts = e->schedule.counts.conflicts;
        st->manual_conflicts = e->schedule.counts.manual_conflicts;
        st->tracked_tables = e->schedule.counts.tracked;
        st->held_back = e->schedule.counts.held_back;
    }
}

static char *secret_copy(const char *text)
{
    size_t n = strlen(text) + 1;
    char *p = cs_secret_alloc(n);

    if (p != NULL)
        memcpy(p, text, n);
    return p;
}

/* From the configuration's own copy to guarded memory. */
static int keep_passphrase(struct clawsync_engine *e, struct cs_error *err)
{
    char *from = (char *)(uintptr_t)e->config.passphrase;

    if (from == NULL)
        return CS_OK;
    e->passphrase = secret_copy(from);
    cs_wipe(from, strlen(from));
    e->config.passphrase = NULL;
    return e->passphrase == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static int set_passphrase(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    char *old = e->passphrase;
    int rc;

    e->passphrase = arg;
    if ((rc = cs_self_save(e, err)) == CS_OK)
        cs_secret_free(old);
    else
        e->passphrase = old;
    return rc;
}

int clawsync_engine_set_passphrase(clawsync_engine *e, const char *passphrase, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_LOCAL, .local = set_passphrase };
    int rc;

    if (passphrase != NULL && passphrase[0] == '\0')
        return cs_fail((struct cs_error *)err, CS_EINVAL, "an empty passphrase protects nothing");
    if (passphrase != NULL && (c.arg = secret_copy(passphrase)) == NULL)
        return cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
    if ((rc = cs_engine_command(e, &c, err)) != CS_OK)
        cs_secret_free(c.arg);
    return rc;
}

static int open_self(struct clawsync_engine *e, const clawsync_config *c, struct cs_error *err)
{
    int rc;

    if ((rc = cs_crypto_init(err)) != CS_OK || (rc = cs_config_copy(&e->config, &e->strings, c, err)) != CS_OK ||
        (rc = cs_endpoints_parse(&e->hubs, e->config.hub_endpoint, err)) != CS_OK)
        return rc;
    for (size_t i = 0; i < e->hubs.n; i++)
        e->hubs.of[i].tls = e->hubs.of[i].tls || e->config.tls_enabled;
    if ((rc = keep_passphrase(e, err)) != CS_OK)
        return rc;
    cs_uuid_parse(&e->workspace, e->config.workspace_id);
    cs_uuid_text(e->workspace_text, &e->workspace);
    e->rng.world = e->world;
    return cs_self_open(e, err);
}

static int open_parts(struct clawsync_engine *e, const clawsync_config *c, struct cs_error *err)
{
    int rc;

    if ((rc = open_self(e, c, err)) != CS_OK || (rc = check_transport(e, err)) != CS_OK ||
        (rc = open_replica(e, err)) != CS_OK || (rc = find_db_dir(e, err)) != CS_OK ||
        (rc = e->beside ? cs_self_fits_database(e, err) : cs_self_save_first(e, err)) != CS_OK ||
        (!e->beside && (rc = cs_record_open(e, err)) != CS_OK) ||
        (!e->beside && (rc = cs_offline_open(e, err)) != CS_OK) || (rc = cs_engine_head_open(e, err)) != CS_OK ||
        (rc = cs_refill_open(e, err)) != CS_OK || (!e->beside && (rc = cs_checkpoint_open(e, err)) != CS_OK) ||
        (!e->beside && (rc = cs_asked_open(e, err)) != CS_OK) ||
        (!e->beside && ((rc = track_opening(e, err)) != CS_OK || (rc = cs_aside_open(e, err)) != CS_OK)) ||
        (rc = cs_packer_new(&e->packer, &e->rng, err)) != CS_OK ||
        (rc = cs_loop_new(e->world, &e->loop, err)) != CS_OK || (rc = cs_hub_session_init(e, err)) != CS_OK ||
        (rc = cs_schedule_open(e, err)) != CS_OK)
        return rc;
    if (cs_wake_new(e->loop, on_wake, e, &e->wake) != CS_OK)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    first_status(e);
    return CS_OK;
}

static int thread_start(struct clawsync_engine *e, struct cs_error *err)
{
    if (pthread_create(&e->thread, NULL, thread_main, e) != 0)
        return cs_fail(err, CS_ENOMEM, "no thread for the engine");
    e->has_thread = true;
    return CS_OK;
}

/* Also what a step holds in its midst: the engine's world may have died there. */
static void free_steps(struct clawsync_engine *e)
{
    cs_messages_free(&e->member.taken);
    cs_messages_free(&e->pull.taken);
    cs_messages_free(&e->push.taken);
    cs_messages_free(&e->push.out);
    cs_messages_free(&e->join.taken);
    cs_hub_call_free(&e->member.call);
    cs_buf_free(&e->member.entry);
    cs_arena_free(&e->member.arena);
    cs_hub_call_free(&e->pull.call);
    cs_arena_free(&e->pull.arena);
    cs_batch_free(&e->pull.batch);
    cs_aside_free(e);
    cs_hub_call_free(&e->push.call);
    cs_hub_call_free(&e->tell.call);
    cs_arena_free(&e->tell.arena);
    cs_arena_free(&e->push.arena);
    cs_batch_free(&e->push.batch);
    cs_buf_free(&e->push.stored);
    cs_hub_keys_unref(e->push.keys);
    e->push.keys = NULL;
    cs_hub_call_free(&e->join.call);
    cs_pair_step_free(e);
    cs_reconcile_step_free(e);
    cs_take_step_free(e);
    cs_compact_step_free(e);
    cs_arena_free(&e->join.arena);
    cs_buf_free(&e->join.entry);
    cs_hub_call_free(&e->append.call);
    cs_hub_call_free(&e->devices.call);
    cs_hub_call_free(&e->refill.call);
    cs_messages_free(&e->refill.taken);
    cs_buf_free(&e->refill.content);
    cs_messages_free(&e->devices.taken);
    cs_buf_free(&e->append.entry);
    cs_key_export_free(&e->join.export);
    cs_secret_free(e->join.opener);
}

void cs_engine_free(struct clawsync_engine *e)
{
    if (e == NULL)
        return;
    if (e->loop != NULL) {
        free_steps(e);
        cs_schedule_free(e);
        cs_failover_close(e);
        cs_hub_disconnect(e);
        cs_hub_session_fini(e);
        cs_wake_close(e->wake);
        cs_loop_free(e->loop);
    }
    cs_packer_free(e->packer);
    cs_record_close(e);
    cs_offline_close(e);
    cs_replica_close(e->replica);
    cs_secret_free(e->keys);
    cs_keystore_free(e->ks);
    cs_membership_free(&e->members);
    cs_buf_free(&e->member_log);
    cs_buf_free(&e->entry_hashes);
    while (e->subscribers != NULL) {
        struct cs_subscriber *s = e->subscribers;

        e->subscribers = s->next;
        free(s);
    }
    cs_secret_free(e->passphrase);
    if (e->config.passphrase != NULL)
        cs_wipe((char *)(uintptr_t)e->config.passphrase, strlen(e->config.passphrase));
    cs_arena_free(&e->strings);
    pthread_cond_destroy(&e->cond);
    pthread_mutex_destroy(&e->lock);
    cs_wipe(&e->rng, sizeof e->rng);
    free(e);
}

static struct clawsync_engine *engine_new(struct cs_world *world, bool beside)
{
    struct clawsync_engine *e = calloc(1, sizeof *e);

    if (e == NULL)
        return NULL;
    e->world = world;
    e->beside = beside;
    e->last_command = &e->commands;
    e->last_warning = &e->warnings;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->cond, NULL);
    return e;
}

/* As far as a new identity needs it. */
static int open_to_renew(struct clawsync_engine *e, const clawsync_config *c, size_t *lost, struct cs_error *err)
{
    int rc;

    if ((rc = cs_crypto_init(err)) != CS_OK || (rc = cs_config_copy(&e->config, &e->strings, c, err)) != CS_OK ||
        (rc = keep_passphrase(e, err)) != CS_OK)
        return rc;
    if (c->device_id != NULL && c->device_id[0] != '\0')
        return cs_fail(err, CS_EINVAL, "a new identity has a new id; leave device_id (CLAW_DEVICE_ID) out");
    cs_uuid_parse(&e->workspace, e->config.workspace_id);
    cs_uuid_text(e->workspace_text, &e->workspace);
    e->rng.world = e->world;
    e->renewing = true;
    if ((rc = cs_self_open(e, err)) != CS_OK || (rc = open_replica(e, err)) != CS_OK ||
        (rc = cs_packer_new(&e->packer, &e->rng, err)) != CS_OK)
        return rc;
    return cs_self_renew(e, lost, err);
}

int cs_engine_new_identity(struct cs_world *world, const clawsync_config *c, char device[CS_UUID_TEXT], size_t *lost,
                           char damaged[CS_DAMAGED_NAME], clawsync_error *error)
{
    struct clawsync_engine *e = engine_new(world, false);
    struct cs_error err = { 0 };
    int rc;

    *lost = 0;
    if (e == NULL)
        return cs_fail((struct cs_error *)error, CS_ENOMEM, "out of memory");
    rc = open_to_renew(e, c, lost, &err);
    snprintf(device, CS_UUID_TEXT, "%s", e->device_text);
    memcpy(damaged, e->damaged, CS_DAMAGED_NAME);
    cs_engine_free(e);
    if (error != NULL)
        *(struct cs_error *)error = err;
    return rc;
}

int cs_engine_open_self(clawsync_engine **out, const clawsync_config *c, struct cs_error *err)
{
    struct clawsync_engine *e = engine_new(cs_world_real(), true);
    int rc;

    *out = NULL;
    if (e == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if ((rc = open_self(e, c, err)) == CS_OK)
        *out = e;
    else
        cs_engine_free(e);
    return rc;
}

static int engine_open(clawsync_engine **out, struct cs_world *world, bool threaded, bool beside,
                       const clawsync_config *c, clawsync_error *error)
{
    struct cs_error err = { 0 };
    struct clawsync_engine *e = engine_new(world, beside);
    int rc;

    *out = NULL;
    if (e == NULL)
        return cs_fail((struct cs_error *)error, CS_ENOMEM, "out of memory");
    if ((rc = open_parts(e, c, &err)) == CS_OK && threaded)
        rc = thread_start(e, &err);
    if (rc == CS_OK)
        *out = e;
    else
        cs_engine_free(e);
    if (rc == CS_OK) /* what a table that is not there left behind */
        err = (struct cs_error){ 0 };
    if (error != NULL)
        *(struct cs_error *)error = err;
    return rc;
}

int clawsync_engine_open(clawsync_engine **out, const clawsync_config *c, clawsync_error *error)
{
    return engine_open(out, cs_world_real(), true, false, c, error);
}

int cs_engine_open_world(clawsync_engine **out, struct cs_world *world, const clawsync_config *c, clawsync_error *error)
{
    return engine_open(out, world, false, false, c, error);
}

int cs_engine_open_beside(clawsync_engine **out, const clawsync_config *c, clawsync_error *error)
{
    return engine_open(out, cs_world_real(), true, true, c, error);
}

int clawsync_engine_open_db(clawsync_engine **out, struct sqlite3 *db, const clawsync_config *c, clawsync_error *err)
{
    const char *path = sqlite3_db_filename(db, "main");
    clawsync_config with = *c;

    *out = NULL;
    if (path == NULL || path[0] == '\0')
        return cs_fail((struct cs_error *)err, CS_EINVAL,
                       "an in-memory or temporary database cannot be replicated; it needs a file");
    with.db_path = path;
    return clawsync_engine_open(out, &with, err);
}

int cs_engine_save_positions(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_pull_mark mark;

    if (e->ks->member_seq == 0 || e->recovering || e->beside) /* what it knows beyond the database is still wanted */
        return CS_OK;
    cs_replica_pull_mark(e->replica, &mark);
    e->ks->log_id = mark.log_id;
    e->ks->log_number = mark.number;
    memcpy(e->ks->log_hash, mark.log_hash, 32);
    cs_replica_chain(e->replica, &e->ks->own_number, e->ks->own_hash);
    return cs_self_save(e, err);
}

/* The loop runs no more. What other threads wait for will not come. */
static void callers_leave(clawsync_engine *e)
{
    struct cs_command *c, *lists[] = { e->schedule.waiting, e->commands };
    struct cs_error err;

    being_closed(&err);
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        while ((c = lists[i]) != NULL) {
            lists[i] = c->next; /* it is its caller's from then on */
            cs_command_finish(e, c, err.code, &err);
        }
    pthread_mutex_lock(&e->lock);
    while (e->callers > 0)
        pthread_cond_wait(&e->cond, &e->lock);
    pthread_mutex_unlock(&e->lock);
}

void clawsync_engine_close(clawsync_engine *e)
{
    struct cs_command c = { .kind = CS_CMD_CLOSE };

    if (e == NULL)
        return;
    pthread_mutex_lock(&e->lock);
    e->closed = true;
    command_put(e, &c);
    pthread_mutex_unlock(&e->lock);
    if (e->has_thread)
        pthread_join(e->thread, NULL);
    while (!e->has_thread && !cs_schedule_is_closed(e))
        cs_loop_run(e->loop);
    callers_leave(e);
    e->has_thread = false;
    if (cs_engine_save_positions(e, NULL) == CS_OK && e->ks->member_seq != 0 && !e->recovering && !e->beside)
        cs_checkpoint_save(e, &e->schedule.exchanged, NULL);
    cs_engine_free(e);
}

/* ---- tables ---- */

struct table_call {
    const char *table;
    int force;
    void (*warn)(void *arg, const char *sentence);
    void *arg;
    struct cs_arena arena;
    struct cs_table_info *info;
    size_t n;
};

static int local(clawsync_engine *e, int (*fn)(struct clawsync_engine *, void *, struct cs_error *),
                 struct table_call *t, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_LOCAL, .local = fn, .arg = t };

    return cs_engine_command(e, &c, err);
}

static int do_tables(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    struct table_call *t = arg;

    return cs_replica_tables(e->replica, &t->arena, &t->info, &t->n, err);
}

static int do_track(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    struct table_call *t = arg;
    struct cs_track_options o = { .force_rowid_key = t->force != 0, .warn = t->warn, .arg = t->arg };

    return cs_replica_track(e->replica, t->table, &o, err);
}

static int do_untrack(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    return cs_replica_untrack(e->replica, ((struct table_call *)arg)->table, err);
}
static int do_pause(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    return cs_replica_pause(e->replica, ((struct table_call *)arg)->table, err);
}
static int do_resume(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    return cs_replica_resume(e->replica, ((struct table_call *)arg)->table, err);
}

int clawsync_engine_tables(clawsync_engine *e, void (*fn)(void *arg, const clawsync_table *t), void *arg,
                           clawsync_error *err)
{
    struct table_call t = { 0 };
    int rc = local(e, do_tables, &t, err);

    for (size_t i = 0; rc == CS_OK && i < t.n; i++) {
        clawsync_table table = { .name = t.info[i].name,
                                 .state = (int)t.info[i].state,
                                 .rows = t.info[i].rows,
                                 .unsealed = t.info[i].unsealed,
                                 .hidden = t.info[i].hidden,
                                 .backfilling = t.info[i].backfilling,
                                 .problem = t.info[i].problem };
        fn(arg, &table);
    }
    cs_arena_free(&t.arena);
    return rc;
}

int clawsync_engine_track(clawsync_engine *e, const char *table, int force,
                          void (*warn_fn)(void *arg, const char *sentence), void *arg, clawsync_error *err)
{
    struct table_call t = { .table = table, .force = force, .warn = warn_fn, .arg = arg };

    return local(e, do_track, &t, err);
}
int clawsync_engine_untrack(clawsync_engine *e, const char *table, clawsync_error *err)
{
    struct table_call t = { .table = table };

    return local(e, do_untrack, &t, err);
}
int clawsync_engine_pause(clawsync_engine *e, const char *table, clawsync_error *err)
{
    struct table_call t = { .table = table };

    return local(e, do_pause, &t, err);
}
int clawsync_engine_resume(clawsync_engine *e, const char *table, clawsync_error *err)
{
    struct table_call t = { .table = table };

    return local(e, do_resume, &t, err);
}
