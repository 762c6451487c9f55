/* The membership log of a workspace: a hash chain of signed entries. One verification function serves hub and client;
 * types that it does not know are refused as from a newer version. Pure but for the builders' randomness; any thread,
 * one state per thread at a time. Times are Unix milliseconds of whoever wrote them. Bytes in docs/protocol.md. */
#ifndef CS_IDENTITY_MEMBERSHIP_H
#define CS_IDENTITY_MEMBERSHIP_H

#include "base/arena.h"
#include "crypto/keys.h"

enum { CS_ENTRY_PREFIX_LEN = 88, CS_ENTRY_MAX = 64 * 1024, CS_RECORD_LEN = 256, CS_WRAP_LEN = 80, CS_FLOOR_LEN = 48 };
enum cs_entry_type {
    CS_ENTRY_GENESIS = 1,
    CS_ENTRY_INVITE = 2,
    CS_ENTRY_ADD = 3,
    CS_ENTRY_REMOVE = 4,
    CS_ENTRY_ROTATE = 5,
    CS_ENTRY_RECOVERY = 6,
    CS_ENTRY_RENAME = 7,
    CS_ENTRY_REFILL = 8
};

/* Where the chain of a removed device ends: its last batch that counts. Papers and invites, and devices that never sent
 * anything, have number 0 and a zero hash. */
struct cs_cut {
    struct cs_uuid id;
    uint64_t number;
    uint8_t hash[32];
};

/* A verified position in the hub's log: the author's, in an invite, a recovery and a refill. */
struct cs_floor {
    uint64_t log_id, number;
    uint8_t log_hash[32];
};

struct cs_member {
    struct cs_uuid id;
    uint8_t kind; /* enum cs_principal */
    bool active;
    uint8_t sign_pk[32], box_pk[32];
    uint32_t added_seq;
    struct cs_uuid added_by;
    uint32_t ended_seq; /* the entry since which it is inactive: a removal, or an invite's use; 0 while active */
    bool removed;       /* by a removal of its own: `cut` tells up to where its batches count */
    struct cs_cut cut;
    int64_t expires_ms;  /* invites */
    uint32_t name_epoch; /* the encrypted name, 104 bytes: nonce 24 ‖ box */
    uint8_t name[104];
};

/* An epoch of the workspace's key. */
struct cs_epoch_mark {
    uint32_t seq; /* the entry that began it */
    uint8_t commitment[32];
    uint8_t history[48]; /* the previous epoch's key, boxed under this one's history key; epoch 1: zeros */
};

/* The fold over the entries so far. Zero-initialised: before genesis. */
struct cs_membership {
    struct cs_uuid workspace;
    uint32_t seq;              /* last entry; 0: none */
    uint8_t head[32];          /* its hash */
    uint8_t genesis[32];       /* hash of entry 1 */
    uint32_t epoch;            /* current */
    uint32_t epoch_seq;        /* entry that began it */
    uint8_t commitment[32];    /* of the current epoch key */
    struct cs_member *members; /* owned */
    size_t nmembers, cap;
    struct cs_epoch_mark *epochs; /* owned; `epoch` many, the first is epoch 1 */
    size_t epochs_cap;
    uint64_t refills;       /* how often a device has given the hub a new log; 0: it has its first one */
    uint32_t refill_seq;    /* the newest of those entries */
    struct cs_floor refill; /* the log in force since then, and up to where its author had filled it */
};
void cs_membership_free(struct cs_membership *m);
const struct cs_member *cs_membership_find(const struct cs_membership *m, const struct cs_uuid *id);
/* How many devices are members. */
size_t cs_membership_devices(const struct cs_membership *m);
/* Was this device an active kind-1 member when entry seq was the head? */
bool cs_membership_was_member(const struct cs_membership *m, const struct cs_uuid *id, uint32_t seq);
/* The epoch in force when entry seq was the head; 0: there is no such entry. */
uint32_t cs_membership_epoch_at(const struct cs_membership *m, uint32_t seq);
/* Commitment and beginning of an epoch, borrowed until the next apply; NULL: there is none. */
const struct cs_epoch_mark *cs_membership_epoch(const struct cs_membership *m, uint32_t epoch);
/* Does a removal put this batch of `id` outside of what counts: behind the cut, or at it with another hash? False for
 * whoever was not removed, and for strangers. */
bool cs_membership_past_cut(const struct cs_membership *m, const struct cs_uuid *id, uint64_t number,
                            const uint8_t hash[32]);

/* Has this principal been given the key of the epoch in force? Everyone active has; of the others those who ended in
 * the course of it. */
