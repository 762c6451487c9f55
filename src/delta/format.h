/* The wire form of a delta set, for encode.c and decode.c: field numbers and types of proto/clawsync/v1/delta.proto,
 * written by hand because nothing may be allocated per operation. Also the rules that both sides hold a set to. */
#ifndef CS_DELTA_FORMAT_H
#define CS_DELTA_FORMAT_H

#include "crdt/op.h"

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
#define TAG(field, wire) ((uint8_t)((field) << 3 | (wire)))

enum { SET_DEVICES = 1, SET_TABLES = 2, SET_BASE_STAMP = 3, SET_OPS = 4, SET_STATE = 5, SET_COLLECT = 6 };
enum { TABLE_NAME = 1, TABLE_COLUMNS = 2 };
enum { OP_KIND = 1, OP_TABLE = 2, OP_DEVICE = 3, OP_STAMP = 4, OP_KEY = 5, OP_COLUMNS = 6, OP_VALUES = 7, OP_OVER = 8 };
enum { VALUE_INTEGER = 1, VALUE_REAL = 2, VALUE_TEXT = 3, VALUE_BLOB = 4 };
enum { OVER_COLUMN = 1, OVER_DEVICE = 2, OVER_STAMP = 3 };

enum {
    NAME_MAX_LEN = 1000,
    COLUMNS_MAX = 2000,
    OP_MIN_LEN = 2 + 2 + 5 /* kind, and a key of one null */
};

/* What is wrong with it, or NULL. */
const char *cs_delta_table_fault(const struct cs_delta_table *t);
const char *cs_delta_op_fault(const struct cs_delta *d, const struct cs_op *op);

#endif
