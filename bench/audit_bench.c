/* The audit log: rows appended and verified per second, beside raw Ed25519 on the same core in the same run, and the
 * memory that a process has taken at most which does nothing but verify it.
 *   audit_bench [ROWS]   default 100000 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "audit/audit.h"
#include "records.h"

enum { BATCH = 1000 };

static void must(int rc, const struct cs_error *err)
{
    if (rc == CS_OK)
        return;
    fprintf(stderr, "audit_bench: %s\n", err->msg);
    exit(1);
}

static double since(uint64_t start)
{
    return (double)(cs_monotonic_ns(cs_world_real()) - start) / 1e9;
}

static double raw_verify(const struct cs_sign_key *key, size_t n)
{
    uint8_t hash[CS_HASH_LEN] = { 1 }, sig[CS_SIGNATURE_LEN];
    uint64_t start;

    cs_sign_digest(key, hash, sig);
    start = cs_monotonic_ns(cs_world_real());
    for (size_t i = 0; i < n; i++)
        if (!cs_verify_digest(key->pk, hash, sig))
            exit(1);
    return (double)n / since(start);
}

static double raw_sign(const struct cs_sign_key *key, size_t n)
{
    uint8_t hash[CS_HASH_LEN] = { 1 }, sig[CS_SIGNATURE_LEN];
    uint64_t start = cs_monotonic_ns(cs_world_real());

    for (size_t i = 0; i < n; i++)
        cs_sign_digest(key, hash, sig);
    return (double)n / since(start);
}

/* Rows per second of ours and of the raw thing, of which there are n. */
static void record(const char *name, const char *reference, size_t n, double ours, double theirs)
{
    double a = (double)n / ours, b = (double)n / theirs;

    cs_bench_record("audit", name, reference, (double)n, &a, &b, 1);
}

static void append(cs_audit *a, const struct cs_sign_key *key, size_t n)
{
    static struct cs_audit_event events[BATCH];
    struct cs_error err;

    for (size_t i = 0; i < BATCH; i++)
        events[i] = (struct cs_audit_event){ .event_type = "PUSH",
                                             .entity_type = "batch",
                                             .entity_ids = "1-2",
                                             .ops_count = i,
                                             .payload = cs_slice_str("{\"log_number\":4711}") };
    for (size_t i = 0; i < n; i += BATCH)
        must(cs_audit_append(a, key, events, BATCH, &err), &err);
}

static const uint8_t seed[32] = { 1 };
static const struct cs_audit_owner owner = { { "workspace-of-cs" }, { "device-a-of-the" } };

/* This process's own peak; 0: the system does not tell. */
static unsigned long peak_kib(void)
{
    FILE *f = fopen("/proc/self/status", "re");
    unsigned long kib = 0;
    char line[128];

    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "VmHWM: %lu", &kib) == 1)
            break;
    if (f != NULL)
        fclose(f);
    return kib;
}

/* audit_bench --peak PATH THREADS: a process of its own, so that nothing else is in its peak. */
static int verify_alone(const char *path, unsigned threads)
{
    struct cs_audit_verdict v;
    struct cs_sign_key key;
    struct cs_error err;
    cs_audit *a;

    cs_sign_key_from_seed(&key, seed);
    must(cs_audit_open(&a, cs_world_real(), path, true, &owner, &err), &err);
    must(cs_audit_verify(a, key.pk, NULL, 0, threads, &v, &err), &err);
    printf("peak of a process that verifies, %2u threads   %6.1f MiB\n", threads, (double)peak_kib() / 1024);
    cs_audit_close(a);
    return v.ok ? 0 : 1;
}

static int peak_of(const char *path, unsigned threads)
{
    char number[16];
    int status = 1;
    pid_t pid;

    snprintf(number, sizeof number, "%u", threads);
    fflush(stdout);
    if ((pid = fork()) == 0) {
        execl("/proc/self/exe", "audit_bench", "--peak", path, number, (char *)NULL);
        _exit(1);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) / BATCH * BATCH : 100 * BATCH;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    char dir[] = "/tmp/claw-sync-bench.XXXXXX", path[64], command[80], name[64];
    struct cs_audit_verdict v;
    struct cs_sign_key key;
    struct cs_error err;
    cs_audit *a;
    uint64_t start;
    double raw, one;
    int rc = 0;

    must(cs_crypto_init(&err), &err);
    if (argc == 4 && strcmp(argv[1], "--peak") == 0)
        return verify_alone(argv[2], (unsigned)strtoul(argv[3], NULL, 10));
    cs_sign_key_from_seed(&key, seed);
    if (n == 0 || mkdtemp(dir) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/audit.db", dir);
    must(cs_audit_open(&a, cs_world_real(), path, false, &owner, &err), &err);
    raw = raw_sign(&key, n / 8 + 1);
    start = cs_monotonic_ns(cs_world_real());
    append(a, &key, n);
    one = (double)n / since(start);
    raw = 2 / (1 / raw + 1 / raw_sign(&key, n / 8 + 1));
    printf("append, %d rows a transaction   %10.0f rows/s   %.2f x raw Ed25519 signing\n", BATCH, one, one / raw);
    record("audit log: append, 1,000 rows a transaction", "Ed25519 signatures alone", n, one, raw);
    for (unsigned threads = 1; threads <= (unsigned)(cores < 1 ? 1 : cores); threads *= 2) {
        raw = raw_verify(&key, n / 8 + 1); /* before and after: a machine is not always equally fast */
        start = cs_monotonic_ns(cs_world_real());
        must(cs_audit_verify(a, key.pk, NULL, 0, threads, &v, &err), &err);
        one = (double)n / since(start);
        raw = 2 / (1 / raw + 1 / raw_verify(&key, n / 8 + 1));
        if (!v.ok || v.rows != n)
            return 1;
        printf("Ed25519 verification alone       %10.0f signatures/s\n", raw);
        printf("verify, %2u threads               %10.0f rows/s   %.2f x raw on one core\n", threads, one, one / raw);
        snprintf(name, sizeof name, "audit log: verify, %u thread%s", threads, threads == 1 ? "" : "s");
        record(name, "Ed25519 verifications alone, on one core", n, one, raw);
    }
    cs_audit_close(a);
    for (unsigned threads = 1; threads <= (unsigned)(cores < 1 ? 1 : cores) && rc == 0; threads *= 2)
        rc = peak_of(path, threads);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command) == 0 ? rc : 1;
}
