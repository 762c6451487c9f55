#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "clawsync/v1/delta.pb-c.h"
#include "unit/delta/sample.h"

static void assert_same_op(const struct cs_op *a, const struct cs_op *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->table, b->table);
    assert_int_equal(a->device, b->device);
    assert_int_equal(a->stamp, b->stamp);
    assert_true(cs_slice_eq(a->key, b->key));
    assert_int_equal(a->ncells, b->ncells);
    assert_int_equal(a->nover, b->nover);
    for (size_t i = 0; i < a->ncells; i++) {
        assert_int_equal(a->cells[i].col, b->cells[i].col);
        assert_int_equal(a->cells[i].value.type, b->cells[i].value.type);
        assert_int_equal(cs_value_cmp(&a->cells[i].value, &b->cells[i].value), 0);
    }
    for (size_t i = 0; i < a->nover; i++) {
        assert_int_equal(a->over[i].col, b->over[i].col);
        assert_int_equal(a->over[i].device, b->over[i].device);
        assert_int_equal(a->over[i].stamp, b->over[i].stamp);
    }
}

static void sets_round_trip(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_buf bytes = { 0 };
    struct cs_delta d, back;

    (void)state;
    for (uint32_t nops = 0; nops < 40; nops++) {
        cs_arena_reset(&a);
        cs_buf_reset(&bytes);
        sample_delta(&d, &a, nops, nops * 5);
        assert_int_equal(cs_delta_encode(&bytes, &d, NULL), CS_OK);
        assert_int_equal(cs_delta_decode(&back, &a, cs_buf_slice(&bytes), INT64_MAX, NULL), CS_OK);
        assert_int_equal(back.nops, nops);
        assert_int_equal(back.ndevices, 2);
        assert_memory_equal(back.devices, d.devices, 32);
        assert_int_equal(back.tables[0].ncolumns, 4);
        assert_true(cs_slice_eq(back.tables[0].columns[3], cs_slice_str("raw")));
        for (size_t i = 0; i < nops; i++)
            assert_same_op(&d.ops[i], &back.ops[i]);
    }
    cs_buf_free(&bytes);
    cs_arena_free(&a);
}

static void size_bound_holds(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_buf with = { 0 }, without = { 0 };
    struct cs_delta d;
    size_t sum = 0;

    (void)state;
    sample_delta(&d, &a, 30, 700);
    assert_int_equal(cs_delta_encode(&with, &d, NULL), CS_OK);
    for (size_t i = 0; i < d.nops; i++)
        sum += cs_delta_op_size(&d.ops[i]);
    d.nops = 0;
    assert_int_equal(cs_delta_encode(&without, &d, NULL), CS_OK);
    assert_true(with.len - without.len <= sum + 11);
    cs_buf_free(&with);
    cs_buf_free(&without);
    cs_arena_free(&a);
}

/* What the generated code reads from our bytes it writes back as the same bytes. */
static void protobuf_agrees(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_buf bytes = { 0 };
    struct cs_delta d;

    (void)state;
    for (uint32_t nops = 1; nops < 50; nops += 7) {
        Clawsync__V1__DeltaSet *set;
        uint8_t *again;

        cs_arena_reset(&a);
        cs_buf_reset(&bytes);
        sample_delta(&d, &a, nops, nops * 40);
        assert_int_equal(cs_delta_encode(&bytes, &d, NULL), CS_OK);
        set = clawsync__v1__delta_set__unpack(NULL, bytes.len, bytes.data);
        assert_non_null(set);
        assert_int_equal(set->n_ops, nops);
        assert_int_equal(set->base_stamp, d.ops[0].stamp);
        assert_int_equal(clawsync__v1__delta_set__get_packed_size(set), bytes.len);
        again = malloc(bytes.len);
        assert_non_null(again);
        assert_int_equal(clawsync__v1__delta_set__pack(set, again), bytes.len);
        assert_memory_equal(again, bytes.data, bytes.len);
        free(again);
        clawsync__v1__delta_set__free_unpacked(set, NULL);
    }
    cs_buf_free(&bytes);
    cs_arena_free(&a);
}

/* The decoder against hand-made messages. d: a device, t: table "t" with columns "a", "b". */
#define DEVICE                                                                                                         \
    "\x0a\x10"                                                                                                         \
    "dddddddddddddddd"
