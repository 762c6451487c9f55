/* Joining without a code: the side that asks to be let in, and the side that lets in. The messages pass the hub's
 * mailbox (identity/pair.h says what they are); both sides look into it once a second.
 *
 *   ask:    offer ──▶ wait for an answer ──▶ reveal ──▶ the characters are shown
 *   enter:  wait for the end ──▶ fetch the log ──▶ is it the answerer's, and are we in? ──▶ pin
 *   answer: what waits? ──▶ an answer to each
 *   admit:  whose characters were typed? ──▶ append the add ──▶ the end */
#include <stdio.h>

#include "engine/engine.h"
#include "identity/code.h"

enum { LOOK_MS = 1000, ASK_MS = 15 * 60 * 1000, NAME_BYTES = 32 };

static void look(void *arg);

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_pair_step *s = &e->pair;

    if (s->timer != NULL)
        cs_timer_stop(s->timer);
    cs_hub_call_cancel(&s->call);
    cs_messages_free(&s->taken);
    cs_arena_free(&s->arena);
    s->done(e, rc, err);
}

static void next_job(struct clawsync_engine *e, void (*run)(struct clawsync_engine *, struct cs_job *),
                     void (*done)(struct clawsync_engine *, struct cs_job *))
{
    e->pair.job = (struct cs_job){ .run = run, .done = done };
    cs_engine_job(e, &e->pair.job);
}

static void forget(struct clawsync_engine *e)
{
    cs_secret_free(e->pair.mine);
    e->pair.mine = NULL;
    for (size_t i = 0; i < e->pair.nheld; i++)
        cs_secret_free(e->pair.held[i]);
    e->pair.nheld = 0;
}

void cs_pair_step_free(struct clawsync_engine *e)
{
    forget(e);
    if (e->pair.timer != NULL)
        cs_timer_close(e->pair.timer);
    cs_hub_call_free(&e->pair.call);
    cs_arena_free(&e->pair.arena);
    cs_buf_free(&e->pair.message);
}

static bool begin(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_pair_step *s = &e->pair;
    struct cs_error err;

    s->done = done;
    s->cmd = e->schedule.current;
    s->until_ms = cs_loop_now_ms(e->loop) + ASK_MS;
    if (s->timer != NULL || cs_timer_new(e->loop, look, e, &s->timer) == CS_OK)
        return true;
    finish(e, cs_fail(&err, CS_ENOMEM, "out of memory"), &err);
    return false;
}

/* ---- the mailbox ---- */

static void on_call(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;
    struct cs_pair_step *s = &e->pair;

    if (!c->ended)
        return;
    if (c->rc != CS_OK && cs_code_is_transient(c->rc) && s->waits && cs_loop_now_ms(e->loop) < s->until_ms) {
        cs_hub_call_cancel(c);
        cs_timer_start(s->timer, LOOK_MS); /* the hub restarts, or the network is away */
        return;
    }
    if (c->rc != CS_OK) {
        if (c->rc == CS_EAUTH && s->waits)
            cs_fail(&c->err, CS_EAUTH,
                    "the hub has no such request to join: either 15 minutes are over, or there is no workspace %s",
                    e->workspace_text);
        finish(e, c->rc, &c->err);
        return;
    }
    s->taken = c->in;
    c->in = (struct cs_messages){ 0 };
    cs_hub_call_cancel(c);
    next_job(e, s->run, s->ran);
}

/* Puts a message of the exchange (empty: none), and hands the answer to `run` in a job. */
static void call_pair(struct clawsync_engine *e, struct cs_slice message, const uint8_t *offer)
{
    Clawsync__V1__PairRequest req = CLAWSYNC__V1__PAIR_REQUEST__INIT;
    struct cs_error err;
    uint8_t hash[32];
    int rc;

    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    if (message.len > 0) {
        cs_hash_plain(cs_slice(offer, CS_PAIR_OFFER_LEN), hash);
        req.message = (ProtobufCBinaryData){ message.len, (uint8_t *)(uintptr_t)message.data };
        req.offer_hash = (ProtobufCBinaryData){ sizeof hash, hash };
    }
    if ((rc = cs_hub_call_start(e, &e->pair.call, "Pair", &req.base, true, on_call, &err)) != CS_OK)
        finish(e, rc, &err);
}

static void look(void *arg)
{
    call_pair(arg, CS_SLICE_NULL, NULL);
}

