/* The calls about conflicts. They run in jobs, on the engine's own database. */
#include <stdlib.h>

#include "engine/engine.h"
#include "replica/review.h"

struct conflicts_call {
    int settled;
    void (*fn)(void *arg, const clawsync_conflict *c);
    void *arg;
    const char *id, *table, *column;
    enum cs_review_choice choice;
    const struct cs_value *value;
    bool manual;
};

static struct cs_replica_options options(const struct clawsync_engine *e)
{
    return (struct cs_replica_options){ .path = e->config.db_path, .load_extension = e->config.load_extension };
}

static clawsync_value out_value(const struct cs_value *v)
{
    clawsync_value x = { .type = CLAWSYNC_NULL };

    if (v == NULL)
        return x;
    switch (v->type) {
    case CS_NULL:
        break;
    case CS_INTEGER:
        x = (clawsync_value){ .type = CLAWSYNC_INTEGER, .integer = v->u.i };
        break;
    case CS_REAL:
        x = (clawsync_value){ .type = CLAWSYNC_REAL, .real = v->u.r };
        break;
    case CS_TEXT:
    case CS_BLOB:
        x = (clawsync_value){ .type = v->type == CS_TEXT ? CLAWSYNC_TEXT : CLAWSYNC_BLOB,
                              .bytes = v->u.bytes.data,
                              .length = v->u.bytes.len };
        break;
    }
    return x;
}

static int in_value(const clawsync_value *v, struct cs_value *out, struct cs_error *err)
{
    *out = (struct cs_value){ .type = CS_NULL };
    switch (v->type) {
    case CLAWSYNC_NULL:
        return CS_OK;
    case CLAWSYNC_INTEGER:
        *out = (struct cs_value){ .type = CS_INTEGER, .u.i = v->integer };
        return CS_OK;
    case CLAWSYNC_REAL:
        *out = (struct cs_value){ .type = CS_REAL, .u.r = v->real };
        if (v->real != v->real)
            return cs_fail(err, CS_EINVAL, "a value that is not a number cannot be stored");
        return CS_OK;
    case CLAWSYNC_TEXT:
    case CLAWSYNC_BLOB:
        if (v->bytes == NULL && v->length > 0)
            return cs_fail(err, CS_EINVAL, "a value without its bytes");
        *out = (struct cs_value){ .type = v->type == CLAWSYNC_TEXT ? CS_TEXT : CS_BLOB,
                                  .u.bytes = cs_slice(v->bytes != NULL ? v->bytes : "", v->length) };
        return CS_OK;
    default:
        return cs_fail(err, CS_EINVAL, "there is no value of type %d", (int)v->type);
    }
}

static int each(void *arg, const struct cs_review_conflict *x)
{
    struct conflicts_call *call = arg;
    char device[CS_UUID_TEXT];
    clawsync_value *key = calloc((size_t)x->nkey + 1, sizeof *key), losing = out_value(x->losing),
                   now = out_value(x->now);
    clawsync_conflict c = { .id = x->id,
                            .why = x->why,
                            .state = x->state,
                            .table = x->table,
                            .column = x->column,
                            .key = key,
                            .nkey = x->nkey,
                            .losing = x->losing != NULL ? &losing : NULL,
                            .now = x->now != NULL ? &now : NULL,
                            .device = device,
                            .edited_ms = x->edited_ms,
                            .noticed_ms = x->noticed_ms };

    if (key == NULL)
        return 1;
    cs_uuid_text(device, &x->device);
    for (uint32_t i = 0; i < x->nkey; i++)
        key[i] = out_value(&x->key[i]);
    call->fn(call->arg, &c);
    free(key);
    return 0;
}

static int do_list(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    struct conflicts_call *call = arg;

    return cs_review_conflicts(e->replica, call->settled != 0, each, call, err);
}

static int do_resolve(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    const struct conflicts_call *call = arg;
    struct cs_replica_options o = options(e);

    return cs_review_resolve(e->replica, &o, call->id, call->choice, call->value, err);
}

static int do_strategy(struct clawsync_engine *e, void *arg, struct cs_error *err)
{
    const struct conflicts_call *call = arg;
    struct cs_replica_options o = options(e);

    return cs_replica_set_strategy(e->replica, &o, call->table, call->column, call->manual, err);
}

static int local(clawsync_engine *e, int (*fn)(struct clawsync_engine *, void *, struct cs_error *),
                 struct conflicts_call *call, clawsync_error *err)
{
    struct cs_command c = { .kind = CS_CMD_LOCAL, .local = fn, .arg = call };

    return cs_engine_command(e, &c, err);
}

int clawsync_engine_conflicts(clawsync_engine *e, int settled, void (*fn)(void *arg, const clawsync_conflict *c),
                              void *arg, clawsync_error *err)
{
    struct conflicts_call call = { .settled = settled, .fn = fn, .arg = arg };

    if (fn == NULL)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "there is nobody to call for each conflict");
    return local(e, do_list, &call, err);
}

int clawsync_engine_resolve_conflict(clawsync_engine *e, const char *id, clawsync_choice choice,
                                     const clawsync_value *value, clawsync_error *err)
{
    struct conflicts_call call = { .id = id };
    struct cs_value given;
    int rc;

    if (id == NULL)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "the conflict's id is missing");
    switch (choice) {
    case CLAWSYNC_KEEP:
        call.choice = CS_REVIEW_KEEP;
        break;
    case CLAWSYNC_TAKE:
        call.choice = CS_REVIEW_TAKE;
        break;
    case CLAWSYNC_GIVEN:
        call.choice = CS_REVIEW_GIVEN;
        break;
    default:
        return cs_fail((struct cs_error *)err, CS_EINVAL, "there is no choice %d", (int)choice);
    }
    if (choice == CLAWSYNC_GIVEN && value == NULL)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "the value is missing");
    if (choice == CLAWSYNC_GIVEN && (rc = in_value(value, &given, (struct cs_error *)err)) != CS_OK)
        return rc;
    call.value = &given;
    if ((rc = local(e, do_resolve, &call, err)) == CS_OK)
        clawsync_engine_notify(e);
    return rc;
}

int clawsync_engine_set_strategy(clawsync_engine *e, const char *table, const char *column, int manual,
                                 clawsync_error *err)
{
    struct conflicts_call call = { .table = table, .column = column, .manual = manual != 0 };
    int rc;

    if (table == NULL)
        return cs_fail((struct cs_error *)err, CS_EINVAL, "the table's name is missing");
    if ((rc = local(e, do_strategy, &call, err)) == CS_OK)
        clawsync_engine_notify(e);
    return rc;
}
