/* Rows of an audit log, as somebody may have left them in the file: any type in any column. A field of kind 5 is what a
 * true log has there, so that inputs get behind the first check. What verifies as whole was signed by the device's key.
 */
#include "fuzz/fuzz.h"

#include "audit/internal.h"

enum { ROWS_MAX = 6, COLUMNS = 13, BYTES_MAX = 1024, RIGHT = 5 };

static struct {
    bool ready;
    sqlite3 *db;
    sqlite3_stmt *insert, *walk;
    struct cs_audit_owner owner;
    struct cs_sign_key key;
    char workspace[CS_UUID_TEXT], device[CS_UUID_TEXT];
    struct cs_audit_row right[ROWS_MAX];
} g;

/* A log as cs_audit_append makes it. */
static void make_right(void)
{
    struct cs_buf bytes = { 0 };
    uint8_t hash[32];

    cs_audit_start(&g.owner, hash);
    for (unsigned i = 0; i < ROWS_MAX; i++) {
        struct cs_audit_row *r = &g.right[i];

        *r = (struct cs_audit_row){ .sequence = i + 1,
                                    .owner = g.owner,
                                    .occurred_at = 1700000000000 + i,
                                    .ops_count = i,
                                    .event_type = cs_slice_str("PUSH"),
                                    .entity_type = cs_slice_str("batch"),
                                    .entity_ids = cs_slice_str("1-2"),
                                    .payload = cs_slice_str("{}") };
        memcpy(r->prev_entry_hash, hash, 32);
        cs_hash_plain(r->payload, r->payload_hash);
        memcpy(r->signer_pub_key, g.key.pk, 32);
        cs_buf_reset(&bytes);
        FUZZ_CHECK(cs_audit_row_bytes(&bytes, r, NULL) == CS_OK);
        cs_hash_label("audit row", cs_buf_slice(&bytes), hash);
        cs_sign_digest(&g.key, hash, r->signature);
    }
    cs_buf_free(&bytes);
}

static void prepare(void)
{
    static const uint8_t seed[32] = { 1 };
    static const char table[] = "CREATE TABLE log(sequence INTEGER PRIMARY KEY, event_type, workspace_id, device_id, "
                                "entity_type, entity_ids, ops_count, occurred_at, payload, payload_hash, "
                                "prev_entry_hash, signature, signer_pub_key)";

    FUZZ_CHECK(cs_crypto_init(NULL) == CS_OK);
    cs_sign_key_from_seed(&g.key, seed);
    memset(g.owner.workspace.b, 7, 16);
    memset(g.owner.device.b, 9, 16);
    cs_uuid_text(g.workspace, &g.owner.workspace);
    cs_uuid_text(g.device, &g.owner.device);
    make_right();
    FUZZ_CHECK(sqlite3_open(":memory:", &g.db) == SQLITE_OK);
    FUZZ_CHECK(sqlite3_exec(g.db, table, NULL, NULL, NULL) == SQLITE_OK);
    FUZZ_CHECK(sqlite3_prepare_v2(g.db, "INSERT INTO log VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)", -1, &g.insert, NULL) ==
               SQLITE_OK);
    FUZZ_CHECK(sqlite3_prepare_v2(g.db, "SELECT * FROM log WHERE sequence >= ?1 ORDER BY sequence", -1, &g.walk,
                                  NULL) == SQLITE_OK);
    g.ready = true;
}

static void bind_right(int col, const struct cs_audit_row *r)
{
    const struct cs_slice texts[] = { r->event_type, cs_slice_str(g.workspace), cs_slice_str(g.device), r->entity_type,
                                      r->entity_ids };
    const void *blobs[] = { r->payload.data, r->payload_hash, r->prev_entry_hash, r->signature, r->signer_pub_key };
    const int lens[] = { (int)r->payload.len, 32, 32, CS_SIGNATURE_LEN, 32 };
    const int64_t integers[] = { (int64_t)r->ops_count, r->occurred_at };

    if (col == 0)
        sqlite3_bind_int64(g.insert, 1, (int64_t)r->sequence);
    else if (col <= 5)
        sqlite3_bind_text(g.insert, col + 1, (const char *)texts[col - 1].data, (int)texts[col - 1].len, SQLITE_STATIC);
    else if (col <= 7)
        sqlite3_bind_int64(g.insert, col + 1, integers[col - 6]);
    else
        sqlite3_bind_blob(g.insert, col + 1, blobs[col - 8], lens[col - 8], SQLITE_STATIC);
}

