#include "vectors/vectors.h"

#include <math.h>
#include <stdlib.h>

#include "audit/audit.h"
#include "crdt/dump.h"
#include "crypto/entity_set.h"
#include "crypto/head.h"
#include "crypto/keystore_format.h"
#include "crypto/session.h"
#include "crypto/snapshot.h"
#include "crypto/state_proof.h"
#include "identity/code.h"
#include "identity/membership.h"
#include "identity/pair.h"
#include "identity/phrase.h"
#include "unit/crypto/fixed_world.h"
#include "unit/delta/sample.h"

/* A generator of vectors has nothing to go on with when one of its own steps fails. */
static void must(bool ok)
{
    if (!ok)
        abort();
}

static void put(json_t *o, const char *name, json_t *v)
{
    must(json_object_set_new(o, name, v) == 0);
}

static void put_hex(json_t *o, const char *name, struct cs_slice s)
{
    char *hex = malloc(2 * s.len + 1);

    must(hex != NULL);
    cs_hex(hex, s.data, s.len);
    put(o, name, json_string(hex));
    free(hex);
}

static void put_bytes(json_t *o, const char *name, const void *p, size_t n)
{
    put_hex(o, name, cs_slice(p, n));
}

static void put_int(json_t *o, const char *name, int64_t v)
{
    put(o, name, json_integer(v));
}

/* The inputs, all fixed. */
static const struct cs_uuid workspace = { "workspace-of-cs" };
static const struct cs_uuid device_a = { "device-a-of-the" }, device_b = { "device-b-of-the" };

static void fill(uint8_t *p, size_t n, uint8_t first)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(first + i);
}

static void device(struct cs_device_keys *out, enum cs_principal kind, uint8_t first)
{
    uint8_t secret[32];

    memset(out, 0, sizeof *out);
    fill(secret, sizeof secret, first);
    cs_device_keys_derive(out, kind, cs_slice(secret, kind == CS_PRINCIPAL_INVITE ? 16 : 32), &workspace);
}

static void epoch_keys(struct cs_epoch_keys *out, uint32_t epoch)
{
    uint8_t key[32];

    fill(key, sizeof key, 0x80);
    cs_epoch_keys_derive(out, key, &workspace, epoch);
}

/* Labels and primitives */

static json_t *labels(void)
{
    static const char *const all[] = {
        "device sign",      "device box",  "device local", "device hedge",       "recovery sign", "recovery box",
        "recovery vouch",   "recovery id", "invite sign",  "invite box",         "invite vouch",  "invite id",
        "batch key",        "nonce key",   "history key",  "name key",           "value key",     "tag key",
        "epoch commitment", "hub sign",    "session",      "session answer key", "peer key",      "pair key",
        "random key",       "batch",       "member entry", "possession",         "rpc",           "register",
        "log start",        "log entry",   "seen",         "hub head",           "file key",      "code check",
        "audit row",        "audit start", "place",        "phrase check",       "verify heads",  "pair commit",
        "pair string",      "chain start", "refill",       "entity state",       "state proof",   "snapshot start",
        "snapshot part",    "snapshot",
    };
    json_t *list = json_array();
    uint8_t input[48], out[32];

    fill(input, sizeof input, 1);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        json_t *o = json_object();

        cs_hash_label(all[i], cs_slice(input, sizeof input), out);
        put(o, "label", json_string(all[i]));
        put_bytes(o, "input", input, sizeof input);
        put_bytes(o, "output", out, sizeof out);
        must(json_array_append_new(list, o) == 0);
    }
    return list;
}

static json_t *principal(enum cs_principal kind, uint8_t first, size_t secret_len)
{
    struct cs_device_keys k;
    uint8_t secret[32];
    json_t *o = json_object();

    fill(secret, sizeof secret, first);
    device(&k, kind, first);
    put_bytes(o, "secret", secret, secret_len);
    put_bytes(o, "workspace", workspace.b, 16);
    put_bytes(o, "sign_seed", k.sign.seed, 32);
    put_bytes(o, "sign_pk", k.sign.pk, 32);
    put_bytes(o, "box_secret", k.box_secret, 32);
    put_bytes(o, "box_pk", k.box_pk, 32);
    if (kind == CS_PRINCIPAL_DEVICE) {
        put_bytes(o, "local", k.local, 32);
        put_bytes(o, "hedge", k.hedge, 32);
    } else {
        put_bytes(o, "vouch", k.vouch, 32);
        put_bytes(o, "id", k.id.b, 16);
    }
    return o;
}

static json_t *epoch(void)
{
    struct cs_epoch_keys k;
    json_t *o = json_object();
    uint8_t tag[16], message[2 + 5 + 4 + 3] = { 0, 5, 'n', 'o', 't', 'e', 's', 0, 0, 0, 3, 1, 2, 3 };

    epoch_keys(&k, 3);
    put_bytes(o, "key", k.key, 32);
    put_bytes(o, "workspace", workspace.b, 16);
    put_int(o, "epoch", k.epoch);
    put_bytes(o, "batch_key", k.batch, 32);
    put_bytes(o, "nonce_key", k.nonce, 32);
    put_bytes(o, "history_key", k.history, 32);
    put_bytes(o, "name_key", k.name, 32);
    put_bytes(o, "value_key", k.value, 32);
    put_bytes(o, "tag_key", k.tag, 32);
    put_bytes(o, "commitment", k.commitment, 32);
    cs_mac(k.tag, cs_slice(message, sizeof message), tag, sizeof tag);
    put_bytes(o, "tag_message", message, sizeof message);
    put_bytes(o, "tag", tag, sizeof tag);
    return o;
}

static json_t *random_bytes(void)
{
    struct fixed_world f;
    json_t *o = json_object();
    uint8_t os[32], out[40];

    fixed_world_init(&f);
    fill(f.rng.hedge, 32, 7);
    fixed_fill(&f, os, sizeof os);
    f.random_state = 0;
    cs_random_replay(4711, 9);
    cs_random(&f.rng, out, sizeof out);
    put_bytes(o, "os", os, sizeof os);
    put_int(o, "realtime_ns", f.now_ms * 1000000);
    put_int(o, "monotonic_ns", f.now_ms * 1000000);
    put_int(o, "pid", 4711);
    put_int(o, "counter", 9);
    put_bytes(o, "hedge", f.rng.hedge, 32);
    put_bytes(o, "output", out, sizeof out);
    return o;
}

static json_t *sealed_box(void)
{
    struct cs_device_keys k;
    struct fixed_world f;
    json_t *o = json_object();
    uint8_t ephemeral[32], sealed[5 + CS_SEAL_OVERHEAD], shared[32], opened[5];

    fixed_world_init(&f);
    device(&k, CS_PRINCIPAL_DEVICE, 1);
    cs_random(&f.rng, ephemeral, sizeof ephemeral);
    fixed_world_init(&f);
    must(cs_seal(&f.rng, k.box_pk, cs_slice_str("hello"), sealed));
    must(cs_seal_open(k.box_secret, k.box_pk, cs_slice(sealed, sizeof sealed), opened));
    must(cs_dh(ephemeral, k.box_pk, shared));
    put_bytes(o, "ephemeral_secret", ephemeral, 32);
    put_bytes(o, "recipient_secret", k.box_secret, 32);
    put_bytes(o, "recipient_pk", k.box_pk, 32);
    put_bytes(o, "shared", shared, 32);
    put_bytes(o, "message", "hello", 5);
    put_bytes(o, "sealed", sealed, sizeof sealed);
    return o;
}

