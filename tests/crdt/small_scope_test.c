/* Small scope, all of it: one row, two columns, up to four operations of two and of three devices.
 *
 * 1. Every multiset of 1 to 4 operations out of: stamps 1 to 3, each device, insert of both columns, insert of one, an
 *    update of either column, a delete (so ties, repetitions and copied identities are among them), in every order. The
 *    row must be the maxima over the plain list, and what the merge reports must be what happened.
 * 2. Every history of 4 steps, each by any device, after it pulled the log or not: insert, update of either column,
 *    delete, REPLACE. All devices converge, to the maxima, and so does a device that gets the operations in any order.
 *    No edit is lost without a record: what does not stand was overwritten by someone who saw it, or is recorded; and
 *    no record is idle. */
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "crdt/merge.h"

enum { COLS = 2, MAX_OPS = 4, MAX_DEVICES = 3 };

struct op {
    enum cs_op_kind kind;
    struct cs_version v;
    struct cs_op_cell cells[COLS];
    struct cs_row_cell over[COLS];
    uint32_t ncells, nover;
    unsigned seen; /* histories: bits of the operations that its author knew, if it saw the row */
};
struct row {
    struct cs_row row;
    struct cs_row_cell cells[COLS];
    struct cs_value values[COLS];
};

static struct cs_arena arena;
static struct cs_merge_out out;
static struct cs_seal_out sealed;
static unsigned long long merges;

static _Noreturn void fail(const char *what, const struct op *ops, const uint32_t *order, uint32_t n)
{
    char version[CS_STAMP_TEXT];

    printf("small scope: %s\n", what);
    for (uint32_t i = 0; i < n; i++) {
        const struct op *o = &ops[order == NULL ? i : order[i]];

        cs_version_text(version, &o->v);
        printf("  kind %d at %s", (int)o->kind, version);
        for (uint32_t c = 0; c < o->ncells; c++)
            printf(" %c=%lld", (char)('a' + o->cells[c].col), (long long)o->cells[c].value.u.i);
        printf("\n");
    }
    exit(1);
}

static struct cs_version version(int64_t stamp, uint32_t device)
{
    struct cs_version v = { .stamp = stamp };

    memset(v.device.b, (int)device + 1, sizeof v.device.b);
    return v;
}
static struct cs_op_cell cell(uint32_t col, int64_t value)
{
    return (struct cs_op_cell){ col, { .type = CS_INTEGER, .u.i = value } };
}

/* ---- a row with its values; row.cells is set to cells before each use ---- */

static const struct cs_value *present(void *arg, uint32_t col)
{
    return &((struct row *)arg)->values[col];
}
static bool same_row(const struct row *a, const struct row *b)
{
    if (cs_version_cmp(&a->row.ins, &b->row.ins) != 0 || cs_version_cmp(&a->row.del, &b->row.del) != 0 ||
        a->row.ncells != b->row.ncells)
        return false;
    for (uint32_t i = 0; i < a->row.ncells; i++)
        if (a->cells[i].col != b->cells[i].col || cs_version_cmp(&a->cells[i].v, &b->cells[i].v) != 0 ||
            cs_value_cmp(&a->values[a->cells[i].col], &b->values[b->cells[i].col]) != 0)
            return false;
    return true;
}

/* Merges, and checks that the report is true. */
static void merge(struct row *r, const struct op *o)
{
    const struct row before = *r;
    struct cs_merge_in in = { .kind = o->kind,
                              .v = o->v,
                              .cells = o->cells,
                              .ncells = o->ncells,
                              .over = o->over,
                              .nover = o->nover,
                              .value = present,
                              .arg = (void *)&before };

    merges++;
    r->row.cells = r->cells;
    r->row.cap = COLS;
    if (cs_row_merge(&r->row, &in, &out, &arena) != CS_OK || r->row.cells != r->cells)
        fail("a merge fails, or moves the cells", o, NULL, 1);
    for (uint32_t i = 0; i < o->ncells; i++)
        if (cs_verdict_takes(out.verdicts[i]))
            r->values[o->cells[i].col] = o->cells[i].value;
    if (out.changed == same_row(&before, r) || out.lived != cs_row_lives(&before.row) ||
        out.lives != cs_row_lives(&r->row) || out.ins_changed != (cs_version_cmp(&before.row.ins, &r->row.ins) != 0))
        fail("the report is not true", o, NULL, 1);
    for (uint32_t c = 0, gone = 0; c < COLS; c++) {
        bool had = false, has = cs_row_find(&r->row, c) != NULL;

        for (uint32_t i = 0; i < before.row.ncells; i++)
            had = had || before.cells[i].col == c;
        if (had && !has && (gone >= out.ngone || out.gone[gone++] != c))
            fail("a cell vanished without a report", o, NULL, 1);
    }
}

/* The definition: maxima over the list. */
static struct row maxima(const struct op *ops, uint32_t n)
{
    struct row r = { 0 };
    const struct op *best[COLS] = { 0 };
    int64_t value[COLS] = { 0 }, x;
    int c;

