/* Byte strings: a borrowed view, a growing buffer, and a cursor that knows its end. Integers are big-endian. */
#ifndef CS_BASE_BYTES_H
#define CS_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A view of bytes that someone else owns; it lasts as long as its owner says. */
struct cs_slice {
    const uint8_t *data;
    size_t len;
};

#define CS_SLICE_NULL ((struct cs_slice){ NULL, 0 })

static inline struct cs_slice cs_slice(const void *data, size_t len)
{
    return (struct cs_slice){ (const uint8_t *)data, len };
}
static inline struct cs_slice cs_slice_str(const char *s)
{
    return cs_slice(s, strlen(s));
}
static inline bool cs_slice_eq(struct cs_slice a, struct cs_slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}
/* Order by bytes, a prefix first. */
static inline int cs_slice_cmp(struct cs_slice a, struct cs_slice b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n == 0 ? 0 : memcmp(a.data, b.data, n);

    return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

static inline void cs_store_u16(uint8_t p[2], uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void cs_store_u32(uint8_t p[4], uint32_t v)
{
    cs_store_u16(p, (uint16_t)(v >> 16));
    cs_store_u16(p + 2, (uint16_t)v);
}
static inline void cs_store_u64(uint8_t p[8], uint64_t v)
{
    cs_store_u32(p, (uint32_t)(v >> 32));
    cs_store_u32(p + 4, (uint32_t)v);
}
static inline uint16_t cs_load_u16(const uint8_t p[2])
{
    return (uint16_t)(p[0] << 8 | p[1]);
}
static inline uint32_t cs_load_u32(const uint8_t p[4])
{
    return (uint32_t)cs_load_u16(p) << 16 | cs_load_u16(p + 2);
}
static inline uint64_t cs_load_u64(const uint8_t p[8])
{
    return (uint64_t)cs_load_u32(p) << 32 | cs_load_u32(p + 4);
}

/* A growing buffer. Out of memory is sticky: puts do nothing from then on and `failed` stays set, so that a
 * writer checks once, at its end. Zero-initialised is empty and valid. */
struct cs_buf {
    uint8_t *data; /* owned */
    size_t len, cap;
    bool failed;
};

void cs_buf_free(struct cs_buf *b);               /* releases and zeroes the struct */
void cs_buf_reset(struct cs_buf *b);              /* empties, keeps the memory, clears `failed` */
uint8_t *cs_buf_grow(struct cs_buf *b, size_t n); /* n uninitialised bytes appended, or NULL */
bool cs_buf_reserve(struct cs_buf *b, size_t n);  /* room for n more without moving */
void cs_buf_put(struct cs_buf *b, const void *p, size_t n);
void cs_buf_put_slice(struct cs_buf *b, struct cs_slice s);
void cs_buf_put_str(struct cs_buf *b, const char *s); /* without the NUL */
void cs_buf_put_u8(struct cs_buf *b, uint8_t v);
void cs_buf_put_u16(struct cs_buf *b, uint16_t v);
void cs_buf_put_u32(struct cs_buf *b, uint32_t v);
void cs_buf_put_u64(struct cs_buf *b, uint64_t v);
void cs_buf_put_varint(struct cs_buf *b, uint64_t v); /* protobuf's: 7 bits a byte, lowest first */
__attribute__((format(printf, 2, 3))) void cs_buf_printf(struct cs_buf *b, const char *fmt, ...);
static inline struct cs_slice cs_buf_slice(const struct cs_buf *b)
{
    return cs_slice(b->data, b->len);
}

/* A cursor over foreign bytes. Reading past the end sets `bad`, which is sticky, and yields zeros. */
struct cs_reader {
    const uint8_t *p, *end;
    bool bad;
};

static inline struct cs_reader cs_reader(struct cs_slice s)
{
    return (struct cs_reader){ s.data, s.len == 0 ? s.data : s.data + s.len, false }; /* NULL + 0 is undefined in C */
}
static inline size_t cs_reader_left(const struct cs_reader *r)
{
    return (size_t)(r->end - r->p);
}
/* Everything was read and nothing was missing. */
static inline bool cs_reader_done(const struct cs_reader *r)
{
    return !r->bad && r->p == r->end;
}
struct cs_slice cs_read_bytes(struct cs_reader *r, size_t n); /* a view into the input */
bool cs_read_into(struct cs_reader *r, void *out, size_t n);
uint8_t cs_read_u8(struct cs_reader *r);
uint16_t cs_read_u16(struct cs_reader *r);
uint32_t cs_read_u32(struct cs_reader *r);
uint64_t cs_read_u64(struct cs_reader *r);
uint64_t cs_read_varint(struct cs_reader *r); /* more than 64 bits is bad */

/* Signed integers as varints: 0, -1, 1, -2 … become 0, 1, 2, 3 … */
static inline uint64_t cs_zigzag(int64_t v)
{
    return ((uint64_t)v << 1) ^ (v < 0 ? UINT64_MAX : 0);
}
static inline int64_t cs_unzigzag(uint64_t v)
{
    return (int64_t)((v >> 1) ^ (v & 1 ? UINT64_MAX : 0));
}

/* Lower-case hexadecimal; out holds 2 * n + 1 bytes. */
void cs_hex(char *out, const void *p, size_t n);
/* Exactly n bytes from 2 * n digits of either case; false if s is anything else. */
bool cs_unhex(void *out, size_t n, const char *s);

/* base64 with padding (RFC 4648 §4), or base64url without (§5, url = true), appended to out. */
void cs_base64(struct cs_buf *out, struct cs_slice in, bool url);
/* The strict inverse, appended to out: false for anything that cs_base64 would not have written. */
bool cs_unbase64(struct cs_buf *out, struct cs_slice in, bool url);

#endif
