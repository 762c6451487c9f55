/* `claw-sync compact`. */
#include <inttypes.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "engine/engine.h"

static int beside(struct cs_cli *c, clawsync_compacted *out, clawsync_error *err)
{
    struct cs_reconcile_result *s = NULL;
    int rc = cs_cli_ask(c, CS_ASK_COMPACT, &s, err);

    if (rc == CS_OK)
        *out = s->compacted;
    free(s);
    return rc;
}

static void on_event(void *arg, const clawsync_event *e)
{
    cs_cli_progress_event(arg, e);
}

static void say(const struct cs_cli *c, const clawsync_compacted *r)
{
    if (r->parts > 0)
        cs_cli_say(c, "gave a snapshot of number %" PRIu64 " of the log: %" PRIu64 " rows, %" PRIu64 " bytes",
                   r->log_number, r->rows, r->bytes);
    else if (r->log_number > 0)
        cs_cli_say(c, "attested another device's snapshot of number %" PRIu64 ": %" PRIu64 " rows", r->log_number,
                   r->rows);
    else
        cs_cli_say(c, "there is nothing to do");
    if (r->served_number > 0)
        cs_cli_say(c, "new devices begin with the snapshot of number %" PRIu64, r->served_number);
    if (r->parts > 0 && !r->attested && r->served_number < r->log_number)
        cs_cli_say(c, "it waits for another device to attest it: claw-sync compact there, or its daemon");
    if (r->pruned_number > 0)
        cs_cli_say(c, "the hub's log has nothing up to number %" PRIu64 " any more", r->pruned_number);
}

int cs_cmd_compact(struct cs_cli *c)
{
    struct cs_cli_progress progress = { .cli = c };
    clawsync_compacted r = { 0 };
    clawsync_engine *e = NULL;
    clawsync_error err;
    int rc = cs_cli_open(c, &e, &err);

    if (rc == CLAWSYNC_EBUSY)
        rc = beside(c, &r, &err);
    else if (rc == CLAWSYNC_OK && (rc = clawsync_engine_subscribe(e, on_event, &progress, &err)) > 0)
        rc = clawsync_engine_compact(e, &r, &err);
    clawsync_engine_close(e);
    cs_cli_progress_end(&progress);
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    say(c, &r);
    if (c->json)
        cs_cli_json(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "log_number", (json_int_t)r.log_number, "rows",
                              (json_int_t)r.rows, "parts", (json_int_t)r.parts, "bytes", (json_int_t)r.bytes,
                              "served_number", (json_int_t)r.served_number, "pruned_number",
                              (json_int_t)r.pruned_number, "attested", (int)r.attested));
    return CS_EXIT_DONE;
}
