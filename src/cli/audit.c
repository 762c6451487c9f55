/* This device's audit log: what it did, and whether the record of it is whole. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/cli.h"

enum { TAIL_ROWS = 20 };

static int verify(void *arg, const clawsync_config *config, clawsync_error *err)
{
    return clawsync_verify_audit_log(config, arg, err);
}

int cs_cmd_audit_verify(struct cs_cli *c)
{
    clawsync_audit_report r = { 0 };
    clawsync_error err;

    if (cs_cli_unlocked(c, verify, &r, &err) != CLAWSYNC_OK)
        return cs_cli_fail(c, &err);
    if (c->json)
        cs_cli_json(json_pack("{s:b, s:I, s:o, s:o}", "ok", r.ok, "rows", (json_int_t)r.rows, "first_broken_at",
                              r.ok ? json_null() : json_integer((json_int_t)r.first_broken_at), "broken_reason",
                              r.ok ? json_null() : json_string(r.broken_reason)));
    else if (r.ok)
        cs_cli_say(c, "the audit log is whole: %" PRIu64 " rows", r.rows);
    else
        fprintf(stderr,
                "claw-sync: the audit log was changed: row %" PRIu64 ": %s; what stands before it is whole. Keep the "
                "file as evidence\n",
                r.first_broken_at, r.broken_reason);
    return r.ok ? CS_EXIT_DONE : CS_EXIT_FAILED;
}

struct listing {
    const struct cs_cli *cli;
    bool as_json;
    uint64_t last; /* rows; 0: all */
};

static void print_json(const clawsync_audit_entry *e)
{
    json_t *payload = json_loads(e->payload, 0, NULL), *o;

    if (payload == NULL)
        payload = json_string(e->payload);
    if (payload == NULL)
        payload = json_null();
    o = json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:o, s:s}", "sequence", (json_int_t)e->sequence,
                  "event_type", e->event_type, "workspace_id", e->workspace_id, "device_id", e->device_id,
                  "entity_type", e->entity_type, "entity_ids", e->entity_ids, "ops_count", (json_int_t)e->ops_count,
                  "occurred_at", (json_int_t)e->occurred_ms, "payload", payload, "payload_hash", e->payload_hash);
    if (o != NULL) {
        json_object_set_new(o, "payload_text", json_string(e->payload)); /* what payload_hash is of */
        json_object_set_new(o, "prev_entry_hash", json_string(e->prev_entry_hash));
        json_object_set_new(o, "signature", json_string(e->signature));
        json_object_set_new(o, "signer_pub_key", json_string(e->signer_pub_key));
    }
    cs_cli_json(o);
}

/* What a file that somebody changed says reaches the terminal without controls. */
static void put_plain(const char *text)
{
    for (; *text != '\0'; text++)
        putchar((unsigned char)*text < 32 || *text == 127 ? '?' : *text);
}

static void print_entry(void *arg, const clawsync_audit_entry *e)
{
    const struct listing *l = arg;
    time_t at = (time_t)(e->occurred_ms / 1000);
    char when[32] = "-";
    struct tm tm;

    if (l->as_json) {
        print_json(e);
        return;
    }
    if (localtime_r(&at, &tm) != NULL && strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        snprintf(when, sizeof when, "-");
    printf("%6" PRIu64 "  %s  ", e->sequence, when);
    put_plain(e->event_type);
    printf("  ");
    put_plain(e->entity_type);
    putchar(' ');
    put_plain(e->entity_ids);
    if (e->ops_count > 0)
        printf("  %" PRIu64 " operations", e->ops_count);
    printf("  ");
    put_plain(e->payload);
    putchar('\n');
}

static int read_log(void *arg, const clawsync_config *config, clawsync_error *err)
{
    struct listing *l = arg;

    return clawsync_read_audit_log(config, l->last, print_entry, l, err);
}

static int list(struct cs_cli *c, struct listing l)
{
    clawsync_error err;
    int rc = cs_cli_unlocked(c, read_log, &l, &err);

    return rc == CLAWSYNC_OK ? CS_EXIT_DONE : cs_cli_fail(c, &err);
}

int cs_cmd_audit_tail(struct cs_cli *c)
{
    struct listing l = { .cli = c, .as_json = c->json, .last = TAIL_ROWS };
    char *end = NULL;

    if (c->nargs > 0) {
        l.last = strtoull(c->args[0], &end, 10);
        if (c->args[0][0] < '0' || c->args[0][0] > '9' || *end != '\0' || l.last == 0 || l.last > INT64_MAX)
            return cs_cli_usage(c, "\"%s\" is not a number of rows", c->args[0]);
    }
    return list(c, l);
}

int cs_cmd_audit_export(struct cs_cli *c)
{
    return list(c, (struct listing){ .cli = c, .as_json = true });
}