/* Batches */

struct bench {
    struct fixed_world f;
    cs_packer *p;
    struct cs_arena a;
    struct cs_epoch_keys keys;
    struct cs_device_keys device;
};

static void bench_init(struct bench *b)
{
    fixed_world_init(&b->f);
    must(cs_packer_new(&b->p, &b->f.rng, NULL) == CS_OK);
    b->a = (struct cs_arena){ 0 };
    epoch_keys(&b->keys, 3);
    device(&b->device, CS_PRINCIPAL_DEVICE, 1);
}

static void bench_fini(struct bench *b)
{
    cs_packer_free(b->p);
    cs_arena_free(&b->a);
    fixed_world_fini(&b->f);
}

static json_t *chunks(const struct cs_batch *b)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < b->nchunks; i++) {
        json_t *o = json_object();
        char id[23];

        cs_chunk_id(b->hashes.data + i * (size_t)32, id);
        put_int(o, "length", (json_int_t)cs_batch_chunk(b, i).len);
        put_bytes(o, "payload_hash", b->hashes.data + i * (size_t)32, 32);
        put(o, "chunk_id", json_string(id));
        must(json_array_append_new(list, o) == 0);
    }
    return list;
}

/* From now on the packer draws what belongs to this number; the first 32 bytes of it. */
static void draw(struct bench *s, uint64_t number, uint8_t random[32])
{
    cs_random_replay(4711, number);
    s->f.random_state = number;
    cs_random(&s->f.rng, random, 32);
    cs_random_replay(4711, number);
    s->f.random_state = number;
}

/* Every step of what was packed. */
static json_t *steps(const struct bench *s, const struct cs_batch *b, struct cs_slice packed, const uint8_t random[32])
{
    json_t *o = json_object();
    uint8_t both[64];

    cs_mac(s->keys.batch, cs_slice(b->header, sizeof b->header), both, sizeof both);
    put_bytes(o, "header", b->header, sizeof b->header);
    put_hex(o, "packed", packed);
    put_bytes(o, "key", both, 32);
    put_bytes(o, "commitment", both + 32, 32);
    put_bytes(o, "random", random, 32);
    put_bytes(o, "nonce", b->sealed.data + 32, 24);
    put_hex(o, "sealed", cs_buf_slice(&b->sealed));
    put(o, "chunks", chunks(b));
    put_bytes(o, "batch_hash", b->hash, 32);
    put_bytes(o, "signature", b->signature, 64);
    return o;
}

/* Packs one stored batch under fixed randomness. text_len: of its one text. */
static json_t *batch(struct bench *s, uint64_t number, uint8_t prev[32], size_t text_len, uint8_t padding)
{
    struct cs_batch_header h = { .codec = CS_CODEC_STORED,
                                 .padding = padding,
                                 .workspace = workspace,
                                 .device = device_a,
                                 .incarnation = 0x1122334455667788,
                                 .epoch = 3,
                                 .number = number,
                                 .member_seq = 2,
                                 .seen_log = 0x99aabbccddeeff00,
                                 .seen_number = 40 + number,
                                 .audit_seq = 5 };
    struct cs_batch b = { 0 };
    struct cs_buf plain = { 0 };
    struct cs_delta d;
    json_t *o;
    uint8_t random[32];

    memcpy(h.prev, prev, 32);
    fill(h.seen, 32, 0x20);
    fill(h.audit_head, 32, 0x40);
    cs_arena_reset(&s->a);
    sample_delta(&d, &s->a, 1, text_len);
    d.devices[0] = device_a;
    draw(s, number, random);
    must(cs_pack(s->p, &d, &h, &s->keys, &s->device.sign, 1024, &b, NULL) == CS_OK);
    must(cs_delta_encode(&plain, &d, NULL) == CS_OK);
    o = steps(s, &b, cs_buf_slice(&plain), random);
    memcpy(prev, b.hash, 32);
    cs_buf_free(&plain);
    cs_batch_free(&b);
    return o;
}

static json_t *chain(void)
{
    uint8_t prev[32] = { 0 };
    json_t *o = json_object(), *list = json_array();
    struct bench s;

    bench_init(&s);
    put_bytes(o, "sign_pk", s.device.sign.pk, 32);
    for (uint64_t number = 1; number <= 3; number++)
        must(json_array_append_new(list, batch(&s, number, prev, 20 * number, CS_PADDING_PADME)) == 0);
    put(o, "batches", list);
    bench_fini(&s);
    return o;
}

/* Sealed lengths of one chunk less a byte, exactly one, and one byte more, in chunks of 1024. */
static json_t *boundaries(void)
{
    json_t *list = json_array();
    struct bench s;

    bench_init(&s);
    for (size_t want = 1023; want <= 1025; want++) {
        for (size_t text_len = 700; text_len < 1000; text_len++) {
            uint8_t prev[32] = { 0 };
            json_t *o = batch(&s, 1, prev, text_len, CS_PADDING_NONE);

            if (json_string_length(json_object_get(o, "sealed")) == 2 * want)
                must(json_array_append_new(list, o) == 0);
            else
                json_decref(o);
        }
    }
    must(json_array_size(list) == 3);
    bench_fini(&s);
    return list;
}

/* Membership */

/* Everybody's view of the log: the state, and the keys of all epochs so far. */
struct log {
    struct fixed_world f;
    struct cs_membership m;
    struct cs_epoch_keys keys[3];
    struct cs_buf entry;
    json_t *entries;
};

static json_t *member_of(const struct cs_member *d, const struct log *l)
{
    json_t *e = json_object();
    char name[64];

    must(cs_member_name(d, l->keys, l->m.epoch, name));
    put_bytes(e, "id", d->id.b, 16);
    put_int(e, "kind", d->kind);
    put(e, "active", json_boolean(d->active));
    put_bytes(e, "sign_pk", d->sign_pk, 32);
    put_bytes(e, "box_pk", d->box_pk, 32);
    put_int(e, "added_seq", d->added_seq);
    put_bytes(e, "added_by", d->added_by.b, 16);
    put_int(e, "ended_seq", d->ended_seq);
    put_int(e, "expires_ms", d->expires_ms);
    put_int(e, "name_epoch", d->name_epoch);
    put(e, "name", json_string(name));
    if (d->removed) {
        put_int(e, "cut_number", (int64_t)d->cut.number);
        put_bytes(e, "cut_hash", d->cut.hash, 32);
    }
    return e;
}

