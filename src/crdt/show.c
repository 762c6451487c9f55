#include "crdt/plant.h"
#include "crdt/project.h"

static bool is_null(const struct cs_value *v)
{
    return v->type == CS_NULL || (v->type == CS_REAL && v->u.r != v->u.r);
}

enum cs_show cs_show_column(const struct cs_column_rule *rule, const struct cs_value *key_part,
                            const struct cs_value *cell, struct cs_value *out)
{
    static const struct cs_value null;
    const struct cs_value *def = rule->has_default ? &rule->default_value : &null;

    if (key_part != NULL) {
        *out = cell != NULL && cs_key_spells(key_part, cell, rule->collation) ? *cell : *key_part;
        return CS_SHOW;
    }
    *out = cell != NULL && CS_PLANT(DEFAULT_BEATS_NULL, true, !is_null(cell)) ? *cell : *def;
    if (!is_null(out) || !rule->notnull)
        return CS_SHOW;
    *out = *def;
    if (is_null(out))
        return CS_PLANT(NULL_STANDS_IN_NOTNULL, CS_SHOW_NOT, CS_SHOW);
    return CS_PLANT(SUBSTITUTE_FORGOTTEN, cell != NULL, false) ? CS_SHOW_SUBSTITUTE : CS_SHOW;
}

const char *cs_hidden_why_name(enum cs_hidden_why why)
{
    switch (why) {
    case CS_HIDDEN_TABLE:
        return "table";
    case CS_HIDDEN_KEY:
        return "key";
    case CS_HIDDEN_NOTNULL:
        return "notnull";
    case CS_HIDDEN_FK:
        return "fk";
    case CS_HIDDEN_UNIQUE:
        return "unique";
    }
    return "unknown";
}
