/* Rows that are hidden, and edits that lost: listing, explaining, exporting, settling. */
#include "replica/review.h"

#include <inttypes.h>
#include <stdio.h>
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

/* ---- hidden ---- */

/* What is listed, and for `show`, which row. */
struct hidden_list {
    struct cs_cli *c;
    json_t *all;
    struct cs_buf line, key;
    const char *wanted;
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

static int list_hidden(struct cs_cli *c, const char *table, const char *key, bool whole)
{
    struct hidden_list l = { .c = c, .wanted = key, .whole = whole };
    struct cs_replica_options o;
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = cs_cli_open_replica(c, true, &o, &r, &err);

    if (c->json)
        l.all = json_array();
    if (rc == CS_OK)
        rc = cs_review_hidden(r, table, true, list_one, &l, (struct cs_error *)&err);
    if (rc == CS_OK && key != NULL && l.n == 0)
        rc = cs_fail((struct cs_error *)&err, CS_ENOTFOUND,
                     "no row of \"%s\" with the key %s is hidden; claw-sync hidden list %s shows those that are", table,
                     key, table);
    if (rc == CS_OK && c->json)
        cs_cli_json(json_pack("{s:O}", "hidden", l.all));
    else if (rc == CS_OK && l.n == 0)
        cs_cli_say(c, "nothing is hidden");
    json_decref(l.all);
    cs_buf_free(&l.line);
    cs_buf_free(&l.key);
    cs_replica_close(r);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

int cs_cmd_hidden_list(struct cs_cli *c)
{
    return list_hidden(c, c->args[0], NULL, false);
}

int cs_cmd_hidden_show(struct cs_cli *c)
{
    return list_hidden(c, c->args[0], c->args[1], true);
}

static int export_one(void *arg, const struct cs_review_hidden *h)
{
    (void)arg;
    cs_cli_json(hidden_json(h));
    return ferror(stdout) != 0;
}

int cs_cmd_hidden_export(struct cs_cli *c)
{
    struct cs_replica_options o;
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = cs_cli_open_replica(c, true, &o, &r, &err);

    if (rc == CS_OK)
        rc = cs_review_hidden(r, c->args[0], false, export_one, NULL, (struct cs_error *)&err);
    if (rc == CS_OK && (fflush(stdout) != 0 || ferror(stdout) != 0))
        rc = cs_fail((struct cs_error *)&err, CS_EIO, "cannot write what is exported: the output is incomplete");
    cs_replica_close(r);
    return rc == CS_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
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

static void say_time(const struct cs_cli *c, const char *what, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    char text[32];
    struct tm tm;

    if (gmtime_r(&seconds, &tm) == NULL || strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
        snprintf(text, sizeof text, "%" PRId64 " ms", ms);
    cs_cli_say(c, "%-9s%s", what, text);
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
    int rc = cs_cli_open_replica(c, true, &o, &r, &err);

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
    return list_conflicts(c, c->args[0]);
}

static int settle(struct cs_cli *c, bool restore, const char *what)
{
    struct cs_replica_options o;
    cs_replica *r = NULL;
    clawsync_error err;
    int rc = cs_cli_open_replica(c, false, &o, &r, &err);

    if (rc == CS_OK && restore)
        rc = cs_review_restore(r, &o, c->args[0], (struct cs_error *)&err);
    else if (rc == CS_OK)
        rc = cs_review_close(r, c->args[0], (struct cs_error *)&err);
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
    return settle(c, false, "resolved");
}

int cs_cmd_conflicts_restore(struct cs_cli *c)
{
    return settle(c, true, "restored");
}
