#include "crypto/keystore.h"

#include <sodium.h>
#include <stdlib.h>

#include "crypto/keystore_format.h"

enum {
    VERSION = 1,
    AT_KDF = 5,
    AT_ZERO = 6,
    AT_OPSLIMIT = 8,
    AT_MEMLIMIT = 12,
    AT_SALT = 16,
    AT_NONCE = 32,
    OPSLIMIT_MIN = 1,
    OPSLIMIT_MAX = 10,
    MEMLIMIT_MIN = 8 * 1024,
    MEMLIMIT_MAX = 1024 * 1024, /* KiB */
    KEYSTORE_FIXED = 16 + 16 + 32 + 2 + 32 + 32 + 32 + 4 + 32 + 8 + 8 + 32 + 8 + 32 + 8 + 32 + 2,
    EXPORT_FIXED = 16 + 32 + 32 + 4 + 32 + 2 + 2,
    EPOCH_LEN = 4 + 32
};
_Static_assert(AT_NONCE + CS_NONCE_LEN == CS_ENVELOPE_HEAD, "the nonce ends the head");
_Static_assert(KEYSTORE_FIXED + 65535 * (8 + EPOCH_LEN) + CS_ENVELOPE_HEAD + 16 <= CS_ENVELOPE_MAX, "all fits");

static void wipe_buf(struct cs_buf *b)
{
    cs_wipe(b->data, b->cap);
    cs_buf_free(b);
}

/* Envelope */

/* The box's key: H("file key", head ‖ secret), where the secret is Argon2id's answer, or zeros without a passphrase. */
static int file_key(uint8_t key[32], const uint8_t head[CS_ENVELOPE_HEAD], const char *passphrase, struct cs_error *err)
{
    uint8_t m[CS_ENVELOPE_HEAD + 32] = { 0 };
    size_t memory = (size_t)cs_load_u32(head + AT_MEMLIMIT) * 1024;

    memcpy(m, head, CS_ENVELOPE_HEAD);
    if (head[AT_KDF] == CS_KDF_ARGON2ID13 && passphrase == NULL)
        return cs_fail(err, CS_EAUTH, "the file is protected by a passphrase, and none was given");
    if (head[AT_KDF] == CS_KDF_ARGON2ID13 &&
        crypto_pwhash(m + CS_ENVELOPE_HEAD, 32, passphrase, strlen(passphrase), head + AT_SALT,
                      cs_load_u32(head + AT_OPSLIMIT), memory, crypto_pwhash_ALG_ARGON2ID13) != 0)
        return cs_fail(err, CS_ENOMEM, "cannot derive a key from the passphrase: %zu MiB of memory are needed",
                       memory / 1024 / 1024);
    cs_hash_label("file key", cs_slice(m, sizeof m), key);
    cs_wipe(m, sizeof m);
    return CS_OK;
}

int cs_envelope_seal(struct cs_buf *out, const char magic[4], const char *passphrase, struct cs_kdf_cost cost,
                     struct cs_slice body, const struct cs_rng *r, struct cs_error *err)
{
    uint8_t head[CS_ENVELOPE_HEAD] = { 0 }, key[32], *box;
    int rc;

    if (passphrase != NULL && *passphrase == '\0')
        return cs_fail(err, CS_EINVAL, "an empty passphrase protects nothing; the keys were not written");
    memcpy(head, magic, 4);
    head[4] = VERSION;
    if (passphrase != NULL) {
        head[AT_KDF] = CS_KDF_ARGON2ID13;
        cs_store_u32(head + AT_OPSLIMIT, cost.opslimit);
        cs_store_u32(head + AT_MEMLIMIT, cost.memlimit_kib);
        cs_random(r, head + AT_SALT, 16);
    }
    cs_random(r, head + AT_NONCE, CS_NONCE_LEN);
    if ((rc = file_key(key, head, passphrase, err)) < 0)
        return rc;
    cs_buf_put(out, head, sizeof head);
    if ((box = cs_buf_grow(out, body.len + CS_BOX_OVERHEAD)) != NULL)
        cs_box(key, head + AT_NONCE, body, box);
    cs_wipe(key, sizeof key);
    return out->failed ? cs_fail(err, CS_ENOMEM, "out of memory; the keys were not written") : CS_OK;
}

