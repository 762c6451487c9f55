/* What is new about conflicts: an event for those that somebody should look at, a row of the audit log for those that
 * were settled, by the rules or by a person; and the step that tells the hub, and by it the devices that are connected,
 * of those that were settled here. */
#include <jansson.h>
#include <stdio.h>

#include "engine/engine.h"
#include "replica/review.h"

enum { NEWS = 64, IDS_MAX = NEWS * CS_REVIEW_ID };

struct news {
    struct clawsync_engine *e;
    struct cs_review_mark seen[NEWS];
    size_t n;
    char settled[IDS_MAX]; /* ids, with commas between */
    uint64_t nsettled;
};

/* Text of the key's first part, as far as it can be shown. */
static const char *first_part(const struct cs_review_conflict *c, char out[48])
{
    const struct cs_value *v = c->key;

    if (c->nkey == 0)
        return "";
    if (v->type == CS_INTEGER)
        snprintf(out, 48, "%lld", (long long)v->u.i);
    else if (v->type == CS_TEXT)
        snprintf(out, 48, "'%.*s'", (int)(v->u.bytes.len < 40 ? v->u.bytes.len : 40), (const char *)v->u.bytes.data);
    else
        snprintf(out, 48, "…");
    return out;
}

/* Keys and names are anybody's bytes: what is not to be shown, or no UTF-8, becomes '?'. */
static void make_plain(char *text)
{
    json_t *valid = json_string(text);

    for (char *p = text; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f || (valid == NULL && (unsigned char)*p >= 0x80))
            *p = '?';
    json_decref(valid);
}

static const char *meaning(const char *why)
{
    if (strcmp(why, "unique") == 0)
        return "is hidden, for another row holds its key";
    if (strcmp(why, "check") == 0)
        return "breaks a CHECK";
    if (strcmp(why, "copied-device") == 0)
        return "has two values of one device, of which there are copies";
    return strcmp(why, "deleted") == 0 ? "was edited and deleted at one time" : "was edited twice at one time";
}

static void raise(struct clawsync_engine *e, const struct cs_review_conflict *c)
{
    char part[48], text[400];

    snprintf(text, sizeof text, "table %.40s, row %s%s%.40s: it %s; claw-sync conflicts show %s", c->table,
             first_part(c, part), c->column != NULL ? ", column " : "", c->column != NULL ? c->column : "",
             meaning(c->why), c->id);
    make_plain(text);
    cs_note(e, CLAWSYNC_EVENT_CONFLICT_DETECTED, 0, c->id, "%s", text);
}

static int take(void *arg, const struct cs_review_conflict *c)
{
    struct news *x = arg;
    struct cs_review_mark *m = &x->seen[x->n++];
    bool of_row = c->column == NULL && c->losing == NULL, open = strcmp(c->state, "auto") == 0;

    memcpy(m->id, c->whole_id.data, sizeof m->id);
    snprintf(m->state, sizeof m->state, "%s", c->state);
    if (strcmp(c->state, "manual") == 0 || (of_row && open)) {
        raise(x->e, c);
    } else if (open || strcmp(c->state, "resolved") == 0) {
        size_t len = strlen(x->settled);

        snprintf(x->settled + len, sizeof x->settled - len, "%s%s", len > 0 ? "," : "", c->id);
        x->nsettled++;
    }
    return x->n == NEWS;
}

int cs_conflict_news(struct clawsync_engine *e, struct cs_error *err)
{
    struct news x;
    int rc;

    do {
        x = (struct news){ .e = e };
        if ((rc = cs_review_news(e->replica, NEWS, take, &x, err)) != CS_OK || x.n == 0)
            return rc;
        if (x.nsettled > 0)
            rc = cs_record_settled(e, x.settled, x.nsettled, err);
        if (rc == CS_OK)
            rc = cs_review_noted(e->replica, x.seen, x.n, err);
        e->tell.wanted = true;
    } while (rc == CS_OK && x.n == NEWS);
    return rc;
}

