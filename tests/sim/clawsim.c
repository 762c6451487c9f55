/* A hub and up to six engines on a simulated network, with simulated clocks and disks, in one thread: applications
 * write and change their schemas, the network comes and goes, disks fail and fill up, hub and devices are restarted,
 * die and lose their power, go back to a backup, are copied, join, one or two at once, and are removed, the hub loses
 * what it had and is refilled, and in the end all have the same and nothing is lost. Everything is decided by a seed;
 * every hundredth is run twice, which must give the same trace. A seed that fails is run with fewer steps and fewer
 * kinds of them, and the line that repeats the shortest failure is printed. */
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crypto/rng.h"
#include "sim/memo.h"
#include "sim/system.h"

struct options {
    uint64_t from, seeds, steps, seconds; /* seconds: 0, or for how long to go on */
    uint64_t without;                     /* bits of the kinds of steps that do not happen */
    bool twice, no_shrink;
    const char *log;
};

static const char usage[] =
    "usage: clawsim [options]\n"
    "  --seeds N      that many runs (20)\n"
    "  --from S       from this seed on (1)\n"
    "  --seed S       this one alone\n"
    "  --steps N      how much happens in a run (40)\n"
    "  --hours H      runs until that time has passed\n"
    "  --without A,B  nothing of these kinds (see the summary) happens\n"
    "  --compact      devices give snapshots, and the hub prunes its log; other runs than without\n"
    "  --twice        every seed runs twice\n"
    "  --no-shrink    a failure is not made shorter\n"
    "  --verbose      what happens, on the standard output\n"
    "  --log FILE     every event of the run, a line each\n"
    "  --keep DIR     the databases of a run that fails go there\n";

static uint32_t draw_rate(struct run *r)
{
    return draw(r, 3) == 0 ? 0 : UINT32_C(256) << draw(r, 11); /* up to one in four */
}

static void run_init(struct run *r, uint64_t seed, uint64_t without, FILE *log)
{
    *r = (struct run){ .seed = seed, .without = without, .sim = cs_sim_new(seed) };
    if (r->sim == NULL)
        die(r, "out of memory");
    cs_sim_log(r->sim, log);
    cs_random_replay(4711, seed);
    cs_sim_latency(r->sim, 50, UINT64_C(1000) << draw(r, 9));
    r->faults = (struct sim_faults){ draw_rate(r), draw_rate(r), draw_rate(r), draw_rate(r) };
    draw_weights(r);
    hub_init(r);
}

static void run_fini(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++)
        if (r->devices[i].engine != NULL)
            device_close(&r->devices[i]);
    hub_stop(r, 0);
    for (unsigned i = 0; i < r->ndevices; i++) {
        sim_disk_free(r->devices[i].disk);
        free(r->devices[i].own);
    }
    sim_disk_free(r->hub.disk);
    free(r->written);
    cs_sim_free(r->sim);
}

/* What a run tells of itself, summed up over all of them. All are numbers. */
struct outcome {
    uint64_t trace, events, ms, rests, with_snapshot, pruned, collected, devices, writes;
    uint64_t happened[MAX_KINDS];
    struct sim_disk_counts disk;
    uint64_t lost, reset;
};

static void count(const struct sim_disk *d, struct outcome *out)
{
    const struct sim_disk_counts *c = sim_disk_counts(d);

    out->disk.read += c->read;
    out->disk.write += c->write;
    out->disk.short_write += c->short_write;
    out->disk.full += c->full;
    out->disk.sync += c->sync;
    out->disk.crash += c->crash;
    out->disk.lost += c->lost;
    out->disk.torn += c->torn;
    out->disk.rot += c->rot;
}

