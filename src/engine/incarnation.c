/* Incarnations: a number for each life of this device's database with its keystore. A database that is older than what
 * the device has sent, or stands in another place, may be a copy: then nothing is bound before a pull has fetched what
 * the device sent and this database does not know, and it goes on under a new number. Whoever meets batches of its own
 * with a number that it never had, and has been through this itself, knows that another copy is at work. */
#include <inttypes.h>
#include <stdlib.h>

#include "engine/engine.h"

enum { KEPT = 4096, ID_MAX = 256 };

static int inode_of(struct clawsync_engine *e, const char *path, struct cs_file_info *out, struct cs_error *err)
{
    return e->world->files.ops->stat(e->world->files.self, path, out, err);
}

/* H("place", machine-id ‖ device and inode of data_dir ‖ inode of the database). */
static int place_now(struct clawsync_engine *e, uint8_t out[32], struct cs_error *err)
{
    struct cs_file_info dir, db;
    struct cs_buf m = { 0 };
    int rc;

    if ((rc = inode_of(e, e->config.data_dir, &dir, err)) != CS_OK ||
        (rc = inode_of(e, e->config.db_path, &db, err)) != CS_OK)
        return rc;
    /* where there is no such file the rest must do */
    e->world->files.ops->read(e->world->files.self, "/etc/machine-id", ID_MAX, &m, NULL);
    cs_buf_put_u64(&m, dir.device);
    cs_buf_put_u64(&m, dir.inode);
    cs_buf_put_u64(&m, db.inode);
    if (m.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    else
        cs_hash_label("place", cs_buf_slice(&m), out);
    cs_buf_free(&m);
    return rc;
}

bool cs_incarnation_had(const struct clawsync_engine *e, uint64_t incarnation)
{
    for (uint16_t i = 0; i < e->ks->nincarnations; i++)
        if (e->ks->incarnations[i] == incarnation)
            return true;
    return false;
}

/* The newest last; the oldest are forgotten, whose batches are far behind. */
static int add(struct cs_keystore *ks, uint64_t incarnation, struct cs_error *err)
{
    uint64_t *list;

    if (ks->nincarnations >= KEPT)
        memmove(ks->incarnations, ks->incarnations + 1, --ks->nincarnations * sizeof *ks->incarnations);
    list = realloc(ks->incarnations, ((size_t)ks->nincarnations + 1) * sizeof *list);
    if (list == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    ks->incarnations = list;
    list[ks->nincarnations++] = incarnation;
    return CS_OK;
}

/* Does the keystore know more of what this device sent and pulled than the database? */
static bool is_older(struct clawsync_engine *e)
{
    const struct cs_keystore *ks = e->ks;
    struct cs_pull_mark mark;
    uint64_t number;
    uint8_t hash[32];

    cs_replica_pull_mark(e->replica, &mark);
    cs_replica_chain(e->replica, &number, hash);
    return number < ks->own_number || (number == ks->own_number && memcmp(hash, ks->own_hash, 32) != 0) ||
           ((mark.log_id == ks->log_id || mark.log_id == 0) && mark.number < ks->log_number);
}

int cs_incarnation_open(struct clawsync_engine *e, struct cs_error *err)
{
    static const uint8_t unknown[32];
    struct cs_replica_identity id = { e->workspace, e->device, e->incarnation }, have;
    uint8_t place[32];
    int rc = place_now(e, place, err);

    if (rc != CS_OK)
        return rc;
    if (memcmp(e->ks->place, unknown, 32) == 0)
        memcpy(e->ks->place, place, 32);
    cs_replica_identity(e->replica, &have);
    if (have.incarnation != 0 && have.incarnation != e->incarnation) {
        /* the database keeps its own until what was missing is there: the difference must be seen again */
        e->recovering = true;
        return cs_incarnation_had(e, have.incarnation) ? CS_OK : add(e->ks, have.incarnation, err);
    }
    e->recovering = memcmp(e->ks->place, place, 32) != 0 || is_older(e);
    return cs_replica_set_identity(e->replica, &id, err);
}

/* What the keystore knows that this device sent is in the log of a hub that hides nothing. */
static int check_own(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_keystore *ks = e->ks;
    uint64_t number;
    uint8_t hash[32];

    cs_replica_chain(e->replica, &number, hash);
    if (ks->log_id != e->head.log_id)
        return CS_OK;
    if (number < ks->own_number)
        return cs_fail(err, CS_EHUB,
                       "HUB_ROLLBACK: the hub's log ends with batch %" PRIu64
                       " of this device, it had acknowledged %" PRIu64,
                       number, ks->own_number);
    if (number == ks->own_number && memcmp(hash, ks->own_hash, 32) != 0)
        return cs_fail(
            err, CS_EHUB,
            "HUB_FORK: the hub's log has another batch %" PRIu64 " of this device than the one that was sent", number);
    return CS_OK;
}

int cs_incarnation_settle(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_replica_identity id = { e->workspace, e->device, cs_random_u64_nonzero(&e->rng) };
    int rc;

    if ((rc = check_own(e, err)) != CS_OK)
        return rc;
    if ((rc = add(e->ks, id.incarnation, err)) != CS_OK || (rc = place_now(e, e->ks->place, err)) != CS_OK ||
        (rc = cs_self_save(e, err)) != CS_OK || (rc = cs_replica_set_identity(e->replica, &id, err)) != CS_OK)
        return rc;
    if (e->fetched_back > 0)
        cs_note(e, CLAWSYNC_EVENT_WARNING, 0, "",
                "the database was restored from an older copy, or this device was copied: %" PRIu64
                " of its batches were fetched back from the hub",
                e->fetched_back);
    e->incarnation = id.incarnation;
    e->fetched_back = 0;
    e->recovering = false;
    return CS_OK;
}
