/* What goes into this device's audit log, and reading it back. The log is written in jobs: once for a round that moved
 * something, never for one that did not. Its head goes into every batch's header. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "audit/audit.h"
#include "engine/engine.h"

enum { IDS_MAX = 4096 };

static struct cs_audit_owner owner_of(const struct clawsync_engine *e)
{
    return (struct cs_audit_owner){ e->workspace, e->device };
}

/* audit.db is the first identity's; one that came after it (claw-sync identity new) has a file with its name. */
static int open_log(struct clawsync_engine *e, bool read_only, cs_audit **out, struct cs_error *err)
{
    struct cs_audit_owner owner = owner_of(e);
    size_t n = strlen(e->config.data_dir) + sizeof "/audit-.db" + CS_UUID_TEXT;
    char *path = cs_arena_alloc(&e->strings, n);
    int rc;

    *out = NULL;
    if (path == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    snprintf(path, n, "%s/audit.db", e->config.data_dir);
    if ((rc = cs_audit_open(out, e->world, path, read_only, &owner, err)) != CS_EEXIST)
        return rc;
    snprintf(path, n, "%s/audit-%s.db", e->config.data_dir, e->device_text);
    return cs_audit_open(out, e->world, path, read_only, &owner, err);
}

int cs_record_open(struct clawsync_engine *e, struct cs_error *err)
{
    uint64_t sequence;
    uint8_t head[32];
    int rc = open_log(e, false, &e->audit, err);

    if (rc != CS_OK)
        return rc;
    cs_audit_head(e->audit, &sequence, head);
    if (sequence < e->ks->audit_seq)
        cs_open_warning(e, "the end of audit.db is missing; claw-sync audit verify tells more");
    return CS_OK;
}

void cs_record_close(struct clawsync_engine *e)
{
    cs_audit_close(e->audit);
    e->audit = NULL;
}

void cs_record_head(const struct clawsync_engine *e, struct cs_batch_header *h)
{
    if (e->audit == NULL)
        return;
    cs_audit_head(e->audit, &h->audit_seq, h->audit_head);
    e->ks->audit_seq = h->audit_seq;
    memcpy(e->ks->audit_head, h->audit_head, 32);
}

/* Takes the payload's reference; NULL is out of memory. */
static int append(struct clawsync_engine *e, const char *type, const char *entity, const char *ids, uint64_t ops,
                  json_t *payload, struct cs_error *err)
{
    char *text = payload == NULL ? NULL : json_dumps(payload, JSON_COMPACT | JSON_SORT_KEYS);
    struct cs_audit_event ev = { .event_type = type,
                                 .entity_type = entity,
                                 .entity_ids = ids,
                                 .ops_count = ops,
                                 .occurred_at = cs_now_ms(e->world) };
    int rc;

    json_decref(payload);
    if (text == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    ev.payload = cs_slice_str(text);
    rc = e->audit == NULL ? CS_OK : cs_audit_append(e->audit, &e->keys->sign, &ev, 1, err);
    free(text);
    return rc;
}

int cs_record_pushed(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_push_step *s = &e->push;
    char ids[48];

    if (s->acked == 0)
        return CS_OK;
    snprintf(ids, sizeof ids, "%" PRIu64 "-%" PRIu64, s->acked_first, s->acked_last);
    return append(e, "PUSH", "batch", ids, s->acked,
                  json_pack("{s:I}", "log_number", (json_int_t)e->totals.pushed_sequence), err);
}

int cs_record_pulled(struct clawsync_engine *e, struct cs_error *err)
{
    const struct cs_pull_step *s = &e->pull;
    char ids[48];
    int rc;

    if (s->taken_ops == 0)
        return CS_OK;
    snprintf(ids, sizeof ids, "%" PRIu64 "-%" PRIu64, s->from + 1, s->mark.number);
    rc = append(e, "PULL", "log number", ids, s->taken_ops, json_pack("{s:I}", "batches", (json_int_t)s->taken_batches),
                err);
    return rc;
}

int cs_record_taken_in(struct clawsync_engine *e, uint64_t log_number, uint64_t ops, struct cs_error *err)
{
    char ids[24];

    snprintf(ids, sizeof ids, "%" PRIu64, log_number);
    return append(e, "PULL", "log number", ids, ops, json_pack("{s:i, s:b}", "batches", 1, "set_aside", 1), err);
}

int cs_record_settled(struct clawsync_engine *e, const char *ids, uint64_t n, struct cs_error *err)
{
    return append(e, "CONFLICT_RESOLVED", "conflict", ids, n, json_object(), err);
}

int cs_record_reconciled(struct clawsync_engine *e, const clawsync_reconciled *r, struct cs_error *err)
{
    char ids[24];

    snprintf(ids, sizeof ids, "%" PRIu64, r->log_number);
    return append(e, "RECONCILE", "log number", ids, r->published + r->sealed,
                  json_pack("{s:I, s:I, s:I, s:I, s:I}", "missing_here", (json_int_t)r->missing_here, "missing_there",
                            (json_int_t)r->missing_there, "conflicting", (json_int_t)r->conflicting, "published",
                            (json_int_t)r->published, "sealed", (json_int_t)r->sealed),
                  err);
}

int cs_record_registered(struct clawsync_engine *e, struct cs_error *err)
{
    char hub[65];

    cs_hex(hub, e->ks->hub_key, 32);
    return append(e, "DEVICE_REGISTERED", "device", e->device_text, 0,
                  json_pack("{s:s, s:I}", "hub_key", hub, "entry", (json_int_t)e->members.seq), err);
}

static const char cloned[] = "DEVICE_CLONED", hub_misbehaved[] = "HUB_MISBEHAVED",
                  peer_misbehaved[] = "PEER_MISBEHAVED", past_cut[] = "PAST_CUT";
static const char evidence[] = "evidence";

/* What is found again, by this process or the next one, with nothing but findings in between, is in the log already;
 * that the hub signed other bytes to the same effect makes no new finding. */
enum { FINDINGS_BACK = 256 }; /* rows that are looked at */
struct finding {
    const char *type, *ids;
    const json_t *payload; /* without the evidence */
    bool known;
};

static bool is_finding(const struct cs_audit_row *row)
{
    static const char *const types[] = { hub_misbehaved, peer_misbehaved, past_cut, cloned };

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (cs_slice_eq(row->event_type, cs_slice_str(types[i])))
            return true;
    return false;
}

static bool compare(void *arg, const struct cs_audit_row *row)
{
    struct finding *f = arg;
    json_t *payload;

    if (!is_finding(row))
        f->known = false;
    if (f->known || !cs_slice_eq(row->event_type, cs_slice_str(f->type)) ||
        !cs_slice_eq(row->entity_ids, cs_slice_str(f->ids)))
        return true;
    payload = json_loadb((const char *)row->payload.data, row->payload.len, 0, NULL);
    json_object_del(payload, evidence);
    f->known = json_equal(payload, f->payload);
    json_decref(payload);
    return true;
}

static int look_back(struct clawsync_engine *e, struct finding *f, struct cs_error *err)
{
    uint64_t sequence = 0;
    uint8_t hash[32];

    if (e->audit != NULL)
        cs_audit_head(e->audit, &sequence, hash);
    return sequence == 0
               ? CS_OK
               : cs_audit_read(e->audit, sequence > FINDINGS_BACK ? sequence - FINDINGS_BACK + 1 : 1, compare, f, err);
}

/* proof: the hash of the bytes that show it, or NULL. */
static int misbehaved(struct clawsync_engine *e, const char *type, const char *entity, const char *ids,
                      const char *message, const uint8_t *proof, struct cs_error *err)
{
    static const uint8_t none[32];
    json_t *payload = json_pack("{s:s%}", "message", message, strlen(message));
    struct finding finding = { .type = type, .ids = ids };
    char hash[65];
    int rc;

    if (payload == NULL) /* a hub's words need not be UTF-8 */
        payload = json_pack("{s:s}", "message", "not text");
    if (payload == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    finding.payload = payload;
    if ((rc = look_back(e, &finding, err)) != CS_OK || finding.known) {
        json_decref(payload);
        return rc;
    }
    if (proof != NULL && memcmp(proof, none, sizeof none) != 0) {
        cs_hex(hash, proof, 32);
        json_object_set_new(payload, evidence, json_string(hash));
    }
    return append(e, type, entity, ids, 0, payload, err);
}

static const char key_changed[] = "HUB_KEY_CHANGED"; /* before it gave anything */

bool cs_is_finding(const struct cs_error *why)
{
    return why->code == CS_EHUB || strncmp(why->msg, cloned, sizeof cloned - 1) == 0;
}

int cs_record_finding(struct clawsync_engine *e, const struct cs_error *why, struct cs_error *err)
{
    int rc;

    if (strncmp(e->recorded, why->msg, sizeof e->recorded - 1) == 0) /* the same, again and again */
        return CS_OK;
    if (why->code == CS_EHUB)
        rc = misbehaved(e, hub_misbehaved, "hub", e->config.hub_endpoint, why->msg,
                        strncmp(why->msg, key_changed, sizeof key_changed - 1) == 0 ? NULL : e->looked_at, err);
    else
        rc = misbehaved(e, cloned, "device", e->device_text, why->msg, NULL, err);
    if (rc == CS_OK)
        snprintf(e->recorded, sizeof e->recorded, "%.255s", why->msg);
    return rc;
}

int cs_record_peer(struct clawsync_engine *e, const struct cs_batch *b, const char *message, struct cs_error *err)
{
    struct cs_batch_header h;
    char id[CS_UUID_TEXT] = "";

    if (cs_batch_header_decode(&h, cs_slice(b->header, sizeof b->header), NULL) == CS_OK)
        cs_uuid_text(id, &h.device);
    return misbehaved(e, peer_misbehaved, "device", id, message, b->hash, err);
}

int cs_record_bad_entry(struct clawsync_engine *e, const char *author, uint32_t seq, const char *message,
                        struct cs_error *err)
{
    return misbehaved(e, peer_misbehaved, "device", author, message, cs_entry_hash_at(e, seq), err);
}

int cs_record_surplus(struct clawsync_engine *e, const char *device, const char *message, struct cs_error *err)
{
    return misbehaved(e, past_cut, "device", device, message, NULL, err);
}

/* ---- the membership ---- */

static void add_id(char ids[IDS_MAX], const struct cs_uuid *id)
{
    size_t n = strlen(ids);

    if (n + CS_UUID_TEXT + 1 > IDS_MAX)
        return;
    if (n > 0)
        ids[n++] = ',';
    cs_uuid_text(ids + n, id);
}

static int record_entry(struct clawsync_engine *e, uint32_t seq, struct cs_error *err)
{
    struct cs_slice entry = cs_self_entry(e, seq);
    uint32_t epoch = cs_membership_epoch_at(&e->members, seq);
    char added[IDS_MAX] = "", removed[IDS_MAX] = "", hash[65];
    json_t *about;
    int rc = CS_OK;

    for (size_t i = 0; i < e->members.nmembers; i++) {
        const struct cs_member *m = &e->members.members[i];

        if (m->added_seq == seq)
            add_id(added, &m->id);
        if (m->removed && m->ended_seq == seq)
            add_id(removed, &m->id);
    }
    cs_hex(hash, cs_entry_hash_at(e, seq), 32);
    about = json_pack("{s:I, s:s, s:I}", "entry", (json_int_t)seq, "entry_hash", hash, "epoch", (json_int_t)epoch);
    if (about == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    if (added[0] != '\0')
        rc = append(e, "MEMBER_ADDED", "member", added, 0, json_incref(about), err);
    if (rc == CS_OK && removed[0] != '\0')
        rc = append(e, "MEMBER_REMOVED", "member", removed, 0, json_incref(about), err);
    if (rc == CS_OK && entry.len > 4 && (entry.data[4] == CS_ENTRY_REMOVE || entry.data[4] == CS_ENTRY_ROTATE)) {
        snprintf(hash, sizeof hash, "%" PRIu32, epoch);
        rc = append(e, "KEY_ROTATED", "epoch", hash, 0, json_incref(about), err);
    }
    if (rc == CS_OK && entry.len > 4 && entry.data[4] == CS_ENTRY_RENAME)
        rc = append(e, "MEMBER_RENAMED", "member", "", 0, json_incref(about), err);
    json_decref(about);
    return rc;
}

int cs_record_members(struct clawsync_engine *e, struct cs_error *err)
{
    int rc = CS_OK;

    while (e->audit != NULL && e->recorded_seq < e->members.seq && rc == CS_OK)
        if ((rc = record_entry(e, e->recorded_seq + 1, err)) == CS_OK)
            e->recorded_seq++;
    return rc;
}

/* ---- reading it back ---- */

/* As much of an engine as knows who this device is; it writes nothing. */
static int open_reader(struct clawsync_engine **out, const clawsync_config *c, cs_audit **log, struct cs_error *err)
{
    int rc = cs_engine_open_self(out, c, err);

    *log = NULL;
    if (rc == CS_OK)
        rc = open_log(*out, true, log, err);
    return rc;
}

/* What headers say that are at hand: the keystore's newest, and the batches that the database keeps. Ascending. */
static int find_anchors(struct clawsync_engine *e, struct cs_arena *arena, struct cs_audit_anchor **out, size_t *n,
                        struct cs_error *err)
{
    struct cs_replica_options o = { .path = e->config.db_path, .read_only = true };
    struct cs_batch batch = { 0 };
    struct cs_bound *bound = NULL;
    size_t nbound = 0;
    int rc;

    *n = 0;
    if ((rc = cs_replica_open(&e->replica, e->world, &o, err)) == CS_OK)
        rc = cs_replica_bound(e->replica, arena, true, &bound, &nbound, err);
    if (rc == CS_OK && (*out = cs_arena_zalloc(arena, nbound + 1, sizeof **out)) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory");
    for (size_t i = 0; i <= nbound && rc == CS_OK; i++) {
        struct cs_audit_anchor a = { .sequence = e->ks->audit_seq };
        struct cs_batch_header h;
        size_t at = *n;

        memcpy(a.hash, e->ks->audit_head, 32);
        if (i < nbound) {
            cs_batch_free(&batch);
            if (bound[i].stored.len == 0 || cs_batch_decode(&batch, bound[i].stored, NULL) != CS_OK ||
                cs_batch_header_decode(&h, cs_slice(batch.header, sizeof batch.header), NULL) != CS_OK ||
                cs_uuid_cmp(&h.device, &e->device) != 0)
                continue;
            a.sequence = h.audit_seq;
            memcpy(a.hash, h.audit_head, 32);
        }
        if (a.sequence == 0)
            continue;
        for (; at > 0 && (*out)[at - 1].sequence > a.sequence; at--)
            (*out)[at] = (*out)[at - 1];
        (*out)[at] = a;
        (*n)++;
    }
    cs_batch_free(&batch);
    return rc;
}

int clawsync_verify_audit_log(const clawsync_config *c, clawsync_audit_report *out, clawsync_error *error)
{
    struct clawsync_engine *e = NULL;
    struct cs_audit_anchor *anchors = NULL;
    const struct cs_member *self;
    struct cs_audit_verdict v = { 0 };
    struct cs_arena arena = { 0 };
    struct cs_error err = { 0 };
    cs_audit *log = NULL;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = 0;
    int rc;

    *out = (clawsync_audit_report){ 0 };
    if ((rc = open_reader(&e, c, &log, &err)) == CS_OK && (rc = find_anchors(e, &arena, &anchors, &n, &err)) == CS_OK) {
        self = cs_membership_find(&e->members, &e->device);
        rc = cs_audit_verify(log, self != NULL ? self->sign_pk : e->keys->sign.pk, anchors, n,
                             cores < 1 ? 1 : (unsigned)cores, &v, &err);
    }
    if (rc == CS_OK) {
        out->ok = v.ok;
        out->rows = v.rows;
        out->first_broken_at = v.ok ? 0 : v.first_broken_at;
        snprintf(out->broken_reason, sizeof out->broken_reason, "%s", v.broken_reason);
    } else if (error != NULL) {
        *(struct cs_error *)error = err;
    }
    cs_audit_close(log);
    cs_arena_free(&arena);
    cs_engine_free(e);
    return rc;
}

struct reading {
    void (*fn)(void *arg, const clawsync_audit_entry *entry);
    void *arg;
    bool failed;
};

static char *text_of(struct cs_arena *a, struct cs_slice s)
{
    char *p = cs_arena_alloc(a, s.len + 1);

    if (p != NULL) {
        if (s.len > 0)
            memcpy(p, s.data, s.len);
        p[s.len] = '\0';
    }
    return p;
}

static bool tell(void *arg, const struct cs_audit_row *row)
{
    struct reading *r = arg;
    struct cs_arena a = { 0 };
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT], payload_hash[65], prev[65], signature[129], signer[65];
    clawsync_audit_entry entry = { .sequence = row->sequence,
                                   .occurred_ms = row->occurred_at,
                                   .ops_count = row->ops_count,
                                   .event_type = text_of(&a, row->event_type),
                                   .entity_type = text_of(&a, row->entity_type),
                                   .entity_ids = text_of(&a, row->entity_ids),
                                   .payload = text_of(&a, row->payload),
                                   .workspace_id = workspace,
                                   .device_id = device,
                                   .payload_hash = payload_hash,
                                   .prev_entry_hash = prev,
                                   .signature = signature,
                                   .signer_pub_key = signer };

    cs_uuid_text(workspace, &row->owner.workspace);
    cs_uuid_text(device, &row->owner.device);
    cs_hex(payload_hash, row->payload_hash, 32);
    cs_hex(prev, row->prev_entry_hash, 32);
    cs_hex(signature, row->signature, CS_SIGNATURE_LEN);
    cs_hex(signer, row->signer_pub_key, 32);
    r->failed =
        entry.event_type == NULL || entry.entity_type == NULL || entry.entity_ids == NULL || entry.payload == NULL;
    if (!r->failed)
        r->fn(r->arg, &entry);
    cs_arena_free(&a);
    return !r->failed;
}

int clawsync_read_audit_log(const clawsync_config *c, uint64_t last,
                            void (*fn)(void *arg, const clawsync_audit_entry *e), void *arg, clawsync_error *error)
{
    struct reading r = { fn, arg, false };
    struct clawsync_engine *e = NULL;
    struct cs_error err = { 0 };
    cs_audit *log = NULL;
    uint64_t sequence;
    uint8_t head[32];
    int rc = open_reader(&e, c, &log, &err);

    if (rc == CS_OK) {
        cs_audit_head(log, &sequence, head);
        rc = cs_audit_read(log, last == 0 || sequence < last ? 0 : sequence - last + 1, tell, &r, &err);
    }
    if (rc == CS_OK && r.failed)
        rc = cs_fail(&err, CS_ENOMEM, "out of memory");
    if (rc != CS_OK && error != NULL)
        *(struct cs_error *)error = err;
    cs_audit_close(log);
    cs_engine_free(e);
    return rc;
}