static json_t *state_of(const struct log *l)
{
    json_t *o = json_object(), *list = json_array(), *epochs = json_array();
    const struct cs_membership *m = &l->m;

    put_int(o, "seq", m->seq);
    put_bytes(o, "head", m->head, 32);
    put_bytes(o, "genesis", m->genesis, 32);
    put_int(o, "epoch", m->epoch);
    put_int(o, "epoch_seq", m->epoch_seq);
    put_bytes(o, "commitment", m->commitment, 32);
    for (uint32_t i = 0; i < m->epoch; i++) {
        json_t *e = json_object();

        put_int(e, "seq", m->epochs[i].seq);
        put_bytes(e, "key", l->keys[i].key, 32);
        put_bytes(e, "commitment", m->epochs[i].commitment, 32);
        put_bytes(e, "history", m->epochs[i].history, 48);
        must(json_array_append_new(epochs, e) == 0);
    }
    put(o, "epochs", epochs);
    for (size_t i = 0; i < m->nmembers; i++)
        must(json_array_append_new(list, member_of(&m->members[i], l)) == 0);
    put(o, "members", list);
    put_int(o, "refills", (int64_t)m->refills);
    if (m->refills > 0) {
        put_int(o, "refill_seq", m->refill_seq);
        put_int(o, "refill_log_id", (int64_t)m->refill.log_id);
        put_int(o, "refill_number", (int64_t)m->refill.number);
        put_bytes(o, "refill_log_hash", m->refill.log_hash, 32);
    }
    put_int(o, "duty", cs_membership_duty(m, 1700000003000, NULL));
    return o;
}

static void take(struct log *l)
{
    json_t *o = json_object();

    must(cs_membership_apply(&l->m, cs_buf_slice(&l->entry), 0, NULL) == CS_OK);
    put_hex(o, "entry", cs_buf_slice(&l->entry));
    put_bytes(o, "hash", l->m.head, 32);
    put(o, "state", state_of(l));
    must(json_array_append_new(l->entries, o) == 0);
    cs_buf_reset(&l->entry);
}

static json_t *membership(void)
{
    struct cs_floor floor = { .log_id = 0x99aabbccddeeff00, .number = 41 }, new_log = { 0x1122334455667788, 9, { 0 } };
    struct cs_uuid device_c = { "device-c-of-the" };
    struct cs_cut heads[] = { { .id = device_a, .number = 12 }, { .id = device_c, .number = CS_CHAIN_BASE(3) + 1 } };
    struct cs_device_keys a, b, c, invite, paper;
    struct cs_cut cut = { .id = device_b, .number = 7 };
    json_t *o = json_object();
    struct log l = { .entries = json_array() };
    uint8_t hub_key[32];

    fixed_world_init(&l.f);
    device(&a, CS_PRINCIPAL_DEVICE, 1);
    device(&b, CS_PRINCIPAL_DEVICE, 2);
    device(&invite, CS_PRINCIPAL_INVITE, 3);
    device(&c, CS_PRINCIPAL_DEVICE, 4);
    device(&paper, CS_PRINCIPAL_PAPER, 5);
    epoch_keys(&l.keys[0], 1);
    fill(floor.log_hash, 32, 0x60);
    fill(hub_key, 32, 0x70);
    fill(cut.hash, 32, 0x40);
    fill(new_log.log_hash, 32, 0x50);
    put_bytes(o, "workspace", workspace.b, 16);
    put_bytes(o, "epoch_key", l.keys[0].key, 32);
    put_bytes(o, "hub_key", hub_key, 32);
    put(o, "device_a", principal(CS_PRINCIPAL_DEVICE, 1, 32));
    put(o, "device_b", principal(CS_PRINCIPAL_DEVICE, 2, 32));
    put(o, "invite", principal(CS_PRINCIPAL_INVITE, 3, 16));
    put(o, "device_c", principal(CS_PRINCIPAL_DEVICE, 4, 32));
    put(o, "paper", principal(CS_PRINCIPAL_PAPER, 5, 32));
    must(cs_entry_genesis(&l.entry, &l.f.rng, &workspace, &device_a, &a, "laptop", &l.keys[0], 1700000000000, NULL) ==
         CS_OK);
    take(&l);
    must(cs_entry_invite(&l.entry, &l.f.rng, &l.m, &device_a, &a, &invite, "for b", &l.keys[0], &floor, 1700086400000,
                         hub_key, 1700000001000, NULL) == CS_OK);
    take(&l);
    must(cs_entry_add(&l.entry, &l.f.rng, &l.m, &invite.id, &invite, &device_b, &b, "phone", &l.keys[0], 1700000002000,
                      NULL) == CS_OK);
    take(&l);
    must(cs_entry_rotate(&l.entry, &l.f.rng, &l.m, &device_b, &b, &l.keys[0], &l.keys[1], 1700000003000, NULL) ==
         CS_OK);
    take(&l);
    must(cs_entry_rename(&l.entry, &l.f.rng, &l.m, &device_b, &b, &device_a, "desk", &l.keys[1], 1700000004000, NULL) ==
         CS_OK);
    take(&l);
    must(cs_entry_recovery(&l.entry, &l.f.rng, &l.m, &device_a, &a, &paper, "drawer", &l.keys[1], &floor, 1700000005000,
                           NULL) == CS_OK);
    take(&l);
    must(cs_entry_add(&l.entry, &l.f.rng, &l.m, &paper.id, &paper, &device_c, &c, "new phone", &l.keys[1],
                      1700000006000, NULL) == CS_OK);
    take(&l);
    must(cs_entry_remove(&l.entry, &l.f.rng, &l.m, &paper.id, &paper, &cut, 1, &l.keys[1], &l.keys[2], 1700000007000,
                         NULL) == CS_OK);
    take(&l);
    must(cs_entry_refill(&l.entry, &l.m, &device_c, &c, &floor, &new_log, heads, 2, 1700000008000, NULL) == CS_OK);
    take(&l);
    put(o, "entries", l.entries);
    cs_buf_free(&l.entry);
    cs_membership_free(&l.m);
    fixed_world_fini(&l.f);
    return o;
}

/* The phrase, one with a wrong word, one with two neighbours swapped (both of which have one correction), and one with
 * two wrong words, which has none. */
static json_t *phrase(void)
{
    static const char *const names[] = { "text", "one_wrong", "swapped", "two_wrong" };
    json_t *o = json_object();
    uint8_t secret[32], read[32];
    char text[CS_PHRASE_TEXT];

    fill(secret, sizeof secret, 5);
    put_bytes(o, "secret", secret, sizeof secret);
    for (size_t i = 0; i < 4; i++) {
        struct cs_phrase_fix fix;
        int rc;

        cs_phrase_text(text, secret);
        if (i == 1 || i == 3)
            memcpy(text + 5 * 9, "zuzu", 4);
        if (i == 3)
            memcpy(text + 5 * 2, "zuzu", 4);
        if (i == 2) {
            char third[4];

            memcpy(third, text + 5 * 3, 4);
            memmove(text + 5 * 3, text + 5 * 4, 4);
            memcpy(text + 5 * 4, third, 4);
        }
        put(o, names[i], json_string(text));
        rc = cs_phrase_parse(read, text, &fix, NULL);
        must(rc == (i == 0 ? CS_OK : CS_ECORRUPT) && fix.found == (i == 1 || i == 2));
        must(memcmp(i == 0 ? read : secret, secret, 32) == 0 && (!fix.found || memcmp(fix.secret, secret, 32) == 0));
    }
    return o;
}

