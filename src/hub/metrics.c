#include "hub/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "rpc/rpc.h"

enum { METHODS = 32, BUCKETS = 14, SIZES = 8 };

/* Upper bounds, in ns and as Prometheus writes them. */
static const struct {
    uint64_t ns;
    const char *text;
} latency_bound[BUCKETS] = {
    { 500000, "0.0005" },  { 1000000, "0.001" },  { 2500000, "0.0025" }, { 5000000, "0.005" },  { 10000000, "0.01" },
    { 25000000, "0.025" }, { 50000000, "0.05" },  { 100000000, "0.1" },  { 250000000, "0.25" }, { 500000000, "0.5" },
    { 1000000000, "1" },   { 2500000000, "2.5" }, { 5000000000, "5" },   { 10000000000, "10" },
};
static const uint64_t size_bound[SIZES] = { 1, 2, 4, 8, 16, 64, 256, 1024 };

struct latency {
    uint64_t bucket[BUCKETS + 1]; /* each by itself; the last: above all bounds */
    uint64_t n, sum_ns;
};

struct method {
    const char *name; /* NULL: free */
    uint64_t status[CS_METRICS_STATUSES];
    struct latency latency;
};

struct cs_metrics {
    struct method method[METHODS];
    struct latency commit;
    uint64_t size[SIZES + 1], written; /* writes per commit */
    struct cs_metrics_totals totals;
    struct cs_refusal refusal[CS_METRICS_REFUSALS];
    size_t nrefusals; /* ever */
};

int cs_metrics_new(cs_metrics **out)
{
    return (*out = calloc(1, sizeof **out)) == NULL ? CS_ENOMEM : CS_OK;
}

void cs_metrics_free(cs_metrics *m)
{
    free(m);
}

static void latency_add(struct latency *l, uint64_t ns)
{
    size_t i = 0;

    while (i < BUCKETS && ns > latency_bound[i].ns)
        i++;
    l->bucket[i]++;
    l->n++;
    l->sum_ns += ns;
}

void cs_metrics_call(cs_metrics *m, const char *method, int status, uint64_t ns)
{
    size_t i = 0;

    while (i < METHODS - 1 && m->method[i].name != NULL && strcmp(m->method[i].name, method) != 0)
        i++;
    m->method[i].name = method;
    if (status >= 0 && status < CS_METRICS_STATUSES)
        m->method[i].status[status]++;
    latency_add(&m->method[i].latency, ns);
    m->totals.calls++;
}

void cs_metrics_refused(cs_metrics *m, int64_t now_ms, const char *method, int status, const char *kind)
{
    struct cs_refusal *r = &m->refusal[m->nrefusals++ % CS_METRICS_REFUSALS];

    *r = (struct cs_refusal){ .at_ms = now_ms, .method = method, .status = status };
    if (kind != NULL)
        strncpy(r->kind, kind, sizeof r->kind - 1);
    m->totals.refused++;
}

void cs_metrics_stored(cs_metrics *m, uint64_t operations, uint64_t bytes)
{
    m->totals.stored_batches++;
    m->totals.stored_operations += operations;
    m->totals.stored_bytes += bytes;
}

void cs_metrics_batch_refused(cs_metrics *m)
{
    m->totals.refused_batches++;
}

void cs_metrics_batch_repeated(cs_metrics *m)
{
    m->totals.repeated_batches++;
}

void cs_metrics_given(cs_metrics *m, uint64_t batches, uint64_t bytes)
{
    m->totals.given_batches += batches;
    m->totals.given_bytes += bytes;
}

void cs_metrics_commit(cs_metrics *m, size_t writes, uint64_t ns)
{
    size_t i = 0;

    while (i < SIZES && writes > size_bound[i])
        i++;
    m->size[i]++;
    m->written += writes;
    m->totals.commits++;
    latency_add(&m->commit, ns);
}

void cs_metrics_totals(const cs_metrics *m, struct cs_metrics_totals *out)
{
    *out = m->totals;
}

size_t cs_metrics_refusals(const cs_metrics *m, struct cs_refusal out[CS_METRICS_REFUSALS])
{
    size_t n = m->nrefusals < CS_METRICS_REFUSALS ? m->nrefusals : CS_METRICS_REFUSALS;

    for (size_t i = 0; i < n; i++)
        out[i] = m->refusal[(m->nrefusals - 1 - i) % CS_METRICS_REFUSALS];
    return n;
}

/* ---- text ---- */

