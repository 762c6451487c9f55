#include "engine/standing.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { FORMAT = 1, STARTED_TEXT = 24 };

static int path_of(char out[4096], const char *data_dir, struct cs_error *err)
{
    return snprintf(out, 4096, "%s/standing.json", data_dir) < 4096
               ? CS_OK
               : cs_fail(err, CS_EINVAL, "the path of data_dir is too long");
}

/* The hub's words tell it from a limit that passes, such as its rate. */
bool cs_standing_quota(const struct cs_error *err)
{
    return err->code == CS_ELIMIT && strstr(err->msg, "ask who runs") != NULL;
}

/* ---- the file's text ---- */

/* A hub's words are in it: what JSON does not take, or a terminal should not get, is left out. */
static void plain(char out[sizeof((struct cs_error *)0)->msg], const char *text)
{
    size_t n = 0;

    for (; n < sizeof((struct cs_error *)0)->msg - 1 && text[n] != '\0'; n++)
        out[n] = (unsigned char)text[n] < 32 || (unsigned char)text[n] >= 127 ? '?' : text[n];
    out[n] = '\0';
}

static char *encode(const struct cs_standing *s)
{
    char device[CS_UUID_TEXT], started[STARTED_TEXT], message[sizeof s->last.msg], *text;
    json_t *o, *last = json_null();

    cs_uuid_text(device, &s->device);
    snprintf(started, sizeof started, "%" PRIu64, s->by.started); /* JSON's integers end before */
    plain(message, s->last.msg);
    if (s->last.code != CS_OK)
        last =
            json_pack("{s:i, s:s, s:s}", "code", s->last.code, "name", cs_code_name(s->last.code), "message", message);
    o = json_pack("{s:i, s:s, s:{s:I, s:s, s:s}, s:I, s:b, s:o}", "version", (int)FORMAT, "device_id", device,
                  "process", "pid", (json_int_t)s->by.pid, "started", started, "boot", s->by.boot, "since",
                  (json_int_t)s->since_ms, "connected", (int)s->connected, "last_failure", last);
    text = o == NULL ? NULL : json_dumps(o, JSON_INDENT(2));
    json_decref(o);
    return text;
}

static bool decode(struct cs_standing *out, const json_t *o)
{
    const json_t *process = json_object_get(o, "process"), *last = json_object_get(o, "last_failure");
    const char *device = json_string_value(json_object_get(o, "device_id"));
    const char *started = json_string_value(json_object_get(process, "started"));
    const char *boot = json_string_value(json_object_get(process, "boot"));
    const char *message = json_string_value(json_object_get(last, "message"));
    json_int_t code = json_integer_value(json_object_get(last, "code"));

    if (json_integer_value(json_object_get(o, "version")) != FORMAT || device == NULL ||
        !cs_uuid_parse(&out->device, device) || started == NULL || boot == NULL || strlen(boot) > CS_BOOT_ID_LEN ||
        last == NULL || (!json_is_null(last) && (message == NULL || code >= CS_OK || code < CS_EINTERNAL)))
        return false;
    out->by.pid = json_integer_value(json_object_get(process, "pid"));
    out->by.started = strtoull(started, NULL, 10);
    snprintf(out->by.boot, sizeof out->by.boot, "%s", boot);
    out->since_ms = json_integer_value(json_object_get(o, "since"));
    out->connected = json_is_true(json_object_get(o, "connected"));
    out->last.code = (int)code;
    snprintf(out->last.msg, sizeof out->last.msg, "%s", message == NULL ? "" : message);
    return true;
}

/* ---- the file ---- */

int cs_standing_load(struct cs_standing *out, struct cs_world *w, const char *data_dir, struct cs_error *err)
{
    struct cs_buf text = { 0 };
    char path[4096];
    json_t *o = NULL;
    int rc = path_of(path, data_dir, err);

    *out = (struct cs_standing){ 0 };
    if (rc == CS_OK && (rc = w->files.ops->read(w->files.self, path, CS_STANDING_MAX, &text, err)) == CS_OK) {
        o = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, NULL);
        if (o == NULL || !decode(out, o)) {
            *out = (struct cs_standing){ 0 };
            rc = cs_fail(err, CS_ECORRUPT, "%.200s cannot be read", path);
        }
    }
    json_decref(o);
    cs_buf_free(&text);
    return rc;
}

int cs_standing_drop(struct cs_world *w, const char *data_dir, struct cs_error *err)
{
    char path[4096];
    int rc = path_of(path, data_dir, err);

    if (rc == CS_OK)
        rc = w->files.ops->remove(w->files.self, path, err);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

int cs_standing_save(const struct cs_standing *s, struct cs_world *w, const char *data_dir, struct cs_error *err)
{
    const struct cs_file_ops *ops = w->files.ops;
    char path[4096], *text = encode(s);
    int rc = text == NULL ? cs_fail(err, CS_ENOMEM, "out of memory") : path_of(path, data_dir, err);

    if (rc == CS_OK && (rc = ops->write_atomic(w->files.self, path, cs_slice_str(text), 0600, err)) != CS_OK) {
        struct cs_error ignored;

        cs_standing_drop(w, data_dir, &ignored);
        rc = ops->write_atomic(w->files.self, path, cs_slice_str(text), 0600, err); /* in the room that it had */
    }
    free(text);
    return rc;
}
