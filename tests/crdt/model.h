/* The reference model: the merge and the projection said another way, slowly, and with no line of src/crdt. The merged
 * state is read off the plain list of all operations as maxima; the projection follows the words of the rules. Values
 * are their encodings. Memory is not checked: it is a test. */
#ifndef CS_TESTS_MODEL_H
#define CS_TESTS_MODEL_H

#include "crdt/project.h"

enum { MODEL_COLS = 12, MODEL_LINKS = 8, MODEL_ROWS = 64 }; /* a set of rows is a uint64_t: row i is bit i */

struct model_cell {
    struct cs_slice name, value;
    struct cs_version v;
    bool hidden; /* after model_project: the schema does not show it */
};
struct model_row {
    struct cs_slice table, key;
    struct cs_version ins, del;
    struct model_cell cells[MODEL_COLS + 1];
    uint32_t ncells;
    /* after model_project */
    enum cs_hidden_why why; /* 0: shown, or dead */
    const struct cs_schema_table *schema;
    struct cs_slice values[MODEL_COLS];
    uint64_t claims[MODEL_LINKS], parents[MODEL_LINKS]; /* who claims the same key; who could be the parent */
    uint32_t nclaims, nparents;
};
struct model {
    struct cs_arena arena;
    struct model_row rows[MODEL_ROWS]; /* as first heard of; from model_project on by age */
    uint32_t n;
    uint64_t undecided, shown;
};

void model_merge(struct model *m, const struct cs_delta *d);
/* Fills in the second half of each row, and `shown`. */
void model_project(struct model *m, const struct cs_schema *s);
/* The part of it that moves rows from `undecided` to `shown`, or out, by their claims and parents. They lie by age. */
void model_decide(struct model *m);
/* Versions by stamp, then device. */
int model_order(struct cs_version a, struct cs_version b);
struct cs_slice model_enc(struct cs_arena *a, struct cs_value v);

#endif
