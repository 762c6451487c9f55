#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#include "sim/system.h"

#define HUB_DATABASE "/hub/live/hub.db"

enum {
    REST_HOURS = 6,      /* of virtual time, within which all must be at rest */
    LOOKS = 400,         /* a second apart */
    MOST_MEMORY = 600,   /* MiB that the process has ever held */
    MOST_BOUND = 2 * 64, /* batches in flight, and those acknowledged that the pull has not passed */
    MOST_DONE = 2000,    /* sets that the queue remembers */
    RECONCILE_MS = 60000,
    MOST_ROUNDS = 6
};

/* ---- coming to rest ---- */

/* The one of two copies that has noticed is told to stop, as a person would. */
static bool stops_as_copy(struct device *d, const clawsync_status *st)
{
    if (!d->copied || st->state != CLAWSYNC_STATE_NEEDS_YOU || strstr(st->last_error.msg, "DEVICE_CLONED") == NULL)
        return false;
    note(d->run, "%s is a copy, and stops", d->name);
    d->gone = true;
    device_close(d);
    return true;
}

static void stop_copies(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++) {
        clawsync_status st = { .size = sizeof st };

        if (!is_there(&r->devices[i]))
            continue;
        must(r, clawsync_engine_status(r->devices[i].engine, &st, NULL), NULL, "status");
        stops_as_copy(&r->devices[i], &st);
    }
}

static bool is_settled(struct device *d, uint64_t *number)
{
    static const char waiting[] = "SELECT (SELECT count(*) FROM sync_changelog) + (SELECT count(*) FROM sync_unsent) + "
                                  "(SELECT count(*) FROM sync_bound WHERE state = 0) + "
                                  "(SELECT count(*) FROM sync_meta WHERE name = 'publish')";
    clawsync_status st = { .size = sizeof st };
    clawsync_error err;
    uint64_t first = *number;

    must(d->run, clawsync_engine_status(d->engine, &st, &err), &err, "status");
    if (stops_as_copy(d, &st))
        return true;
    *number = st.log_number;
    return st.state == CLAWSYNC_STATE_IN_SYNC && st.unsealed == 0 && st.unsent == 0 && st.bound_batches == 0 &&
           (first == 0 || first == st.log_number) &&
           /* the status is as of the last look, and a write may wait for the next */
           ask(d->run, d->disk, d->db, waiting) == 0;
}

static bool all_settled(struct run *r)
{
    uint64_t number = 0;

    for (unsigned i = 0; i < r->ndevices; i++)
        if (is_there(&r->devices[i]) && !is_settled(&r->devices[i], &number))
            return false;
    return true;
}

static void tell_states(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++) {
        clawsync_status st = { .size = sizeof st };

        if (r->devices[i].engine == NULL)
            continue;
        clawsync_engine_status(r->devices[i].engine, &st, NULL);
        fprintf(stderr,
                "%s: state %d unsealed %" PRId64 " unsent %" PRId64 " bound %" PRId64 " log %" PRIu64 " of %" PRIu64
                " error %s\n",
                r->devices[i].name, (int)st.state, st.unsealed, st.unsent, st.bound_batches, st.log_number,
                st.hub_log_number, st.last_error.msg);
    }
}

static bool all_equal(struct run *r)
{
    struct cs_buf first = { 0 }, other = { 0 };
    struct cs_error err;
    bool equal = true;

    for (unsigned i = 0; i < r->ndevices && equal; i++) {
        struct device *d = &r->devices[i];

        if (!is_there(d))
            continue;
        cs_buf_reset(&other);
        must(r, cs_replica_dump(d->engine->replica, first.len == 0 ? &first : &other, &err), &err, "dump");
        equal = other.len == 0 || cs_slice_eq(cs_buf_slice(&first), cs_buf_slice(&other));
    }
    cs_buf_free(&first);
    cs_buf_free(&other);
    return equal;
}

