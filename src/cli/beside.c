/* Beside a running daemon: what wants the whole engine is done by the one that has it. */
#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "cli/cli.h"
#include "engine/engine.h"

enum { LOOK_MS = 50, TAKEN_MS = 15000 };

static int not_done(int64_t holder, enum cs_ask_kind what, struct cs_error *err)
{
    if (holder == 0)
        return cs_fail(err, CS_EBUSY, "the claw-sync that ran here ended meanwhile; try again");
    return cs_fail(
        err, CS_EBUSY, "process %" PRId64 " replicates this database and does not answer; stop it for this command%s",
        holder,
        what == CS_ASK_RECONCILE || what == CS_ASK_PROVE ? ", or run it on another device, which has this one take part"
                                                         : "");
}

static int ask(struct cs_cli *c, cs_replica *r, enum cs_ask_kind what, struct cs_reconcile_result *out,
               struct cs_error *err)
{
    static const struct timespec pause = { 0, LOOK_MS * 1000000L };
    uint64_t nonce = cs_monotonic_ns(c->world), waited = 0;
    enum cs_ask_state state;
    int64_t holder = 0;
    int rc;

    while ((rc = cs_ask_state(r, nonce, &state, out, err)) == CS_OK && state != CS_ASK_ANSWERED) {
        if (state == CS_ASK_NONE)
            rc = cs_ask(r, nonce, cs_now_ms(c->world), what, CS_CLI_WAIT_MS, err);
        if (rc != CS_OK || (rc = cs_replica_holder(r, &holder, err)) != CS_OK)
            return rc;
        waited = state == CS_ASK_TAKEN ? 0 : waited + LOOK_MS;
        if (holder == 0 || waited > TAKEN_MS)
            return (rc = cs_ask_withdraw(r, err)) != CS_OK ? rc : not_done(holder, what, err);
        nanosleep(&pause, NULL);
    }
    return rc;
}

int cs_cli_ask(struct cs_cli *c, unsigned what, struct cs_reconcile_result **out, clawsync_error *err)
{
    cs_replica *r = NULL;
    int rc;

    if ((*out = calloc(1, sizeof **out)) == NULL)
        return cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
    rc = cs_cli_open_replica(c, false, NULL, &r, err);
    if (rc == CS_OK)
        rc = ask(c, r, (enum cs_ask_kind)what, *out, (struct cs_error *)err);
    cs_replica_close(r);
    return rc;
}
