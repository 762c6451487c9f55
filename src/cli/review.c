/* Rows that are hidden, and edits that lost: listing, explaining, exporting, settling. */
#include "replica/review.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/cli.h"

enum { SHORT = 48 }; /* bytes of a value in a list */

/* ---- values ---- */

static void put_hex(struct cs_buf *out, struct cs_slice bytes, size_t most)
{
    char digits[3];

    cs_buf_put_str(out, "x'");
    for (size_t i = 0; i < bytes.len && i < most; i++) {
        cs_hex(digits, bytes.data + i, 1);
        cs_buf_put_str(out, digits);
    }
    cs_buf_put_str(out, bytes.len > most ? "…'" : "'");
}

/* As SQL writes it; control characters of a text would change the terminal, so such a text is shown as its bytes. */
static void put_text(struct cs_buf *out, struct cs_slice text, size_t most)
{
    size_t n = text.len < most ? text.len : most;
    json_t *valid = json_stringn((const char *)text.data, text.len);
    bool plain = valid != NULL;

    json_decref(valid);
    for (size_t i = 0; i < text.len; i++)
        plain = plain && text.data[i] >= 0x20 && text.data[i] != 0x7f;
    if (!plain) {
        put_hex(out, text, most / 2);
        return;
    }
    while (n < text.len && n > 0 && (text.data[n] & 0xc0) == 0x80)
        n--; /* not inside a character */
    cs_buf_put_u8(out, '\'');
    for (size_t i = 0; i < n; i++) {
        if (text.data[i] == '\'')
            cs_buf_put_u8(out, '\'');
        cs_buf_put_u8(out, text.data[i]);
    }
    cs_buf_put_str(out, n < text.len ? "…'" : "'");
}

static void put_value(struct cs_buf *out, const struct cs_value *v, size_t most)
{
    switch (v->type) {
    case CS_NULL:
        cs_buf_put_str(out, "NULL");
        break;
    case CS_INTEGER:
        cs_buf_printf(out, "%" PRId64, v->u.i);
        break;
    case CS_REAL:
        cs_buf_printf(out, "%.17g", v->u.r);
        break;
    case CS_TEXT:
        put_text(out, v->u.bytes, most);
        break;
    default:
        put_hex(out, v->u.bytes, most / 2);
    }
}

static void put_key(struct cs_buf *out, const struct cs_value *key, uint32_t n, size_t most)
{
    for (uint32_t i = 0; i < n; i++) {
        cs_buf_put_str(out, i == 0 ? "" : ", ");
        put_value(out, &key[i], most);
    }
}

static json_t *json_key(const struct cs_value *key, uint32_t n)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, cs_cli_json_value(&key[i]));
    return list;
}

static void say_buf(const struct cs_cli *c, const char *before, struct cs_buf *b)
{
    cs_buf_put_u8(b, 0);
    cs_cli_say(c, "%s%s", before, b->failed ? "out of memory" : (const char *)b->data);
    cs_buf_reset(b);
}

static void say_time(const struct cs_cli *c, const char *what, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    char text[32];
    struct tm tm;

    if (gmtime_r(&seconds, &tm) == NULL || strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
        snprintf(text, sizeof text, "%" PRId64 " ms", ms);
    cs_cli_say(c, "%-9s%s", what, text);
}

/* ---- the database ---- */

/* All that is asked for is in the database: it is shown without its device's keys, too, but not silently. */
static int open_database(const struct cs_cli *c, bool read_only, struct cs_replica_options *o, cs_replica **out,
                         clawsync_error *err)
{
    int rc = cs_cli_open_replica(c, read_only, o, out, err);

    if (rc == CS_OK && (rc = cs_cli_check_data_dir(c, *out, NULL, err)) == CS_ENOTFOUND) {
        cs_cli_warn((void *)(uintptr_t)c, err->msg);
        rc = CS_OK;
    }
    return rc;
}

/* ---- hidden ---- */

/* What is listed, and for `show`, which row. */
struct hidden_list {
    struct cs_cli *c;
    json_t *all, *aside; /* aside: batches */
    struct cs_buf line, key;
    const char *wanted;
    uint64_t batch; /* the one that is wanted, by its number in the log; 0: all, with the rows */
    uint64_t n;
    bool whole;
};

static const char *hidden_meaning(const char *reason)
{
    static const struct {
        const char *reason, *meaning;
    } all[] = {
        { "fk", "its parent is missing" },
        { "unique", "another row holds its key" },
        { "notnull", "a column that may not be NULL here has no value" },
        { "type", "a value does not fit its column" },
        { "trigger", "a trigger of the application refuses it" },
        { "key", "its key does not fit the table's primary key" },
        { "table", "its table is not tracked here" },
    };

    if (reason == NULL)
        return "shown, but some of its values do not fit this table";
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i].reason, reason) == 0)
            return all[i].meaning;
    return reason;
}

