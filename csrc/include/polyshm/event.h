/* SPDX-License-Identifier: MIT
 *
 * An event: set or clear. Who waits goes on when it is set: all of them, or, of one that clears itself (`automatic`), one
 * for each time it is set, as Windows' events have it. Nobody owns it.
 */
#ifndef POLYSHM_EVENT_H
#define POLYSHM_EVENT_H

#include <polyshm/arena.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pshm_automatic { PSHM_AUTOMATIC_ANY = -1, PSHM_AUTOMATIC_NO = 0, PSHM_AUTOMATIC_YES = 1 } pshm_automatic;

typedef struct pshm_event {
    pshm_object object;
    bool automatic;
} pshm_event;

/* Added to what pshm_event_since gave it is the `least` of a pshm_waitable that is ready, too, if the event was set since, and
 * is clear again. */
#define PSHM_EVENT_SINCE (INT64_C(1) << 62)

/* Opens the event `name`, or with `create` makes it, clear, where there is none; *created says which, and `created` may be
 * NULL. PSHM_AUTOMATIC_ANY: as it is; a new one is not automatic.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY (to create), PSHM_ENONAME, PSHM_ENAMESIZE, PSHM_ENAMETEXT, PSHM_EKIND (the name is
 *   another noun's), PSHM_EPARAMETER (`automatic` is another), PSHM_EPARTICIPANTS, PSHM_EHOLDS, PSHM_ECORRUPT, PSHM_ELOST;
 *   -ENOSPC; -EINTR (a slice is over: call again).
 * Owns: the handle is the caller's memory and keeps a reference to the arena until pshm_event_fini.
 * Safe: threads, processes.  Blocks: while another creates or deletes. */
PSHM_API int pshm_event_init(pshm_event *event, pshm_arena *arena, const char *name, size_t length, bool create,
                             pshm_automatic automatic, bool *created);

/* Ends the handle, not the event. */
PSHM_API void pshm_event_fini(pshm_event *event);

/* Sets it; clears it.
 * Errors: PSHM_ECLOSED, PSHM_EREADONLY, PSHM_EDELETED, PSHM_EPARTICIPANTS, PSHM_ELOST; -ENOMEM.
 * Safe: threads, processes. */
PSHM_API int pshm_event_set(pshm_event *event);
PSHM_API int pshm_event_clear(pshm_event *event);

/* Is it set? 1 or 0.
 * Errors: PSHM_ECLOSED, PSHM_EDELETED, PSHM_ELOST. */
PSHM_API int pshm_event_is_set(pshm_event *event);

/* How often it was set: *since for pshm_event_wait. One that is set already counts as set after that.
 * Errors: as pshm_event_is_set. */
PSHM_API int pshm_event_since(pshm_event *event, uint32_t *since);

/* Waits until it is set, or was set after `since`, for a slice at the most; of an automatic one the set itself, which it
 * takes. Of a read-only arena it looks once a while, and takes none.
 * Errors: as pshm_event_is_set; PSHM_EPARTICIPANTS; PSHM_EREADONLY (automatic); -ENOMEM, -ETIMEDOUT; -EINTR (the slice is over,
 *   or a signal came: call again).
 * Safe: threads, processes.  Blocks: until then, or `deadline`. */
PSHM_API int pshm_event_wait(pshm_event *event, uint32_t since, int64_t deadline);

#ifdef __cplusplus
}
#endif
#endif