bool cs_member_has_current_key(const struct cs_membership *m, const struct cs_member *d);
/* What is to be done so that no invite opens what is written from now on. An invite holds the key of the epoch in force
 * until the next one begins, although it was used, or ran out before now_ms (its writer's clock said until when). Some
 * device has to write that entry: ROTATE, or where expired invites are open still, REMOVE of all of them. *why: NULL,
 * or gets the first invite concerned, borrowed until the next apply. */
enum cs_duty { CS_DUTY_NONE, CS_DUTY_ROTATE, CS_DUTY_REMOVE };
bool cs_invite_expired(const struct cs_member *d, int64_t now_ms); /* an open invite that ran out */
enum cs_duty cs_membership_duty(const struct cs_membership *m, int64_t now_ms, const struct cs_member **why);

/* Entry hash: H("member entry", prefix ‖ body). False: too short to be one. */
bool cs_entry_hash(struct cs_slice entry, uint8_t out[32]);
uint32_t cs_entry_seq(struct cs_slice entry); /* 0: not an entry */

/* How far beyond an invite's end the hub's time may be when its add arrives: nodes of one hub need not agree on time.
 */
enum { CS_INVITE_SLACK_MS = 5 * 60 * 1000 };

/* Checks the next entry against the state and, when it is right, folds it in; on failure nothing changed.
 * hub_time_ms: the newest time known from the hub before this entry, for the expiry of invites (the hub: its own clock
 * plus CS_INVITE_SLACK_MS, for it grants no slack); 0: none, as when entries are read back that were accepted before.
 * A non-zero workspace in a fresh state is the one that genesis must name.
 * CS_OK, CS_EAUTH (wrong author, signature, possession: forged), CS_EABORTED (seq or prev is not the next one),
 * CS_ECORRUPT (sizes, zeros, rules), CS_EVERSION (a type that is not known here), CS_ELIMIT (caps), CS_ENOMEM. */
int cs_membership_apply(struct cs_membership *m, struct cs_slice entry, int64_t hub_time_ms, struct cs_error *err);
/* The same checks alone. */
int cs_membership_check(const struct cs_membership *m, struct cs_slice entry, int64_t hub_time_ms,
                        struct cs_error *err);

/* Builders: the entry's bytes are appended to out, and nothing on failure. name: UTF-8, at most 63 bytes. An entry that
 * cs_membership_apply would refuse is not built: CS_EAUTH, CS_ELIMIT, CS_ECORRUPT as there; CS_EINVAL: a bad name. */
int cs_entry_genesis(struct cs_buf *out, const struct cs_rng *r, const struct cs_uuid *workspace,
                     const struct cs_uuid *id, const struct cs_device_keys *keys, const char *name,
                     const struct cs_epoch_keys *epoch1, int64_t now_ms, struct cs_error *err);
int cs_entry_invite(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                    const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                    const struct cs_device_keys *invite, const char *name, const struct cs_epoch_keys *epoch,
                    const struct cs_floor *floor, int64_t expires_ms, const uint8_t hub_key[32], int64_t now_ms,
                    struct cs_error *err);
/* recovery: by a device, of a paper whose keys come of the secret in its phrase (phrase.h). */
int cs_entry_recovery(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                      const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                      const struct cs_device_keys *paper, const char *name, const struct cs_epoch_keys *epoch,
                      const struct cs_floor *floor, int64_t now_ms, struct cs_error *err);
/* author: a device, a paper or an open invite (of the latter two the id is in their keys). */
int cs_entry_add(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                 const struct cs_uuid *author, const struct cs_device_keys *author_keys, const struct cs_uuid *id,
                 const struct cs_device_keys *keys, const char *name, const struct cs_epoch_keys *epoch, int64_t now_ms,
                 struct cs_error *err);
/* A device that asks to be let in, by its own word: it holds the signing key, and wants to be this one. */
struct cs_candidate {
    struct cs_uuid id;
    uint8_t sign_pk[32], box_pk[32];
    uint8_t possession[CS_SIGNATURE_LEN];
};
void cs_candidate_make(struct cs_candidate *out, const struct cs_uuid *workspace, const struct cs_uuid *id,
                       const struct cs_device_keys *keys);
bool cs_candidate_verify(const struct cs_candidate *c, const struct cs_uuid *workspace);
/* The add of such a device, whose secrets are its own: as cs_entry_add. */
int cs_entry_admit(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                   const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                   const struct cs_candidate *candidate, const char *name, const struct cs_epoch_keys *epoch,
                   int64_t now_ms, struct cs_error *err);
/* rename: any active principal, by a device. epoch: of the name's new box, usually the one in force. */
int cs_entry_rename(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                    const struct cs_uuid *author, const struct cs_device_keys *author_keys, const struct cs_uuid *id,
                    const char *name, const struct cs_epoch_keys *epoch, int64_t now_ms, struct cs_error *err);
