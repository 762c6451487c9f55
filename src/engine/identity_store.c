/* What says who this device is: the keystore, the membership log, and an entry that waits to be registered. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

enum { LOG_MAX = 64 * 1024 * 1024 };

static int no_memory(struct cs_error *err)
{
    return cs_fail(err, CS_ENOMEM, "out of memory");
}

static const char *join_path(struct clawsync_engine *e, const char *dir, const char *name)
{
    size_t n = strlen(dir) + 1 + strlen(name) + 1;
    char *p = cs_arena_alloc(&e->strings, n);

    if (p != NULL)
        snprintf(p, n, "%s/%s", dir, name);
    return p;
}

static int make_paths(struct clawsync_engine *e, struct cs_error *err)
{
    if ((e->identity_dir = join_path(e, e->config.data_dir, "identity")) == NULL ||
        (e->keystore_path = join_path(e, e->identity_dir, "keystore")) == NULL ||
        (e->members_path = join_path(e, e->identity_dir, "membership.log")) == NULL ||
        (e->pending_path = join_path(e, e->identity_dir, "pending-entry")) == NULL)
        return no_memory(err);
    return CS_OK;
}

/* ---- the membership log ---- */

void cs_self_members_reset(struct clawsync_engine *e)
{
    cs_membership_free(&e->members);
    e->members = (struct cs_membership){ .workspace = e->workspace };
    cs_buf_reset(&e->member_log);
    cs_buf_reset(&e->entry_hashes);
    e->member_log_dirty = false;
    e->recorded_seq = e->members_lost ? e->ks->member_seq : 0;
    e->bad_wrap = 0;
}

const uint8_t *cs_entry_hash_at(const struct clawsync_engine *e, uint32_t seq)
{
    return seq == 0 || seq > e->members.seq ? NULL : e->entry_hashes.data + (size_t)(seq - 1) * 32;
}

int cs_self_members_add(struct clawsync_engine *e, struct cs_slice entry, int64_t hub_time_ms, struct cs_error *err)
{
    uint8_t *hash;
    int rc;

    if (!cs_buf_reserve(&e->member_log, 4 + entry.len) || !cs_buf_reserve(&e->entry_hashes, 32)) {
        e->member_log.failed = e->entry_hashes.failed = false; /* what they hold is whole; there may be memory later */
        return no_memory(err);
    }
    if ((rc = cs_membership_apply(&e->members, entry, hub_time_ms, err)) != CS_OK)
        return rc;
    cs_buf_put_u32(&e->member_log, (uint32_t)entry.len);
    cs_buf_put_slice(&e->member_log, entry);
    hash = cs_buf_grow(&e->entry_hashes, 32);
    memcpy(hash, e->members.head, 32);
    e->member_log_dirty = true;
    cs_log_update(e);
    return CS_OK;
}

struct cs_slice cs_self_entry(const struct clawsync_engine *e, uint32_t seq)
{
    struct cs_reader r = cs_reader(cs_buf_slice(&e->member_log));

    while (cs_reader_left(&r) > 0) {
        struct cs_slice entry = cs_read_bytes(&r, cs_read_u32(&r));

        if (!r.bad && cs_entry_seq(entry) == seq)
            return entry;
    }
    return CS_SLICE_NULL;
}

/* The keys from the one after our newest up to this: each is boxed under the one behind it. */
static int add_epochs(struct clawsync_engine *e, uint32_t epoch, const uint8_t key[32], struct cs_error *err)
{
    uint32_t have = e->ks->nepochs == 0 ? 0 : e->ks->epochs[e->ks->nepochs - 1].epoch, n = epoch - have;
    struct cs_epoch_keys *chain;
    int rc = CS_OK;

    if (epoch <= have)
        return CS_OK;
    if ((chain = cs_secret_alloc(n * sizeof *chain)) == NULL)
        return no_memory(err);
    cs_epoch_keys_derive(&chain[n - 1], key, &e->workspace, epoch);
    for (uint32_t i = n - 1; i > 0 && rc == CS_OK; i--)
        rc = cs_epoch_older(&chain[i - 1], &e->members, &chain[i], err);
    for (uint32_t i = 0; i < n && rc == CS_OK; i++)
        rc = cs_keystore_add_epoch(e->ks, chain[i].epoch, chain[i].key, err);
    cs_secret_free(chain);
    return rc;
}