static void run(uint64_t seed, uint64_t steps, uint64_t without, FILE *log, struct outcome *out)
{
    static struct run r; /* large */
    uint64_t pause;

    run_init(&r, seed, without, log);
    join_all(&r);
    pause = draw(&r, 3) == 0 ? 10 + draw(&r, 40) : UINT64_MAX; /* a rest in between */
    for (uint64_t i = 0; i < steps; i++) {
        step(&r);
        if (i == pause)
            settle(&r, false);
    }
    settle(&r, true);
    last_acts(&r);
    *out = (struct outcome){ .trace = cs_sim_trace(r.sim),
                             .events = cs_sim_events(r.sim),
                             .ms = cs_sim_now_ms(r.sim),
                             .rests = r.rests,
                             .with_snapshot = r.with_snapshot,
                             .pruned = r.pruned,
                             .collected = r.collected,
                             .devices = r.ndevices,
                             .writes = r.nwritten };
    memcpy(out->happened, r.happened, sizeof out->happened);
    for (unsigned i = 0; i < r.ndevices; i++)
        count(r.devices[i].disk, out);
    count(r.hub.disk, out);
    cs_sim_weather_counts(r.sim, &out->lost, &out->reset);
    run_fini(&r);
}

/* In a process of its own: what the dead leave behind goes with it. quiet: it fails without a word. */
static bool run_apart(uint64_t seed, uint64_t steps, uint64_t without, const char *log_path, bool quiet,
                      struct outcome *out)
{
    int ends[2], status = -1;
    ssize_t got;
    pid_t pid;

    fflush(stdout);
    if (pipe(ends) != 0 || (pid = fork()) < 0) {
        perror("cannot begin a run");
        exit(1);
    }
    if (pid == 0) {
        FILE *log = log_path == NULL ? NULL : fopen(log_path, "w");

        close(ends[0]);
        if (quiet && freopen("/dev/null", "w", stderr) == NULL)
            exit(1);
        run(seed, steps, without, log, out);
        if (log != NULL)
            fclose(log);
        exit(write(ends[1], out, sizeof *out) == sizeof *out ? 0 : 1);
    }
    close(ends[1]);
    got = read(ends[0], out, sizeof *out);
    close(ends[0]);
    waitpid(pid, &status, 0);
    if (status == 0 && got == sizeof *out)
        return true;
    if (!quiet)
        fprintf(stderr, "seed %" PRIu64 " failed (status %x)\n", seed, (unsigned)status);
    return false;
}

/* The first steps of a longer run are those of a shorter one: fewest are sought by halving. */
static uint64_t fewest(uint64_t seed, uint64_t steps, uint64_t without)
{
    uint64_t low = 0, high = steps;
    struct outcome out;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;

        if (run_apart(seed, middle, without, NULL, true, &out))
            low = middle + 1;
        else
            high = middle;
    }
    return high;
}

static void shrink(uint64_t seed, uint64_t steps, uint64_t without)
{
    struct outcome out;
    const char *between = "--without ";

    steps = fewest(seed, steps, without);
    for (unsigned k = 0; kind_name(k) != NULL; k++)
        if (!run_apart(seed, steps, without | UINT64_C(1) << k, NULL, true, &out))
            without |= UINT64_C(1) << k;
    steps = fewest(seed, steps, without);
    fprintf(stderr, "repeat it: clawsim %s--seed %" PRIu64 " --steps %" PRIu64 " ", sim_compact ? "--compact " : "",
            seed, steps);
    for (unsigned k = 0; kind_name(k) != NULL; k++)
        if ((without >> k & 1) != 0) {
            fprintf(stderr, "%s%s", between, kind_name(k));
            between = ",";
        }
    fprintf(stderr, "%s--verbose\n", without != 0 ? " " : "");
}

/* Every field of it is a number. */
static void add(struct outcome *all, const struct outcome *one)
{
    uint64_t *sum = (uint64_t *)all;
    const uint64_t *n = (const uint64_t *)one;

    for (size_t i = 0; i < sizeof *all / sizeof *sum; i++)
        sum[i] += n[i];
}

