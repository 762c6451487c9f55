#include "crdt/merge.h"

#include "base/error.h"
#include "crdt/plant.h"

/* Makes room for `want` items in an array that grows in the arena; what it holds is kept. */
static bool reserve(void *array, uint32_t *cap, uint32_t want, size_t size, struct cs_arena *a)
{
    uint32_t n = *cap < 8 ? 8 : *cap;
    void *old, *p;

    if (want <= *cap)
        return true;
    while (n < want)
        n = n > UINT32_MAX / 2 ? UINT32_MAX : n * 2;
    if (n > SIZE_MAX / size || (p = cs_arena_alloc(a, n * size)) == NULL)
        return false;
    memcpy(&old, array, sizeof old);
    if (*cap > 0)
        memcpy(p, old, *cap * size);
    memcpy(array, &p, sizeof p);
    *cap = n;
    return true;
}

bool cs_row_reserve(struct cs_row *row, uint32_t n, struct cs_arena *a)
{
    return reserve(&row->cells, &row->cap, n, sizeof *row->cells, a);
}

const struct cs_row_cell *cs_row_find(const struct cs_row *row, uint32_t col)
{
    uint32_t lo = 0, hi = row->ncells, mid;

    while (lo < hi) {
        mid = lo + (hi - lo) / 2;
        if (row->cells[mid].col < col)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < row->ncells && row->cells[lo].col == col ? &row->cells[lo] : NULL;
}

const char *cs_why_name(enum cs_why why)
{
    switch (why) {
    case CS_WHY_OVERWRITTEN:
        return "overwritten";
    case CS_WHY_DELETED:
        return "deleted";
    case CS_WHY_COPIED_DEVICE:
        return "copied-device";
    }
    return "unknown";
}

/* A walk along an ascending list of cells, asked for ascending columns. */
struct walk {
    const struct cs_row_cell *cells;
    uint32_t n, at;
};
static const struct cs_row_cell *walk_to(struct walk *w, uint32_t col)
{
    while (w->at < w->n && w->cells[w->at].col < col)
        w->at++;
    return w->at < w->n && w->cells[w->at].col == col ? &w->cells[w->at] : NULL;
}

static void put_conflict(struct cs_merge_out *out, enum cs_why why, uint32_t col, const struct cs_version *losing,
                         const struct cs_value *value, bool present)
{
    out->conflicts[out->nconflicts++] = (struct cs_merge_conflict){ why, col, *losing, value, present };
}

const struct cs_value cs_merge_gone = { .type = CS_NULL };

/* The operation's cell i has the very version that is present. */
static int judge_tie(const struct cs_merge_in *in, uint32_t i, struct cs_merge_out *out)
{
    const struct cs_op_cell *cell = &in->cells[i];
    const struct cs_value *present = in->value(in->arg, cell->col);
    int c;

    if (present == NULL)
        return CS_EIO;
    if (present == &cs_merge_gone) {
        out->verdicts[i] = CS_TIE_WON;
        return CS_OK;
    }
    c = cs_value_cmp(&cell->value, present);
    if (c == 0) {
        out->verdicts[i] = CS_SAME;
        return CS_OK;
    }
    c = CS_PLANT(TIE_KEEPS_PRESENT, c, -1);
    out->verdicts[i] = c > 0 ? CS_TIE_WON : CS_TIE_LOST;
    put_conflict(out, CS_WHY_COPIED_DEVICE, cell->col, &in->v, c > 0 ? present : &cell->value, c > 0);
    return CS_OK;
}

/* One of the two cells of a column loses. It does so silently if both say the same, or if the operation's author had
 * seen the present one (`seen`) and overwrote it. */
static int judge(const struct cs_merge_in *in, uint32_t i, const struct cs_row_cell *was,
                 const struct cs_row_cell *seen, struct cs_merge_out *out)
{
    const struct cs_op_cell *cell = &in->cells[i];
    const struct cs_value *present;
    int c = cs_version_cmp(&in->v, &was->v);

    if (c == 0)
        return judge_tie(in, i, out);
    out->verdicts[i] = CS_PLANT(OLDER_CELL_WINS, c > 0, true) ? CS_WON : CS_LOST;
    if (c > 0 && seen != NULL && cs_version_cmp(&seen->v, &was->v) == 0)
        return CS_OK;
    if ((present = in->value(in->arg, cell->col)) == NULL)
        return CS_EIO;
    if (present == &cs_merge_gone && c > 0)
        return CS_OK;
    if (CS_PLANT(EQUAL_VALUES_CONFLICT, cs_value_cmp(&cell->value, present) == 0, false))
        return CS_OK;
    if (c > 0)
        put_conflict(out, CS_WHY_OVERWRITTEN, cell->col, &was->v, present, true);
    else
        put_conflict(out, CS_WHY_OVERWRITTEN, cell->col, &in->v, &cell->value, false);
    return CS_OK;
}

/* Puts the columns that the row did not have in their places, from the back so that nothing is moved twice. */
static void weave(struct cs_row *row, const struct cs_merge_in *in, uint32_t fresh)
{
    uint32_t from = row->ncells, to = from + fresh, i = in->ncells;

    row->ncells = to;
    while (to > from) {
        if (from > 0 && row->cells[from - 1].col >= in->cells[i - 1].col) {
            if (row->cells[from - 1].col == in->cells[i - 1].col)
                i--;
            row->cells[--to] = row->cells[--from];
        } else {
            row->cells[--to] = (struct cs_row_cell){ in->cells[--i].col, in->v };
        }
    }
}

/* At or below the tombstone: nothing of it is state. */
static int merge_below(const struct cs_row *row, const struct cs_merge_in *in, struct cs_merge_out *out)
{
    struct walk present = { row->cells, row->ncells, 0 };
    const struct cs_row_cell *was;
    int rc;

    for (uint32_t i = 0; i < in->ncells; i++) {
        if ((was = walk_to(&present, in->cells[i].col)) != NULL) {
            if ((rc = judge(in, i, was, NULL, out)) != CS_OK)
                return rc;
        } else {
            out->verdicts[i] = CS_LOST;
            put_conflict(out, CS_WHY_DELETED, in->cells[i].col, &in->v, &in->cells[i].value, false);
        }
    }
    return CS_OK;
}

/* An insert or update above the tombstone. */
static int merge_above(struct cs_row *row, const struct cs_merge_in *in, struct cs_merge_out *out, struct cs_arena *a)
{
    struct walk present = { row->cells, row->ncells, 0 }, over = { in->over, in->nover, 0 };
    const struct cs_row_cell *was;
    uint32_t fresh = 0;
    int rc;

    for (uint32_t i = 0; i < in->ncells; i++) {
        if ((was = walk_to(&present, in->cells[i].col)) == NULL) {
            out->verdicts[i] = CS_WON;
            fresh++;
            continue;
        }
        if ((rc = judge(in, i, was, walk_to(&over, in->cells[i].col), out)) != CS_OK)
            return rc;
        if (out->verdicts[i] == CS_WON)
            row->cells[was - row->cells].v = in->v;
        out->changed = out->changed || cs_verdict_takes(out->verdicts[i]);
    }
    if (fresh > 0) {
        if (fresh > UINT32_MAX - row->ncells || !cs_row_reserve(row, row->ncells + fresh, a))
            return CS_ENOMEM;
        weave(row, in, fresh);
        out->changed = true;
    }
    if (in->kind == CS_OP_INSERT && CS_PLANT(LAST_INSERT_IS_INS, cs_version_cmp(&in->v, &row->ins) > 0, true)) {
        row->ins = in->v;
        out->ins_changed = out->changed = true;
    }
    if (CS_PLANT(UPDATE_RESURRECTS, false, in->kind == CS_OP_UPDATE && !cs_row_lives(row) && row->del.stamp > 0))
        row->ins = in->v;
    /* an edit that met a delete is kept above it, and is not seen any more */
    if (!cs_row_lives(row) && !cs_version_is_never(&row->del))
        for (uint32_t i = 0; i < in->ncells; i++)
            if (cs_verdict_takes(out->verdicts[i]) || out->verdicts[i] == CS_SAME)
                put_conflict(out, CS_WHY_DELETED, in->cells[i].col, &in->v, &in->cells[i].value, false);
    return CS_OK;
}

/* Records a cell that a delete hides or removes without its author having seen it. */
static int lament(const struct cs_merge_in *in, const struct cs_row_cell *was, const struct cs_row_cell *seen,
                  struct cs_merge_out *out)
{
    const struct cs_value *present;

    if (seen != NULL && CS_PLANT(DELETE_SAW_ALL, cs_version_cmp(&seen->v, &was->v) >= 0, true))
        return CS_OK;
    if ((present = in->value(in->arg, was->col)) == NULL)
        return CS_EIO;
    if (present == &cs_merge_gone)
        return CS_OK;
    put_conflict(out, CS_WHY_DELETED, was->col, &was->v, present, true);
    return CS_OK;
}

static int merge_delete(struct cs_row *row, const struct cs_merge_in *in, struct cs_merge_out *out, struct cs_arena *a)
{
    struct walk over = { in->over, in->nover, 0 };
    uint32_t kept = 0;
    bool gone;
    int rc;

    if (!reserve(&out->gone, &out->gone_cap, row->ncells, sizeof *out->gone, a) ||
        !reserve(&out->conflicts, &out->conflicts_cap, row->ncells, sizeof *out->conflicts, a))
        return CS_ENOMEM;
    if (CS_PLANT(LAST_DELETE_IS_DEL, cs_version_cmp(&in->v, &row->del) > 0, true)) {
        row->del = in->v;
        out->changed = true;
    }
    if (!cs_version_is_never(&row->ins) && !cs_row_lives(row)) {
        row->ins = CS_NEVER;
        out->ins_changed = true;
    }
    for (uint32_t i = 0; i < row->ncells; i++) {
        struct cs_row_cell *was = &row->cells[i];

        gone = CS_PLANT(DELETE_SPARES_TIE, was->v.stamp <= row->del.stamp, was->v.stamp < row->del.stamp);
        if ((gone || !cs_row_lives(row)) && (rc = lament(in, was, walk_to(&over, was->col), out)) != CS_OK)
            return rc;
        if (CS_PLANT(DELETE_KEEPS_CELLS, gone, false))
            out->gone[out->ngone++] = was->col;
        else
            row->cells[kept++] = *was;
    }
    row->ncells = kept;
    return CS_OK;
}

int cs_row_merge(struct cs_row *row, const struct cs_merge_in *in, struct cs_merge_out *out, struct cs_arena *a)
{
    int rc;

    out->ngone = out->nconflicts = 0;
    out->changed = out->ins_changed = false;
    out->lived = cs_row_lives(row);
    /* a cell can be recorded twice: it loses to another one, and is kept above a tombstone */
    if (in->ncells > UINT32_MAX / 2 ||
        !reserve(&out->verdicts, &out->verdicts_cap, in->ncells, sizeof *out->verdicts, a) ||
        !reserve(&out->conflicts, &out->conflicts_cap, in->ncells * 2, sizeof *out->conflicts, a))
        return CS_ENOMEM;
    if (in->kind == CS_OP_DELETE)
        rc = merge_delete(row, in, out, a);
    else if (CS_PLANT(DELETE_LOSES_TIE, in->v.stamp <= row->del.stamp, in->v.stamp < row->del.stamp))
        rc = merge_below(row, in, out);
    else
        rc = merge_above(row, in, out, a);
    out->lives = cs_row_lives(row);
    return rc;
}

void cs_op_cells_sort(struct cs_op_cell *cells, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        struct cs_op_cell x = cells[i];
        uint32_t k = i;

        for (; k > 0 && cells[k - 1].col > x.col; k--)
            cells[k] = cells[k - 1];
        cells[k] = x;
    }
}

