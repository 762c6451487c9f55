#include "hub/log_rules.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "crypto/head.h"

bool cs_refuse(struct cs_verdict *v, int status, const char *kind, const char *fmt, ...)
{
    va_list ap;

    v->status = status;
    v->kind = kind;
    va_start(ap, fmt);
    vsnprintf(v->reason, sizeof v->reason, fmt, ap);
    va_end(ap);
    return false;
}

static struct cs_slice pb_slice(ProtobufCBinaryData d)
{
    return cs_slice(d.data, d.len);
}

static bool malformed(struct cs_verdict *v, const char *what, size_t chunk)
{
    return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "malformed", "chunk %zu: %s", chunk, what);
}

/* A tag is printable ASCII without spaces, so that it can travel in a proto3 string and be compared as bytes. */
static bool tag_is_good(const char *s)
{
    size_t n = 0;

    for (; s[n] != '\0'; n++)
        if (n >= CS_RULES_MAX_TAG || s[n] <= ' ' || s[n] > '~')
            return false;
    return true;
}

static bool chunk_fits(const struct cs_batch *b, const Clawsync__V1__DeltaChunk *c, const char *tag, size_t i,
                       struct cs_verdict *v)
{
    char id[23];

    if (c->seq < 0 || (size_t)c->seq != i || c->total < 0 || (uint32_t)c->total != b->h.chunk_count)
        return malformed(v, "seq and total are not its place among the header's chunks", i);
    if (i > 0 && c->envelope != NULL)
        return malformed(v, "only the first one carries an envelope", i);
    if (c->encrypted_payload.len == 0 || c->encrypted_payload.len > CS_RULES_MAX_CHUNK)
        return malformed(v, "the payload is empty or above 1 MiB", i);
    if (c->payload_hash.len != CS_HASH_LEN || memcmp(c->payload_hash.data, b->payload_hashes.data + i * 32, 32) != 0)
        return malformed(v, "the payload hash is not the envelope's", i);
    cs_chunk_id(c->payload_hash.data, id);
    if (strcmp(id, c->chunk_id) != 0)
        return malformed(v, "the id does not follow from the payload hash", i);
    if (strcmp(tag, c->entity_type) != 0)
        return malformed(v, "the entity type is not the first chunk's", i);
    return true;
}

static bool envelope_fits(struct cs_batch *out, const Clawsync__V1__PushRequest *req, uint8_t kind,
                          struct cs_verdict *v)
{
    const Clawsync__V1__Envelope *e = req->n_chunks == 0 ? NULL : req->chunks[0]->envelope;
    struct cs_error err = { 0 };

    if (e == NULL)
        return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "malformed",
                         "a batch has one or more chunks, the first of them "
                         "with its envelope");
    out->header = pb_slice(e->header);
    out->signature = pb_slice(e->signature);
    out->payload_hashes = pb_slice(e->payload_hashes);
    if (cs_batch_header_decode(&out->h, out->header, &err) != CS_OK)
        return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "malformed", "%.200s", err.msg);
    if (kind == CS_BATCH_OPERATIONS ? !cs_batch_is_logged(out->h.kind) : out->h.kind != kind)
        return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "malformed",
                         kind == CS_BATCH_OPERATIONS ? "only batches of operations enter the log"
                                                     : "this is not a part of a snapshot");
    if (out->signature.len != CS_SIGNATURE_LEN)
        return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "malformed", "a signature has %d bytes", CS_SIGNATURE_LEN);
    if (req->n_chunks != out->h.chunk_count || out->payload_hashes.len != (size_t)out->h.chunk_count * CS_HASH_LEN)
        return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "malformed",
                         "the header says %" PRIu32 " chunks, there are %zu, and %zu bytes of hashes",
                         out->h.chunk_count, req->n_chunks, out->payload_hashes.len);
    return true;
}

