#include "records.h"

#include <stdio.h>
#include <stdlib.h>

static _Noreturn void die(const char *path)
{
    perror(path);
    exit(1);
}

static void put_numbers(FILE *f, const double *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        fprintf(f, "%s%.9g", i == 0 ? "[" : ", ", v[i]);
    fputc(']', f);
}

static FILE *records_open(void)
{
    const char *records = getenv("CLAW_BENCH_RECORDS");
    FILE *f;

    if (records == NULL)
        return NULL;
    if ((f = fopen(records, "a")) == NULL)
        die(records);
    return f;
}

static void records_close(FILE *f)
{
    if (fclose(f) != 0)
        die("records");
}

void cs_bench_record(const char *group, const char *name, const char *reference, double n, const double *ours,
                     const double *theirs, uint32_t nruns)
{
    FILE *f = records_open();

    if (f == NULL)
        return;
    fprintf(f, "{\"group\": \"%s\", \"name\": \"%s\", \"reference\": \"%s\", \"n\": %.0f, \"ours\": ", group, name,
            reference, n);
    put_numbers(f, ours, nruns);
    fprintf(f, ", \"theirs\": ");
    put_numbers(f, theirs, nruns);
    fprintf(f, "}\n");
    records_close(f);
}

void cs_bench_record_value(const char *name, double value, const char *unit, double ratio, const char *reference)
{
    FILE *f = records_open();

    if (f == NULL)
        return;
    fprintf(f,
            "{\"group\": \"values\", \"name\": \"%s\", \"value\": %.9g, \"unit\": \"%s\", \"ratio\": %.9g, "
            "\"reference\": \"%s\"}\n",
            name, value, unit, ratio, reference);
    records_close(f);
}
