/* The queue as others see it: beside a running engine, from data_dir alone. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

static int open_beside(cs_queue **out, struct cs_arena *a, const clawsync_config *c, bool read_only,
                       struct cs_error *err)
{
    struct cs_queue_options o = { .read_only = read_only };
    clawsync_config config;
    char *path;
    size_t n;
    int rc = cs_config_copy(&config, a, c, err);

    *out = NULL;
    if (rc != CS_OK)
        return rc;
    n = strlen(config.data_dir) + sizeof "/queue.db";
    if ((path = cs_arena_alloc(a, n)) == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    snprintf(path, n, "%s/queue.db", config.data_dir);
    o.path = path;
    return cs_queue_open(out, cs_world_real(), &o, err);
}

int clawsync_queue_list(const clawsync_config *c, void (*fn)(void *arg, const clawsync_queue_entry *e), void *arg,
                        clawsync_error *error)
{
    struct cs_arena arena = { 0 };
    struct cs_queue_entry *list = NULL;
    struct cs_error err = { 0 };
    cs_queue *q;
    size_t n = 0;
    int rc = open_beside(&q, &arena, c, true, &err);

    if (rc == CS_OK)
        rc = cs_queue_list(q, &arena, &list, &n, &err);
    for (size_t i = 0; i < n && rc == CS_OK; i++) {
        char id[CS_QUEUE_ID_TEXT];
        clawsync_queue_entry e = { .id = id,
                                   .state = cs_queue_state_name(list[i].state),
                                   .reason = list[i].reason,
                                   .operations = list[i].operations,
                                   .bytes = list[i].bytes,
                                   .attempts = list[i].attempts,
                                   .batch_number = list[i].number,
                                   .queued_ms = list[i].queued_ms,
                                   .changed_ms = list[i].changed_ms };

        cs_hex(id, list[i].id, CS_QUEUE_ID_LEN);
        fn(arg, &e);
    }
    cs_queue_close(q);
    cs_arena_free(&arena);
    if (rc != CS_OK && error != NULL)
        *(struct cs_error *)error = err;
    return rc;
}

static bool starts_with(const struct cs_queue_entry *e, const char *text)
{
    char id[CS_QUEUE_ID_TEXT];

    cs_hex(id, e->id, CS_QUEUE_ID_LEN);
    return text[0] != '\0' && strncmp(id, text, strlen(text)) == 0;
}

int cs_queue_find(cs_queue *q, struct cs_arena *a, const char *text, const struct cs_queue_entry **out,
                  struct cs_error *err)
{
    struct cs_queue_entry *list;
    size_t n, found = 0;
    int rc = cs_queue_list(q, a, &list, &n, err);

    for (size_t i = 0; i < n && rc == CS_OK; i++)
        if (starts_with(&list[i], text)) {
            *out = &list[i];
            found++;
        }
    if (rc == CS_OK && found == 0)
        return cs_fail(err, CS_ENOTFOUND, "no entry of the queue has the id \"%.40s\"", text);
    if (rc == CS_OK && found > 1)
        return cs_fail(err, CS_EINVAL, "%zu entries of the queue begin with \"%.40s\"", found, text);
    return rc;
}

int clawsync_queue_retry(const clawsync_config *c, const char *id, uint64_t *n, clawsync_error *error)
{
    const struct cs_queue_entry *entry = NULL;
    struct cs_arena arena = { 0 };
    struct cs_error err = { 0 };
    uint64_t count = 0;
    cs_queue *q;
    int rc = open_beside(&q, &arena, c, true, &err); /* where there is none, none is made */

    cs_queue_close(q);
    if (rc == CS_OK && (rc = open_beside(&q, &arena, c, false, &err)) == CS_OK) {
        if (id != NULL)
            rc = cs_queue_find(q, &arena, id, &entry, &err);
        if (rc == CS_OK)
            rc = cs_queue_retry(q, entry == NULL ? NULL : entry->id, &count, &err);
        cs_queue_close(q);
    }
    cs_arena_free(&arena);
    if (n != NULL)
        *n = count;
    if (rc != CS_OK && error != NULL)
        *(struct cs_error *)error = err;
    return rc;
}
