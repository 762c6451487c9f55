#include "cli/cli.h"
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
