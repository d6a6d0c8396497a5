/* SPDX-License-Identifier: MIT
 *
 * The end of an arena that goes with its last user: life "last-detach". Files are removed by whoever gets their flock
 * exclusively. System V has no such lock: who closes holds a word in the head while it counts who is attached, so that who
 * attaches meanwhile sees that the id may be about to go. A closer that dies there is a dead owner like any other.
 */
#include "core/attaching.h"

#include <errno.h>

#include "core/owner.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/sysv.h"

/* How long to wait for another who closes. */
#define PATIENCE (INT64_C(10) * PSHM_SLICE_NS)

bool pshm_attachment_is_ending(const pshm_attachment *a)
{
    uint32_t id = pshm_owner_id(&a->head->ending);
    return id && !pshm_id_is_dead(a, id);
}

static void end_sysv(pshm_attachment *a)
{
    pshm_owner *ending = &a->head->ending;
    pshm_member *m;
    pshm_stat stat;
    bool repair;
    int64_t end = pshm_os_now() + PATIENCE;
    int rc = pshm_member_of(a, &m);
    if (rc)
        return; /* whoever opens it next finds nobody there, and removes it */
    do
        rc = pshm_owner_enter(m, ending, &repair);
    while (rc == -EINTR && pshm_os_now() < end);
    if (rc)
        return;
    pshm_owner_repaired(ending);
    if (pshm_os_sysv_stat(a->segment->id, &stat) == 0 && stat.attaches <= 1)
        pshm_os_sysv_remove(a->segment->id);
    pshm_owner_give(m, ending);
}

void pshm_attachment_end_of_life(pshm_attachment *a)
{
    if (a->life != PSHM_LIFE_LAST_DETACH || a->readonly || *a->lost)
        return;
    if (a->segment->id >= 0)
        end_sysv(a);
    else if (a->guard >= 0 && pshm_os_flock(a->guard, 'x') == 0)
        pshm_segment_unlink(a->segment);
}