#define TABLE                                                                                                          \
    "\x12\x09\x0a\x01t\x12\x01"                                                                                        \
    "a\x12\x01"                                                                                                        \
    "b"
#define STAMP10       "\x18\x14" /* base_stamp = 10 */
#define KEY           "\x2a\x05\0\0\0\x01\0"
#define OP(len, body) "\x22" len body
#define DELETE        OP("\x09", "\x08\x03" KEY)

static const struct made {
    const char *name;
    struct cs_slice bytes;
    int want;
} made[] = {
#define M(name, literal, want)                                                                                         \
    {                                                                                                                  \
        name, { (const uint8_t *)(literal), sizeof(literal) - 1 }, want                                                \
    }
    M("a plain delete", DEVICE TABLE STAMP10 DELETE, CS_OK),
    M("operations before all names", DELETE STAMP10 TABLE DEVICE, CS_OK),
    M("unknown fields of every wire type",
      "\x78\x96\x01\x79"
      "abcdefgh"
      "\x7a\x02xy\x7d"
      "abcd" DEVICE TABLE STAMP10 DELETE,
      CS_OK),
    M("an unknown field with a large number", "\xfa\x7f\x01z" DEVICE TABLE STAMP10 DELETE, CS_OK),
    M("unpacked columns", DEVICE TABLE STAMP10 OP("\x11", "\x08\x01" KEY "\x30\0\x3a\0\x30\x01\x3a\0"), CS_OK),
    M("packed in two pieces", DEVICE TABLE STAMP10 OP("\x13", "\x08\x01" KEY "\x32\x01\0\x3a\0\x32\x01\x01\x3a\0"),
      CS_OK),
    M("the last of a scalar counts", DEVICE TABLE "\x18\0" STAMP10 OP("\x0b", "\x08\x01\x08\x03" KEY), CS_OK),
    M("a padded varint", DEVICE TABLE STAMP10 OP("\x0a", "\x08\x83\0" KEY), CS_OK),
    M("no bytes", "", CS_ECORRUPT),
    M("no device", TABLE STAMP10 DELETE, CS_ECORRUPT),
    M("a device of 15 bytes",
      "\x0a\x0f"
      "ddddddddddddddd" TABLE STAMP10 DELETE,
      CS_ECORRUPT),
    M("no table", DEVICE STAMP10 DELETE, CS_ECORRUPT),
    M("an empty table", DEVICE "\x12\0" STAMP10 DELETE, CS_ECORRUPT),
    M("a table without a name",
      DEVICE "\x12\x03\x12\x01"
             "a" STAMP10 DELETE,
      CS_ECORRUPT),
    M("a column name twice",
      DEVICE "\x12\x09\x0a\x01t\x12\x01"
             "a\x12\x01"
             "a" STAMP10 DELETE,
      CS_ECORRUPT),
    M("an empty column name", DEVICE "\x12\x05\x0a\x01t\x12\0" STAMP10 DELETE, CS_ECORRUPT),
    M("no stamp", DEVICE TABLE DELETE, CS_ECORRUPT),
    M("a stamp below 1", DEVICE TABLE STAMP10 OP("\x0b", "\x08\x03\x20\x13" KEY), CS_ECORRUPT),
    M("a stamp above the top", DEVICE TABLE STAMP10 OP("\x0c", "\x08\x03\x20\xb6\x01" KEY), CS_ECORRUPT),
    M("a stamp that overflows",
      DEVICE TABLE STAMP10 OP("\x14", "\x08\x03\x20\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" KEY), CS_ECORRUPT),
    M("kind 0", DEVICE TABLE STAMP10 OP("\x09", "\x08\0" KEY), CS_ECORRUPT),
    M("kind 4", DEVICE TABLE STAMP10 OP("\x09", "\x08\x04" KEY), CS_ECORRUPT),
    M("a table out of range", DEVICE TABLE STAMP10 OP("\x0b", "\x08\x03\x10\x01" KEY), CS_ECORRUPT),
    M("a device out of range", DEVICE TABLE STAMP10 OP("\x0b", "\x08\x03\x18\x01" KEY), CS_ECORRUPT),
    M("a table number above 32 bits", DEVICE TABLE STAMP10 OP("\x0f", "\x08\x03\x10\x80\x80\x80\x80\x10" KEY),
      CS_ECORRUPT),
    M("a malformed key", DEVICE TABLE STAMP10 OP("\x09", "\x08\x03\x2a\x05\0\0\0\x02\0"), CS_ECORRUPT),
    M("no key", DEVICE TABLE STAMP10 OP("\x09", "\x08\x03\x7a\x05xxxxx"), CS_ECORRUPT),
    M("a delete with a cell", DEVICE TABLE STAMP10 OP("\x0e", "\x08\x03" KEY "\x32\x01\0\x3a\0"), CS_ECORRUPT),
    M("an insert that overwrites", DEVICE TABLE STAMP10 OP("\x0b", "\x08\x01" KEY "\x42\0"), CS_ECORRUPT),
    M("a column without a value", DEVICE TABLE STAMP10 OP("\x0c", "\x08\x01" KEY "\x32\x01\0"), CS_ECORRUPT),
    M("a value without a column", DEVICE TABLE STAMP10 OP("\x0b", "\x08\x01" KEY "\x3a\0"), CS_ECORRUPT),
    M("a column out of range", DEVICE TABLE STAMP10 OP("\x0e", "\x08\x01" KEY "\x32\x01\x02\x3a\0"), CS_ECORRUPT),
    M("columns descending", DEVICE TABLE STAMP10 OP("\x11", "\x08\x01" KEY "\x32\x02\x01\0\x3a\0\x3a\0"), CS_ECORRUPT),
    M("a column twice", DEVICE TABLE STAMP10 OP("\x11", "\x08\x01" KEY "\x32\x02\0\0\x3a\0\x3a\0"), CS_ECORRUPT),
    M("a packed column cut in two", DEVICE TABLE STAMP10 OP("\x10", "\x08\x01" KEY "\x32\x01\x80\x30\0\x3a\0"),
      CS_ECORRUPT),
    M("cut, then more", DEVICE TABLE STAMP10 OP("\x12", "\x08\x01" KEY "\x32\x01\x80\x30\0\x30\x01\x3a\0"),
      CS_ECORRUPT),
    M("not a number", DEVICE TABLE STAMP10 OP("\x17", "\x08\x01" KEY "\x32\x01\0\x3a\x09\x11\0\0\0\0\0\0\xf8\x7f"),
      CS_ECORRUPT),
    M("infinity", DEVICE TABLE STAMP10 OP("\x17", "\x08\x01" KEY "\x32\x01\0\x3a\x09\x11\0\0\0\0\0\0\xf0\x7f"), CS_OK),
    M("a real cut off", DEVICE TABLE STAMP10 OP("\x15", "\x08\x01" KEY "\x32\x01\0\x3a\x07\x11\0\0\0\0\0\0"),
      CS_ECORRUPT),
    M("overwritten at stamp 10", DEVICE TABLE STAMP10 OP("\x0b", "\x08\x03" KEY "\x42\0"), CS_OK),
    M("overwritten at stamp 0", DEVICE TABLE STAMP10 OP("\x0d", "\x08\x03" KEY "\x42\x02\x18\x13"), CS_ECORRUPT),
    M("overwritten in no column", DEVICE TABLE STAMP10 OP("\x0d", "\x08\x03" KEY "\x42\x02\x08\x02"), CS_ECORRUPT),
    M("overwritten by no device", DEVICE TABLE STAMP10 OP("\x0d", "\x08\x03" KEY "\x42\x02\x10\x01"), CS_ECORRUPT),
    M("overwritten twice", DEVICE TABLE STAMP10 OP("\x0d", "\x08\x03" KEY "\x42\0\x42\0"), CS_ECORRUPT),
    M("a length beyond the end", DEVICE TABLE STAMP10 "\x22\x0a\x08\x03" KEY, CS_ECORRUPT),
    M("a huge length", DEVICE TABLE STAMP10 "\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", CS_ECORRUPT),
    M("field number 0", DEVICE TABLE STAMP10 "\x02\x01z" DELETE, CS_ECORRUPT),
    M("a group", DEVICE TABLE STAMP10 "\x7b\x7c" DELETE, CS_ECORRUPT),
    M("a known field in another type", "\x08\x01" DEVICE TABLE STAMP10 DELETE, CS_ECORRUPT),
    M("a varint without an end", DEVICE TABLE "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" DELETE, CS_ECORRUPT),
    M("an operation too short to be one", DEVICE TABLE STAMP10 OP("\0", ""), CS_ECORRUPT),
#undef M
};

