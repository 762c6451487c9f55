/* RegisterDevice: with a genesis entry it makes a workspace, with an add entry it joins one, with an offer the device
 * waits to be let in, alone it tells a device its state. Keys of an id that is known are never replaced. */
#include "hub/internal.h"
#include "hub/offers.h"
#include "identity/pair.h"

enum {
    PREFIX_TYPE = 4,
    PREFIX_WORKSPACE = 8,
    PREFIX_AUTHOR = 64,
    RECORD_ID = 0,
    RECORD_SIGN = 20,
    RECORD_BOX = 52,
    PK_LEN = 32
};

struct reg {
    struct cs_write write;
    struct cs_req *req;
    struct cs_uuid workspace, device;
    uint8_t sign_pk[PK_LEN], box_pk[PK_LEN];
    struct cs_slice entry, offer;
    Clawsync__V1__DeviceState state;
    struct cs_signed_head head;
};

static bool invalid(struct cs_req *r, const char *what)
{
    return cs_refuse(&r->verdict, CS_RPC_INVALID_ARGUMENT, "validation", "%s", what);
}

/* The signature over "register" by the key that the request brings: possession, and consent to exactly this, here and
 * now. */
static bool challenge_is_signed(const struct cs_req *r, const struct reg *g, struct cs_slice signature)
{
    struct cs_register_proof p = { .counter = r->who.counter,
                                   .workspace = g->workspace,
                                   .device = g->device,
                                   .membership_entry = g->entry,
                                   .join_offer = g->offer };

    memcpy(p.sign_pk, g->sign_pk, PK_LEN);
    memcpy(p.box_pk, g->box_pk, PK_LEN);
    return signature.len == CS_SIGNATURE_LEN && cs_register_verify(r->who.transcript, &p, signature.data);
}

static bool parse_sign_key(struct cs_req *r, struct reg *g, const char *text)
{
    struct cs_buf key = { 0 };
    bool good;

    if (!cs_buf_reserve(&key, 64))
        return cs_refuse(&r->verdict, CS_RPC_UNAVAILABLE, "limit", "the hub is out of memory; try again");
    good = strlen(text) <= 64 && cs_unbase64(&key, cs_slice_str(text), false) && key.len == PK_LEN;
    if (good)
        memcpy(g->sign_pk, key.data, PK_LEN);
    cs_buf_free(&key);
    return good || invalid(r, "the public key is not 32 bytes in base64");
}

/* An entry that registers a device is a genesis or an add whose record is that device with these very keys. */
static bool entry_is_of_device(struct cs_req *r, const struct reg *g)
{
    const uint8_t *record = g->entry.data + CS_ENTRY_PREFIX_LEN;

    if (g->entry.len < CS_ENTRY_PREFIX_LEN + CS_RECORD_LEN || g->entry.len > CS_ENTRY_MAX ||
        cs_entry_seq(g->entry) == 0)
        return invalid(r, "this is not a membership entry");
    if (g->entry.data[PREFIX_TYPE] != CS_ENTRY_GENESIS && g->entry.data[PREFIX_TYPE] != CS_ENTRY_ADD)
        return invalid(r, "a device registers with a genesis or an add entry");
    if ((g->entry.data[PREFIX_TYPE] == CS_ENTRY_GENESIS) != (cs_entry_seq(g->entry) == 1))
        return invalid(r, "a workspace begins with its genesis, and has no other");
    if (memcmp(g->entry.data + PREFIX_WORKSPACE, g->workspace.b, 16) != 0)
        return invalid(r, "the entry is of another workspace");
    if (memcmp(record + RECORD_ID, g->device.b, 16) != 0 || memcmp(record + RECORD_SIGN, g->sign_pk, PK_LEN) != 0 ||
        memcmp(record + RECORD_BOX, g->box_pk, PK_LEN) != 0)
        return invalid(r, "the entry is of another device, or has other keys");
    return true;
}