static bool payloads_fit(struct cs_batch *out, const Clawsync__V1__PushRequest *req, struct cs_arena *a,
                         struct cs_verdict *v)
{
    const char *tag = req->chunks[0]->entity_type;
    struct cs_slice *chunks = cs_arena_zalloc(a, req->n_chunks, sizeof *chunks);

    if (chunks == NULL)
        return cs_refuse(v, CS_RPC_RESOURCE_EXHAUSTED, "limit", "out of memory");
    if (!tag_is_good(tag))
        return malformed(v, "the entity type is not a tag", 0);
    for (size_t i = 0; i < req->n_chunks; i++) {
        if (!chunk_fits(out, req->chunks[i], tag, i, v))
            return false;
        chunks[i] = pb_slice(req->chunks[i]->encrypted_payload);
        out->bytes += chunks[i].len;
    }
    if (out->bytes != cs_batch_sealed_len(&out->h))
        return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "malformed", "the payloads have %zu bytes, the header says %zu",
                         out->bytes, cs_batch_sealed_len(&out->h));
    out->chunks = chunks;
    out->entity_type = cs_slice_str(tag);
    return true;
}

static bool shape(struct cs_batch *out, const Clawsync__V1__PushRequest *req, uint8_t kind, struct cs_arena *a,
                  struct cs_verdict *v)
{
    uint8_t hash[CS_HASH_LEN];

    *out = (struct cs_batch){ 0 };
    if (!envelope_fits(out, req, kind, v) || !payloads_fit(out, req, a, v))
        return false;
    for (size_t i = 0; i < req->n_chunks; i++) {
        cs_hash_plain(out->chunks[i], hash);
        if (memcmp(hash, out->payload_hashes.data + i * 32, sizeof hash) == 0)
            continue;
        out->bad_chunk = cs_arena_str(a, req->chunks[i]->chunk_id);
        return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "payload-hash", "chunk %zu: the payload is not what was hashed",
                         i);
    }
    cs_batch_hash(out->header, out->payload_hashes, out->hash);
    return true;
}

bool cs_rules_shape(struct cs_batch *out, const Clawsync__V1__PushRequest *req, struct cs_arena *a,
                    struct cs_verdict *v)
{
    return shape(out, req, CS_BATCH_OPERATIONS, a, v);
}

bool cs_rules_part_shape(struct cs_batch *out, Clawsync__V1__DeltaChunk **chunks, size_t n, struct cs_arena *a,
                         struct cs_verdict *v)
{
    Clawsync__V1__PushRequest req = CLAWSYNC__V1__PUSH_REQUEST__INIT;

    req.chunks = chunks;
    req.n_chunks = n;
    return shape(out, &req, CS_BATCH_SNAPSHOT, a, v);
}

bool cs_rules_signature(const struct cs_batch *b, const uint8_t sign_pk[32], struct cs_verdict *v)
{
    if (cs_batch_verify(sign_pk, b->header, b->payload_hashes, b->signature.data))
        return true;
    return cs_refuse(v, CS_RPC_INVALID_ARGUMENT, "signature", "the batch is not signed by its device");
}

bool cs_rules_wants_stored(const struct cs_batch_header *h, const struct cs_log_state *s)
{
    return h->number <= s->last.number && h->number > CS_CHAIN_BASE(s->head.refilled);
}

bool cs_rules_wants_seen(const struct cs_batch_header *h, const struct cs_log_state *s)
{
    return h->member_seq >= s->epoch_seq && h->member_seq <= s->head.member_seq && h->seen_log == s->head.log_id &&
           h->seen_number <= s->head.number && s->head.number - h->seen_number <= CS_RULES_SEEN_WINDOW &&
           (h->seen_number == 0 || h->seen_number > s->head.pruned);
}

