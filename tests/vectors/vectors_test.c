/* The vectors in the repository are what this program computes. A change of any format shows here first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#include "crypto/keys.h"
#include "vectors/vectors.h"

/* Names the part that differs, so that nobody has to compare hexadecimal by eye. */
static void assert_file(const char *path, json_t *now)
{
    json_error_t error;
    json_t *file = json_load_file(path, 0, &error), *part;
    const char *name;

    assert_non_null(file);
    assert_int_equal(json_object_size(file), json_object_size(now));
    json_object_foreach(now, name, part)
    {
        if (!json_equal(part, json_object_get(file, name)))
            fail_msg("\"%s\" in %s is not what is computed", name, path);
    }
    json_decref(file);
    json_decref(now);
}

static void crypto_is_as_recorded(void **state)
{
    (void)state;
    assert_file(CS_TESTS_DIR "/vectors/crypto.json", cs_vectors_crypto());
}

static void delta_is_as_recorded(void **state)
{
    (void)state;
    assert_file(CS_TESTS_DIR "/vectors/delta.json", cs_vectors_delta());
}

static void audit_is_as_recorded(void **state)
{
    (void)state;
    assert_file(CS_TESTS_DIR "/vectors/audit.json", cs_vectors_audit());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crypto_is_as_recorded),
        cmocka_unit_test(delta_is_as_recorded),
        cmocka_unit_test(audit_is_as_recorded),
    };

    return cs_crypto_init(NULL) < 0 ? 1 : cmocka_run_group_tests_name("vectors", tests, NULL, NULL);
}
