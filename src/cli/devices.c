/* Who is in the workspace, the key, and the recovery phrase. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "crypto/keys.h"
#include "identity/phrase.h"

struct listing {
    const struct cs_cli *cli;
    json_t *list;
    int n;
};

static const char *kind_name(int kind)
{
    return kind == CS_PRINCIPAL_PAPER ? "recovery" : kind == CS_PRINCIPAL_INVITE ? "invite" : "device";
}

static void add_json(struct listing *l, const clawsync_device *d)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:b}", "id", d->id, "name", d->name, "kind",
                          kind_name(d->kind), "fingerprint", d->fingerprint, "added_by", d->added_by, "added_at_ms",
                          (json_int_t)d->added_ms, "self", d->self);

    if (d->kind == CS_PRINCIPAL_INVITE)
        json_object_set_new(o, "expires_at_ms", json_integer((json_int_t)d->expires_ms));
    if (d->kind == CS_PRINCIPAL_DEVICE) {
        json_object_set_new(o, "last_seen_ms", d->seen_ms > 0 ? json_integer((json_int_t)d->seen_ms) : json_null());
        json_object_set_new(o, "behind", d->behind >= 0 ? json_integer((json_int_t)d->behind) : json_null());
    }
    json_array_append_new(l->list, o);
}

static void on_device(void *arg, const clawsync_device *d)
{
    struct listing *l = arg;
    char seen[32], behind[32] = "-", name[64];

    if (l->list != NULL) {
        add_json(l, d);
        return;
    }
    if (l->n++ == 0)
        cs_cli_say(l->cli, "%-20s %-36s  %-19s  %-8s  %-16s  %s", "name", "id", "fingerprint", "added by", "last seen",
                   "behind");
    if (d->behind >= 0)
        snprintf(behind, sizeof behind, "%" PRId64, d->behind);
    cs_cli_say(l->cli, "%-20s %s  %s  %.8s  %-16s  %s%s", cs_cli_printable(d->name, name), d->id, d->fingerprint,
               d->added_by, cs_cli_time(d->seen_ms, seen), behind,
               d->self                          ? "  (this device)"
               : d->kind == CS_PRINCIPAL_PAPER  ? "  (recovery phrase)"
               : d->kind == CS_PRINCIPAL_INVITE ? "  (open invite)"
                                                : "");
}

int cs_cmd_devices(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    struct listing l = { .cli = c };
    clawsync_error err;
    int rc = cs_cli_open_member(c, &e, &err);

    if (c->json)
        l.list = json_array();
    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_devices(e, on_device, &l, &err);
    clawsync_engine_close(e);
    if (rc == CLAWSYNC_OK && c->json)
        cs_cli_json(json_pack("{s:O}", "devices", l.list));
    json_decref(l.list);
    return rc == CLAWSYNC_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

int cs_cmd_devices_rename(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    clawsync_error err;
    int rc = cs_cli_open_member(c, &e, &err);

    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_rename_device(e, c->args[0], c->args[1], &err);
    clawsync_engine_close(e);
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:s}", "renamed", c->args[1]));
    cs_cli_say(c, "it is called %s now", c->args[1]);
    return CS_EXIT_DONE;
}

int cs_cmd_devices_revoke(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    struct listing l = { .cli = c, .list = json_array() };
    clawsync_error err;
    int rc = cs_cli_open_member(c, &e, &err);

    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_revoke_device(e, c->args[0], c->distrust, on_device, &l, &err);
    clawsync_engine_close(e);
    if (rc == CLAWSYNC_OK && c->json)
        cs_cli_json(json_pack("{s:s, s:O}", "revoked", c->args[0], "let_in", l.list));
    if (rc == CLAWSYNC_OK) {
        cs_cli_say(c, "revoked %s; the workspace's key is another one now", c->args[0]);
        if (json_array_size(l.list) > 0)
            cs_cli_say(c, "it had let in, and these stay (--distrust removes them too):");
        for (size_t i = 0; i < json_array_size(l.list); i++)
            cs_cli_say(c, "  %s %s", json_string_value(json_object_get(json_array_get(l.list, i), "kind")),
                       json_string_value(json_object_get(json_array_get(l.list, i), "id")));
    }
    json_decref(l.list);
    return rc == CLAWSYNC_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

int cs_cmd_keys_rotate(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    uint32_t epoch = 0;
    clawsync_error err;
    int rc = cs_cli_open_member(c, &e, &err);

    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_rotate_keys(e, &epoch, &err);
    clawsync_engine_close(e);
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:I}", "epoch", (json_int_t)epoch));
    cs_cli_say(c, "the workspace's key is another one now: epoch %" PRIu32, epoch);
    return CS_EXIT_DONE;
}

/* ---- the recovery phrase ---- */

