/* The word and the reasons, from what was found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "cli/status.h"

/* A device with nothing to do, without a daemon; the hub has just answered. */
static struct cs_looked at_rest(void)
{
    struct cs_looked l = { .set_up = true, .standing_rc = CS_ENOTFOUND, .asked = true };

    l.mark.log_id = l.hub.head.log_id = 7;
    l.mark.number = l.hub.head.number = 40;
    l.hub.asked_ms = l.hub.answered_ms = l.hub.hub_ms = 1700000000000;
    return l;
}

/* Of this process, which lives. */
static void daemon_says(struct cs_looked *l, int code, const char *msg)
{
    cs_process_self(&l->standing.by);
    l->daemon_pid = l->standing.by.pid;
    l->standing_rc = CS_OK;
    l->standing.connected = code == CS_OK;
    l->standing.last.code = code;
    snprintf(l->standing.last.msg, sizeof l->standing.last.msg, "%s", msg);
}

static enum cs_word word(const struct cs_looked *l)
{
    struct cs_reasons r;

    cs_status_reasons(l, &r);
    return cs_status_word(l, &r);
}

static void each_thing_that_waits_is_not_in_sync(void **state)
{
    static const size_t counts[] = {
        offsetof(struct cs_looked, n.unsealed),     offsetof(struct cs_looked, n.unsent),
        offsetof(struct cs_looked, n.bound),        offsetof(struct cs_looked, n.taking_in),
        offsetof(struct cs_looked, n.publishing),   offsetof(struct cs_looked, queue.own),
        offsetof(struct cs_looked, health.altered),
    };
    struct cs_looked l = at_rest();

    (void)state;
    assert_int_equal(word(&l), CS_IN_SYNC);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        l = at_rest();
        *(int64_t *)(void *)((char *)&l + counts[i]) = 1;
        assert_int_equal(word(&l), CS_STOPPED);
        daemon_says(&l, CS_OK, "");
        assert_int_equal(word(&l), CS_SYNCING);
    }
    l = at_rest();
    l.health.schema_unseen = true;
    assert_int_equal(word(&l), CS_STOPPED);
    l = at_rest();
    l.mark.number--;
    assert_int_equal(word(&l), CS_STOPPED);
    l = at_rest();
    l.mark.log_id++;
    assert_int_equal(word(&l), CS_STOPPED);
    l = at_rest();
    l.set_up = false;
    assert_int_equal(word(&l), CS_NOT_SET_UP);
}

static void what_the_hub_did_not_confirm_is_not_in_sync(void **state)
{
    static const struct {
        int rc;
        enum cs_word want;
    } answers[] = { { CS_EUNAVAILABLE, CS_OFFLINE }, { CS_ETIMEDOUT, CS_OFFLINE }, { CS_EBUSY, CS_NOT_KNOWN },
                    { CS_ENOMEM, CS_NOT_KNOWN },     { CS_EAUTH, CS_NEEDS_YOU },   { CS_EHUB, CS_NEEDS_YOU },
                    { CS_EIO, CS_NEEDS_YOU },        { CS_EABORTED, CS_NOT_KNOWN } };

    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++)
        for (int daemon = 0; daemon < 2; daemon++) {
            struct cs_looked l = at_rest();

            l.rc = l.err.code = answers[i].rc;
            if (daemon)
                daemon_says(&l, CS_OK, "");
            assert_int_equal(word(&l), answers[i].want);
            l.asked = false;
            assert_int_equal(word(&l), CS_NOT_KNOWN);
        }
}

