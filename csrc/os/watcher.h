/* SPDX-License-Identifier: MIT
 *
 * Sleeps that threads do, where the kernel does not: each of them for up to 127 words at once. All signals are blocked in
 * them. Sleeps for the same value of the same word share a place.
 */
#ifndef PSHM_OS_WATCHER_H
#define PSHM_OS_WATCHER_H

#include "os/sleep.h"

/* For any thread of the process. -ENOMEM. */
int pshm_os_watcher_open(int event, pshm_os_sleeper **out);

#endif
