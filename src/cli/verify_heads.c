/* `claw-sync verify-heads`: two people compare what the hub has shown to each. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* "N/M", as the other device printed it. */
static int parse_place(const char *text, clawsync_heads *h, clawsync_error *err)
{
    size_t n = strspn(text, "0123456789"), m = text[n] == '/' ? strspn(text + n + 1, "0123456789") : 0;

    if (n > 0 && n <= 18 && m > 0 && m <= 9 && text[n + 1 + m] == '\0') {
        h->number = strtoull(text, NULL, 10);
        h->member_seq = (uint32_t)strtoul(text + n + 1, NULL, 10);
    }
    if (h->number > 0 && h->member_seq > 0)
        return CLAWSYNC_OK;
    err->code = CLAWSYNC_EINVAL;
    snprintf(err->msg, sizeof err->msg, "\"%.60s\" is no place in the log; it is N/M, as the other device printed it",
             text);
    return err->code;
}

int cs_cmd_verify_heads(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    clawsync_heads h = { 0 };
    clawsync_error err;
    int rc = c->nargs > 0 ? parse_place(c->args[0], &h, &err) : CLAWSYNC_OK;

    if (rc == CLAWSYNC_OK && (rc = cs_cli_open_member(c, &e, &err)) == CLAWSYNC_OK)
        rc = clawsync_engine_verify_heads(e, &h, &err);
    clawsync_engine_close(e);
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json) {
        cs_cli_json(json_pack("{s:s, s:I, s:I}", "code", h.code, "number", (json_int_t)h.number, "member_seq",
                              (json_int_t)h.member_seq));
        return CS_EXIT_DONE;
    }
    printf("%s at %" PRIu64 "/%" PRIu32 "\n", h.code, h.number, h.member_seq);
    cs_cli_say(c,
               "on another device: claw-sync verify-heads %" PRIu64 "/%" PRIu32
               "; another code there means that the hub shows you two different things",
               h.number, h.member_seq);
    return CS_EXIT_DONE;
}
