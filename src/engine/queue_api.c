/* The queue as others see it: beside a running engine, from data_dir alone. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

static int open_file(cs_queue **out, struct cs_arena *a, const clawsync_config *c, struct cs_queue_options o,
                     struct cs_error *err)
{
    const char *dir = cs_config_data_dir(c);
    size_t n = strlen(dir) + sizeof "/queue.db";
    char *path = cs_arena_alloc(a, n);

    *out = NULL;
    if (path == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    snprintf(path, n, "%s/queue.db", dir);
    o.path = path;
    return cs_queue_open(out, cs_world_real(), &o, err);
}

int cs_queue_open_beside(cs_queue **out, struct cs_arena *a, const clawsync_config *c, const uint8_t *key,
                         struct cs_error *err)
{
    return open_file(out, a, c, (struct cs_queue_options){ .read_only = true, .key = key }, err);
}

int clawsync_queue_list(const clawsync_config *c, void (*fn)(void *arg, const clawsync_queue_entry *e), void *arg,
                        clawsync_error *error)
{
    struct cs_arena arena = { 0 };
    struct cs_queue_entry *list = NULL;
    struct cs_error err = { 0 };
    cs_queue *q;
    size_t n = 0;
    int rc = cs_queue_open_beside(&q, &arena, c, NULL, &err);

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
    int rc = cs_queue_open_beside(&q, &arena, c, NULL, &err); /* where there is none, none is made */

    cs_queue_close(q);
    if (rc == CS_OK && (rc = open_file(&q, &arena, c, (struct cs_queue_options){ 0 }, &err)) == CS_OK) {
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
