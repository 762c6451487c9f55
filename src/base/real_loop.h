/* The loop table over libuv. */
#ifndef CS_BASE_REAL_LOOP_H
#define CS_BASE_REAL_LOOP_H

#include "base/loop.h"

int cs_real_loop_new(struct cs_world *w, cs_loop **out, struct cs_error *err);

#endif
