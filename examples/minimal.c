/* Replicates a database until Enter is pressed: CLAW_WORKSPACE_ID=… CLAW_DB_PATH=memory.db ./minimal */
#include <clawsync/clawsync.h>
#include <stdio.h>

static void on_event(void *arg, const clawsync_event *event)
{
    (void)arg;
    if (event->type == CLAWSYNC_EVENT_PULL_COMPLETED && event->stats.operations_pulled > 0)
        printf("%llu changes from other devices\n", (unsigned long long)event->stats.operations_pulled);
    else if (event->type == CLAWSYNC_EVENT_SYNC_ERROR)
        fprintf(stderr, "%s\n", event->error.msg);
}

int main(void)
{
    clawsync_config config;
    clawsync_engine *engine = NULL;
    clawsync_error err;
    int rc = clawsync_config_from_env(&config, &err);

    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_open(&engine, &config, &err);
    if (rc == CLAWSYNC_OK)
        rc = clawsync_engine_subscribe(engine, on_event, NULL, &err); /* its id, or an error */
    if (rc >= CLAWSYNC_OK)
        rc = clawsync_engine_start(engine, &err);
    if (rc == CLAWSYNC_OK) {
        puts("replicating; Enter ends it");
        getchar();
    } else {
        fprintf(stderr, "minimal: %s\n", err.msg);
    }
    clawsync_engine_close(engine);
    return rc == CLAWSYNC_OK ? 0 : 1;
}