static int check_head(const char magic[4], struct cs_slice file, const char *passphrase, struct cs_error *err)
{
    const uint8_t *h = file.data;
    uint32_t t, m;

    if (file.len < CS_ENVELOPE_HEAD + CS_BOX_OVERHEAD || memcmp(h, magic, 3) != 0)
        return cs_fail(err, CS_ECORRUPT, "not a key file of claw-sync, or a truncated one");
    if (h[3] > (uint8_t)magic[3] || (h[3] == (uint8_t)magic[3] && h[4] > VERSION))
        return cs_fail(err, CS_EVERSION, "key file of a newer version; update claw-sync to read it");
    if (h[3] != (uint8_t)magic[3] || h[4] != VERSION || h[AT_KDF] > CS_KDF_ARGON2ID13 || h[AT_ZERO] != 0 ||
        h[AT_ZERO + 1] != 0)
        return cs_fail(err, CS_ECORRUPT, "key file with a damaged start");
    t = cs_load_u32(h + AT_OPSLIMIT);
    m = cs_load_u32(h + AT_MEMLIMIT);
    if (h[AT_KDF] == CS_KDF_NONE)
        return t == 0 && m == 0 ? CS_OK : cs_fail(err, CS_ECORRUPT, "key file with a damaged start");
    if (t < OPSLIMIT_MIN || t > OPSLIMIT_MAX || m < MEMLIMIT_MIN || m > MEMLIMIT_MAX)
        return cs_fail(err, CS_ECORRUPT, "key file that asks for %u passes over %u KiB of memory, which is refused", t,
                       m);
    if (passphrase == NULL || *passphrase == '\0')
        return cs_fail(err, CS_EAUTH, "the key file is protected by a passphrase, and none was given");
    return CS_OK;
}

int cs_envelope_open(struct cs_buf *out, const char magic[4], const char *passphrase, struct cs_slice file,
                     struct cs_error *err)
{
    struct cs_slice boxed;
    uint8_t key[32], *at;
    int rc;

    if ((rc = check_head(magic, file, passphrase, err)) < 0)
        return rc;
    if ((rc = file_key(key, file.data, passphrase, err)) < 0)
        return rc;
    boxed = cs_slice(file.data + CS_ENVELOPE_HEAD, file.len - CS_ENVELOPE_HEAD);
    if ((at = cs_buf_grow(out, boxed.len)) == NULL)
        rc = cs_fail(err, CS_ENOMEM, "out of memory; the keys were not read");
    else if (!cs_box_open(key, file.data + AT_NONCE, boxed, at))
        rc = cs_fail(err, CS_EAUTH,
                     file.data[AT_KDF] == CS_KDF_NONE ? "the key file is damaged"
                                                      : "wrong passphrase, or the key file is damaged");
    if (at != NULL)
        out->len -= rc == CS_OK ? CS_BOX_OVERHEAD : boxed.len;
    cs_wipe(key, sizeof key);
    return rc;
}

/* Epoch keys */