static void summarise(uint64_t n, uint64_t failed, const struct outcome *all)
{
    const struct {
        const char *name;
        uint64_t n;
    } faults[] = {
        { "reads failed", all->disk.read },        { "writes failed", all->disk.write },
        { "short writes", all->disk.short_write }, { "disk full", all->disk.full },
        { "syncs failed", all->disk.sync },        { "crashes in a write", all->disk.crash },
        { "writes lost", all->disk.lost },         { "writes torn", all->disk.torn },
        { "bits rotted", all->disk.rot },          { "segments lost", all->lost },
        { "connections reset", all->reset },
    };

    printf("%" PRIu64 " seeds, %" PRIu64 " failed; %" PRIu64 " devices, %" PRIu64 " events, %" PRIu64
           " hours of virtual time, %" PRIu64 " writes that tell, %" PRIu64
           " rests, the log looked at with a snapshot %" PRIu64 " times, pruned %" PRIu64 ", with collections %" PRIu64
           "\n",
           n, failed, all->devices, all->events, all->ms / HOUR_MS, all->writes, all->rests, all->with_snapshot,
           all->pruned, all->collected);
    printf("faults:");
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        printf(" %s %" PRIu64 ";", faults[i].name, faults[i].n);
    printf("\nsteps:");
    for (unsigned k = 0; kind_name(k) != NULL; k++)
        printf(" %s %" PRIu64 ";", kind_name(k), all->happened[k]);
    putchar('\n');
}

static bool check(const struct options *o, uint64_t seed, struct outcome *all)
{
    struct outcome first = { 0 }, again = { 0 };

    if (!run_apart(seed, o->steps, o->without, o->log, false, &first)) {
        if (!o->no_shrink)
            shrink(seed, o->steps, o->without);
        return false;
    }
    if ((o->twice || seed % 100 == 1) && (!run_apart(seed, o->steps, o->without, NULL, false, &again) ||
                                          first.trace != again.trace || first.events != again.events)) {
        fprintf(stderr, "seed %" PRIu64 ": two runs differ, of %" PRIu64 " and %" PRIu64 " events\n", seed,
                first.events, again.events);
        return false;
    }
    if (o->seeds == 1)
        printf("trace %016" PRIx64 "\n", first.trace);
    add(all, &first);
    return true;
}

static bool take_kinds(uint64_t *bits, const char *value)
{
    while (*value != '\0') {
        size_t len = strcspn(value, ",");
        unsigned k = 0;

        while (kind_name(k) != NULL && (strlen(kind_name(k)) != len || memcmp(kind_name(k), value, len) != 0))
            k++;
        if (kind_name(k) == NULL)
            return false;
        *bits |= UINT64_C(1) << k;
        value += len;
        value += *value == ',';
    }
    return true;
}

/* False: not understood. */
static bool take_option(struct options *o, const char *name, const char *value)
{
    const struct {
        const char *name;
        uint64_t *number;
    } numbers[] = {
        { "--seeds", &o->seeds }, { "--from", &o->from },     { "--seed", &o->from },
        { "--steps", &o->steps }, { "--hours", &o->seconds },
    };

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].number = strtoull(value, NULL, 10);
            if (numbers[i].number == &o->seconds)
                o->seconds = (uint64_t)(strtod(value, NULL) * 3600);
            if (strcmp(name, "--seed") == 0)
                o->seeds = 1;
            return true;
        }
    if (strcmp(name, "--without") == 0)
        return take_kinds(&o->without, value);
    if (strcmp(name, "--keep") == 0)
        sim_keep = value;
    else if (strcmp(name, "--log") == 0)
        o->log = value;
    else
        return false;
    return true;
}

static bool parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--twice") == 0)
            o->twice = true;
        else if (strcmp(argv[i], "--no-shrink") == 0)
            o->no_shrink = true;
        else if (strcmp(argv[i], "--verbose") == 0)
            sim_verbose = true;
        else if (strcmp(argv[i], "--compact") == 0)
            sim_compact = true;
        else if (i + 1 == argc || !take_option(o, argv[i], argv[i + 1]))
            return false;
        else
            i++;
    return true;
}

int main(int argc, char **argv)
{
    struct options o = { .from = 1, .seeds = 20, .steps = 40 };
    struct outcome all = { 0 };
    uint64_t n = 0, failed = 0;
    time_t begun = time(NULL);

    memo_init();
    mallopt(M_MMAP_THRESHOLD, 64 << 20); /* a run's memory is used again and again */
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    if (!parse(&o, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    for (; o.seconds > 0 ? (uint64_t)(time(NULL) - begun) < o.seconds : n < o.seeds; n++)
        failed += check(&o, o.from + n, &all) ? 0 : 1;
    summarise(n, failed, &all);
    return failed == 0 ? 0 : 1;
}
