#include "rpc/status.h"

#include <nghttp2/nghttp2.h>

static const char *const names[] = {
    [CS_RPC_OK] = "OK",
    [CS_RPC_CANCELLED] = "CANCELLED",
    [CS_RPC_UNKNOWN] = "UNKNOWN",
    [CS_RPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [CS_RPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [CS_RPC_NOT_FOUND] = "NOT_FOUND",
    [CS_RPC_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [CS_RPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [CS_RPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [CS_RPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [CS_RPC_ABORTED] = "ABORTED",
    [CS_RPC_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [CS_RPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [CS_RPC_INTERNAL] = "INTERNAL",
    [CS_RPC_UNAVAILABLE] = "UNAVAILABLE",
    [CS_RPC_DATA_LOSS] = "DATA_LOSS",
    [CS_RPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};
enum { NSTATUS = sizeof names / sizeof names[0] };

const char *cs_rpc_status_name(int status)
{
    return status < 0 || status >= NSTATUS ? names[CS_RPC_UNKNOWN] : names[status];
}

int cs_rpc_status_of_http(int http_status)
{
    switch (http_status) {
    case 400:
        return CS_RPC_INTERNAL;
    case 401:
        return CS_RPC_UNAUTHENTICATED;
    case 403:
        return CS_RPC_PERMISSION_DENIED;
    case 404:
        return CS_RPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return CS_RPC_UNAVAILABLE;
    default:
        return CS_RPC_UNKNOWN;
    }
}

int cs_rpc_status_of_h2(uint32_t error_code)
{
    switch (error_code) {
    case NGHTTP2_NO_ERROR:
    case NGHTTP2_PROTOCOL_ERROR:
    case NGHTTP2_INTERNAL_ERROR:
    case NGHTTP2_FLOW_CONTROL_ERROR:
    case NGHTTP2_SETTINGS_TIMEOUT:
    case NGHTTP2_FRAME_SIZE_ERROR:
    case NGHTTP2_COMPRESSION_ERROR:
    case NGHTTP2_CONNECT_ERROR:
        return CS_RPC_INTERNAL;
    case NGHTTP2_REFUSED_STREAM:
        return CS_RPC_UNAVAILABLE;
    case NGHTTP2_CANCEL:
        return CS_RPC_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return CS_RPC_RESOURCE_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY:
        return CS_RPC_PERMISSION_DENIED;
    default:
        return CS_RPC_UNKNOWN;
    }
}

int cs_rpc_status_parse(struct cs_slice text)
{
    int v = 0;

    if (text.len == 0 || text.len > 2)
        return CS_RPC_UNKNOWN;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return CS_RPC_UNKNOWN;
        v = v * 10 + (text.data[i] - '0');
    }
    return v < NSTATUS ? v : CS_RPC_UNKNOWN;
}

int64_t cs_rpc_pushback_parse(struct cs_slice text)
{
    int64_t v = 0;

    if (text.len == 0 || text.len > 10)
        return CS_RPC_PUSHBACK_STOP;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return CS_RPC_PUSHBACK_STOP;
        v = v * 10 + (text.data[i] - '0');
    }
    return v <= INT32_MAX ? v : CS_RPC_PUSHBACK_STOP;
}
