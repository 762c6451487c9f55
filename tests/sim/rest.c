#include <inttypes.h>
#include <string.h>

#include "sim/system.h"

enum { LOOKS = 200 }; /* a second apart: a head may be on its way to who does not know of it yet */

static void dump(struct device *d, struct cs_buf *out)
{
    struct cs_error err;

    must(d->run, cs_replica_dump(d->engine->replica, out, &err), &err, "dump");
}

static bool is_settled(struct device *d, uint64_t *number)
{
    clawsync_status st = { .size = sizeof st };
    clawsync_error err;
    uint64_t first = *number;

    must(d->run, clawsync_engine_status(d->engine, &st, &err), &err, "status");
    *number = st.log_number;
    return st.state == CLAWSYNC_STATE_IN_SYNC && st.unsealed == 0 && st.unsent == 0 && st.bound_batches == 0 &&
           (d == &d->run->devices[0] || first == st.log_number);
}

static bool all_settled(void *arg)
{
    struct run *r = arg;
    uint64_t number = 0;

    for (unsigned i = 0; i < r->ndevices; i++)
        if (!is_settled(&r->devices[i], &number))
            return false;
    return true;
}

static bool all_equal(struct run *r)
{
    struct cs_buf first = { 0 }, other = { 0 };
    bool equal = true;

    dump(&r->devices[0], &first);
    for (unsigned i = 1; i < r->ndevices && equal; i++) {
        cs_buf_reset(&other);
        dump(&r->devices[i], &other);
        equal = cs_slice_eq(cs_buf_slice(&first), cs_buf_slice(&other));
    }
    cs_sim_note(r->sim, cs_buf_slice(&first));
    cs_buf_free(&first);
    cs_buf_free(&other);
    return equal;
}

static void tell_states(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++) {
        clawsync_status st = { .size = sizeof st };

        clawsync_engine_status(r->devices[i].engine, &st, NULL);
        fprintf(stderr,
                "%s: state %d unsealed %" PRId64 " unsent %" PRId64 " bound %" PRId64 " log %" PRIu64 " of %" PRIu64
                " error %s\n",
                r->devices[i].name, (int)st.state, st.unsealed, st.unsent, st.bound_batches, st.log_number,
                st.hub_log_number, st.last_error.msg);
    }
}

static void check_files(struct run *r)
{
    static const char sound[] = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'";
    static const char gaps[] = "SELECT max(number) - count(*) + (min(number) <> 1) FROM log";

    static const char copies[] = "SELECT count(*) FROM sync_conflicts WHERE why = 'copied-device'";

    for (unsigned i = 0; i < r->ndevices; i++) {
        struct device *d = &r->devices[i];

        if (ask(r, d->disk, d->db, sound) != 0)
            die(r, "%s: the database is damaged", d->name);
        if (ask(r, d->disk, d->db, copies) != 0)
            die(r, "%s met one version with two values", d->name);
    }
    if (ask(r, r->hub.disk, "/hub/hub.db", sound) != 0)
        die(r, "the hub's database is damaged");
    if (ask(r, r->hub.disk, "/hub/hub.db", gaps) != 0)
        die(r, "the hub's log has gaps");
}

/* The application's tables as text. */
static void tables(struct device *d, struct cs_buf *out)
{
    static const char *const sql[] = { "SELECT id, content, weight, seen FROM memories ORDER BY id",
                                       "SELECT memory_id, tag FROM memory_tags ORDER BY memory_id, tag" };
    sqlite3 *db = NULL;

    if (sqlite3_open_v2(d->db, &db, SQLITE_OPEN_READONLY, sim_disk_vfs(d->disk)) != SQLITE_OK)
        die(d->run, "%s: cannot open the database: %s", d->name, sqlite3_errmsg(db));
    for (int q = 0; q < 2; q++) {
        sqlite3_stmt *s = NULL;

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
    sqlite3_close(db);
}

/* Nothing is left in a queue that says it waits. */
static void check_queues(struct run *r)
{
    for (unsigned i = 0; i < r->ndevices; i++) {
        struct cs_queue_counts n;
        struct cs_error err;

        must(r, cs_queue_counts(r->devices[i].engine->queue, &n, &err), &err, "queue");
        note(r, "%s's queue: %" PRIu64 " done", r->devices[i].name, n.done);
        if (n.pending + n.in_flight + n.failed > 0)
            die(r, "%s's queue: %" PRIu64 " pending, %" PRIu64 " in flight, %" PRIu64 " failed", r->devices[i].name,
                n.pending, n.in_flight, n.failed);
    }
}

static void check_tables(struct run *r)
{
    struct cs_buf first = { 0 }, other = { 0 };

    tables(&r->devices[0], &first);
    for (unsigned i = 1; i < r->ndevices; i++) {
        cs_buf_reset(&other);
        tables(&r->devices[i], &other);
        if (!cs_slice_eq(cs_buf_slice(&first), cs_buf_slice(&other)))
            die(r, "the tables differ:\n%.*s---\n%.*s", (int)first.len, (const char *)first.data, (int)other.len,
                (const char *)other.data);
    }
    cs_buf_put_u8(&first, 0);
    for (unsigned i = 0; i < r->ndevices; i++)
        for (unsigned k = 0; k < r->devices[i].own; k++) {
            char row[128];

            snprintf(row, sizeof row, "%s-%u|from %s %u|", r->devices[i].name, k, r->devices[i].name, k);
            if (strstr((const char *)first.data, row) == NULL)
                die(r, "a row is lost: %s", row);
        }
    cs_buf_free(&first);
    cs_buf_free(&other);
}

void settle(struct run *r)
{
    uint64_t end = cs_sim_now_ms(r->sim) + 6 * HOUR_MS;
    unsigned looks = 0;

    note(r, "all is well from now on");
    for (unsigned i = 0; i < r->ndevices; i++) {
        cs_sim_partition(r->sim, r->devices[i].world, r->hub.world, CS_SIM_UP);
        heal(&r->devices[i]);
        cs_sim_skew(r->devices[i].world, (int64_t)draw(r, 40000) - 20000);
    }
    cs_sim_skew(r->hub.world, 0);
    sim_disk_faults(r->hub.disk, NULL);
    if (!sim_disk_is_down(r->hub.disk))
        sim_disk_crash_at(r->hub.disk, 0, false);
    pass(r, 1);
    raise_the_dead(r);
    do {
        pass(r, 1000);
        if (!cs_sim_run(r->sim, 6 * HOUR_MS, all_settled, r) || cs_sim_now_ms(r->sim) > end) {
            tell_states(r);
            die(r, "the devices do not come to rest");
        }
        if (++looks > LOOKS)
            die(r, "the devices rest and differ");
    } while (!all_equal(r));
    check_queues(r);
    check_tables(r);
    check_files(r);
}