/* [job] What the hub has; in the step's arena. NULL: it cannot be read, and err says so. */
static const Clawsync__V1__PairResponse *mailbox(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_message *m = e->pair.taken.first;
    ProtobufCAllocator alloc;
    const Clawsync__V1__PairResponse *r;

    cs_arena_reset(&e->pair.arena);
    alloc = cs_engine_pb(&e->pair.arena);
    r = m == NULL ? NULL : clawsync__v1__pair_response__unpack(&alloc, m->len, m->data);
    if (r == NULL)
        cs_engine_unreadable(&e->pair.arena, "the hub's answer about devices that wait", err);
    return r;
}

static struct cs_slice bytes(ProtobufCBinaryData b)
{
    return cs_slice(b.data, b.len);
}

static const Clawsync__V1__PairExchange *exchange_of(const Clawsync__V1__PairResponse *r, const struct cs_pair *p)
{
    for (size_t i = 0; i < r->n_exchanges; i++)
        if (cs_slice_eq(bytes(r->exchanges[i]->offer), cs_slice(p->offer, sizeof p->offer)))
            return r->exchanges[i];
    return NULL;
}

/* [loop] After a look that found nothing to do yet. */
static void look_again(struct clawsync_engine *e)
{
    cs_messages_free(&e->pair.taken);
    cs_timer_start(e->pair.timer, LOOK_MS);
}

static void last_done(struct clawsync_engine *e, struct cs_job *j)
{
    finish(e, j->rc, &j->err);
}

/* ---- asking to be let in ---- */

static int nobody(struct cs_error *err)
{
    return cs_fail(err, CS_ETIMEDOUT, "nobody let this device in within 15 minutes; ask again with: claw-sync join");
}

static void answer_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pair_step *s = &e->pair;
    const Clawsync__V1__PairResponse *r = mailbox(e, &j->err);
    const Clawsync__V1__PairExchange *x;

    s->found = false;
    if (r == NULL) {
        j->rc = j->err.code;
        return;
    }
    if ((x = exchange_of(r, s->mine)) == NULL) {
        j->rc = nobody(&j->err);
        return;
    }
    if (x->answer.len == 0)
        return;
    s->found = true;
    cs_buf_reset(&s->message);
    if ((j->rc = cs_pair_take_answer(s->mine, bytes(x->answer), &j->err)) == CS_OK)
        j->rc = cs_pair_reveal(s->mine, cs_buf_grow(&s->message, CS_PAIR_REVEAL_LEN), &j->err);
}

static void revealed_run(struct clawsync_engine *e, struct cs_job *j)
{
    char text[CS_PAIR_STRING];

    if (!cs_pair_string(e->pair.mine, text))
        j->rc = cs_fail(&j->err, CS_ENOMEM, "out of memory");
    else
        cs_buf_put_str(e->pair.cmd->out, text);
}

static void answer_ran(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pair_step *s = &e->pair;

    if (j->rc != CS_OK) {
        finish(e, j->rc, &j->err);
    } else if (!s->found) {
        look_again(e);
    } else {
        cs_messages_free(&s->taken);
        s->run = revealed_run;
        s->ran = last_done;
        call_pair(e, cs_buf_slice(&s->message), s->mine->offer);
    }
}

static void offered_run(struct clawsync_engine *e, struct cs_job *j)
{
    const struct cs_message *m = e->pair.taken.first;
    ProtobufCAllocator alloc;
    const Clawsync__V1__RegisterDeviceResponse *r;

    cs_arena_reset(&e->pair.arena);
    alloc = cs_engine_pb(&e->pair.arena);
    r = m == NULL ? NULL : clawsync__v1__register_device_response__unpack(&alloc, m->len, m->data);
    if (r == NULL)
        j->rc = cs_engine_unreadable(&e->pair.arena, "the hub's answer to the request to join", &j->err);
    else if (r->state == CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_MEMBER)
        j->rc = cs_fail(&j->err, CS_EEXIST,
                        "this device was let in, but ended before it could prove by whom; have it removed (claw-sync "
                        "devices revoke %s), then: claw-sync identity new, and join again",
                        e->device_text);
    else if (r->state == CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_REMOVED)
        j->rc = cs_fail(&j->err, CS_EEXIST,
                        "this device was removed from the workspace; to come back it needs: claw-sync identity new");
}

static void offered_ran(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK) {
        finish(e, j->rc, &j->err);
        return;
    }
    e->pair.run = answer_run;
    e->pair.ran = answer_ran;
    e->pair.waits = true;
    look_again(e);
}

static bool compose_offer(struct cs_hub_call *c, const struct cs_session *session, uint64_t counter, struct cs_buf *out)
{
    const struct cs_pair *p = c->e->pair.mine;

    return cs_compose_register(c, session, counter, CS_SLICE_NULL, cs_slice(p->offer, sizeof p->offer), out);
}

