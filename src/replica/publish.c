/* The merged state, whole, on its way out: where it has come to is kept as "publish" in sync_meta, table u64 ‖ key of
 * the last row that is bound; table 0: none yet. */
#include "replica/store.h"

static const char name[] = "publish";

int cs_publish_save(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc;

    cs_buf_put_u64(&b, (uint64_t)table);
    cs_buf_put_slice(&b, key);
    rc = b.failed ? cs_fail(err, CS_ENOMEM, "out of memory") : cs_meta_put(r, name, cs_buf_slice(&b), err);
    cs_buf_free(&b);
    return rc;
}

int cs_publish_load(struct cs_replica *r, struct cs_arena *a, int64_t *table, struct cs_slice *key,
                    struct cs_error *err)
{
    struct cs_buf b = { 0 };
    int rc = cs_replica_meta_get(r, name, &b, err);

    if (rc == CS_OK && b.len < 8)
        rc = cs_fail(err, CS_ECORRUPT, "our record \"%s\" in the database is damaged", name);
    if (rc == CS_OK) {
        *table = (int64_t)cs_load_u64(b.data);
        *key = cs_arena_copy(a, cs_slice(b.data + 8, b.len - 8));
        rc = key->data == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
    }
    cs_buf_free(&b);
    return rc;
}

int cs_publish_end(struct cs_replica *r, struct cs_error *err)
{
    return cs_meta_drop(r, name, err);
}

int cs_replica_publishable(const cs_replica *r, struct cs_error *err)
{
    for (size_t i = 0; i < r->ntables; i++)
        if (r->tables[i].state == CS_PAUSED)
            return cs_fail(err, CS_EINVAL,
                           "table \"%s\" is paused, so what is in it cannot be sent; claw-sync resume first",
                           r->tables[i].name);
    return CS_OK;
}

int cs_replica_publish(cs_replica *r, struct cs_error *err)
{
    return cs_publish_save(r, 0, CS_SLICE_NULL, err);
}

int cs_replica_publishing(cs_replica *r, bool *out, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    struct cs_error none = { 0 };
    int rc = r->bare ? CS_ENOTFOUND : cs_replica_meta_get(r, name, &b, &none);

    *out = rc == CS_OK;
    cs_buf_free(&b);
    if (rc == CS_OK || rc == CS_ENOTFOUND)
        return CS_OK;
    if (err != NULL)
        *err = none;
    return rc;
}
