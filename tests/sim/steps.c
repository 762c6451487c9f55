#include "sim/system.h"

enum { SHARED = 12 };

#define YEAR_MS INT64_C(31557600000)

static void write_shared(struct device *d)
{
    struct run *r = d->run;
    unsigned id = (unsigned)draw(r, SHARED), value = (unsigned)draw(r, 1000000);
    char sql[500];

    switch (draw(r, 6)) {
    case 0:
        snprintf(sql, sizeof sql, "DELETE FROM memories WHERE id = 'm%u'", id);
        break;
    case 1:
        snprintf(sql, sizeof sql, "UPDATE memories SET seen = seen + 1 WHERE id <= 'm%u'", id);
        break;
    case 2:
        snprintf(sql, sizeof sql,
                 "INSERT OR IGNORE INTO memory_tags SELECT id, 't%u' FROM memories WHERE id LIKE 'm%%'", value % 3);
        break;
    case 3:
        snprintf(sql, sizeof sql, "UPDATE memories SET weight = %u.5 WHERE id = 'm%u'", value, id);
        break;
    default:
        snprintf(sql, sizeof sql,
                 "INSERT INTO memories(id, content) VALUES('m%u', 'v%u') ON CONFLICT(id) DO UPDATE SET content = 'v%u'",
                 id, value, value);
    }
    app(d, sql);
}

static void write_own(struct device *d, unsigned n)
{
    char sql[500];

    snprintf(sql, sizeof sql,
             "WITH RECURSIVE c(i) AS (VALUES(%u) UNION ALL SELECT i + 1 FROM c WHERE i + 1 < %u) "
             "INSERT INTO memories(id, content) SELECT '%s-' || i, 'from %s ' || i FROM c",
             d->own, d->own + n, d->name, d->name);
    d->own += n;
    app(d, sql);
}

/* Mostly within seconds of the others'; now and then a year off. */
static void jump(struct run *r, struct cs_world *host)
{
    int64_t ms = (int64_t)draw(r, 330000) - 300000;

    switch (draw(r, 8)) {
    case 0:
        ms += YEAR_MS;
        break;
    case 1:
        ms -= YEAR_MS;
        break;
    default:
        break;
    }
    cs_sim_skew(host, ms);
}

static void wake(struct device *d)
{
    if (cs_sim_lives(d->world))
        return;
    device_close(d);
    device_start(d);
}

void raise_the_dead(struct run *r)
{
    if (!cs_sim_lives(r->hub.world)) {
        hub_kill(r, false);
        hub_start(r);
    }
    for (unsigned i = 0; i < r->ndevices; i++)
        wake(&r->devices[i]);
}

/* For so long that devices give up, queue what is bound, and go on trying. */
static void write_without_a_hub(struct run *r)
{
    note(r, "no hub for long");
    for (int i = 0; i < 4; i++) {
        struct device *d = &r->devices[draw(r, r->ndevices)];

        wake(d);
        write_own(d, 1 + (unsigned)draw(r, 100));
        write_shared(d);
        pass(r, 1 + draw(r, HOUR_MS / 4));
    }
}

static void something_with_the_hub(struct run *r)
{
    switch (draw(r, 6)) {
    case 3:
        note(r, "hub's clock jumps");
        jump(r, r->hub.world);
        return;
    case 0:
        hub_stop(r, (uint32_t)draw(r, 2) * 5000);
        break;
    case 1:
        note(r, "hub crashes at a write of its database");
        sim_disk_crash_at(r->hub.disk, 1 + (unsigned)draw(r, 20), draw(r, 2) == 0);
        return;
    case 2:
        note(r, "hub's disk fails at times");
        sim_disk_faults(r->hub.disk, &r->faults);
        return;
    default:
        hub_kill(r, draw(r, 2) == 0);
    }
    if (draw(r, 8) == 0)
        write_without_a_hub(r);
    else
        pass(r, draw(r, 20000));
    hub_start(r);
}

