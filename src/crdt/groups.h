/* Rows that are each other's parents, directly or not: the strongly connected components of the graph from rows to
 * their possible parents. */
#ifndef CS_CRDT_GROUPS_H
#define CS_CRDT_GROUPS_H

#include "crdt/project.h"

enum { CS_NO_GROUP = UINT32_MAX };
/* group[i] of each entity, numbered from 0, *ngroups of them; and group[in->n + i] of each parent set: the group that
 * has it between two of its rows, or CS_NO_GROUP. in is checked already. CS_ENOMEM. */
int cs_groups(const struct cs_decide_in *in, uint32_t *group, uint32_t *ngroups, struct cs_arena *a);

#endif
