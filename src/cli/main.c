#include <signal.h>
#include <sqlite3.h>

#include "base/process.h"
#include "cli/cli.h"

int main(int argc, char **argv)
{
    cs_process_keep_private();
    signal(SIGPIPE, SIG_IGN);
    /* Before SQLite's first use, and here only: counting every allocation takes a lock that all its connections share,
     * and a library must not decide this for its program. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    return cs_cli_main(argc, argv, cs_world_real());
}