static bool epoch_is_current(const struct cs_batch_header *h, const struct cs_log_state *s, struct cs_verdict *v)
{
    if (h->epoch == s->head.epoch && h->member_seq >= s->epoch_seq && h->member_seq <= s->head.member_seq)
        return true;
    return cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "stale-epoch",
                     "bound to epoch %" PRIu32 " at membership entry %" PRIu32 "; epoch %" PRIu32
                     " is in force, entries are %" PRIu32 " to %" PRIu32,
                     h->epoch, h->member_seq, s->head.epoch, s->epoch_seq, s->head.member_seq);
}

static bool seen_is_right(const struct cs_batch_header *h, const struct cs_log_state *s, struct cs_verdict *v)
{
    uint8_t digest[32];

    if (!cs_rules_wants_seen(h, s) || s->seen_log_hash == NULL || s->entry_hash == NULL)
        return cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "stale-seen",
                         "bound at log number %" PRIu64 " of another log or too far from %" PRIu64, h->seen_number,
                         s->head.number);
    cs_seen_digest(&h->workspace, h->seen_log, h->seen_number, s->seen_log_hash, h->member_seq, s->entry_hash, digest);
    if (memcmp(digest, h->seen, sizeof digest) == 0)
        return true;
    return cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "stale-seen",
                     "what the device has seen up to log number %" PRIu64 " is not what this log holds",
                     h->seen_number);
}

bool cs_rules_clock(int64_t now_ms, int64_t highest_accepted, int64_t highest)
{
    int64_t by_clock = now_ms < 0 ? 0 : now_ms > (INT64_MAX >> 16) - 60000 ? INT64_MAX : (now_ms + 60000) * 65536;
    int64_t by_log = highest_accepted > INT64_MAX - CS_CLOCK_ROOM ? INT64_MAX : highest_accepted + CS_CLOCK_ROOM;

    return highest <= (by_clock > by_log ? by_clock : by_log);
}

enum cs_judgement cs_rules_judge(const struct cs_batch *b, const struct cs_log_state *s, struct cs_verdict *v)
{
    const struct cs_batch_header *h = &b->h;

    *v = (struct cs_verdict){ 0 };
    if (cs_rules_wants_stored(h, s)) {
        if (s->stored_hash != NULL && memcmp(s->stored_hash, b->hash, 32) == 0)
            return CS_ACCEPT_AGAIN;
        if (s->stored_hash == NULL) {
            cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "stale-seen",
                      "the device's batch %" PRIu64 " is in the part of the log that was pruned; pull", h->number);
            return CS_REFUSE;
        }
        cs_refuse(v, CS_RPC_ALREADY_EXISTS, "duplicate", "another batch is stored as the device's number %" PRIu64,
                  h->number);
        return CS_REFUSE_STORED;
    }
    if (!s->active) {
        cs_refuse(v, CS_RPC_PERMISSION_DENIED, "revoked", "the device is not a member of the workspace any more");
        return CS_REFUSE;
    }
    if (h->number != s->last.number + 1 || memcmp(h->prev, s->last.hash, 32) != 0) {
        cs_refuse(v, CS_RPC_ABORTED, "order", "number %" PRIu64 " does not follow the device's last batch, %" PRIu64,
                  h->number, s->last.number);
        return CS_REFUSE_LAST;
    }
    if (!epoch_is_current(h, s, v))
        return CS_REFUSE;
    if (h->member_seq < s->last.member_seq) {
        cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "stale-epoch",
                  "membership entry %" PRIu32 " is below the previous batch's, %" PRIu32, h->member_seq,
                  s->last.member_seq);
        return CS_REFUSE;
    }
    if (!seen_is_right(h, s, v))
        return CS_REFUSE;
    if (!cs_rules_clock(s->now_ms, s->head.top_stamp, h->top_stamp)) {
        cs_refuse(v, CS_RPC_FAILED_PRECONDITION, "clock",
                  "the highest stamp is of %" PRId64 " ms, more than a minute ahead of the hub's clock, %" PRId64 " ms",
                  h->top_stamp >> 16, s->now_ms);
        return CS_REFUSE;
    }
    return CS_ACCEPT;
}
