/* A hub that is not what it was: restored, emptied, or with another key. */
#include <stdio.h>

#include "cli/cli.h"

static void on_event(void *progress, const clawsync_event *e)
{
    const struct cs_cli_progress *p = progress;

    if (e->type == CLAWSYNC_EVENT_WARNING)
        cs_cli_warn((void *)(uintptr_t)p->cli, e->error.msg);
    cs_cli_progress_event(progress, e);
}

int cs_cmd_hub_refill(struct cs_cli *c)
{
    struct cs_cli_progress progress = { .cli = c };
    clawsync_engine *e = NULL;
    clawsync_error err;
    int needed = 0, rc = cs_cli_open(c, &e, &err);

    if (rc == CLAWSYNC_OK && (rc = clawsync_engine_subscribe(e, on_event, &progress, &err)) > 0)
        rc = clawsync_engine_refill_hub(e, &needed, &err);
    clawsync_engine_close(e);
    cs_cli_progress_end(&progress);
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:b}", "refilled", needed));
    cs_cli_say(c, needed ? "the hub has a new log with all that this device had; the other devices follow by themselves"
                         : "the hub has all that it had; there was nothing to do");
    return CS_EXIT_DONE;
}

int cs_cmd_hub_accept(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    char fingerprint[24];
    clawsync_error err;
    int rc = cs_cli_open(c, &e, &err);

    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_accept_hub(e, c->nargs > 0 ? c->args[0] : NULL, fingerprint, &err);
    clawsync_engine_close(e);
    if (rc == CLAWSYNC_EEXIST)
        err.code = CLAWSYNC_EINVAL;
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:s}", "accepted", fingerprint));
    cs_cli_say(c, "the hub's key is %s from now on; go on with: claw-sync sync", fingerprint);
    return CS_EXIT_DONE;
}
