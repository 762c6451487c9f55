#include <stdio.h>

#include "cli/cli.h"
#include "crypto/keys.h"

int cs_cmd_keys_export(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    char *passphrase = NULL;
    clawsync_error err;
    int rc;

    if ((rc = cs_crypto_init((struct cs_error *)&err)) == CS_OK &&
        (rc = cs_cli_passphrase(c, true, &passphrase, &err)) == CS_OK && (rc = cs_cli_open(c, &e, &err)) == CS_OK)
        rc = clawsync_engine_export_keys(e, c->args[0], passphrase, c->expires_secs, &err);
    clawsync_engine_close(e);
    cs_secret_free(passphrase);
    if (rc != CS_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:s}", "exported", c->args[0]));
    cs_cli_say(c, "wrote %s: one device joins with it, with: claw-sync keys import FILE", c->args[0]);
    return CS_EXIT_DONE;
}

int cs_cmd_keys_import(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    char *passphrase = NULL;
    clawsync_error err;
    int rc;

    if ((rc = cs_crypto_init((struct cs_error *)&err)) == CS_OK &&
        (rc = cs_cli_passphrase(c, false, &passphrase, &err)) == CS_OK && (rc = cs_cli_open(c, &e, &err)) == CS_OK)
        rc = clawsync_engine_import_keys(e, c->args[0], passphrase, &err);
    clawsync_engine_close(e);
    cs_secret_free(passphrase);
    if (rc != CS_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:s}", "joined", c->config.workspace_id));
    cs_cli_say(c, "joined workspace %s", c->config.workspace_id);
    return CS_EXIT_DONE;
}
