#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#include "base/service_manager.h"
#include "cli/cli.h"

static const char *const event_names[] = {
    [CLAWSYNC_EVENT_PUSH_COMPLETED] = "push-completed",
    [CLAWSYNC_EVENT_PULL_COMPLETED] = "pull-completed",
    [CLAWSYNC_EVENT_CONFLICT_DETECTED] = "conflict-detected",
    [CLAWSYNC_EVENT_OFFLINE_QUEUED] = "offline-queued",
    [CLAWSYNC_EVENT_SYNC_ERROR] = "sync-error",
    [CLAWSYNC_EVENT_CONNECTED] = "connected",
    [CLAWSYNC_EVENT_DISCONNECTED] = "disconnected",
    [CLAWSYNC_EVENT_RECONCILE_COMPLETED] = "reconcile-completed",
    [CLAWSYNC_EVENT_WORKSPACE_CREATED] = "workspace-created",
    [CLAWSYNC_EVENT_PROGRESS] = "progress",
    [CLAWSYNC_EVENT_WARNING] = "warning",
};

static void print_line(const struct cs_cli *c, const clawsync_event *e)
{
    switch (e->type) {
    case CLAWSYNC_EVENT_PUSH_COMPLETED:
        if (e->stats.operations_pushed > 0)
            cs_cli_say(c, "pushed=%" PRIu64, e->stats.operations_pushed);
        break;
    case CLAWSYNC_EVENT_PULL_COMPLETED:
        if (e->stats.operations_pulled > 0)
            cs_cli_say(c, "pulled=%" PRIu64, e->stats.operations_pulled);
        break;
    case CLAWSYNC_EVENT_CONFLICT_DETECTED:
        cs_cli_say(c, "conflict: %s", e->error.msg);
        break;
    case CLAWSYNC_EVENT_OFFLINE_QUEUED:
        cs_cli_say(c, "offline, queued=%" PRIu64, e->count);
        break;
    case CLAWSYNC_EVENT_CONNECTED:
        cs_cli_say(c, "connected to %s", c->config.hub_endpoint);
        break;
    case CLAWSYNC_EVENT_WORKSPACE_CREATED:
        cs_cli_say(c, "created a new workspace; invite other devices with: claw-sync invite");
        break;
    case CLAWSYNC_EVENT_DISCONNECTED:
    case CLAWSYNC_EVENT_SYNC_ERROR:
        fprintf(stderr, "claw-sync: %s%s\n", e->error.msg, cs_cli_advice(&e->error));
        break;
    case CLAWSYNC_EVENT_WARNING:
        cs_cli_warn((void *)(uintptr_t)c, e->error.msg);
        break;
    case CLAWSYNC_EVENT_RECONCILE_COMPLETED:
    case CLAWSYNC_EVENT_PROGRESS:
        break;
    }
}

static void print_json(const clawsync_event *e)
{
    json_t *o = json_pack("{s:s, s:I}", "event", event_names[e->type], "at_ms", (json_int_t)e->at_ms);

    if (e->type == CLAWSYNC_EVENT_PUSH_COMPLETED)
        json_object_set_new(o, "pushed", json_integer((json_int_t)e->stats.operations_pushed));
    else if (e->type == CLAWSYNC_EVENT_PULL_COMPLETED)
        json_object_set_new(o, "pulled", json_integer((json_int_t)e->stats.operations_pulled));
    else if (e->type == CLAWSYNC_EVENT_SYNC_ERROR || e->type == CLAWSYNC_EVENT_DISCONNECTED)
        json_object_set_new(o, "error",
                            json_pack("{s:s, s:s, s:s}", "code", clawsync_code_name(e->error.code), "name", e->name,
                                      "message", e->error.msg));
    else if (e->type == CLAWSYNC_EVENT_CONFLICT_DETECTED)
        json_object_update_new(o, json_pack("{s:s, s:s}", "id", e->name, "message", e->error.msg));
    else if (e->type == CLAWSYNC_EVENT_WARNING)
        json_object_set_new(o, "message", json_string(e->error.msg));
    else if (e->type == CLAWSYNC_EVENT_PROGRESS)
        json_object_update_new(o, json_pack("{s:s, s:I, s:I}", "name", e->name, "count", (json_int_t)e->count, "total",
                                            (json_int_t)e->total));
    else if (e->count != 0 || e->total != 0)
        json_object_set_new(o, "count", json_integer((json_int_t)e->count));
    cs_cli_json(o);
}

static void on_event(void *arg, const clawsync_event *e)
{
    struct cs_cli_progress *p = arg;

    cs_cli_progress_event(p, e);
    if (e->type != CLAWSYNC_EVENT_PROGRESS)
        cs_cli_progress_end(p);
    if (p->cli->json)
        print_json(e);
    else
        print_line(p->cli, e);
}

int cs_cmd_run(struct cs_cli *c)
{
    struct cs_cli_progress progress = { .cli = c };
    clawsync_engine *e = NULL;
    clawsync_error err;
    sigset_t set;
    int rc, signum;

    /* Blocked before the engine makes its threads, so that they inherit it and sigwait alone receives them. */
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    if ((rc = cs_cli_open(c, &e, &err)) == CLAWSYNC_OK &&
        (rc = clawsync_engine_subscribe(e, on_event, &progress, &err)) > 0 &&
        (rc = clawsync_engine_start(e, &err)) == CLAWSYNC_OK) {
        cs_cli_say(c, "replicating %s", c->config.db_path);
        cs_service_notify("READY=1");
        c->only_news = true;
        sigwait(&set, &signum);
        cs_service_notify("STOPPING=1");
    }
    clawsync_engine_close(e);
    cs_cli_progress_end(&progress);
    return rc == CLAWSYNC_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}