/* Appends one to an array in guarded memory, which cannot grow in place. */
static int epochs_add(struct cs_epoch_keys **epochs, uint16_t *n, const struct cs_uuid *workspace, uint32_t epoch,
                      const uint8_t key[32], struct cs_error *err)
{
    struct cs_epoch_keys *more;

    if (epoch == 0 || *n == UINT16_MAX || (*n > 0 && epoch != (*epochs)[*n - 1].epoch + 1))
        return cs_fail(err, CS_EINVAL, "epoch %u does not follow the epoch keys at hand; it was not added", epoch);
    if ((more = cs_secret_alloc((*n + 1u) * sizeof *more)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the key of epoch %u was not added", epoch);
    if (*n > 0)
        memcpy(more, *epochs, *n * sizeof *more);
    cs_epoch_keys_derive(&more[*n], key, workspace, epoch);
    cs_secret_free(*epochs);
    *epochs = more;
    ++*n;
    return CS_OK;
}

static void epochs_put(struct cs_buf *out, const struct cs_epoch_keys *epochs, uint16_t n)
{
    cs_buf_put_u16(out, n);
    for (size_t i = 0; i < n; i++) {
        cs_buf_put_u32(out, epochs[i].epoch);
        cs_buf_put(out, epochs[i].key, 32);
    }
}

/* count u16 ‖ count × (epoch u32 ‖ key 32), without gaps. */
static int epochs_read(struct cs_epoch_keys **out, uint16_t *nout, const struct cs_uuid *workspace, struct cs_reader *r,
                       struct cs_error *err)
{
    uint16_t n = cs_read_u16(r);
    struct cs_epoch_keys *keys;

    *out = NULL;
    *nout = 0;
    if (r->bad || cs_reader_left(r) < (size_t)n * EPOCH_LEN)
        return cs_fail(err, CS_ECORRUPT, "key file that ends in the middle of its epoch keys");
    if (n == 0)
        return CS_OK;
    if ((keys = cs_secret_alloc(n * sizeof *keys)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the keys were not read");
    for (size_t i = 0; i < n; i++) {
        uint32_t epoch = cs_read_u32(r);

        cs_epoch_keys_derive(&keys[i], cs_read_bytes(r, 32).data, workspace, epoch);
        if (epoch == 0 || (i > 0 && epoch - 1 != keys[i - 1].epoch)) {
            cs_secret_free(keys);
            return cs_fail(err, CS_ECORRUPT, "key file with a gap in its epoch keys");
        }
    }
    *out = keys;
    *nout = n;
    return CS_OK;
}

/* Keystore */

struct cs_keystore *cs_keystore_new(void)
{
    struct cs_keystore *k = cs_secret_alloc(sizeof *k);

    if (k != NULL)
        memset(k, 0, sizeof *k);
    return k;
}

void cs_keystore_free(struct cs_keystore *k)
{
    if (k == NULL)
        return;
    free(k->incarnations);
    cs_secret_free(k->epochs);
    cs_secret_free(k);
}

const struct cs_epoch_keys *cs_keystore_epoch(const struct cs_keystore *k, uint32_t epoch)
{
    if (k->nepochs == 0 || epoch < k->epochs[0].epoch || epoch - k->epochs[0].epoch >= k->nepochs)
        return NULL;
    return &k->epochs[epoch - k->epochs[0].epoch];
}

int cs_keystore_add_epoch(struct cs_keystore *k, uint32_t epoch, const uint8_t key[32], struct cs_error *err)
{
    const struct cs_epoch_keys *have = cs_keystore_epoch(k, epoch);

    if (have != NULL)
        return cs_secret_eq(have->key, key, 32)
                   ? CS_OK
                   : cs_fail(err, CS_EEXIST, "another key of epoch %u is here already; it was kept", epoch);
    return epochs_add(&k->epochs, &k->nepochs, &k->workspace, epoch, key, err);
}

int cs_keystore_body(struct cs_buf *out, const struct cs_keystore *k, struct cs_error *err)
{
    size_t len = KEYSTORE_FIXED + k->nincarnations * (size_t)8 + k->nepochs * (size_t)EPOCH_LEN;

    if (!cs_buf_reserve(out, len))
        return cs_fail(err, CS_ENOMEM, "out of memory; the keystore was not written");
    cs_buf_put(out, k->workspace.b, 16);
    cs_buf_put(out, k->device.b, 16);
    cs_buf_put(out, k->device_secret, 32);
    cs_buf_put_u16(out, k->nincarnations);
    for (size_t i = 0; i < k->nincarnations; i++)
        cs_buf_put_u64(out, k->incarnations[i]);
    cs_buf_put(out, k->place, 32);
    cs_buf_put(out, k->hub_key, 32);
    cs_buf_put(out, k->genesis, 32);
    cs_buf_put_u32(out, k->member_seq);
    cs_buf_put(out, k->entry_hash, 32);
    cs_buf_put_u64(out, k->log_id);
    cs_buf_put_u64(out, k->log_number);
    cs_buf_put(out, k->log_hash, 32);
    cs_buf_put_u64(out, k->own_number);
    cs_buf_put(out, k->own_hash, 32);
    cs_buf_put_u64(out, k->audit_seq);
    cs_buf_put(out, k->audit_head, 32);
    epochs_put(out, k->epochs, k->nepochs);
    return CS_OK;
}

static int read_incarnations(struct cs_keystore *k, struct cs_reader *r, struct cs_error *err)
{
    uint16_t n = cs_read_u16(r);

    if (r->bad || cs_reader_left(r) < (size_t)n * 8)
        return cs_fail(err, CS_ECORRUPT, "keystore that ends in the middle of its incarnations");
    if (n == 0)
        return CS_OK;
    if ((k->incarnations = malloc(n * sizeof *k->incarnations)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the keystore was not read");
    for (size_t i = 0; i < n; i++)
        k->incarnations[i] = cs_read_u64(r);
    k->nincarnations = n;
    return CS_OK;
}

int cs_keystore_parse(struct cs_keystore **out, struct cs_slice body, struct cs_error *err)
{
    struct cs_keystore *k = cs_keystore_new();
    struct cs_reader r = cs_reader(body);
    int rc;

    *out = NULL;
    if (k == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory; the keystore was not read");
    cs_read_into(&r, k->workspace.b, 16);
    cs_read_into(&r, k->device.b, 16);
    cs_read_into(&r, k->device_secret, 32);
    if ((rc = read_incarnations(k, &r, err)) < 0)
        goto out;
    cs_read_into(&r, k->place, 32);
    cs_read_into(&r, k->hub_key, 32);
    cs_read_into(&r, k->genesis, 32);
    k->member_seq = cs_read_u32(&r);
    cs_read_into(&r, k->entry_hash, 32);
    k->log_id = cs_read_u64(&r);
    k->log_number = cs_read_u64(&r);
    cs_read_into(&r, k->log_hash, 32);
    k->own_number = cs_read_u64(&r);
    cs_read_into(&r, k->own_hash, 32);
    k->audit_seq = cs_read_u64(&r);
    cs_read_into(&r, k->audit_head, 32);
    if ((rc = epochs_read(&k->epochs, &k->nepochs, &k->workspace, &r, err)) < 0)
        goto out;
    if (!cs_reader_done(&r)) {
        rc = cs_fail(err, CS_ECORRUPT, "keystore of a wrong length");
        goto out;
    }
    *out = k;
    k = NULL;
out:
    cs_keystore_free(k);
    return rc;
}

int cs_keystore_save(const struct cs_keystore *k, struct cs_world *w, const struct cs_rng *r, const char *path,
                     const char *passphrase, struct cs_error *err)
{
    struct cs_buf body = { 0 }, file = { 0 };
    int rc = cs_keystore_body(&body, k, err);

    if (rc == CS_OK)
        rc = cs_envelope_seal(&file, "CSK1", passphrase, CS_KDF_KEYSTORE, cs_buf_slice(&body), r, err);
    if (rc == CS_OK)
        rc = w->files.ops->write_atomic(w->files.self, path, cs_buf_slice(&file), 0600, err);
    wipe_buf(&body);
    cs_buf_free(&file);
    return rc;
}

/* Reads a file and opens its envelope into `body`, which the caller wipes. */
static int read_body(struct cs_buf *body, struct cs_world *w, const char *path, const char magic[4],
                     const char *passphrase, struct cs_error *err)
{
    struct cs_buf file = { 0 };
    int rc = w->files.ops->read(w->files.self, path, CS_ENVELOPE_MAX, &file, err);

    if (rc == CS_OK && (rc = cs_envelope_open(body, magic, passphrase, cs_buf_slice(&file), err)) < 0)
        cs_fail_context(err, "cannot open \"%s\"", path);
    cs_buf_free(&file);
    return rc;
}

bool cs_keystore_is_protected(struct cs_world *w, const char *path)
{
    struct cs_buf file = { 0 };
    bool is = w->files.ops->read(w->files.self, path, CS_ENVELOPE_MAX, &file, NULL) == CS_OK &&
              file.len >= CS_ENVELOPE_HEAD && memcmp(file.data, "CSK1", 4) == 0 &&
              file.data[AT_KDF] == CS_KDF_ARGON2ID13;

    wipe_buf(&file);
    return is;
}

int cs_keystore_load(struct cs_keystore **out, struct cs_world *w, const char *path, const char *passphrase,
                     struct cs_error *err)
{
    struct cs_buf body = { 0 };
    int rc = read_body(&body, w, path, "CSK1", passphrase, err);

    *out = NULL;
    if (rc == CS_OK && (rc = cs_keystore_parse(out, cs_buf_slice(&body), err)) < 0)
        cs_fail_context(err, "cannot open \"%s\"", path);
    wipe_buf(&body);
    return rc;
}

/* Export */

void cs_key_export_free(struct cs_key_export *x)
{
    cs_secret_free(x->epochs);
    wipe_buf(&x->invite);
    *x = (struct cs_key_export){ 0 };
}

int cs_key_export_body(struct cs_buf *out, const struct cs_key_export *x, struct cs_error *err)
{
    if (x->invite.failed || x->invite.len > UINT16_MAX)
        return cs_fail(err, CS_EINVAL, "invite code too long to export; nothing was written");
    if (!cs_buf_reserve(out, EXPORT_FIXED + x->nepochs * (size_t)EPOCH_LEN + x->invite.len))
        return cs_fail(err, CS_ENOMEM, "out of memory; the export was not written");
    cs_buf_put(out, x->workspace.b, 16);
    cs_buf_put(out, x->genesis, 32);
    cs_buf_put(out, x->hub_key, 32);
    cs_buf_put_u32(out, x->member_seq);
    cs_buf_put(out, x->entry_hash, 32);
    epochs_put(out, x->epochs, x->nepochs);
    cs_buf_put_u16(out, (uint16_t)x->invite.len);
    cs_buf_put_slice(out, cs_buf_slice(&x->invite));
    return CS_OK;
}

int cs_key_export_parse(struct cs_key_export *out, struct cs_slice body, struct cs_error *err)
{
    struct cs_key_export x = { 0 };
    struct cs_reader r = cs_reader(body);
    int rc;

    *out = x;
    cs_read_into(&r, x.workspace.b, 16);
    cs_read_into(&r, x.genesis, 32);
    cs_read_into(&r, x.hub_key, 32);
    x.member_seq = cs_read_u32(&r);
    cs_read_into(&r, x.entry_hash, 32);
    if ((rc = epochs_read(&x.epochs, &x.nepochs, &x.workspace, &r, err)) == CS_OK)
        cs_buf_put_slice(&x.invite, cs_read_bytes(&r, cs_read_u16(&r)));
    if (rc == CS_OK && !cs_reader_done(&r))
        rc = cs_fail(err, CS_ECORRUPT, "key export of a wrong length");
    if (rc == CS_OK && x.invite.failed)
        rc = cs_fail(err, CS_ENOMEM, "out of memory; the export was not read");
    if (rc < 0) {
        cs_key_export_free(&x);
        return rc;
    }
    *out = x;
    return CS_OK;
}

int cs_key_export_write(const struct cs_key_export *x, struct cs_world *w, const struct cs_rng *r, const char *path,
                        const char *passphrase, struct cs_error *err)
{
    struct cs_buf body = { 0 }, file = { 0 };
    int rc;

    if (passphrase == NULL || *passphrase == '\0')
        return cs_fail(err, CS_EINVAL, "an export needs a passphrase; nothing was written");
    if ((rc = cs_key_export_body(&body, x, err)) == CS_OK)
        rc = cs_envelope_seal(&file, "CSX1", passphrase, CS_KDF_EXPORT, cs_buf_slice(&body), r, err);
    if (rc == CS_OK)
        rc = w->files.ops->write_new(w->files.self, path, cs_buf_slice(&file), 0600, err);
    wipe_buf(&body);
    cs_buf_free(&file);
    return rc;
}

int cs_key_export_read(struct cs_key_export *out, struct cs_world *w, const char *path, const char *passphrase,
                       struct cs_error *err)
{
    struct cs_buf body = { 0 };
    int rc = read_body(&body, w, path, "CSX1", passphrase, err);

    *out = (struct cs_key_export){ 0 };
    if (rc == CS_OK && (rc = cs_key_export_parse(out, cs_buf_slice(&body), err)) < 0)
        cs_fail_context(err, "cannot open \"%s\"", path);
    wipe_buf(&body);
    return rc;
}
