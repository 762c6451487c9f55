/* The scheduler of the simulation, and its hosts' clocks and randomness. */
#include "base/test_world.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "base/test_internal.h"

enum { EVENT_COST_NS = 1000, PATIENCE_SECS = 60 };

/* ---- randomness ---- */

/* splitmix64 (Steele, Lea, Flood, 2014). */
static uint64_t next_random(cs_sim *sim)
{
    uint64_t z = sim->random += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t cs_sim_draw(cs_sim *sim, uint64_t below)
{
    return next_random(sim) % below;
}

uint64_t cs_sim_draw_between(cs_sim *sim, uint64_t least, uint64_t greatest)
{
    return least + cs_sim_draw(sim, greatest - least + 1);
}

/* ---- the trace ---- */

void cs_sim_trace_word(cs_sim *sim, uint64_t v)
{
    sim->trace = (sim->trace ^ v) * 0x100000001b3u;
    sim->trace ^= sim->trace >> 29;
}

void cs_sim_trace_bytes(cs_sim *sim, struct cs_slice s)
{
    uint8_t word[8];

    cs_sim_trace_word(sim, s.len);
    for (; s.len > 0; s.data += 8, s.len -= 8) {
        memset(word, 0, sizeof word);
        memcpy(word, s.data, s.len < 8 ? s.len : 8);
        cs_sim_trace_word(sim, cs_load_u64(word));
        if (s.len < 8)
            break;
    }
}

/* Where one run differs from another shows in the first line that differs. */
static void trace_event(cs_sim *sim, const struct cs_sim_event *e)
{
    sim->nevents++;
    cs_sim_trace_word(sim, sim->now_ns);
    cs_sim_trace_bytes(sim, cs_slice_str(e->kind));
    cs_sim_trace_word(sim, e->loop == NULL ? 0 : e->loop->id);
    if (sim->log != NULL)
        fprintf(sim->log, "%" PRIu64 " %s %s %" PRIu64 " %016" PRIx64 "\n", sim->now_ns, e->kind,
                e->loop == NULL ? "-" : e->loop->host->name, e->loop == NULL ? 0 : e->loop->id, sim->trace);
}

/* ---- the plan: a binary heap ---- */

static bool before(const struct cs_sim_event *a, const struct cs_sim_event *b)
{
    if (a->at_ns != b->at_ns)
        return a->at_ns < b->at_ns;
    return a->tie != b->tie ? a->tie < b->tie : a->seq < b->seq;
}

static void place(cs_sim *sim, size_t at, struct cs_sim_event *e)
{
    sim->heap[at] = e;
    e->slot = at + 1;
}

static void sift(cs_sim *sim, size_t at)
{
    struct cs_sim_event *e = sim->heap[at];
    size_t child;

    while (at > 0 && before(e, sim->heap[(at - 1) / 2])) {
        place(sim, at, sim->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    while ((child = 2 * at + 1) < sim->nheap) {
        if (child + 1 < sim->nheap && before(sim->heap[child + 1], sim->heap[child]))
            child++;
        if (!before(sim->heap[child], e))
            break;
        place(sim, at, sim->heap[child]);
        at = child;
    }
    place(sim, at, e);
}

void cs_sim_unplan(cs_sim *sim, struct cs_sim_event *e)
{
    size_t at = e->slot - 1;

    if (e->slot == 0)
        return;
    e->slot = 0;
    if (at != --sim->nheap) {
        place(sim, at, sim->heap[sim->nheap]);
        sift(sim, at);
    }
}

void cs_sim_plan(cs_sim *sim, struct cs_sim_event *e, uint64_t at_ns)
{
    cs_sim_unplan(sim, e);
    if (e->loop != NULL && e->loop->dead)
        return;
    if (sim->nheap == sim->capheap) {
        size_t cap = sim->capheap == 0 ? 64 : sim->capheap * 2;
        struct cs_sim_event **heap = realloc(sim->heap, cap * sizeof(struct cs_sim_event *));

        if (heap == NULL) {
            fprintf(stderr, "simulation: out of memory\n");
            abort();
        }
        sim->heap = heap;
        sim->capheap = cap;
    }
    e->at_ns = at_ns > sim->now_ns ? at_ns : sim->now_ns;
    e->tie = next_random(sim);
    e->seq = sim->seq++;
    place(sim, sim->nheap++, e);
    sift(sim, sim->nheap - 1);
    pthread_cond_broadcast(&sim->changed);
}

bool cs_sim_step(cs_sim *sim)
{
    struct cs_sim_event *e;

    if (sim->nheap == 0)
        return false;
    e = sim->heap[0];
    cs_sim_unplan(sim, e);
    if (e->at_ns > sim->now_ns)
        sim->now_ns = e->at_ns;
    trace_event(sim, e);
    e->fn(e->arg);
    sim->now_ns += EVENT_COST_NS;
    return true;
}

void cs_sim_enter(cs_sim *sim)
{
    pthread_mutex_lock(&sim->lock);
    if (sim->running) {
        fprintf(stderr, "simulation: run from inside a callback, or by two threads at once\n");
        abort();
    }
    sim->running = true;
}

void cs_sim_leave(cs_sim *sim)
{
    sim->running = false;
    pthread_mutex_unlock(&sim->lock);
}

void cs_sim_wait(cs_sim *sim)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_SECS;
    if (pthread_cond_timedwait(&sim->changed, &sim->lock, &until) == 0)
        return;
    fprintf(stderr, "simulation: a loop runs, and nothing is going to happen\n");
    abort();
}

bool cs_sim_run(cs_sim *sim, uint64_t limit_ms, bool (*until)(void *arg), void *arg)
{
    uint64_t end;
    bool met;

    cs_sim_enter(sim);
    end = sim->now_ns + limit_ms * CS_SIM_MS;
    for (;;) {
        pthread_mutex_unlock(&sim->lock);
        met = until != NULL && until(arg);
        pthread_mutex_lock(&sim->lock);
        if (met || sim->nheap == 0 || sim->heap[0]->at_ns > end || sim->now_ns > end)
            break;
        cs_sim_step(sim);
    }
    if (!met && sim->now_ns < end)
        sim->now_ns = end;
    cs_sim_leave(sim);
    return met;
}

uint64_t cs_sim_now_ms(cs_sim *sim)
{
    uint64_t now;

    pthread_mutex_lock(&sim->lock);
    now = sim->now_ns / CS_SIM_MS;
    pthread_mutex_unlock(&sim->lock);
    return now;
}

uint64_t cs_sim_random(cs_sim *sim, uint64_t below)
{
    uint64_t v;

    pthread_mutex_lock(&sim->lock);
    v = cs_sim_draw(sim, below);
    pthread_mutex_unlock(&sim->lock);
    return v;
}

uint64_t cs_sim_trace(cs_sim *sim)
{
    return sim->trace;
}

uint64_t cs_sim_events(cs_sim *sim)
{
    return sim->nevents;
}

void cs_sim_trace_payload(cs_sim *sim, bool on)
{
    sim->trace_payload = on;
}

void cs_sim_note(cs_sim *sim, struct cs_slice what)
{
    pthread_mutex_lock(&sim->lock);
    cs_sim_trace_bytes(sim, what);
    if (sim->log != NULL)
        fprintf(sim->log, "%" PRIu64 " note %.*s %016" PRIx64 "\n", sim->now_ns, (int)(what.len < 60 ? what.len : 60),
                what.len == 0 ? "" : (const char *)what.data, sim->trace);
    pthread_mutex_unlock(&sim->lock);
}

void cs_sim_log(cs_sim *sim, FILE *to)
{
    sim->log = to;
}

void cs_sim_latency(cs_sim *sim, uint64_t min_us, uint64_t max_us)
{
    sim->latency_min_ns = min_us * 1000;
    sim->latency_max_ns = max_us * 1000;
}

/* ---- clocks and randomness of a host ---- */

static uint64_t monotonic_ns(void *self)
{
    struct cs_sim_host *h = self;
    uint64_t now;

    pthread_mutex_lock(&h->sim->lock);
    now = h->sim->now_ns;
    pthread_mutex_unlock(&h->sim->lock);
    return now;
}

static uint64_t now_ns(void *self)
{
    struct cs_sim_host *h = self;

    return (uint64_t)(CS_SIM_EPOCH_MS + h->skew_ms) * CS_SIM_MS + (h->frozen ? h->frozen_at : monotonic_ns(self));
}

static int64_t now_ms(void *self)
{
    return (int64_t)(now_ns(self) / CS_SIM_MS);
}

static void fill(void *self, void *out, size_t n)
{
    struct cs_sim_host *h = self;
    uint8_t word[8], *p = out;

    pthread_mutex_lock(&h->sim->lock);
    for (; n > 0; p += 8, n -= 8) {
        cs_store_u64(word, next_random(h->sim));
        memcpy(p, word, n < 8 ? n : 8);
        if (n < 8)
            break;
    }
    pthread_mutex_unlock(&h->sim->lock);
}

static const struct cs_clock_ops clock_ops = { now_ms, now_ns, monotonic_ns };
static const struct cs_random_ops random_ops = { fill };

void cs_sim_skew(struct cs_world *host, int64_t ms)
{
    cs_sim_host_of(host)->skew_ms = ms;
}

void cs_sim_freeze(struct cs_world *host, bool on)
{
    struct cs_sim_host *h = cs_sim_host_of(host);
    uint64_t now = monotonic_ns(h);

    if (h->frozen && !on)
        h->skew_ms -= (int64_t)((now - h->frozen_at) / CS_SIM_MS);
    if (!h->frozen)
        h->frozen_at = now;
    h->frozen = on;
}

/* ---- hosts ---- */

static void kill_locked(void *arg)
{
    struct cs_sim_host *h = arg;

    while (h->loops != NULL)
        cs_sim_loop_kill(h->loops);
    h->down = false;
}

void cs_sim_crash(struct cs_sim_host *h)
{
    if (h->down)
        return;
    h->down = true;
    cs_sim_plan(h->sim, &h->kill, h->sim->now_ns);
}

void cs_sim_kill_host(struct cs_world *host)
{
    struct cs_sim_host *h = cs_sim_host_of(host);

    pthread_mutex_lock(&h->sim->lock);
    cs_sim_unplan(h->sim, &h->kill);
    kill_locked(h);
    pthread_mutex_unlock(&h->sim->lock);
}

bool cs_sim_lives(struct cs_world *host)
{
    return cs_sim_host_of(host)->loops != NULL;
}

void cs_sim_crash_at_write(struct cs_world *host, unsigned nth)
{
    cs_sim_host_of(host)->crash_in = nth;
}

void cs_sim_crash_now(struct cs_world *host)
{
    struct cs_sim_host *h = cs_sim_host_of(host);

    pthread_mutex_lock(&h->sim->lock);
    cs_sim_crash(h);
    pthread_mutex_unlock(&h->sim->lock);
}

void cs_sim_disk_full(struct cs_world *host, bool on)
{
    cs_sim_host_of(host)->disk_full = on;
}

static void host_free(struct cs_sim_host *h)
{
    cs_sim_files_free(h);
    free(h->name);
    free(h);
}

struct cs_world *cs_sim_host(cs_sim *sim, const char *name)
{
    struct cs_sim_host *h;

    for (h = sim->hosts; h != NULL; h = h->next)
        if (strcmp(h->name, name) == 0)
            return &h->world;
    if ((h = calloc(1, sizeof *h)) == NULL)
        return NULL;
    if ((h->name = strdup(name)) == NULL || cs_sim_files_init(h) != CS_OK) {
        host_free(h);
        return NULL;
    }
    h->sim = sim;
    h->number = ++sim->nhosts;
    snprintf(h->address, sizeof h->address, "10.0.%u.%u", (h->number >> 8) & 0xff, h->number & 0xff);
    h->next_port = (uint16_t)cs_sim_draw_between(sim, 32768, 40000);
    h->kill = (struct cs_sim_event){ .kind = "crash", .fn = kill_locked, .arg = h };
    h->world = (struct cs_world){ .clock = { &clock_ops, h },
                                  .random = { &random_ops, h },
                                  .files = { &cs_sim_file_ops, h },
                                  .loop_new = cs_sim_loop_new,
                                  .self = h };
    *sim->last_host = h;
    sim->last_host = &h->next;
    return &h->world;
}

/* ---- the simulation ---- */

cs_sim *cs_sim_new(uint64_t seed)
{
    cs_sim *sim = calloc(1, sizeof *sim);

    if (sim == NULL)
        return NULL;
    pthread_mutex_init(&sim->lock, NULL);
    pthread_cond_init(&sim->changed, NULL);
    sim->last_host = &sim->hosts;
    sim->random = seed;
    sim->trace = 0xcbf29ce484222325u;
    sim->trace_payload = true;
    cs_sim_latency(sim, 100, 20000);
    return sim;
}

void cs_sim_free(cs_sim *sim)
{
    if (sim == NULL)
        return;
    for (struct cs_sim_host *h = sim->hosts; h != NULL; h = h->next)
        while (h->loops != NULL)
            cs_sim_loop_kill(h->loops);
    while (sim->dead != NULL)
        cs_sim_loop_discard(sim->dead);
    cs_sim_conns_free(sim);
    while (sim->hosts != NULL) {
        struct cs_sim_host *h = sim->hosts;

        sim->hosts = h->next;
        host_free(h);
    }
    while (sim->partitions != NULL) {
        struct partition *p = sim->partitions;

        sim->partitions = p->next;
        free(p);
    }
    free(sim->heap);
    pthread_cond_destroy(&sim->changed);
    pthread_mutex_destroy(&sim->lock);
    free(sim);
}
