/* What systemd, or another service manager that speaks the same two protocols, is told and gives: sd_notify(3) and
 * sd_listen_fds(3). Without one nothing happens. For programs, on their main thread. */
#ifndef CS_BASE_SERVICE_MANAGER_H
#define CS_BASE_SERVICE_MANAGER_H

#include "base/error.h"

/* "READY=1", "STOPPING=1", … as sd_notify(3) names them. Of no consequence when it does not arrive. */
void cs_service_notify(const char *state);

/* The listening socket that this process was started with, and where it listens, as "HOST:PORT" (of IPv6 in brackets);
 * *fd is -1 when there is none. CS_EINVAL: there are several, or it is no listening TCP socket. The variables are
 * removed, so that no child takes it for its own. */
int cs_service_socket(int *fd, char address[64], struct cs_error *err);

#endif
