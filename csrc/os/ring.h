/* SPDX-License-Identifier: MIT
 *
 * Sleeps that the kernel does: io_uring_setup(2), with the futex operations of Linux 6.7.
 */
#ifndef PSHM_OS_RING_H
#define PSHM_OS_RING_H

#include "os/sleep.h"

/* For the calling thread, whose end ends the sleeps too. -ENOSYS, -EPERM: not here, by the kernel, an administrator or a
 * filter; -EMFILE, -ENFILE, -ENOMEM. */
int pshm_os_ring_open(int event, pshm_os_sleeper **out);

#endif
