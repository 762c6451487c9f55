#include <stdio.h>

#include "cli/cli.h"
#include "cli/status.h"
#include "crypto/keystore.h"
#include "replica/replica.h"

int cs_cli_open_replica(const struct cs_cli *c, bool read_only, struct cs_replica_options *options, cs_replica **out,
                        clawsync_error *err)
{
    struct cs_replica_options o = { .path = c->config.db_path,
                                    .load_extension = c->config.load_extension,
                                    .read_only = read_only,
                                    .anywhere = read_only };

    if (options != NULL)
        *options = o;
    return cs_replica_open(out, c->world, &o, (struct cs_error *)err);
}

int cs_cli_check_device(const struct cs_cli *c, const struct cs_uuid *database, const struct cs_uuid *keystore,
                        clawsync_error *err)
{
    char text[CS_UUID_TEXT];

    if (cs_uuid_is_zero(database) || cs_uuid_cmp(database, keystore) == 0)
        return CS_OK;
    cs_uuid_text(text, database);
    return cs_fail((struct cs_error *)err, CS_EEXIST,
                   "\"%.200s\" was replicated by device %s, whose keys are not in \"%.200s\"; give that device's "
                   "data_dir (CLAW_DATA_DIR)",
                   c->config.db_path, text, c->config.data_dir);
}

/* Nothing of the keystore is needed for that. */
static int check_workspace(const struct cs_cli *c, const struct cs_uuid *database, struct cs_error *err)
{
    struct cs_uuid wanted;
    char text[CS_UUID_TEXT];

    if (cs_uuid_is_zero(database) || c->config.workspace_id == NULL ||
        !cs_uuid_parse(&wanted, c->config.workspace_id) || cs_uuid_cmp(database, &wanted) == 0)
        return CS_OK;
    cs_uuid_text(text, database);
    return cs_fail(err, CS_EEXIST, "\"%.200s\" belongs to workspace %s; give that workspace id (CLAW_WORKSPACE_ID)",
                   c->config.db_path, text);
}

int cs_cli_check_data_dir(const struct cs_cli *c, const struct cs_replica *r, const char *passphrase,
                          clawsync_error *error)
{
    struct cs_files *f = &c->world->files;
    struct cs_error *err = (struct cs_error *)error;
    struct cs_replica_identity id;
    struct cs_keystore *k = NULL;
    struct cs_file_info info;
    char path[4096];
    int rc;

    cs_replica_identity(r, &id);
    if (f->ops->stat(f->self, c->config.data_dir, &info, err) == CS_OK && !info.is_dir)
        return cs_fail(err, CS_EINVAL, "data_dir \"%.200s\" is no folder", c->config.data_dir);
    if ((rc = check_workspace(c, &id.workspace, err)) != CS_OK)
        return rc;
    if (cs_uuid_is_zero(&id.device) ||
        snprintf(path, sizeof path, "%s/identity/keystore", c->config.data_dir) >= (int)sizeof path ||
        (passphrase == NULL && cs_keystore_is_protected(c->world, path)))
        return CS_OK;
    if ((rc = cs_crypto_init(err)) == CS_OK)
        rc = cs_keystore_load(&k, c->world, path, passphrase, err);
    if (rc == CS_ENOTFOUND)
        rc = cs_status_keys_are_lost(&id.device, c->config.data_dir, err);
    else
        rc = rc == CS_OK ? cs_cli_check_device(c, &id.device, &k->device, error) : CS_OK;
    cs_keystore_free(k);
    return rc;
}
