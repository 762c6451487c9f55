/* What the hub counts of its own work, and its text for Prometheus (exposition format 0.0.4). Numbers only: no token,
 * key or content can get in here; workspaces and devices appear by their ids. Everything on the loop's thread. */
#ifndef CS_HUB_METRICS_H
#define CS_HUB_METRICS_H

#include "base/bytes.h"

enum { CS_METRICS_STATUSES = 17, CS_METRICS_REFUSALS = 32 };

/* One that was refused, for whoever looks at the admin page. */
struct cs_refusal {
    int64_t at_ms; /* Unix ms */
    const char *method;
    int status;
    char kind[16]; /* error-kind */
};

typedef struct cs_metrics cs_metrics;
int cs_metrics_new(cs_metrics **out);
void cs_metrics_free(cs_metrics *m); /* NULL is fine */

/* A call ended after so many ns. method: the name alone, static. */
void cs_metrics_call(cs_metrics *m, const char *method, int status, uint64_t ns);
/* It was refused, other than by its client or its deadline. */
void cs_metrics_refused(cs_metrics *m, int64_t now_ms, const char *method, int status, const char *kind);
/* A batch was stored: operations in it, bytes of ciphertext. */
void cs_metrics_stored(cs_metrics *m, uint64_t operations, uint64_t bytes);
/* A batch was refused. */
void cs_metrics_batch_refused(cs_metrics *m);
/* A batch that was stored before came once more. */
void cs_metrics_batch_repeated(cs_metrics *m);
/* So many bytes of ciphertext were given out. */
void cs_metrics_given(cs_metrics *m, uint64_t batches, uint64_t bytes);
/* One transaction of so many writes took the store so long. */
void cs_metrics_commit(cs_metrics *m, size_t writes, uint64_t ns);

struct cs_metrics_totals {
    uint64_t calls, refused; /* ended; of them with a status that is not OK or CANCELLED */
    uint64_t stored_batches, stored_operations, stored_bytes, refused_batches, repeated_batches;
    uint64_t given_batches, given_bytes;
    uint64_t commits;
};
void cs_metrics_totals(const cs_metrics *m, struct cs_metrics_totals *out);
/* The newest refusals, newest first; how many there are. */
size_t cs_metrics_refusals(const cs_metrics *m, struct cs_refusal out[CS_METRICS_REFUSALS]);

/* Appends everything above as text. */
void cs_metrics_text(const cs_metrics *m, struct cs_buf *out);
/* One metric of one value; labels: "" or `a="b"`. */
void cs_metrics_put(struct cs_buf *out, const char *type, const char *name, const char *help);
void cs_metrics_value(struct cs_buf *out, const char *name, const char *labels, uint64_t value);

#endif
