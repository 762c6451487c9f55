/* The canonical bytes of a merged state (docs/protocol.md), written piece by piece by whoever holds one:
 *   "claw-sync merged state 1\n", then each row that is not empty, by table name and key: frame(table), frame(key),
 * ins, del, 4-byte number of cells, and by column name frame(column), version, frame(encoding). frame(x) is a 4-byte
 * length and x; a version is its stamp in 8 bytes, then the device. Out of memory: out->failed. */
#ifndef CS_CRDT_DUMP_H
#define CS_CRDT_DUMP_H

#include "crdt/merge.h"

struct cs_dump_cell {
    struct cs_slice name;
    const struct cs_row_cell *cell; /* borrowed */
};

struct cs_slice cs_dump_head(void); /* its first line; a constant */
/* A row; exactly its ncells cs_dump_cell follow, in the order that cs_dump_sort gives. */
void cs_dump_row(struct cs_buf *out, struct cs_slice table, struct cs_slice key, const struct cs_row *row);
void cs_dump_sort(struct cs_dump_cell *cells, uint32_t n);
void cs_dump_cell(struct cs_buf *out, const struct cs_dump_cell *cell, const struct cs_value *value);

#endif