static void print_phrase(const struct cs_cli *c, const char *phrase)
{
    const char *word = phrase;

    if (c->json) {
        cs_cli_json(json_pack("{s:s}", "phrase", phrase));
        return;
    }
    for (int i = 1; *word != '\0'; i++) {
        int len = (int)strcspn(word, " ");

        printf("%2d %.*s%s", i, len, word, i % 6 == 0 ? "\n" : "   ");
        word += len + (word[len] == ' ');
    }
    cs_cli_say(c, "write the words down, and keep them where no device is: they open everything in the workspace\n"
                  "on a new machine: claw-sync recovery use, with the same CLAW_WORKSPACE_ID and CLAW_HUB_ENDPOINT");
    fflush(stdout);
}

int cs_cmd_recovery_create(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    char *phrase = NULL;
    clawsync_error err;
    int rc = cs_crypto_init((struct cs_error *)&err);

    if (rc == CLAWSYNC_OK && (phrase = cs_secret_alloc(CLAWSYNC_PHRASE_MAX)) == NULL)
        rc = cs_fail((struct cs_error *)&err, CS_ENOMEM, "out of memory");
    if (rc == CLAWSYNC_OK && (rc = cs_cli_open_member(c, &e, &err)) == CLAWSYNC_OK)
        rc = clawsync_engine_recovery_create(e, phrase, CLAWSYNC_PHRASE_MAX, &err);
    clawsync_engine_close(e);
    if (rc == CLAWSYNC_OK) {
        c->made = "the phrase is in the workspace all the same: claw-sync devices lists it, claw-sync devices revoke "
                  "removes it";
        print_phrase(c, phrase);
    }
    cs_secret_free(phrase);
    return rc == CLAWSYNC_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

enum { LINE_MAX_BYTES = 1024, TEXT_MAX = 4096 };

/* 24 words, on one line or several; an empty line or the end of the input ends them. */
static int read_phrase(char *text, clawsync_error *err)
{
    char *line = cs_secret_alloc(LINE_MAX_BYTES);
    size_t words = 0, at = 0;
    int rc = line == NULL ? cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory") : CLAWSYNC_OK;

    if (isatty(STDIN_FILENO) == 1)
        fputs("the 24 words: ", stderr);
    while (rc == CLAWSYNC_OK && words < CS_PHRASE_WORDS) {
        if ((rc = cs_cli_read_line(line, LINE_MAX_BYTES, err)) != CLAWSYNC_OK)
            break;
        for (char *w = strtok(line, " \t"); w != NULL; w = strtok(NULL, " \t"), words++)
            if (at + strlen(w) + 2 < TEXT_MAX)
                at += (size_t)snprintf(text + at, TEXT_MAX - at, "%s%s", at == 0 ? "" : " ", w);
    }
    if (rc == CLAWSYNC_EINVAL && words > 0)
        rc = CLAWSYNC_OK; /* how many they are is for the phrase's reader to say */
    cs_secret_free(line);
    return rc;
}

static bool yes(const char *question)
{
    char answer[8] = "";
    clawsync_error none;

    fprintf(stderr, "%s [y/N] ", question);
    return cs_cli_read_line(answer, sizeof answer, &none) == CLAWSYNC_OK && (answer[0] == 'y' || answer[0] == 'Y');
}

/* A phrase with one slip is put right, if the person at the terminal agrees. */
static int settle_phrase(char *text, clawsync_error *err)
{
    uint8_t *secret = cs_secret_alloc(32);
    struct cs_phrase_fix *fix = cs_secret_alloc(sizeof *fix);
    char question[96];
    int rc;

    if (secret == NULL || fix == NULL)
        rc = cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
    else
        rc = cs_phrase_parse(secret, text, fix, (struct cs_error *)err);
    if (rc == CS_ECORRUPT) {
        rc = err->code = CLAWSYNC_EINVAL;
        if (fix->found && isatty(STDIN_FILENO) == 1) {
            snprintf(question, sizeof question,
                     fix->swapped ? "word %u and the next look swapped; go on with them the other way round?"
                                  : "word %u looks mistyped; go on with the only one that fits?",
                     fix->word);
            if (yes(question)) {
                cs_phrase_text(text, fix->secret);
                rc = CLAWSYNC_OK;
            }
        }
    }
    cs_secret_free(secret);
    cs_secret_free(fix);
    return rc;
}

int cs_cmd_recovery_use(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    char *phrase = NULL;
    clawsync_error err;
    int rc = clawsync_config_check(&c->config, &err);

    if (rc == CLAWSYNC_OK && (rc = cs_crypto_init((struct cs_error *)&err)) == CLAWSYNC_OK &&
        (phrase = cs_secret_alloc(TEXT_MAX)) == NULL)
        rc = cs_fail((struct cs_error *)&err, CS_ENOMEM, "out of memory");
    if (rc == CLAWSYNC_OK && (rc = read_phrase(phrase, &err)) == CLAWSYNC_OK &&
        (rc = settle_phrase(phrase, &err)) == CLAWSYNC_OK && (rc = cs_cli_open(c, &e, &err)) == CLAWSYNC_OK)
        rc = clawsync_engine_recover(e, phrase, &err);
    clawsync_engine_close(e);
    cs_secret_free(phrase);
    return rc == CLAWSYNC_OK ? cs_cli_say_joined(c) : cs_cli_fail(c, &err);
}