/* Has everyone read all that the hub has? A head may be on its way to who does not know of it yet. */
static bool all_at_head(struct run *r)
{
    uint64_t number = (uint64_t)ask(r, r->hub.disk, HUB_DATABASE, "SELECT number FROM workspace");
    struct cs_pull_mark mark;

    for (unsigned i = 0; i < r->ndevices; i++) {
        if (!is_there(&r->devices[i]))
            continue;
        cs_replica_pull_mark(r->devices[i].engine->replica, &mark);
        if (mark.number != number)
            return false;
    }
    return true;
}

static void wait_for_rest(struct run *r)
{
    uint64_t end = cs_sim_now_ms(r->sim) + REST_HOURS * HOUR_MS;

    for (unsigned looks = 0;;) {
        pass(r, 1000); /* the least that it takes to be noticed */
        find_revoked(r);
        if (!all_settled(r)) {
            if (cs_sim_now_ms(r->sim) > end) {
                tell_states(r);
                die(r, "the devices do not come to rest");
            }
            continue;
        }
        if (all_at_head(r))
            return;
        if (++looks > LOOKS)
            die(r, "the devices rest and have not read all");
    }
}

static void heal_all(struct run *r)
{
    cs_sim_set_weather(r->sim, (struct cs_sim_weather){ 0, 0 });
    for (unsigned i = 0; i < r->ndevices; i++) {
        connect_up(&r->devices[i]);
        heal(&r->devices[i]);
        cs_sim_freeze(r->devices[i].world, false);
        cs_sim_skew(r->devices[i].world, (int64_t)draw(r, 40000) - 20000);
    }
    cs_sim_freeze(r->hub.world, false);
    cs_sim_skew(r->hub.world, 0);
    heal_hub(r);
    pass(r, 1);
    raise_the_dead(r);
    for (unsigned i = 0; i < r->ndevices; i++)
        if (is_there(&r->devices[i]))
            resume(&r->devices[i]);
}

/* ---- what must hold ---- */

