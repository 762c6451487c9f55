/* The devices of the workspace: who they are, another name, removal, a new key. */
#include <inttypes.h>
#include <stdio.h>
#include <strings.h>

#include "engine/engine.h"
#include "identity/code.h"

enum { PREFIX_MIN = 4 };

static void finish(struct clawsync_engine *e, int rc, const struct cs_error *err)
{
    cs_hub_call_cancel(&e->devices.call);
    cs_messages_free(&e->devices.taken);
    e->devices.done(e, rc, err);
}

/* ---- the list ---- */

static void row_fill(struct clawsync_engine *e, const struct cs_member *m, struct cs_device_row *row)
{
    struct cs_slice added = cs_self_entry(e, m->added_seq);
    const struct cs_member *by = cs_membership_find(&e->members, &m->added_by);

    row->id = m->id;
    row->kind = m->kind;
    row->added_by = by != NULL && by->kind == CS_PRINCIPAL_INVITE ? by->added_by : m->added_by;
    row->added_ms = cs_entry_time(added);
    row->expires_ms = m->expires_ms;
    cs_fingerprint(m->sign_pk, row->fingerprint);
    cs_member_name(m, e->ks->epochs, e->ks->nepochs, row->name);
}

static void row_presence(const struct clawsync_engine *e, struct cs_device_list *list,
                         const Clawsync__V1__HeartbeatResponse *r)
{
    for (size_t k = 0; r != NULL && k < r->n_devices; k++) {
        const Clawsync__V1__DevicePresence *p = r->devices[k];

        for (size_t i = 0; i < list->n && p->device_id.len == 16; i++) {
            if (memcmp(list->row[i].id.b, p->device_id.data, 16) != 0)
                continue;
            list->row[i].seen_ms = p->seen_ms;
            list->row[i].known_behind = p->pulled >= 0;
            list->row[i].behind = (uint64_t)p->pulled < e->head.number ? e->head.number - (uint64_t)p->pulled : 0;
        }
    }
}

static int list_make(struct clawsync_engine *e, struct cs_device_list *list, struct cs_error *err)
{
    *list = (struct cs_device_list){ .arena = list->arena };
    list->row = cs_arena_zalloc(&list->arena, e->members.nmembers + 1, sizeof *list->row);
    if (list->row == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; i < e->members.nmembers; i++)
        if (e->members.members[i].active)
            row_fill(e, &e->members.members[i], &list->row[list->n++]);
    return CS_OK;
}

static void list_run(struct clawsync_engine *e, struct cs_job *j)
{
    struct cs_device_list *list = e->devices.cmd->arg;
    const struct cs_message *m = e->devices.taken.first;
    ProtobufCAllocator alloc;

    if ((j->rc = list_make(e, list, &j->err)) != CS_OK)
        return;
    alloc = cs_engine_pb(&list->arena);
    row_presence(e, list, m == NULL ? NULL : clawsync__v1__heartbeat_response__unpack(&alloc, m->len, m->data));
}

static void list_done(struct clawsync_engine *e, struct cs_job *j)
{
    finish(e, j->rc, &j->err);
}

static void on_presence(struct cs_hub_call *c)
{
    struct clawsync_engine *e = c->e;

    if (!c->ended)
        return;
    if (c->rc != CS_OK) {
        finish(e, c->rc, &c->err);
        return;
    }
    e->devices.taken = c->in;
    c->in = (struct cs_messages){ 0 };
    e->devices.job = (struct cs_job){ .run = list_run, .done = list_done };
    cs_engine_job(e, &e->devices.job);
}

void cs_step_devices(struct clawsync_engine *e, cs_step_done done)
{
    Clawsync__V1__HeartbeatRequest req = CLAWSYNC__V1__HEARTBEAT_REQUEST__INIT;
    struct cs_error err = { 0 };
    int rc;

    e->devices.cmd = e->schedule.current;
    e->devices.done = done;
    req.workspace_id = e->workspace_text;
    req.device_id = e->device_text;
    req.timestamp = cs_now_ms(e->world);
    req.want_devices = true;
    if ((rc = cs_hub_call_start(e, &e->devices.call, "Heartbeat", &req.base, true, on_presence, &err)) != CS_OK)
        finish(e, rc, &err);
}

/* ---- finding one ---- */

static bool is_named(const struct clawsync_engine *e, const struct cs_member *m, const char *text)
{
    char id[CS_UUID_TEXT], name[64];
    size_t n = strlen(text);

    cs_uuid_text(id, &m->id);
    return (n >= PREFIX_MIN && n < sizeof id && strncasecmp(id, text, n) == 0) ||
           (cs_member_name(m, e->ks->epochs, e->ks->nepochs, name) && strcmp(name, text) == 0);
}

