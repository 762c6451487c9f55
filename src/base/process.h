/* Who holds something: a process of this machine, told apart from later ones with the same pid. Any thread. */
#ifndef CS_BASE_PROCESS_H
#define CS_BASE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

enum { CS_BOOT_ID_LEN = 36 };

struct cs_process {
    char boot[CS_BOOT_ID_LEN + 1]; /* the running kernel's id; empty where there is none */
    int64_t pid;
    uint64_t started; /* the process's start, in the kernel's ticks */
};

void cs_process_self(struct cs_process *out);
/* False only when it is certainly gone: another boot, no such pid, or another process under it. */
bool cs_process_lives(const struct cs_process *p);

#endif
