/* Joining without a code: both people see that the two devices mean each other. */
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"

enum { TRIES = 3 };

/* "ABCDEFGH" as "ABCD-EFGH", which is easier to read out. */
static const char *grouped(const char *text, char out[16])
{
    snprintf(out, 16, "%.4s-%.4s", text, text + 4);
    return out;
}

static void show(const struct cs_cli *c, const char *characters)
{
    char text[16];

    if (c->json) {
        cs_cli_json(json_pack("{s:s}", "characters", grouped(characters, text)));
    } else {
        printf("%s\n", grouped(characters, text));
        cs_cli_say(c, "on the other device, type these characters where claw-sync devices approve asks for them");
    }
    fflush(stdout);
}

static bool agreed(void)
{
    char answer[8] = "";
    clawsync_error none;

    fprintf(stderr, "does the other device say that they match? [y/N] ");
    return cs_cli_read_line(answer, sizeof answer, &none) == CLAWSYNC_OK && (answer[0] == 'y' || answer[0] == 'Y');
}

int cs_cli_join_waiting(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    char characters[CLAWSYNC_CHARACTERS];
    clawsync_error err;
    int rc = clawsync_config_check(&c->config, &err);

    if (rc == CLAWSYNC_OK && (rc = cs_cli_open(c, &e, &err)) == CLAWSYNC_OK) {
        if (!c->quiet)
            fprintf(stderr, "waiting to be let in; on a device that is in, run: claw-sync devices approve\n");
        rc = clawsync_engine_ask_to_join(e, characters, sizeof characters, &err);
    }
    if (rc == CLAWSYNC_OK) {
        show(c, characters);
        if (agreed())
            rc = clawsync_engine_enter(e, &err);
        else
            rc = cs_fail((struct cs_error *)&err, CS_EABORTED,
                         "nothing was joined. If the other device let somebody in, have it removed there: claw-sync "
                         "devices, claw-sync devices revoke");
    }
    clawsync_engine_close(e);
    return rc == CLAWSYNC_OK ? cs_cli_say_joined(c) : cs_cli_fail(c, &err);
}

struct waiting {
    const struct cs_cli *cli;
    json_t *list;
};

static void on_waiting(void *arg, const clawsync_waiting *w)
{
    const struct waiting *l = arg;

    json_array_append_new(l->list, json_pack("{s:s, s:s}", "id", w->id, "fingerprint", w->fingerprint));
    if (!l->cli->json && !l->cli->quiet)
        fprintf(stderr, "device %s waits, fingerprint %s\n", w->id, w->fingerprint);
}

/* Whoever has shown nothing yet may be typing slower than this person: the same characters once more. */
static int approve(clawsync_engine *e, char id[37], char typed[64], clawsync_error *err)
{
    int rc = CLAWSYNC_ENOTFOUND;

    for (int i = 0; i < TRIES && rc == CLAWSYNC_ENOTFOUND; i++) {
        fprintf(stderr, "the 8 characters that the new device shows: ");
        if (cs_cli_read_line(typed, 64, err) != CLAWSYNC_OK)
            return cs_fail((struct cs_error *)err, CS_EABORTED, "nothing was typed; nobody was let in");
        rc = clawsync_engine_approve(e, typed, id, err);
        if (rc == CLAWSYNC_ENOTFOUND)
            fprintf(stderr, "claw-sync: %s\n", err->msg);
    }
    return rc;
}

int cs_cmd_devices_approve(struct cs_cli *c)
{
    struct waiting l = { .cli = c, .list = json_array() };
    clawsync_engine *e = NULL;
    char id[37] = "", typed[64] = "";
    clawsync_error err;
    int rc = cs_cli_open_member(c, &e, &err);

    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_waiting(e, 1, on_waiting, &l, &err);
    if (rc == CLAWSYNC_OK && json_array_size(l.list) == 0)
        rc = cs_fail(
            (struct cs_error *)&err, CS_EABORTED,
            "no device waits to be let in, or somebody has answered it already; on the new device run claw-sync "
            "join with CLAW_WORKSPACE_ID=%s",
            c->config.workspace_id);
    if (rc == CLAWSYNC_OK)
        rc = approve(e, id, typed, &err);
    clawsync_engine_close(e);
    json_decref(l.list);
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:s}", "approved", id));
    cs_cli_say(c, "they match: device %s is let in; answer y on it", id);
    return CS_EXIT_DONE;
}