static void something_with_the_network(struct run *r)
{
    struct device *d = &r->devices[draw(r, r->ndevices)];
    enum cs_sim_link how = (enum cs_sim_link)draw(r, 3);

    note(r, "%s's network %d", d->name, (int)how);
    cs_sim_partition(r->sim, d->world, r->hub.world, how);
}

/* Back to an old copy of the database; not while it holds what nobody else has, for that would be lost by right. */
static void restore(struct device *d)
{
    static const char sql[] = "SELECT (SELECT count(*) FROM sync_changelog) + (SELECT count(*) FROM sync_unsent) + "
                              "(SELECT count(*) FROM sync_bound WHERE state = 0)";

    cs_sim_partition(d->run->sim, d->world, d->run->hub.world, CS_SIM_UP);
    heal(d);
    pass(d->run, 60000);
    device_close(d);
    if (ask(d->run, d->disk, d->db, sql) == 0 && sim_disk_restore(d->disk, d->db))
        note(d->run, "%s goes back to its backup", d->name);
}

static void rotate(struct device *d)
{
    clawsync_error err = { 0 };
    uint32_t epoch = 0;
    int rc;

    heal(d); /* nobody can wait for an engine that dies */
    rc = clawsync_engine_rotate_keys(d->engine, &epoch, &err);
    note(d->run, "%s rotates the key: %d, epoch %u %s", d->name, rc, (unsigned)epoch, err.msg);
}

static void something_with_a_device(struct device *d)
{
    struct run *r = d->run;
    bool full;

    switch (draw(r, 11)) {
    case 0:
        device_close(d);
        break;
    case 9:
        note(r, "%s is backed up", d->name);
        device_close(d);
        sim_disk_backup(d->disk, d->db);
        break;
    case 10:
        restore(d);
        break;
    case 1:
        device_kill(d, draw(r, 2) == 0);
        break;
    case 2:
        note(r, "%s crashes at a write of a file", d->name);
        cs_sim_crash_at_write(d->world, 1 + (unsigned)draw(r, 4));
        return;
    case 3:
        full = draw(r, 2) != 0;
        note(r, full ? "%s's disk is full" : "%s's disk has room", d->name);
        cs_sim_disk_full(d->world, full);
        sim_disk_full(d->disk, full);
        return;
    case 6:
        note(r, "%s crashes at a write of its databases", d->name);
        sim_disk_crash_at(d->disk, 1 + (unsigned)draw(r, 20), draw(r, 2) == 0);
        return;
    case 7:
        note(r, "%s's disk fails at times", d->name);
        sim_disk_faults(d->disk, &r->faults);
        return;
    case 8:
        note(r, "%s's disk is well", d->name);
        sim_disk_faults(d->disk, NULL);
        return;
    case 4:
        note(r, "%s's clock jumps", d->name);
        jump(r, d->world);
        return;
    case 5:
        rotate(d);
        return;
    default:
        clawsync_engine_notify(d->engine);
        return;
    }
    pass(r, draw(r, 10000));
    device_start(d);
}

/* Rows at once: a few, a batch or two, more than a slice is sealed of. */
static unsigned how_many(struct run *r)
{
    static const unsigned most[] = { 5, 5, 5, 5, 5, 5, 5, 5, 300, 300, 1500 };

    return 1 + (unsigned)draw(r, most[draw(r, sizeof most / sizeof most[0])]);
}

void step(struct run *r)
{
    struct device *d = &r->devices[draw(r, r->ndevices)];
    uint64_t what = draw(r, 24);

    pass(r, 1); /* who crashes does so at the end of an event */
    raise_the_dead(r);
    if (what < 9)
        write_shared(d);
    else if (what < 12)
        write_own(d, how_many(r));
    else if (what < 14)
        something_with_the_network(r);
    else if (what < 16)
        something_with_the_hub(r);
    else if (what < 21)
        something_with_a_device(d);
    pass(r, draw(r, 3) == 0 ? draw(r, 60000) : draw(r, 300));
}