static void check_sound(struct run *r, struct sim_disk *disk, const char *path)
{
    if (ask(r, disk, path, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'") != 0)
        die(r, "%s is damaged", path);
}

/* A version names two values where two devices had the same identity, from the time on when one became the other, or
 * where one value was changed behind our back, by somebody or by a disk. */
static bool may_be_double(struct device *d, struct cs_slice key, int64_t stamp, struct cs_slice device)
{
    const struct run *r = d->run;
    struct cs_reader rd = cs_reader(key);
    struct cs_value part;
    struct cs_uuid id;
    unsigned row;

    if (r->device_rotten)
        return true;
    for (unsigned i = 0; i < r->ndevices; i++)
        if (r->devices[i].copied && cs_uuid_parse(&id, r->devices[i].id) &&
            cs_slice_eq(device, cs_slice(id.b, sizeof id.b)) && stamp > r->copied_at_hlc)
            return true;
    if (!cs_key_next(&rd, &part) || part.type != CS_TEXT || part.u.bytes.len != 2 || part.u.bytes.data[0] != 'm')
        return false;
    row = (unsigned)(part.u.bytes.data[1] - '0');
    return row < IDS && r->blurred[row] != 0;
}

static void check_doubles(struct device *d)
{
    static const char sql[] = "SELECT key, stamp, device FROM sync_conflicts WHERE why = 'copied-device'";
    sqlite3 *db = look_into(d->run, d->disk, d->db);
    sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        die(d->run, "%s: %s", d->name, sqlite3_errmsg(db));
    while (sqlite3_step(s) == SQLITE_ROW) {
        struct cs_slice key = cs_slice(sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0));
        struct cs_slice device = cs_slice(sqlite3_column_blob(s, 2), (size_t)sqlite3_column_bytes(s, 2));

        if (!may_be_double(d, key, sqlite3_column_int64(s, 1), device))
            die(d->run, "%s met one version with two values", d->name);
    }
    sqlite3_finalize(s);
    close_look(d->disk, db);
}

static void check_files(struct device *d)
{
    char path[64];
    struct run *r = d->run;

    check_sound(r, d->disk, d->db);
    snprintf(path, sizeof path, "%s/audit.db", d->state);
    check_sound(r, d->disk, path);
    snprintf(path, sizeof path, "%s/queue.db", d->state);
    check_sound(r, d->disk, path);
    check_doubles(d);
    if (ask(r, d->disk, d->db, "SELECT count(*) FROM sync_bound") > MOST_BOUND)
        die(r, "%s keeps too many batches", d->name);
}

/* The application's tables as text; columns that only some have are left out unless both have them. */
static void tables(struct device *d, bool extra, bool context, struct cs_buf *out)
{
    const char *const sql[] = { "SELECT id, content, weight, seen FROM memories ORDER BY id",
                                "SELECT memory_id, tag FROM memory_tags ORDER BY memory_id, tag",
                                "SELECT id, name, state FROM sessions ORDER BY id",
                                "SELECT id, slot FROM active_memory ORDER BY id",
                                "SELECT id, slot FROM tool_outputs ORDER BY id",
                                extra ? "SELECT id, extra FROM memories ORDER BY id" : NULL,
                                context ? "SELECT key, value FROM context ORDER BY key" : NULL };
    sqlite3 *db = look_into(d->run, d->disk, d->db);

    for (size_t q = 0; q < sizeof sql / sizeof sql[0]; q++) {
        sqlite3_stmt *s = NULL;

        if (sql[q] == NULL)
            continue;
        if (sqlite3_prepare_v2(db, sql[q], -1, &s, NULL) != SQLITE_OK)
            die(d->run, "%s: %s", d->name, sqlite3_errmsg(db));
        while (sqlite3_step(s) == SQLITE_ROW) {
            for (int i = 0; i < sqlite3_column_count(s); i++)
                cs_buf_printf(out, "%s|",
                              sqlite3_column_type(s, i) == SQLITE_NULL ? "-" : (const char *)sqlite3_column_text(s, i));
            cs_buf_put_str(out, "\n");
        }
        sqlite3_finalize(s);
    }
    close_look(d->disk, db);
}

/* The first line that differs. */
__attribute__((noreturn)) static void tell_difference(const struct device *a, const struct device *b,
                                                      struct cs_buf *first, struct cs_buf *other)
{
    const char *x, *y;
    size_t i = 0, line = 0;

    cs_buf_put_u8(first, 0);
    cs_buf_put_u8(other, 0);
    x = (const char *)first->data;
    y = (const char *)other->data;
    for (; x[i] != '\0' && x[i] == y[i]; i++)
        line = x[i] == '\n' ? i + 1 : line;
    die(a->run, "the tables of %s and %s differ: %.*s and %.*s", a->name, b->name, (int)strcspn(x + line, "\n"),
        x + line, (int)strcspn(y + line, "\n"), y + line);
}

static void check_pair(struct device *a, struct device *b)
{
    struct cs_buf first = { 0 }, other = { 0 };

    tables(a, a->extra && b->extra, a->context && b->context, &first);
    tables(b, a->extra && b->extra, a->context && b->context, &other);
    if (!cs_slice_eq(cs_buf_slice(&first), cs_buf_slice(&other)))
        tell_difference(a, b, &first, &other);
    cs_buf_free(&first);
    cs_buf_free(&other);
}

static void check_queue(struct device *d)
{
    struct cs_queue_counts n;
    struct cs_error err;

    must(d->run, cs_queue_counts(d->engine->queue, &n, &err), &err, "queue");
    note(d->run, "%s's queue: %" PRIu64 " done", d->name, n.done);
    if (n.pending + n.in_flight + n.failed > 0)
        die(d->run, "%s's queue: %" PRIu64 " pending, %" PRIu64 " in flight, %" PRIu64 " failed", d->name, n.pending,
            n.in_flight, n.failed);
    if (n.done > MOST_DONE)
        die(d->run, "%s's queue remembers %" PRIu64 " sets", d->name, n.done);
}

static void check_memory(struct run *r)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    if (u.ru_maxrss > MOST_MEMORY * 1024)
        die(r, "%ld KiB of memory were in use", u.ru_maxrss);
}

