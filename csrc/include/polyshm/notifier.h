/* SPDX-License-Identifier: MIT
 *
 * Notifiers: a descriptor for event loops, which becomes readable when something that is watched may be ready. One
 * notifier watches as much as one likes. It takes nothing: whoever is told tries, and watches again if another was faster.
 *
 * Where the kernel allows it (Linux 6.7, no filter) the descriptor is an io_uring, and the kernel itself watches; else
 * threads of the notifier do, and the descriptor is an eventfd(2). POLYSHM_IO_URING=off in the environment keeps to those.
 */
#ifndef POLYSHM_NOTIFIER_H
#define POLYSHM_NOTIFIER_H

#include <polyshm/wait.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pshm_notifier pshm_notifier;

/* Makes one. What it needs of the system it makes when it first watches something: a descriptor more for the ring, of the
 * thread that adds; when another thread calls, and where there is no ring, threads. It belongs to the process that made it: in a forked child every call is PSHM_ECLOSED.
 * Errors: -EMFILE, -ENFILE, -ENOMEM, -EAGAIN.
 * Owns: *out is the caller's; pshm_notifier_close ends it.
 * Safe: one thread at a time per notifier. */
PSHM_API int pshm_notifier_open(pshm_notifier **out);
PSHM_API void pshm_notifier_close(pshm_notifier *notifier);

/* The descriptor: readable (POLLIN) when pshm_notifier_take has something to tell, and sometimes without; close-on-exec.
 * Errors: none. */
PSHM_API int pshm_notifier_fd(const pshm_notifier *notifier);

/* Watches it until it may be ready, once, and tells `token` then. 1: it is ready already, and is not watched; 0: watched.
 * The object and its arena must stay until `token` was told or removed. No two that are watched have one token.
 * Errors: as pshm_waitable_ready; -ENOMEM, -EEXIST (the token is in use). */
PSHM_API int pshm_notifier_add(pshm_notifier *notifier, const pshm_waitable *waitable, uint64_t token);

/* Watches no longer. A wake that was for it goes to the next one who waits for the object.
 * Errors: -ENOENT (told already, or never added). */
PSHM_API int pshm_notifier_remove(pshm_notifier *notifier, uint64_t token);

/* Tells the tokens of those that may be ready, up to `room`, which are watched no longer; the result is how many. When all
 * are told the descriptor is not readable any more. Once a slice (100 ms) it asks all that are watched by itself, so that
 * no wake that died with its process is missed.
 * Errors: PSHM_ECLOSED. */
PSHM_API int pshm_notifier_take(pshm_notifier *notifier, uint64_t *tokens, size_t room);

/* A descriptor for one thing alone, as an event loop of somebody else's wants it: forgets what was told before, watches
 * it, once, and returns the descriptor, which is readable from when it may be ready, and now if it is. Then try; and if
 * that fails call this again, before the descriptor is waited for. *notifier is NULL at first, and its caller's to close;
 * in a forked child another one takes its place, with another descriptor.
 * Errors: as pshm_notifier_open and pshm_notifier_add.
 * Owns: *notifier is the caller's.
 * Safe: one thread at a time per notifier. */
PSHM_API int pshm_notifier_pollfd(pshm_notifier **notifier, const pshm_waitable *waitable);

#ifdef __cplusplus
}
#endif
#endif
