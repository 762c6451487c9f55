#include "crdt/value.h"

#include "crdt/plant.h"

enum { NUMBER_LEN = 1 + 8 };
static const uint64_t SIGN = UINT64_C(1) << 63;

/* A NaN that came in all the same is what SQLite makes of it: NULL. */
static enum cs_type type_of(const struct cs_value *v)
{
    return v->type == CS_REAL && v->u.r != v->u.r ? CS_NULL : v->type;
}

/* 64 bits whose unsigned order is the order of the numbers. */
static uint64_t integer_bits(int64_t i)
{
    return CS_PLANT(INTEGER_SIGN, (uint64_t)i ^ SIGN, (uint64_t)i);
}
static uint64_t real_bits(double r)
{
    uint64_t b;

    memcpy(&b, &r, sizeof b);
    return (b & SIGN) != 0 ? CS_PLANT(NEGATIVE_REAL, ~b, b ^ SIGN) : b ^ SIGN;
}
static double real_of_bits(uint64_t b)
{
    double r;

    b = (b & SIGN) != 0 ? b ^ SIGN : ~b;
    memcpy(&r, &b, sizeof r);
    return r;
}

/* A real that an int64 holds exactly. 0x1p63 itself is one too many. */
static bool integral(double r, int64_t *i)
{
    /* cppcheck-suppress incorrectLogicOperator ; it cannot read hexadecimal floats */
    if (!(r >= -0x1p63 && r < 0x1p63) || (double)(int64_t)r != r)
        return false;
    *i = (int64_t)r;
    return true;
}

size_t cs_value_encoded_len(const struct cs_value *v)
{
    switch (type_of(v)) {
    case CS_INTEGER:
    case CS_REAL:
        return NUMBER_LEN;
    case CS_TEXT:
    case CS_BLOB:
        return 1 + v->u.bytes.len;
    case CS_NULL:
        break;
    }
    return 1;
}

void cs_value_encode(struct cs_buf *out, const struct cs_value *v)
{
    enum cs_type type = type_of(v);

    cs_buf_put_u8(out, (uint8_t)type);
    if (type == CS_INTEGER)
        cs_buf_put_u64(out, integer_bits(v->u.i));
    else if (type == CS_REAL)
        cs_buf_put_u64(out, real_bits(v->u.r));
    else if (type != CS_NULL)
        cs_buf_put_slice(out, v->u.bytes);
}

bool cs_value_decode(struct cs_value *out, struct cs_slice encoded)
{
    struct cs_reader r = cs_reader(encoded);

    out->type = (enum cs_type)cs_read_u8(&r);
    switch (out->type) {
    case CS_NULL:
        break;
    case CS_INTEGER:
        out->u.i = (int64_t)(cs_read_u64(&r) ^ SIGN);
        break;
    case CS_REAL:
        out->u.r = real_of_bits(cs_read_u64(&r));
        break;
    case CS_TEXT:
    case CS_BLOB:
        out->u.bytes = cs_read_bytes(&r, cs_reader_left(&r));
        return true;
    default:
        return false;
    }
    return cs_reader_done(&r) && (out->type != CS_REAL || out->u.r == out->u.r);
}

int cs_value_cmp(const struct cs_value *a, const struct cs_value *b)
{
    enum cs_type ta = type_of(a), tb = type_of(b);
    uint64_t x, y;

    if (ta != tb)
        return ta < tb ? -1 : 1;
    if (ta == CS_NULL)
        return 0;
    if (ta == CS_TEXT || ta == CS_BLOB)
        return cs_slice_cmp(a->u.bytes, b->u.bytes);
    x = ta == CS_INTEGER ? integer_bits(a->u.i) : real_bits(a->u.r);
    y = ta == CS_INTEGER ? integer_bits(b->u.i) : real_bits(b->u.r);
    return (x > y) - (x < y);
}

/* ASCII only, as SQLite's NOCASE. */
static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 'a' - 'A') : c;
}

/* What is the same for every value that = takes for the same: numbers by value, text collated; but for the case of
 * letters, which needs bytes of its own. */
static struct cs_value folded(const struct cs_value *v, enum cs_collation coll)
{
    struct cs_value f = { .type = type_of(v), .u = v->u };
    int64_t i;

    if (f.type == CS_REAL && CS_PLANT(NUMBERS_DIFFER_BY_TYPE, integral(f.u.r, &i), false))
        return (struct cs_value){ .type = CS_INTEGER, .u.i = i };
    if (f.type == CS_TEXT && coll == CS_RTRIM)
        while (f.u.bytes.len > 0 && f.u.bytes.data[f.u.bytes.len - 1] == ' ')
            f.u.bytes.len--;
    return f;
}

static void put_folded(struct cs_buf *out, const struct cs_value *v, enum cs_collation coll)
{
    struct cs_value f = folded(v, coll);
    uint8_t *p;

    cs_buf_put_u32(out, (uint32_t)cs_value_encoded_len(&f));
    cs_value_encode(out, &f);
    if (f.type == CS_TEXT && coll == CS_NOCASE && !out->failed) {
        p = out->data + out->len - f.u.bytes.len;
        for (size_t k = 0; k < f.u.bytes.len; k++)
            p[k] = lower(p[k]);
    }
}

void cs_key_put(struct cs_buf *out, const struct cs_value *part, enum cs_collation coll)
{
    put_folded(out, part, coll);
}

bool cs_key_spells(const struct cs_value *part, const struct cs_value *literal, enum cs_collation coll)
{
    struct cs_value f = folded(literal, coll);

    if (f.type != CS_TEXT || coll != CS_NOCASE || part->type != CS_TEXT)
        return cs_value_cmp(&f, part) == 0;
    if (f.u.bytes.len != part->u.bytes.len)
        return false;
    for (size_t k = 0; k < f.u.bytes.len; k++)
        if (lower(f.u.bytes.data[k]) != part->u.bytes.data[k])
            return false;
    return true;
}

bool cs_key_next(struct cs_reader *r, struct cs_value *part)
{
    struct cs_slice e = cs_read_bytes(r, cs_read_u32(r));

    if (r->bad || !cs_value_decode(part, e))
        r->bad = true;
    return !r->bad;
}

int cs_key_parts(struct cs_slice key)
{
    struct cs_reader r = cs_reader(key);
    struct cs_value part;
    int n = 0;

    while (!cs_reader_done(&r)) {
        if (!cs_key_next(&r, &part))
            return -1;
        n++;
    }
    return n;
}

void cs_value_put_equal(struct cs_buf *out, const struct cs_value *v, enum cs_collation coll)
{
    put_folded(out, v, CS_PLANT(EQUAL_IGNORES_COLLATION, coll, CS_BINARY));
}