static void check_all(struct run *r)
{
    const struct device *before = NULL;

    check_log(r);
    check_sound(r, r->hub.disk, HUB_DATABASE);
    check_memory(r);
    for (unsigned i = 0; i < r->ndevices; i++) {
        struct device *d = &r->devices[i];

        if (!is_there(d))
            continue;
        if (before != NULL)
            check_pair(&r->devices[before - r->devices], d);
        before = d;
        check_nothing_invented(d);
        check_own(d);
        check_queue(d);
        check_files(d);
        d->restored = false;
    }
}

/* Whoever could not join is let in, and all have one schema. */
static void complete(struct run *r)
{
    struct device *by = &r->devices[0];

    while (!is_there(by))
        by++;
    for (unsigned i = 0; i < r->ndevices; i++) {
        struct device *d = &r->devices[i];

        for (int tries = 0; !d->member; tries++)
            if (!join(d, by) && tries == 2)
                die(r, "%s cannot join", d->name);
        if (!is_there(d))
            continue;
        add_column(d);
        if (d->context)
            continue;
        device_close(d);
        add_context(d);
        device_start(d);
    }
}

/* Afterwards a write of each device, one after the other, is what all show: the later one has the later stamp. */
static void write_in_turn(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++) {
        if (!is_there(&r->devices[i]))
            continue;
        write_shared(&r->devices[i]);
        write_own(&r->devices[i], 1);
        wait_for_rest(r);
    }
}

/* ---- reconciling ---- */

void reconcile_begin(struct device *d)
{
    d->wish = (struct cs_reconcile_wish){ .wait_ms = RECONCILE_MS };
    command_begin(d, (struct cs_command){ .kind = CS_CMD_STEPS, .step = { cs_step_reconcile }, .arg = &d->wish });
}

/* Whoever is configured to try nothing twice is told of a connection that broke before all was well, and asks again. */
static void reconcile_now(struct device *d)
{
    bool again = d->config.max_retries == 0;

    reconcile_begin(d);
    await_commands(d->run);
    if (again && command_ended(d) && d->command.rc == CS_EUNAVAILABLE) {
        reconcile_begin(d);
        await_commands(d->run);
    }
}

/* Does it find anything? */
static bool reconcile_one(struct device *d)
{
    const clawsync_reconciled *found = &d->wish.result.report;

    reconcile_now(d);
    if (!command_ended(d))
        die(d->run, "%s dies as it reconciles", d->name);
    if (d->command.rc != CS_OK && d->copied) { /* it notices what it is */
        pass(d->run, 60000);
        stop_copies(d->run);
        return true;
    }
    if (d->command.rc == CS_EAUTH)
        find_revoked(d->run); /* a removal may have been on its way when all seemed to rest */
    d->commanded = false;
    if (d->gone)
        return false;
    must(d->run, d->command.rc, &d->command.err, "reconciling");
    note(d->run,
         "%s reconciles: missing %" PRIu64 " and %" PRIu64 ", conflicting %" PRIu64 ", sealed %" PRIu64
         ", published %" PRIu64,
         d->name, found->missing_here, found->missing_there, found->conflicting, found->sealed, found->published);
    return found->missing_here + found->missing_there + found->conflicting + found->sealed + found->published > 0;
}

static bool are_copies(const struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++)
        if (r->devices[i].copied)
            return true;
    return false;
}

/* What was written behind our back is found, and levelled; where nothing was, nothing is found. */
static void reconcile_all(struct run *r)
{
    bool found = true;

    for (int rounds = 0; found; rounds++) {
        found = false;
        for (unsigned i = 0; i < r->ndevices; i++)
            if (is_there(&r->devices[i]) && reconcile_one(&r->devices[i]))
                found = true;
        if (found && !r->unseen && !are_copies(r))
            die(r, "reconciling finds what is not there");
        if (rounds == MOST_ROUNDS)
            die(r, "reconciling does not come to an end");
    }
    r->unseen = false;
    wait_for_rest(r);
}

