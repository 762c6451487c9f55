/* Operations: what one change of an application becomes, and what travels. A delta set is a list of them that names
 * tables, columns and devices once. Plain data in an arena; no ownership inside. */
#ifndef CS_CRDT_OP_H
#define CS_CRDT_OP_H

#include "crdt/value.h"
#include "crdt/version.h"

enum cs_op_kind { CS_OP_INSERT = 1, CS_OP_UPDATE = 2, CS_OP_DELETE = 3 };

struct cs_op_cell {
    uint32_t col; /* index into the table's columns */
    struct cs_value value;
};

/* What the author saw in a field and overwrote (delete: what it saw in a field). */
struct cs_op_over {
    uint32_t col;
    uint32_t device; /* index into the set's devices */
    int64_t stamp;
};

struct cs_op {
    enum cs_op_kind kind;
    uint32_t table;           /* index into the set's tables */
    uint32_t device;          /* author: index into the set's devices */
    int64_t stamp;            /* > 0 */
    struct cs_slice key;      /* canonical key bytes (crdt/value.h) */
    struct cs_op_cell *cells; /* ascending by col; none in a delete */
    struct cs_op_over *over;  /* ascending by col; none in an insert */
    uint32_t ncells, nover;
};

struct cs_delta_table {
    struct cs_slice name;     /* 1 … 1000 bytes */
    struct cs_slice *columns; /* names, 1 … 1000 bytes each, no two equal */
    uint32_t ncolumns;        /* at most 2000 */
};

/* Where the log says that tombstones go: those with stamps up to `through`; 0: nowhere. */
struct cs_collection {
    int64_t through;
    uint64_t log_id, number; /* its place; not on the wire, where the place itself says it */
};

struct cs_delta {
    struct cs_delta_table *tables;
    struct cs_uuid *devices; /* [0] is the sender */
    struct cs_op *ops;
    uint32_t ntables, ndevices, nops;
    bool state; /* merged state, and not edits: what their authors saw is not known */
    struct cs_collection collect;
    /* Not on the wire; set by whoever has the set merged. Operations with stamps up to `skip` are not: the tombstones
     * that could have met them are gone. told: those that the state does not have become conflicts. sweeps: it is made
     * here, of rows that others' state does not have. */
    int64_t skip;
    bool told, sweeps;
};

#endif
