/* What changes the queue: each call is one transaction. */
#include <stdlib.h>

#include "crypto/hash.h"
#include "crypto/keys.h"
#include "queue/internal.h"

enum { NONCE = 24, BOX_EXTRA = 16 };

static int err_code(const struct cs_error *err)
{
    return err == NULL ? CS_EDB : err->code;
}

/* ---- content ---- */

/* Keyed, so that it tells nothing of the content; the same content has the same id. */
static void id_of(const cs_queue *q, struct cs_slice content, uint8_t out[CS_QUEUE_ID_LEN])
{
    struct cs_hasher h;

    cs_hasher_init_label(&h, "queue id");
    cs_hasher_update(&h, q->key, 32);
    cs_hasher_update(&h, content.data, content.len);
    cs_hasher_final(&h, out, CS_QUEUE_ID_LEN);
    cs_wipe(&h, sizeof h);
}

static void key_of(const cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], uint8_t out[32])
{
    cs_mac(q->key, cs_slice(id, CS_QUEUE_ID_LEN), out, 32);
}

static int seal(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], struct cs_slice content, struct cs_error *err)
{
    uint8_t key[32], *p;

    cs_buf_reset(&q->scratch);
    if ((p = cs_buf_grow(&q->scratch, NONCE + content.len + BOX_EXTRA)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    cs_random(q->rng, p, NONCE);
    key_of(q, id, key);
    cs_box(key, p, content, p + NONCE);
    cs_wipe(key, sizeof key);
    return CS_OK;
}

static int open_sealed(const cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], struct cs_slice sealed, struct cs_buf *out,
                       struct cs_error *err)
{
    size_t before = out->len, n;
    uint8_t key[32], *p;
    bool opened;

    if (sealed.len < NONCE + BOX_EXTRA)
        return cs_fail(err, CS_ECORRUPT, "queue: an entry's content is cut off");
    n = sealed.len - NONCE - BOX_EXTRA;
    if ((p = cs_buf_grow(out, n + 1)) == NULL) /* never nothing: the caller tells an empty one from none */
        return cs_fail(err, CS_ENOMEM, "out of memory");
    key_of(q, id, key);
    opened = cs_box_open(key, sealed.data, cs_slice(sealed.data + NONCE, sealed.len - NONCE), p);
    cs_wipe(key, sizeof key);
    out->len = opened ? before + n : before;
    return opened ? CS_OK
                  : cs_fail(err, CS_ECORRUPT,
                            "queue: an entry does not open with this device's key: it was changed, "
                            "or is another device's");
}

int cs_queue_content(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], struct cs_buf *out, struct cs_error *err)
{
    sqlite3_stmt *s;
    int step, rc;

    if (q->key == NULL)
        return cs_fail(err, CS_EAUTH, "queue: opened without the device's key");
    if ((s = cs_queue_stmt(q, STMT_CONTENT, err)) == NULL)
        return err_code(err);
    cs_queue_bind(s, 1, id, CS_QUEUE_ID_LEN);
    if ((step = sqlite3_step(s)) == SQLITE_ROW)
        rc = open_sealed(q, id, cs_slice(sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0)), out, err);
    else if (step == SQLITE_DONE)
        rc = cs_fail(err, CS_ENOTFOUND, "queue: there is no such entry, or it is done");
    else
        rc = cs_queue_fail_db(q, "read it", err);
    sqlite3_reset(s);
    return rc;
}

/* ---- in ---- */

static int put_again(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], const struct cs_queue_set *set,
                     enum cs_queue_state state, const char *reason, struct cs_error *err)
{
    sqlite3_stmt *s = cs_queue_stmt(q, STMT_AGAIN, err);

    if (s == NULL)
        return err_code(err);
    cs_queue_bind(s, 1, id, CS_QUEUE_ID_LEN);
    sqlite3_bind_text(s, 2, cs_queue_state_name(state), -1, SQLITE_STATIC);
    cs_queue_bind(s, 3, set->batch, 32);
    sqlite3_bind_int64(s, 4, (int64_t)set->number);
    sqlite3_bind_int64(s, 5, cs_now_ms(q->world));
    sqlite3_bind_text(s, 6, reason, -1, SQLITE_STATIC);
    cs_queue_bind(s, 7, q->scratch.data, q->scratch.len);
    return cs_queue_step(q, s, "write it", err);
}