static json_t *code(void)
{
    struct cs_invite_code c = { .tls = true, .has_pin = true, .workspace = workspace, .hub = "hub.example:7443" };
    struct cs_buf bytes = { 0 }, text = { 0 };
    json_t *o = json_object();

    fill(c.secret, 16, 3);
    fill(c.pin, 32, 0x33);
    must(cs_invite_code_encode(&bytes, &c, NULL) == CS_OK && cs_invite_code_text(&text, &c, NULL) == CS_OK);
    put_hex(o, "bytes", cs_buf_slice(&bytes));
    put(o, "text", json_stringn((char *)text.data, text.len));
    cs_buf_free(&bytes);
    cs_buf_free(&text);
    return o;
}

/* Joining without a code: an exchange in which each side's randomness begins anew from the fixed one, the new device's
 * with the hedge 1, the member's with the hedge 2. */
static json_t *pairing(void)
{
    json_t *o = json_object();
    uint8_t genesis[32], hub[32], reveal[CS_PAIR_REVEAL_LEN], done[CS_PAIR_DONE_LEN];
    struct cs_pair_done end = { .member_seq = 7, .floor = { .log_id = 0x1122334455667788, .number = 9 } };
    char at_new[CS_PAIR_STRING], at_member[CS_PAIR_STRING];
    struct cs_device_keys new, member;
    struct fixed_world f, g;
    struct cs_pair n, m;

    device(&new, CS_PRINCIPAL_DEVICE, 0x20);
    device(&member, CS_PRINCIPAL_DEVICE, 1);
    fill(genesis, sizeof genesis, 0x30);
    fill(hub, sizeof hub, 0x50);
    fill(end.entry_hash, sizeof end.entry_hash, 0x70);
    fill(end.floor.log_hash, sizeof end.floor.log_hash, 0x90);
    fixed_world_init(&f);
    fill(f.rng.hedge, 32, 1);
    fixed_world_init(&g);
    fill(g.rng.hedge, 32, 2);
    cs_pair_offer(&n, &f.rng, &workspace, &device_b, &new);
    must(cs_pair_answer(&m, &g.rng, cs_slice(n.offer, sizeof n.offer), &workspace, &device_a, member.sign.pk, genesis,
                        hub, NULL) == CS_OK);
    must(cs_pair_take_answer(&n, cs_slice(m.answer, sizeof m.answer), NULL) == CS_OK);
    must(cs_pair_reveal(&n, reveal, NULL) == CS_OK);
    must(cs_pair_take_reveal(&m, cs_slice(reveal, sizeof reveal), NULL) == CS_OK);
    must(cs_pair_string(&n, at_new) && cs_pair_string(&m, at_member) && strcmp(at_new, at_member) == 0);
    must(cs_pair_done(&m, &g.rng, &end, done, NULL) == CS_OK);
    put_bytes(o, "new_device_ephemeral_secret", n.eph_secret, 32);
    put_bytes(o, "new_device_nonce", n.nonce_new, 32);
    put_bytes(o, "offer", n.offer, sizeof n.offer);
    put_bytes(o, "member_ephemeral_secret", m.eph_secret, 32);
    put_bytes(o, "answer", m.answer, sizeof m.answer);
    put_bytes(o, "reveal", reveal, sizeof reveal);
    put(o, "string", json_string(at_new));
    put_int(o, "member_seq", end.member_seq);
    put_bytes(o, "entry_hash", end.entry_hash, 32);
    put_bytes(o, "done", done, sizeof done);
    fixed_world_fini(&f);
    fixed_world_fini(&g);
    return o;
}

/* Heads, files, padding */

static json_t *heads(void)
{
    struct cs_hub_head h = { .log_id = 0x99aabbccddeeff00, .number = 3, .member_seq = 2, .time_ms = 1700000003000 };
    uint8_t l[32], batch_hash[32], seed[32], bytes[CS_HUB_HEAD_LEN], sig[64];
    json_t *o = json_object(), *list = json_array();
    struct cs_sign_key hub;

    cs_hash_label("hub sign", cs_slice_str("the seed string of this hub, 32+"), seed);
    cs_sign_key_from_seed(&hub, seed);
    put_bytes(o, "hub_seed", "the seed string of this hub, 32+", 32);
    put_bytes(o, "hub_pk", hub.pk, 32);
    put_bytes(o, "workspace", workspace.b, 16);
    put_int(o, "refilled", 0);
    for (uint64_t n = 0; n <= 3; n++) {
        json_t *e = json_object();

        fill(batch_hash, 32, (uint8_t)n);
        if (n == 0)
            cs_log_start(&workspace, h.log_id, 0, l);
        else
            cs_log_next(l, n, batch_hash, l);
        if (n > 0)
            put_bytes(e, "batch_hash", batch_hash, 32);
        put_bytes(e, "log_hash", l, 32);
        must(json_array_append_new(list, e) == 0);
    }
    put(o, "log", list);
    memcpy(h.log_hash, l, 32);
    fill(h.entry_hash, 32, 0x50);
    cs_seen_digest(&workspace, h.log_id, h.number, h.log_hash, h.member_seq, h.entry_hash, l);
    put_bytes(o, "seen", l, 32);
    cs_hub_head_encode(&h, bytes);
    cs_hub_head_sign(&hub, &workspace, bytes, sig);
    put_bytes(o, "head", bytes, sizeof bytes);
    put_bytes(o, "signature", sig, 64);
    return o;
}

/* The log that the second refill began: its L_0, and where a device's chain begins in it. */
static json_t *refilled(void)
{
    enum { REFILLED = 2 };
    uint64_t log_id = 0x1122334455667788;
    json_t *o = json_object();
    uint8_t hash[32];

    put_bytes(o, "workspace", workspace.b, 16);
    put_int(o, "log_id", (int64_t)log_id);
    put_int(o, "refilled", REFILLED);
    cs_log_start(&workspace, log_id, REFILLED, hash);
    put_bytes(o, "log_start", hash, 32);
    put_int(o, "chain_number", (int64_t)CS_CHAIN_BASE(REFILLED));
    cs_chain_start(&workspace, log_id, hash);
    put_bytes(o, "chain_prev", hash, 32);
    return o;
}

/* Comparing states */

static void put_version(json_t *o, const char *name, const struct cs_version *v)
{
    json_t *e = json_object();

    put_int(e, "stamp", v->stamp);
    put_bytes(e, "device", v->device.b, 16);
    put(o, name, e);
}

static void cell(struct cs_buf *row, json_t *cells, const char *column, const struct cs_row_cell *c,
                 const struct cs_value *value)
{
    struct cs_dump_cell d = { cs_slice_str(column), c };
    struct cs_buf encoding = { 0 };
    json_t *o = json_object();

    cs_dump_cell(row, &d, value);
    cs_value_encode(&encoding, value);
    put(o, "column", json_string(column));
    put_version(o, "version", &c->v);
    put_hex(o, "value", cs_buf_slice(&encoding));
    must(json_array_append_new(cells, o) == 0);
    cs_buf_free(&encoding);
}

