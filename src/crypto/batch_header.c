#include "crypto/batch_header.h"

/* Offsets of the canonical header; the layout is the table "Batches" of docs/protocol.md. */
enum {
    AT_KIND = 4,
    AT_CODEC = 5,
    AT_PADDING = 6,
    AT_ZERO = 7,
    AT_WORKSPACE = 8,
    AT_DEVICE = 24,
    AT_INCARNATION = 40,
    AT_EPOCH = 48,
    AT_CHUNKS = 52,
    AT_NUMBER = 56,
    AT_PREV = 64,
    AT_PLAIN_LEN = 96,
    AT_PACKED_LEN = 100,
    AT_NOPS = 104,
    AT_MEMBER_SEQ = 108,
    AT_TOP_STAMP = 112,
    AT_SEEN_LOG = 120,
    AT_SEEN_NUMBER = 128,
    AT_SEEN = 136,
    AT_AUDIT_SEQ = 168,
    AT_AUDIT_HEAD = 176
};
_Static_assert(AT_AUDIT_HEAD + 32 == CS_BATCH_HEADER_LEN, "the header has 208 bytes");

static const uint8_t magic[4] = { 'C', 'S', 'B', '1' };

void cs_batch_header_encode(const struct cs_batch_header *h, uint8_t out[CS_BATCH_HEADER_LEN])
{
    memcpy(out, magic, sizeof magic);
    out[AT_KIND] = h->kind;
    out[AT_CODEC] = h->codec;
    out[AT_PADDING] = h->padding;
    out[AT_ZERO] = 0;
    memcpy(out + AT_WORKSPACE, h->workspace.b, 16);
    memcpy(out + AT_DEVICE, h->device.b, 16);
    cs_store_u64(out + AT_INCARNATION, h->incarnation);
    cs_store_u32(out + AT_EPOCH, h->epoch);
    cs_store_u32(out + AT_CHUNKS, h->chunk_count);
    cs_store_u64(out + AT_NUMBER, h->number);
    memcpy(out + AT_PREV, h->prev, 32);
    cs_store_u32(out + AT_PLAIN_LEN, h->plain_len);
    cs_store_u32(out + AT_PACKED_LEN, h->packed_len);
    cs_store_u32(out + AT_NOPS, h->nops);
    cs_store_u32(out + AT_MEMBER_SEQ, h->member_seq);
    cs_store_u64(out + AT_TOP_STAMP, (uint64_t)h->top_stamp);
    cs_store_u64(out + AT_SEEN_LOG, h->seen_log);
    cs_store_u64(out + AT_SEEN_NUMBER, h->seen_number);
    memcpy(out + AT_SEEN, h->seen, 32);
    cs_store_u64(out + AT_AUDIT_SEQ, h->audit_seq);
    memcpy(out + AT_AUDIT_HEAD, h->audit_head, 32);
}

static void parse(struct cs_batch_header *h, const uint8_t *p)
{
    h->kind = p[AT_KIND];
    h->codec = p[AT_CODEC];
    h->padding = p[AT_PADDING];
    memcpy(h->workspace.b, p + AT_WORKSPACE, 16);
    memcpy(h->device.b, p + AT_DEVICE, 16);
    h->incarnation = cs_load_u64(p + AT_INCARNATION);
    h->epoch = cs_load_u32(p + AT_EPOCH);
    h->chunk_count = cs_load_u32(p + AT_CHUNKS);
    h->number = cs_load_u64(p + AT_NUMBER);
    memcpy(h->prev, p + AT_PREV, 32);
    h->plain_len = cs_load_u32(p + AT_PLAIN_LEN);
    h->packed_len = cs_load_u32(p + AT_PACKED_LEN);
    h->nops = cs_load_u32(p + AT_NOPS);
    h->member_seq = cs_load_u32(p + AT_MEMBER_SEQ);
    h->top_stamp = (int64_t)cs_load_u64(p + AT_TOP_STAMP);
    h->seen_log = cs_load_u64(p + AT_SEEN_LOG);
    h->seen_number = cs_load_u64(p + AT_SEEN_NUMBER);
    memcpy(h->seen, p + AT_SEEN, 32);
    h->audit_seq = cs_load_u64(p + AT_AUDIT_SEQ);
    memcpy(h->audit_head, p + AT_AUDIT_HEAD, 32);
}

/* What is wrong with the fields, or NULL. A snapshot repeats its author's chain head for information, which may be
 * empty yet; a batch of operations is somebody's next. */
