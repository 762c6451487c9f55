/* The bytes of membership entries: prefix 88 ‖ body ‖ signature 64. For the files of this room that read and write
 * them. */
#ifndef CS_IDENTITY_ENTRY_FORMAT_H
#define CS_IDENTITY_ENTRY_FORMAT_H

#include "identity/membership.h"

/* prefix: CSM1 ‖ type u8 ‖ 0*3 ‖ workspace ‖ seq u32 ‖ body_len u32 ‖ prev 32 ‖ author 16 ‖ time i64 */
enum {
    ENTRY_TYPE = 4,
    ENTRY_ZERO = 5,
    ENTRY_WORKSPACE = 8,
    ENTRY_SEQ = 24,
    ENTRY_BODY_LEN = 28,
    ENTRY_PREV = 32,
    ENTRY_AUTHOR = 64,
    ENTRY_TIME = 80
};

/* record: id 16 ‖ kind u8 ‖ 0*3 ‖ sign_pk 32 ‖ box_pk 32 ‖ possession 64 ‖ name_epoch u32 ‖ name 104 */
enum {
    RECORD_ID = 0,
    RECORD_KIND = 16,
    RECORD_ZERO = 17,
    RECORD_SIGN_PK = 20,
    RECORD_BOX_PK = 52,
    RECORD_POSSESSION = 84,
    RECORD_NAME_EPOCH = 148,
    RECORD_NAME = 152,
    NAME_BOX_LEN = 104,
    NAME_PLAIN_LEN = 64
};

/* epoch block: epoch u32 ‖ commitment 32 ‖ history 48 ‖ count u16 ‖ count × (id 16 ‖ wrap 80), ids ascending */
enum {
    EPOCH_NUMBER = 0,
    EPOCH_COMMITMENT = 4,
    EPOCH_HISTORY = 36,
    EPOCH_COUNT = 84,
    EPOCH_WRAPS = 86,
    EPOCH_HISTORY_LEN = 48,
    EPOCH_WRAP_LEN = 16 + CS_WRAP_LEN
};
/* genesis: record ‖ epoch block of one wrap; rotate: epoch block */
enum {
    GENESIS_EPOCH = CS_RECORD_LEN,
    GENESIS_COMMITMENT = GENESIS_EPOCH + EPOCH_COMMITMENT,
    GENESIS_HISTORY = GENESIS_EPOCH + EPOCH_HISTORY,
    GENESIS_COUNT = GENESIS_EPOCH + EPOCH_COUNT,
    GENESIS_WRAP_ID = GENESIS_EPOCH + EPOCH_WRAPS,
    GENESIS_WRAP = GENESIS_WRAP_ID + 16,
    GENESIS_LEN = GENESIS_WRAP + CS_WRAP_LEN
};
/* remove: count u16 ‖ count × (id 16 ‖ cut_number u64 ‖ cut_hash 32), ids ascending ‖ epoch block */
enum { REMOVE_CUTS = 2, CUT_NUMBER = 16, CUT_HASH = 24, CUT_LEN = 56 };
/* add: record ‖ epoch u32 ‖ wrap 80; invite: the same ‖ floor 48 ‖ expires i64 ‖ hub key 32 ‖ vouch 32 */
enum {
    ADD_EPOCH = CS_RECORD_LEN,
    ADD_WRAP = ADD_EPOCH + 4,
    ADD_LEN = ADD_WRAP + CS_WRAP_LEN,
    INVITE_FLOOR = ADD_LEN,
    INVITE_EXPIRES = INVITE_FLOOR + CS_FLOOR_LEN,
    INVITE_HUB_KEY = INVITE_EXPIRES + 8,
    INVITE_VOUCH = INVITE_HUB_KEY + 32,
    INVITE_LEN = INVITE_VOUCH + 32
};
/* recovery: record ‖ epoch u32 ‖ wrap 80 ‖ floor 48 ‖ vouch 32 */
enum { RECOVERY_FLOOR = ADD_LEN, RECOVERY_VOUCH = RECOVERY_FLOOR + CS_FLOOR_LEN, RECOVERY_LEN = RECOVERY_VOUCH + 32 };
/* rename */
enum { RENAME_ID = 0, RENAME_NAME_EPOCH = 16, RENAME_NAME = 20, RENAME_LEN = RENAME_NAME + NAME_BOX_LEN };
/* refill: from, floor 48 ‖ to, floor 48 ‖ count u16 ‖ count × (id 16 ‖ number u64), ids ascending */
enum { REFILL_FROM = 0, REFILL_TO = CS_FLOOR_LEN, REFILL_COUNT = 2 * CS_FLOOR_LEN, REFILL_HEADS = REFILL_COUNT + 2 };
_Static_assert(ENTRY_TIME + 8 == CS_ENTRY_PREFIX_LEN && RECORD_NAME + NAME_BOX_LEN == CS_RECORD_LEN, "sizes add up");