struct states {
    const struct cs_epoch_keys *keys;
    uint8_t state_key[32];
    struct cs_hasher root;
    struct cs_sums sums;
    json_t *rows;
    struct cs_buf part[2]; /* a snapshot's: a table's rows each */
    uint32_t nrows[2];
};

/* One entity: what it is, its row of the dump, tag and state. */
static void entity(struct states *s, const char *table, const struct cs_value *id, const struct cs_row *row,
                   const char *const *columns, const struct cs_value *values)
{
    struct cs_buf key = { 0 }, bytes = { 0 };
    json_t *o = json_object(), *cells = json_array();
    uint8_t leaf[CS_LEAF_LEN];
    int part = strcmp(table, "memories") != 0;

    cs_buf_put_u32(&key, (uint32_t)cs_value_encoded_len(id));
    cs_value_encode(&key, id);
    cs_dump_row(&bytes, cs_slice_str(table), cs_buf_slice(&key), row);
    for (uint32_t i = 0; i < row->ncells; i++)
        cell(&bytes, cells, columns[i], &row->cells[i], &values[i]);
    cs_hasher_update(&s->root, bytes.data, bytes.len);
    cs_buf_put_slice(&s->part[part], cs_buf_slice(&bytes));
    s->nrows[part]++;
    cs_entity_tag(s->keys->tag, cs_slice_str(table), cs_buf_slice(&key), leaf);
    cs_entity_state(s->state_key, cs_buf_slice(&bytes), leaf + CS_TAG_LEN);
    cs_sums_add(&s->sums, leaf);
    put(o, "table", json_string(table));
    put_hex(o, "key", cs_buf_slice(&key));
    put_version(o, "ins", &row->ins);
    put_version(o, "del", &row->del);
    put(o, "cells", cells);
    put_hex(o, "row", cs_buf_slice(&bytes));
    put_bytes(o, "tag", leaf, CS_TAG_LEN);
    put_bytes(o, "state", leaf + CS_TAG_LEN, CS_STATE_LEN);
    must(json_array_append_new(s->rows, o) == 0);
    cs_buf_free(&key);
    cs_buf_free(&bytes);
}

/* Rows that live, enough of them to lie in several ranges, and a tombstone. */
static void entities(struct states *s)
{
    static const char *const columns[] = { "body", "size" };
    const struct cs_value values[] = { { .type = CS_TEXT, .u.bytes = cs_slice_str("what it says") },
                                       { .type = CS_INTEGER, .u.i = -7 } },
                          gone = { .type = CS_TEXT, .u.bytes = cs_slice_str("gone") };
    struct cs_version first = { INT64_C(1700000000000) << 16, device_a },
                      later = { (INT64_C(1700000001000) << 16) + 3, device_b };
    struct cs_row_cell cells[] = { { 0, first }, { 1, later } };
    struct cs_row lives = { .ins = first, .cells = cells, .ncells = 2 },
                  dead = { .ins = CS_NEVER, .del = later, .ncells = 0 };

    for (int64_t i = 1; i <= 8; i++)
        entity(s, "memories", &(struct cs_value){ .type = CS_INTEGER, .u.i = i }, &lives, columns, values);
    entity(s, "notes", &gone, &dead, columns, values);
}

static struct states *states_new(const struct cs_epoch_keys *keys)
{
    struct states *s = calloc(1, sizeof *s);

    must(s != NULL);
    s->keys = keys;
    s->rows = json_array();
    cs_state_key(keys->tag, s->state_key);
    cs_hasher_init_plain(&s->root);
    cs_hasher_update(&s->root, cs_dump_head().data, cs_dump_head().len);
    entities(s);
    return s;
}

static void states_free(struct states *s)
{
    json_decref(s->rows);
    cs_buf_free(&s->part[0]);
    cs_buf_free(&s->part[1]);
    free(s);
}

static json_t *reconcile(void)
{
    struct cs_state_proof p = {
        .workspace = workspace, .device = device_a, .log_id = 0x1122334455667788, .number = 9, .time_ms = 1700000009000
    };
    struct states *s;
    uint8_t total[CS_STATE_LEN], children[CS_CHILDREN_LEN], sealed[CS_PROOF_LEN];
    struct cs_range all = { 0, 0 };
    struct cs_device_keys a;
    struct cs_epoch_keys keys;
    struct fixed_world f;
    json_t *o = json_object();

    fixed_world_init(&f);
    epoch_keys(&keys, 3);
    device(&a, CS_PRINCIPAL_DEVICE, 1);
    s = states_new(&keys);
    cs_hasher_final(&s->root, p.root, sizeof p.root);
    cs_sums_total(&s->sums, total);
    cs_sums_children(&s->sums, &all, children);
    p.rows = s->sums.rows;
    fill(p.log_hash, 32, 0x30);
    cs_state_proof_seal(&p, &a.sign, &keys, &f.rng, sealed);
    put_bytes(o, "workspace", workspace.b, 16);
    put_int(o, "epoch", 3);
    put_bytes(o, "epoch_key", keys.key, 32);
    put_bytes(o, "state_key", s->state_key, 32);
    put(o, "entities", json_incref(s->rows));
    put_bytes(o, "root", p.root, 32);
    put_bytes(o, "sum", total, sizeof total);
    put_bytes(o, "sums_of_children", children, sizeof children);
    put(o, "device", principal(CS_PRINCIPAL_DEVICE, 1, 32));
    put_bytes(o, "device_id", device_a.b, 16);
    put_int(o, "log_id", (int64_t)p.log_id);
    put_int(o, "log_number", (int64_t)p.number);
    put_bytes(o, "log_hash", p.log_hash, 32);
    put_int(o, "time", p.time_ms);
    put_bytes(o, "proof", sealed, sizeof sealed);
    fixed_world_fini(&f);
    states_free(s);
    return o;
}

/* Snapshots */

/* A part: a batch of kind 2, whose chain and place are those of the descriptor. */
static json_t *part(struct bench *b, const struct states *s, int i, const struct cs_descriptor *d,
                    const uint8_t prev[32], uint8_t digest[32])
{
    struct cs_batch_header h = { .codec = CS_CODEC_STORED,
                                 .padding = CS_PADDING_PADME,
                                 .workspace = d->workspace,
                                 .device = d->device,
                                 .incarnation = 0x1122334455667788,
                                 .epoch = 3,
                                 .number = 12,
                                 .member_seq = d->member_seq,
                                 .seen_log = d->log_id,
                                 .seen_number = d->number };
    struct cs_batch packed = { 0 };
    uint8_t random[32];
    json_t *o;

    memcpy(h.prev, prev, 32);
    cs_seen_digest(&d->workspace, d->log_id, d->number, d->log_hash, d->member_seq, d->entry_hash, h.seen);
    draw(b, 1 + (uint64_t)i, random);
    must(cs_pack_state(b->p, cs_buf_slice(&s->part[i]), s->nrows[i], &h, &b->keys, &b->device.sign, 1024, &packed,
                       NULL) == CS_OK);
    o = steps(b, &packed, cs_buf_slice(&s->part[i]), random);
    cs_snapshot_digest_next(digest, (uint32_t)i, packed.hash);
    put_bytes(o, "digest", digest, 32);
    cs_batch_free(&packed);
    return o;
}

