#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"
#include "crypto/keystore.h"
#include "engine/engine.h"

enum { PASSPHRASE_MAX = 1024 };

/* One line of the terminal without echo, into out. */
static int prompt(const char *question, char out[PASSPHRASE_MAX], clawsync_error *err)
{
    struct termios old, quiet;
    size_t n = 0;
    char ch;

    if (tcgetattr(STDIN_FILENO, &old) != 0)
        return cs_fail((struct cs_error *)err, CS_EINVAL,
                       "no terminal to ask for a passphrase; give --passphrase-file FILE");
    quiet = old;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet); /* first: it drops what was typed before the question */
    fputs(question, stderr);
    fflush(stderr);
    while (read(STDIN_FILENO, &ch, 1) == 1 && ch != '\n' && n < PASSPHRASE_MAX - 1)
        out[n++] = ch;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
    fputc('\n', stderr);
    out[n] = '\0';
    return n == 0 ? cs_fail((struct cs_error *)err, CS_EINVAL, "an empty passphrase protects nothing") : CS_OK;
}

static int from_file(const struct cs_cli *c, const char *path, char out[PASSPHRASE_MAX], clawsync_error *err)
{
    struct cs_buf text = { 0 };
    size_t n = 0;
    int rc = c->world->files.ops->read(c->world->files.self, path, PASSPHRASE_MAX - 1, &text, (struct cs_error *)err);

    if (rc == CS_OK) {
        while (n < text.len && text.data[n] != '\n' && text.data[n] != '\0')
            n++;
        if (n > 0)
            memcpy(out, text.data, n);
        out[n] = '\0';
        if (n == 0)
            rc = cs_fail((struct cs_error *)err, CS_EINVAL, "passphrase file \"%s\": its first line is empty", path);
    }
    if (text.data != NULL)
        cs_wipe(text.data, text.cap);
    cs_buf_free(&text);
    return rc;
}

int cs_cli_passphrase(const struct cs_cli *c, bool is_new, char **out, clawsync_error *err)
{
    char *first = cs_secret_alloc(PASSPHRASE_MAX), *again = cs_secret_alloc(PASSPHRASE_MAX);
    int rc;

    *out = NULL;
    if (first == NULL || again == NULL)
        rc = cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
    else if (c->passphrase_file != NULL)
        rc = from_file(c, c->passphrase_file, first, err);
    else if ((rc = prompt("passphrase: ", first, err)) == CS_OK && is_new &&
             (rc = prompt("the same again: ", again, err)) == CS_OK && strcmp(first, again) != 0)
        rc = cs_fail((struct cs_error *)err, CS_EINVAL, "the two passphrases differ");
    if (rc == CS_OK) {
        *out = first;
        first = NULL;
    }
    cs_secret_free(first);
    cs_secret_free(again);
    return rc;
}

/* ---- the keystore's ---- */

static int from_descriptor(int fd, char out[PASSPHRASE_MAX], clawsync_error *err)
{
    size_t n = 0;
    char ch = '\n';
    ssize_t got = 0;

    while (n < PASSPHRASE_MAX - 1 && (got = read(fd, &ch, 1)) == 1 && ch != '\n')
        out[n++] = ch;
    out[n] = '\0';
    if (n > 0 && got >= 0)
        return CS_OK;
    return cs_fail((struct cs_error *)err, CS_EINVAL, "--keystore-passphrase-fd %d: %s", fd,
                   got < 0 ? "it cannot be read" : "its first line is empty");
}

static int credential(const struct cs_cli *c, char out[PASSPHRASE_MAX], clawsync_error *err)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY"); /* systemd's; what is in it only we can read */
    char path[512];
    int rc;

    if (dir == NULL || dir[0] == '\0' ||
        snprintf(path, sizeof path, "%s/claw-sync.passphrase", dir) >= (int)sizeof path)
        return CS_ENOTFOUND;
    rc = from_file(c, path, out, err);
    return rc;
}

static bool is_protected(const struct cs_cli *c)
{
    char path[4096];

    return snprintf(path, sizeof path, "%s/identity/keystore", c->config.data_dir) < (int)sizeof path &&
           cs_keystore_is_protected(c->world, path);
}

bool cs_cli_must_ask(const struct cs_cli *c)
{
    const char *credentials = getenv("CREDENTIALS_DIRECTORY");

    return c->keystore_fd < 0 && (credentials == NULL || credentials[0] == '\0') && is_protected(c);
}

static int keystore_passphrase(const struct cs_cli *c, char out[PASSPHRASE_MAX], clawsync_error *err)
{
    int rc;

    if (c->keystore_fd >= 0)
        return from_descriptor(c->keystore_fd, out, err);
    if ((rc = credential(c, out, err)) != CS_ENOTFOUND)
        return rc;
    if (!is_protected(c))
        return CS_ENOTFOUND;
    if (isatty(STDIN_FILENO) == 1)
        return prompt("passphrase of the keystore: ", out, err);
    return cs_fail(
        (struct cs_error *)err, CS_EINVAL,
        "the keystore in %.200s is under a passphrase: give it with --keystore-passphrase-fd N, as systemd's "
        "credential claw-sync.passphrase, or at a terminal",
        c->config.data_dir);
}

