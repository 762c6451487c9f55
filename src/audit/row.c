#include "audit/audit.h"

enum { SHORT_MAX = 65535, LONG_MAX_BYTES = 1 << 20 };

int cs_audit_row_bytes(struct cs_buf *out, const struct cs_audit_row *row, struct cs_error *err)
{
    if (row->event_type.len > SHORT_MAX || row->entity_type.len > SHORT_MAX || row->entity_ids.len > LONG_MAX_BYTES ||
        row->payload.len > LONG_MAX_BYTES)
        return cs_fail(err, CS_EINVAL, "an audit row is too large");
    cs_buf_put_str(out, "CSA1");
    cs_buf_put_u64(out, row->sequence);
    cs_buf_put(out, row->owner.workspace.b, sizeof row->owner.workspace.b);
    cs_buf_put(out, row->owner.device.b, sizeof row->owner.device.b);
    cs_buf_put_u64(out, (uint64_t)row->occurred_at);
    cs_buf_put_u64(out, row->ops_count);
    cs_buf_put(out, row->prev_entry_hash, sizeof row->prev_entry_hash);
    cs_buf_put(out, row->signer_pub_key, sizeof row->signer_pub_key);
    cs_buf_put(out, row->payload_hash, sizeof row->payload_hash);
    cs_buf_put_u16(out, (uint16_t)row->event_type.len);
    cs_buf_put_slice(out, row->event_type);
    cs_buf_put_u16(out, (uint16_t)row->entity_type.len);
    cs_buf_put_slice(out, row->entity_type);
    cs_buf_put_u32(out, (uint32_t)row->entity_ids.len);
    cs_buf_put_slice(out, row->entity_ids);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

void cs_audit_start(const struct cs_audit_owner *o, uint8_t out[32])
{
    struct cs_hasher h;

    cs_hasher_init_label(&h, "audit start");
    cs_hasher_update(&h, o->workspace.b, sizeof o->workspace.b);
    cs_hasher_update(&h, o->device.b, sizeof o->device.b);
    cs_hasher_final(&h, out, 32);
}
