/* The reference model: the merge and the projection said another way, slowly, and with no line of src/crdt. The merged
 * state is read off the plain list of all operations as maxima; the projection follows the words of the rules. Values
 * are their encodings. Memory is not checked: it is a test. */
#ifndef CS_TESTS_MODEL_H
#define CS_TESTS_MODEL_H

#include "crdt/project.h"

enum { MODEL_COLS = 12, MODEL_LINKS = 8, MODEL_ROWS = 512 };

struct model_cell {
    struct cs_slice name, value;
    struct cs_version v;
    bool hidden; /* after model_project: the schema does not show it */
};
struct model_row {
    struct cs_slice table, key;
    struct cs_version ins, del;
    struct model_cell cells[MODEL_COLS]; /* by name */
    uint32_t ncells;
    /* after model_project */
    enum { MODEL_OUT, MODEL_UNDECIDED, MODEL_SHOWN, MODEL_HIDDEN } state; /* OUT: dead, or hidden on its own account */
    enum cs_hidden_why why;                                               /* 0: shown, or dead */
    const struct cs_schema_table *schema;
    struct cs_slice values[MODEL_COLS], claims[MODEL_LINKS];
    uint32_t nclaims, nparents;
    bool *parents[MODEL_LINKS]; /* of a foreign key, by row: could be the parent */
    bool *reaches;              /* by row: is an ancestor */
};
struct model {
    struct cs_arena arena;
    struct model_row *rows; /* by table and key */
    uint32_t n;
    uint32_t order[MODEL_ROWS], norder; /* rows that are decided, by age */
};

void model_merge(struct model *m, const struct cs_delta *d);
void model_free(struct model *m);
void model_dump(const struct model *m, struct cs_buf *out);
/* Fills in the second half of each row. */
void model_project(struct model *m, const struct cs_schema *s);
/* The part of it that decides: from ins, claims and parents of the rows that are MODEL_UNDECIDED. */
void model_decide(struct model *m);
/* Do two rows claim one key? */
bool model_share(const struct model *m, uint32_t i, uint32_t k);

/* Shared by the two files of the model. */
struct cs_slice model_take(struct cs_arena *a, struct cs_buf *b);
void model_frame(struct cs_buf *out, struct cs_slice s);
struct cs_slice model_enc(struct cs_arena *a, struct cs_value v);
/* Equal bytes iff SQLite's = holds; also the canonical form of a part of a key. */
struct cs_slice model_same(struct cs_arena *a, struct cs_slice e, enum cs_collation coll);
int model_order(struct cs_version a, struct cs_version b);

#endif
