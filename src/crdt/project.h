/* The projection: which rows of the merged state the application's tables show, and with which values. A pure function
 * of (merged state, schema), never of the order of arrival. Any thread. */
#ifndef CS_CRDT_PROJECT_H
#define CS_CRDT_PROJECT_H

#include "crdt/state.h"

/* ---- what one row alone decides ---- */

/* How a column shows its cell. */
struct cs_column_rule {
    bool notnull, has_default;     /* has_default: a constant */
    enum cs_collation collation;   /* key columns: of the key */
    struct cs_value default_value; /* if has_default; a NULL is as good as none */
};
enum cs_show {
    CS_SHOW = 0,            /* *out is what stands in the cell, its default, or NULL */
    CS_SHOW_SUBSTITUTE = 1, /* the default stands in for a NULL, which must be kept aside as a hidden cell */
    CS_SHOW_NOT = 2         /* NULL cannot stand here and there is no default: the whole row is hidden */
};
/* What a column shows. cell: NULL when the row has none. key_part: of key columns the canonical part of the key, which
 * the cell only spells (another cell than of that key is not shown); else NULL. */
enum cs_show cs_show_column(const struct cs_column_rule *rule, const struct cs_value *key_part,
                            const struct cs_value *cell, struct cs_value *out);

/* ---- which of a set of rows are shown ---- */

/* The order of rows: `ins`, and between copies of one device the table's name and the key. */
struct cs_age {
    struct cs_version ins;
    struct cs_slice table, key;
};
int cs_age_cmp(const struct cs_age *a, const struct cs_age *b);

enum cs_decided { CS_UNDECIDED = 0, CS_SHOWN = 1, CS_HIDDEN = 2 };
/* The rows that a foreign key could mean: indices into the entities. Empty: there is no such row. Entities whose
 * foreign keys say the same should share one set. */
struct cs_parents {
    const uint32_t *rows;
    uint32_t n;
};
struct cs_entity {
    struct cs_age age;
    enum cs_decided fixed;  /* other than CS_UNDECIDED: known from outside; counts, and is not decided again */
    const uint32_t *claims; /* keys that it claims if it is shown: numbers below nclaims; no NULLs among them */
    uint32_t nclaims;
    /* A set for each foreign key, by its number below nsets; none for one with a NULL in it, or into a table that is
     * not tracked. */
    const uint32_t *parents;
    uint32_t nparents;
};
struct cs_decide_in {
    const struct cs_entity
        *entities; /* closed: whatever could claim a key of theirs, or be their parent, is among them */
    const struct cs_parents *sets;
    uint32_t n, nsets, nclaims;
};
/* Decides all: a row once its parents and every older claimant of its keys are decided; it is shown iff its parents
 * are shown and no shown row holds one of its keys (so a hidden row claims nothing). Rows that are each other's
 * parents are decided as one group. Where rows wait for each other in a circle, the oldest row whose parents are all
 * shown goes first. shown[i] is set for each entity. About linear in entities, claims and parents; a group costs
 * its size each time that something it depends on is decided. Memory comes from a. CS_ENOMEM, or CS_EINVAL: an index
 * out of range. */
int cs_decide(const struct cs_decide_in *in, bool *shown, struct cs_arena *a);

/* ---- a whole state under a schema ---- */

enum { CS_NOT_TRACKED = UINT32_MAX };
struct cs_schema_column {
    struct cs_slice name;
    struct cs_column_rule rule;
};
struct cs_schema_fk {
    const uint32_t *cols, *refs; /* child's columns, parent's columns */
    uint32_t ncols;
    uint32_t parent; /* index of a table, or CS_NOT_TRACKED: hides nothing */
};
struct cs_schema_unique {
    const uint32_t *cols;
    uint32_t ncols;
};
struct cs_schema_table {
    struct cs_slice name;
    const struct cs_schema_column *columns;
    const uint32_t *key; /* columns of the primary key, in key order */
    const struct cs_schema_unique *uniques;
    const struct cs_schema_fk *fks;
    uint32_t ncolumns, nkey, nuniques, nfks, nchecks;
};
struct cs_schema {
    const struct cs_schema_table *tables; /* tracked ones only */
    uint32_t ntables;
    /* Does CHECK `index` of the table hold for this row? NULL when no table has one. */
    bool (*check)(void *arg, uint32_t table, uint32_t index, const struct cs_value *values);
    void *arg;
};

enum cs_hidden_why {
    CS_HIDDEN_TABLE = 1, /* the schema has no such table */
    CS_HIDDEN_KEY,       /* its primary key has another number of columns */
    CS_HIDDEN_NOTNULL,   /* a NULL with no default */
    CS_HIDDEN_FK,        /* a parent is not shown */
    CS_HIDDEN_UNIQUE     /* a shown row holds one of its keys */
};
/* "table", "key", "notnull", "fk", "unique". */
const char *cs_hidden_why_name(enum cs_hidden_why why);

struct cs_shown_row {
    const struct cs_state_row *row;
    uint32_t table;                /* of the schema */
    const struct cs_value *values; /* by the schema's columns */
};
struct cs_hidden_row {
    const struct cs_state_row *row;
    enum cs_hidden_why why;
};
struct cs_hidden_cell {
    const struct cs_state_row *row;
    uint32_t col; /* of the state's table */
};
/* A shown row that breaks a CHECK, or a hidden one whose key a shown row holds. */
struct cs_raised {
    const struct cs_state_row *row;
    const struct cs_state_row *holder; /* NULL: a CHECK */
    uint32_t check;
};
/* Every list by (table name, key bytes), but `hidden` has first what one row alone decides, then the others. Points
 * into the arena and the state. */
struct cs_projection {
    const struct cs_schema *schema;
    struct cs_shown_row *rows;
    struct cs_hidden_row *hidden;
    struct cs_hidden_cell *cells;
    struct cs_raised *raised;
    uint32_t nrows, nhidden, ncells, nraised;
};
int cs_project(struct cs_projection *out, const struct cs_state *s, const struct cs_schema *schema, struct cs_arena *a);
/* Canonical bytes of what the application sees: "claw-sync projection 1\n", then the schema's tables by name:
 * frame(table), 4-byte number of rows, and by key bytes frame(key), then by column name frame(column),
 * frame(encoding). */
void cs_projection_dump(const struct cs_projection *p, struct cs_buf *out, struct cs_arena *a);

#endif