/* A share that does not open, or is of another key, is its author's fault and no reason to read no further: a later
 * entry may bring the key of a later epoch, and with it this one's. */
int cs_self_take_keys(struct clawsync_engine *e, struct cs_slice entry, struct cs_error *err)
{
    uint8_t wrap[CS_WRAP_LEN], key[32];
    const struct cs_epoch_mark *mark;
    uint32_t epoch;
    int rc;

    if (cs_entry_wrap(entry, &e->device, &epoch, wrap) != CS_OK || cs_keystore_epoch(e->ks, epoch) != NULL ||
        (mark = cs_membership_epoch(&e->members, epoch)) == NULL)
        return CS_OK;
    rc = cs_wrap_open(key, wrap, e->keys, &e->workspace, epoch, mark->commitment, err);
    if (rc == CS_OK)
        rc = add_epochs(e, epoch, key, err);
    cs_wipe(key, sizeof key);
    if (rc != CS_EAUTH)
        return rc;
    e->bad_wrap = cs_entry_seq(entry);
    return CS_OK;
}

int cs_self_check_keys(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_uuid author = { 0 };
    char id[CS_UUID_TEXT], name[64] = "", shown[80] = "", message[300];
    const struct cs_member *m;
    int rc;

    if (cs_keystore_epoch(e->ks, e->members.epoch) != NULL)
        return CS_OK;
    if (e->bad_wrap == 0)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    cs_entry_author(cs_self_entry(e, e->bad_wrap), &author);
    cs_uuid_text(id, &author);
    if ((m = cs_membership_find(&e->members, &author)) != NULL &&
        cs_member_name(m, e->ks->epochs, e->ks->nepochs, name) && name[0] != '\0')
        snprintf(shown, sizeof shown, " (%s)", name);
    snprintf(message, sizeof message,
             "BAD_WRAP: device %s%s changed the workspace's key in entry %" PRIu32
             " and did not share it rightly with this device; have another device run: claw-sync keys rotate",
             id, shown, e->bad_wrap);
    if ((rc = cs_record_bad_entry(e, id, e->bad_wrap, message, err)) != CS_OK)
        return rc;
    cs_note(e, CLAWSYNC_EVENT_SYNC_ERROR, CS_ECORRUPT, "BAD_WRAP", "%s", message);
    return cs_fail(err, CS_EAUTH, "%s", message);
}

void cs_self_find_floor(struct clawsync_engine *e)
{
    const struct cs_member *self = cs_membership_find(&e->members, &e->device), *by;

    e->floor = (struct cs_floor){ 0 };
    if (self != NULL && (by = cs_membership_find(&e->members, &self->added_by)) != NULL &&
        by->kind != CS_PRINCIPAL_DEVICE)
        cs_entry_floor(cs_self_entry(e, by->added_seq), &e->floor);
    if (e->members.refills > 0) /* of a log that is over there is no other floor */
        e->floor = e->members.refill;
}

int cs_self_members_save(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;
    int rc;

    cs_self_find_floor(e);
    if (!e->member_log_dirty || e->beside || (e->members_lost && e->members.seq < e->ks->member_seq))
        return CS_OK;
    if ((rc = cs_record_members(e, err)) != CS_OK)
        return rc;
    rc = f->ops->write_atomic(f->self, e->members_path, cs_buf_slice(&e->member_log), 0600, err);
    if (rc != CS_OK)
        return rc;
    memcpy(e->ks->genesis, e->members.genesis, 32);
    e->ks->member_seq = e->members.seq;
    memcpy(e->ks->entry_hash, e->members.head, 32);
    if ((rc = cs_self_save(e, err)) == CS_OK)
        e->member_log_dirty = false;
    return rc;
}

/* A file that is lost or damaged: the hub has the entries, and the keystore knows what they are to be. Not so where
 * nothing may be written, and where it is not the file's fault. */
static int members_lost(struct clawsync_engine *e, int rc, struct cs_error *err)
{
    if (rc == CS_EIO || rc == CS_ENOMEM || rc == CS_EVERSION || e->ks->member_seq == 0)
        return rc;
    if (e->beside) {
        struct cs_error why = *err;

        return cs_fail(err, CS_ECORRUPT, "%s; claw-sync sync fetches it from the hub again", why.msg);
    }
    e->members_lost = true;
    cs_self_members_reset(e);
    return CS_OK;
}