/* "CSM1" and whole: prefix, body_len bytes, signature. */
static inline bool entry_whole(struct cs_slice e)
{
    return e.len >= CS_ENTRY_PREFIX_LEN + CS_SIGNATURE_LEN && e.len <= CS_ENTRY_MAX && memcmp(e.data, "CSM1", 4) == 0 &&
           cs_load_u32(e.data + ENTRY_BODY_LEN) == e.len - CS_ENTRY_PREFIX_LEN - CS_SIGNATURE_LEN;
}
static inline struct cs_slice entry_signed(struct cs_slice e)
{
    return cs_slice(e.data, e.len - CS_SIGNATURE_LEN);
}
static inline struct cs_slice entry_body(struct cs_slice e)
{
    return cs_slice(e.data + CS_ENTRY_PREFIX_LEN, e.len - CS_ENTRY_PREFIX_LEN - CS_SIGNATURE_LEN);
}

static inline bool all_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

/* The cuts of a removal's body, CUT_LEN each; false: they do not fit. */
static inline bool remove_cuts(struct cs_slice body, struct cs_slice *cuts)
{
    size_t n = body.len < REMOVE_CUTS ? 0 : cs_load_u16(body.data);

    if (body.len < REMOVE_CUTS || (body.len - REMOVE_CUTS) / CUT_LEN < n)
        return false;
    *cuts = cs_slice(body.data + REMOVE_CUTS, n * CUT_LEN);
    return true;
}

static inline struct cs_floor floor_load(const uint8_t *p)
{
    struct cs_floor f = { cs_load_u64(p), cs_load_u64(p + 8), { 0 } };

    memcpy(f.log_hash, p + 16, 32);
    return f;
}

/* The heads of a refill's body, CUT_LEN each; false: they do not fit. */
static inline bool refill_heads(struct cs_slice body, struct cs_slice *heads)
{
    if (body.len < REFILL_HEADS || body.len - REFILL_HEADS != (size_t)cs_load_u16(body.data + REFILL_COUNT) * CUT_LEN)
        return false;
    *heads = cs_slice(body.data + REFILL_HEADS, body.len - REFILL_HEADS);
    return true;
}

static inline struct cs_cut cut_load(const uint8_t *p)
{
    struct cs_cut cut = { .number = cs_load_u64(p + CUT_NUMBER) };

    memcpy(cut.id.b, p, 16);
    memcpy(cut.hash, p + CUT_HASH, 32);
    return cut;
}

/* The epoch block of a body of this type, whole, to the body's end; false: there is none, or its length is wrong. */
static inline bool entry_epoch_block(uint8_t type, struct cs_slice body, struct cs_slice *block)
{
    struct cs_slice cuts;
    size_t at = 0;

    if (type == CS_ENTRY_GENESIS)
        at = CS_RECORD_LEN;
    else if (type == CS_ENTRY_REMOVE && remove_cuts(body, &cuts))
        at = REMOVE_CUTS + cuts.len;
    else if (type != CS_ENTRY_ROTATE)
        return false;
    if (body.len < at + EPOCH_WRAPS)
        return false;
    *block = cs_slice(body.data + at, body.len - at);
    return block->len == EPOCH_WRAPS + (size_t)cs_load_u16(block->data + EPOCH_COUNT) * EPOCH_WRAP_LEN;
}

/* What a record's own key signs: workspace ‖ id ‖ kind ‖ sign_pk ‖ box_pk. */
enum { POSSESSION_LEN = 16 + 16 + 1 + 32 + 32 };
static inline void possession_message(uint8_t out[POSSESSION_LEN], const uint8_t workspace[16],
                                      const uint8_t record[CS_RECORD_LEN])
{
    memcpy(out, workspace, 16);
    memcpy(out + 16, record + RECORD_ID, 17);
    memcpy(out + 33, record + RECORD_SIGN_PK, 64);
}

#endif
