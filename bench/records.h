/* What was measured, for bench/report.py. One thread. */
#ifndef CS_BENCH_RECORDS_H
#define CS_BENCH_RECORDS_H

#include <stdint.h>

/* Appends one measurement to the file $CLAW_BENCH_RECORDS (bench/report.py reads it), if that is set: what took
 * `ours[i]` seconds for n things in run i, and its reference (by name) in the same run. */
void cs_bench_record(const char *group, const char *name, const char *reference, double n, const double *ours,
                     const double *theirs, uint32_t nruns);

/* The same for a figure that is no time; what its ratio is to. */
void cs_bench_record_value(const char *name, double value, const char *unit, double ratio, const char *reference);

#endif
