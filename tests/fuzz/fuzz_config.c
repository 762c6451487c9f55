/* A configuration file of anything: it is read to the end, or refused with a sentence, and what is taken passes or
 * fails the check that the engine makes. */
#include "fuzz/fuzz.h"

#include "cli/cli.h"
#include "engine/config.h"

static struct cs_slice input;

static int read_input(void *self, const char *path, size_t max, struct cs_buf *out, struct cs_error *err)
{
    (void)self;
    if (input.len > max)
        return cs_fail(err, CS_ELIMIT, "\"%s\" is too large", path);
    cs_buf_put_slice(out, input);
    return CS_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct cs_file_ops files = { .read = read_input };
    static const struct cs_cli_command command = { .name = "sync", .args = "" };
    struct cs_world world = { .files = { &files, NULL } };
    struct cs_cli c = { .world = &world };
    char flag[] = "--config", path[] = "file";
    char *argv[] = { flag, path };
    struct cs_arena a = { 0 };
    struct cs_endpoints hubs;
    clawsync_config copy;
    clawsync_error err = { 0 };

    input = cs_slice(data, size);
    if (cs_cli_parse(&c, &command, 2, argv, &err) != CLAWSYNC_OK)
        FUZZ_CHECK(err.msg[0] != 0);
    else if (cs_config_copy(&copy, &a, &c.config, (struct cs_error *)&err) != CS_OK)
        FUZZ_CHECK(err.msg[0] != 0);
    else
        FUZZ_CHECK(clawsync_config_check(&copy, &err) == CLAWSYNC_OK &&
                   cs_endpoints_parse(&hubs, copy.hub_endpoint, NULL) == CS_OK && hubs.of[0].port != 0);
    cs_arena_free(&a);
    cs_arena_free(&c.strings);
    return 0;
}
