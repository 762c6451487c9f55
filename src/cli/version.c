#include <stdio.h>

#include "cli/cli.h"

int cs_cmd_version(struct cs_cli *c)
{
    if (c->json)
        cs_cli_json(json_pack("{s:s}", "version", clawsync_version()));
    else
        printf("claw-sync %s\n", clawsync_version());
    return CS_EXIT_DONE;
}