void cs_metrics_put(struct cs_buf *out, const char *type, const char *name, const char *help)
{
    cs_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void cs_metrics_value(struct cs_buf *out, const char *name, const char *labels, uint64_t value)
{
    if (labels[0] == '\0')
        cs_buf_printf(out, "%s %" PRIu64 "\n", name, value);
    else
        cs_buf_printf(out, "%s{%s} %" PRIu64 "\n", name, labels, value);
}

/* labels: "" or `a="b"`. */
static void latency_text(struct cs_buf *out, const char *name, const char *labels, const struct latency *l)
{
    const char *comma = labels[0] == '\0' ? "" : ",", *open = labels[0] == '\0' ? "" : "{",
               *close = labels[0] == '\0' ? "" : "}";
    uint64_t below = 0;

    for (size_t i = 0; i < BUCKETS; i++) {
        below += l->bucket[i];
        cs_buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", name, labels, comma, latency_bound[i].text, below);
    }
    cs_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma, l->n);
    cs_buf_printf(out, "%s_sum%s%s%s %" PRIu64 ".%09" PRIu64 "\n", name, open, labels, close, l->sum_ns / 1000000000,
                  l->sum_ns % 1000000000);
    cs_buf_printf(out, "%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close, l->n);
}

static void calls_text(const cs_metrics *m, struct cs_buf *out)
{
    char labels[128];

    cs_metrics_put(out, "counter", "claw_sync_calls_total", "Calls that ended, by method and gRPC status.");
    for (size_t i = 0; i < METHODS && m->method[i].name != NULL; i++)
        for (int status = 0; status < CS_METRICS_STATUSES; status++)
            if (m->method[i].status[status] > 0) {
                snprintf(labels, sizeof labels, "method=\"%s\",code=\"%s\"", m->method[i].name,
                         cs_rpc_status_name(status));
                cs_metrics_value(out, "claw_sync_calls_total", labels, m->method[i].status[status]);
            }
    cs_metrics_put(out, "histogram", "claw_sync_call_seconds",
                   "From a call's headers to its end; of streams that is how long they lasted.");
    for (size_t i = 0; i < METHODS && m->method[i].name != NULL; i++) {
        snprintf(labels, sizeof labels, "method=\"%s\"", m->method[i].name);
        latency_text(out, "claw_sync_call_seconds", labels, &m->method[i].latency);
    }
}

static void commits_text(const cs_metrics *m, struct cs_buf *out)
{
    uint64_t below = 0;

    cs_metrics_put(out, "histogram", "claw_sync_commit_seconds", "Transactions of the store that wrote.");
    latency_text(out, "claw_sync_commit_seconds", "", &m->commit);
    cs_metrics_put(out, "histogram", "claw_sync_commit_writes", "Writes (batches, entries, messages) in one of them.");
    for (size_t i = 0; i < SIZES; i++) {
        below += m->size[i];
        cs_buf_printf(out, "claw_sync_commit_writes_bucket{le=\"%" PRIu64 "\"} %" PRIu64 "\n", size_bound[i], below);
    }
    cs_buf_printf(out, "claw_sync_commit_writes_bucket{le=\"+Inf\"} %" PRIu64 "\n", m->totals.commits);
    cs_metrics_value(out, "claw_sync_commit_writes_sum", "", m->written);
    cs_metrics_value(out, "claw_sync_commit_writes_count", "", m->totals.commits);
}

void cs_metrics_text(const cs_metrics *m, struct cs_buf *out)
{
    const struct cs_metrics_totals *t = &m->totals;
    const struct {
        const char *name, *help;
        uint64_t value;
    } counters[] = {
        { "claw_sync_stored_batches_total", "Batches that were stored.", t->stored_batches },
        { "claw_sync_stored_operations_total", "Operations in them, by their headers.", t->stored_operations },
        { "claw_sync_stored_bytes_total", "Bytes of ciphertext in them.", t->stored_bytes },
        { "claw_sync_refused_batches_total", "Batches that were refused.", t->refused_batches },
        { "claw_sync_repeated_batches_total", "Batches that had been stored before, sent once more.",
          t->repeated_batches },
        { "claw_sync_given_batches_total", "Batches that devices pulled, whole or their envelopes.", t->given_batches },
        { "claw_sync_given_bytes_total", "Bytes of ciphertext in them.", t->given_bytes },
        { "claw_sync_refused_calls_total", "Calls that were refused.", t->refused },
    };

    calls_text(m, out);
    commits_text(m, out);
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
        cs_metrics_put(out, "counter", counters[i].name, counters[i].help);
        cs_metrics_value(out, counters[i].name, "", counters[i].value);
    }
}
