/* The audit log: rows appended and verified per second, beside raw Ed25519 on the same core in the same run.
 *   audit_bench [ROWS]   default 100000 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "audit/audit.h"

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

int main(int argc, char **argv)
{
    static const uint8_t seed[32] = { 1 };
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) / BATCH * BATCH : 100 * BATCH;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    char dir[] = "/tmp/claw-sync-bench.XXXXXX", path[64], command[80];
    struct cs_audit_owner owner = { { "workspace-of-cs" }, { "device-a-of-the" } };
    struct cs_audit_verdict v;
    struct cs_sign_key key;
    struct cs_error err;
    cs_audit *a;
    uint64_t start;
    double raw, one;

    must(cs_crypto_init(&err), &err);
    cs_sign_key_from_seed(&key, seed);
    if (n == 0 || mkdtemp(dir) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/audit.db", dir);
    must(cs_audit_open(&a, cs_world_real(), path, false, &owner, &err), &err);
    start = cs_monotonic_ns(cs_world_real());
    append(a, &key, n);
    printf("append, %d rows a transaction   %10.0f rows/s\n", BATCH, (double)n / since(start));
    raw = raw_verify(&key, n / 4 + 1);
    printf("Ed25519 verification alone       %10.0f signatures/s\n", raw);
    for (unsigned threads = 1; threads <= (unsigned)(cores < 1 ? 1 : cores); threads *= 2) {
        start = cs_monotonic_ns(cs_world_real());
        must(cs_audit_verify(a, key.pk, NULL, 0, threads, &v, &err), &err);
        one = (double)n / since(start);
        if (!v.ok || v.rows != n)
            return 1;
        printf("verify, %2u threads               %10.0f rows/s   %.2f x raw on one core\n", threads, one, one / raw);
    }
    cs_audit_close(a);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command) == 0 ? 0 : 1;
}
