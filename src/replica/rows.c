#include "replica/statements.h"
#include "replica/store.h"

static bool device_of(const struct cs_replica *r, uint64_t n, struct cs_uuid *out)
{
    if (n == 0 || n >= r->ndevices)
        return false;
    *out = r->devices[n];
    return true;
}

/* Row from its stored form; the row's cells array grows from the scratch arena. */
static bool decode(struct cs_replica *r, sqlite3_stmt *s, struct cs_row *row)
{
    struct cs_slice meta = cs_db_column_blob(s, 2);
    struct cs_reader rd = cs_reader(meta);
    uint64_t ins_device = cs_read_varint(&rd), del_device = cs_read_varint(&rd), n = cs_read_varint(&rd), next = 0;

    row->ins = row->del = CS_NEVER;
    row->ncells = 0;
    row->ins.stamp = sqlite3_column_int64(s, 0);
    row->del.stamp = sqlite3_column_int64(s, 1);
    if (rd.bad || n > 65536 || (row->ins.stamp != 0 && !device_of(r, ins_device, &row->ins.device)) ||
        (row->del.stamp != 0 && !device_of(r, del_device, &row->del.device)))
        return false;
    if (!cs_row_reserve(row, (uint32_t)(n + meta.len / 2 + 1), &r->scratch))
        return false;
    while (cs_reader_left(&rd) > 0 || next < n) {
        uint64_t col = cs_reader_left(&rd) > 0 ? cs_read_varint(&rd) : n, device;
        struct cs_row_cell *cell;

        for (; next < n && next < col; next++)
            row->cells[row->ncells++] = (struct cs_row_cell){ (uint32_t)next, row->ins };
        if (cs_reader_left(&rd) == 0)
            break;
        if (rd.bad || col < next || col > 65536)
            return false;
        next = col + 1;
        if ((device = cs_read_varint(&rd)) == 0)
            continue;
        cell = &row->cells[row->ncells++];
        cell->col = (uint32_t)col;
        cell->v.stamp = row->ins.stamp + cs_unzigzag(cs_read_varint(&rd));
        if (!device_of(r, device, &cell->v.device))
            return false;
    }
    return cs_reader_done(&rd);
}

/* As SQL writes it. What is long, or might be no text to a terminal, as its first bytes. */
static void put_part(struct cs_buf *out, const struct cs_value *v)
{
    enum { LONGEST = 64, BYTES = 24 };
    struct cs_slice b = v->u.bytes;
    bool plain = v->type == CS_TEXT && b.len <= LONGEST;
    char hex[2 * BYTES + 1];

    if (v->type == CS_INTEGER) {
        cs_buf_printf(out, "%lld", (long long)v->u.i);
        return;
    }
    if (v->type == CS_REAL) {
        cs_buf_printf(out, "%.17g", v->u.r);
        return;
    }
    for (size_t i = 0; i < b.len && plain; i++)
        plain = b.data[i] >= 0x20 && b.data[i] < 0x7f && b.data[i] != '\'';
    if (plain) {
        cs_buf_printf(out, "'%.*s'", (int)b.len, (const char *)b.data);
        return;
    }
    cs_hex(hex, b.data, b.len < BYTES ? b.len : BYTES);
    cs_buf_printf(out, "x'%s%s'", hex, b.len > BYTES ? "…" : "");
}

static int damaged(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_error *err)
{
    const struct cs_table *t = cs_table_by_id(r, table);
    struct cs_reader rd = cs_reader(key);
    struct cs_buf text = { 0 };
    struct cs_value part;

    while (cs_reader_left(&rd) > 0 && cs_key_next(&rd, &part)) {
        cs_buf_put_str(&text, text.len == 0 ? "" : ", ");
        put_part(&text, &part);
    }
    cs_buf_put_u8(&text, 0);
    cs_fail(err, CS_ECORRUPT,
            "\"%.100s\": what sync_rows has of row %.100s of table %lld (%.64s) is damaged: " CS_IF_DAMAGED,
            sqlite3_db_filename(r->db, "main"), text.failed ? "?" : (const char *)text.data, (long long)table,
            t != NULL ? t->name : "not tracked here");
    cs_buf_free(&text);
    return CS_ECORRUPT;
}

int cs_rows_read(struct cs_replica *r, sqlite3_stmt *s, int64_t table, struct cs_slice key, struct cs_row *row,
                 struct cs_error *err)
{
    return decode(r, s, row) ? CS_OK : damaged(r, table, key, err);
}

int cs_rows_get(struct cs_replica *r, int64_t table, struct cs_slice key, struct cs_row *row, int64_t *unsent,
                struct cs_error *err)
{
    sqlite3_stmt *s = cs_db_stmt(r, CS_STMT_ROW_GET, err);
    int step, rc = CS_OK;