static void offer_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pair_step *s = &e->pair;
    struct cs_buf waiting = { 0 };
    int rc;

    forget(e);
    if (cs_is_member(e) || e->members_lost) {
        j->rc = cs_fail(&j->err, CS_EEXIST, "this device is a member of the workspace already");
        return;
    }
    rc = cs_self_pending(e, &waiting, &j->err);
    if (rc == CS_OK && waiting.len > 4 && waiting.data[4] == CS_ENTRY_ADD)
        rc = cs_fail(&j->err, CS_EEXIST, "this device has begun to join with a code; go on with: claw-sync sync");
    else if (rc == CS_OK) /* a genesis that waits was never accepted */
        rc = cs_self_pending_drop(e, &j->err);
    cs_buf_free(&waiting);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        j->rc = rc;
    else if ((s->mine = cs_secret_alloc(sizeof *s->mine)) == NULL)
        j->rc = cs_fail(&j->err, CS_ENOMEM, "out of memory");
    else
        cs_pair_offer(s->mine, &e->rng, &e->workspace, &e->device, e->keys);
}

static void offer_ran(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pair_step *s = &e->pair;

    s->run = offered_run;
    s->ran = offered_ran;
    s->waits = false;
    if (j->rc == CS_OK)
        j->rc = cs_hub_call_compose(e, &s->call, "RegisterDevice", compose_offer, on_call, &j->err);
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
}

void cs_step_ask(struct clawsync_engine *e, cs_step_done done)
{
    if (begin(e, done))
        next_job(e, offer_run, offer_ran);
}

/* ---- entering, after the person said that the characters are the same ---- */

static int forged(struct cs_error *err, const char *what)
{
    return cs_fail(err, CS_EHUB, "PAIR_FORGED: %s; nothing was joined", what);
}

/* The log is the answerer's, and our place in it is by nobody else. */
static int check_log(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_pair_done *end = &e->pair.end;
    const struct cs_member *self, *by;
    struct cs_pair_answerer who;
    struct cs_hub_head head = { 0 };
    const uint8_t *at;
    int rc;

    cs_pair_who(e->pair.mine, &who);
    memcpy(e->ks->hub_key, who.hub_key, 32);
    e->head.log_id = 0;
    cs_self_members_reset(e);
    if ((rc = cs_member_fold(e, &e->pair.taken, &e->pair.arena, &head, true, NULL, err)) != CS_OK)
        return rc;
    at = cs_entry_hash_at(e, end->member_seq);
    self = cs_membership_find(&e->members, &e->device);
    by = cs_membership_find(&e->members, &who.id);
    if (memcmp(e->members.genesis, who.genesis, 32) != 0 || at == NULL || memcmp(at, end->entry_hash, 32) != 0)
        return forged(err, "the hub's membership log is not that of whoever let this device in");
    if (self == NULL || !self->active || memcmp(self->sign_pk, e->keys->sign.pk, 32) != 0 ||
        self->added_seq != end->member_seq || cs_uuid_cmp(&self->added_by, &who.id) != 0 || by == NULL ||
        memcmp(by->sign_pk, who.sign_pk, 32) != 0)
        return forged(err, "the membership log does not say that this device was let in by whoever answered it");
    if (cs_keystore_epoch(e->ks, e->members.epoch) == NULL)
        return cs_fail(err, CS_EAUTH, "the workspace's key is not in the log for this device; ask to be let in again");
    return cs_check_floor(e, &end->floor, end->member_seq, &head, err);
}

static void entered_run(struct clawsync_engine *e, struct cs_job *j)
{
    uint16_t had = e->ks->nepochs;

    cs_arena_reset(&e->pair.arena);
    if ((j->rc = check_log(e, &j->err)) == CS_OK) {
        j->rc = cs_self_members_save(e, &j->err);
        if (j->rc == CS_OK)
            j->rc = cs_record_registered(e, &j->err);
        return;
    }
    memset(e->ks->hub_key, 0, 32);
    e->head = (struct cs_hub_head){ 0 };
    e->ks->nepochs = had; /* keys out of a log that is not to be believed */
    cs_self_members_reset(e);
}

static void entered_ran(struct clawsync_engine *e, struct cs_job *j)
{
    forget(e);
    last_done(e, j);
}

static void end_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pair_step *s = &e->pair;
    const Clawsync__V1__PairResponse *r = mailbox(e, &j->err);
    const Clawsync__V1__PairExchange *x;

    s->found = false;
    if (r == NULL)
        j->rc = j->err.code;
    else if ((x = exchange_of(r, s->mine)) == NULL)
        j->rc = nobody(&j->err);
    else if ((s->found = x->done.len > 0))
        j->rc = cs_pair_take_done(s->mine, bytes(x->done), &s->end, &j->err);
}