static void bind_field(struct cs_reader *in, int col, const struct cs_audit_row *right)
{
    uint8_t kind = cs_read_u8(in);
    struct cs_slice s;

    switch (kind % 6) {
    case 0:
        sqlite3_bind_null(g.insert, col + 1);
        break;
    case 1:
        sqlite3_bind_int64(g.insert, col + 1, (int64_t)cs_read_u64(in));
        break;
    case 2:
        sqlite3_bind_double(g.insert, col + 1, (double)cs_read_u64(in) / 3);
        break;
    case 3:
    case 4:
        s = cs_read_bytes(in, cs_read_u16(in) % BYTES_MAX);
        if (kind % 6 == 3)
            sqlite3_bind_text(g.insert, col + 1, s.len > 0 ? (const char *)s.data : "", (int)s.len, SQLITE_TRANSIENT);
        else
            sqlite3_bind_blob(g.insert, col + 1, s.len > 0 ? (const char *)s.data : "", (int)s.len, SQLITE_TRANSIENT);
        break;
    case RIGHT:
        bind_right(col, right);
        break;
    }
}

static bool is_signed(void *arg, const struct cs_audit_row *r)
{
    struct cs_buf bytes = { 0 };
    uint64_t *n = arg;
    uint8_t hash[32];

    FUZZ_CHECK(cs_audit_row_bytes(&bytes, r, NULL) == CS_OK);
    FUZZ_CHECK(bytes.len ==
               4 + 8 + 32 + 16 + 96 + 2 + r->event_type.len + 2 + r->entity_type.len + 4 + r->entity_ids.len);
    cs_hash_label("audit row", cs_buf_slice(&bytes), hash);
    FUZZ_CHECK(cs_verify_digest(g.key.pk, hash, r->signature));
    FUZZ_CHECK(r->sequence == ++*n);
    cs_buf_free(&bytes);
    return true;
}

static bool look(void *arg, const struct cs_audit_row *r)
{
    (void)arg;
    FUZZ_CHECK(r->event_type.data != NULL && r->entity_type.data != NULL && r->entity_ids.data != NULL);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cs_reader in = cs_reader(cs_slice(data, size));
    struct cs_audit log = { 0 };
    struct cs_audit_verdict v;
    struct cs_error err;
    uint64_t n = 0;

    if (!g.ready)
        prepare();
    sqlite3_exec(g.db, "DELETE FROM log", NULL, NULL, NULL);
    for (int i = 0; i < ROWS_MAX && cs_reader_left(&in) > 0; i++) {
        for (int col = 0; col < COLUMNS; col++)
            bind_field(&in, col, &g.right[i]);
        sqlite3_step(g.insert); /* two rows may want one number */
        sqlite3_reset(g.insert);
    }
    log.db = g.db;
    log.walk = g.walk;
    log.owner = g.owner;
    cs_audit_read(&log, 1, look, NULL, &err);
    FUZZ_CHECK(cs_audit_verify(&log, g.key.pk, NULL, 0, 1, &v, &err) == CS_OK);
    if (v.ok) {
        FUZZ_CHECK(cs_audit_read(&log, 0, is_signed, &n, &err) == CS_OK);
        FUZZ_CHECK(n == v.rows);
    } else {
        FUZZ_CHECK(v.first_broken_at >= 1 && v.broken_reason[0] != '\0');
    }
    cs_buf_free(&log.bytes);
    sqlite3_reset(g.walk);
    return 0;
}
