/* The parts of a snapshot on their way, sealed, in a temporary database of SQLite's, so that memory does not grow with
 * the rows. In jobs. */
#ifndef CS_ENGINE_PARTS_H
#define CS_ENGINE_PARTS_H

#include "delta/pack.h"

typedef struct cs_parts cs_parts;

int cs_parts_new(cs_parts **out, struct cs_error *err);
void cs_parts_free(cs_parts *p); /* NULL is fine */
/* The next one, in the form of cs_batch_encode. */
int cs_parts_add(cs_parts *p, struct cs_slice stored, struct cs_error *err);
uint32_t cs_parts_count(const cs_parts *p);
int cs_parts_get(cs_parts *p, uint32_t i, struct cs_batch *out, struct cs_error *err);

#endif