/* ---- ResolveConflict ---- */

enum { VALUE_MAX = 60000, TAG_LEN = 16, BASE64_TAG = 24 };

struct tale {
    struct clawsync_engine *e;
    Clawsync__V1__ConflictRecord **records;
    size_t n;
    bool failed;
};

/* base64url of MAC(tag key, message, 16), in the step's arena; NULL: out of memory. */
static char *put_tag(struct tale *x, const struct cs_buf *message)
{
    const struct cs_epoch_keys *keys = cs_keystore_epoch(x->e->ks, x->e->members.epoch);
    struct cs_buf text = { 0 };
    uint8_t tag[TAG_LEN];
    char *out = NULL;

    if (keys != NULL && !message->failed) {
        cs_mac(keys->tag, cs_buf_slice(message), tag, sizeof tag);
        cs_base64(&text, cs_slice(tag, sizeof tag), true);
        cs_buf_put_u8(&text, 0);
        out = text.failed ? NULL : cs_arena_str(&x->e->tell.arena, (const char *)text.data);
    }
    cs_buf_free(&text);
    return out;
}

static char *tag_of(struct tale *x, const char *table, struct cs_slice key)
{
    struct cs_buf m = { 0 };
    char *out;

    cs_buf_put_u16(&m, (uint16_t)strlen(table));
    cs_buf_put_str(&m, table);
    cs_buf_put_u32(&m, (uint32_t)key.len);
    cs_buf_put_slice(&m, key);
    out = put_tag(x, &m);
    cs_buf_free(&m);
    return out;
}

static char *tag_of_conflict(struct tale *x, struct cs_slice id)
{
    struct cs_buf m = { 0 };
    char *out;

    cs_buf_put_u16(&m, UINT16_MAX); /* no table's name is so long */
    cs_buf_put_slice(&m, id);
    out = put_tag(x, &m);
    cs_buf_free(&m);
    return out;
}

/* nonce ‖ BOX of the value's encoding; empty: there is none, or it is long. */
static bool put_sealed(struct tale *x, struct cs_slice id, uint8_t side, const struct cs_value *v,
                       ProtobufCBinaryData *out)
{
    const struct cs_epoch_keys *keys = cs_keystore_epoch(x->e->ks, x->e->members.epoch);
    uint8_t context[TAG_LEN + 1], key[32], *to;
    struct cs_buf plain = { 0 };

    *out = (ProtobufCBinaryData){ 0 };
    if (v == NULL || (v->type >= CS_TEXT && v->u.bytes.len > VALUE_MAX))
        return true;
    cs_value_encode(&plain, v);
    to = cs_arena_alloc(&x->e->tell.arena, CS_NONCE_LEN + plain.len + CS_BOX_OVERHEAD);
    if (keys == NULL || to == NULL || plain.failed || id.len != TAG_LEN) {
        cs_buf_free(&plain);
        return false;
    }
    memcpy(context, id.data, TAG_LEN);
    context[TAG_LEN] = side;
    cs_mac(keys->value, cs_slice(context, sizeof context), key, sizeof key);
    cs_random(&x->e->rng, to, CS_NONCE_LEN);
    cs_box(key, to, cs_buf_slice(&plain), to + CS_NONCE_LEN);
    *out = (ProtobufCBinaryData){ CS_NONCE_LEN + plain.len + CS_BOX_OVERHEAD, to };
    cs_wipe(key, sizeof key);
    cs_buf_free(&plain);
    return true;
}

