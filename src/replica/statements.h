/* The replica's fixed statements: prepared on first use, finalised at close (db.c). SQL text stands in db.c's table. */
#ifndef CS_REPLICA_STATEMENTS_H
#define CS_REPLICA_STATEMENTS_H

enum cs_statement {
    CS_STMT_BEGIN,
    CS_STMT_COMMIT,
    CS_STMT_ROLLBACK,
    CS_STMT_META_GET,
    CS_STMT_META_SET,
    CS_STMT_META_DROP,
    CS_STMT_ROW_GET,
    CS_STMT_ROW_INSERT,
    CS_STMT_ROW_UPDATE,
    CS_STMT_TABLE_ID,
    CS_STMT_TABLE_NAME,
    CS_STMT_TABLE_NEW,
    CS_STMT_COLUMN_ID,
    CS_STMT_COLUMN_NAME,
    CS_STMT_COLUMN_NEW,
    CS_STMT_DEVICE_NEW,
    CS_STMT_LOG_READ,   /* a slice of the changelog */
    CS_STMT_LOG_DELETE, /* a range of it */
    CS_STMT_LOG_ANY,
    CS_STMT_LOG_KEYS, /* table and key columns of what is in it */
    CS_STMT_UNSENT_PUT,
    CS_STMT_UNSENT_GET,
    CS_STMT_UNSENT_SET,
    CS_STMT_UNSENT_WALK,
    CS_STMT_UNSENT_DROP,
    CS_STMT_UNSENT_ANY,
    CS_STMT_RUN_PUT,
    CS_STMT_RUN_ANY,
    CS_STMT_BOUND_PUT,
    CS_STMT_BOUND_ALL,
    CS_STMT_BOUND_ACCEPT,
    CS_STMT_BOUND_REBIND,
    CS_STMT_BOUND_DROP_WAITING,
    CS_STMT_BOUND_AT,
    CS_STMT_BOUND_PRUNE,
    CS_STMT_REFUSED_PUT,
    CS_STMT_REFUSED_PUT_ALL,
    CS_STMT_REFUSED_GET,
    CS_STMT_REFUSED_PRUNE,
    CS_STMT_LOG_HASH,
    CS_STMT_LOG_PUT,
    CS_STMT_LOG_PRUNE,
    CS_STMT_ROW_WALK,
    CS_STMT_GAP_NEXT,
    CS_STMT_GAP_SET,
    CS_STMT_SHADOW_GET,
    CS_STMT_SHADOW_PUT,
    CS_STMT_SHADOW_DROP,
    CS_STMT_SHADOW_FORGET, /* of one row */
    CS_STMT_PEER_GET,
    CS_STMT_PEER_SET,
    CS_STMT_PEER_FORGET,
    CS_STMT_PEER_ALL,
    CS_STMT_STATE_WALK, /* rows of all tables, in order, behind one */
    CS_STMT_TOMBSTONES, /* collect.c: rows behind one, with a delete up to a stamp */
    CS_STMT_DEAD_REST,  /* those that do not live, and have cells */
    CS_STMT_ROW_DROP,
    CS_STMT_STALE_WALK,
    CS_STMT_STALE_GET,
    CS_STMT_UNSENT_OF_TABLE,
    CS_STMT_STALE_DOUBT,
    CS_STMT_STALE_STRIKE,
    CS_STMT_VOID_PUT,
    CS_STMT_VOID_GET,
    CS_STMT_VOID_DROP,
    CS_STMT_VOID_PRUNE,
    CS_STMT_DATA_VERSION,
    CS_STMT_SCHEMA_VERSION,
    CS_NSTATEMENTS
};

#endif
