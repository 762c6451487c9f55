#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <unistd.h>

#include "crypto/keystore_format.h"
#include "unit/crypto/fixed_world.h"

static const struct cs_kdf_cost least = { 1, 8 * 1024 };

static struct cs_keystore *sample(void)
{
    struct cs_keystore *k = cs_keystore_new();
    uint8_t key[32];

    assert_non_null(k);
    memset(k->workspace.b, 1, 16);
    memset(k->device.b, 2, 16);
    memset(k->device_secret, 3, 32);
    k->incarnations = calloc(2, sizeof *k->incarnations);
    assert_non_null(k->incarnations);
    k->incarnations[0] = 77;
    k->incarnations[1] = UINT64_MAX;
    k->nincarnations = 2;
    memset(k->genesis, 4, 32);
    k->member_seq = 5;
    k->log_id = 6;
    k->log_number = 7;
    k->own_number = 8;
    k->audit_seq = 9;
    for (uint32_t epoch = 1; epoch <= 3; epoch++) {
        memset(key, (int)epoch, sizeof key);
        assert_int_equal(cs_keystore_add_epoch(k, epoch, key, NULL), CS_OK);
    }
    return k;
}

static void assert_same(const struct cs_keystore *a, const struct cs_keystore *b)
{
    struct cs_buf x = { 0 }, y = { 0 };

    assert_int_equal(cs_keystore_body(&x, a, NULL), CS_OK);
    assert_int_equal(cs_keystore_body(&y, b, NULL), CS_OK);
    assert_true(cs_slice_eq(cs_buf_slice(&x), cs_buf_slice(&y)));
    assert_int_equal(a->nepochs, b->nepochs);
    assert_memory_equal(a->epochs[2].commitment, b->epochs[2].commitment, 32);
    cs_buf_free(&x);
    cs_buf_free(&y);
}

static void saves_and_loads(void **state)
{
    struct cs_keystore *k = sample(), *back;
    struct fixed_world f;
    struct cs_error err;

    (void)state;
    fixed_world_init(&f);
    assert_int_equal(cs_keystore_load(&back, &f.world, "keys", NULL, &err), CS_ENOTFOUND);
    assert_int_equal(cs_keystore_save(k, &f.world, &f.rng, "keys", NULL, &err), CS_OK);
    assert_int_equal(f.files[0].mode, 0600);
    assert_int_equal(cs_keystore_load(&back, &f.world, "keys", NULL, &err), CS_OK);
    assert_same(k, back);
    cs_keystore_free(back);
    assert_int_equal(cs_keystore_save(k, &f.world, &f.rng, "locked", "correct horse", &err), CS_OK);
    assert_int_equal(cs_keystore_load(&back, &f.world, "locked", "correct horse", &err), CS_OK);
    assert_same(k, back);
    cs_keystore_free(back);
    assert_int_equal(cs_keystore_load(&back, &f.world, "locked", "correct house", &err), CS_EAUTH);
    assert_null(back);
    assert_int_equal(cs_keystore_load(&back, &f.world, "locked", NULL, &err), CS_EAUTH);
    assert_int_equal(cs_keystore_save(k, &f.world, &f.rng, "keys", "", &err), CS_EINVAL);
    cs_keystore_free(k);
    cs_keystore_free(NULL);
    fixed_world_fini(&f);
}

/* On a real disk: what others may read decides what a keystore without a passphrase is worth. */
static void a_file_is_for_its_owner_only(void **state)
{
    struct cs_keystore *k = sample(), *back;
    struct cs_world *w = cs_world_real();
    struct cs_rng rng = { .world = w };
    char dir[] = "/tmp/keystore_test_XXXXXX", path[64];
    struct cs_file_info info;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/keys", dir);
    assert_int_equal(cs_keystore_save(k, w, &rng, path, NULL, NULL), CS_OK);
    assert_int_equal(cs_keystore_save(k, w, &rng, path, NULL, NULL), CS_OK); /* over the old one */
    assert_int_equal(w->files.ops->stat(w->files.self, path, &info, NULL), CS_OK);
    assert_int_equal(info.mode & 0777, 0600);
    assert_int_equal(cs_keystore_load(&back, w, path, NULL, NULL), CS_OK);
    assert_same(k, back);
    cs_keystore_free(back);
    cs_keystore_free(k);
    assert_int_equal(w->files.ops->remove(w->files.self, path, NULL), CS_OK);
    assert_int_equal(rmdir(dir), 0);
}

