#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"
#include "crypto/keys.h"

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
    fputs(question, stderr);
    fflush(stderr);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    while (read(STDIN_FILENO, &ch, 1) == 1 && ch != '\n' && n < PASSPHRASE_MAX - 1)
        out[n++] = ch;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
    fputc('\n', stderr);
    out[n] = '\0';
    return n == 0 ? cs_fail((struct cs_error *)err, CS_EINVAL, "an empty passphrase protects nothing") : CS_OK;
}

static int from_file(const struct cs_cli *c, char out[PASSPHRASE_MAX], clawsync_error *err)
{
    struct cs_buf text = { 0 };
    size_t n = 0;
    int rc = c->world->files.ops->read(c->world->files.self, c->passphrase_file, PASSPHRASE_MAX - 1, &text,
                                       (struct cs_error *)err);

    if (rc == CS_OK) {
        while (n < text.len && text.data[n] != '\n' && text.data[n] != '\0')
            n++;
        if (n > 0)
            memcpy(out, text.data, n);
        out[n] = '\0';
        if (n == 0)
            rc = cs_fail((struct cs_error *)err, CS_EINVAL, "passphrase file \"%s\": its first line is empty",
                         c->passphrase_file);
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
        rc = from_file(c, first, err);
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