static int members_read(struct clawsync_engine *e, struct cs_error *err)
{
    static const uint8_t zero[32];
    struct cs_files *f = &e->world->files;
    struct cs_buf bytes = { 0 };
    struct cs_reader r;
    const uint8_t *pinned;
    int rc = f->ops->read(f->self, e->members_path, LOG_MAX, &bytes, err);

    cs_self_members_reset(e);
    if (rc == CS_ENOTFOUND && e->ks->member_seq == 0)
        rc = CS_OK;
    else if (rc == CS_ENOTFOUND)
        rc = cs_fail(err, CS_ECORRUPT, "%s is missing, which the keystore knows %u entries of", e->members_path,
                     e->ks->member_seq);
    r = cs_reader(cs_buf_slice(&bytes));
    while (rc == CS_OK && cs_reader_left(&r) > 0) {
        struct cs_slice entry = cs_read_bytes(&r, cs_read_u32(&r));

        if (r.bad)
            rc = cs_fail(err, CS_ECORRUPT, "%s is cut off", e->members_path);
        else if ((rc = cs_self_members_add(e, entry, 0, err)) != CS_OK)
            cs_fail_context(err, "%s", e->members_path);
        else /* the log is written before the keystore: a key in it may be there alone */
            rc = cs_self_take_keys(e, entry, err);
    }
    pinned = cs_entry_hash_at(e, e->ks->member_seq);
    if (rc == CS_OK && e->ks->member_seq > 0 && (pinned == NULL || memcmp(pinned, e->ks->entry_hash, 32) != 0))
        rc = cs_fail(err, CS_ECORRUPT, "%s is not the log that the keystore knows", e->members_path);
    if (rc == CS_OK && e->members.seq > 0 && memcmp(e->ks->genesis, zero, 32) != 0 &&
        memcmp(e->ks->genesis, e->members.genesis, 32) != 0)
        rc = cs_fail(err, CS_ECORRUPT, "%s begins with another workspace's genesis", e->members_path);
    cs_buf_free(&bytes);
    return rc;
}

static int members_load(struct clawsync_engine *e, struct cs_error *err)
{
    int rc = members_read(e, err);

    if (rc != CS_OK)
        rc = members_lost(e, rc, err);
    e->member_log_dirty = false;
    if (!e->members_lost)
        e->recorded_seq = e->members.seq;
    cs_self_find_floor(e);
    return rc;
}

/* ---- an entry that waits to be registered ---- */

int cs_self_pending(struct clawsync_engine *e, struct cs_buf *entry, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;

    cs_buf_reset(entry);
    return f->ops->read(f->self, e->pending_path, CS_ENTRY_MAX, entry, err);
}

int cs_self_pending_save(struct clawsync_engine *e, struct cs_slice entry, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;

    return f->ops->write_atomic(f->self, e->pending_path, entry, 0600, err);
}

