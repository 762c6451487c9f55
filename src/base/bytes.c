#include "base/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void cs_buf_free(struct cs_buf *b)
{
    free(b->data);
    *b = (struct cs_buf){ 0 };
}

void cs_buf_reset(struct cs_buf *b)
{
    b->len = 0;
    b->failed = false;
}

bool cs_buf_reserve(struct cs_buf *b, size_t n)
{
    size_t want, cap = b->cap < 64 ? 64 : b->cap;
    uint8_t *p;

    if (b->failed || n > SIZE_MAX / 4 - b->len)
        return !(b->failed = true);
    want = b->len + n;
    if (want <= b->cap)
        return true;
    while (cap < want)
        cap += cap / 2;
    if ((p = realloc(b->data, cap)) == NULL)
        return !(b->failed = true);
    b->data = p;
    b->cap = cap;
    return true;
}

uint8_t *cs_buf_grow(struct cs_buf *b, size_t n)
{
    uint8_t *p;

    if (!cs_buf_reserve(b, n))
        return NULL;
    p = b->data + b->len;
    b->len += n;
    return p;
}

void cs_buf_put(struct cs_buf *b, const void *p, size_t n)
{
    uint8_t *at = n == 0 ? NULL : cs_buf_grow(b, n);

    if (at != NULL)
        memcpy(at, p, n);
}

void cs_buf_put_slice(struct cs_buf *b, struct cs_slice s)
{
    cs_buf_put(b, s.data, s.len);
}

void cs_buf_put_str(struct cs_buf *b, const char *s)
{
    cs_buf_put(b, s, strlen(s));
}

void cs_buf_put_u8(struct cs_buf *b, uint8_t v)
{
    cs_buf_put(b, &v, 1);
}

void cs_buf_put_u16(struct cs_buf *b, uint16_t v)
{
    uint8_t p[2];

    cs_store_u16(p, v);
    cs_buf_put(b, p, sizeof p);
}

void cs_buf_put_u32(struct cs_buf *b, uint32_t v)
{
    uint8_t p[4];

    cs_store_u32(p, v);
    cs_buf_put(b, p, sizeof p);
}

void cs_buf_put_u64(struct cs_buf *b, uint64_t v)
{
    uint8_t p[8];

    cs_store_u64(p, v);
    cs_buf_put(b, p, sizeof p);
}

void cs_buf_put_varint(struct cs_buf *b, uint64_t v)
{
    uint8_t p[10];
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    cs_buf_put(b, p, n);
}

void cs_buf_printf(struct cs_buf *b, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !cs_buf_reserve(b, (size_t)n + 1)) {
        b->failed = true;
        return;
    }
    va_start(ap, fmt);
    vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

struct cs_slice cs_read_bytes(struct cs_reader *r, size_t n)
{
    struct cs_slice s;

    if (r->bad || n > cs_reader_left(r)) {
        r->bad = true;
        return CS_SLICE_NULL;
    }
    s = cs_slice(r->p, n);
    r->p += n;
    return s;
}

bool cs_read_into(struct cs_reader *r, void *out, size_t n)
{
    struct cs_slice s = cs_read_bytes(r, n);

    if (r->bad)
        memset(out, 0, n);
    else if (n != 0)
        memcpy(out, s.data, n);
    return !r->bad;
}

uint8_t cs_read_u8(struct cs_reader *r)
{
    uint8_t p[1];

    cs_read_into(r, p, sizeof p);
    return p[0];
}

uint16_t cs_read_u16(struct cs_reader *r)
{
    uint8_t p[2];

    cs_read_into(r, p, sizeof p);
    return cs_load_u16(p);
}

uint32_t cs_read_u32(struct cs_reader *r)
{
    uint8_t p[4];

    cs_read_into(r, p, sizeof p);
    return cs_load_u32(p);
}

uint64_t cs_read_u64(struct cs_reader *r)
{
    uint8_t p[8];

    cs_read_into(r, p, sizeof p);
    return cs_load_u64(p);
}

uint64_t cs_read_varint(struct cs_reader *r)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = cs_read_u8(r);

        if (r->bad || (shift == 63 && byte > 1))
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return v;
    }
    r->bad = true;
    return 0;
}

void cs_hex(char *out, const void *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *b = p;

    for (size_t i = 0; i < n; i++) {
        *out++ = digits[b[i] >> 4];
        *out++ = digits[b[i] & 15];
    }
    *out = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool cs_unhex(void *out, size_t n, const char *s)
{
    uint8_t *b = out;

    for (size_t i = 0; i < n; i++) {
        int hi = hex_digit(s[2 * i]), lo = hi < 0 ? -1 : hex_digit(s[2 * i + 1]);

        if (lo < 0)
            return false;
        b[i] = (uint8_t)(hi << 4 | lo);
    }
    return s[2 * n] == '\0';
}

static const char alphabet[2][65] = {
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
};

void cs_base64(struct cs_buf *out, struct cs_slice in, bool url)
{
    for (size_t i = 0; i < in.len; i += 3) {
        size_t n = in.len - i < 3 ? in.len - i : 3;
        uint32_t v = (uint32_t)in.data[i] << 16;

        if (n > 1)
            v |= (uint32_t)in.data[i + 1] << 8;
        if (n > 2)
            v |= in.data[i + 2];
        for (size_t k = 0; k < 4; k++) {
            if (k <= n)
                cs_buf_put_u8(out, (uint8_t)alphabet[url][v >> (18 - 6 * k) & 63]);
            else if (!url)
                cs_buf_put_u8(out, '=');
        }
    }
}

bool cs_unbase64(struct cs_buf *out, struct cs_slice in, bool url)
{
    size_t n = in.len, at = 0;

    if (!url) {
        if (n % 4 != 0)
            return false;
        for (int k = 0; k < 2 && n > 0 && in.data[n - 1] == '='; k++)
            n--;
    }
    if (n % 4 == 1 || (!url && (4 - n % 4) % 4 != in.len - n))
        return false;
    while (at < n) {
        size_t take = n - at < 4 ? n - at : 4;
        uint32_t v = 0;

        for (size_t k = 0; k < take; k++) {
            const char *d = in.data[at + k] == 0 ? NULL : strchr(alphabet[url], in.data[at + k]);

            if (d == NULL)
                return false;
            v |= (uint32_t)(d - alphabet[url]) << (18 - 6 * k);
        }
        if ((take == 2 && (v & 0xffff) != 0) || (take == 3 && (v & 0xff) != 0))
            return false; /* left-over bits: a second spelling of the same bytes */
        for (size_t k = 0; k + 1 < take; k++)
            cs_buf_put_u8(out, (uint8_t)(v >> (16 - 8 * k)));
        at += take;
    }
    return !out->failed;
}
