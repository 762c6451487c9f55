#include <inttypes.h>
#include <string.h>

#include "sim/system.h"

/* ---- life and death ---- */

static void wake(struct device *d)
{
    if (d->engine == NULL || cs_sim_lives(d->world))
        return;
    device_close(d);
    if (is_there(d))
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

static void restart(struct device *d)
{
    pass(d->run, draw(d->run, 10000));
    device_start(d);
}

static void close_and_start(struct device *d)
{
    device_close(d);
    restart(d);
}

static void kill_it(struct device *d)
{
    device_kill(d, false);
    restart(d);
}

static void cut_its_power(struct device *d)
{
    device_kill(d, true);
    restart(d);
}

static void crash_at_file(struct device *d)
{
    cs_sim_crash_at_write(d->world, 1 + (unsigned)draw(d->run, 4));
}

static void crash_at_write(struct device *d)
{
    sim_disk_crash_at(d->disk, 1 + (unsigned)draw(d->run, 20), draw(d->run, 2) == 0);
}

static void fill_disk(struct device *d)
{
    bool full = draw(d->run, 2) != 0;

    cs_sim_disk_full(d->world, full);
    sim_disk_full(d->disk, full);
}

static void fail_disk(struct device *d)
{
    sim_disk_faults(d->disk, draw(d->run, 3) == 0 ? NULL : &d->run->faults);
}

/* ---- clocks ---- */

/* Mostly within minutes of the others'; now and then a year off. */
static void jump(struct run *r, struct cs_world *host)
{
    int64_t ms = (int64_t)draw(r, 1200000) - 600000;

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

static void jump_clock(struct device *d)
{
    jump(d->run, d->world);
}

static void freeze_clock(struct device *d)
{
    cs_sim_freeze(d->world, draw(d->run, 2) == 0);
}

static void jump_hub(struct device *d)
{
    jump(d->run, d->run->hub.world);
}

static void freeze_hub(struct device *d)
{
    cs_sim_freeze(d->run->hub.world, draw(d->run, 2) == 0);
}

/* ---- the network ---- */

static void link_up(struct device *d)
{
    connect_up(d);
}

static void hold_link(struct device *d)
{
    cs_sim_partition(d->run->sim, d->world, d->run->hub.world, CS_SIM_HELD);
}

static void break_link(struct device *d)
{
    cs_sim_partition(d->run->sim, d->world, d->run->hub.world, CS_SIM_BROKEN);
}

static void one_way(struct device *d)
{
    struct run *r = d->run;
    bool to_hub = draw(r, 2) == 0;

    cs_sim_partition_one_way(r->sim, to_hub ? d->world : r->hub.world, to_hub ? r->hub.world : d->world,
                             draw(r, 2) == 0 ? CS_SIM_HELD : CS_SIM_BROKEN);
}

static void weather(struct device *d)
{
    struct run *r = d->run;
    struct cs_sim_weather w = { UINT32_C(64) << draw(r, 11), UINT32_C(16) << draw(r, 11) };

    if (draw(r, 3) == 0)
        w = (struct cs_sim_weather){ 0, 0 };
    cs_sim_set_weather(r->sim, w);
}

/* ---- the hub ---- */

static void stop_hub(struct device *d)
{
    hub_stop(d->run, (uint32_t)draw(d->run, 2) * 5000);
    pass(d->run, draw(d->run, 20000));
    hub_start(d->run);
}

static void kill_hub(struct device *d)
{
    hub_kill(d->run, false);
    pass(d->run, draw(d->run, 20000));
    hub_start(d->run);
}

static void cut_hub_power(struct device *d)
{
    hub_kill(d->run, true);
    pass(d->run, draw(d->run, 20000));
    hub_start(d->run);
}

static void crash_hub_at_write(struct device *d)
{
    sim_disk_crash_at(d->run->hub.disk, 1 + (unsigned)draw(d->run, 20), draw(d->run, 2) == 0);
}

static void fail_hub_disk(struct device *d)
{
    sim_disk_faults(d->run->hub.disk, draw(d->run, 3) == 0 ? NULL : &d->run->faults);
}

static void fill_hub_disk(struct device *d)
{
    sim_disk_full(d->run->hub.disk, draw(d->run, 2) == 0);
}

/* For so long that devices give up, queue what is bound, and go on trying. */
static void no_hub_for_long(struct device *d)
{
    struct run *r = d->run;

    hub_kill(r, draw(r, 2) == 0);
    for (int i = 0; i < 4; i++) {
        d = &r->devices[draw(r, r->ndevices)];
        wake(d);
        if (is_there(d)) {
            write_own(d, 1 + (unsigned)draw(r, 100));
            write_shared(d);
        }
        pass(r, 1 + draw(r, HOUR_MS / 4));
    }
    hub_start(r);
}

/* ---- backups and copies ---- */

static const char *in(const struct device *d, char out[64], const char *folder)
{
    snprintf(out, 64, "%s/%s", d->folder, folder);
    return out;
}

static void copy_part(struct device *d, const char *from, const char *to)
{
    char a[64], b[64];

    sim_disk_copy(d->disk, in(d, a, from), in(d, b, to));
    cs_sim_copy_files(d->world, a, d->world, b);
}

/* How many incarnations its keystore has; 0: it does not run. */
static unsigned lives_of(const struct device *d)
{
    return d->engine != NULL && cs_sim_lives(d->world) ? d->engine->ks->nincarnations : 0;
}

static void back_up(struct device *d)
{
    static const char latest[] = "SELECT coalesce(max(ms), 0) FROM sync_changelog";

    d->backup_lives = lives_of(d);
    device_close(d);
    copy_part(d, "db", "backup-db");
    copy_part(d, "state", "backup-state");
    d->has_backup = true;
    d->backup_is_ahead = ask(d->run, d->disk, d->db, latest) > CS_SIM_EPOCH_MS + (int64_t)cs_sim_now_ms(d->run->sim);
    d->backup_is_unseen = d->run->unseen;
    d->backup_extra = d->extra;
    d->backup_context = d->context;
    restart(d);
}

static uint64_t pruned_up_to(struct run *r)
{
    return (uint64_t)ask(r, r->hub.disk, "/hub/live/hub.db", "SELECT coalesce(max(pruned), 0) FROM workspace");
}

/* Goes back to an old copy of the database; not while it holds what nobody else has, for that would be lost by right,
 * nor where whoever gave the snapshot may be removed (see is_anybody_below). */
static bool restore_db_of(struct device *d)
{
    static const char sql[] = "SELECT (SELECT count(*) FROM sync_changelog) + (SELECT count(*) FROM sync_unsent) + "
                              "(SELECT count(*) FROM sync_bound WHERE state = 0) + "
                              "(SELECT count(*) FROM sync_meta WHERE name = 'publish') + "
                              "(SELECT count(*) FROM sync_tables WHERE state = 2 OR gap <> 0 OR backfill IS NOT NULL)";

    if (!d->has_backup || d->backup_is_ahead || d->run->hub_lost || (d->run->revoked && pruned_up_to(d->run) > 0))
        return false;
    connect_up(d);
    heal(d);
    pass(d->run, 60000);
    d->lives = lives_of(d);
    device_close(d);
    if (d->backup_is_ahead || ask(d->run, d->disk, d->db, sql) != 0)
        return false;
    copy_part(d, "backup-db", "db");
    d->run->unseen = d->run->unseen || d->backup_is_unseen;
    d->extra = d->backup_extra;
    d->context = d->backup_context;
    d->restored = d->went_back = true;
    return true;
}

static void restore_db(struct device *d)
{
    if (restore_db_of(d))
        note(d->run, "%s has an old database", d->name);
    if (d->engine == NULL)
        restart(d);
}

/* The database is the newest, so nothing at all may be lost. */
static void restore_state(struct device *d)
{
    if (!d->has_backup)
        return;
    device_close(d);
    copy_part(d, "backup-state", "state");
    restart(d);
}

/* A device that had been restored before it was backed up, and once more since, takes what it sent in between for a
 * copy's, and says so (see unknown_own in pull.c): nobody could tell the two apart. */
static bool looks_copied(const struct device *d)
{
    return d->backup_lives != 1 && (d->lives == 0 || d->lives > d->backup_lives);
}

static void restore_both(struct device *d)
{
    bool old = restore_db_of(d), both = old && !looks_copied(d);

    if (both)
        copy_part(d, "backup-state", "state");
    if (old)
        note(d->run, both ? "%s has an old database and an old data_dir" : "%s has an old database", d->name);
    if (d->engine == NULL)
        restart(d);
}

/* Both the device and a copy of all its files are in use from now on. */
static void copy_device(struct device *d)
{
    struct run *r = d->run;
    struct device *copy;

    for (unsigned i = 0; i < r->ndevices; i++)
        if (r->devices[i].copied)
            return;
    if (r->ndevices == DEVICES || r->hub_lost)
        return;
    device_close(d);
    r->copied_at_hlc = ask(r, d->disk, d->db, "SELECT value FROM sync_meta WHERE name = 'hlc'");
    copy = device_init(r);
    sim_disk_copy(d->disk, d->folder, copy->folder);
    cs_sim_copy_files(d->world, d->folder, copy->world, copy->folder);
    copy->extra = d->extra;
    copy->context = d->context;
    copy->member = copy->copied = d->copied = true;
    device_start(copy);
    restart(d);
}

/* ---- membership ---- */

static unsigned count_there(const struct run *r)
{
    unsigned n = 0;

    for (unsigned i = 0; i < r->ndevices; i++)
        n += is_there(&r->devices[i]);
    return n;
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

/* Is anybody but d below the part of the log that is pruned? If d gave the snapshot, and who attested it is gone, too,
 * who is there might be too few to attest another one (docs/decisions/0015, Open). */
static bool is_anybody_below(struct run *r, const struct device *d)
{
    uint64_t pruned = pruned_up_to(r);
    struct cs_pull_mark mark;

    for (unsigned i = 0; i < r->ndevices; i++) {
        const struct device *o = &r->devices[i];

        if (o == d || !is_there(o) || o->engine == NULL)
            continue;
        cs_replica_pull_mark(o->engine->replica, &mark);
        if (mark.number < pruned)
            return true;
    }
    return false;
}

/* d loses its membership, with whatever it has not sent. */
static void revoke(struct device *d)
{
    struct run *r = d->run;
    struct device *by = &r->devices[0];
    clawsync_error err = { 0 };
    int rc;

    if (d == by || !is_there(by) || d->copied || by->copied || count_there(r) < 3)
        return;
    if (r->revoked && is_anybody_below(r, d))
        return;
    heal(by);
    r->revoked = true;
    rc = clawsync_engine_revoke_device(by->engine, d->id, 0, NULL, NULL, &err);
    note(r, "%s revokes %s: %d %s", by->name, d->name, rc, err.msg);
}

/* Somebody new, or who has tried before. */
static struct device *who_comes(struct run *r, const struct device *but)
{
    for (unsigned i = 0; i < r->ndevices; i++)
        if (!r->devices[i].member && &r->devices[i] != but)
            return &r->devices[i];
    return device_init(r);
}

static void let_in(struct device *by)
{
    struct device *d = by->run->hub_lost ? NULL : who_comes(by->run, NULL);

    if (d == NULL)
        return;
    heal(d);
    connect_up(d);
    join(d, by);
}

/* Two at once: what each adds to the membership is made for the same place in it. They may die on the way. */
static void let_two_in(struct device *by)
{
    struct run *r = by->run;
    struct device *d[2] = { NULL, NULL };
    bool comes[2] = { false, false };

    for (int i = 0; i < 2 && !r->hub_lost; i++) {
        if ((d[i] = who_comes(r, d[0])) == NULL)
            continue;
        heal(d[i]);
        connect_up(d[i]);
        comes[i] = join_prepare(d[i], by);
    }
    for (int i = 0; i < 2; i++) {
        if (!comes[i])
            continue;
        if (draw(r, 4) == 0)
            sim_disk_crash_at(d[i]->disk, 1 + (unsigned)draw(r, 60), draw(r, 2) == 0);
        join_begin(d[i]);
    }
    await_commands(r);
    for (int i = 0; i < 2; i++)
        if (comes[i])
            join_end(d[i]);
}

static void notify(struct device *d)
{
    clawsync_engine_notify(d->engine);
}

/* ---- what happens ---- */

/* Rows at once: a few, a batch or two, more than a slice is sealed of. */
static void write_rows(struct device *d)
{
    static const unsigned most[] = { 5, 5, 5, 5, 5, 5, 5, 5, 5, 300, 300, 1500 };
    struct run *r = d->run;

    write_own(d, 1 + (unsigned)draw(r, most[draw(r, sizeof most / sizeof most[0])]));
}

/* The key changes while there is much to send: what is on its way is under the old one. */
static void rotate_under_way(struct device *d)
{
    struct run *r = d->run;
    struct device *by = &r->devices[draw(r, r->ndevices)];

    write_own(d, 100 + (unsigned)draw(r, 500));
    notify(d);
    pass(r, draw(r, 3000));
    if (is_there(by) && by->engine != NULL && cs_sim_lives(by->world)) {
        rotate(by);
        write_shared(by);
    }
}

/* A copy of the data_dir from when much waited for the hub, in the place of the newest. */
static void old_queue(struct device *d)
{
    struct run *r = d->run;

    cs_sim_partition(r->sim, d->world, r->hub.world, CS_SIM_BROKEN);
    write_rows(d);
    pass(r, draw(r, HOUR_MS / 6));
    if (!cs_sim_lives(d->world))
        return;
    back_up(d);
    connect_up(d);
    pass(r, draw(r, HOUR_MS / 12));
    if (cs_sim_lives(d->world) && d->has_backup)
        restore_state(d);
}

static void reconcile(struct device *d)
{
    struct run *r = d->run;

    if (draw(r, 4) == 0)
        sim_disk_crash_at(d->disk, 1 + (unsigned)draw(r, 30), draw(r, 2) == 0);
    reconcile_begin(d);
    await_commands(r);
    if (command_ended(d))
        note(r, "%s has reconciled: %d %s", d->name, d->command.rc, d->command.err.msg);
    d->commanded = false;
}

static void compact_begin(struct device *d)
{
    if (draw(d->run, 4) == 0)
        sim_disk_crash_at(d->disk, 1 + (unsigned)draw(d->run, 30), draw(d->run, 2) == 0);
    command_begin(d, (struct cs_command){ .kind = CS_CMD_STEPS, .step = { cs_step_compact }, .arg = &d->compact });
}

/* One asks for it, or two at once; they or the hub may die over it. */
static void compact(struct device *d)
{
    struct run *r = d->run;
    struct device *both[2] = { d, &r->devices[draw(r, r->ndevices)] };

    if (draw(r, 5) == 0)
        sim_disk_crash_at(r->hub.disk, 1 + (unsigned)draw(r, 30), draw(r, 2) == 0);
    compact_begin(d);
    pass(r, draw(r, 2) * draw(r, 2000));
    if (both[1] != d && is_there(both[1]) && both[1]->engine != NULL && cs_sim_lives(both[1]->world))
        compact_begin(both[1]);
    await_commands(r);
    for (int i = 0; i < 2; i++) {
        if (command_ended(both[i]))
            note(r, "%s has compacted: %d %s", both[i]->name, both[i]->command.rc, both[i]->command.err.msg);
        both[i]->commanded = false;
    }
}

static void nothing(struct device *d)
{
    (void)d;
}

static const struct {
    const char *name;
    void (*happen)(struct device *d); /* to this one, or to the hub */
    unsigned weight;
    bool always; /* in every run; the others in two of three */
} kinds[] = {
    { "write", write_shared, 64, true },
    { "write-unique", write_unique, 24, true },
    { "write-slots", write_slots, 24, true },
    { "write-own", write_rows, 24, true },
    { "change-own", change_own, 32, true },
    { "write-context", write_context, 12, true },
    { "nothing", nothing, 24, true },
    { "link-up", link_up, 8, true },
    { "link-held", hold_link, 4, false },
    { "link-broken", break_link, 4, false },
    { "one-way", one_way, 4, false },
    { "weather", weather, 4, false },
    { "hub-stop", stop_hub, 3, false },
    { "hub-kill", kill_hub, 3, false },
    { "hub-power", cut_hub_power, 3, false },
    { "hub-crash-at-write", crash_hub_at_write, 4, false },
    { "hub-disk-fails", fail_hub_disk, 4, false },
    { "hub-disk-full", fill_hub_disk, 2, false },
    { "hub-clock", jump_hub, 3, false },
    { "hub-freeze", freeze_hub, 2, false },
    { "no-hub-for-long", no_hub_for_long, 1, false },
    { "close", close_and_start, 4, false },
    { "kill", kill_it, 4, false },
    { "power", cut_its_power, 4, false },
    { "crash-at-file", crash_at_file, 4, false },
    { "crash-at-write", crash_at_write, 6, false },
    { "disk-full", fill_disk, 4, false },
    { "disk-fails", fail_disk, 6, false },
    { "clock", jump_clock, 4, false },
    { "freeze", freeze_clock, 3, false },
    { "backup", back_up, 4, false },
    { "restore-db", restore_db, 3, false },
    { "restore-state", restore_state, 3, false },
    { "restore-both", restore_both, 3, false },
    { "old-queue", old_queue, 1, false },
    { "copy-device", copy_device, 1, false },
    { "hub-backup", back_up_hub, 4, false },
    { "hub-goes-back", hub_goes_back, 2, false },
    { "hub-emptied", empty_hub, 1, false },
    { "refill", refill, 3, false },
    { "rotate", rotate, 3, false },
    { "revoke", revoke, 2, false },
    { "rotate-under-way", rotate_under_way, 1, false },
    { "join", let_in, 3, false },
    { "join-two", let_two_in, 2, false },
    { "add-column", add_column, 2, false },
    { "add-table", add_context, 2, false },
    { "rebuild", rebuild, 2, false },
    { "unseen", write_unseen, 3, false },
    { "reconcile", reconcile, 2, false },
    { "notify", notify, 2, false },
    { "compact", compact, 3, false }, /* the last: only where runs compact */
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };
_Static_assert((int)KINDS <= (int)MAX_KINDS, "a bit for each");

const char *kind_name(unsigned kind)
{
    return kind < KINDS ? kinds[kind].name : NULL;
}

void draw_weights(struct run *r)
{
    for (unsigned k = 0; k < (sim_compact ? KINDS : KINDS - 1U); k++) {
        uint64_t much = draw(r, 3);

        r->weight[k] = kinds[k].always ? kinds[k].weight : much == 0 ? 0 : kinds[k].weight << draw(r, 3);
    }
}

static unsigned draw_kind(struct run *r)
{
    uint64_t sum = 0, at;
    unsigned k = 0;

    for (unsigned i = 0; i < KINDS; i++)
        sum += r->weight[i];
    for (at = draw(r, sum); at >= r->weight[k]; k++)
        at -= r->weight[k];
    return k;
}

/* One that runs: of the others nothing more is asked. */
static struct device *draw_device(struct run *r)
{
    struct device *d;

    do
        d = &r->devices[draw(r, r->ndevices)];
    while (!is_there(d) || d->engine == NULL);
    return d;
}

void step(struct run *r)
{
    struct device *d;
    unsigned k;

    pass(r, 1); /* who crashes does so at the end of an event */
    raise_the_dead(r);
    find_revoked(r);
    d = draw_device(r);
    k = draw_kind(r);
    if ((r->without >> k & 1) == 0) {
        note(r, "%s: %s", d->name, kinds[k].name);
        r->happened[k]++;
        kinds[k].happen(d);
    }
    pass(r, draw(r, 3) == 0 ? draw(r, 60000) : draw(r, 300));
}