static int put_one(cs_queue *q, const struct cs_queue_set *set, enum cs_queue_state state, const char *reason,
                   struct cs_error *err)
{
    uint8_t id[CS_QUEUE_ID_LEN];
    sqlite3_stmt *s;
    int rc;

    id_of(q, set->content, id);
    if ((rc = seal(q, id, set->content, err)) != CS_OK)
        return rc;
    if ((s = cs_queue_stmt(q, STMT_PUT, err)) == NULL)
        return err_code(err);
    cs_queue_bind(s, 1, id, sizeof id);
    sqlite3_bind_text(s, 2, cs_queue_state_name(state), -1, SQLITE_STATIC);
    cs_queue_bind(s, 3, set->batch, 32);
    sqlite3_bind_int64(s, 4, (int64_t)set->number);
    sqlite3_bind_int64(s, 5, (int64_t)set->operations);
    sqlite3_bind_int64(s, 6, (int64_t)set->content.len);
    sqlite3_bind_int64(s, 7, cs_now_ms(q->world));
    sqlite3_bind_text(s, 8, reason, -1, SQLITE_STATIC);
    cs_queue_bind(s, 9, q->scratch.data, q->scratch.len);
    if ((rc = cs_queue_step(q, s, "write it", err)) != CS_OK)
        return rc;
    return put_again(q, id, set, state, reason, err);
}

int cs_queue_put(cs_queue *q, const struct cs_queue_set *sets, size_t n, enum cs_queue_state state, const char *reason,
                 struct cs_error *err)
{
    int rc;

    if (q->key == NULL)
        return cs_fail(err, CS_EAUTH, "queue: opened without the device's key");
    if ((rc = cs_queue_begin(q, err)) != CS_OK)
        return rc;
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        rc = put_one(q, &sets[i], state, reason, err);
    return cs_queue_end(q, rc, err);
}

/* ---- sets that name a batch ---- */

/* One statement, already bound but for what every change has. */
static int change(cs_queue *q, int which, int now_param, const void *batch, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc;

    if (q == NULL || q->named == 0)
        return CS_OK;
    if ((rc = cs_queue_begin(q, err)) != CS_OK)
        return rc;
    if ((s = cs_queue_stmt(q, which, err)) == NULL) {
        rc = err_code(err);
    } else {
        if (batch != NULL)
            cs_queue_bind(s, 1, batch, 32);
        if (now_param > 0)
            sqlite3_bind_int64(s, now_param, cs_now_ms(q->world));
        rc = cs_queue_step(q, s, "write it", err);
    }
    return cs_queue_end(q, rc, err);
}

int cs_queue_sending(cs_queue *q, struct cs_error *err)
{
    return change(q, STMT_SENDING, 1, NULL, err);
}

int cs_queue_accepted(cs_queue *q, const uint8_t batch[32], struct cs_error *err)
{
    return change(q, STMT_ACCEPTED, 2, batch, err);
}

int cs_queue_release(cs_queue *q, struct cs_error *err)
{
    return change(q, STMT_RELEASE, 0, NULL, err);
}

int cs_queue_detach(cs_queue *q, const uint8_t batch[32], struct cs_error *err)
{
    return change(q, STMT_DETACH, 0, batch, err);
}

/* ---- sets that exist here only ---- */

int cs_queue_next_own(cs_queue *q, struct cs_queue_entry *out, struct cs_error *err)
{
    sqlite3_stmt *s = cs_queue_stmt(q, STMT_LIST, err);
    int step, rc;

    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int(s, 1, 1);
    if ((step = sqlite3_step(s)) == SQLITE_ROW)
        rc = cs_queue_entry_of(s, out, err);
    else
        rc = step == SQLITE_DONE ? CS_ENOTFOUND : cs_queue_fail_db(q, "read it", err);
    out->reason = "";
    sqlite3_reset(s);
    return rc;
}

