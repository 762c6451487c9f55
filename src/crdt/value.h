/* SQLite values and their one canonical encoding: a tag byte (0 null, 1 integer, 2 real, 3 text, 4 blob), then an
 * integer as 8 bytes big-endian with the sign bit flipped; a real as its 8 IEEE 754 bytes with the sign bit flipped,
 * or with all bits flipped if it was negative; text and blob as they are. memcmp of two encodings is the order of
 * values. A NaN is not a value: it encodes as null, and the decoder refuses it. Pure functions, any thread. */
#ifndef CS_CRDT_VALUE_H
#define CS_CRDT_VALUE_H

#include "base/arena.h"

enum cs_type { CS_NULL = 0, CS_INTEGER = 1, CS_REAL = 2, CS_TEXT = 3, CS_BLOB = 4 };
enum cs_collation { CS_BINARY = 0, CS_NOCASE = 1, CS_RTRIM = 2 };

struct cs_value {
    enum cs_type type;
    union {
        int64_t i;             /* CS_INTEGER */
        double r;              /* CS_REAL, never NaN */
        struct cs_slice bytes; /* CS_TEXT (any bytes, UTF-8 or not) and CS_BLOB; borrowed */
    } u;
};

/* Bytes of the encoding. */
size_t cs_value_encoded_len(const struct cs_value *v);
void cs_value_encode(struct cs_buf *out, const struct cs_value *v);
/* Text and blob point into the input. False: no such tag, wrong length, or a NaN. */
bool cs_value_decode(struct cs_value *out, struct cs_slice encoded);
/* Order of the encodings, without making them. */
int cs_value_cmp(const struct cs_value *a, const struct cs_value *b);

/* Entity keys. A key is the frames (4-byte length, then the encoding) of its parts in the order of the key columns;
 * each part is canonical under its column's collation: NOCASE folded (ASCII), RTRIM trimmed of spaces, a real that is
 * an int64 as that integer. */
void cs_key_put(struct cs_buf *out, const struct cs_value *part, enum cs_collation coll);
/* Is `part` the canonical form of this value? */
bool cs_key_spells(const struct cs_value *part, const struct cs_value *literal, enum cs_collation coll);
/* Reads the next part; false at malformed bytes (*r is bad) . Text and blob point into the input. */
bool cs_key_next(struct cs_reader *r, struct cs_value *part);
/* Number of parts, or -1 if the bytes are not a key. */
int cs_key_parts(struct cs_slice key);

/* What SQLite's = compares, for UNIQUE, FOREIGN KEY and CHECK, as bytes that are equal iff the values are: numbers by
 * value (1 = 1.0), text under the collation, blobs by bytes; null is for the caller to treat. Framed, so that several
 * can follow each other. */
void cs_value_put_equal(struct cs_buf *out, const struct cs_value *v, enum cs_collation coll);

#endif