static json_t *hidden_json(const struct cs_review_hidden *h)
{
    json_t *values = json_object();
    json_t *o =
        json_pack("{s:s, s:o, s:s?, s:s, s:s?, s:o}", "table", h->table, "key", json_key(h->key, h->nkey), "reason",
                  h->reason, "meaning", hidden_meaning(h->reason), "blocker", h->blocker, "values", values);

    for (uint32_t i = 0; i < h->ncells; i++)
        json_object_set_new(values, h->cells[i].column, cs_cli_json_value(&h->cells[i].value));
    return o;
}

static bool is_wanted(struct hidden_list *l, const struct cs_review_hidden *h)
{
    bool same;

    if (l->wanted == NULL)
        return true;
    cs_buf_reset(&l->key);
    put_key(&l->key, h->key, h->nkey, SIZE_MAX / 4);
    same = cs_slice_eq(cs_buf_slice(&l->key), cs_slice_str(l->wanted));
    if (!same && h->nkey == 1 && h->key[0].type == CS_TEXT) /* without its quotes, as people type it */
        same = cs_slice_eq(h->key[0].u.bytes, cs_slice_str(l->wanted));
    return same;
}

static void say_hidden(struct hidden_list *l, const struct cs_review_hidden *h)
{
    const struct cs_cli *c = l->c;

    cs_buf_printf(&l->line, "%-20s ", h->table);
    put_key(&l->line, h->key, h->nkey, SHORT);
    cs_buf_printf(&l->line, "  %s%s%s", hidden_meaning(h->reason), h->blocker != NULL ? ": " : "",
                  h->blocker != NULL ? h->blocker : "");
    for (uint32_t i = 0; h->reason == NULL && i < h->ncells; i++) /* all that is kept of it does not fit */
        cs_buf_printf(&l->line, "%s%s", i == 0 ? ": " : ", ", h->cells[i].column);
    say_buf(c, "", &l->line);
    for (uint32_t i = 0; l->whole && i < h->ncells; i++) {
        cs_buf_printf(&l->line, "%s = ", h->cells[i].column);
        put_value(&l->line, &h->cells[i].value, SIZE_MAX / 4);
        say_buf(c, "  ", &l->line);
    }
}

static int list_one(void *arg, const struct cs_review_hidden *h)
{
    struct hidden_list *l = arg;

    if (!is_wanted(l, h))
        return 0;
    l->n++;
    if (l->c->json)
        json_array_append_new(l->all, hidden_json(h));
    else
        say_hidden(l, h);
    return 0;
}

/* By the finding's name, which ends at the colon. */
static const char *aside_meaning(const char *finding)
{
    static const struct {
        const char *name, *meaning;
    } all[] = {
        { "BAD_CHUNK", "the hub gives other bytes than its device sent" },
        { "BAD_COMMITMENT", "it is sealed under another key than the workspace's" },
        { "BAD_CIPHERTEXT", "its ciphertext does not open" },
        { "BAD_CONTENT", "what is in it cannot be read, by this version at least" },
        { "BAD_HEADER", "its header is not in order; nothing of its device counts from there on" },
        { "BAD_SIGNATURE", "it is not signed by its device; nothing of that counts from there on" },
        { "NOT_A_MEMBER", "it is of a device that was no member" },
        { "PAST_CUT", "its device sent it when it was removed already" },
        { "BROKEN_CHAIN", "it does not follow what is known of its device: one before it is missing, or set aside" },
    };
    size_t n = strcspn(finding, ":");

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strlen(all[i].name) == n && strncmp(all[i].name, finding, n) == 0)
            return all[i].meaning;
    return "it could not be taken in";
}

