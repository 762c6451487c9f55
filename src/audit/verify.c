#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audit/internal.h"

/* Rows whose signatures wait to be verified: what a run holds of the log at once. */
enum { WAITING = 8192, THREADS_MAX = 64, WORTH_A_THREAD = 16 };

struct waiting {
    uint8_t hash[32];
    uint8_t signature[CS_SIGNATURE_LEN];
};

struct run {
    const uint8_t *key;
    struct waiting *rows; /* owned; WAITING of them */
    size_t n;
    uint64_t first; /* the sequence of rows[0] */
    unsigned threads;
    struct cs_audit_verdict *verdict;
};

/* A thread's share: rows from, from + step, … */
struct share {
    const struct run *run;
    size_t from, step;
    size_t broken; /* the first that fails; n: none */
};

static void *verify_share(void *arg)
{
    struct share *x = arg;

    for (size_t i = x->from; i < x->run->n && x->broken == x->run->n; i += x->step)
        if (!cs_verify_digest(x->run->key, x->run->rows[i].hash, x->run->rows[i].signature))
            x->broken = i;
    return NULL;
}

static void broken(struct cs_audit_verdict *v, uint64_t at, const char *why)
{
    if (!v->ok && v->first_broken_at <= at)
        return;
    v->ok = false;
    v->first_broken_at = at;
    snprintf(v->broken_reason, sizeof v->broken_reason, "%s", why);
}

/* What waits is verified, on as many threads as can be had. */
static void verify_waiting(struct run *x)
{
    struct share shares[THREADS_MAX];
    pthread_t ids[THREADS_MAX];
    bool running[THREADS_MAX] = { false };
    size_t least = x->n;
    unsigned threads = x->n < (size_t)x->threads * WORTH_A_THREAD ? 1 : x->threads;

    for (unsigned i = 0; i < threads; i++)
        shares[i] = (struct share){ .run = x, .from = i, .step = threads, .broken = x->n };
    for (unsigned i = 1; i < threads; i++)
        running[i] = pthread_create(&ids[i], NULL, verify_share, &shares[i]) == 0;
    for (unsigned i = 0; i < threads; i++)
        if (!running[i])
            verify_share(&shares[i]);
    for (unsigned i = 0; i < threads; i++) {
        if (running[i])
            pthread_join(ids[i], NULL);
        if (shares[i].broken < least)
            least = shares[i].broken;
    }
    if (least < x->n)
        broken(x->verdict, x->first + least, "the signature is not this device's over this row");
    x->n = 0;
}

/* NULL, or what is wrong with the row behind `prev`. */
static const char *look_at(const struct cs_audit_owner *owner, const uint8_t key[32], const struct cs_audit_row *row,
                           uint64_t sequence, const uint8_t prev[32])
{
    uint8_t hash[32];

    if (row->sequence != sequence)
        return row->sequence > sequence ? "a row is missing" : "the sequence begins below 1";
    if (cs_uuid_cmp(&row->owner.workspace, &owner->workspace) != 0)
        return "the row is another workspace's";
    if (cs_uuid_cmp(&row->owner.device, &owner->device) != 0)
        return "the row is another device's";
    if (memcmp(row->prev_entry_hash, prev, 32) != 0)
        return "prev_entry_hash is not the hash of the row before";
    if (memcmp(row->signer_pub_key, key, 32) != 0)
        return "signer_pub_key is not the key that the membership log has for this device";
    cs_hash_plain(row->payload, hash);
    return memcmp(hash, row->payload_hash, 32) == 0 ? NULL : "payload_hash is not the payload's";
}

static int verify_rows(cs_audit *a, struct run *x, sqlite3_stmt *s, const struct cs_audit_anchor *anchors,
                       size_t nanchors, struct cs_error *err)
{
    struct cs_audit_verdict *v = x->verdict;
    uint64_t next = 1;
    uint8_t prev[32];
    int step = SQLITE_DONE, rc = CS_OK;

    cs_audit_start(&a->owner, prev);
    while (v->ok && rc == CS_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        struct cs_audit_row row;
        const char *why = cs_audit_row_of(s, &row);
        char column[80];

        v->rows++;
        if (why != NULL) {
            snprintf(column, sizeof column, "%s is of the wrong type or length", why);
            why = column;
        } else {
            why = look_at(&a->owner, x->key, &row, next, prev);
        }
        if (why != NULL) {
            broken(v, next, why);
            break;
        }
        cs_buf_reset(&a->bytes);
        if ((rc = cs_audit_row_bytes(&a->bytes, &row, NULL)) == CS_EINVAL) {
            rc = CS_OK;
            broken(v, next, "a column is too long");
            break;
        }
        cs_hash_label("audit row", cs_buf_slice(&a->bytes), prev);
        if (x->n == 0)
            x->first = next;
        memcpy(x->rows[x->n].hash, prev, 32);
        memcpy(x->rows[x->n++].signature, row.signature, CS_SIGNATURE_LEN);
        for (; nanchors > 0 && anchors->sequence <= next; nanchors--, anchors++)
            if (anchors->sequence == next && memcmp(anchors->hash, prev, 32) != 0)
                broken(v, next, "a batch header names another row here");
        next++;
        if (x->n == WAITING)
            verify_waiting(x);
    }
    verify_waiting(x); /* those before a broken row may be broken, too */
    if (rc != CS_OK)
        return cs_fail(err, rc, "out of memory");
    if (step != SQLITE_DONE && step != SQLITE_ROW)
        return cs_audit_fail_db(a, "read it", err);
    if (v->ok && nanchors > 0)
        broken(v, next, "rows that a batch header names are missing at the end");
    return CS_OK;
}

int cs_audit_verify(cs_audit *a, const uint8_t key[32], const struct cs_audit_anchor *anchors, size_t nanchors,
                    unsigned threads, struct cs_audit_verdict *out, struct cs_error *err)
{
    struct run x = { .key = key, .verdict = out };
    sqlite3_stmt *s;
    int rc;

    *out = (struct cs_audit_verdict){ .ok = true };
    x.threads = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
    /* from the lowest number there can be: a row below 1 is no row of ours */
    if ((s = cs_audit_walk(a, 0, err)) == NULL || sqlite3_bind_int64(s, 1, INT64_MIN) != SQLITE_OK)
        return CS_EIO;
    if ((x.rows = malloc(WAITING * sizeof *x.rows)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    rc = verify_rows(a, &x, s, anchors, nanchors, err);
    sqlite3_reset(s);
    free(x.rows);
    return rc;
}
