/* A PostgreSQL of the test program's own, with a PgBouncer before it when CS_TEST_PGBOUNCER is set. */
#ifndef CS_TESTS_POSTGRES_SCENE_H
#define CS_TESTS_POSTGRES_SCENE_H

#include <libpq-fe.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct {
    char dir[64];
    pid_t owner;
    unsigned ndatabases;
} scene;

__attribute__((format(printf, 1, 2))) static void scene_run(const char *fmt, ...)
{
    char command[1024];
    va_list ap;
    int n = snprintf(command, sizeof command, "OWNER=%d %s/fixtures/postgres ", (int)scene.owner, CS_TESTS_DIR);

    va_start(ap, fmt);
    vsnprintf(command + n, sizeof command - (size_t)n, fmt, ap);
    va_end(ap);
    if (system(command) != 0) {
        fprintf(stderr, "failed: %s\n", command);
        exit(1);
    }
}

static bool scene_pooled(void)
{
    return getenv("CS_TEST_PGBOUNCER") != NULL;
}

/* fsync is for what a test cannot do to it: a machine that loses power. */
static void scene_start(void)
{
    snprintf(scene.dir, sizeof scene.dir, "/tmp/cs_pg_XXXXXX");
    scene.owner = getpid();
    if (mkdtemp(scene.dir) == NULL)
        exit(1);
    scene_run("start %s fsync=off", scene.dir);
    if (scene_pooled())
        scene_run("bouncer %s", scene.dir);
}

static void scene_stop(void)
{
    char command[128];

    scene_run("stop %s immediate", scene.dir);
    snprintf(command, sizeof command, "rm -rf %s", scene.dir);
    if (system(command) != 0)
        exit(1);
}

/* Runs SQL as that user, past any pooler; a value of its first row, or nothing. */
static void scene_sql(const char *user, const char *database, const char *sql, char out[128])
{
    char info[256];
    PGconn *conn;
    PGresult *r;

    snprintf(info, sizeof info, "host=%s/socket user=%s dbname=%s", scene.dir, user, database);
    conn = PQconnectdb(info);
    r = PQexec(conn, sql);
    if (PQresultStatus(r) != PGRES_COMMAND_OK && PQresultStatus(r) != PGRES_TUPLES_OK) {
        fprintf(stderr, "%s\n%s", sql, PQerrorMessage(conn));
        exit(1);
    }
    if (out != NULL)
        snprintf(out, 128, "%s", PQntuples(r) > 0 && PQnfields(r) > 0 ? PQgetvalue(r, 0, 0) : "");
    PQclear(r);
    PQfinish(conn);
}

/* A new database; its connection string. */
static void scene_database(char url[256])
{
    char sql[64];

    snprintf(sql, sizeof sql, "CREATE DATABASE t%u OWNER hub", ++scene.ndatabases);
    scene_sql("super", "postgres", sql, NULL);
    snprintf(url, 256, "postgresql://hub@/t%u?host=%s/%s", scene.ndatabases, scene.dir,
             scene_pooled() ? "bouncer" : "socket");
}

#endif