/* The state of `reconcile`, given by device a and attested by device b. */
static json_t *snapshot(void)
{
    struct cs_state_proof proof = {
        .workspace = workspace, .device = device_a, .log_id = 0x1122334455667788, .number = 9, .time_ms = 1700000009000
    };
    struct cs_descriptor d = { .workspace = workspace,
                               .device = device_a,
                               .log_id = proof.log_id,
                               .number = proof.number,
                               .top_stamp = (INT64_C(1700000001000) << 16) + 3,
                               .member_seq = 4,
                               .highest_epoch = 3,
                               .parts = 2,
                               .npeers = 2 };
    struct cs_snapshot_peer peers[] = { { .device = device_a, .number = 12, .member_seq = 4 },
                                        { .device = device_b, .number = 7, .member_seq = 2 } };
    uint8_t bytes[2 * CS_SNAPSHOT_PEER_LEN], other_proof[CS_PROOF_LEN], attestation[CS_ATTESTATION_LEN];
    struct cs_buf descriptor = { 0 };
    json_t *o = json_object(), *parts = json_array();
    struct cs_device_keys other;
    struct states *s;
    struct bench b;

    bench_init(&b);
    device(&other, CS_PRINCIPAL_DEVICE, 2);
    s = states_new(&b.keys);
    for (uint32_t i = 0; i < 2; i++) {
        fill(peers[i].hash, 32, (uint8_t)(0x10 + 0x80 * i));
        cs_snapshot_peer_encode(&peers[i], bytes + (size_t)i * CS_SNAPSHOT_PEER_LEN);
    }
    d.peers = cs_slice(bytes, sizeof bytes);
    fill(d.log_hash, 32, 0x30);
    fill(d.entry_hash, 32, 0x50);
    cs_snapshot_digest_start(&workspace, &device_a, d.log_id, d.number, d.digest);
    put_bytes(o, "digest_start", d.digest, 32);
    for (int i = 0; i < 2; i++)
        must(json_array_append_new(parts, part(&b, s, i, &d, peers[0].hash, d.digest)) == 0);
    put(o, "parts", parts);
    memcpy(proof.log_hash, d.log_hash, 32);
    proof.rows = d.rows = s->nrows[0] + s->nrows[1];
    cs_hasher_final(&s->root, proof.root, sizeof proof.root);
    cs_state_proof_seal(&proof, &b.device.sign, &b.keys, &b.f.rng, d.proof);
    cs_descriptor_seal(&descriptor, &d, &b.device.sign);
    must(!descriptor.failed);
    proof.device = device_b;
    proof.time_ms += 5000;
    cs_state_proof_seal(&proof, &other.sign, &b.keys, &b.f.rng, other_proof);
    cs_attestation_seal(other_proof, cs_buf_slice(&descriptor), &other.sign, attestation);
    put_bytes(o, "workspace", workspace.b, 16);
    put(o, "device", principal(CS_PRINCIPAL_DEVICE, 1, 32));
    put_bytes(o, "device_id", device_a.b, 16);
    put(o, "attester", principal(CS_PRINCIPAL_DEVICE, 2, 32));
    put_bytes(o, "attester_id", device_b.b, 16);
    put_int(o, "log_id", (int64_t)d.log_id);
    put_int(o, "log_number", (int64_t)d.number);
    put_bytes(o, "log_hash", d.log_hash, 32);
    put_int(o, "top_stamp", d.top_stamp);
    put_int(o, "member_seq", d.member_seq);
    put_bytes(o, "entry_hash", d.entry_hash, 32);
    put_int(o, "highest_epoch", d.highest_epoch);
    put_int(o, "time", proof.time_ms - 5000);
    put_int(o, "attested_time", proof.time_ms);
    for (int i = 0; i < 2; i++) {
        json_t *p = json_object();

        put_bytes(p, "device", peers[i].device.b, 16);
        put_int(p, "number", (int64_t)peers[i].number);
        put_bytes(p, "hash", peers[i].hash, 32);
        put_int(p, "member_seq", peers[i].member_seq);
        put(o, i == 0 ? "peer_a" : "peer_b", p);
    }
    put_hex(o, "descriptor", cs_buf_slice(&descriptor));
    put_bytes(o, "attestation", attestation, sizeof attestation);
    cs_buf_free(&descriptor);
    states_free(s);
    bench_fini(&b);
    return o;
}

/* A session, a call, a registration and a refill in it, and the answers' MACs. */
static json_t *session(void)
{
    static const char path[] = "/clawsync.v1.SyncService/Heartbeat";
    struct cs_call_proof call = { .counter = 7, .workspace = workspace, .device = device_a };
    struct cs_register_proof reg = { .counter = 8, .workspace = workspace, .device = device_a };
    struct cs_refill_proof refill = { .counter = 9, .workspace = workspace, .device = device_a };
    struct cs_device_keys keys;
    struct cs_sign_key hub;
    struct cs_session_hello hello;
    struct cs_session ours, theirs;
    struct fixed_world f;
    uint8_t seed[32], secret[32], reply[CS_SESSION_REPLY_LEN], bytes[64];
    char text[CS_CALL_PROOF_TEXT];
    json_t *o = json_object();

    fixed_world_init(&f);
    cs_hash_label("hub sign", cs_slice_str("the seed string of this hub, 32+"), seed);
    cs_sign_key_from_seed(&hub, seed);
    fill(secret, 32, 0x11);
    cs_device_keys_derive(&keys, CS_PRINCIPAL_DEVICE, cs_slice(secret, 32), &workspace);
    cs_session_begin(&f.rng, &hello);
    put_bytes(o, "client_secret", hello.secret, 32);
    put_bytes(o, "hello", hello.bytes, sizeof hello.bytes);
    must(cs_session_answer(&f.rng, &hub, cs_slice(hello.bytes, sizeof hello.bytes), reply, &theirs, NULL) == CS_OK);
    put_bytes(o, "reply", reply, sizeof reply);
    must(cs_session_finish(&hello, cs_slice(reply, sizeof reply), hub.pk, &ours, NULL) == CS_OK);
    put_bytes(o, "transcript", ours.transcript, 32);
    put_bytes(o, "answer_key", ours.answer_key, 32);
    put_bytes(o, "device_secret", secret, 32);
    put_bytes(o, "workspace", workspace.b, 16);
    put_bytes(o, "device", device_a.b, 16);
    put(o, "path", json_string(path));
    put_bytes(o, "body", "a request", 9);
    put_int(o, "counter", 7);
    cs_hash_plain(cs_slice_str("a request"), call.body_hash);
    cs_call_prove(&ours, &keys.sign, path, &call);
    cs_call_proof_text(&call, text);
    put(o, "authorization", json_string(text));
    memcpy(reg.sign_pk, keys.sign.pk, 32);
    memcpy(reg.box_pk, keys.box_pk, 32);
    reg.membership_entry = cs_slice_str("an entry");
    cs_register_prove(&ours, &keys.sign, &reg, bytes);
    put_bytes(o, "entry", "an entry", 8);
    put_int(o, "register_counter", 8);
    put_bytes(o, "signed_challenge", bytes, 64);
    refill.content = cs_slice_str("log ids and entries");
    cs_refill_prove(&ours, &keys.sign, &refill, bytes);
    put_hex(o, "refill_content", refill.content);
    put_int(o, "refill_counter", 9);
    put_bytes(o, "refill_challenge", bytes, 64);
    cs_answer_mac(ours.answer_key, 7, 0, cs_slice_str("an answer"), bytes);
    put_bytes(o, "answer", "an answer", 9);
    put_bytes(o, "answer_mac", bytes, 32);
    cs_answer_mac(ours.answer_key, 7, 16, CS_SLICE_NULL, bytes);
    put_bytes(o, "refusal_mac_16", bytes, 32);
    fill(seed, 32, 0x60);
    put_bytes(o, "batch_hash", seed, 32);
    cs_push_answer_mac(ours.answer_key, seed, 5, true, 0, "", "", bytes);
    put_bytes(o, "push_mac_5", bytes, 32);
    cs_push_answer_mac(ours.answer_key, seed, 0, false, 9, "stale-epoch", "so it is", bytes);
    put_bytes(o, "push_mac_9_stale-epoch_so_it_is", bytes, 32);
    return o;
}

