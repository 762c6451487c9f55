#include "engine/checkpoint.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

enum { FORMAT = 1, LOG_ID_TEXT = 17, HASH_TEXT = 65 };

/* ---- the file's text ---- */

static json_t *moved_json(const struct cs_moved *m)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "at", (json_int_t)m->at_ms, "batches", (json_int_t)m->batches,
                     "operations", (json_int_t)m->operations, "chunks", (json_int_t)m->chunks, "bytes",
                     (json_int_t)m->bytes, "duration_ms", (json_int_t)m->duration_ms);
}

int cs_checkpoint_encode(struct cs_buf *out, const struct cs_checkpoint *c, struct cs_error *err)
{
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT], log_id[LOG_ID_TEXT], hlc[CS_STAMP_TEXT], hash[HASH_TEXT];
    char *text = NULL;
    json_t *o;

    cs_uuid_text(workspace, &c->workspace);
    cs_uuid_text(device, &c->device);
    snprintf(log_id, sizeof log_id, "%016" PRIx64, c->log_id); /* JSON's integers end before */
    cs_version_text(hlc, &c->hlc);
    cs_hex(hash, c->state_hash, 32);
    o = json_pack("{s:i, s:s, s:s, s:s, s:{s:I, s:s, s:s}, s:I, s:I, s:o, s:o}", "version", (int)FORMAT, "workspace_id",
                  workspace, "device_id", device, "log_id", log_id, "cursor", "lamport_clock", (json_int_t)c->number,
                  "hlc_timestamp", hlc, "state_hash", hash, "saved_at", (json_int_t)c->saved_ms, "last_contact",
                  (json_int_t)c->exchanged.contact_ms, "last_push", moved_json(&c->exchanged.push), "last_pull",
                  moved_json(&c->exchanged.pull));
    if (o != NULL)
        text = json_dumps(o, JSON_INDENT(2));
    json_decref(o);
    if (text != NULL) {
        cs_buf_put_str(out, text);
        cs_buf_put_u8(out, '\n');
    }
    free(text);
    return text == NULL || out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : CS_OK;
}

static bool hex_u64(uint64_t *out, const char *s)
{
    uint8_t b[8];

    if (strlen(s) != 16 || !cs_unhex(b, sizeof b, s))
        return false;
    *out = cs_load_u64(b);
    return true;
}

/* Only the one spelling that we write. */
static bool hlc_parse(struct cs_version *out, const char *s)
{
    char ms[17], counter[17] = "00000000", again[CS_STAMP_TEXT];
    uint64_t m, n;

    if (strlen(s) != CS_STAMP_TEXT - 1)
        return false;
    memcpy(ms, s, 16);
    ms[16] = '\0';
    memcpy(counter + 8, s + 17, 8);
    counter[16] = '\0';
    if (!hex_u64(&m, ms) || !hex_u64(&n, counter) || m >> 47 != 0 || n > 0xffff || !cs_uuid_parse(&out->device, s + 26))
        return false;
    out->stamp = (int64_t)(m << 16 | n);
    cs_version_text(again, out);
    return strcmp(again, s) == 0;
}

static const char *number_of(uint64_t *out, const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);

    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return name;
    *out = (uint64_t)json_integer_value(v);
    return NULL;
}

static const char *moved_of(struct cs_moved *out, const json_t *o)
{
    uint64_t at = 0;
    const char *bad;

    if ((bad = number_of(&at, o, "at")) != NULL || (bad = number_of(&out->batches, o, "batches")) != NULL ||
        (bad = number_of(&out->operations, o, "operations")) != NULL ||
        (bad = number_of(&out->chunks, o, "chunks")) != NULL || (bad = number_of(&out->bytes, o, "bytes")) != NULL ||
        (bad = number_of(&out->duration_ms, o, "duration_ms")) != NULL)
        return bad;
    out->at_ms = (int64_t)at;
    return NULL;
}

/* What is wrong, or NULL. */
static const char *fields_of(struct cs_checkpoint *out, const json_t *o)
{
    const char *workspace = json_string_value(json_object_get(o, "workspace_id"));
    const char *device = json_string_value(json_object_get(o, "device_id"));
    const char *log_id = json_string_value(json_object_get(o, "log_id"));
    const json_t *cursor = json_object_get(o, "cursor");
    const char *hlc = json_string_value(json_object_get(cursor, "hlc_timestamp"));
    const char *hash = json_string_value(json_object_get(cursor, "state_hash"));
    const char *bad;
    uint64_t saved = 0, contact = 0;

    if (workspace == NULL || !cs_uuid_parse(&out->workspace, workspace))
        return "workspace_id";
    if (device == NULL || !cs_uuid_parse(&out->device, device))
        return "device_id";
    if (log_id == NULL || !hex_u64(&out->log_id, log_id))
        return "log_id";
    if (hlc == NULL || !hlc_parse(&out->hlc, hlc))
        return "hlc_timestamp";
    if (hash == NULL || strlen(hash) != HASH_TEXT - 1 || !cs_unhex(out->state_hash, 32, hash))
        return "state_hash";
    if ((bad = number_of(&out->number, cursor, "lamport_clock")) != NULL ||
        (bad = number_of(&saved, o, "saved_at")) != NULL ||
        (bad = moved_of(&out->exchanged.push, json_object_get(o, "last_push"))) != NULL ||
        (bad = moved_of(&out->exchanged.pull, json_object_get(o, "last_pull"))) != NULL)
        return bad;
    /* earlier ones are without */
    if (json_object_get(o, "last_contact") != NULL && (bad = number_of(&contact, o, "last_contact")) != NULL)
        return bad;
    out->exchanged.contact_ms = (int64_t)contact;
    out->saved_ms = (int64_t)saved;
    return NULL;
}

