/* What ThreadSanitizer is told to pass over, in every program of a build with it. libuv closes a descriptor by a bare
 * system call, which the sanitizer does not see: the next owner of the number, in another thread, seems to race with
 * the epoll_ctl that libuv made before. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
    return "race:epoll_ctl\n";
}
