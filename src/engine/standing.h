/* How the engine stands, for `claw-sync status`: a file in data_dir, written when it changes. What somebody else can
 * find out by asking the hub is not in it; what only rounds find is. */
#ifndef CS_ENGINE_STANDING_H
#define CS_ENGINE_STANDING_H

#include "base/process.h"
#include "base/world.h"

enum { CS_STANDING_MAX = 8192 }; /* bytes of a file */

struct cs_standing {
    struct cs_uuid device;
    struct cs_process by; /* who wrote it. That all is well is believed of a living process alone; a failure stands
                             until a round goes well, whoever makes it */
    int64_t since_ms;
    bool connected;
    struct cs_error last; /* of the last round; code CS_OK: it went well, or there was none yet */
};

/* A quota that is used up: worth trying again, and yet it does not pass before somebody acts. */
bool cs_standing_quota(const struct cs_error *err);

/* CS_ENOTFOUND; CS_ECORRUPT. */
int cs_standing_load(struct cs_standing *out, struct cs_world *w, const char *data_dir, struct cs_error *err);
/* Where there is no room for the new one the old one goes all the same: it is true no more. */
int cs_standing_save(const struct cs_standing *s, struct cs_world *w, const char *data_dir, struct cs_error *err);
int cs_standing_drop(struct cs_world *w, const char *data_dir, struct cs_error *err); /* fine if there is none */

#endif
