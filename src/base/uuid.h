/* 16-byte identifiers, written as RFC 4122 does. */
#ifndef CS_BASE_UUID_H
#define CS_BASE_UUID_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct cs_uuid {
    uint8_t b[16];
};

enum { CS_UUID_TEXT = 37 }; /* bytes of the text with its NUL */

/* 8-4-4-4-12 hexadecimal digits of either case, nothing before or after. */
bool cs_uuid_parse(struct cs_uuid *out, const char *text);
void cs_uuid_text(char out[CS_UUID_TEXT], const struct cs_uuid *u); /* lower case */
/* Makes 16 random bytes a version 4 UUID. */
void cs_uuid_set_v4(struct cs_uuid *u);

static inline int cs_uuid_cmp(const struct cs_uuid *a, const struct cs_uuid *b)
{
    return memcmp(a->b, b->b, sizeof a->b);
}
static inline bool cs_uuid_is_zero(const struct cs_uuid *u)
{
    static const struct cs_uuid zero;

    return cs_uuid_cmp(u, &zero) == 0;
}

#endif