static void a_made_message(void **state)
{
    const struct made *c = *state;
    struct cs_arena a = { 0 };
    struct cs_delta d;
    struct cs_error err = { 0 };
    uint8_t *exact = malloc(c->bytes.len + 1); /* so that a sanitizer sees the end */

    assert_non_null(exact);
    memcpy(exact, c->bytes.data, c->bytes.len);
    exact = realloc(exact, c->bytes.len != 0 ? c->bytes.len : 1);
    assert_int_equal(cs_delta_decode(&d, &a, cs_slice(exact, c->bytes.len), 100, &err), c->want);
    if (c->want != CS_OK)
        assert_int_equal(d.nops, 0);
    cs_arena_free(&a);
    free(exact);
}

/* Whatever is cut off or bent is refused or is still a set that encodes again; a sanitizer watches. */
static void bent_sets_do_no_harm(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_buf bytes = { 0 }, again = { 0 };
    struct cs_delta d;

    (void)state;
    sample_delta(&d, &a, 9, 10);
    assert_int_equal(cs_delta_encode(&bytes, &d, NULL), CS_OK);
    for (size_t n = 0; n < bytes.len; n++) {
        cs_arena_reset(&a);
        if (cs_delta_decode(&d, &a, cs_slice(bytes.data, n), INT64_MAX, NULL) == CS_OK)
            assert_true(d.nops < 9);
    }
    for (size_t bit = 0; bit < bytes.len * 8; bit++) {
        cs_arena_reset(&a);
        cs_buf_reset(&again);
        bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (cs_delta_decode(&d, &a, cs_buf_slice(&bytes), INT64_MAX, NULL) == CS_OK)
            assert_int_equal(cs_delta_encode(&again, &d, NULL), CS_OK);
        bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    cs_buf_free(&bytes);
    cs_buf_free(&again);
    cs_arena_free(&a);
}

static void the_encoder_refuses_what_no_decoder_takes(void **state)
{
    struct cs_arena a = { 0 };
    struct cs_buf out = { 0 };
    struct cs_delta d;

    (void)state;
#define REFUSED(change)                                                                                                \
    do {                                                                                                               \
        sample_delta(&d, &a, 3, 10);                                                                                   \
        change;                                                                                                        \
        assert_int_equal(cs_delta_encode(&out, &d, NULL), CS_EINVAL);                                                  \
    } while (0)
    REFUSED(d.ndevices = 0);
    REFUSED(d.ops[0].cells[2].value.u.r = nan(""));
    REFUSED(d.ops[0].cells[1].col = 0);
    REFUSED(d.ops[0].cells[3].col = 4);
    REFUSED(d.ops[0].table = 1);
    REFUSED(d.ops[0].device = 2);
    REFUSED(d.ops[0].stamp = 0);
    REFUSED(d.ops[0].key.len--);
    REFUSED(d.ops[0].kind = CS_OP_DELETE);
    REFUSED(d.ops[1].kind = CS_OP_INSERT);
    REFUSED(d.ops[1].over[1].col = 1);
    REFUSED(d.ops[1].over[0].stamp = 0);
    REFUSED(d.ops[1].over[0].device = 2);
    REFUSED(d.tables[0].columns[1] = d.tables[0].columns[0]);
    REFUSED(d.tables[0].name.len = 0);
#undef REFUSED
    cs_buf_free(&out);
    cs_arena_free(&a);
}

int main(void)
{
    enum { NMADE = sizeof made / sizeof made[0] };
    struct CMUnitTest table[NMADE];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_round_trip),
        cmocka_unit_test(size_bound_holds),
        cmocka_unit_test(protobuf_agrees),
        cmocka_unit_test(bent_sets_do_no_harm),
        cmocka_unit_test(the_encoder_refuses_what_no_decoder_takes),
    };

    for (size_t i = 0; i < NMADE; i++)
        table[i] =
            (struct CMUnitTest){ .name = made[i].name, .test_func = a_made_message, .initial_state = (void *)&made[i] };
    return cmocka_run_group_tests_name("delta codec", tests, NULL, NULL) +
           cmocka_run_group_tests_name("made messages", table, NULL, NULL);
}
