#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"

enum { WIDTH = 30 };

static const uint64_t PAUSE_TTY_NS = 100000000, PAUSE_LINES_NS = 2000000000;

static void draw_bar(const clawsync_event *e)
{
    char bar[WIDTH + 1];
    size_t full = e->total == 0 || e->count >= e->total ? WIDTH : (size_t)(e->count * WIDTH / e->total);

    memset(bar, ' ', WIDTH);
    memset(bar, '#', full);
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r%-8s [%s] %" PRIu64 " of %" PRIu64 " ", e->name, bar, e->count, e->total);
    fflush(stderr);
}

void cs_cli_progress_event(struct cs_cli_progress *p, const clawsync_event *e)
{
    uint64_t now = cs_monotonic_ns(p->cli->world);
    bool another = strcmp(p->name, e->name) != 0;

    if (e->type != CLAWSYNC_EVENT_PROGRESS || p->cli->quiet || p->cli->json)
        return;
    if (!p->cli->tty && e->count == 0) /* looking at rows that may well be as they were */
        return;
    if (!another && now - p->last_ns < (p->cli->tty ? PAUSE_TTY_NS : PAUSE_LINES_NS))
        return;
    if (another)
        cs_cli_progress_end(p);
    snprintf(p->name, sizeof p->name, "%s", e->name);
    p->last_ns = now;
    if (p->cli->tty) {
        draw_bar(e);
        p->drawn = true;
    } else {
        fprintf(stderr, "claw-sync: %s %" PRIu64 " of %" PRIu64 "\n", e->name, e->count, e->total);
    }
}

void cs_cli_progress_end(struct cs_cli_progress *p)
{
    if (p->drawn)
        fprintf(stderr, "\r%*s\r", WIDTH + 50, "");
    p->drawn = false;
    p->name[0] = '\0';
}
