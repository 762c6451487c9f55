/* One message as gzip (RFC 1952), and back. */
#ifndef CS_RPC_GZIP_H
#define CS_RPC_GZIP_H

#include "base/bytes.h"
#include "base/error.h"

/* Appends `in`, compressed. CS_OK, CS_ENOMEM. */
int cs_rpc_gzip(struct cs_buf *out, struct cs_slice in);
/* Appends what `in` holds, never more than max bytes: a small input that grows without bound is CS_ELIMIT before it
 * has cost more. CS_OK, CS_ENOMEM, CS_ELIMIT, CS_ECORRUPT for anything but whole gzip members from end to end. */
int cs_rpc_gunzip(struct cs_buf *out, struct cs_slice in, size_t max);

#endif
