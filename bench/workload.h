/* Workload W (docs/benchmarks.md): its rows, an application that writes them, and the way out of a replica and into
 * another. For benchmarks: whatever fails ends the program with a sentence. One thread. */
#ifndef CS_BENCH_WORKLOAD_H
#define CS_BENCH_WORKLOAD_H

#include <sqlite3.h>

#include "delta/pack.h"
#include "records.h"
#include "replica/replica.h"

enum { CS_BENCH_TRANSACTION = 1000 }; /* rows */

extern uint32_t cs_bench_rows;

/* Makes the ids of so many rows and a folder for the databases; fini removes it. */
void cs_bench_init(const char *program, uint32_t rows);
void cs_bench_fini(void);
_Noreturn void cs_bench_die(const char *what, const char *why);
double cs_bench_now_s(void);
const char *cs_bench_path(const char *name); /* in that folder; good for three more calls */
int64_t cs_bench_file_size(const char *db);  /* bytes, checkpointed or not; 0: there is none */

/* Databases by their names in that folder. A fresh one has the empty table. */
sqlite3 *cs_bench_open_plain(const char *db, bool fresh);
cs_replica *cs_bench_open_replica(const char *db, uint8_t device);
void cs_bench_exec(sqlite3 *db, const char *sql);
void cs_bench_track(cs_replica *r);
void cs_bench_seal(cs_replica *r); /* all that is logged */

/* The application: seconds that it took. */
double cs_bench_insert(sqlite3 *db, bool ordered);
double cs_bench_upsert(sqlite3 *db, bool ordered); /* the same rows; writes nothing where they are there already */
double cs_bench_update(sqlite3 *db, bool ordered, int64_t value);

struct cs_bench_batches {
    struct cs_batch *batches; /* owned; freed by cs_bench_batches_free */
    size_t n, cap;
    uint64_t bytes;
};
void cs_bench_batches_free(struct cs_bench_batches *b);
cs_packer *cs_bench_packer(void);
/* Seals, extracts and packs all that is unsent; `before` batches were sent earlier. Seconds, without binding. */
double cs_bench_send(cs_replica *r, cs_packer *packer, struct cs_bench_batches *out, uint64_t before);
void cs_bench_pack(cs_packer *packer, const struct cs_delta *d); /* the result is dropped */
void cs_bench_unpack(cs_packer *packer, const struct cs_batch *b);
/* Seconds. */
double cs_bench_receive(cs_replica *r, cs_packer *packer, const struct cs_bench_batches *in, uint64_t first_number);

#endif