static json_t *aside_json(const struct cs_review_aside *a)
{
    char device[CS_UUID_TEXT];

    cs_uuid_text(device, &a->device);
    return json_pack("{s:I, s:s, s:s, s:o, s:I}", "log_number", (json_int_t)a->log_number, "finding", a->finding,
                     "meaning", aside_meaning(a->finding), "device",
                     cs_uuid_is_zero(&a->device) ? json_null() : json_string(device), "noticed_ms",
                     (json_int_t)a->noticed_ms);
}

static void say_aside(struct hidden_list *l, const struct cs_review_aside *a)
{
    char device[CS_UUID_TEXT] = "unknown";

    if (!cs_uuid_is_zero(&a->device))
        cs_uuid_text(device, &a->device);
    cs_cli_say(l->c, "batch %" PRIu64 " of the log was set aside: %s (device %s)", a->log_number, a->finding, device);
    if (!l->whole)
        return;
    cs_cli_say(l->c, "what     %s", aside_meaning(a->finding));
    say_time(l->c, "noticed", a->noticed_ms);
    if (cs_review_never_counts(a)) {
        cs_cli_say(
            l->c,
            "It counts on no device, however often it is tried: who removed its device drew the line before it.\n"
            "Nothing that counts is missing. To take it off the list: claw-sync hidden dismiss %" PRIu64,
            a->log_number);
        return;
    }
    cs_cli_say(l->c,
               "It is fetched once more whenever claw-sync starts, and by: claw-sync hidden retry. What it held\n"
               "comes from the device that has it by: claw-sync reconcile, there or here. If it never opens:\n"
               "claw-sync hidden dismiss %" PRIu64,
               a->log_number);
}

static int list_aside(void *arg, const struct cs_review_aside *a)
{
    struct hidden_list *l = arg;

    if (l->batch != 0 && a->log_number != l->batch)
        return 0;
    l->n++;
    if (l->c->json)
        json_array_append_new(l->aside, aside_json(a));
    else
        say_aside(l, a);
    return 0;
}

static int not_aside(uint64_t batch, clawsync_error *err)
{
    return cs_fail((struct cs_error *)err, CS_ENOTFOUND,
                   "number %" PRIu64 " of the log is not set aside; claw-sync hidden list shows what is", batch);
}

