#include "rpc/timeout.h"

#include <inttypes.h>
#include <stdio.h>

enum { MAX_DIGITS = 8 };

bool cs_rpc_timeout_parse(struct cs_slice text, uint32_t *ms_out)
{
    static const struct {
        char unit;
        uint64_t ns;
    } units[] = {
        { 'n', 1 }, { 'u', 1000 }, { 'm', 1000000 }, { 'S', 1000000000 }, { 'M', 60000000000 }, { 'H', 3600000000000 },
    };
    uint64_t v = 0;

    if (text.len < 2 || text.len > MAX_DIGITS + 1)
        return false;
    for (size_t i = 0; i + 1 < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(text.data[i] - '0');
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (units[i].unit != (char)text.data[text.len - 1])
            continue;
        /* 10^8 hours are 3.6 * 10^20 ns, more than 64 bits hold: units above ms are counted in ms */
        v = units[i].ns < 1000000 ? (v * units[i].ns + 999999) / 1000000 : v * (units[i].ns / 1000000);
        *ms_out = v < UINT32_MAX ? (uint32_t)v : UINT32_MAX - 1;
        return true;
    }
    return false;
}

void cs_rpc_timeout_print(char out[CS_RPC_TIMEOUT_TEXT], uint32_t ms)
{
    if (ms <= 99999999)
        snprintf(out, CS_RPC_TIMEOUT_TEXT, "%" PRIu32 "m", ms);
    else /* 2^32 ms are 4294968 s: seconds always fit */
        snprintf(out, CS_RPC_TIMEOUT_TEXT, "%" PRIu32 "S", ms / 1000 + (ms % 1000 != 0));
}
