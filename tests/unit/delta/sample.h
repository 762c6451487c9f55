/* Delta sets for the tests of this room. */
#ifndef CS_TESTS_DELTA_SAMPLE_H
#define CS_TESTS_DELTA_SAMPLE_H

#include "crypto/keys.h"
#include "delta/pack.h"

/* Key bytes of one integer, in the arena. */
static inline struct cs_slice sample_key(struct cs_arena *a, int64_t id)
{
    uint8_t *p = cs_arena_alloc(a, 4 + 9);

    cs_store_u32(p, 9);
    p[4] = CS_INTEGER;
    cs_store_u64(p + 5, (uint64_t)id ^ (uint64_t)1 << 63);
    return cs_slice(p, 13);
}

/* One table "notes" of four columns; nops operations by turns insert, update, delete, of about text_len bytes each. */
static inline void sample_delta(struct cs_delta *d, struct cs_arena *a, uint32_t nops, size_t text_len)
{
    static const char *const columns[] = { "id", "body", "score", "raw" };
    static const char *const words[] = { "the ", "agent ", "remembers ", "a ", "tool ", "output ", "of ", "session " };
    uint32_t r = 12345;

    *d = (struct cs_delta){ .ntables = 1, .ndevices = 2, .nops = nops };
    d->tables = cs_arena_zalloc(a, 1, sizeof *d->tables);
    d->tables[0].name = cs_slice_str("notes");
    d->tables[0].ncolumns = 4;
    d->tables[0].columns = cs_arena_zalloc(a, 4, sizeof(struct cs_slice));
    for (size_t i = 0; i < 4; i++)
        d->tables[0].columns[i] = cs_slice_str(columns[i]);
    d->devices = cs_arena_zalloc(a, 2, sizeof *d->devices);
    memset(d->devices[0].b, 'd', 16);
    memset(d->devices[1].b, 'e', 16);
    d->ops = cs_arena_zalloc(a, nops, sizeof *d->ops);
    for (uint32_t i = 0; i < nops; i++) {
        struct cs_op *op = &d->ops[i];
        uint8_t *text = cs_arena_zalloc(a, 1, text_len + 16);
        size_t len = 0;

        while (len < text_len) {
            const char *word = words[(r = r * 1103515245u + 12345u) >> 16 & 7];

            memcpy(text + len, word, strlen(word));
            len += strlen(word);
        }
        op->kind = text_len != 0 && nops > 100 ? CS_OP_INSERT : (enum cs_op_kind)(1 + i % 3);
        op->device = op->kind == CS_OP_UPDATE;
        op->stamp = ((int64_t)1700000000000 << 16) + i * 7 - (i % 5 == 4 ? 90 : 0);
        op->key = sample_key(a, i);
        if (op->kind != CS_OP_DELETE) {
            op->ncells = 4;
            op->cells = cs_arena_zalloc(a, 4, sizeof *op->cells);
            for (uint32_t c = 0; c < 4; c++)
                op->cells[c].col = c;
            op->cells[0].value = (struct cs_value){ .type = CS_INTEGER, .u.i = i % 2 ? -(int64_t)i : INT64_MAX };
            op->cells[1].value = (struct cs_value){ .type = CS_TEXT, .u.bytes = cs_slice(text, text_len) };
            op->cells[2].value = (struct cs_value){ .type = CS_REAL, .u.r = i * 0.25 };
            op->cells[3].value = i % 4 == 3 ? (struct cs_value){ .type = CS_NULL }
                                            : (struct cs_value){ .type = CS_BLOB, .u.bytes = cs_slice(text, i % 3) };
        }
        if (op->kind != CS_OP_INSERT) {
            op->nover = 2;
            op->over = cs_arena_zalloc(a, 2, sizeof *op->over);
            op->over[0] = (struct cs_op_over){ .col = 1, .device = 1, .stamp = op->stamp - 1000 };
            op->over[1] = (struct cs_op_over){ .col = 2, .device = 0, .stamp = 1 };
        }
    }
}

static inline void sample_header(struct cs_batch_header *h, uint8_t codec)
{
    *h = (struct cs_batch_header){ .codec = codec,
                                   .padding = CS_PADDING_PADME,
                                   .incarnation = 77,
                                   .epoch = 1,
                                   .number = 1,
                                   .member_seq = 1,
                                   .seen_log = 5 };
    memset(h->workspace.b, 'w', 16);
    memset(h->device.b, 'd', 16);
}

#endif
