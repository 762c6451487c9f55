/* gRPC's length-prefixed messages: u8 compressed flag, u32 length, payload. */
#ifndef CS_RPC_FRAME_H
#define CS_RPC_FRAME_H

#include "rpc/rpc.h"

enum { CS_RPC_PREFIX = 5 };

/* What the peer's grpc-encoding says of messages whose compressed flag is set. */
enum cs_rpc_encoding { CS_RPC_ENCODING_NONE, CS_RPC_ENCODING_GZIP, CS_RPC_ENCODING_UNKNOWN };
enum cs_rpc_encoding cs_rpc_encoding_of(struct cs_slice name);

/* Zero-initialised but for `max` is ready. */
struct cs_rpc_decoder {
    size_t max; /* bytes of one message, as sent and as decompressed */
    enum cs_rpc_encoding encoding;
    bool client;     /* whose view: an encoding we do not have is the client's fault, or the server's */
    bool frugal;     /* what arrives is held in as little memory as possible, at the price of copies */
    bool bad;        /* sticky */
    uint8_t nprefix; /* bytes of the prefix read */
    bool given;      /* the message in `body` or `plain` was handed out */
    uint32_t len;    /* of the message, once the prefix is complete */
    uint8_t prefix[CS_RPC_PREFIX];
    struct cs_buf body;  /* owned; what has arrived of a message that came in pieces: grows with what arrives */
    struct cs_buf plain; /* owned; the newest message, decompressed */
};

/* Takes bytes from the front of *in. 1: one message, a view of *in or of the decoder, good until the next call; 0: all
 * of *in is taken and more is needed; -1: the stream is broken, with the status and the reason in err->msg. */
int cs_rpc_decode(struct cs_rpc_decoder *d, struct cs_slice *in, struct cs_slice *msg, int *status,
                  struct cs_error *err);
/* Nothing of a message is waiting for its rest. */
bool cs_rpc_decoder_idle(const struct cs_rpc_decoder *d);
void cs_rpc_decoder_fini(struct cs_rpc_decoder *d);

#endif
