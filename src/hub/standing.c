/* Calls that stay open for as long as the client likes and wait for no work of ours. */
#include <stdlib.h>

#include "hub/internal.h"

struct cs_standing *cs_standing_start(cs_rpc_call *c, struct cs_hub *h, void (*stop)(struct cs_standing *s))
{
    static const struct cs_verdict no_memory = { CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again" };
    struct cs_standing *s = calloc(1, sizeof *s);

    cs_rpc_call_set_user(c, s);
    cs_rpc_call_admit(c);
    if (s == NULL) {
        cs_call_finish(c, &no_memory, NULL, 0);
        return NULL;
    }
    *s = (struct cs_standing){ .hub = h, .call = c, .stop = stop, .next = h->standing, .link = &h->standing };
    if (s->next != NULL)
        s->next->link = &s->next;
    h->standing = s;
    return s;
}

void cs_standing_closed(cs_rpc_call *c, void *service)
{
    struct cs_standing *s = cs_rpc_call_user(c);

    (void)service;
    if (s == NULL)
        return;
    *s->link = s->next;
    if (s->next != NULL)
        s->next->link = s->link;
    free(s);
}

void cs_standing_end(struct cs_standing *s)
{
    static const struct cs_verdict v = { CS_RPC_UNAVAILABLE, "transport", "the hub is shutting down" };

    cs_call_finish(s->call, &v, NULL, 0);
}

void cs_standing_stop(struct cs_hub *h)
{
    for (struct cs_standing *s = h->standing; s != NULL; s = s->next)
        s->stop(s);
}