static bool offer_is_of_device(struct cs_req *r, const struct reg *g)
{
    struct cs_candidate who;
    struct cs_uuid workspace;

    if (!cs_pair_offer_read(g->offer, &workspace, &who))
        return invalid(r, "this is not a request to join");
    if (cs_uuid_cmp(&workspace, &g->workspace) != 0 || cs_uuid_cmp(&who.id, &g->device) != 0 ||
        memcmp(who.sign_pk, g->sign_pk, PK_LEN) != 0 || memcmp(who.box_pk, g->box_pk, PK_LEN) != 0 ||
        !cs_candidate_verify(&who, &workspace))
        return invalid(r, "the request to join is of another device or workspace, or has other keys");
    return true;
}

static bool register_parse(struct cs_req *r, struct reg *g)
{
    ProtobufCAllocator alloc = cs_pb_arena(&r->arena);
    const Clawsync__V1__RegisterDeviceRequest *req =
        clawsync__v1__register_device_request__unpack(&alloc, r->in.len, r->in.data);

    if (req == NULL)
        return cs_unparsable(&r->verdict, &r->arena);
    if (req->device == NULL)
        return invalid(r, "the device is missing");
    g->workspace = r->who.workspace;
    g->device = r->who.device;
    if (!cs_parse_caller(r, req->device->workspace_id, req->device->device_id) ||
        !parse_sign_key(r, g, req->device->public_key_b64))
        return false;
    if (req->box_public_key.len != PK_LEN)
        return invalid(r, "the box key is not 32 bytes");
    memcpy(g->box_pk, req->box_public_key.data, PK_LEN);
    g->entry = cs_slice(req->membership_entry.data, req->membership_entry.len);
    g->offer = cs_slice(req->join_offer.data, req->join_offer.len);
    if (g->entry.len > 0 && g->offer.len > 0)
        return invalid(r, "a device registers with an entry or with an offer");
    if ((g->entry.len > 0 && !entry_is_of_device(r, g)) || (g->offer.len > 0 && !offer_is_of_device(r, g)))
        return false;
    return challenge_is_signed(r, g, cs_slice(req->signed_challenge.data, req->signed_challenge.len)) ||
           cs_refuse_stranger(&r->verdict);
}

static bool find(struct cs_req *r, const struct reg *g, const struct cs_uuid *id, struct cs_store_head *head,
                 struct cs_member_info *out)
{
    struct cs_error err = { 0 };
    cs_store_tx *tx = NULL;
    int rc = cs_store_begin(r->env->store, CS_STORE_READ, &g->workspace, 1, &tx, &err);

    *out = (struct cs_member_info){ 0 };
    if (rc == CS_OK)
        rc = tx->ops->head(tx, &g->workspace, head, &err);
    if (rc == CS_OK)
        rc = cs_members_find(r->env->members, tx, &g->workspace, head, id, out, &err);
    cs_store_rollback(tx);
    if (rc != CS_OK && rc != CS_ENOTFOUND)
        cs_refuse_storage(&r->verdict, &err);
    return r->verdict.status == CS_RPC_OK;
}

/* Alone: what the membership says of a known device with these keys. */
static void register_read(struct cs_req *r, struct reg *g)
{
    struct cs_member_info member;
    struct cs_store_head head;

    if (!find(r, g, &g->device, &head, &member))
        return;
    if (member.kind != CS_PRINCIPAL_DEVICE || memcmp(member.sign_pk, g->sign_pk, PK_LEN) != 0 ||
        memcmp(member.box_pk, g->box_pk, PK_LEN) != 0) {
        cs_refuse_stranger(&r->verdict);
    } else {
        g->state = member.active ? CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_MEMBER
                                 : CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_REMOVED;
        cs_head_sign(r->env, &g->workspace, &head, &g->head);
    }
}

/* With an offer: a device that was ever in is told so; whoever else uses its id waits for nothing. */
static void look_for_offer(struct cs_req *r, struct reg *g)
{
    struct cs_member_info member;
    struct cs_store_head head;

    g->state = CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_PENDING;
    if (!find(r, g, &g->device, &head, &member) || member.kind != CS_PRINCIPAL_DEVICE ||
        memcmp(member.sign_pk, g->sign_pk, PK_LEN) != 0 || memcmp(member.box_pk, g->box_pk, PK_LEN) != 0)
        return;
    g->state = member.active ? CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_MEMBER
                             : CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_REMOVED;
}

/* With an add: it must be the word of one whom the workspace knows. To everybody else a workspace that is there and
 * one that is not are the same, in the answer and in the work for it. */
