/* The tables of the hub's store in PostgreSQL. */
#ifndef CS_HUB_PG_SCHEMA_H
#define CS_HUB_PG_SCHEMA_H

#include "hub/pg.h"

enum { CS_PG_MAX_PARTITIONS = 1024 };

/* Makes the tables, or brings an older hub's up to date, in one transaction that several starting nodes take turns at.
 * partitions: how many each table is cut into when it is made, by a hash of the workspace; 0: none. CS_EVERSION: a
 * newer hub's. */
int cs_pg_schema_ensure(const char *url, enum cs_pg_prepare prepare, unsigned partitions, struct cs_error *err);

#endif