static void end_ran(struct clawsync_engine *e, struct cs_job *j)
{
    Clawsync__V1__GetMembershipRequest req = CLAWSYNC__V1__GET_MEMBERSHIP_REQUEST__INIT;
    struct cs_pair_step *s = &e->pair;

    if (j->rc == CS_OK && !s->found) {
        look_again(e);
        return;
    }
    cs_messages_free(&s->taken);
    s->run = entered_run;
    s->ran = entered_ran;
    s->waits = false;
    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.from_seq = 1;
    if (j->rc == CS_OK)
        j->rc = cs_hub_call_start(e, &s->call, "GetMembership", &req.base, true, on_call, &j->err);
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
}

void cs_step_enter(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_error err;

    if (!begin(e, done))
        return;
    if (e->pair.mine == NULL) {
        finish(e, cs_fail(&err, CS_EINVAL, "this device has not asked to be let in"), &err);
        return;
    }
    e->pair.run = end_run;
    e->pair.ran = end_ran;
    e->pair.waits = true;
    look(e);
}

/* ---- answering those who wait ---- */

static void answers_next(struct clawsync_engine *e);

static void answered_ran(struct clawsync_engine *e, struct cs_job *j)
{
    (void)j;
    cs_messages_free(&e->pair.taken);
    e->pair.at++;
    answers_next(e);
}

static void nothing_run(struct clawsync_engine *e, struct cs_job *j)
{
    (void)e;
    (void)j;
}

static void answers_next(struct clawsync_engine *e)
{
    struct cs_pair_step *s = &e->pair;
    struct cs_error none = { 0 };

    if (s->at == s->nheld || s->cmd->arg == NULL || !((struct cs_waiting_list *)s->cmd->arg)->answer) {
        finish(e, CS_OK, &none);
        return;
    }
    s->run = nothing_run;
    s->ran = answered_ran;
    call_pair(e, cs_slice(s->held[s->at]->answer, CS_PAIR_ANSWER_LEN), s->held[s->at]->offer);
}

