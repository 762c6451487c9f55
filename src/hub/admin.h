/* The admin port: /metrics for Prometheus, /healthz, and a page that shows the hub at work (/, /state.json). For
 * whoever runs the hub: it shows ids, numbers and sizes of all workspaces, and nothing from inside one. With a token it
 * asks for that ("Authorization: Bearer …"); without one it answers only requests that name this machine as their host,
 * so that no web page elsewhere can have a browser ask for it. On the loop's thread. */
#ifndef CS_HUB_ADMIN_H
#define CS_HUB_ADMIN_H

#include "hub/hub.h"

struct cs_admin;
/* CS_OK; CS_EUNAVAILABLE or CS_EIO: it cannot listen there; CS_ENOMEM. */
int cs_admin_new(struct cs_hub *h, const struct cs_hub_options *o, struct cs_admin **out, struct cs_error *err);
uint16_t cs_admin_port(const struct cs_admin *a); /* NULL: 0 */
void cs_admin_stop(struct cs_admin *a);           /* hangs up on everybody; NULL is fine */
void cs_admin_free(struct cs_admin *a);           /* no job of it runs any more; NULL is fine */

#endif
