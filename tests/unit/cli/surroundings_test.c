#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/doctor.h"

static void sqlite_versions(void **state)
{
    static const struct {
        int version;
        bool faulty;
    } of[] = { { 3006023, false }, { 3007000, true },  { 3040001, true },  { 3044005, true }, { 3044006, false },
               { 3045000, true },  { 3050006, true },  { 3050007, false }, { 3051000, true }, { 3051002, true },
               { 3051003, false }, { 3053000, false }, { 4000000, false } };

    (void)state;
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        assert_int_equal(cs_sqlite_has_wal_reset_bug(of[i].version), of[i].faulty);
}

static void file_systems(void **state)
{
    static const char mounts[] = "22 28 0:21 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
                                 "30 22 0:25 / /mnt/far rw - nfs4 server:/x rw,vers=4.2\n"
                                 "31 30 0:26 / /mnt/far/near rw shared:7 master:1 - xfs /dev/sdb rw\n"
                                 "32 22 0:27 / /mnt/a\\040b rw - fuse.sshfs me@there: rw\n"
                                 "33 22 0:28 / /twice rw - tmpfs none rw\n"
                                 "34 33 0:29 / /twice rw - cifs //server/x rw\n"
                                 "not a line of it\n";
    static const struct {
        const char *path, *type;
    } of[] = { { "/", "ext4" },
               { "/disk/x/db", "ext4" },
               { "/mnt/far/db", "nfs4" },
               { "/mnt/farther/db", "ext4" },
               { "/mnt/far/near/db", "xfs" },
               { "/mnt/a b/db", "fuse.sshfs" },
               { "/twice/db", "cifs" } };
    char type[32];

    (void)state;
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        cs_file_system_of(mounts, of[i].path, type);
        assert_string_equal(type, of[i].type);
    }
    for (size_t n = 0; n < sizeof mounts; n++) { /* cut off anywhere */
        char cut[sizeof mounts];

        memcpy(cut, mounts, n);
        cut[n] = '\0';
        cs_file_system_of(cut, "/mnt/a b/db", type);
    }
    cs_file_system_of("", "/x", type);
    assert_string_equal(type, "");
    assert_true(cs_is_network_file_system("nfs4"));
    assert_true(cs_is_network_file_system("fuse.sshfs"));
    assert_false(cs_is_network_file_system("ext4"));
    assert_false(cs_is_network_file_system("fuse.encfs"));
    assert_false(cs_is_network_file_system(""));
}

static void copied_folders(void **state)
{
    static const struct {
        const char *path, *name;
    } of[] = { { "/disk/x/Dropbox/db", "Dropbox" },
               { "/disk/x/dropbox (work)/a/db", "dropbox (work)" },
               { "/mnt/c/Users/x/OneDrive - Company/db", "OneDrive - Company" },
               { "/Users/x/Library/Mobile Documents/a/db", "Mobile Documents" },
               { "/disk/x/Dropbox", NULL }, /* a file of that name */
               { "/disk/x/Dropboxes/db", NULL },
               { "/disk/x/claw/memory.db", NULL },
               { "/", NULL },
               { "", NULL } };
    size_t len;

    (void)state;
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        const char *found = cs_copied_folder(of[i].path, &len);

        assert_true((found == NULL) == (of[i].name == NULL));
        if (found != NULL) {
            assert_int_equal(len, strlen(of[i].name));
            assert_memory_equal(found, of[i].name, len);
        }
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = { cmocka_unit_test(sqlite_versions), cmocka_unit_test(file_systems),
                                               cmocka_unit_test(copied_folders) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
