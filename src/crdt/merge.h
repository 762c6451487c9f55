/* The merge: rows as versions, and what one operation does to a row. A join: commutative, associative, idempotent, and
 * blind to the application's schema. Only versions live in here; values stay with the caller, who is told which change
 * and asked for the present one only where a tie or a conflict record needs it.
 *
 * Columns are the caller's own numbers, the same for the whole life of a row. Every list of cells is ascending by them.
 * Pure functions, any thread. */
#ifndef CS_CRDT_MERGE_H
#define CS_CRDT_MERGE_H

#include "crdt/op.h"

struct cs_row_cell {
    uint32_t col;
    struct cs_version v;
};

/* The state of one row. Zero-initialised is a row that nobody has heard of. Normal form, which every call keeps:
 * `ins` and all cells have stamps above `del`'s; what a delete is at or above is no state.
 * `cells` is the caller's array of `cap`, or grown from the arena that is passed in (the old array is left to its
 * owner). A caller that works on many rows keeps one cs_row, sets ncells to 0 and fills it again. When the arena is
 * reset, cells and cap must be zeroed too. */
struct cs_row {
    struct cs_version ins, del; /* highest insert, highest delete; CS_NEVER: none */
    struct cs_row_cell *cells;
    uint32_t ncells, cap;
};

/* Stamps only: a delete wins a tie. */
static inline bool cs_row_lives(const struct cs_row *row)
{
    return row->ins.stamp > row->del.stamp;
}
/* The newest version of a row that lives. */
static inline struct cs_version cs_row_newest(const struct cs_row *row)
{
    struct cs_version v = row->ins;

    for (uint32_t i = 0; i < row->ncells; i++)
        if (cs_version_cmp(&row->cells[i].v, &v) > 0)
            v = row->cells[i].v;
    return v;
}
/* Nothing in it: not a row of the merged state. */
static inline bool cs_row_is_empty(const struct cs_row *row)
{
    return cs_version_is_never(&row->ins) && cs_version_is_never(&row->del) && row->ncells == 0;
}
/* Room for n cells; false: out of memory, nothing changed. */
bool cs_row_reserve(struct cs_row *row, uint32_t n, struct cs_arena *a);
/* The cell of a column, or NULL. Binary search. */
const struct cs_row_cell *cs_row_find(const struct cs_row *row, uint32_t col);

/* ---- merging one operation ---- */

extern const struct cs_value cs_merge_gone;

struct cs_merge_in {
    enum cs_op_kind kind;
    struct cs_version v;
    const struct cs_op_cell *cells; /* ascending by col; none in a delete */
    uint32_t ncells;
    const struct cs_row_cell *over; /* ascending by col: what the author saw; none in an insert */
    uint32_t nover;
    /* The present value of a cell that the row has (as it is before this operation). Asked for only where it decides:
     * a cell of the same version, or a conflict record. The pointer must stay good until `out` has been used. NULL:
     * it cannot be had, the merge stops with CS_EIO. &cs_merge_gone: it is not here any more, as after a column was
     * dropped; the operation brings it back if it has that version, and there is no record of what nobody here knows.
     */
    const struct cs_value *(*value)(void *arg, uint32_t col);
    void *arg;
};

/* What became of one cell of the operation. */
enum cs_verdict {
    CS_LOST = 0,     /* something newer, or a delete, stands above it: drop the value */
    CS_WON = 1,      /* its value is the cell's value now */
    CS_SAME = 2,     /* known already: same version, same value */
    CS_TIE_LOST = 3, /* same version, other value (a copied device): the larger encoding, the present one, stays */
    CS_TIE_WON = 4   /* the same, and the operation's value is the larger: it is the cell's value now */
};
static inline bool cs_verdict_takes(enum cs_verdict v)
{
    return v == CS_WON || v == CS_TIE_WON;
}

enum cs_why { CS_WHY_OVERWRITTEN = 1, CS_WHY_DELETED = 2, CS_WHY_COPIED_DEVICE = 3 };
/* "overwritten", "deleted", "copied-device". */
const char *cs_why_name(enum cs_why why);

/* A record of an edit that lost to a concurrent one: this device's own note, not replicated state. Exact when every
 * operation comes once, and after all that its author had seen. */
struct cs_merge_conflict {
    enum cs_why why; /* CS_WHY_COPIED_DEVICE: to be raised by hand */
    uint32_t col;
    struct cs_version losing;
    const struct cs_value *value; /* the losing value: the operation's, or the one that `value` gave */
    bool present;                 /* it is the one that was present */
};

/* Zero-initialise before the first use; then reuse it, it keeps its arrays. They lie in the arena passed in: drop both
 * together. Valid until the next call. */
struct cs_merge_out {
    uint8_t *verdicts; /* enum cs_verdict of each cell of the operation */
    uint32_t *gone;    /* columns whose cell the delete removed, ascending */
    struct cs_merge_conflict *conflicts;
    uint32_t ngone, nconflicts;
    bool changed;      /* the merged state is another one now, a value after CS_TIE_WON included */
    bool lived, lives; /* before and after */
    bool ins_changed;  /* `ins` is another one (age for the projection), also when it is gone */
    uint32_t verdicts_cap, gone_cap, conflicts_cap;
};

/* row := row JOIN operation. CS_ENOMEM or CS_EIO (`value` gave NULL): row and out are not to be used, start again. */
int cs_row_merge(struct cs_row *row, const struct cs_merge_in *in, struct cs_merge_out *out, struct cs_arena *a);

/* Puts cells that were renumbered in ascending order (linear when they are already). */
void cs_op_cells_sort(struct cs_op_cell *cells, uint32_t n);
void cs_row_cells_sort(struct cs_row_cell *cells, uint32_t n);

/* ---- sealing a local change ---- */

struct cs_seal_in {
    enum cs_op_kind kind;           /* what the application did: an insert (REPLACE included), an update or a delete */
    struct cs_version v;            /* fresh: above everything this device has seen */
    const struct cs_op_cell *cells; /* ascending by col; the columns written, values are not looked at */
    uint32_t ncells;
    bool visible; /* the application's table showed the row before the change */
};
/* Reused like cs_merge_out. */
struct cs_seal_out {
    enum cs_op_kind kind;           /* an insert over a row that lives (shown or hidden) is an update; `ins` stays */
    const struct cs_row_cell *over; /* what the application saw and overwrote, ascending by col */
    uint32_t nover;
    /* Present cells that it covers or deletes without having seen them, with their old versions. Each is a conflict:
     * deleted for a delete, otherwise overwritten if its value is not the one written. */
    const struct cs_row_cell *covered;
    uint32_t ncovered;
    bool lived, lives, ins_changed;
    /* scratch */
    struct cs_row_cell *met;
    uint32_t nmet, met_cap;
    struct cs_merge_out merge;
};
/* What the change becomes, and the row after it. CS_ENOMEM: as above. */
int cs_row_seal(struct cs_row *row, const struct cs_seal_in *in, struct cs_seal_out *out, struct cs_arena *a);

#endif