static const char *fault(const struct cs_batch_header *h)
{
    if (!cs_batch_is_logged(h->kind) && h->kind != CS_BATCH_SNAPSHOT)
        return "unknown kind";
    if (h->codec > CS_CODEC_LZ4)
        return "unknown codec";
    if (h->padding > CS_PADDING_PADME)
        return "unknown padding";
    if (h->epoch == 0)
        return "epoch 0";
    if (h->chunk_count == 0 || h->chunk_count > CS_BATCH_MAX_CHUNKS)
        return "number of chunks out of range";
    if (h->plain_len == 0 || h->plain_len > CS_BATCH_MAX_PLAIN)
        return "plain length out of range";
    if (h->packed_len == 0 || h->packed_len > h->plain_len)
        return "packed length out of range";
    if (h->codec == CS_CODEC_STORED && h->packed_len != h->plain_len)
        return "stored, but of two lengths";
    if (h->chunk_count > cs_batch_sealed_len(h))
        return "more chunks than bytes";
    if (h->member_seq == 0)
        return "no membership entry named";
    if (h->seen_log == 0)
        return "no log named";
    if (h->top_stamp < 0)
        return "negative stamp";
    if (cs_batch_is_logged(h->kind) && (h->number == 0 || h->nops == 0 || h->top_stamp == 0))
        return "number, operation count or stamp is 0";
    return NULL;
}

int cs_batch_header_decode(struct cs_batch_header *out, struct cs_slice bytes, struct cs_error *err)
{
    struct cs_batch_header h;
    const char *why;

    if (bytes.len >= 4 && memcmp(bytes.data, magic, 3) == 0 && bytes.data[3] > magic[3])
        return cs_fail(err, CS_EVERSION, "batch header of a newer version; update claw-sync to read this batch");
    if (bytes.len != CS_BATCH_HEADER_LEN)
        return cs_fail(err, CS_ECORRUPT, "batch header of %zu bytes, not %d; the batch is refused", bytes.len,
                       CS_BATCH_HEADER_LEN);
    if (memcmp(bytes.data, magic, sizeof magic) != 0 || bytes.data[AT_ZERO] != 0)
        return cs_fail(err, CS_ECORRUPT, "batch header with a wrong start; the batch is refused");
    parse(&h, bytes.data);
    if ((why = fault(&h)) != NULL)
        return cs_fail(err, CS_ECORRUPT, "batch header with a wrong field: %s; the batch is refused", why);
    *out = h;
    return CS_OK;
}

static unsigned log2_floor(size_t n)
{
    return (unsigned)(63 - __builtin_clzll(n));
}

size_t cs_padme(size_t n)
{
    size_t mask;
    unsigned e;

    if (n < 2 || n > SIZE_MAX / 2)
        return n;
    e = log2_floor(n);
    mask = ((size_t)1 << (e - (log2_floor(e) + 1))) - 1;
    return (n + mask) & ~mask;
}

size_t cs_batch_sealed_len(const struct cs_batch_header *h)
{
    return CS_BATCH_SEAL_OVERHEAD + (h->padding == CS_PADDING_PADME ? cs_padme(h->packed_len) : h->packed_len);
}

void cs_batch_hash(struct cs_slice header, struct cs_slice hashes, uint8_t out[32])
{
    struct cs_hasher h;

    cs_hasher_init_label(&h, "batch");
    cs_hasher_update(&h, header.data, header.len);
    cs_hasher_update(&h, hashes.data, hashes.len);
    cs_hasher_final(&h, out, CS_HASH_LEN);
}

void cs_batch_sign(const struct cs_sign_key *k, struct cs_slice header, struct cs_slice hashes, uint8_t sig[64])
{
    uint8_t hash[CS_HASH_LEN];

    cs_batch_hash(header, hashes, hash);
    cs_sign_digest(k, hash, sig);
}

bool cs_batch_verify(const uint8_t pk[32], struct cs_slice header, struct cs_slice hashes, const uint8_t sig[64])
{
    uint8_t hash[CS_HASH_LEN];

    cs_batch_hash(header, hashes, hash);
    return cs_verify_digest(pk, hash, sig);
}

void cs_chunk_id(const uint8_t payload_hash[32], char out[23])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t bits = 0;
    unsigned have = 0;
    char *p = out;

    for (size_t i = 0; i < 16; i++) {
        bits = bits << 8 | payload_hash[i];
        for (have += 8; have >= 6; have -= 6)
            *p++ = digits[bits >> (have - 6) & 63];
    }
    *p++ = digits[bits << (6 - have) & 63];
    *p = '\0';
}