int cs_self_pending_drop(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;
    int rc = f->ops->remove(f->self, e->pending_path, err);

    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

/* ---- the keystore ---- */

int cs_self_save(struct clawsync_engine *e, struct cs_error *err)
{
    if (e->beside)
        return CS_OK;
    return cs_keystore_save(e->ks, e->world, &e->rng, e->keystore_path, e->passphrase, err);
}

static int keystore_new(struct clawsync_engine *e, const struct cs_uuid *wanted, struct cs_error *err)
{
    if ((e->ks = cs_keystore_new()) == NULL || (e->ks->incarnations = calloc(1, sizeof(uint64_t))) == NULL)
        return no_memory(err);
    e->ks->workspace = e->workspace;
    if (wanted != NULL)
        e->ks->device = *wanted;
    else
        cs_random_uuid(&e->rng, &e->ks->device);
    cs_random(&e->rng, e->ks->device_secret, sizeof e->ks->device_secret);
    e->ks->incarnations[0] = cs_random_u64_nonzero(&e->rng);
    e->ks->nincarnations = 1;
    return CS_OK;
}

static int keys_derive(struct clawsync_engine *e, struct cs_error *err)
{
    e->device = e->ks->device;
    cs_uuid_text(e->device_text, &e->device);
    if (e->keys == NULL && (e->keys = cs_secret_alloc(sizeof *e->keys)) == NULL)
        return no_memory(err);
    cs_device_keys_derive(e->keys, CS_PRINCIPAL_DEVICE, cs_slice(e->ks->device_secret, 32), &e->workspace);
    memcpy(e->rng.hedge, e->keys->hedge, sizeof e->rng.hedge);
    e->incarnation = e->ks->nincarnations > 0 ? e->ks->incarnations[e->ks->nincarnations - 1] : 0;
    if (e->incarnation == 0)
        return cs_fail(err, CS_ECORRUPT, "%s names no incarnation", e->keystore_path);
    return CS_OK;
}

static int keystore_fits(struct clawsync_engine *e, const struct cs_uuid *wanted, struct cs_error *err)
{
    char have[CS_UUID_TEXT];

    if (cs_uuid_cmp(&e->ks->workspace, &e->workspace) != 0) {
        cs_uuid_text(have, &e->ks->workspace);
        return cs_fail(err, CS_EEXIST,
                       "%s belongs to workspace %s; use another data_dir (CLAW_DATA_DIR) for workspace %s",
                       e->config.data_dir, have, e->workspace_text);
    }
    if (wanted != NULL && cs_uuid_cmp(&e->ks->device, wanted) != 0) {
        cs_uuid_text(have, &e->ks->device);
        return cs_fail(err, CS_EEXIST,
                       "%s belongs to device %s; leave device_id (CLAW_DEVICE_ID) out, or use another data_dir",
                       e->config.data_dir, have);
    }
    return CS_OK;
}

/* Whatever passphrase is given, it does not open. */
static bool is_damaged(const struct clawsync_engine *e, int rc)
{
    return rc == CS_ECORRUPT || (rc == CS_EAUTH && !cs_keystore_is_protected(e->world, e->keystore_path));
}

static int keystore_damaged(int rc, struct cs_error *err)
{
    struct cs_error why = *err;

    return cs_fail(err, rc,
                   "%.300s; give the data_dir of a backup, or without one: claw-sync identity new, then claw-sync join "
                   "CODE",
                   why.msg);
}

int cs_self_open(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_uuid wanted = { 0 }, *wants = NULL;
    bool damaged;
    int rc = make_paths(e, err);

    if (rc != CS_OK)
        return rc;
    if (e->config.device_id != NULL && cs_uuid_parse(&wanted, e->config.device_id))
        wants = &wanted;
    rc = cs_keystore_load(&e->ks, e->world, e->keystore_path, e->passphrase, err);
    damaged = is_damaged(e, rc);
    if ((rc == CS_ENOTFOUND && !e->beside) || (damaged && e->renewing))
        rc = keystore_new(e, wants, err);
    else if (damaged)
        rc = keystore_damaged(rc, err);
    else if (rc == CS_OK)
        rc = keystore_fits(e, wants, err);
    if (rc != CS_OK)
        return rc;
    if ((rc = keys_derive(e, err)) != CS_OK)
        return rc;
    if (damaged) { /* nor is what the membership was of any use to another device */
        snprintf(e->damaged, sizeof e->damaged, "keystore.damaged.%s", e->device_text);
        return CS_OK;
    }
    return members_load(e, err);
}

/* The old keystore under its device's name, or, where nobody can tell that, one of its own; there already: an earlier
 * try came so far. */
static int keep_old(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;
    struct cs_buf bytes = { 0 };
    char name[64];
    const char *path;
    int rc = f->ops->read(f->self, e->keystore_path, LOG_MAX, &bytes, err);

    snprintf(name, sizeof name, "keystore.%s", e->device_text);
    if (rc == CS_OK && (path = join_path(e, e->identity_dir, e->damaged[0] != '\0' ? e->damaged : name)) == NULL)
        rc = no_memory(err);
    else if (rc == CS_OK && (rc = f->ops->write_new(f->self, path, cs_buf_slice(&bytes), 0600, err)) == CS_EEXIST)
        rc = CS_OK;
    if (bytes.data != NULL)
        cs_wipe(bytes.data, bytes.cap);
    cs_buf_free(&bytes);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

static int count_waiting(struct clawsync_engine *e, size_t *out, struct cs_error *err)
{
    struct cs_arena arena = { 0 };
    struct cs_bound *bound = NULL;
    size_t n = 0;
    int rc = cs_replica_bound(e->replica, &arena, false, &bound, &n, err);

    *out = 0;
    for (size_t i = 0; i < n && rc == CS_OK; i++)
        *out += bound[i].state == CS_BOUND_WAITING;
    cs_arena_free(&arena);
    return rc;
}

/* The new keystore is there before the database is its device's: between the two it is as if the old one were lost, and
 * a second try goes on from there. */
int cs_self_renew(struct clawsync_engine *e, size_t *lost, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;
    struct cs_replica_identity id = { e->workspace, { { 0 } }, 0 }, have = { 0 };
    char text[CS_UUID_TEXT];
    int rc;

    cs_replica_identity(e->replica, &have);
    if (!cs_uuid_is_zero(&have.workspace) && cs_uuid_cmp(&have.workspace, &e->workspace) != 0) {
        cs_uuid_text(text, &have.workspace);
        return cs_fail(err, CS_EEXIST, "%s belongs to workspace %s; use that workspace id", e->config.db_path, text);
    }
    if (cs_uuid_cmp(&have.device, &e->device) != 0)
        rc = count_waiting(e, lost, err);
    else if ((rc = f->ops->mkdir(f->self, e->config.data_dir, 0700, err)) == CS_OK &&
             (rc = cs_offline_open(e, err)) == CS_OK && (rc = cs_offline_take_all(e, err)) == CS_OK)
        rc = cs_push_take_back(e, err);
    if (rc != CS_OK || (rc = keep_old(e, err)) != CS_OK)
        return rc;
    cs_keystore_free(e->ks);
    e->ks = NULL;
    if ((rc = keystore_new(e, NULL, err)) != CS_OK || (rc = keys_derive(e, err)) != CS_OK ||
        (rc = f->ops->mkdir(f->self, e->config.data_dir, 0700, err)) != CS_OK ||
        (rc = f->ops->mkdir(f->self, e->identity_dir, 0700, err)) != CS_OK || (rc = cs_self_save(e, err)) != CS_OK)
        return rc;
    if ((rc = f->ops->remove(f->self, e->members_path, err)) != CS_OK && rc != CS_ENOTFOUND)
        return rc;
    if ((rc = cs_self_pending_drop(e, err)) != CS_OK)
        return rc;
    id.device = e->device;
    id.incarnation = e->incarnation;
    return cs_replica_new_device(e->replica, &id, err);
}

int cs_self_fits_database(const struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_replica_identity have = { 0 };
    char text[CS_UUID_TEXT];

    cs_replica_identity(e->replica, &have);
    if (!cs_uuid_is_zero(&have.workspace) && cs_uuid_cmp(&have.workspace, &e->workspace) != 0) {
        cs_uuid_text(text, &have.workspace);
        return cs_fail(err, CS_EEXIST, "%s belongs to workspace %s; untrack its tables first, or use that workspace id",
                       e->config.db_path, text);
    }
    if (!cs_uuid_is_zero(&have.device) && cs_uuid_cmp(&have.device, &e->device) != 0) {
        cs_uuid_text(text, &have.device);
        return cs_fail(err, CS_EEXIST,
                       "%s was replicated by device %s, whose keys are not in %s; give that device's data_dir "
                       "(CLAW_DATA_DIR), or, if it is lost, make this a new device with: claw-sync identity new, then "
                       "claw-sync join CODE",
                       e->config.db_path, text, e->config.data_dir);
    }
    return CS_OK;
}

/* The database is what decides who we are in it: nothing is written to data_dir before it agreed. */
int cs_self_save_first(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;
    struct cs_file_info info;
    int rc = cs_self_fits_database(e, err);

    if (rc != CS_OK)
        return rc;
    if (f->ops->stat(f->self, e->keystore_path, &info, NULL) != CS_OK) {
        if ((rc = f->ops->mkdir(f->self, e->config.data_dir, 0700, err)) != CS_OK ||
            (rc = f->ops->mkdir(f->self, e->identity_dir, 0700, err)) != CS_OK || (rc = cs_self_save(e, err)) != CS_OK)
            return rc;
    }
    return cs_incarnation_open(e, err);
}