static void check_author(struct cs_req *r, const struct reg *g)
{
    struct cs_member_info member;
    struct cs_store_head head;
    struct cs_uuid author;
    uint8_t hash[32];
    bool known;

    memcpy(author.b, g->entry.data + PREFIX_AUTHOR, sizeof author.b);
    if (!find(r, g, &author, &head, &member))
        return;
    known = cs_entry_hash(g->entry, hash) &&
            cs_verify_digest(member.kind == 0 ? r->env->key->pk : member.sign_pk, hash,
                             g->entry.data + g->entry.len - CS_SIGNATURE_LEN) &&
            member.kind != 0;
    if (!known)
        cs_refuse_stranger(&r->verdict);
}

static void register_work(struct cs_req *r)
{
    struct reg *g = r->state;

    if (!register_parse(r, g))
        return;
    if (g->offer.len > 0)
        look_for_offer(r, g);
    else if (g->entry.len == 0)
        register_read(r, g);
    else if (g->entry.data[PREFIX_TYPE] == CS_ENTRY_ADD)
        check_author(r, g);
}

static void register_answer(struct cs_req *r)
{
    struct reg *g = r->state;
    Clawsync__V1__RegisterDeviceResponse answer = CLAWSYNC__V1__REGISTER_DEVICE_RESPONSE__INIT;
    Clawsync__V1__HubHead head;
    char id[CS_UUID_TEXT];

    cs_uuid_text(id, &g->device);
    if (g->offer.len == 0) { /* who waits learns nothing of the workspace */
        cs_head_message(&g->head, &head);
        answer.head = &head;
    }
    answer.accepted = g->state == CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_MEMBER;
    answer.assigned_device_id = id;
    answer.server_public_key = (ProtobufCBinaryData){ sizeof r->hub->key->pk, r->hub->key->pk };
    answer.state = g->state;
    if (!cs_pb_pack(&r->out, &answer.base, &r->verdict) || cs_req_send(r))
        cs_req_finish(r);
}

static void register_written(struct cs_write *w)
{
    struct reg *g = (struct reg *)w;
    struct cs_req *r = g->req;

    if (g->offer.len == 0) {
        g->head = w->head;
        g->state = CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_MEMBER;
    }
    if (w->verdict.status != CS_RPC_OK)
        cs_req_finish_refused(r, w);
    else if (r->call != NULL)
        register_answer(r);
    cs_req_release(r);
}

static void register_done(struct cs_req *r)
{
    struct reg *g = r->state;

    if (!cs_gate_take(r->call, &r->verdict)) {
        cs_req_finish(r);
        return;
    }
    if (g->offer.len > 0 ? g->state != CLAWSYNC__V1__DEVICE_STATE__DEVICE_STATE_PENDING : g->entry.len == 0) {
        register_answer(r);
        return;
    }
    if (g->offer.len > 0 &&
        !cs_sessions_may_offer(r->hub->sessions, cs_rpc_call_peer(r->call), &g->workspace, &g->device)) {
        cs_refuse(
            &r->verdict, CS_RPC_RESOURCE_EXHAUSTED, "limit",
            "two devices of this address wait to be let in already; try again in 15 minutes, or join with a code");
        cs_req_finish(r);
        return;
    }
    g->req = r;
    g->write = (struct cs_write){ .kind = g->offer.len > 0 ? CS_WRITE_PAIR : CS_WRITE_ENTRY,
                                  .workspace = g->workspace,
                                  .device = g->device,
                                  .entry = g->offer.len > 0 ? g->offer : g->entry,
                                  .may_create = true,
                                  .bytes = g->offer.len + g->entry.len,
                                  .done = register_written };
    cs_req_hold(r);
    cs_writer_submit(r->hub, &g->write);
}

static void register_fini(struct cs_req *r)
{
    struct reg *g = r->state;

    cs_buf_free(&g->write.stored);
}

static const struct cs_req_ops register_ops = { .name = "RegisterDevice",
                                                .work = register_work,
                                                .done = register_done,
                                                .fini = register_fini,
                                                .state_bytes = sizeof(struct reg) };

void cs_register_start(cs_rpc_call *c, void *service)
{
    cs_req_start(c, service, &register_ops);
}
