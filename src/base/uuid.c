#include "base/uuid.h"

#include "base/bytes.h"

bool cs_uuid_parse(struct cs_uuid *out, const char *text)
{
    char hex[33];
    size_t n = 0;

    if (strlen(text) != 36)
        return false;
    for (size_t i = 0; i < 36; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if ((text[i] == '-') != dash)
            return false;
        if (!dash)
            hex[n++] = text[i];
    }
    hex[n] = '\0';
    return cs_unhex(out->b, sizeof out->b, hex);
}

void cs_uuid_text(char out[CS_UUID_TEXT], const struct cs_uuid *u)
{
    char hex[33];
    size_t n = 0;

    cs_hex(hex, u->b, sizeof u->b);
    for (size_t i = 0; i < 32; i++) {
        if (i == 8 || i == 12 || i == 16 || i == 20)
            out[n++] = '-';
        out[n++] = hex[i];
    }
    out[n] = '\0';
}

void cs_uuid_set_v4(struct cs_uuid *u)
{
    u->b[6] = (uint8_t)((u->b[6] & 0x0f) | 0x40);
    u->b[8] = (uint8_t)((u->b[8] & 0x3f) | 0x80);
}
