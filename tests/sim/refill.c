#include <inttypes.h>
#include <string.h>

#include "sim/system.h"

enum { MOST_TRIES = 20 };

static bool are_copies_there(const struct run *r)
{
    unsigned n = 0;

    for (unsigned i = 0; i < r->ndevices; i++)
        n += is_there(&r->devices[i]) && r->devices[i].copied;
    return n > 1;
}

/* Whoever is in the middle of joining is let in by an entry, and a device with an old database fetches back, what the
 * hub alone may have. */
bool may_lose(struct run *r)
{
    if (are_copies_there(r))
        return false;
    for (unsigned i = 0; i < r->ndevices; i++) {
        const struct device *d = &r->devices[i];

        if (is_there(d) ? d->restored : !d->member && d->asked)
            return false;
    }
    return true;
}

void back_up_hub(struct device *d)
{
    struct run *r = d->run;

    hub_stop(r, 0);
    sim_disk_copy(r->hub.disk, "/hub/live", "/hub/kept");
    r->hub_has_backup = true;
    hub_start(r);
}

static void lose(struct run *r, const char *folder)
{
    hub_stop(r, 0);
    sim_disk_copy(r->hub.disk, folder, "/hub/live");
    r->hub_lost = true;
    hub_start(r);
}

void hub_goes_back(struct device *d)
{
    if (d->run->hub_has_backup && may_lose(d->run))
        lose(d->run, "/hub/kept");
}

void empty_hub(struct device *d)
{
    if (may_lose(d->run))
        lose(d->run, "/hub/none");
}

static bool comes_first(const clawsync_engine *a, const clawsync_engine *b, bool least)
{
    struct cs_pull_mark x, y;

    cs_replica_pull_mark(a->replica, &x);
    cs_replica_pull_mark(b->replica, &y);
    return a->members.seq != b->members.seq ? a->members.seq > b->members.seq
                                            : (least ? x.number < y.number : x.number > y.number);
}

/* By somebody who knows all of the membership that anybody knows: it is given back as that device has it, and whoever
 * knows more could not follow; and whom the hub knows, if it has anything left. Of the log it may know most, or least:
 * the others have the rest. */
static struct device *refiller(struct run *r, const struct device *but)
{
    struct device *best = NULL;
    bool least = draw(r, 2) == 0;

    for (unsigned i = 0; i < r->ndevices; i++) {
        struct device *d = &r->devices[i];

        if (d != but && !d->refused && is_there(d) && d->engine != NULL && cs_sim_lives(d->world) &&
            (best == NULL || comes_first(d->engine, best->engine, least)))
            best = d;
    }
    return best;
}

static void refill_begin(struct device *d)
{
    note(d->run, "%s refills the hub", d->name);
    d->refill = (struct cs_refill_report){ 0 };
    command_begin(d, (struct cs_command){ .kind = CS_CMD_STEPS, .step = { cs_step_refill }, .arg = &d->refill });
}

static void refill_end(struct device *d)
{
    if (d == NULL || !d->commanded)
        return;
    if (command_ended(d))
        note(d->run, "%s has refilled: %d, needed %d %s", d->name, d->command.rc, d->refill.needed, d->command.err.msg);
    d->commanded = false;
}

void refill(struct device *d)
{
    struct run *r = d->run;
    struct device *first = refiller(r, NULL), *second = draw(r, 3) == 0 ? refiller(r, first) : NULL;

    if (second != NULL && second->engine->members.seq < first->engine->members.seq)
        second = NULL;
    if (draw(r, 3) == 0)
        sim_disk_crash_at(first->disk, 1 + (unsigned)draw(r, 60), draw(r, 2) == 0);
    if (draw(r, 5) == 0)
        sim_disk_crash_at(r->hub.disk, 1 + (unsigned)draw(r, 60), draw(r, 2) == 0);
    refill_begin(first);
    if (second != NULL) {
        pass(r, draw(r, 2) * draw(r, 2000));
        if (cs_sim_lives(second->world))
            refill_begin(second);
    }
    await_commands(r);
    refill_end(first);
    refill_end(second);
}

/* Has the hub, for this device, all that it had? */
static bool is_refilled(struct device *d)
{
    refill_begin(d);
    await_commands(d->run);
    if (!command_ended(d))
        die(d->run, "%s dies", d->name);
    refill_end(d);
    d->refused = d->command.rc == CS_EAUTH || strstr(d->command.err.msg, "MEMBER_FORK") != NULL;
    pass(d->run, 60000);
    return d->command.rc == CS_OK && d->refill.needed == 0;
}

/* The others have not heard of it, or of what it knows of the membership, and have gone on: it comes once more, as
 * another, with what it has. */
static void come_anew(struct device *d, struct device *by)
{
    struct run *r = d->run;
    clawsync_error err = { 0 };
    char damaged[CS_DAMAGED_NAME];
    size_t lost;

    note(r, "%s is to be another device", d->name);
    device_close(d);
    must(r, cs_engine_new_identity(d->world, &d->config, d->id, &lost, damaged, &err), &err, "a new identity");
    if (lost != 0)
        die(r, "%s cannot take back what it had sent", d->name);
    d->member = d->asked = d->refused = false;
    d->has_backup = false; /* it is another device's */
    if (!join(d, by))
        die(r, "%s cannot join once more", d->name);
}

/* Nothing fails any more. Until the last device says so, some may accuse the hub. */
void refill_for_good(struct run *r)
{
    for (int tries = 0; r->hub_lost; tries++) {
        struct device *by = refiller(r, NULL);
        bool whole;

        if (by == NULL || tries == MOST_TRIES)
            die(r, "the hub cannot be refilled");
        whole = is_refilled(by);
        find_revoked(r); /* that may have been forgotten with the hub's membership */
        for (unsigned i = 0; i < r->ndevices && whole; i++) {
            struct device *d = &r->devices[i];

            whole = !is_there(d) || is_refilled(d);
            if (d->refused && is_there(d))
                come_anew(d, by);
        }
        r->hub_lost = !whole;
    }
}

/* A device becomes another one, as whoever copied it would have it; the old one is removed, or is silent for ever. */
void renew_one(struct run *r)
{
    struct device *by = &r->devices[0], *d = &r->devices[draw(r, r->ndevices)];
    clawsync_error err = { 0 };
    char old[sizeof d->id];

    if (d == by || !is_there(by) || !is_there(d) || d->copied || by->copied || d->restored)
        return;
    memcpy(old, d->id, sizeof old);
    come_anew(d, by);
    if (r->revoked || draw(r, 2) == 0)
        return;
    r->revoked = true;
    must(r, clawsync_engine_revoke_device(by->engine, old, 0, NULL, NULL, &err), &err, "removing the old one");
}