static unsigned copies_there(const struct run *r)
{
    unsigned n = 0;

    for (unsigned i = 0; i < r->ndevices; i++)
        n += is_there(&r->devices[i]) && r->devices[i].copied;
    return n;
}

/* Two copies of a device that both go on writing do not go on for long. */
static void copies_meet(struct run *r)
{
    for (int rounds = 0; copies_there(r) > 1; rounds++) {
        if (rounds == MOST_ROUNDS)
            die(r, "two copies of a device are at work, and neither is told");
        for (unsigned i = 0; i < r->ndevices; i++)
            if (is_there(&r->devices[i]) && r->devices[i].copied) {
                write_own(&r->devices[i], 1);
                wait_for_rest(r);
            }
    }
}

void settle(struct run *r, bool last)
{
    note(r, "all is well from now on");
    r->rests++;
    heal_all(r);
    refill_for_good(r);
    if (!r->unseen) /* an edit of a row whose values are gone waits for them */
        wait_for_rest(r);
    if (!r->unseen && draw(r, 6) == 0) {
        renew_one(r);
        wait_for_rest(r);
    }
    if (r->unseen || draw(r, 4) == 0)
        reconcile_all(r);
    check_all(r);
    if (!last)
        return;
    complete(r);
    write_in_turn(r);
    copies_meet(r);
    check_all(r);
}

/* ---- the last acts ---- */

static bool has_told(struct device *d)
{
    clawsync_status st = { .size = sizeof st };

    clawsync_engine_status(d->engine, &st, NULL);
    return st.state != CLAWSYNC_STATE_IN_SYNC || d->told;
}

/* Bits of the hub's database have rotted: what comes of it may be missing, and is then told of, but never is it another
 * value than one that was written. */
static void rot_hub(struct run *r)
{
    struct device *d = &r->devices[0];
    struct cs_error err;

    note(r, "the hub's disk rots");
    r->hub_rotten = true;
    hub_stop(r, 0);
    for (uint64_t n = 1 + draw(r, 40); n > 0; n--)
        sim_disk_rot(r->hub.disk, HUB_DATABASE);
    for (unsigned i = 0; i < r->ndevices; i++)
        r->devices[i].told = false;
    if (hub_try_start(r, &err) != CS_OK) {
        note(r, "the hub does not start: %s", err.msg);
        return;
    }
    if ((d = device_init(r)) != NULL) {
        for (struct device *by = r->devices; by < d && !d->member; by++)
            if (is_there(by) && join(d, by))
                note(r, "%s is let in all the same", d->name);
    }
    for (int i = 0; i < 4; i++)
        for (unsigned k = 0; k < r->ndevices; k++) {
            pass(r, draw(r, 60000));
            if (is_there(&r->devices[k]))
                write_shared(&r->devices[k]);
        }
    pass(r, HOUR_MS / 12);
    for (unsigned i = 0; i < r->ndevices; i++)
        if (is_there(&r->devices[i]))
            check_nothing_invented(&r->devices[i]);
    if (all_equal(r))
        return;
    for (unsigned i = 0; i < r->ndevices; i++)
        if (is_there(&r->devices[i]) && has_told(&r->devices[i]))
            return;
    die(r, "the hub's disk has rotted, devices differ, and nobody says so");
}

