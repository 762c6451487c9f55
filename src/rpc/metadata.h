/* Metadata: checked, copied, and turned into and out of HTTP/2 header fields. */
#ifndef CS_RPC_METADATA_H
#define CS_RPC_METADATA_H

#include <nghttp2/nghttp2.h>

#include "rpc/rpc.h"

/* Pairs that we own. Zero-initialised is empty and valid. */
struct cs_rpc_pairs {
    struct cs_rpc_metadata view; /* of `items` */
    struct cs_rpc_meta *items;   /* owned, and each pair with its bytes */
    size_t cap;
};
void cs_rpc_pairs_clear(struct cs_rpc_pairs *p);
int cs_rpc_pairs_put(struct cs_rpc_pairs *p, struct cs_slice name, struct cs_slice value);
/* A header field from the peer: drops what is the transport's own (":…", "grpc-…", te, content-type), decodes "-bin".
 * CS_OK, CS_ENOMEM, CS_ECORRUPT for bytes that are not base64. */
int cs_rpc_pairs_put_field(struct cs_rpc_pairs *p, struct cs_slice name, struct cs_slice value);

/* A content-type of gRPC's: application/grpc, alone or with a format or parameter after it. */
bool cs_rpc_is_grpc(struct cs_slice content_type);
/* A list separated by commas, spaces allowed, has this item. */
bool cs_rpc_list_has(struct cs_slice list, const char *item);

/* CS_OK, or CS_EINVAL for a name or value that may not be sent. NULL is fine. */
int cs_rpc_metadata_check(const struct cs_rpc_metadata *m, struct cs_error *err);

/* A header block in the making. Out of memory is sticky. Zero-initialised is empty and valid; reset keeps the memory.
 */
struct cs_rpc_fields {
    nghttp2_nv *v; /* owned */
    size_t n, cap;
    struct cs_rpc_text *texts; /* owned; encoded values */
    bool failed;
};
void cs_rpc_fields_reset(struct cs_rpc_fields *f);
void cs_rpc_fields_fini(struct cs_rpc_fields *f);
/* Name and value are borrowed until the block is submitted. A secret or ever-changing field is kept out of HPACK's
 * table with no_index. */
void cs_rpc_fields_put(struct cs_rpc_fields *f, const char *name, struct cs_slice value, bool no_index);
void cs_rpc_fields_put_metadata(struct cs_rpc_fields *f, const struct cs_rpc_metadata *m); /* checked before */
/* A number in decimal. */
void cs_rpc_fields_put_number(struct cs_rpc_fields *f, const char *name, int64_t v);
/* grpc-status, and grpc-message unless text is NULL or empty. */
void cs_rpc_fields_put_status(struct cs_rpc_fields *f, int status, const char *text);

/* grpc-message: printable ASCII but '%' as it is, everything else as %XX. */
void cs_rpc_percent_encode(struct cs_buf *out, struct cs_slice text);
/* The forgiving inverse: what is no %XX stays as it is. */
void cs_rpc_percent_decode(struct cs_buf *out, struct cs_slice text);

#endif