/* What looking finds a refill settles, if one has not just failed: then what it found is the newest. */
static void a_refill_that_settled_nothing(void **state)
{
    static const char fork[] = "MEMBER_FORK: another entry 3 … claw-sync identity new, then claw-sync join CODE";
    static const struct {
        const char *looking;
        const char *what_to_do;
    } cases[] = {
        { "HUB_ROLLBACK: it went back", "claw-sync identity new, then claw-sync join CODE" },
        { "HUB_FORK: two logs", "claw-sync identity new, then claw-sync join CODE" },
        { "LOG_REPLACED: another log", "claw-sync identity new, then claw-sync join CODE" },
        { "HUB_KEY_CHANGED: another key", "claw-sync hub accept" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_looked l = at_rest();
        struct cs_reasons r;

        daemon_says(&l, CS_EHUB, fork);
        l.daemon_pid = 0;
        l.rc = l.err.code = CS_EHUB;
        snprintf(l.err.msg, sizeof l.err.msg, "%s", cases[i].looking);
        cs_status_reasons(&l, &r);
        assert_int_equal(r.n, 1);
        assert_string_equal(r.of[0].what_to_do, cases[i].what_to_do);
    }
}

static void what_the_daemon_says(void **state)
{
    static const struct {
        int code;
        const char *msg;
        enum cs_word alive, dead;
        const char *what_to_do; /* alive */
    } cases[] = {
        { CS_OK, "", CS_IN_SYNC, CS_IN_SYNC, NULL },
        { CS_EUNAVAILABLE, "cannot reach hub", CS_IN_SYNC, CS_IN_SYNC, NULL }, /* it could be reached just now */
        { CS_EBUSY, "database is locked", CS_SYNCING, CS_IN_SYNC, NULL },
        { CS_ENOMEM, "out of memory", CS_SYNCING, CS_IN_SYNC, NULL },
        { CS_EIO, "disk is full", CS_NEEDS_YOU, CS_IN_SYNC, "make room on that disk, or see what is wrong with it" },
        { CS_ELIMIT, "too fast; try again", CS_SYNCING, CS_IN_SYNC, NULL },
        { CS_ELIMIT, "used up; ask who runs it", CS_NEEDS_YOU, CS_NEEDS_YOU, "ask who runs the hub for more room" },
        { CS_EEXIST, "DEVICE_CLONED: … claw-sync identity new, then claw-sync join CODE", CS_NEEDS_YOU, CS_NEEDS_YOU,
          "claw-sync identity new, then claw-sync join CODE" },
        { CS_EEXIST, "this workspace exists; join it with: claw-sync join CODE (…)", CS_NEEDS_YOU, CS_NEEDS_YOU,
          "claw-sync join CODE" },
        { CS_EHUB, "HUB_LOST: hub h does not know this device, which made the workspace", CS_NEEDS_YOU, CS_NEEDS_YOU,
          "claw-sync hub refill" },
        { CS_EHUB, "HUB_LOST: hub h does not know this device, which is a member", CS_NEEDS_YOU, CS_NEEDS_YOU,
          "claw-sync hub refill, on a device that joined earlier; here, if the hub has nothing left" },
        { CS_EHUB, "HUB_ROLLBACK: it went back", CS_NEEDS_YOU, CS_NEEDS_YOU, "claw-sync hub refill" },
        { CS_EHUB, "LOG_REPLACED: another log", CS_NEEDS_YOU, CS_NEEDS_YOU, "claw-sync hub refill" },
        { CS_EHUB, "HUB_KEY_CHANGED: another key", CS_NEEDS_YOU, CS_NEEDS_YOU, "claw-sync hub accept" },
        { CS_EHUB, "HUB_FORK: two logs", CS_NEEDS_YOU, CS_NEEDS_YOU,
          "claw-sync verify-heads, here and on another device; where the hub was restored from a backup, claw-sync hub "
          "refill" },
        { CS_EHUB, "HUB_WITHHELD: a number is missing", CS_NEEDS_YOU, CS_NEEDS_YOU, "claw-sync doctor" },
        { CS_EAUTH, "BAD_WRAP: device x did not share it", CS_NEEDS_YOU, CS_NEEDS_YOU,
          "claw-sync keys rotate, on another device" },
        { CS_EVERSION, "UPDATE_NEEDED: a newer batch", CS_NEEDS_YOU, CS_NEEDS_YOU,
          "update claw-sync, then claw-sync sync" },
        { CS_ECLOCK, "an hour ahead", CS_NEEDS_YOU, CS_NEEDS_YOU, "set the clock right, best by NTP" },
        { CS_EINVAL, "no TLS", CS_NEEDS_YOU, CS_NEEDS_YOU, "correct the configuration; claw-sync doctor looks at it" },
        { CS_EDB, "no such column", CS_NEEDS_YOU, CS_NEEDS_YOU, "claw-sync doctor" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_looked l = at_rest();
        struct cs_reasons r;

        daemon_says(&l, cases[i].code, cases[i].msg);
        assert_int_equal(word(&l), cases[i].alive);
        cs_status_reasons(&l, &r);
        assert_int_equal(r.n, cases[i].what_to_do != NULL);
        if (cases[i].what_to_do != NULL) {
            assert_string_equal(r.of[0].what_to_do, cases[i].what_to_do);
            assert_memory_equal(r.of[0].text, cases[i].msg, strlen(cases[i].msg));
        }
        l.daemon_pid = 0;
        assert_int_equal(word(&l), cases[i].dead);
        cs_status_reasons(&l, &r);
        if (cases[i].code == CS_EHUB) /* it may be over: the hub answers */
            assert_string_equal(r.of[0].what_to_do, "claw-sync sync");
        /* the same that asking has found is said once */
        l.rc = l.err.code = cases[i].code;
        snprintf(l.err.msg, sizeof l.err.msg, "%s", cases[i].msg);
        cs_status_reasons(&l, &r);
        assert_true(r.n <= 1);
    }
}

static void who_replicates_has_to_say_it_itself(void **state)
{
    struct cs_looked l = at_rest();

    (void)state;
    daemon_says(&l, CS_OK, "");
    assert_true(cs_status_daemon_told(&l));
    l.standing.by.started++; /* another process had its number */
    assert_false(cs_status_daemon_told(&l));
    assert_int_equal(word(&l), CS_NOT_KNOWN);
    daemon_says(&l, CS_OK, "");
    l.daemon_pid++;
    assert_int_equal(word(&l), CS_NOT_KNOWN);
    daemon_says(&l, CS_OK, "");
    l.standing_rc = CS_ENOTFOUND;
    assert_int_equal(word(&l), CS_NOT_KNOWN);
}

static void who_is_not_in_yet(void **state)
{
    struct cs_looked l = at_rest();
    struct cs_reasons r;

    (void)state;
    l.stranger = true;
    l.rc = l.err.code = CS_EAUTH;
    cs_status_reasons(&l, &r);
    assert_int_equal(r.n, 1);
    assert_non_null(strstr(r.of[0].what_to_do, "claw-sync join CODE"));
    daemon_says(&l, CS_OK, ""); /* it is about to make the workspace */
    assert_int_equal(word(&l), CS_SYNCING);
    daemon_says(&l, CS_EEXIST, "this workspace exists; join it with: claw-sync join CODE");
    cs_status_reasons(&l, &r);
    assert_int_equal(r.n, 1);
    assert_string_equal(r.of[0].what_to_do, "claw-sync join CODE");
}

static void clocks(void **state)
{
    static const struct {
        int64_t hub, way; /* the hub's clock beside ours when it was asked, and how long the answer took */
        enum cs_word want;
    } cases[] = {
        { 0, 0, CS_IN_SYNC },           { 59000, 0, CS_IN_SYNC },      { -59000, 0, CS_IN_SYNC },
        { 61000, 0, CS_NEEDS_YOU },     { -61000, 0, CS_NEEDS_YOU },   { 61000, 2500, CS_IN_SYNC },
        { -61000, 3000, CS_NEEDS_YOU }, { 70000, 5000, CS_NEEDS_YOU }, { 0, -500000, CS_IN_SYNC },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_looked l = at_rest();

        l.hub.hub_ms += cases[i].hub;
        l.hub.answered_ms += cases[i].way;
        assert_int_equal(word(&l), cases[i].want);
    }
}

static void each_reason_is_there(void **state)
{
    struct cs_looked l = at_rest();
    struct cs_reasons r;
    static const char *const commands[] = { "claw-sync hub refill",
                                            "claw-sync resume",
                                            "claw-sync conflicts list, then claw-sync conflicts resolve ID",
                                            "claw-sync reconcile",
                                            "claw-sync queue list, then claw-sync queue retry",
                                            "make them smaller, or give them a key" };

    (void)state;
    l.refilling = true;
    l.n.paused = l.n.manual_conflicts = l.batches_aside = l.n.held_back = 1;
    l.queue.failed = 2;
    cs_status_reasons(&l, &r);
    assert_int_equal(r.n, sizeof commands / sizeof commands[0]);
    for (size_t i = 0; i < r.n; i++)
        assert_string_equal(r.of[i].what_to_do, commands[i]);
    assert_int_equal(cs_status_word(&l, &r), CS_NEEDS_YOU);
}

static void an_audit_log_that_takes_no_row(void **state)
{
    static const struct {
        int code;
        enum cs_word want;
        const char *what_to_do;
    } cases[] = {
        { CS_ECORRUPT, CS_NEEDS_YOU, "keep it as evidence and move it away" },
        { CS_EDB, CS_NEEDS_YOU, "keep it as evidence and move it away" },
        { CS_EVERSION, CS_NEEDS_YOU, "update claw-sync, then claw-sync sync" },
        { CS_EIO, CS_NEEDS_YOU, "make room on that disk, or see what is wrong with it" },
        { CS_EBUSY, CS_IN_SYNC, NULL },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cs_looked l = at_rest();
        struct cs_reasons r;

        l.audit.code = cases[i].code;
        assert_int_equal(word(&l), cases[i].want);
        cs_status_reasons(&l, &r);
        if (r.n > 0)
            assert_string_equal(r.of[0].what_to_do, cases[i].what_to_do);
    }
}

int main(void)
{
    const struct CMUnitTest t[] = {
        cmocka_unit_test(each_thing_that_waits_is_not_in_sync),
        cmocka_unit_test(what_the_hub_did_not_confirm_is_not_in_sync),
        cmocka_unit_test(what_the_daemon_says),
        cmocka_unit_test(a_refill_that_settled_nothing),
        cmocka_unit_test(who_replicates_has_to_say_it_itself),
        cmocka_unit_test(who_is_not_in_yet),
        cmocka_unit_test(clocks),
        cmocka_unit_test(each_reason_is_there),
        cmocka_unit_test(an_audit_log_that_takes_no_row),
    };

    return cmocka_run_group_tests_name("status", t, NULL, NULL);
}
