#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "engine/engine.h"

typedef int (*round_fn)(clawsync_engine *e, clawsync_stats *stats, clawsync_error *err);

/* Says on the way what a user must hear: that a new workspace began, that something is wrong. */
struct listener {
    struct cs_cli *cli;
    struct cs_cli_progress progress;
    bool created;
    bool found; /* what the hub or a member gave was not in order, and was set aside */
};

static void on_event(void *arg, const clawsync_event *e)
{
    struct listener *l = arg;

    cs_cli_progress_event(&l->progress, e);
    if (e->type == CLAWSYNC_EVENT_SYNC_ERROR && e->name[0] != '\0' && e->error.code == CLAWSYNC_ECORRUPT)
        l->found = true;
    if (e->type == CLAWSYNC_EVENT_WORKSPACE_CREATED)
        l->created = true;
    else if (e->type == CLAWSYNC_EVENT_WARNING || (e->type == CLAWSYNC_EVENT_SYNC_ERROR && e->name[0] != '\0'))
        cs_cli_warn(l->cli, e->error.msg);
    else if (e->type == CLAWSYNC_EVENT_CONFLICT_DETECTED)
        cs_cli_warn(l->cli, e->error.msg);
}

static void print_stats(const struct cs_cli *c, const clawsync_stats *s, bool created)
{
    if (c->json) {
        cs_cli_json(json_pack(
            "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "pushed", (json_int_t)s->operations_pushed,
            "pulled", (json_int_t)s->operations_pulled, "deltas_pushed", (json_int_t)s->deltas_pushed, "deltas_pulled",
            (json_int_t)s->deltas_pulled, "chunks_pushed", (json_int_t)s->chunks_pushed, "chunks_pulled",
            (json_int_t)s->chunks_pulled, "bytes_pushed", (json_int_t)s->bytes_pushed, "bytes_pulled",
            (json_int_t)s->bytes_pulled, "log_number", (json_int_t)s->last_sequence, "retries", (json_int_t)s->retries,
            "workspace_created", (int)created));
        return;
    }
    if (created)
        cs_cli_say(c, "created a new workspace; invite other devices with: claw-sync invite");
    cs_cli_say(c, "pushed=%" PRIu64 ", pulled=%" PRIu64, s->operations_pushed, s->operations_pulled);
}

/* "…; changes stay queued (12 changes)": of one row there may be many */
static void count_queued(clawsync_engine *e, clawsync_error *err)
{
    static const char ending[] = "; changes stay queued";
    clawsync_status st = { .size = sizeof st };
    size_t n = strlen(err->msg), at = sizeof ending - 1;
    int64_t changes;

    if (n < at || strcmp(err->msg + n - at, ending) != 0 || clawsync_engine_status(e, &st, NULL) != CLAWSYNC_OK)
        return;
    changes = st.unsealed + st.unsent;
    n += (size_t)snprintf(err->msg + n, sizeof err->msg - n, " (%" PRId64 " change%s", changes, cs_cli_s(changes));
    if (st.bound_batches > 0 && n < sizeof err->msg)
        n += (size_t)snprintf(err->msg + n, sizeof err->msg - n, ", %" PRId64 " batch%s in flight", st.bound_batches,
                              cs_cli_es(st.bound_batches));
    if (n < sizeof err->msg)
        snprintf(err->msg + n, sizeof err->msg - n, ")");
}

static int beside(struct cs_cli *c, enum cs_ask_kind what, clawsync_stats *stats, clawsync_error *err)
{
    struct cs_reconcile_result *answer = NULL;
    int rc = cs_cli_ask(c, what, &answer, err);

    if (rc == CS_OK)
        *stats = answer->stats;
    free(answer);
    return rc;
}

/* The round went well and yet was not all: what it left out is told, as the exit code says nothing of it. */
static void warn_held_back(struct cs_cli *c)
{
    struct cs_replica_counts n = { 0 };
    cs_replica *r = NULL;
    clawsync_error ignored;
    char text[160];

    if (cs_cli_open_replica(c, true, NULL, &r, &ignored) == CS_OK)
        cs_replica_counts(r, &n, (struct cs_error *)&ignored);
    cs_replica_close(r);
    if (n.held_back == 0)
        return;
    snprintf(text, sizeof text,
             "%" PRId64
             " row%s cannot be sent: above 16 MiB, or NULL in the key; make them smaller, or give them a key",
             n.held_back, cs_cli_s(n.held_back));
    cs_cli_warn(c, text);
}

static int one_round(struct cs_cli *c, round_fn round, enum cs_ask_kind what)
{
    struct listener l = { .cli = c, .progress = { .cli = c } };
    clawsync_engine *e = NULL;
    clawsync_stats stats = { 0 };
    clawsync_error err;
    int rc = cs_cli_open(c, &e, &err);

    if (rc == CLAWSYNC_EBUSY)
        rc = beside(c, what, &stats, &err);
    else if (rc == CLAWSYNC_OK && (rc = clawsync_engine_subscribe(e, on_event, &l, &err)) > 0)
        rc = round(e, &stats, &err);
    if (rc != CLAWSYNC_OK && e != NULL)
        count_queued(e, &err);
    clawsync_engine_close(e);
    cs_cli_progress_end(&l.progress);
    if (rc == CLAWSYNC_OK && what != CS_ASK_PULL)
        warn_held_back(c);
    if (rc != CLAWSYNC_OK)
        rc = cs_cli_fail(c, &err);
    else
        print_stats(c, &stats, l.created);
    return l.found ? CS_EXIT_HUB : rc;
}

int cs_cmd_sync(struct cs_cli *c)
{
    return one_round(c, clawsync_engine_sync_now, CS_ASK_SYNC);
}

int cs_cmd_push(struct cs_cli *c)
{
    return one_round(c, clawsync_engine_push_now, CS_ASK_PUSH);
}

int cs_cmd_pull(struct cs_cli *c)
{
    return one_round(c, clawsync_engine_pull_now, CS_ASK_PULL);
}
