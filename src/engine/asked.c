/* Rounds and reconciling for a command that is typed while the engine runs (docs/decisions/0005: there is no way
 * between the two but the database). The command writes down what it asks for; the engine finds that as it finds any
 * commit, and writes down what came of it. asked = nonce u64 ‖ time i64 ‖ what u8 ‖ wait_ms u32 answer = nonce u64 ‖
 * code u32 ‖ message ‖ numbers u64 … ‖ texts ‖ count u32 ‖ devices; a text is u16 n ‖ bytes */
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

enum { ASKED_LEN = 8 + 8 + 1 + 4, STALE_MS = 60000 };
static const char asked_name[] = "engine.asked", taken_name[] = "engine.taken", answer_name[] = "engine.answer";

/* ---- what is written down ---- */

static void put_text(struct cs_buf *b, const char *text)
{
    size_t n = strlen(text);

    cs_buf_put_u16(b, (uint16_t)n);
    cs_buf_put(b, text, n);
}

static void read_text(struct cs_reader *r, char *out, size_t cap)
{
    struct cs_slice s = cs_read_bytes(r, cs_read_u16(r));

    out[0] = '\0';
    if (r->bad || s.len >= cap) {
        r->bad = true;
        return;
    }
    memcpy(out, s.data, s.len);
    out[s.len] = '\0';
}

#define NUMBERS(X)                                                                                                     \
    X(log_number)                                                                                                      \
    X(rows)                                                                                                            \
    X(missing_here) X(missing_there) X(conflicting) X(sealed) X(published) X(rounds) X(bytes_sent) X(bytes_received)
#define COUNTS(X) X(equal) X(differing) X(behind) X(offline)
#define STATS(X)                                                                                                       \
    X(deltas_pushed)                                                                                                   \
    X(deltas_pulled)                                                                                                   \
    X(operations_pushed)                                                                                               \
    X(operations_pulled)                                                                                               \
    X(chunks_pushed) X(chunks_pulled) X(bytes_pushed) X(bytes_pulled) X(last_sequence) X(retries)

#define COMPACTED(X) X(log_number) X(rows) X(parts) X(bytes) X(served_number) X(pruned_number) X(attested)

static void put_result(struct cs_buf *b, const struct cs_reconcile_result *s)
{
    const clawsync_reconciled *r = &s->report;

#define PUT(name) cs_buf_put_u64(b, r->name);
    NUMBERS(PUT)
    COUNTS(PUT)
#undef PUT
#define PUT(name) cs_buf_put_u64(b, s->stats.name);
    STATS(PUT)
#undef PUT
#define PUT(name) cs_buf_put_u64(b, s->compacted.name);
    COMPACTED(PUT)
#undef PUT
    put_text(b, r->root);
    put_text(b, r->first_table);
    put_text(b, r->first_key);
    cs_buf_put_u32(b, (uint32_t)s->nproofs);
    for (size_t i = 0; i < s->nproofs; i++) {
        const struct cs_proof_row *p = &s->proofs[i];

        cs_buf_put(b, p->id.b, sizeof p->id.b);
        cs_buf_put_u8(b, (uint8_t)p->state);
        cs_buf_put_u64(b, p->number);
        cs_buf_put_u64(b, p->rows);
        cs_buf_put_u64(b, (uint64_t)p->time_ms);
        cs_buf_put_u8(b, p->connected);
        put_text(b, p->name);
        put_text(b, p->root);
    }
}

static void read_result(struct cs_reader *in, struct cs_reconcile_result *s)
{
    clawsync_reconciled *r = &s->report;

#define READ(name) r->name = cs_read_u64(in);
    NUMBERS(READ)
#undef READ
#define READ(name) r->name = (uint32_t)cs_read_u64(in);
    COUNTS(READ)
#undef READ
#define READ(name) s->stats.name = cs_read_u64(in);
    STATS(READ)
#undef READ
#define READ(name) s->compacted.name = (__typeof__(s->compacted.name))cs_read_u64(in);
    COMPACTED(READ)
#undef READ
    read_text(in, r->root, sizeof r->root);
    read_text(in, r->first_table, sizeof r->first_table);
    read_text(in, r->first_key, sizeof r->first_key);
    s->nproofs = cs_read_u32(in);
    in->bad = in->bad || s->nproofs > CS_PROOFS_MAX;
    for (size_t i = 0; i < s->nproofs && !in->bad; i++) {
        struct cs_proof_row *p = &s->proofs[i];

        cs_read_into(in, p->id.b, sizeof p->id.b);
        p->state = (clawsync_proof_state)cs_read_u8(in);
        p->number = cs_read_u64(in);
        p->rows = cs_read_u64(in);
        p->time_ms = (int64_t)cs_read_u64(in);
        p->connected = cs_read_u8(in) != 0;
        read_text(in, p->name, sizeof p->name);
        read_text(in, p->root, sizeof p->root);
    }
}

/* ---- the engine ---- */

int cs_asked_open(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = cs_replica_meta_get(e->replica, taken_name, &b, err);

    cs_buf_free(&b);
    if (rc != CS_OK) /* as always: nothing is written for nothing */
        return rc == CS_ENOTFOUND ? CS_OK : rc;
    return cs_replica_meta_drop(e->replica, taken_name, err); /* whoever did it is no more */
}

