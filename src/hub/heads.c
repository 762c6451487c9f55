/* Heads and cursors as messages. */
#include <stdio.h>

#include "hub/internal.h"

void cs_head_message(const struct cs_signed_head *s, Clawsync__V1__HubHead *out)
{
    clawsync__v1__hub_head__init(out);
    out->signed_bytes = (ProtobufCBinaryData){ sizeof s->bytes, (uint8_t *)(uintptr_t)s->bytes };
    out->signature = (ProtobufCBinaryData){ sizeof s->signature, (uint8_t *)(uintptr_t)s->signature };
}

void cs_cursor_message(const struct cs_uuid *ws, const struct cs_uuid *device, uint64_t number, uint64_t log_id,
                       int64_t now_ms, struct cs_cursor_text *t, Clawsync__V1__SyncCursor *out)
{
    static const struct cs_uuid nobody;
    char hub[CS_UUID_TEXT];

    clawsync__v1__sync_cursor__init(out);
    cs_uuid_text(t->workspace, ws);
    cs_uuid_text(t->device, device);
    cs_uuid_text(hub, &nobody);
    /* A stamp's text, with a counter of zero and no device: the hub makes no stamps. */
    snprintf(t->time, sizeof t->time, "%016llx-%08x-%s", (unsigned long long)now_ms, 0U, hub);
    out->workspace_id = t->workspace;
    out->device_id = t->device;
    out->hlc_timestamp = t->time;
    out->lamport_clock = (int64_t)number;
    out->log_id = log_id;
}