/* Both make the next epoch's key, which goes into this one entry and no other, and give it in *next (cs_secret_alloc
 * memory; zero on failure): an attempt that lost its race is built anew, with another key. current: the keys of the
 * epoch in force, else CS_EINVAL.
 * rotate: by a device. */
int cs_entry_rotate(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                    const struct cs_uuid *author, const struct cs_device_keys *author_keys,
                    const struct cs_epoch_keys *current, struct cs_epoch_keys *next, int64_t now_ms,
                    struct cs_error *err);
/* remove: by a device or a paper, never of itself, and one device has to stay. cuts: whom, in any order, and where
 * their chains end. Open invites of removed devices go with them. */
int cs_entry_remove(struct cs_buf *out, const struct cs_rng *r, const struct cs_membership *m,
                    const struct cs_uuid *author, const struct cs_device_keys *author_keys, const struct cs_cut *cuts,
                    size_t ncuts, const struct cs_epoch_keys *current, struct cs_epoch_keys *next, int64_t now_ms,
                    struct cs_error *err);

/* refill: by a device. It has given the hub a new log, `to`, that has all up to to->number that it knew: from the log
 * that it followed before, at `from`, the batches of each device up to the one in `heads` (ids ascending). As many
 * heads as there is room for; who is not among them is taken to have sent nothing. */
int cs_entry_refill(struct cs_buf *out, const struct cs_membership *m, const struct cs_uuid *author,
                    const struct cs_device_keys *author_keys, const struct cs_floor *from, const struct cs_floor *to,
                    const struct cs_cut *heads, size_t nheads, int64_t now_ms, struct cs_error *err);
/* The log that a refill names, and up to where it was filled, unchecked; false: it is none. */
bool cs_entry_refilled(struct cs_slice entry, struct cs_floor *to);
/* The i-th head of a refill, from 0; false: there are no more, or it is no refill. */
bool cs_entry_head(struct cs_slice entry, size_t i, struct cs_cut *out);

/* What an invite entry tells whoever holds its secret. */
struct cs_invite_info {
    struct cs_uuid id;
    struct cs_floor floor;
    int64_t expires_ms;
    uint8_t hub_key[32];
    uint32_t epoch;
    uint8_t wrap[CS_WRAP_LEN];
};
/* Parses and checks the vouch under the secret's keys: CS_EAUTH when it was not made by the inviter. */
int cs_invite_open(struct cs_invite_info *out, struct cs_slice entry, const struct cs_device_keys *invite,
                   struct cs_error *err);
/* What a recovery entry tells whoever holds its phrase; the newest wrap may be in a later entry. */
struct cs_recovery_info {
    struct cs_uuid id;
    struct cs_floor floor;
    uint32_t epoch;
    uint8_t wrap[CS_WRAP_LEN];
};
/* CS_EAUTH: the entry is another phrase's, or was not made by whoever made the phrase. */
int cs_recovery_open(struct cs_recovery_info *out, struct cs_slice entry, const struct cs_device_keys *paper,
                     struct cs_error *err);
/* The floor of an invite or recovery entry, unchecked; false: it is neither. */
bool cs_entry_floor(struct cs_slice entry, struct cs_floor *out);
bool cs_entry_author(struct cs_slice entry, struct cs_uuid *out);
int64_t cs_entry_time(struct cs_slice entry); /* its author's clock; 0: not an entry */
/* The i-th cut of a removal, from 0; false: there are no more, or it is no removal. */
bool cs_entry_cut(struct cs_slice entry, size_t i, struct cs_cut *out);
/* The wrap of an epoch key for `id` in an entry of any type, or CS_ENOTFOUND. */
int cs_entry_wrap(struct cs_slice entry, const struct cs_uuid *id, uint32_t *epoch, uint8_t wrap[CS_WRAP_LEN]);
/* Opens a wrap and checks the key against the commitment of that epoch: CS_EAUTH if it is another key. */
int cs_wrap_open(uint8_t key[32], const uint8_t wrap[CS_WRAP_LEN], const struct cs_device_keys *keys,
                 const struct cs_uuid *workspace, uint32_t epoch, const uint8_t commitment[32], struct cs_error *err);
/* The key of the epoch before `newer`, out of the state, derived into *older (cs_secret_alloc memory; untouched on
 * failure). CS_ENOTFOUND: newer is epoch 1 or not of this log. CS_EAUTH: whoever began that epoch boxed another key. */
int cs_epoch_older(struct cs_epoch_keys *older, const struct cs_membership *m, const struct cs_epoch_keys *newer,
                   struct cs_error *err);
/* A member's name, NUL-terminated, under the one of the n epoch keys at hand that it was boxed under; false, and empty:
 * that key is not among them, or the name is damaged. */
bool cs_member_name(const struct cs_member *m, const struct cs_epoch_keys *keys, size_t n, char out[64]);

#endif