void cs_row_cells_sort(struct cs_row_cell *cells, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        struct cs_row_cell x = cells[i];
        uint32_t k = i;

        for (; k > 0 && cells[k - 1].col > x.col; k--)
            cells[k] = cells[k - 1];
        cells[k] = x;
    }
}

/* The present cells of the columns that a change writes, or of all columns if it deletes. */
static bool collect(const struct cs_row *row, const struct cs_seal_in *in, struct cs_seal_out *out, struct cs_arena *a)
{
    struct walk present = { row->cells, row->ncells, 0 };
    const struct cs_row_cell *was;

    out->nmet = 0;
    if (!reserve(&out->met, &out->met_cap, row->ncells, sizeof *out->met, a))
        return false;
    if (in->kind == CS_OP_DELETE) {
        if (row->ncells > 0)
            memcpy(out->met, row->cells, row->ncells * sizeof *out->met);
        out->nmet = row->ncells;
        return true;
    }
    for (uint32_t i = 0; i < in->ncells; i++)
        if ((was = walk_to(&present, in->cells[i].col)) != NULL)
            out->met[out->nmet++] = *was;
    return true;
}

/* Never a conflict of its own: what was met unseen is reported as covered. */
static const struct cs_value *no_value(void *arg, uint32_t col)
{
    static const struct cs_value null;

    (void)arg;
    (void)col;
    return &null;
}

int cs_row_seal(struct cs_row *row, const struct cs_seal_in *in, struct cs_seal_out *out, struct cs_arena *a)
{
    struct cs_merge_in m = {
        .kind = in->kind, .v = in->v, .cells = in->cells, .ncells = in->ncells, .value = no_value
    };
    bool saw;
    int rc;

    if (in->kind == CS_OP_INSERT && CS_PLANT(REPLACE_IS_INSERT, cs_row_lives(row), false))
        m.kind = CS_OP_UPDATE;
    if (!collect(row, in, out, a))
        return CS_ENOMEM;
    saw = CS_PLANT(HIDDEN_IS_SEEN, in->visible, true) && m.kind != CS_OP_INSERT;
    out->kind = m.kind;
    out->over = saw ? out->met : NULL;
    out->nover = saw ? out->nmet : 0;
    out->covered = saw ? NULL : out->met;
    out->ncovered = saw ? 0 : out->nmet;
    m.over = out->met;
    m.nover = out->nmet;
    rc = cs_row_merge(row, &m, &out->merge, a);
    out->lived = out->merge.lived;
    out->lives = out->merge.lives;
    out->ins_changed = out->merge.ins_changed;
    return rc;
}
