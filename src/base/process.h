/* Processes of this machine. Any thread. */
#ifndef CS_BASE_PROCESS_H
#define CS_BASE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

enum { CS_BOOT_ID_LEN = 36 };

/* Who holds something, told apart from later processes with the same pid. */
struct cs_process {
    char boot[CS_BOOT_ID_LEN + 1]; /* the running kernel's id; empty where there is none */
    int64_t pid;
    uint64_t started; /* the process's start, in the kernel's ticks */
};

void cs_process_self(struct cs_process *out);
/* False only when it is certainly gone: another boot, no such pid, another process under it, or one that has ended
 * and whose parent has not asked how. */
bool cs_process_lives(const struct cs_process *p);

/* From now on this process leaves no core dump and shows its memory to no other process of its user, but if the
 * variable CLAW_ALLOW_CORE_DUMPS is 1. For programs; a library leaves that to its host. */
void cs_process_keep_private(void);

/* What this process uses now; 0 where the system does not tell. */
struct cs_process_usage {
    uint64_t resident_bytes, cpu_ns; /* cpu: user and system, of all threads */
    uint64_t open_files, max_files;
};
void cs_process_usage(struct cs_process_usage *out);

#endif
