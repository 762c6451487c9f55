/* Status codes: their names, and what HTTP and HTTP/2 failures become (gRPC's http-grpc-status-mapping.md). */
#ifndef CS_RPC_STATUS_H
#define CS_RPC_STATUS_H

#include "rpc/rpc.h"

/* For an answer that is no gRPC answer. */
int cs_rpc_status_of_http(int http_status);
/* For a stream that the peer reset with this HTTP/2 error code. */
int cs_rpc_status_of_h2(uint32_t error_code);
/* The number in a grpc-status field; UNKNOWN for anything that is not 0 to 16. */
int cs_rpc_status_parse(struct cs_slice text);
/* A grpc-retry-pushback-ms field: ms, or CS_RPC_PUSHBACK_STOP for a negative number and for none (A6-client-retries).
 */
int64_t cs_rpc_pushback_parse(struct cs_slice text);

#endif
