/* SPDX-License-Identifier: MIT
 *
 * Between attachment.c, which keeps the list, and attaching.c, which fills it: for these two alone.
 */
#ifndef PSHM_CORE_ATTACHING_H
#define PSHM_CORE_ATTACHING_H

#include "core/attachment.h"

/* To be called first; ends what was waiting for this thread. 0 or -errno. */
int pshm_attachments_begin(void);

/* What is mapped already, one handle more; NULL: it is not. */
pshm_attachment *pshm_attachment_find(const pshm_segment *segment, uint64_t device, uint64_t inode, bool readonly);

/* Puts a new one into the list, with one handle; or finds that another thread was faster: then that one is returned, and
 * this one is still the caller's. */
pshm_attachment *pshm_attachment_add(pshm_attachment *a);

/* The last handle of the process is closed: with life "last-detach" the name goes, if it was the last of all. */
void pshm_attachment_end_of_life(pshm_attachment *a);

/* Is somebody at that on System V, who may be about to remove the id? */
bool pshm_attachment_is_ending(const pshm_attachment *a);

#endif
