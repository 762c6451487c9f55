/* Batches of the log that could not be taken in, and trying again what is hidden. Both are noted in sync_meta: what was
 * set aside as "engine.aside.N", N its number in the log, with
 *   1 u8 ‖ follows u8 ‖ log id u64 ‖ noticed i64 ‖ device 16 ‖ hash 32 ‖ finding */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "replica/apply.h"
#include "replica/review.h"
#include "replica/store.h"

enum { FORM = 1, HEAD_LEN = 2 + 8 + 8 + 16 + 32, NAME_MAX = 48 };
#define ASIDE "engine.aside."
static const char retry[] = "engine.retry";

static void name_of(char out[NAME_MAX], uint64_t log_number)
{
    snprintf(out, NAME_MAX, ASIDE "%" PRIu64, log_number);
}

int cs_review_put_aside(cs_replica *r, const struct cs_review_aside *a, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    char name[NAME_MAX];
    int rc;

    cs_buf_put_u8(&b, FORM);
    cs_buf_put_u8(&b, a->follows);
    cs_buf_put_u64(&b, a->log_id);
    cs_buf_put_u64(&b, (uint64_t)a->noticed_ms);
    cs_buf_put(&b, a->device.b, sizeof a->device.b);
    cs_buf_put(&b, a->hash, sizeof a->hash);
    cs_buf_put_str(&b, a->finding);
    name_of(name, a->log_number);
    rc = b.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_replica_meta_set(r, name, cs_buf_slice(&b), err);
    cs_buf_free(&b);
    return rc;
}

int cs_review_drop_aside(cs_replica *r, uint64_t log_number, struct cs_error *err)
{
    char name[NAME_MAX];

    name_of(name, log_number);
    return cs_replica_meta_drop(r, name, err);
}

/* finding: into `text`. A note of another form has its finding only. */
static int decode(struct cs_slice value, struct cs_review_aside *a, struct cs_buf *text, struct cs_error *err)
{
    struct cs_reader in = cs_reader(value);

    if (value.len >= HEAD_LEN && value.data[0] == FORM) {
        cs_read_u8(&in);
        a->follows = cs_read_u8(&in) != 0;
        a->log_id = cs_read_u64(&in);
        a->noticed_ms = (int64_t)cs_read_u64(&in);
        cs_read_into(&in, a->device.b, sizeof a->device.b);
        cs_read_into(&in, a->hash, sizeof a->hash);
    }
    cs_buf_reset(text);
    cs_buf_put_slice(text, cs_read_bytes(&in, cs_reader_left(&in)));
    cs_buf_put_u8(text, 0);
    a->finding = (const char *)text->data;
    return text->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

int cs_review_aside(cs_replica *r, int (*fn)(void *arg, const struct cs_review_aside *a), void *arg,
                    struct cs_error *err)
{
    static const char sql[] = "SELECT CAST(substr(name, length('" ASIDE "') + 1) AS INTEGER) AS n, CAST(value AS BLOB) "
                              "FROM main.sync_meta WHERE name GLOB '" ASIDE "*' ORDER BY n";
    struct cs_buf text = { 0 };
    sqlite3_stmt *s = NULL;
    bool stop = false;
    int rc = CS_OK;

    if (r->bare)
        return CS_OK;
    if (sqlite3_prepare_v2(r->db, sql, -1, &s, NULL) != SQLITE_OK)
        return cs_db_fail(r, err, "cannot read which batches were set aside");
    while (!stop && cs_db_row(r, s, &rc, "cannot read which batches were set aside", err)) {
        struct cs_review_aside a = { .log_number = (uint64_t)sqlite3_column_int64(s, 0) };

        if ((rc = decode(cs_db_column_blob(s, 1), &a, &text, err)) == CS_OK)
            stop = fn(arg, &a) != 0;
    }
    sqlite3_finalize(s);
    cs_buf_free(&text);
    return rc;
}

/* What is noted of a log that is no more is not missing. */
struct lack {
    uint64_t log_id;
    bool found;
};

static int is_lacking(void *arg, const struct cs_review_aside *a)
{
    struct lack *l = arg;

    l->found = a->log_id == l->log_id && !cs_review_never_counts(a);
    return l->found;
}

int cs_review_lacks(cs_replica *r, uint64_t log_id, bool *out, struct cs_error *err)
{
    struct lack l = { .log_id = log_id };
    int rc = cs_review_aside(r, is_lacking, &l, err);

    *out = l.found;
    return rc;
}

bool cs_review_never_counts(const struct cs_review_aside *a)
{
    return strncmp(a->finding, "PAST_CUT:", 9) == 0;
}

int cs_review_aside_settled(cs_replica *r, struct cs_error *err)
{
    return r->bare ? CS_OK : cs_db_exec(r, "DELETE FROM main.sync_meta WHERE name GLOB '" ASIDE "*'", err);
}

/* ---- once more ---- */

int cs_review_ask_retry(cs_replica *r, struct cs_error *err)
{
    return cs_replica_meta_set(r, retry, cs_slice_str("1"), err);
}

int cs_review_retry_asked(cs_replica *r, bool *out, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = r->bare ? CS_ENOTFOUND : cs_replica_meta_get(r, retry, &b, err);

    cs_buf_free(&b);
    *out = rc == CS_OK;
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

int cs_review_retry(cs_replica *r, struct cs_error *err)
{
    int rc = cs_replica_project_again(r, err);

    return rc == CS_OK ? cs_replica_meta_drop(r, retry, err) : rc;
}