/* What is no offer, or is of a device that does not hold its keys, is the hub's to explain, and is left alone. */
static int hold(struct clawsync_engine *e, struct cs_slice offer, struct cs_error *err)
{
    struct cs_pair_step *s = &e->pair;
    struct cs_waiting_list *list = s->cmd->arg;
    struct cs_pair *p;
    struct cs_candidate who;

    if (s->nheld == CS_WAITING_MAX)
        return CS_OK;
    if ((p = cs_secret_alloc(sizeof *p)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (cs_pair_answer(p, &e->rng, offer, &e->workspace, &e->device, e->keys->sign.pk, e->members.genesis,
                       e->ks->hub_key, err) != CS_OK) {
        cs_secret_free(p);
        return CS_OK;
    }
    s->held[s->nheld++] = p;
    cs_pair_candidate(p, &who);
    list->row[list->n].id = who.id;
    cs_fingerprint(who.sign_pk, list->row[list->n++].fingerprint);
    return CS_OK;
}

static void waiting_run(struct clawsync_engine *e, struct cs_job *j)
{
    const Clawsync__V1__PairResponse *r = mailbox(e, &j->err);
    struct cs_waiting_list *list = e->pair.cmd->arg;

    forget(e);
    list->n = 0;
    if (r == NULL) {
        j->rc = j->err.code;
        return;
    }
    for (size_t i = 0; i < r->n_exchanges && j->rc == CS_OK; i++)
        if (r->exchanges[i]->answer.len == 0)
            j->rc = hold(e, bytes(r->exchanges[i]->offer), &j->err);
}

static void waiting_ran(struct clawsync_engine *e, struct cs_job *j)
{
    cs_messages_free(&e->pair.taken);
    e->pair.at = 0;
    if (j->rc != CS_OK)
        finish(e, j->rc, &j->err);
    else
        answers_next(e);
}

void cs_step_waiting(struct clawsync_engine *e, cs_step_done done)
{
    if (!begin(e, done))
        return;
    e->pair.run = waiting_run;
    e->pair.ran = waiting_ran;
    e->pair.waits = false;
    look(e);
}

/* ---- letting one in ---- */

static int admit_entry(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    const struct cs_pair *p = arg;
    const struct cs_epoch_keys *epoch = cs_keystore_epoch(e->ks, e->members.epoch);
    const struct cs_member *there;
    struct cs_candidate who;
    char name[NAME_BYTES], id[CS_UUID_TEXT];

    cs_pair_candidate(p, &who);
    there = cs_membership_find(&e->members, &who.id);
    if (there != NULL) /* an earlier try, whose answer was lost */
        return there->active ? CS_OK : cs_fail(err, CS_EEXIST, "this device was removed from the workspace before");
    if (epoch == NULL)
        return cs_fail(err, CS_EAUTH, "the newest key is not on this device; sync first");
    cs_uuid_text(id, &who.id);
    snprintf(name, sizeof name, "device %.8s", id);
    return cs_entry_admit(entry, &e->rng, &e->members, &e->device, e->keys, &who, name, epoch, cs_now_ms(e->world),
                          err);
}

static void end_make(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pair_step *s = &e->pair;
    struct cs_pair_done end = { 0 };
    const struct cs_member *m;
    struct cs_candidate who;
    const uint8_t *at = NULL;

    cs_pair_candidate(s->chosen, &who);
    if ((m = cs_membership_find(&e->members, &who.id)) != NULL)
        at = cs_entry_hash_at(e, m->added_seq);
    if (at == NULL) {
        j->rc = cs_fail(&j->err, CS_EABORTED, "the entry that lets the device in is not in the log; try again");
        return;
    }
    end.member_seq = m->added_seq;
    memcpy(end.entry_hash, at, sizeof end.entry_hash);
    cs_floor_now(e, &end.floor);
    cs_buf_reset(&s->message);
    j->rc = cs_pair_done(s->chosen, &e->rng, &end, cs_buf_grow(&s->message, CS_PAIR_DONE_LEN), &j->err);
    if (j->rc == CS_OK)
        cs_buf_put(s->cmd->out, who.id.b, sizeof who.id.b);
}

static void over_ran(struct clawsync_engine *e, struct cs_job *j)
{
    forget(e);
    last_done(e, j);
}

static void end_made(struct clawsync_engine *e, struct cs_job *j)
{
    if (j->rc != CS_OK) {
        finish(e, j->rc, &j->err);
        return;
    }
    e->pair.run = nothing_run;
    e->pair.ran = over_ran;
    call_pair(e, cs_buf_slice(&e->pair.message), e->pair.chosen->offer);
}

static void admitted(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    if (rc != CS_OK)
        finish(e, rc, err);
    else
        next_job(e, end_make, end_made);
}

static void choose_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_pair_step *s = &e->pair;
    const Clawsync__V1__PairResponse *r = mailbox(e, &j->err);
    bool shown = false;

    s->chosen = NULL;
    if (r == NULL) {
        j->rc = j->err.code;
        return;
    }
    for (size_t i = 0; i < s->nheld && j->rc == CS_OK; i++) {
        struct cs_pair *p = s->held[i];
        const Clawsync__V1__PairExchange *x = exchange_of(r, p);

        if (x == NULL || x->reveal.len == 0 || !cs_slice_eq(bytes(x->answer), cs_slice(p->answer, sizeof p->answer)))
            continue;
        if (!p->revealed)
            j->rc = cs_pair_take_reveal(p, bytes(x->reveal), &j->err);
        shown = true;
        if (j->rc == CS_OK && s->chosen == NULL && cs_pair_matches(p, s->cmd->code))
            s->chosen = p;
    }
    if (j->rc == CS_OK && !shown)
        j->rc = cs_fail(&j->err, CS_ENOTFOUND,
                        "no device that waits has shown its characters yet; is claw-sync join still running there?");
    else if (j->rc == CS_OK && s->chosen == NULL)
        j->rc = cs_fail(&j->err, CS_EAUTH,
                        "PAIR_MISMATCH: these are not the characters of any device that waits: mistyped, or someone "
                        "may be in between; nobody was let in. Begin anew on both sides");
}

static void choose_ran(struct clawsync_engine *e, struct cs_job *j)
{
    cs_messages_free(&e->pair.taken);
    if (j->rc == CS_OK) {
        cs_step_append(e, admit_entry, e->pair.chosen, admitted);
        return;
    }
    if (j->rc != CS_ENOTFOUND)
        forget(e); /* one try: who is in between would have another guess */
    finish(e, j->rc, &j->err);
}

void cs_step_admit(struct clawsync_engine *e, cs_step_done done)
{
    struct cs_error err;

    if (!begin(e, done))
        return;
    if (e->pair.nheld == 0) {
        finish(e, cs_fail(&err, CS_EINVAL, "no device that waits was answered"), &err);
        return;
    }
    e->pair.run = choose_run;
    e->pair.ran = choose_ran;
    e->pair.waits = false;
    look(e);
}