int cs_cli_unlocked(const struct cs_cli *c, int (*fn)(void *arg, const clawsync_config *config, clawsync_error *err),
                    void *arg, clawsync_error *err)
{
    clawsync_config with = c->config;
    char *passphrase = NULL;
    int rc = cs_crypto_init((struct cs_error *)err);

    if (rc == CS_OK && (passphrase = cs_secret_alloc(PASSPHRASE_MAX)) == NULL)
        rc = cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK && (rc = keystore_passphrase(c, passphrase, err)) == CS_OK)
        with.passphrase = passphrase;
    if (rc == CS_OK || rc == CS_ENOTFOUND)
        rc = fn(arg, &with, err);
    cs_secret_free(passphrase);
    return rc;
}

typedef int (*opener)(clawsync_engine **out, const clawsync_config *c, clawsync_error *err);

struct opening {
    const struct cs_cli *cli;
    opener first, busy;
    clawsync_engine **out;
};

/* Whoever replicates this database does it as its device: that is not to be asked for anything in another one's name.
 * CS_EBUSY, as it was found: it is the same device. */
static int check_who_is_busy(const struct cs_cli *c, const char *passphrase, clawsync_error *err)
{
    clawsync_error why;
    cs_replica *r = NULL;
    int rc = CS_OK;

    if (cs_cli_open_replica(c, true, NULL, &r, &why) == CS_OK)
        rc = cs_cli_check_data_dir(c, r, passphrase, &why);
    cs_replica_close(r);
    if (rc == CS_OK)
        return CS_EBUSY;
    *err = why;
    return rc;
}

static int open_with(void *arg, const clawsync_config *config, clawsync_error *err)
{
    const struct opening *o = arg;
    int rc = o->first(o->out, config, err);

    if (rc != CS_EBUSY)
        return rc;
    return o->busy != NULL ? o->busy(o->out, config, err) : check_who_is_busy(o->cli, config->passphrase, err);
}

int cs_cli_open(const struct cs_cli *c, clawsync_engine **out, clawsync_error *err)
{
    struct opening o = { c, clawsync_engine_open, NULL, out };

    *out = NULL;
    return cs_cli_unlocked(c, open_with, &o, err);
}

int cs_cli_open_member(const struct cs_cli *c, clawsync_engine **out, clawsync_error *err)
{
    struct opening o = { c, clawsync_engine_open, cs_engine_open_beside, out };

    *out = NULL;
    return cs_cli_unlocked(c, open_with, &o, err);
}

int cs_cmd_identity_new(struct cs_cli *c)
{
    clawsync_config with = c->config;
    char *passphrase = NULL, device[CS_UUID_TEXT], damaged[CS_DAMAGED_NAME] = "", text[4096];
    clawsync_error err;
    size_t lost = 0;
    int rc = cs_crypto_init((struct cs_error *)&err);

    if (rc == CS_OK && (passphrase = cs_secret_alloc(PASSPHRASE_MAX)) == NULL)
        rc = cs_fail((struct cs_error *)&err, CS_ENOMEM, "out of memory");
    if (rc == CS_OK && (rc = keystore_passphrase(c, passphrase, &err)) == CS_OK)
        with.passphrase = passphrase;
    if (rc == CS_OK || rc == CS_ENOTFOUND)
        rc = cs_engine_new_identity(cs_world_real(), &with, device, &lost, damaged, &err);
    cs_secret_free(passphrase);
    if (rc != CS_OK && cs_cli_wrong_passphrase(&err)) { /* who knows that it is the right one knows more than we do */
        size_t n = strlen(err.msg);

        snprintf(err.msg + n, sizeof err.msg - n, "; if it is damaged, move it away and run this again");
    }
    if (rc != CS_OK)
        return cs_cli_fail(c, &err);
    if (damaged[0] != '\0') {
        snprintf(text, sizeof text, "the keystore is damaged; it is kept as %.3800s/identity/%s",
                 cs_config_data_dir(&c->config), damaged);
        cs_cli_warn(c, text);
    }
    if (lost > 0)
        cs_cli_warn(c,
                    "batches were on their way whose keys are lost: if the hub did not get them, their edits are here "
                    "only, until they are made again");
    if (c->json)
        cs_cli_json(json_pack("{s:s}", "device_id", device));
    cs_cli_say(c, "this is device %s now, and no member yet; join with: claw-sync join CODE", device);
    return CS_EXIT_DONE;
}

int cs_cmd_keys_passphrase(struct cs_cli *c)
{
    clawsync_engine *e = NULL;
    char *passphrase = NULL;
    clawsync_error err;
    int rc = cs_cli_open(c, &e, &err);

    if (rc == CLAWSYNC_OK && !c->remove)
        rc = cs_cli_passphrase(c, true, &passphrase, &err);
    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_set_passphrase(e, passphrase, &err);
    cs_secret_free(passphrase);
    clawsync_engine_close(e);
    if (rc != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:b}", "protected", (int)!c->remove));
    cs_cli_say(c, c->remove ? "the keystore has no passphrase now" : "the keystore is under the passphrase now");
    return CS_EXIT_DONE;
}