    for (uint32_t i = 0; i < n; i++)
        if (ops[i].kind == CS_OP_DELETE && cs_version_cmp(&ops[i].v, &r.row.del) > 0)
            r.row.del = ops[i].v;
    for (uint32_t i = 0; i < n; i++) {
        if (ops[i].kind == CS_OP_DELETE || ops[i].v.stamp <= r.row.del.stamp)
            continue;
        if (ops[i].kind == CS_OP_INSERT && cs_version_cmp(&ops[i].v, &r.row.ins) > 0)
            r.row.ins = ops[i].v;
        for (uint32_t k = 0; k < ops[i].ncells; k++) {
            const uint32_t col = ops[i].cells[k].col;

            x = ops[i].cells[k].value.u.i;
            c = best[col] == NULL ? 1 : cs_version_cmp(&ops[i].v, &best[col]->v);
            if (c > 0 || (c == 0 && x > value[col])) {
                best[col] = &ops[i];
                value[col] = x;
            }
        }
    }
    for (uint32_t col = 0; col < COLS; col++)
        if (best[col] != NULL) {
            r.cells[r.row.ncells++] = (struct cs_row_cell){ col, best[col]->v };
            r.values[col] = cell(col, value[col]).value;
        }
    return r;
}

/* Every order, sharing what their beginnings share. */
static void every_order(const struct op *ops, uint32_t n, const struct row *so_far, unsigned used, uint32_t *order,
                        uint32_t depth, const struct row *want)
{
    if (depth == n) {
        if (!same_row(so_far, want))
            fail("the order matters", ops, order, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        if ((used & 1U << i) == 0) {
            struct row r = *so_far;

            merge(&r, &ops[i]);
            order[depth] = i;
            every_order(ops, n, &r, used | 1U << i, order, depth + 1, want);
        }
}

/* ---- 1. multisets ---- */

static uint32_t make_universe(struct op *all, uint32_t devices)
{
    uint32_t n = 0;

    for (int64_t s = 1; s <= 3; s++)
        for (uint32_t d = 0; d < devices; d++) {
            struct cs_version v = version(s, d);

            all[n++] = (struct op){ CS_OP_INSERT, v, { cell(0, 1), cell(1, 1) }, .ncells = 2 };
            all[n++] = (struct op){ CS_OP_INSERT, v, { cell(0, 2) }, .ncells = 1 };
            all[n++] = (struct op){ CS_OP_UPDATE, v, { cell(0, 3) }, .ncells = 1 };
            all[n++] = (struct op){ CS_OP_UPDATE, v, { cell(1, 4) }, .ncells = 1 };
            all[n++] = (struct op){ CS_OP_DELETE, v, .ncells = 0 };
        }
    return n;
}

static unsigned long long multisets(const struct op *all, uint32_t nall, uint32_t from, struct op *pick, uint32_t n)
{
    struct row empty = { 0 }, want;
    uint32_t order[MAX_OPS];
    unsigned long long count = 0;

    if (n > 0) {
        want = maxima(pick, n);
        every_order(pick, n, &empty, 0, order, 0, &want);
        count++;
    }
    for (uint32_t i = from; n < MAX_OPS && i < nall; i++) {
        pick[n] = all[i];
        count += multisets(all, nall, i, pick, n + 1);
    }
    return count;
}

/* ---- 2. histories ---- */

enum step { INSERT, UPDATE_A, UPDATE_B, DELETE, REPLACE, NSTEPS };
struct device {
    struct row row;
    int64_t hlc;
    uint32_t cursor;
    unsigned known;
};
struct history {
    struct device devices[MAX_DEVICES];
    struct op log[MAX_OPS];
    uint32_t author[MAX_OPS], n, ndevices;
    bool recorded[MAX_OPS][COLS]; /* some device noted that this operation's cell lost */
};

static uint32_t op_of(const struct history *h, const struct cs_version *v)
{
    uint32_t i = 0;

    while (cs_version_cmp(&h->log[i].v, v) != 0)
        i++;
    return i;
}
static void note(struct history *h)
{
    for (uint32_t i = 0; i < out.nconflicts; i++)
        h->recorded[op_of(h, &out.conflicts[i].losing)][out.conflicts[i].col] = true;
}

static void pull(struct history *h, struct device *d)
{
    for (; d->cursor < h->n; d->cursor++) {
        if (&h->devices[h->author[d->cursor]] == d)
            continue;
        merge(&d->row, &h->log[d->cursor]);
        note(h);
        d->hlc = cs_hlc_receive(d->hlc, h->log[d->cursor].v.stamp);
        d->known |= 1U << d->cursor;
    }
}

static void edit(struct history *h, uint32_t who, enum step step)
{
    struct device *d = &h->devices[who];
    struct op *o = &h->log[h->n];
    struct cs_seal_in in = { .visible = cs_row_lives(&d->row.row), .cells = o->cells };
    struct row r = d->row;

    if ((step == INSERT && in.visible) || ((step == UPDATE_A || step == UPDATE_B || step == DELETE) && !in.visible))
        return;
    *o = (struct op){ .seen = in.visible ? d->known : 0 };
    for (uint32_t c = 0; c < COLS; c++)
        if (step == INSERT || step == REPLACE || step == (c == 0 ? UPDATE_A : UPDATE_B))
            o->cells[o->ncells++] = cell(c, h->n);
    d->hlc = cs_hlc_tick(d->hlc, 1, 1);
    in.kind = step == DELETE ? CS_OP_DELETE : step == INSERT || step == REPLACE ? CS_OP_INSERT : CS_OP_UPDATE;
    in.v = o->v = version(d->hlc, who);
    in.ncells = o->ncells;
    r.row.cells = r.cells;
    r.row.cap = COLS;
    if (cs_row_seal(&r.row, &in, &sealed, &arena) != CS_OK)
        fail("a seal fails", o, NULL, 1);
    o->kind = sealed.kind;
    o->nover = sealed.nover;
    if (o->nover > 0)
        memcpy(o->over, sealed.over, o->nover * sizeof *o->over);
    h->author[h->n] = who;
    d->known |= 1U << h->n++;
    merge(&d->row, o);
    note(h);
    for (uint32_t c = 0; c < COLS; c++)
        r.values[c] = d->row.values[c];
    if (!same_row(&r, &d->row))
        fail("sealing and merging the same change differ", o, NULL, 1);
}

static bool touches(const struct op *o, uint32_t col)
{
    for (uint32_t i = 0; i < o->ncells; i++)
        if (o->cells[i].col == col)
            return true;
    return o->kind == CS_OP_DELETE;
}

static void no_edit_lost(const struct history *h, const struct row *want)
{
    const struct cs_row_cell *at;
    struct row w = *want;

    w.row.cells = w.cells;
    for (uint32_t i = 0; i < h->n; i++)
        for (uint32_t k = 0; k < h->log[i].ncells; k++) {
            uint32_t col = h->log[i].cells[k].col;
            bool seen = false, concurrent = false, recorded = h->recorded[i][col];

            for (uint32_t y = 0; y < h->n; y++) {
                if (y == i || !touches(&h->log[y], col))
                    continue;
                seen = seen || (h->log[y].seen & 1U << i) != 0;
                concurrent = concurrent || ((h->log[y].seen & 1U << i) == 0 && (h->log[i].seen & 1U << y) == 0);
            }
            at = cs_row_find(&w.row, col);
            if (!recorded && !seen &&
                !(cs_row_lives(&w.row) && at != NULL && cs_version_cmp(&at->v, &h->log[i].v) == 0))
                fail("an edit is lost without a record", h->log, NULL, h->n);
            if (recorded && !concurrent)
                fail("a record of no conflict", h->log, NULL, h->n);
        }
}

static void finish(struct history h)
{
    struct row empty = { 0 }, late = { 0 }, want = maxima(h.log, h.n);
    uint32_t order[MAX_OPS];

    for (uint32_t i = 0; i < h.ndevices; i++) {
        pull(&h, &h.devices[i]);
        if (!same_row(&h.devices[i].row, &want))
            fail("a device does not converge", h.log, NULL, h.n);
    }
    for (uint32_t i = 0; i < h.n; i++) {
        merge(&late, &h.log[i]);
        note(&h);
    }
    no_edit_lost(&h, &want);
    every_order(h.log, h.n, &empty, 0, order, 0, &want);
}

static unsigned long long histories(const struct history *so_far, uint32_t depth)
{
    unsigned long long count = 0;

    if (depth == MAX_OPS) {
        finish(*so_far);
        return 1;
    }
    for (uint32_t who = 0; who < so_far->ndevices; who++)
        for (int pulls = 0; pulls < 2; pulls++)
            for (int step = 0; step < NSTEPS; step++) {
                struct history h = *so_far;

                if (pulls)
                    pull(&h, &h.devices[who]);
                edit(&h, who, (enum step)step);
                count += histories(&h, depth + 1);
            }
    return count;
}

int main(void)
{
    for (uint32_t devices = 2; devices <= MAX_DEVICES; devices++) {
        struct op all[64], pick[MAX_OPS];
        struct history h = { .ndevices = devices };
        uint32_t nall = make_universe(all, devices);
        unsigned long long sets = multisets(all, nall, 0, pick, 0), plays;

        printf("%u devices: %llu multisets of 1 to %d of %u operations in every order\n", devices, sets, MAX_OPS, nall);
        plays = histories(&h, 0);
        printf("%u devices: %llu histories of %d steps, and every order of what they sent\n", devices, plays, MAX_OPS);
    }
    printf("%llu merges, all as defined\n", merges);
    cs_arena_free(&arena);
    return 0;
}
