/* The calls about reconciling. */
#include "engine/engine.h"

void cs_reconcile_tell(const struct cs_reconcile_result *s, void (*fn)(void *arg, const clawsync_proof *p), void *arg)
{
    for (size_t i = 0; i < s->nproofs; i++) {
        const struct cs_proof_row *row = &s->proofs[i];
        char id[CS_UUID_TEXT];
        clawsync_proof p = { .device_id = id,
                             .name = row->name,
                             .state = row->state,
                             .log_number = row->number,
                             .rows = row->rows,
                             .root = row->root,
                             .signed_ms = row->time_ms,
                             .connected = row->connected };

        cs_uuid_text(id, &row->id);
        fn(arg, &p);
    }
}

static int reconcile(clawsync_engine *e, bool prove, uint32_t wait_ms, clawsync_reconciled *out,
                     void (*fn)(void *arg, const clawsync_proof *p), void *arg, clawsync_error *err)
{
    struct cs_reconcile_wish wish = { .prove = prove, .wait_ms = wait_ms };
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { cs_step_reconcile }, .arg = &wish };
    int rc = cs_engine_command(e, &c, err);

    if (out != NULL)
        *out = wish.result.report;
    if (rc == CS_OK && fn != NULL)
        cs_reconcile_tell(&wish.result, fn, arg);
    return rc;
}

int clawsync_engine_reconcile(clawsync_engine *e, uint32_t wait_ms, clawsync_reconciled *out,
                              void (*fn)(void *arg, const clawsync_proof *p), void *arg, clawsync_error *err)
{
    return reconcile(e, false, wait_ms, out, fn, arg, err);
}

int clawsync_engine_prove(clawsync_engine *e, uint32_t wait_ms, clawsync_reconciled *out,
                          void (*fn)(void *arg, const clawsync_proof *p), void *arg, clawsync_error *err)
{
    return reconcile(e, true, wait_ms, out, fn, arg, err);
}
