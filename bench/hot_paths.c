/* The hottest paths, one a run, on workload W: for counting instructions (bench/counts.py). Everything but the path
 * itself happens outside of `counted`.
 *   hot_paths PATH ROWS */
#include <stdio.h>
#include <stdlib.h>

#include "workload.h"

struct scene {
    sqlite3 *a; /* the application's connection to a.db */
    cs_replica *from, *to;
    cs_packer *packer;
    struct cs_bench_batches sent;
};

static void nothing(struct scene *s)
{
    (void)s;
}

static void insert(struct scene *s)
{
    cs_bench_insert(s->a, true);
}

static void insert_and_seal(struct scene *s)
{
    insert(s);
    cs_bench_seal(s->from);
}

static void update(struct scene *s)
{
    cs_bench_update(s->a, true, 1);
}

static void send(struct scene *s)
{
    cs_bench_send(s->from, s->packer, &s->sent, 0);
}

static void insert_and_send(struct scene *s)
{
    insert(s);
    send(s);
}

static void receive(struct scene *s)
{
    cs_bench_receive(s->to, s->packer, &s->sent, 1);
}

static void send_and_receive(struct scene *s)
{
    insert_and_send(s);
    receive(s);
}

static void receive_again(struct scene *s)
{
    cs_bench_receive(s->to, s->packer, &s->sent, s->sent.n + 1);
}

static const struct path {
    const char *name;
    void (*before)(struct scene *s);
    void (*run)(struct scene *s);
} paths[] = {
    { "capture-inserts", nothing, insert },
    { "capture-updates", insert_and_seal, update },
    { "send", insert, send },
    { "receive", insert_and_send, receive },
    { "receive-again", send_and_receive, receive_again },
};

/* What callgrind collects: called once. */
__attribute__((noinline)) void counted(const struct path *p, struct scene *s);
void counted(const struct path *p, struct scene *s)
{
    p->run(s);
}

static void path_run(const struct path *p)
{
    struct scene s = { .a = cs_bench_open_plain("a.db", true), .packer = cs_bench_packer() };

    sqlite3_close(cs_bench_open_plain("b.db", true));
    s.from = cs_bench_open_replica("a.db", 1);
    s.to = cs_bench_open_replica("b.db", 2);
    cs_bench_track(s.from);
    cs_bench_track(s.to);
    p->before(&s);
    counted(p, &s);
    cs_bench_batches_free(&s.sent);
    cs_replica_close(s.from);
    cs_replica_close(s.to);
    cs_packer_free(s.packer);
    sqlite3_close(s.a);
}

int main(int argc, char **argv)
{
    uint32_t rows = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;

    for (size_t i = 0; rows >= 1000 && i < sizeof paths / sizeof paths[0]; i++)
        if (strcmp(argv[1], paths[i].name) == 0) {
            cs_bench_init("hot_paths", rows);
            path_run(&paths[i]);
            cs_bench_fini();
            return 0;
        }
    fprintf(stderr, "usage: hot_paths PATH ROWS (1000 or more); PATH is one of:\n");
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        fprintf(stderr, "  %s\n", paths[i].name);
    return 2;
}