int cs_asked_look(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_asked *a = &e->schedule.asked;
    struct cs_buf b = { 0 };
    struct cs_reader r;
    uint8_t taken[8];
    int64_t at;
    int rc;

    if (a->found || a->running) /* one after the other */
        return CS_OK;
    if ((rc = cs_replica_meta_get(e->replica, asked_name, &b, err)) == CS_ENOTFOUND)
        return CS_OK;
    r = cs_reader(cs_buf_slice(&b));
    a->nonce = cs_read_u64(&r);
    at = (int64_t)cs_read_u64(&r);
    a->what = cs_read_u8(&r);
    a->wish.wait_ms = cs_read_u32(&r);
    cs_store_u64(taken, a->nonce);
    if (rc == CS_OK &&
        (rc = cs_replica_meta_set(e->replica, taken_name, cs_slice(taken, sizeof taken), err)) == CS_OK &&
        (rc = cs_replica_meta_drop(e->replica, asked_name, err)) == CS_OK)
        a->found = !r.bad && b.len == ASKED_LEN && a->what < CS_ASK_KINDS && cs_now_ms(e->world) - at < STALE_MS;
    cs_buf_free(&b);
    return rc;
}

static void answer_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_asked *a = &e->schedule.asked;
    struct cs_buf b = { 0 };

    cs_buf_put_u64(&b, a->nonce);
    cs_buf_put_u32(&b, (uint32_t)a->command.rc);
    put_text(&b, a->command.rc == CS_OK ? "" : a->command.err.msg);
    a->wish.result.stats = a->command.stats;
    a->wish.result.compacted = a->compact.result;
    put_result(&b, &a->wish.result);
    j->rc = b.failed ? cs_fail(&j->err, CS_ENOMEM, "out of memory")
                     : cs_replica_meta_set(e->replica, answer_name, cs_buf_slice(&b), &j->err);
    cs_buf_free(&b);
    a->running = false;
    if (j->rc == CS_OK)
        j->rc = cs_replica_meta_drop(e->replica, taken_name, &j->err);
    if (j->rc == CS_OK)
        j->rc = cs_asked_look(e, &j->err);
}

static void answer_done(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK)
        cs_emit_error(e, CLAWSYNC_EVENT_WARNING, "", &j->err);
    cs_schedule_wake(e, NULL, false);
}

struct cs_command *cs_asked_next(struct clawsync_engine *e)
{
    static const enum cs_command_kind kinds[CS_ASK_KINDS] = { CS_CMD_STEPS, CS_CMD_STEPS, CS_CMD_SYNC,
                                                              CS_CMD_PUSH,  CS_CMD_PULL,  CS_CMD_STEPS };
    struct cs_asked *a = &e->schedule.asked;

    if (!a->answering && a->running && a->command.finished) {
        a->answering = true;
        a->job = (struct cs_job){ .run = answer_run, .done = answer_done };
        cs_engine_job(e, &a->job);
    }
    if (e->job_running || !a->found || a->running) /* a job that finds something schedules when it is done */
        return NULL;
    a->found = a->answering = false;
    a->running = true;
    a->wish.prove = a->what == CS_ASK_PROVE;
    a->wish.result = (struct cs_reconcile_result){ 0 };
    a->compact = (struct cs_compact_wish){ 0 };
    if (a->what == CS_ASK_COMPACT)
        a->command = (struct cs_command){ .kind = kinds[a->what], .step = { cs_step_compact }, .arg = &a->compact };
    else
        a->command = (struct cs_command){ .kind = kinds[a->what], .step = { cs_step_reconcile }, .arg = &a->wish };
    return &a->command;
}

/* ---- the command ---- */

int cs_ask(cs_replica *r, uint64_t nonce, int64_t now_ms, enum cs_ask_kind what, uint32_t wait_ms, struct cs_error *err)
{
    uint8_t asked[ASKED_LEN];

    cs_store_u64(asked, nonce);
    cs_store_u64(asked + 8, (uint64_t)now_ms);
    asked[16] = (uint8_t)what;
    cs_store_u32(asked + 17, wait_ms);
    return cs_replica_meta_set(r, asked_name, cs_slice(asked, sizeof asked), err);
}

/* The nonce of what is written down under this name; 0: there is nothing. */
static int nonce_of(cs_replica *r, const char *name, uint64_t *nonce, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = cs_replica_meta_get(r, name, &b, err);

    *nonce = rc == CS_OK && b.len >= 8 ? cs_load_u64(b.data) : 0;
    cs_buf_free(&b);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

static int read_answer(cs_replica *r, struct cs_reconcile_result *out, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    struct cs_reader in;
    char message[sizeof err->msg];
    int code, rc = cs_replica_meta_get(r, answer_name, &b, err);

    if (rc == CS_OK) {
        in = cs_reader(cs_buf_slice(&b));
        cs_read_u64(&in);
        code = (int)cs_read_u32(&in);
        read_text(&in, message, sizeof message);
        read_result(&in, out);
        if (in.bad)
            rc = cs_fail(err, CS_ECORRUPT, "the running engine's answer cannot be read");
        else if (code != CS_OK)
            rc = cs_fail(err, code, "%s", message);
    }
    cs_buf_free(&b);
    return rc;
}

int cs_ask_state(cs_replica *r, uint64_t nonce, enum cs_ask_state *state, struct cs_reconcile_result *out,
                 struct cs_error *err)
{
    uint64_t answered, taken, asked;
    int rc;

    if ((rc = nonce_of(r, answer_name, &answered, err)) != CS_OK ||
        (rc = nonce_of(r, taken_name, &taken, err)) != CS_OK || (rc = nonce_of(r, asked_name, &asked, err)) != CS_OK)
        return rc;
    *state = answered == nonce ? CS_ASK_ANSWERED : taken != 0 ? CS_ASK_TAKEN : asked != 0 ? CS_ASK_WAITS : CS_ASK_NONE;
    return *state == CS_ASK_ANSWERED ? read_answer(r, out, err) : CS_OK;
}

int cs_ask_withdraw(cs_replica *r, struct cs_error *err)
{
    return cs_replica_meta_drop(r, asked_name, err);
}