int cs_checkpoint_parse(struct cs_checkpoint *out, struct cs_slice text, struct cs_error *err)
{
    const char *bad = "version";
    json_error_t why;
    json_t *o, *version;
    int rc = CS_ECORRUPT;

    *out = (struct cs_checkpoint){ 0 };
    if (text.len > CS_CHECKPOINT_MAX)
        return cs_fail(err, CS_ECORRUPT, "it is too large");
    if ((o = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, &why)) == NULL)
        return cs_fail(err, CS_ECORRUPT, "it is not JSON: %.100s", why.text);
    version = json_object_get(o, "version");
    if (json_is_integer(version) && json_integer_value(version) > FORMAT)
        rc = cs_fail(err, CS_EVERSION, "it was written by a newer claw-sync");
    else if (json_is_integer(version) && json_integer_value(version) == FORMAT && (bad = fields_of(out, o)) == NULL)
        rc = CS_OK;
    else
        cs_fail(err, rc, "its %s is missing or not valid", bad);
    json_decref(o);
    if (rc != CS_OK)
        *out = (struct cs_checkpoint){ 0 };
    return rc;
}

/* ---- the engine's ---- */

static const char *path_of(struct clawsync_engine *e, bool dir)
{
    size_t n = strlen(e->config.data_dir) + sizeof "/checkpoints/-.json" + 2 * (size_t)CS_UUID_TEXT;
    char *p = cs_arena_alloc(&e->strings, n);

    if (p != NULL && dir)
        snprintf(p, n, "%s/checkpoints", e->config.data_dir);
    else if (p != NULL)
        snprintf(p, n, "%s/checkpoints/%s-%s.json", e->config.data_dir, e->workspace_text, e->device_text);
    return p;
}

/* What the database says. */
static void position_now(struct clawsync_engine *e, struct cs_checkpoint *c)
{
    struct cs_pull_mark mark;

    cs_replica_pull_mark(e->replica, &mark);
    c->workspace = e->workspace;
    c->device = e->device;
    c->log_id = mark.log_id;
    c->number = mark.number;
    memcpy(c->state_hash, mark.log_hash, 32);
    c->hlc = (struct cs_version){ .stamp = cs_replica_hlc(e->replica), .device = e->device };
}

int cs_checkpoint_save(struct clawsync_engine *e, const struct cs_exchanged *exchanged, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;
    struct cs_checkpoint now = { .saved_ms = cs_now_ms(e->world), .exchanged = *exchanged };
    struct cs_buf text = { 0 };
    int rc;

    position_now(e, &now);
    if ((rc = cs_checkpoint_encode(&text, &now, err)) == CS_OK &&
        (rc = f->ops->mkdir(f->self, e->checkpoint_dir, 0700, err)) == CS_OK)
        rc = f->ops->write_atomic(f->self, e->checkpoint_path, cs_buf_slice(&text), 0600, err);
    cs_buf_free(&text);
    return rc;
}

/* Why the file is not what the database says; empty: it is. */
static void compare(struct clawsync_engine *e, const struct cs_checkpoint *file, char *why, size_t size)
{
    struct cs_checkpoint now = { 0 };

    position_now(e, &now);
    why[0] = '\0';
    if (cs_uuid_cmp(&file->workspace, &now.workspace) != 0 || cs_uuid_cmp(&file->device, &now.device) != 0)
        snprintf(why, size, "is another device's or workspace's");
    else if (e->recovering) /* the database is known to be an older one, and told of */
        return;
    else if (file->log_id != now.log_id || file->number != now.number ||
             memcmp(file->state_hash, now.state_hash, 32) != 0)
        snprintf(why, size, "is at number %" PRIu64 ", the database at %" PRIu64, file->number, now.number);
    else if (file->hlc.stamp > now.hlc.stamp)
        snprintf(why, size, "is of a newer state of the database");
}

int cs_checkpoint_open(struct clawsync_engine *e, struct cs_error *err)
{
    struct cs_files *f = &e->world->files;
    struct cs_checkpoint file = { 0 }, now = { 0 };
    struct cs_buf text = { 0 };
    char why[sizeof err->msg], sentence[1600];
    struct cs_error one;
    int rc;

    if ((e->checkpoint_dir = path_of(e, true)) == NULL || (e->checkpoint_path = path_of(e, false)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    position_now(e, &now);
    rc = f->ops->read(f->self, e->checkpoint_path, CS_CHECKPOINT_MAX, &text, &one);
    if (rc == CS_ENOTFOUND && now.number == 0 && now.hlc.stamp == 0)
        return CS_OK; /* a device that has done nothing yet */
    if (rc == CS_OK)
        rc = cs_checkpoint_parse(&file, cs_buf_slice(&text), &one);
    cs_buf_free(&text);
    if (rc == CS_ENOTFOUND)
        snprintf(why, sizeof why, "is missing");
    else if (rc != CS_OK)
        snprintf(why, sizeof why, "cannot be used: %.400s", one.msg);
    else
        compare(e, &file, why, sizeof why);
    if (rc == CS_OK && cs_uuid_cmp(&file.device, &e->device) == 0)
        e->schedule.exchanged = file.exchanged;
    if (why[0] == '\0')
        return CS_OK;
    rc = cs_checkpoint_save(e, &e->schedule.exchanged, &one); /* else when something was moved */
    snprintf(sentence, sizeof sentence, "checkpoint %.500s %s; %s%.400s", e->checkpoint_path, why,
             rc == CS_OK ? "it is made anew from the database"
                         : "the database goes by itself, and the file cannot be made anew: ",
             rc == CS_OK ? "" : one.msg);
    cs_open_warning(e, sentence);
    return CS_OK;
}
