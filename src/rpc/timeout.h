/* The grpc-timeout field: up to 8 digits and a unit (H, M, S, m, u, n). */
#ifndef CS_RPC_TIMEOUT_H
#define CS_RPC_TIMEOUT_H

#include "rpc/rpc.h"

enum { CS_RPC_TIMEOUT_TEXT = 16 }; /* bytes of a printed timeout with its NUL */

/* In ms, rounded up, at most UINT32_MAX - 1; false if it is no timeout. */
bool cs_rpc_timeout_parse(struct cs_slice text, uint32_t *ms_out);
/* The finest unit that holds ms in 8 digits, rounded up. */
void cs_rpc_timeout_print(char out[CS_RPC_TIMEOUT_TEXT], uint32_t ms);

#endif
