/* One engine per database file: a row in it names the process that holds it. In one process, where a name does not tell
 * two engines apart, a list of the files that are held does. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#include "base/process.h"
#include "replica/store.h"

struct held {
    struct held *next;
    uint64_t device, inode;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct held *held_here;

static struct held **find_here(const struct cs_file_info *f)
{
    struct held **p = &held_here;

    while (*p != NULL && ((*p)->device != f->device || (*p)->inode != f->inode))
        p = &(*p)->next;
    return p;
}

static int take_here(const struct cs_file_info *f, struct cs_error *err)
{
    struct held *h = calloc(1, sizeof *h);
    int rc = CS_OK;

    if (h == NULL)
        return cs_fail(err, CS_ENOMEM, "out of memory");
    *h = (struct held){ .device = f->device, .inode = f->inode };
    pthread_mutex_lock(&lock);
    if (*find_here(f) != NULL) {
        rc = cs_fail(err, CS_EBUSY, "another engine of this process replicates this database already");
    } else {
        h->next = held_here;
        held_here = h;
        h = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(h);
    return rc;
}

static void give_here(const struct cs_file_info *f)
{
    struct held **p, *h;

    pthread_mutex_lock(&lock);
    p = find_here(f);
    if ((h = *p) != NULL)
        *p = h->next;
    pthread_mutex_unlock(&lock);
    free(h);
}

static void describe(const struct cs_process *p, char text[160])
{
    snprintf(text, 160, "%s %" PRId64 " %" PRIu64, p->boot[0] != '\0' ? p->boot : "-", p->pid, p->started);
}

static bool parse(const char *text, struct cs_process *p)
{
    memset(p, 0, sizeof *p);
    if (sscanf(text, "%36s %" SCNd64 " %" SCNu64, p->boot, &p->pid, &p->started) != 3)
        return false;
    if (strcmp(p->boot, "-") == 0)
        p->boot[0] = '\0';
    return true;
}

static int file_of(struct cs_replica *r, struct cs_file_info *f, struct cs_error *err)
{
    return r->world->files.ops->stat(r->world->files.self, sqlite3_db_filename(r->db, "main"), f, err);
}

int cs_lease_note(struct cs_replica *r, struct cs_error *err)
{
    struct cs_process self;
    char text[160];

    cs_process_self(&self);
    describe(&self, text);
    return cs_meta_put(r, "lease", cs_slice_str(text), err);
}

int cs_lease_take(struct cs_replica *r, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    struct cs_process self, other;
    struct cs_file_info f;
    int rc;

    if ((rc = file_of(r, &f, err)) != CS_OK || (rc = take_here(&f, err)) != CS_OK)
        return rc;
    cs_process_self(&self);
    if ((rc = cs_db_begin(r, err)) == CS_OK) {
        rc = cs_replica_meta_get(r, "lease", &b, err);
        cs_buf_put_u8(&b, 0);
        if (rc == CS_OK && !b.failed && parse((const char *)b.data, &other) && other.pid != self.pid &&
            cs_process_lives(&other))
            rc = cs_fail(err, CS_EBUSY, "process %" PRId64 " replicates this database already; stop it first",
                         other.pid);
        else if (rc == CS_OK || rc == CS_ENOTFOUND)
            rc = cs_lease_note(r, err);
        if (rc == CS_OK)
            rc = cs_db_commit(r, err);
        else
            cs_db_rollback(r);
    }
    cs_buf_free(&b);
    if (rc != CS_OK)
        give_here(&f);
    r->lease_held = rc == CS_OK;
    r->leased = f;
    return rc;
}

int cs_replica_holder(struct cs_replica *r, int64_t *pid, struct cs_error *err)
{
    struct cs_buf b = { 0 };
    struct cs_process other;
    int rc = cs_replica_meta_get(r, "lease", &b, err);

    *pid = 0;
    cs_buf_put_u8(&b, 0);
    if (rc == CS_OK && !b.failed && parse((const char *)b.data, &other) && cs_process_lives(&other))
        *pid = other.pid;
    cs_buf_free(&b);
    return rc == CS_ENOTFOUND ? CS_OK : rc;
}

void cs_lease_give(struct cs_replica *r)
{
    struct cs_error ignored;

    if (!r->lease_held)
        return;
    cs_meta_drop(r, "lease", &ignored); /* a lease that stays behind is taken over: its holder is dead, or is us */
    give_here(&r->leased);
    r->lease_held = false;
}