/* A device's files, as far as its disk can have them rot. The keystore is sealed, and is tested for each bit. */
static void rot_files(struct device *d)
{
    const struct {
        const char *folder, *name;
    } files[] = { { d->db, "" },
                  { d->db, "-wal" },
                  { d->state, "/queue.db" },
                  { d->state, "/queue.db-wal" },
                  { d->state, "/audit.db" } };
    struct run *r = d->run;

    for (uint64_t n = 1 + draw(r, UINT64_C(1) << draw(r, 6)); n > 0; n--) {
        uint64_t which = draw(r, 2 * (sizeof files / sizeof files[0]));
        char path[64];

        which = which < sizeof files / sizeof files[0] ? which : 0;
        snprintf(path, sizeof path, "%s%s", files[which].folder, files[which].name);
        sim_disk_rot(d->disk, path);
    }
}

/* Bits of a device's databases have rotted. What it shows and sends from then on is its own matter, and a changed value
 * that it finds as it reconciles is an edit, or one of two that want a decision; but it does not crash, and the others
 * go on, are equal and accuse nobody. */
static void rot_device(struct run *r)
{
    struct device *d = &r->devices[draw(r, r->ndevices)];
    clawsync_error err = { 0 };
    unsigned there = 0;

    for (unsigned i = 0; i < r->ndevices; i++)
        there += is_there(&r->devices[i]) ? 1 : 0;
    if (there < 2 || !is_there(d) || d->copied)
        return;
    note(r, "%s's disk rots", d->name);
    if (draw(r, 2) == 0)
        device_close(d);
    else
        device_kill(d, false);
    d->gone = r->device_rotten = true;
    rot_files(d);
    if (device_try_open(d, &err) != CLAWSYNC_OK || clawsync_engine_start(d->engine, &err) != CLAWSYNC_OK)
        note(r, "%s does not start: %s", d->name, err.msg);
    for (int i = 0; i < 3; i++) {
        for (unsigned k = 0; k < r->ndevices; k++) {
            pass(r, draw(r, 60000));
            if (is_there(&r->devices[k]))
                write_own(&r->devices[k], 1 + (unsigned)draw(r, 5));
        }
        if (d->engine != NULL) {
            reconcile_begin(d);
            await_commands(r);
            note(r, "%s reconciles: %d %s", d->name, d->command.rc, d->command.err.msg);
            d->commanded = false;
        }
    }
    wait_for_rest(r);
    for (unsigned i = 0; i < r->ndevices; i++)
        if (is_there(&r->devices[i]))
            check_files(&r->devices[i]);
    if (!all_equal(r))
        die(r, "a device's disk has rotted, and the others differ");
}

/* The hub is as it was before: nobody takes that for the truth, and nobody loses what it has. */
static void roll_hub_back(struct run *r)
{
    uint64_t number = 0, before;
    struct cs_pull_mark mark;

    note(r, "the hub goes back to a backup");
    hub_stop(r, 0);
    sim_disk_copy(r->hub.disk, "/hub/live", "/hub/backup");
    hub_start(r);
    for (unsigned i = 0; i < r->ndevices; i++)
        if (is_there(&r->devices[i]))
            write_own(&r->devices[i], 1 + (unsigned)draw(r, 20));
    wait_for_rest(r);
    hub_stop(r, 0);
    sim_disk_copy(r->hub.disk, "/hub/backup", "/hub/live");
    r->hub_lost = true;
    hub_start(r);
    pass(r, HOUR_MS / 12);
    for (unsigned i = 0; i < r->ndevices; i++) {
        struct device *d = &r->devices[i];

        if (!is_there(d))
            continue;
        cs_replica_pull_mark(d->engine->replica, &mark);
        before = number;
        number = mark.number;
        if (before != 0 && before != number)
            die(r, "%s has read the hub's log up to %" PRIu64 ", another device up to %" PRIu64, d->name, number,
                before);
        if (!has_told(d))
            die(r, "%s takes the hub that went back for the one that it knew", d->name);
        check_own(d);
        check_nothing_invented(d);
    }
    if (may_lose(r))
        settle(r, true);
}

void last_acts(struct run *r)
{
    switch (draw(r, 8)) {
    case 0:
        rot_hub(r);
        return;
    case 1:
        roll_hub_back(r);
        return;
    case 2:
        rot_device(r);
        return;
    default:
        return;
    }
}
