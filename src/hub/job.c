/* Background work that is counted, so that the hub can wait for it. */
#include "hub/internal.h"

static void job_run(void *arg)
{
    struct cs_job *j = arg;

    j->run(j);
}

static void job_done(void *arg)
{
    struct cs_job *j = arg;
    struct cs_hub *h = j->hub;

    j->done(j); /* may free j */
    h->njobs--;
    cs_hub_settle(h);
}

int cs_job_start(struct cs_hub *h, struct cs_job *j)
{
    int rc;

    j->hub = h;
    h->njobs++;
    if ((rc = cs_loop_work(h->loop, job_run, job_done, j)) != CS_OK)
        h->njobs--;
    return rc;
}