/* Exactly one of those who are active. */
static int find_one(const struct clawsync_engine *e, const char *text, struct cs_uuid *out, struct cs_error *err)
{
    bool found = false, gone = false;

    for (size_t i = 0; i < e->members.nmembers; i++) {
        const struct cs_member *m = &e->members.members[i];

        if (!is_named(e, m, text))
            continue;
        if (!m->active) {
            gone = true;
            continue;
        }
        if (found)
            return cs_fail(err, CS_EINVAL, "\"%.60s\" is more than one; give more of the id (claw-sync devices)", text);
        found = true;
        *out = m->id;
    }
    if (found)
        return CS_OK;
    return cs_fail(err, CS_ENOTFOUND,
                   gone ? "\"%.60s\" is not a member any more"
                        : "there is no device \"%.60s\"; claw-sync devices lists them",
                   text);
}

/* ---- rename ---- */

static int rename_entry(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    struct cs_device_change *c = arg;
    const struct cs_epoch_keys *epoch = cs_keystore_epoch(e->ks, e->members.epoch);
    const struct cs_member *m;
    char name[64];
    int rc;

    if (!c->began && (rc = find_one(e, c->device, &c->id, err)) != CS_OK)
        return rc;
    c->began = true;
    m = cs_membership_find(&e->members, &c->id);
    if (m != NULL && cs_member_name(m, e->ks->epochs, e->ks->nepochs, name) && strcmp(name, c->name) == 0)
        return CS_OK;
    if (epoch == NULL)
        return cs_fail(err, CS_EAUTH, "the key of epoch %" PRIu32 " is not on this device", e->members.epoch);
    return cs_entry_rename(entry, &e->rng, &e->members, &e->device, e->keys, &c->id, c->name, epoch,
                           cs_now_ms(e->world), err);
}

void cs_step_rename(struct clawsync_engine *e, cs_step_done done)
{
    cs_step_append(e, rename_entry, e->schedule.current->arg, done);
}

/* ---- revoke ---- */

/* Did x let m in, itself or through an invite, a phrase, or somebody whom it let in? */
static bool let_in(const struct clawsync_engine *e, const struct cs_uuid *x, const struct cs_member *m)
{
    for (size_t hops = 0; m != NULL && hops <= e->members.nmembers; hops++) {
        if (cs_uuid_cmp(&m->added_by, x) == 0)
            return cs_uuid_cmp(&m->id, x) != 0;
        if (cs_uuid_cmp(&m->added_by, &m->id) == 0)
            return false; /* the genesis */
        m = cs_membership_find(&e->members, &m->added_by);
    }
    return false;
}

/* Where the chain of a device ends here: all of it that we verified. */
static int cut_of(struct clawsync_engine *e, const struct cs_member *m, struct cs_cut *cut, struct cs_error *err)
{
    struct cs_peer peer = { 0 };
    int rc = m->kind == CS_PRINCIPAL_DEVICE ? cs_peer_at(e, &m->id, &peer, err) : CS_OK;

    if (rc != CS_OK)
        return rc;
    *cut = (struct cs_cut){ .id = m->id, .number = peer.number };
    memcpy(cut->hash, peer.hash, 32);
    return CS_OK;
}

static int revoke_entry(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    struct cs_device_change *c = arg;
    struct cs_removal r = { 0 };
    const struct cs_member *m;
    int rc;

    if (!c->began && (rc = find_one(e, c->device, &c->id, err)) != CS_OK)
        return rc;
    c->began = true;
    if (cs_uuid_cmp(&c->id, &e->device) == 0)
        return cs_fail(err, CS_EINVAL, "a device does not remove itself; do it on another one");
    m = cs_membership_find(&e->members, &c->id);
    if (m == NULL || !m->active)
        return CS_OK; /* an earlier try came through, or another device was faster */
    if ((rc = cut_of(e, m, &r.cut[r.n++], err)) != CS_OK || (rc = list_make(e, &c->others, err)) != CS_OK)
        return rc;
    c->others.n = 0;
    for (size_t i = 0; i < e->members.nmembers; i++) {
        m = &e->members.members[i];
        if (!m->active || !let_in(e, &c->id, m))
            continue;
        if (m->kind == CS_PRINCIPAL_INVITE)
            continue; /* goes with its author */
        if (!c->distrust || cs_uuid_cmp(&m->id, &e->device) == 0)
            row_fill(e, m, &c->others.row[c->others.n++]);
        else if (r.n == CS_REMOVAL_MAX)
            return cs_fail(err, CS_ELIMIT, "more than %d devices at once", CS_REMOVAL_MAX);
        else if ((rc = cut_of(e, m, &r.cut[r.n++], err)) != CS_OK)
            return rc;
    }
    c->removed = r.n;
    return cs_append_remove(e, &r, entry, err);
}

void cs_step_revoke(struct clawsync_engine *e, cs_step_done done)
{
    cs_step_append(e, revoke_entry, e->schedule.current->arg, done);
}

/* ---- a new key ---- */

static int rotate_entry(struct clawsync_engine *e, void *arg, struct cs_buf *entry, struct cs_error *err)
{
    uint32_t *from = arg;

    if (*from == 0)
        *from = e->members.epoch;
    return cs_append_rotate(e, from, entry, err);
}

void cs_step_rotate(struct clawsync_engine *e, cs_step_done done)
{
    cs_step_append(e, rotate_entry, e->schedule.current->arg, done);
}
