#include <signal.h>

#include "cli/cli.h"

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    return cs_cli_main(argc, argv, cs_world_real());
}
