#include "base/process.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "unit/base/base_fixture.h"

static void this_process_lives(void **state)
{
    struct cs_process self, again;

    (void)state;
    cs_process_self(&self);
    cs_process_self(&again);
    assert_int_equal(self.pid, getpid());
    assert_true(strlen(self.boot) == CS_BOOT_ID_LEN || self.boot[0] == '\0');
    assert_string_equal(self.boot, again.boot);
    assert_true(self.started == again.started);
    assert_true(cs_process_lives(&self));
}

/* What is certain: another boot, another process under the pid, no such pid. */
static void others_do_not(void **state)
{
    struct cs_process p;

    (void)state;
    cs_process_self(&p);
    p.boot[0] = p.boot[0] == 'f' ? 'e' : 'f';
    assert_false(cs_process_lives(&p));
    cs_process_self(&p);
    if (p.started != 0) {
        p.started++;
        assert_false(cs_process_lives(&p));
    }
    p.started = 0; /* not known: perhaps it is the same */
    assert_true(cs_process_lives(&p));
}

static void a_child_that_ended_does_not(void **state)
{
    struct cs_process child;
    int to[2], from[2];
    char byte = 'x';
    siginfo_t how;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(to), 0);
    assert_int_equal(pipe(from), 0);
    if ((pid = fork()) == 0) {
        cs_process_self(&child);
        if (write(from[1], &child, sizeof child) != sizeof child || read(to[0], &byte, 1) != 1)
            _exit(1);
        _exit(0);
    }
    assert_int_equal(read(from[0], &child, sizeof child), sizeof child);
    assert_int_equal(child.pid, pid);
    assert_true(cs_process_lives(&child));
    assert_int_equal(write(to[1], &byte, 1), 1);
    assert_int_equal(waitid(P_PID, (id_t)pid, &how, WEXITED | WNOWAIT), 0);
    assert_false(cs_process_lives(&child)); /* also before its parent has asked */
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(cs_process_lives(&child));
    for (int i = 0; i < 2; i++) {
        close(to[i]);
        close(from[i]);
    }
}

static void *wait_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

/* A host whose first thread has ended looks as one that is dead; the engine's goes on. */
static void who_has_a_thread_left_lives(void **state)
{
    struct cs_process child;
    pthread_t other;
    int from[2];
    char state_of = 'R', path[64], text[512] = "";
    pid_t pid;
    FILE *f;

    (void)state;
    assert_int_equal(pipe(from), 0);
    if ((pid = fork()) == 0) {
        cs_process_self(&child);
        if (pthread_create(&other, NULL, wait_for_ever, NULL) != 0 || write(from[1], &child, sizeof child) < 0)
            _exit(1);
        pthread_exit(NULL);
    }
    assert_int_equal(read(from[0], &child, sizeof child), sizeof child);
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    while (state_of != 'Z') {
        assert_non_null(f = fopen(path, "r"));
        assert_true(fread(text, 1, sizeof text - 1, f) > 0);
        fclose(f);
        state_of = strrchr(text, ')')[2];
    }
    assert_true(cs_process_lives(&child));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(cs_process_lives(&child));
    close(from[0]);
    close(from[1]);
}

static void what_it_uses_is_told(void **state)
{
    struct cs_process_usage before, after;
    int fd;

    (void)state;
    cs_process_usage(&before);
    assert_true(before.resident_bytes > 100 * 1024);
    assert_true(before.max_files >= before.open_files && before.open_files >= 2);
    fd = dup(0);
    do
        cs_process_usage(&after);
    while (after.cpu_ns == before.cpu_ns);
    assert_true(after.cpu_ns > before.cpu_ns);
    assert_int_equal(after.open_files, before.open_files + (fd >= 0));
    close(fd);
}

int main(void)
{
    static const struct CMUnitTest tests[] = { ONLY(this_process_lives), ONLY(others_do_not),
                                               ONLY(a_child_that_ended_does_not), ONLY(who_has_a_thread_left_lives),
                                               ONLY(what_it_uses_is_told) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
