/* A hub and two or three engines on a simulated network, with simulated clocks and disks, in one thread: applications
 * write, the network comes and goes, disks fail and fill up, hub and devices are restarted, die and lose their power,
 * databases go back to a backup, and in the end all have the same and nothing is lost. Everything is decided by a seed;
 * every hundredth is run twice, which must give the same trace. A seed that fails is run with fewer steps, and the
 * line that repeats the shortest failure is printed. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crypto/rng.h"
#include "sim/system.h"

struct options {
    uint64_t from, seeds, steps, seconds; /* seconds: 0, or for how long to go on */
    bool twice, no_shrink;
    const char *log;
};

static const char usage[] = "usage: clawsim [options]\n"
                            "  --seeds N      that many runs (20)\n"
                            "  --from S       from this seed on (1)\n"
                            "  --seed S       this one alone\n"
                            "  --steps N      how much happens in a run (40)\n"
                            "  --hours H      runs until that time has passed\n"
                            "  --twice        every seed runs twice\n"
                            "  --no-shrink    a failure is not made shorter\n"
                            "  --verbose      what happens, on the standard output\n"
                            "  --log FILE     every event of the run, a line each\n"
                            "  --keep DIR     the databases of a run that fails go there\n";

static uint32_t draw_rate(struct run *r)
{
    return draw(r, 3) == 0 ? 0 : UINT32_C(256) << draw(r, 11); /* up to one in four */
}

static void draw_faults(struct run *r)
{
    r->faults = (struct sim_faults){ draw_rate(r), draw_rate(r), draw_rate(r), draw_rate(r) };
}

static void run_init(struct run *r, uint64_t seed, FILE *log)
{
    *r = (struct run){ .seed = seed, .sim = cs_sim_new(seed) };
    if (r->sim == NULL)
        die(r, "out of memory");
    cs_sim_log(r->sim, log);
    cs_random_replay(4711, seed);
    r->ndevices = 2 + (unsigned)draw(r, DEVICES - 1);
    cs_sim_latency(r->sim, 50, UINT64_C(1000) << draw(r, 9));
    draw_faults(r);
    hub_init(r);
    for (unsigned i = 0; i < r->ndevices; i++)
        device_init(r, i);
}

static void run_fini(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++)
        device_close(&r->devices[i]);
    hub_stop(r, 0);
    for (unsigned i = 0; i < r->ndevices; i++)
        sim_disk_free(r->devices[i].disk);
    sim_disk_free(r->hub.disk);
    cs_sim_free(r->sim);
}

struct outcome {
    uint64_t trace, events;
    uint64_t faults, lost; /* I/O that failed; unsynced writes that a power failure took */
};

static void count_faults(const struct sim_disk *d, struct outcome *out)
{
    out->faults += sim_disk_injected(d);
    out->lost += sim_disk_lost(d);
}

static void run(uint64_t seed, uint64_t steps, FILE *log, struct outcome *out)
{
    static struct run r; /* large */

    run_init(&r, seed, log);
    join_all(&r);
    for (uint64_t i = 0; i < steps; i++)
        step(&r);
    settle(&r);
    *out = (struct outcome){ .trace = cs_sim_trace(r.sim), .events = cs_sim_events(r.sim) };
    for (unsigned i = 0; i < r.ndevices; i++)
        count_faults(r.devices[i].disk, out);
    count_faults(r.hub.disk, out);
    run_fini(&r);
}

/* In a process of its own: what the dead leave behind goes with it. quiet: it fails without a word. */
static bool run_apart(uint64_t seed, uint64_t steps, const char *log_path, bool quiet, struct outcome *out)
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
        run(seed, steps, log, out);
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
static void shrink(uint64_t seed, uint64_t steps)
{
    uint64_t low = 0, high = steps;
    struct outcome out;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;

        if (run_apart(seed, middle, NULL, true, &out))
            low = middle + 1;
        else
            high = middle;
    }
    fprintf(stderr, "repeat it: clawsim --seed %" PRIu64 " --steps %" PRIu64 " --verbose\n", seed, high);
}

static bool check(const struct options *o, uint64_t seed, struct outcome *all)
{
    struct outcome first = { 0 }, again = { 0 };

    if (!run_apart(seed, o->steps, o->log, false, &first)) {
        if (!o->no_shrink)
            shrink(seed, o->steps);
        return false;
    }
    if ((o->twice || seed % 100 == 1) && (!run_apart(seed, o->steps, NULL, false, &again) ||
                                          first.trace != again.trace || first.events != again.events)) {
        fprintf(stderr, "seed %" PRIu64 ": two runs differ, of %" PRIu64 " and %" PRIu64 " events\n", seed,
                first.events, again.events);
        return false;
    }
    if (o->seeds == 1)
        printf("trace %016" PRIx64 "\n", first.trace);
    all->events += first.events;
    all->faults += first.faults;
    all->lost += first.lost;
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

    if (!parse(&o, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    for (; o.seconds > 0 ? (uint64_t)(time(NULL) - begun) < o.seconds : n < o.seeds; n++)
        failed += check(&o, o.from + n, &all) ? 0 : 1;
    printf("%" PRIu64 " seeds, %" PRIu64 " failed; %" PRIu64 " events, %" PRIu64 " faults, %" PRIu64
           " writes lost with the power\n",
           n, failed, all.events, all.faults, all.lost);
    return failed == 0 ? 0 : 1;
}
