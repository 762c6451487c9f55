/* The calls about the membership: each is a command of a few steps. */
#include <stdio.h>

#include "engine/engine.h"

/* Another device's batches come first: a removal says where they end. Whoever runs beside us pulls by itself. */
static void steps(const struct clawsync_engine *e, struct cs_command *c, bool pull, cs_step_start last)
{
    int n = 0;

    c->kind = CS_CMD_STEPS;
    c->step[n++] = cs_step_member;
    if (pull && !e->beside)
        c->step[n++] = cs_step_pull;
    c->step[n] = last;
}

/* A secret as text, into the caller's buffer. */
static int secret_text(clawsync_engine *e, struct cs_command *c, char *text, size_t size, size_t max,
                       clawsync_error *err)
{
    struct cs_buf out = { 0 };
    int rc;

    if (text == NULL || size < max)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "the buffer is smaller than %zu bytes", max);
    if (!cs_buf_reserve(&out, max)) /* at once: what grows leaves copies behind */
        return cs_fail((struct cs_error *)err, CS_ENOMEM, "out of memory");
    /* cppcheck-suppress autoVariables ; the command is over, and forgotten, before this returns */
    c->out = &out;
    rc = cs_engine_command(e, c, err);
    c->out = NULL;
    if (rc == CS_OK)
        snprintf(text, size, "%.*s", (int)out.len, (const char *)out.data);
    cs_wipe(out.data, out.cap);
    cs_buf_free(&out);
    return rc;
}

int clawsync_engine_invite(clawsync_engine *e, uint32_t expires_secs, char *code, size_t size, clawsync_error *err)
{
    struct cs_command c = { .expires_secs = expires_secs };

    steps(e, &c, false, cs_step_invite);
    return secret_text(e, &c, code, size, CLAWSYNC_CODE_MAX, err);
}

int clawsync_engine_join(clawsync_engine *e, const char *code, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { cs_step_join }, .stopped = true, .code = code };

    if (code == NULL || strlen(code) >= (size_t)2 * CLAWSYNC_CODE_MAX)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "joining needs an invite's code, as claw-sync invite prints");
    return cs_engine_command(e, &c, err);
}

/* ---- joining without a code ---- */

int clawsync_engine_ask_to_join(clawsync_engine *e, char *text, size_t size, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { cs_step_ask }, .stopped = true };

    return secret_text(e, &c, text, size, CLAWSYNC_CHARACTERS, err);
}

int clawsync_engine_enter(clawsync_engine *e, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { cs_step_enter }, .stopped = true };

    return cs_engine_command(e, &c, err);
}

int clawsync_engine_waiting(clawsync_engine *e, int answer, void (*fn)(void *arg, const clawsync_waiting *w), void *arg,
                            clawsync_error *err)
{
    struct cs_waiting_list list = { .answer = answer != 0 };
    struct cs_command c = { .arg = &list };
    int rc;

    steps(e, &c, false, cs_step_waiting);
    if ((rc = cs_engine_command(e, &c, err)) != CS_OK)
        return rc;
    for (size_t i = 0; fn != NULL && i < list.n; i++) {
        char id[CS_UUID_TEXT];
        clawsync_waiting w = { .id = id, .fingerprint = list.row[i].fingerprint };

        cs_uuid_text(id, &list.row[i].id);
        fn(arg, &w);
    }
    return CS_OK;
}

int clawsync_engine_approve(clawsync_engine *e, const char *typed, char id[37], clawsync_error *err)
{
    struct cs_buf out = { 0 };
    struct cs_command c = { .code = typed, .out = &out };
    struct cs_uuid device;
    int rc;

    if (typed == NULL || strlen(typed) > 64)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "the 8 characters that the new device shows are needed");
    steps(e, &c, false, cs_step_admit);
    rc = cs_engine_command(e, &c, err);
    if (rc == CS_OK && out.len >= sizeof device.b && id != NULL) {
        memcpy(device.b, out.data + out.len - sizeof device.b, sizeof device.b);
        cs_uuid_text(id, &device);
    }
    cs_buf_free(&out);
    return rc;
}

int clawsync_engine_recovery_create(clawsync_engine *e, char *phrase, size_t size, clawsync_error *err)
{
    struct cs_command c = { 0 };

    steps(e, &c, true, cs_step_paper);
    return secret_text(e, &c, phrase, size, CLAWSYNC_PHRASE_MAX, err);
}

int clawsync_engine_recover(clawsync_engine *e, const char *phrase, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_STEPS, .step = { cs_step_recover }, .stopped = true, .code = phrase };

    if (phrase == NULL)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "recovering needs the phrase of 24 words");
    return cs_engine_command(e, &c, err);
}

static void tell(const struct clawsync_engine *e, const struct cs_device_list *list,
                 void (*fn)(void *arg, const clawsync_device *d), void *arg)
{
    for (size_t i = 0; fn != NULL && i < list->n; i++) {
        const struct cs_device_row *r = &list->row[i];
        char id[CS_UUID_TEXT], by[CS_UUID_TEXT];
        clawsync_device d = { .id = id,
                              .name = r->name,
                              .fingerprint = r->fingerprint,
                              .added_by = by,
                              .kind = r->kind,
                              .self = cs_uuid_cmp(&r->id, &e->device) == 0,
                              .added_ms = r->added_ms,
                              .expires_ms = r->expires_ms,
                              .seen_ms = r->seen_ms,
                              .behind = r->known_behind ? (int64_t)r->behind : -1 };

        cs_uuid_text(id, &r->id);
        cs_uuid_text(by, &r->added_by);
        fn(arg, &d);
    }
}

int clawsync_engine_devices(clawsync_engine *e, void (*fn)(void *arg, const clawsync_device *d), void *arg,
                            clawsync_error *err)
{
    struct cs_device_list list = { 0 };
    struct cs_command c = { .arg = &list };
    int rc;

    steps(e, &c, false, cs_step_devices);
    if ((rc = cs_engine_command(e, &c, err)) == CS_OK)
        tell(e, &list, fn, arg);
    cs_arena_free(&list.arena);
    return rc;
}

int clawsync_engine_rename_device(clawsync_engine *e, const char *device, const char *name, clawsync_error *err)
{
    struct cs_device_change change = { .device = device, .name = name };
    struct cs_command c = { .arg = &change };

    if (device == NULL || name == NULL || name[0] == '\0')
        return cs_fail((struct cs_error *)err, CS_EINVAL, "renaming needs a device and a name");
    steps(e, &c, false, cs_step_rename);
    return cs_engine_command(e, &c, err);
}

int clawsync_engine_revoke_device(clawsync_engine *e, const char *device, int distrust,
                                  void (*fn)(void *arg, const clawsync_device *d), void *arg, clawsync_error *err)
{
    struct cs_device_change change = { .device = device, .distrust = distrust != 0 };
    struct cs_command c = { .arg = &change };
    int rc;

    if (device == NULL)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "which device is to be removed?");
    steps(e, &c, true, cs_step_revoke);
    if ((rc = cs_engine_command(e, &c, err)) == CS_OK)
        tell(e, &change.others, fn, arg);
    cs_arena_free(&change.others.arena);
    return rc;
}

int clawsync_engine_rotate_keys(clawsync_engine *e, uint32_t *epoch, clawsync_error *err)
{
    uint32_t from = 0;
    struct cs_command c = { .arg = &from };
    int rc;

    steps(e, &c, false, cs_step_rotate);
    rc = cs_engine_command(e, &c, err);
    if (rc == CS_OK && epoch != NULL)
        *epoch = from + 1;
    return rc;
}