    row->ins = row->del = CS_NEVER;
    row->ncells = 0;
    *unsent = 0;
    if (s == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_slice(s, 2, key);
    if ((step = sqlite3_step(s)) == SQLITE_DONE)
        rc = CS_ENOTFOUND;
    else if (step != SQLITE_ROW)
        rc = cs_db_fail(r, err, "cannot read a row's versions");
    else if ((rc = cs_rows_read(r, s, table, key, row, err)) == CS_OK)
        *unsent = sqlite3_column_int64(s, 3);
    sqlite3_reset(s);
    return rc;
}

/* The small integers of the devices in a row, looked up once per change of device. */
struct numbering {
    struct cs_uuid last;
    uint32_t n;
};

static int number_of(struct cs_replica *r, struct numbering *m, const struct cs_uuid *device, uint32_t *out,
                     struct cs_error *err)
{
    int rc = CS_OK;

    if (m->n == 0 || cs_uuid_cmp(&m->last, device) != 0) {
        m->last = *device;
        rc = cs_device_number(r, device, &m->n, err);
    }
    *out = m->n;
    return rc;
}

static int encode(struct cs_replica *r, const struct cs_row *row, struct cs_buf *out, struct cs_error *err)
{
    struct numbering m = { .n = 0 };
    uint32_t ins = 0, del = 0, n = 0, next = 0, device;
    int rc = CS_OK;

    cs_buf_reset(out);
    if (row->ins.stamp != 0)
        rc = number_of(r, &m, &row->ins.device, &ins, err);
    if (rc == CS_OK && row->del.stamp != 0)
        rc = number_of(r, &m, &row->del.device, &del, err);
    for (uint32_t i = row->ncells; row->ins.stamp != 0 && i > 0 && n == 0; i--)
        if (cs_version_cmp(&row->cells[i - 1].v, &row->ins) == 0)
            n = row->cells[i - 1].col + 1;
    cs_buf_put_varint(out, ins);
    cs_buf_put_varint(out, del);
    cs_buf_put_varint(out, n);
    for (uint32_t i = 0; rc == CS_OK && i <= row->ncells; i++) {
        const struct cs_row_cell *cell = i < row->ncells ? &row->cells[i] : NULL;
        uint32_t col = cell != NULL ? cell->col : n;

        for (; next < n && next < col; next++) { /* no cell here */
            cs_buf_put_varint(out, next);
            cs_buf_put_varint(out, 0);
        }
        if (cell == NULL)
            break;
        next = col + 1;
        if (col < n && cs_version_cmp(&cell->v, &row->ins) == 0)
            continue;
        if ((rc = number_of(r, &m, &cell->v.device, &device, err)) == CS_OK) {
            cs_buf_put_varint(out, col);
            cs_buf_put_varint(out, device);
            cs_buf_put_varint(out, cs_zigzag(cell->v.stamp - row->ins.stamp));
        }
    }
    return rc == CS_OK && out->failed ? cs_fail(err, CS_ENOMEM, "out of memory") : rc;
}

static int put(struct cs_replica *r, int which, int64_t table, struct cs_slice key, const struct cs_row *row,
               int64_t unsent, struct cs_error *err)
{
    int rc = encode(r, row, &r->meta, err), step;
    sqlite3_stmt *s;

    if (rc != CS_OK)
        return rc;
    if ((s = cs_db_stmt(r, which, err)) == NULL)
        return err_code(err);
    sqlite3_bind_int64(s, 1, table);
    cs_db_bind_slice(s, 2, key);
    if (row->ins.stamp != 0)
        sqlite3_bind_int64(s, 3, row->ins.stamp);
    else
        sqlite3_bind_null(s, 3);
    if (row->del.stamp != 0)
        sqlite3_bind_int64(s, 4, row->del.stamp);
    else
        sqlite3_bind_null(s, 4);
    cs_db_bind_slice(s, 5, cs_buf_slice(&r->meta));
    if (unsent != 0)
        sqlite3_bind_int64(s, 6, unsent);
    else
        sqlite3_bind_null(s, 6);
    step = sqlite3_step(s);
    if (step != SQLITE_DONE && (sqlite3_errcode(r->db) & 0xff) == SQLITE_CONSTRAINT)
        rc = CS_EEXIST;
    else if (step != SQLITE_DONE)
        rc = cs_db_fail(r, err, "cannot write a row's versions");
    sqlite3_reset(s);
    return rc;
}

int cs_rows_insert(struct cs_replica *r, int64_t table, struct cs_slice key, const struct cs_row *row, int64_t unsent,
                   struct cs_error *err)
{
    return put(r, CS_STMT_ROW_INSERT, table, key, row, unsent, err);
}

int cs_rows_update(struct cs_replica *r, int64_t table, struct cs_slice key, const struct cs_row *row, int64_t unsent,
                   struct cs_error *err)
{
    return put(r, CS_STMT_ROW_UPDATE, table, key, row, unsent, err);
}