static int list_hidden(struct cs_cli *c, const char *table, const char *key, uint64_t batch, bool whole)
{
    struct hidden_list l = { .c = c, .wanted = key, .batch = batch, .whole = whole };
    struct cs_replica_options o;
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = open_database(c, true, &o, &r, &err);

    if (c->json) {
        l.all = json_array();
        l.aside = json_array();
    }
    if (rc == CS_OK && batch == 0)
        rc = cs_review_hidden(r, table, true, list_one, &l, (struct cs_error *)&err);
    if (rc == CS_OK && table == NULL)
        rc = cs_review_aside(r, list_aside, &l, (struct cs_error *)&err);
    if (rc == CS_OK && key != NULL && l.n == 0)
        rc = cs_fail((struct cs_error *)&err, CS_ENOTFOUND,
                     "no row of \"%s\" with the key %s is hidden; claw-sync hidden list %s shows those that are", table,
                     key, table);
    if (rc == CS_OK && batch != 0 && l.n == 0)
        rc = not_aside(batch, &err);
    if (rc == CS_OK && c->json)
        cs_cli_json(json_pack("{s:O, s:O}", "hidden", l.all, "batches_set_aside", l.aside));
    else if (rc == CS_OK && l.n == 0)
        cs_cli_say(c, "nothing is hidden");
    json_decref(l.all);
    json_decref(l.aside);
    cs_buf_free(&l.line);
    cs_buf_free(&l.key);
    cs_replica_close(r);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

int cs_cmd_hidden_list(struct cs_cli *c)
{
    return list_hidden(c, c->args[0], NULL, 0, false);
}

static bool take_number(const char *arg, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(arg, &end, 10);
    return arg[0] >= '1' && arg[0] <= '9' && *end == '\0' && errno == 0 && *out <= INT64_MAX;
}

int cs_cmd_hidden_show(struct cs_cli *c)
{
    uint64_t batch;

    if (c->nargs > 1)
        return list_hidden(c, c->args[0], c->args[1], 0, true);
    if (!take_number(c->args[0], &batch))
        return cs_cli_usage(c, "hidden show wants a table and a key, or the number of a batch");
    return list_hidden(c, NULL, NULL, batch, true);
}

static int export_one(void *arg, const struct cs_review_hidden *h)
{
    (void)arg;
    cs_cli_json(hidden_json(h));
    return ferror(stdout) != 0;
}

static int export_aside(void *arg, const struct cs_review_aside *a)
{
    (void)arg;
    cs_cli_json(aside_json(a));
    return ferror(stdout) != 0;
}

int cs_cmd_hidden_export(struct cs_cli *c)
{
    struct cs_replica_options o;
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = open_database(c, true, &o, &r, &err);

    if (rc == CS_OK)
        rc = cs_review_hidden(r, c->args[0], false, export_one, NULL, (struct cs_error *)&err);
    if (rc == CS_OK && c->args[0] == NULL)
        rc = cs_review_aside(r, export_aside, NULL, (struct cs_error *)&err);
    cs_replica_close(r);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

struct tried {
    int64_t batches, past_cut;
};

static int count_aside(void *arg, const struct cs_review_aside *a)
{
    struct tried *t = arg;

    ++*(cs_review_never_counts(a) ? &t->past_cut : &t->batches);
    return 0;
}

int cs_cmd_hidden_retry(struct cs_cli *c)
{
    struct cs_replica_options o;
    struct cs_replica_counts n = { 0 };
    struct tried t = { 0 };
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = open_database(c, false, &o, &r, &err);

    if (rc == CS_OK && (rc = cs_replica_counts(r, &n, (struct cs_error *)&err)) == CS_OK)
        rc = cs_review_aside(r, count_aside, &t, (struct cs_error *)&err);
    if (rc == CS_OK)
        rc = cs_review_ask_retry(r, (struct cs_error *)&err);
    cs_replica_close(r);
    if (rc != CS_OK)
        return cs_cli_fail(c, &err);
    if (c->json) {
        cs_cli_json(json_pack("{s:I, s:I, s:I}", "rows", (json_int_t)n.hidden, "batches", (json_int_t)t.batches,
                              "past_cut", (json_int_t)t.past_cut));
        return CS_EXIT_DONE;
    }
    cs_cli_say(c, "rows=%" PRId64 ", batches=%" PRId64 ": tried again with the next round", n.hidden, t.batches);
    if (t.past_cut > 0)
        cs_cli_say(c, "past_cut=%" PRId64 ": of devices that were removed before, and never taken in", t.past_cut);
    return CS_EXIT_DONE;
}

struct sought {
    uint64_t batch;
    bool found, never_counts;
};

static int seek_aside(void *arg, const struct cs_review_aside *a)
{
    struct sought *x = arg;

    x->found = a->log_number == x->batch;
    x->never_counts = x->found && cs_review_never_counts(a);
    return x->found;
}

int cs_cmd_hidden_dismiss(struct cs_cli *c)
{
    struct cs_replica_options o;
    struct sought x = { 0 };
    cs_replica *r = NULL;
    clawsync_error err;
    int rc;

    if (!take_number(c->args[0], &x.batch))
        return cs_cli_usage(c, "hidden dismiss wants the number of a batch, as hidden list has it");
    if ((rc = open_database(c, false, &o, &r, &err)) == CS_OK)
        rc = cs_review_aside(r, seek_aside, &x, (struct cs_error *)&err);
    if (rc == CS_OK && !x.found)
        rc = not_aside(x.batch, &err);
    if (rc == CS_OK)
        rc = cs_review_drop_aside(r, x.batch, (struct cs_error *)&err);
    cs_replica_close(r);
    if (rc != CS_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:I}", "dismissed", (json_int_t)x.batch));
    else
        cs_cli_say(c, "batch %" PRIu64 " of the log is not fetched again%s", x.batch,
                   x.never_counts ? "" : "; what it held comes by claw-sync reconcile alone");
    return CS_EXIT_DONE;
}

/* ---- conflicts ---- */

struct conflict_list {
    struct cs_cli *c;
    json_t *all;
    struct cs_buf line;
    const char *wanted; /* the beginning of an id */
    uint64_t n;
};

static json_t *conflict_json(const struct cs_review_conflict *x)
{
    char device[CS_UUID_TEXT];
    json_t *o;

    cs_uuid_text(device, &x->device);
    o = json_pack("{s:s, s:s, s:s, s:s, s:o, s:s?, s:s, s:I, s:I}", "id", x->id, "why", x->why, "state", x->state,
                  "table", x->table, "key", json_key(x->key, x->nkey), "column", x->column, "device", device,
                  "edited_ms", (json_int_t)x->edited_ms, "noticed_ms", (json_int_t)x->noticed_ms);
    if (x->losing != NULL)
        json_object_set_new(o, "losing", cs_cli_json_value(x->losing));
    if (x->now != NULL)
        json_object_set_new(o, "now", cs_cli_json_value(x->now));
    return o;
}

static const char *conflict_meaning(const struct cs_review_conflict *x)
{
    if (strcmp(x->why, "overwritten") == 0)
        return "an edit lost to a concurrent one";
    if (strcmp(x->why, "deleted") == 0)
        return "an edit met a deleted row";
    if (strcmp(x->why, "unique") == 0)
        return "the row is hidden: another one holds its key";
    if (strcmp(x->why, "check") == 0)
        return "the merged row breaks a CHECK";
    if (strcmp(x->why, "copied-device") == 0)
        return "two copies of one device wrote different values at one time";
    return x->why;
}

static void say_conflict(struct conflict_list *l, const struct cs_review_conflict *x)
{
    cs_buf_printf(&l->line, "%s %-9s %s ", x->id, x->state, x->table);
    put_key(&l->line, x->key, x->nkey, SHORT);
    if (x->column != NULL)
        cs_buf_printf(&l->line, " %s", x->column);
    if (x->losing != NULL) {
        cs_buf_put_str(&l->line, ": ");
        put_value(&l->line, x->losing, SHORT);
    }
    if (x->now != NULL) {
        cs_buf_put_str(&l->line, ", now ");
        put_value(&l->line, x->now, SHORT);
    }
    cs_buf_printf(&l->line, "  %s", conflict_meaning(x));
    say_buf(l->c, "", &l->line);
}

static void say_whole_conflict(struct conflict_list *l, const struct cs_review_conflict *x)
{
    const struct cs_cli *c = l->c;
    char device[CS_UUID_TEXT];

    cs_uuid_text(device, &x->device);
    cs_cli_say(c, "id       %s", x->id);
    cs_cli_say(c, "what     %s (%s)", conflict_meaning(x), x->state);
    cs_cli_say(c, "table    %s", x->table);
    put_key(&l->line, x->key, x->nkey, SIZE_MAX / 4);
    say_buf(c, "row      ", &l->line);
    if (x->column != NULL)
        cs_cli_say(c, "column   %s", x->column);
    if (x->losing != NULL) {
        put_value(&l->line, x->losing, SIZE_MAX / 4);
        say_buf(c, "losing   ", &l->line);
    }
    if (x->now != NULL) {
        put_value(&l->line, x->now, SIZE_MAX / 4);
        say_buf(c, "now      ", &l->line);
    } else if (x->column != NULL) {
        cs_cli_say(c, "now      not in the table");
    }
    cs_cli_say(c, "device   %s", device);
    say_time(c, "edited", x->edited_ms);
    say_time(c, "noticed", x->noticed_ms);
}

static int one_conflict(void *arg, const struct cs_review_conflict *x)
{
    struct conflict_list *l = arg;

    if (l->wanted != NULL && strncmp(x->id, l->wanted, strlen(l->wanted)) != 0)
        return 0;
    l->n++;
    if (l->c->json)
        json_array_append_new(l->all, conflict_json(x));
    else if (l->wanted != NULL)
        say_whole_conflict(l, x);
    else
        say_conflict(l, x);
    return 0;
}

/* wanted NULL: all open ones; else those whose id begins so, closed ones too. */
static int list_conflicts(struct cs_cli *c, const char *wanted)
{
    struct conflict_list l = { .c = c, .wanted = wanted };
    struct cs_replica_options o;
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = open_database(c, true, &o, &r, &err);

    if (c->json)
        l.all = json_array();
    if (rc == CS_OK)
        rc = cs_review_conflicts(r, wanted != NULL, one_conflict, &l, (struct cs_error *)&err);
    if (rc == CS_OK && wanted != NULL && l.n == 0)
        rc = cs_fail((struct cs_error *)&err, CS_ENOTFOUND,
                     "no conflict has the id \"%s\"; claw-sync conflicts list shows them", wanted);
    if (rc == CS_OK && c->json)
        cs_cli_json(json_pack("{s:O}", "conflicts", l.all));
    else if (rc == CS_OK && l.n == 0)
        cs_cli_say(c, "no conflict is open");
    json_decref(l.all);
    cs_buf_free(&l.line);
    cs_replica_close(r);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

int cs_cmd_conflicts_list(struct cs_cli *c)
{
    return list_conflicts(c, NULL);
}

int cs_cmd_conflicts_show(struct cs_cli *c)
{
    if (c->args[0][0] == '\0')
        return cs_cli_usage(c, "conflicts show wants an id, or the first digits of one; conflicts list shows them");
    return list_conflicts(c, c->args[0]);
}

/* A value as the lists print it: 'text', x'00ff', a number, NULL; anything else is text as it stands. */
static int parse_value(struct cs_cli *c, const char *text, struct cs_value *out, struct cs_error *err)
{
    size_t n = strlen(text);
    char *end;

    if (strcmp(text, "NULL") == 0)
        return *out = (struct cs_value){ .type = CS_NULL }, CS_OK;
    if (n >= 3 && text[0] == 'x' && text[1] == '\'' && text[n - 1] == '\'') {
        uint8_t *bytes = cs_arena_zalloc(&c->strings, n, 1);
        char *digits = cs_arena_str(&c->strings, text + 2);

        if (bytes == NULL || digits == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        digits[n - 3] = '\0';
        if ((n - 3) % 2 != 0 || !cs_unhex(bytes, (n - 3) / 2, digits))
            return cs_fail(err, CS_EINVAL, "%.40s is not a blob as SQL writes it: x'00ff'", text);
        *out = (struct cs_value){ .type = CS_BLOB, .u.bytes = cs_slice(bytes, (n - 3) / 2) };
        return CS_OK;
    }
    if (n >= 2 && text[0] == '\'' && text[n - 1] == '\'') {
        char *plain = cs_arena_str(&c->strings, text + 1);
        size_t k = 0;

        if (plain == NULL)
            return cs_fail(err, CS_ENOMEM, "out of memory");
        for (size_t i = 1; i < n - 1; i++) {
            if (text[i] == '\'' && text[++i] != '\'')
                return cs_fail(err, CS_EINVAL, "%.40s: a quote inside is written twice", text);
            plain[k++] = text[i];
        }
        *out = (struct cs_value){ .type = CS_TEXT, .u.bytes = cs_slice(plain, k) };
        return CS_OK;
    }
    errno = 0;
    out->u.i = strtoll(text, &end, 10);
    out->type = CS_INTEGER;
    if (n > 0 && *end == '\0' && errno == 0)
        return CS_OK;
    out->u.r = strtod(text, &end);
    out->type = CS_REAL;
    if (n > 0 && *end == '\0' && isfinite(out->u.r) && strpbrk(text, "xXnN ") == NULL)
        return CS_OK;
    *out = (struct cs_value){ .type = CS_TEXT, .u.bytes = cs_slice_str(text) };
    return CS_OK;
}

static int settle(struct cs_cli *c, enum cs_review_choice choice, const char *what)
{
    struct cs_replica_options o;
    cs_replica *r = NULL;
    struct cs_value given;
    clawsync_error err;
    int rc = CS_OK;

    if (choice == CS_REVIEW_GIVEN)
        rc = parse_value(c, c->value, &given, (struct cs_error *)&err);
    if (rc == CS_OK && (rc = open_database(c, false, &o, &r, &err)) == CS_OK)
        rc = cs_review_resolve(r, &o, c->args[0], choice, &given, (struct cs_error *)&err);
    cs_replica_close(r);
    if (rc != CS_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:s}", what, c->args[0]));
    else
        cs_cli_say(c, "%s %s", what, c->args[0]);
    return CS_EXIT_DONE;
}

int cs_cmd_conflicts_resolve(struct cs_cli *c)
{
    if (c->take && c->value != NULL)
        return cs_cli_usage(c, "--take and --value: which of them?");
    return settle(c, c->value != NULL ? CS_REVIEW_GIVEN : c->take ? CS_REVIEW_TAKE : CS_REVIEW_KEEP, "resolved");
}

int cs_cmd_conflicts_restore(struct cs_cli *c)
{
    return settle(c, CS_REVIEW_TAKE, "restored");
}