/* Every bit, every length: refused, and never by anything but its own code. */
static void damage_is_noticed(void **state)
{
    struct cs_keystore *k = sample(), *back;
    struct fixed_world f;
    struct cs_buf *file;
    size_t len;

    (void)state;
    fixed_world_init(&f);
    assert_int_equal(cs_keystore_save(k, &f.world, &f.rng, "keys", NULL, NULL), CS_OK);
    file = &f.files[0].data;
    for (size_t bit = 0; bit < file->len * 8; bit++) {
        int rc;

        if (bit / 8 == 5 && bit % 8 == 0)
            continue; /* kdf 1 with no cost: below */
        file->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        rc = cs_keystore_load(&back, &f.world, "keys", NULL, NULL);
        assert_true(rc == CS_EAUTH || rc == CS_ECORRUPT || (rc == CS_EVERSION && (bit / 8 == 3 || bit / 8 == 4)));
        assert_null(back);
        file->data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    len = file->len;
    for (size_t n = 0; n < len; n++) {
        int rc;

        file->len = n;
        rc = cs_keystore_load(&back, &f.world, "keys", NULL, NULL);
        assert_true(rc == CS_EAUTH || rc == CS_ECORRUPT);
    }
    file->len = len;
    cs_buf_put_u8(file, 0);
    assert_int_equal(cs_keystore_load(&back, &f.world, "keys", NULL, NULL), CS_EAUTH);
    cs_keystore_free(k);
    fixed_world_fini(&f);
}

/* Every span of 16 bytes replaced by what stands there in the file of another device. */
static void parts_of_another_file(void **state)
{
    struct cs_keystore *k = sample(), *back;
    struct fixed_world f;
    struct cs_slice a, b;

    (void)state;
    fixed_world_init(&f);
    assert_int_equal(cs_keystore_save(k, &f.world, &f.rng, "a", NULL, NULL), CS_OK);
    memset(k->device.b, 9, 16);
    memset(k->device_secret, 8, 32);
    assert_int_equal(cs_keystore_save(k, &f.world, &f.rng, "b", NULL, NULL), CS_OK);
    a = cs_buf_slice(&f.files[0].data);
    b = cs_buf_slice(&f.files[1].data);
    assert_int_equal(a.len, b.len);
    for (size_t at = 0; at + 16 <= a.len; at++) {
        uint8_t kept[16];

        memcpy(kept, a.data + at, 16);
        if (memcmp(kept, b.data + at, 16) == 0)
            continue;
        memcpy(f.files[0].data.data + at, b.data + at, 16);
        assert_int_equal(cs_keystore_load(&back, &f.world, "a", NULL, NULL), CS_EAUTH);
        assert_null(back);
        memcpy(f.files[0].data.data + at, kept, 16);
    }
    assert_int_equal(cs_keystore_load(&back, &f.world, "a", NULL, NULL), CS_OK);
    cs_keystore_free(back);
    cs_keystore_free(k);
    fixed_world_fini(&f);
}

/* A passphrase file: bits of the head (cost, salt, nonce) and some of the box, at the least cost. */
static void a_locked_file_is_bound_to_its_head(void **state)
{
    static const size_t at[] = { 5, 11, 16, 31, 32, 55, 56, 80, 100 };
    struct cs_buf file = { 0 }, body = { 0 };
    struct fixed_world f;

    (void)state;
    fixed_world_init(&f);
    assert_int_equal(cs_envelope_seal(&file, "CSK1", "pass", least,
                                      cs_slice_str("the body of this file, 40 bytes long"), &f.rng, NULL),
                     CS_OK);
    assert_int_equal(cs_envelope_open(&body, "CSK1", "pass", cs_buf_slice(&file), NULL), CS_OK);
    assert_memory_equal(body.data, "the body", 8);
    assert_int_equal(cs_envelope_open(&body, "CSX1", "pass", cs_buf_slice(&file), NULL), CS_ECORRUPT);
    for (size_t i = 0; i < sizeof at / sizeof at[0] && at[i] < file.len; i++) {
        int rc;

        file.data[at[i]] ^= 2;
        rc = cs_envelope_open(&body, "CSK1", "pass", cs_buf_slice(&file), NULL);
        assert_true(rc == CS_EAUTH || rc == CS_ECORRUPT);
        file.data[at[i]] ^= 2;
    }
    file.data[5] = 0; /* "no passphrase" */
    assert_int_equal(cs_envelope_open(&body, "CSK1", "pass", cs_buf_slice(&file), NULL), CS_ECORRUPT);
    cs_buf_free(&file);
    cs_buf_free(&body);
}

static const struct cost_case {
    uint32_t opslimit, memlimit_kib;
    int want;
} costs[] = {
    { 0, 8 * 1024, CS_ECORRUPT },
    { 11, 8 * 1024, CS_ECORRUPT },
    { 1, 8 * 1024 - 1, CS_ECORRUPT },
    { 1, 1024 * 1024 + 1, CS_ECORRUPT },
    { UINT32_MAX, 8192, CS_ECORRUPT },
    { 1, UINT32_MAX, CS_ECORRUPT },
    { 2, 8 * 1024, CS_OK },
};

static void costs_are_bounded(void **state)
{
    struct fixed_world f;

    (void)state;
    fixed_world_init(&f);
    for (size_t i = 0; i < sizeof costs / sizeof costs[0]; i++) {
        struct cs_buf file = { 0 }, body = { 0 };

        assert_int_equal(cs_envelope_seal(&file, "CSK1", "pass", least, cs_slice_str("body"), &f.rng, NULL), CS_OK);
        cs_store_u32(file.data + 8, costs[i].opslimit);
        cs_store_u32(file.data + 12, costs[i].memlimit_kib);
        /* an accepted cost that is not the one it was sealed under opens nothing */
        assert_int_equal(cs_envelope_open(&body, "CSK1", "pass", cs_buf_slice(&file), NULL),
                         costs[i].want == CS_OK ? CS_EAUTH : costs[i].want);
        cs_buf_free(&file);
        cs_buf_free(&body);
    }
}

static void bodies_are_strict(void **state)
{
    struct cs_keystore *k = sample(), *back;
    struct cs_buf body = { 0 };

    (void)state;
    assert_int_equal(cs_keystore_body(&body, k, NULL), CS_OK);
    for (size_t n = 0; n < body.len; n++)
        assert_int_equal(cs_keystore_parse(&back, cs_slice(body.data, n), NULL), CS_ECORRUPT);
    cs_buf_put_u8(&body, 0);
    assert_int_equal(cs_keystore_parse(&back, cs_buf_slice(&body), NULL), CS_ECORRUPT);
    body.len--;
    body.data[body.len - 36 + 3] = 9; /* epochs 1, 2, 9 */
    assert_int_equal(cs_keystore_parse(&back, cs_buf_slice(&body), NULL), CS_ECORRUPT);
    cs_buf_free(&body);
    cs_keystore_free(k);
}

static void epochs_are_in_order(void **state)
{
    struct cs_keystore *k = sample();
    uint8_t key[32] = { 0 };

    (void)state;
    assert_int_equal(cs_keystore_epoch(k, 2)->epoch, 2);
    assert_null(cs_keystore_epoch(k, 0));
    assert_null(cs_keystore_epoch(k, 4));
    assert_int_equal(cs_keystore_add_epoch(k, 5, key, NULL), CS_EINVAL);
    assert_int_equal(cs_keystore_add_epoch(k, 3, key, NULL), CS_EEXIST);
    memset(key, 3, sizeof key);
    assert_int_equal(cs_keystore_add_epoch(k, 3, key, NULL), CS_OK);
    assert_int_equal(k->nepochs, 3);
    cs_keystore_free(k);
}

static void exports(void **state)
{
    struct cs_keystore *k = sample();
    struct cs_key_export x = { .workspace = k->workspace, .member_seq = 3, .epochs = k->epochs, .nepochs = k->nepochs },
                         back;
    struct fixed_world f;
    struct cs_error err;

    (void)state;
    fixed_world_init(&f);
    k->epochs = NULL; /* moved */
    k->nepochs = 0;
    cs_buf_put_str(&x.invite, "bytes of a code");
    assert_int_equal(cs_key_export_write(&x, &f.world, &f.rng, "out", NULL, &err), CS_EINVAL);
    assert_int_equal(cs_key_export_write(&x, &f.world, &f.rng, "out", "", &err), CS_EINVAL);
    assert_int_equal(cs_key_export_write(&x, &f.world, &f.rng, "out", "pass", &err), CS_OK);
    assert_int_equal(f.files[0].mode, 0600);
    assert_int_equal(cs_key_export_write(&x, &f.world, &f.rng, "out", "pass", &err), CS_EEXIST);
    assert_int_equal(cs_key_export_read(&back, &f.world, "out", "wrong", &err), CS_EAUTH);
    assert_int_equal(cs_key_export_read(&back, &f.world, "out", "pass", &err), CS_OK);
    assert_int_equal(back.nepochs, 3);
    assert_memory_equal(back.epochs[1].key, x.epochs[1].key, 32);
    assert_true(cs_slice_eq(cs_buf_slice(&back.invite), cs_buf_slice(&x.invite)));
    cs_key_export_free(&back);
    cs_key_export_free(&x);
    cs_keystore_free(k);
    fixed_world_fini(&f);
}

/* The box of a key export bit by bit, and cut at every length; its head under a passphrase, byte by byte, at the least
 * cost; its body at every length. */
static void every_part_of_an_export_counts(void **state)
{
    struct cs_keystore *k = sample();
    struct cs_key_export x = { .workspace = k->workspace, .member_seq = 3, .epochs = k->epochs, .nepochs = k->nepochs },
                         back;
    struct cs_buf body = { 0 }, file = { 0 }, out = { 0 };
    struct fixed_world f;

    (void)state;
    fixed_world_init(&f);
    k->epochs = NULL; /* moved */
    k->nepochs = 0;
    cs_buf_put_str(&x.invite, "bytes of a code");
    assert_int_equal(cs_key_export_body(&body, &x, NULL), CS_OK);
    assert_int_equal(cs_envelope_seal(&file, "CSX1", NULL, least, cs_buf_slice(&body), &f.rng, NULL), CS_OK);
    for (size_t bit = 0; bit < file.len * 8; bit++) {
        file.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(cs_envelope_open(&out, "CSX1", NULL, cs_buf_slice(&file), NULL), CS_OK);
        file.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t n = 0; n < file.len; n++)
        assert_int_not_equal(cs_envelope_open(&out, "CSX1", NULL, cs_slice(file.data, n), NULL), CS_OK);
    cs_buf_reset(&file);
    assert_int_equal(cs_envelope_seal(&file, "CSX1", "pass", least, cs_buf_slice(&body), &f.rng, NULL), CS_OK);
    for (size_t at = 0; at < CS_ENVELOPE_HEAD; at++) {
        if (at >= 8 && at < 16)
            continue; /* the cost: costs_are_bounded */
        file.data[at] ^= 1;
        assert_int_not_equal(cs_envelope_open(&out, "CSX1", "pass", cs_buf_slice(&file), NULL), CS_OK);
        file.data[at] ^= 1;
    }
    assert_int_equal(out.len, 0);
    for (size_t n = 0; n < body.len; n++)
        assert_int_equal(cs_key_export_parse(&back, cs_slice(body.data, n), NULL), CS_ECORRUPT);
    cs_buf_put_u8(&body, 0);
    assert_int_equal(cs_key_export_parse(&back, cs_buf_slice(&body), NULL), CS_ECORRUPT);
    cs_buf_free(&body);
    cs_buf_free(&file);
    cs_buf_free(&out);
    cs_key_export_free(&x);
    cs_keystore_free(k);
    fixed_world_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_for_its_owner_only),
        cmocka_unit_test(saves_and_loads),
        cmocka_unit_test(damage_is_noticed),
        cmocka_unit_test(parts_of_another_file),
        cmocka_unit_test(costs_are_bounded),
        cmocka_unit_test(a_locked_file_is_bound_to_its_head),
        cmocka_unit_test(bodies_are_strict),
        cmocka_unit_test(epochs_are_in_order),
        cmocka_unit_test(exports),
        cmocka_unit_test(every_part_of_an_export_counts),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("keystore", tests, NULL, NULL);
}