static json_t *file(const char magic[4], const char *passphrase, struct cs_slice body)
{
    struct cs_kdf_cost least = { 1, 8 * 1024 };
    struct cs_buf out = { 0 };
    json_t *o = json_object();
    struct fixed_world f;

    fixed_world_init(&f);
    must(cs_envelope_seal(&out, magic, passphrase, least, body, &f.rng, NULL) == CS_OK);
    put(o, "passphrase", passphrase == NULL ? json_null() : json_string(passphrase));
    put_hex(o, "body", body);
    put_hex(o, "file", cs_buf_slice(&out));
    cs_buf_free(&out);
    return o;
}

static json_t *keystores(void)
{
    struct cs_keystore *k = cs_keystore_new();
    struct cs_key_export x = { .workspace = workspace, .member_seq = 3, .nepochs = 2 };
    struct cs_buf body = { 0 };
    json_t *o = json_object();
    uint8_t key[32];

    must(k != NULL && (k->incarnations = calloc(2, 8)) != NULL);
    k->workspace = workspace;
    k->device = device_a;
    fill(k->device_secret, 32, 1);
    k->nincarnations = 2;
    k->incarnations[0] = 0x1122334455667788;
    k->incarnations[1] = 2;
    fill(k->place, 32, 0x11);
    fill(k->hub_key, 32, 0x70);
    fill(k->genesis, 32, 0x22);
    k->member_seq = 3;
    fill(k->entry_hash, 32, 0x50);
    k->log_id = 0x99aabbccddeeff00;
    k->log_number = 41;
    fill(k->log_hash, 32, 0x60);
    k->own_number = 7;
    fill(k->own_hash, 32, 0x44);
    k->audit_seq = 5;
    fill(k->audit_head, 32, 0x40);
    for (uint32_t e = 1; e <= 2; e++) {
        fill(key, 32, (uint8_t)(0x80 + e));
        must(cs_keystore_add_epoch(k, e, key, NULL) == CS_OK);
    }
    must(cs_keystore_body(&body, k, NULL) == CS_OK);
    put(o, "keystore", file("CSK1", "correct horse", cs_buf_slice(&body)));
    put(o, "keystore_without_passphrase", file("CSK1", NULL, cs_buf_slice(&body)));
    cs_buf_reset(&body);
    fill(x.genesis, 32, 0x22);
    fill(x.hub_key, 32, 0x70);
    fill(x.entry_hash, 32, 0x50);
    x.epochs = k->epochs; /* borrowed */
    cs_buf_put_str(&x.invite, "the bytes of an invite code");
    must(cs_key_export_body(&body, &x, NULL) == CS_OK);
    put(o, "export", file("CSX1", "correct horse", cs_buf_slice(&body)));
    x.epochs = NULL;
    cs_key_export_free(&x);
    cs_keystore_free(k);
    cs_buf_free(&body);
    return o;
}

static void pad(json_t *list, size_t n)
{
    must(json_array_append_new(list, json_pack("[I,I]", (json_int_t)n, (json_int_t)cs_padme(n))) == 0);
}

static json_t *padme(void)
{
    json_t *list = json_array();

    for (size_t n = 0; n <= 300; n++)
        pad(list, n);
    for (unsigned k = 9; k <= 25; k++)
        for (int off = -1; off <= 1; off++)
            pad(list, ((size_t)1 << k) + (size_t)(ptrdiff_t)off);
    return list;
}

json_t *cs_vectors_crypto(void)
{
    json_t *o = json_object();

    put(o, "labels", labels());
    put(o, "device", principal(CS_PRINCIPAL_DEVICE, 1, 32));
    put(o, "recovery", principal(CS_PRINCIPAL_PAPER, 2, 32));
    put(o, "invite", principal(CS_PRINCIPAL_INVITE, 3, 16));
    put(o, "epoch", epoch());
    put(o, "random", random_bytes());
    put(o, "sealed_box", sealed_box());
    put(o, "chain", chain());
    put(o, "chunk_boundaries", boundaries());
    put(o, "membership", membership());
    put(o, "code", code());
    put(o, "pairing", pairing());
    put(o, "phrase", phrase());
    put(o, "heads", heads());
    put(o, "refilled", refilled());
    put(o, "reconcile", reconcile());
    put(o, "snapshot", snapshot());
    put(o, "session", session());
    put(o, "files", keystores());
    put(o, "padme", padme());
    return o;
}

/* Delta sets */

static json_t *value(const struct cs_value *v)
{
    json_t *o = json_object();
    uint64_t bits;
    uint8_t p[8];

    switch (v->type) {
    case CS_NULL:
        put(o, "null", json_true());
        break;
    case CS_INTEGER:
        put_int(o, "integer", v->u.i);
        break;
    case CS_REAL:
        memcpy(&bits, &v->u.r, 8);
        cs_store_u64(p, bits);
        put_bytes(o, "real_bits", p, 8);
        break;
    case CS_TEXT:
        put_hex(o, "text", v->u.bytes);
        break;
    case CS_BLOB:
        put_hex(o, "blob", v->u.bytes);
        break;
    }
    return o;
}

