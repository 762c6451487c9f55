#include "base/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static size_t read_small(const char *path, char *out, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, cap - 1);

    if (fd >= 0)
        close(fd);
    out[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

/* What follows the name in /proc/PID/stat, which may hold spaces and parentheses: field 3 begins at *p. False: no such
 * process, or the system does not tell. */
static bool read_stat(int64_t pid, char *text, size_t cap, const char **p)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%" PRId64 "/stat", pid);
    if (read_small(path, text, cap) == 0 || (*p = strrchr(text, ')')) == NULL || strlen(*p) < 3)
        return false;
    *p += 2;
    return true;
}

/* Of a field from 3 on, in what read_stat gives. */
static uint64_t number_of(const char *p, int field)
{
    for (int i = 3; i < field; i++)
        if ((p = strchr(p, ' ')) == NULL)
            return 0;
        else
            p++;
    return strtoull(p, NULL, 10);
}

enum { THREADS = 20, START = 22 };

/* Killed, and its parent has not asked yet: it does nothing more and holds no file. A thread that outlives the first
 * one, which counts as ended too, does. */
static bool has_ended(const char *stat)
{
    return strchr("ZXx", stat[0]) != NULL && number_of(stat, THREADS) <= 1;
}

void cs_process_self(struct cs_process *out)
{
    char boot[64], text[1024];
    const char *stat;

    memset(out, 0, sizeof *out);
    if (read_small("/proc/sys/kernel/random/boot_id", boot, sizeof boot) >= CS_BOOT_ID_LEN)
        memcpy(out->boot, boot, CS_BOOT_ID_LEN);
    out->pid = getpid();
    out->started = read_stat(out->pid, text, sizeof text, &stat) ? number_of(stat, START) : 0;
}

bool cs_process_lives(const struct cs_process *p)
{
    struct cs_process self;
    char text[1024];
    const char *stat;
    uint64_t started;

    cs_process_self(&self);
    if (strcmp(self.boot, p->boot) != 0)
        return false;
    if (kill((pid_t)p->pid, 0) != 0 && errno == ESRCH)
        return false;
    if (!read_stat(p->pid, text, sizeof text, &stat))
        return true;
    if (has_ended(stat))
        return false;
    started = number_of(stat, START);
    return started == 0 || p->started == 0 || started == p->started;
}

void cs_process_keep_private(void)
{
    static const struct rlimit none = { 0, 0 };
    const char *allow = getenv("CLAW_ALLOW_CORE_DUMPS");

    if (allow != NULL && strcmp(allow, "1") == 0)
        return;
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0); /* where the kernel hands dumps to a program, which does not ask for the limit */
}

static uint64_t open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    uint64_t n = 0;

    if (d == NULL)
        return 0;
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n < 3 ? 0 : n - 3; /* ".", ".." and the folder's own */
}

static uint64_t ns_of(const struct timeval *t)
{
    return (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_usec * 1000;
}

void cs_process_usage(struct cs_process_usage *out)
{
    char text[256], *pages;
    struct rusage used;
    struct rlimit files;

    memset(out, 0, sizeof *out);
    if (read_small("/proc/self/statm", text, sizeof text) > 0 && (pages = strchr(text, ' ')) != NULL)
        out->resident_bytes = strtoull(pages, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (getrusage(RUSAGE_SELF, &used) == 0)
        out->cpu_ns = ns_of(&used.ru_utime) + ns_of(&used.ru_stime);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        out->max_files = (uint64_t)files.rlim_cur;
    out->open_files = open_files();
}