static int end(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], enum cs_queue_state state, const char *reason,
               struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = cs_queue_begin(q, err);

    if (rc != CS_OK)
        return rc;
    if ((s = cs_queue_stmt(q, STMT_END, err)) == NULL) {
        rc = err_code(err);
    } else {
        cs_queue_bind(s, 1, id, CS_QUEUE_ID_LEN);
        sqlite3_bind_text(s, 2, cs_queue_state_name(state), -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 3, reason, -1, SQLITE_STATIC);
        sqlite3_bind_int64(s, 4, cs_now_ms(q->world));
        rc = cs_queue_step(q, s, "write it", err);
    }
    return cs_queue_end(q, rc, err);
}

int cs_queue_done(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], const char *reason, struct cs_error *err)
{
    return end(q, id, CS_QUEUE_DONE, reason, err);
}

int cs_queue_failed(cs_queue *q, const uint8_t id[CS_QUEUE_ID_LEN], const char *reason, struct cs_error *err)
{
    return end(q, id, CS_QUEUE_FAILED, reason, err);
}

int cs_queue_retry(cs_queue *q, const uint8_t *id, uint64_t *n, struct cs_error *err)
{
    sqlite3_stmt *s;
    int rc = cs_queue_begin(q, err);

    *n = 0;
    if (rc != CS_OK)
        return rc;
    if ((s = cs_queue_stmt(q, STMT_RETRY, err)) == NULL) {
        rc = err_code(err);
    } else {
        if (id == NULL)
            sqlite3_bind_null(s, 1);
        else
            cs_queue_bind(s, 1, id, CS_QUEUE_ID_LEN);
        sqlite3_bind_int64(s, 2, cs_now_ms(q->world));
        rc = cs_queue_step(q, s, "write it", err);
    }
    if (rc == CS_OK)
        *n = (uint64_t)sqlite3_changes64(q->db);
    if ((rc = cs_queue_end(q, rc, err)) == CS_OK && id != NULL && *n == 0)
        rc = cs_fail(err, CS_ENOTFOUND, "queue: no refused entry has this id");
    return rc;
}

/* ---- after opening ---- */

static int settle(cs_queue *q, const struct cs_queue_entry *e, enum cs_queue_state state, bool keeps_batch,
                  struct cs_error *err)
{
    sqlite3_stmt *s = cs_queue_stmt(q, STMT_SETTLE, err);

    if (s == NULL)
        return err_code(err);
    cs_queue_bind(s, 1, e->id, CS_QUEUE_ID_LEN);
    sqlite3_bind_text(s, 2, cs_queue_state_name(state), -1, SQLITE_STATIC);
    if (keeps_batch)
        cs_queue_bind(s, 3, e->batch, 32);
    else
        sqlite3_bind_null(s, 3);
    sqlite3_bind_int64(s, 4, cs_now_ms(q->world));
    return cs_queue_step(q, s, "write it", err);
}

int cs_queue_reconcile(cs_queue *q, const struct cs_queue_truth *t, struct cs_error *err)
{
    struct cs_queue_entry *list = NULL;
    struct cs_arena arena = { 0 };
    size_t n = 0;
    int rc;

    if (q->named == 0)
        return CS_OK;
    if ((rc = cs_queue_begin(q, err)) != CS_OK)
        return rc;
    rc = cs_queue_list(q, &arena, &list, &n, err);
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        const struct cs_queue_entry *e = &list[i];
        enum cs_queue_state waits = e->state == CS_QUEUE_FAILED ? CS_QUEUE_FAILED : CS_QUEUE_PENDING;

        if (!e->has_batch)
            continue;
        if (t->bound(t->arg, e->batch))
            rc = settle(q, e, waits, true, err);
        else if (e->number <= t->accepted)
            rc = settle(q, e, CS_QUEUE_DONE, false, err);
        else
            rc = settle(q, e, waits, false, err);
    }
    cs_arena_free(&arena);
    return cs_queue_end(q, rc, err);
}