static json_t *op(const struct cs_op *p)
{
    json_t *o = json_object(), *cells = json_array(), *over = json_array();

    put_int(o, "kind", p->kind);
    put_int(o, "table", p->table);
    put_int(o, "device", p->device);
    put_int(o, "stamp", p->stamp);
    put_hex(o, "key", p->key);
    for (size_t i = 0; i < p->ncells; i++) {
        json_t *c = value(&p->cells[i].value);

        put_int(c, "column", p->cells[i].col);
        must(json_array_append_new(cells, c) == 0);
    }
    put(o, "cells", cells);
    for (size_t i = 0; i < p->nover; i++)
        must(json_array_append_new(over, json_pack("{s:I,s:I,s:I}", "column", (json_int_t)p->over[i].col, "device",
                                                   (json_int_t)p->over[i].device, "stamp",
                                                   (json_int_t)p->over[i].stamp)) == 0);
    put(o, "over", over);
    return o;
}

static json_t *set(const struct cs_delta *d)
{
    json_t *o = json_object(), *devices = json_array(), *tables = json_array(), *ops = json_array();
    struct cs_buf bytes = { 0 };
    char hex[33];

    for (size_t i = 0; i < d->ndevices; i++) {
        cs_hex(hex, d->devices[i].b, 16);
        must(json_array_append_new(devices, json_string(hex)) == 0);
    }
    for (size_t i = 0; i < d->ntables; i++) {
        json_t *t = json_object(), *columns = json_array();

        put_hex(t, "name", d->tables[i].name);
        for (size_t c = 0; c < d->tables[i].ncolumns; c++)
            must(json_array_append_new(columns, json_stringn((const char *)d->tables[i].columns[c].data,
                                                             d->tables[i].columns[c].len)) == 0);
        put(t, "columns", columns);
        must(json_array_append_new(tables, t) == 0);
    }
    for (size_t i = 0; i < d->nops; i++)
        must(json_array_append_new(ops, op(&d->ops[i])) == 0);
    must(cs_delta_encode(&bytes, d, NULL) == CS_OK);
    put(o, "devices", devices);
    put(o, "tables", tables);
    put(o, "ops", ops);
    put_hex(o, "encoded", cs_buf_slice(&bytes));
    cs_buf_free(&bytes);
    return o;
}

/* Values at the edges of their encodings, and stamps that go up and down. */
static json_t *edges(struct cs_arena *a)
{
    static const double reals[] = { 0.0, -0.0, 1.5, -1e308, 5e-324, HUGE_VAL };
    static const int64_t integers[] = { 0, -1, 63, 64, -65, INT64_MIN };
    static const int64_t stamps[] = { INT64_MAX, 1, 1, 2, 130, INT64_MAX - 1 };
    static const uint8_t not_utf8[] = { 0xff, 0x00, 0xc3 };
    struct cs_delta d;

    sample_delta(&d, a, 6, 0);
    for (size_t i = 0; i < d.nops; i++) {
        struct cs_op *p = &d.ops[i];

        p->stamp = stamps[i];
        if (p->ncells == 0)
            continue;
        p->cells[0].value.u.i = integers[i];
        p->cells[1].value.u.bytes = cs_slice(not_utf8, i % 4);
        p->cells[2].value.u.r = reals[i];
        for (size_t k = 0; k < p->nover; k++)
            p->over[k].stamp = k == 0 ? INT64_MAX : 1;
    }
    for (size_t k = 0; k < d.ops[2].nover; k++)
        d.ops[2].over[k].stamp = 5;
    for (size_t k = 0; k < d.ops[5].nover; k++)
        d.ops[5].over[k].stamp = INT64_MAX;
    return set(&d);
}

json_t *cs_vectors_delta(void)
{
    struct cs_arena a = { 0 };
    struct cs_delta d;
    json_t *o = json_object();

    sample_delta(&d, &a, 0, 0);
    put(o, "empty", set(&d));
    sample_delta(&d, &a, 1, 5);
    put(o, "one insert", set(&d));
    sample_delta(&d, &a, 12, 150);
    put(o, "all kinds", set(&d));
    put(o, "edges", edges(&a));
    cs_arena_free(&a);
    return o;
}

/* ---- the audit log ---- */

static json_t *audit_row(const struct cs_sign_key *key, struct cs_audit_row *r, uint8_t hash[32])
{
    struct cs_buf bytes = { 0 };
    json_t *o = json_object();

    memcpy(r->prev_entry_hash, hash, 32);
    cs_hash_plain(r->payload, r->payload_hash);
    memcpy(r->signer_pub_key, key->pk, 32);
    must(cs_audit_row_bytes(&bytes, r, NULL) == CS_OK);
    cs_hash_label("audit row", cs_buf_slice(&bytes), hash);
    cs_sign_digest(key, hash, r->signature);
    put_int(o, "sequence", (int64_t)r->sequence);
    put_int(o, "occurred_at", r->occurred_at);
    put_int(o, "ops_count", (int64_t)r->ops_count);
    put_hex(o, "event_type", r->event_type);
    put_hex(o, "entity_type", r->entity_type);
    put_hex(o, "entity_ids", r->entity_ids);
    put_hex(o, "payload", r->payload);
    put_bytes(o, "payload_hash", r->payload_hash, 32);
    put_bytes(o, "prev_entry_hash", r->prev_entry_hash, 32);
    put_hex(o, "row", cs_buf_slice(&bytes));
    put_bytes(o, "hash", hash, 32);
    put_bytes(o, "signature", r->signature, CS_SIGNATURE_LEN);
    cs_buf_free(&bytes);
    return o;
}

json_t *cs_vectors_audit(void)
{
    static const uint8_t seed[32] = { 1, 2, 3 };
    struct cs_audit_owner owner = { workspace, device_a };
    struct cs_audit_row rows[] = {
        { .sequence = 1,
          .occurred_at = 1700000000000,
          .event_type = cs_slice_str("DEVICE_REGISTERED"),
          .entity_type = cs_slice_str("device"),
          .entity_ids = cs_slice_str("64657669-6365-2d61-2d6f-662d74686500"),
          .payload = cs_slice_str("{\"entry\":1}") },
        { .sequence = 2,
          .occurred_at = -1, /* a clock before 1970 */
          .ops_count = INT64_MAX,
          .event_type = cs_slice_str("PUSH"),
          .entity_type = cs_slice_str("batch"),
          .entity_ids = cs_slice_str("1-2"),
          .payload = cs_slice_str("{\"log_number\":2}") },
        { .sequence = 3,
          .event_type = cs_slice_str("\xc3\xa4"),
          .entity_type = cs_slice_str(""),
          .entity_ids = cs_slice_str(""),
          .payload = cs_slice_str("") },
    };
    json_t *o = json_object(), *list = json_array();
    struct cs_sign_key key;
    uint8_t hash[32];

    cs_sign_key_from_seed(&key, seed);
    cs_audit_start(&owner, hash);
    put_bytes(o, "workspace", workspace.b, 16);
    put_bytes(o, "device", device_a.b, 16);
    put_bytes(o, "seed", seed, 32);
    put_bytes(o, "signer_pub_key", key.pk, 32);
    put_bytes(o, "start", hash, 32);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rows[i].owner = owner;
        must(json_array_append_new(list, audit_row(&key, &rows[i], hash)) == 0);
    }
    put(o, "rows", list);
    return o;
}
