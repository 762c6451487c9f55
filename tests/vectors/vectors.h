/* The test vectors of docs/protocol.md, computed by this program: each call gives a new reference. Bytes are lower-case
 * hexadecimal. */
#ifndef CS_TESTS_VECTORS_H
#define CS_TESTS_VECTORS_H

#include <jansson.h>

json_t *cs_vectors_crypto(void);
json_t *cs_vectors_delta(void);
json_t *cs_vectors_audit(void);

#endif
