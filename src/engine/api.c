/* The parts of the interface that need no engine. */
#include <clawsync/clawsync.h>

#include "base/error.h"

const char *clawsync_code_name(int code)
{
    return cs_code_name(code);
}

int clawsync_code_is_transient(int code)
{
    return cs_code_is_transient(code);
}

const char *clawsync_version(void)
{
    return CS_VERSION;
}
