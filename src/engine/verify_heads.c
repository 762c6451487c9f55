/* The short code over what this device has seen of the log and the membership: two people whose codes are equal were
 * shown the same by the hub. */
#include <inttypes.h>
#include <stdio.h>

#include "engine/engine.h"
#include "identity/code.h"

enum { CODE_BYTES = 5 };

/* Of the first 40 bits, in fours. */
static int code_text(const uint8_t hash[32], char out[10], struct cs_error *err)
{
    struct cs_buf text = { 0 };

    cs_base32(&text, cs_slice(hash, CODE_BYTES));
    if (text.failed || text.len != 8) {
        cs_buf_free(&text);
        return cs_fail(err, CS_ENOMEM, "out of memory");
    }
    snprintf(out, 10, "%.4s-%.4s", (const char *)text.data, (const char *)text.data + 4);
    cs_buf_free(&text);
    return CS_OK;
}

static int heads_run(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    clawsync_heads *h = arg;
    uint8_t m[16 + 8 + 8 + 32 + 4 + 32], hash[32];
    struct cs_pull_mark mark;
    const uint8_t *entry;
    int rc;

    cs_replica_pull_mark(e->replica, &mark);
    if (h->number == 0)
        h->number = mark.number;
    if (h->member_seq == 0)
        h->member_seq = e->members.seq;
    if (h->number == 0 || e->members.seq == 0)
        return cs_fail(err, CS_ENOTFOUND,
                       "there is nothing to compare yet: this device has read nothing of the log; "
                       "run: claw-sync sync");
    if (h->number > mark.number || h->member_seq > e->members.seq)
        return cs_fail(err, CS_ENOTFOUND,
                       "this device has read the log up to %" PRIu64 " and the membership up to %" PRIu32
                       "; run: claw-sync sync",
                       mark.number, e->members.seq);
    h->log_id = mark.log_id;
    memcpy(m, e->workspace.b, 16);
    cs_store_u64(m + 16, mark.log_id);
    cs_store_u64(m + 24, h->number);
    if ((rc = cs_log_hash_at(e, &mark, h->number, m + 32, err)) == CS_ENOTFOUND)
        return cs_fail(err, CS_ENOTFOUND, "number %" PRIu64 " is too long ago: the last 65,536 are known", h->number);
    if (rc != CS_OK)
        return rc;
    if ((entry = cs_entry_hash_at(e, h->member_seq)) == NULL)
        return cs_fail(err, CS_ENOTFOUND, "there is no membership entry %" PRIu32, h->member_seq);
    cs_store_u32(m + 64, h->member_seq);
    memcpy(m + 68, entry, 32);
    cs_hash_label("verify heads", cs_slice(m, sizeof m), hash);
    return code_text(hash, h->code, err);
}

int clawsync_engine_verify_heads(clawsync_engine *e, clawsync_heads *heads, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_LOCAL, .local = heads_run, .arg = heads };

    return cs_engine_command(e, &c, err);
}
