/* What hubs on one PostgreSQL tell each other, by LISTEN and NOTIFY: a thread with a connection of its own, a session's
 * that no pooler shares out. It comes soon or not at all; whoever hears that something may have been missed looks for
 * himself. */
#ifndef CS_HUB_PG_NEWS_H
#define CS_HUB_PG_NEWS_H

#include "hub/store.h"

typedef struct cs_pg_news cs_pg_news;

/* heard comes on the thread, until close. CS_EINVAL: a pooler is in between; CS_EUNAVAILABLE: nobody is there. world is
 * borrowed. */
int cs_pg_news_open(cs_pg_news **out, struct cs_world *world, const char *url, cs_store_heard *heard, void *arg,
                    struct cs_error *err);
/* A line without its end, of at most CS_STORE_NEWS bytes, for all the others. Any thread; does not block. */
void cs_pg_news_tell(cs_pg_news *n, struct cs_slice line);
void cs_pg_news_close(cs_pg_news *n); /* NULL is fine; what waits is still sent when that takes no time */

#endif