static int put_record(void *arg, const struct cs_review_conflict *c)
{
    struct tale *x = arg;
    struct cs_tell_step *s = &x->e->tell;
    struct cs_version losing = { c->stamp, c->device };
    char stamp[CS_STAMP_TEXT];
    Clawsync__V1__ConflictRecord *r = cs_arena_zalloc(&s->arena, 1, sizeof *r);

    if (r == NULL)
        return x->failed = true;
    clawsync__v1__conflict_record__init(r);
    cs_version_text(stamp, &losing);
    r->entity_type = tag_of(x, c->table, CS_SLICE_NULL);
    r->entity_id = tag_of(x, c->table, c->key_bytes);
    r->conflict_id = tag_of_conflict(x, c->whole_id);
    r->remote_hlc = cs_arena_str(&s->arena, stamp);
    if (r->entity_type == NULL || r->entity_id == NULL || r->conflict_id == NULL || r->remote_hlc == NULL ||
        !put_sealed(x, c->whole_id, 0, c->now, &r->local_value) ||
        !put_sealed(x, c->whole_id, 1, c->losing, &r->remote_value))
        return x->failed = true;
    memcpy(s->seen[x->n].id, c->whole_id.data, sizeof s->seen[x->n].id);
    snprintf(s->seen[x->n].state, sizeof s->seen[x->n].state, "%s", c->state);
    x->records[x->n++] = r;
    return 0;
}

static void tell_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_tell_step *s = &e->tell;
    Clawsync__V1__ResolveConflictRequest req = CLAWSYNC__V1__RESOLVE_CONFLICT_REQUEST__INIT;
    struct tale x = { .e = e, .records = cs_arena_zalloc(&s->arena, CS_TELL_MAX, sizeof(void *)) };

    s->n = 0;
    if (x.records == NULL)
        j->rc = cs_fail(&j->err, CS_ENOMEM, "out of memory");
    else if ((j->rc = cs_review_untold(e->replica, CS_TELL_MAX, put_record, &x, &j->err)) == CS_OK && x.failed)
        j->rc = cs_fail(&j->err, CS_ENOMEM, "out of memory, or the newest key is not on this device");
    if (j->rc != CS_OK || x.n == 0)
        return;
    req.workspace_id = e->workspace_text;
    req.resolved = x.records;
    req.n_resolved = x.n;
    s->n = x.n;
    s->request = req;
}

static void tell_end(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    struct cs_tell_step *s = &e->tell;

    cs_hub_call_cancel(&s->call);
    cs_arena_free(&s->arena);
    s->done(e, rc, err);
}

static void told_run(struct clawsync_engine *e, struct cs_job *j)
{
    j->rc = cs_review_told(e->replica, e->tell.seen, e->tell.n, &j->err);
}

static void told_done(struct clawsync_engine *e, struct cs_job *j)
{
    tell_end(e, j->rc, &j->err);
}

/* The log has said it to every device; this is a courtesy, and no round fails for it. */
static void on_told(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;
    struct cs_tell_step *s = &e->tell;

    if (!c->ended)
        return;
    if (c->rc != CS_OK && cs_code_is_transient(c->rc)) {
        struct cs_error none = { 0 };

        s->wanted = true; /* with the next round */
        tell_end(e, CS_OK, &none);
        return;
    }
    s->job = (struct cs_job){ .run = told_run, .done = told_done };
    cs_engine_job(e, &s->job);
}

static void tell_done(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_tell_step *s = &e->tell;
    struct cs_error err = { 0 };

    if (j->rc != CS_OK || s->n == 0)
        tell_end(e, j->rc, &j->err);
    else if (cs_hub_call_start(e, &s->call, "ResolveConflict", &s->request.base, true, on_told, &err) != CS_OK)
        tell_end(e, err.code, &err);
}

void cs_step_tell(struct clawsync_engine *e, cs_step_done done)
{
    static const struct cs_error none;
    struct cs_tell_step *s = &e->tell;

    s->done = done;
    if (!s->wanted) {
        done(e, CS_OK, &none);
        return;
    }
    s->wanted = false;
    s->job = (struct cs_job){ .run = tell_run, .done = tell_done };
    cs_engine_job(e, &s->job);
}
