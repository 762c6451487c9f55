/* A folder of a test's own, in memory where there is one: tests sync often, and power does not fail in them. */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SCRATCH_LEN = 64 };

/* NULL: it could not be made. The caller removes it. */
static inline char *scratch_folder(char dir[static SCRATCH_LEN], const char *name)
{
    snprintf(dir, SCRATCH_LEN, "%s/cs-%s-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", name);
    return mkdtemp(dir);
}

#endif
