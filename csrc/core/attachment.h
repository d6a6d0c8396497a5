/* SPDX-License-Identifier: MIT
 *
 * Attachments: the mapping of an arena, one for all its handles in a process, and the threads of the process that take
 * part in it. For core/, sync/ and data/.
 *
 * An attachment lives as long as a handle refers to it or a thread is a member of it: only a thread itself can unlock its
 * beacon, and its robust list must not lead into memory that is gone. So whoever is a member may use the mapping, however
 * soon somebody closes.
 */
#ifndef PSHM_CORE_ATTACHMENT_H
#define PSHM_CORE_ATTACHMENT_H

#include <polyshm/arena.h>
#include <polyshm/error.h>

#include "core/layout.h"
#include "core/word.h"
#include "os/process.h"

typedef struct pshm_member pshm_member;

struct pshm_attachment {
    pshm_attachment *next; /* in the process's list */
    pshm_segment *segment;
    unsigned char *base;
    pshm_head *head;
    pshm_geometry at;
    pshm_page *pages;        /* the heap's table, at at.pages */
    volatile uint32_t *lost; /* the segment's */
    uint64_t id;             /* of the arena, as it was when it was checked */
    uint64_t device, inode;  /* what the mapping is of; 0 and 0: nothing that could be opened again */
    uint32_t handles;        /* open ones */
    uint32_t users;          /* handles, open or closed, that may still be asked */
    uint32_t pins;           /* calls under way that are no member's */
    uint32_t language;
    bool bygone; /* its participants are those of another boot or file, and may not be reset: all dead */
    int guard;   /* descriptor with a description of its own: flock and record locks; -1: none */
    bool readonly;
    bool ending;   /* its last handle is closed, and its name may go: whoever opens anew gets another */
    bool stranded; /* a beacon was lost with its memory: a thread's robust list leads there, and it is never unmapped */
    pshm_life life;
    pshm_member *members; /* of all threads, by `sibling` */
};

/* What a thread is in one arena. The thread's own, but for `sibling`. */
struct pshm_member {
    pshm_member *next;    /* of the same thread */
    pshm_member *sibling; /* of the same attachment */
    pshm_attachment *attachment;
    pshm_slot *slot;
    const volatile uint32_t *gone; /* the attachment's `lost`, one step nearer */
    uint32_t index;
    uint32_t me;   /* its id in owner words */
    uint32_t used; /* a bit for each place of slot->held that is in use */
    uint32_t lost; /* how often it lost the race for `wanted` */
    uint64_t wanted;
    uint32_t looked_at; /* whom it waits for, and since when nobody has asked the system about that one */
    uint32_t pid;       /* the process it is of */
    uint32_t mark;      /* of that process, for pshm_os_is_process */
    bool orphan;        /* its thread has ended, holding something */
    int64_t looked_since;
    uint64_t biased;   /* the owner word that names it, biased as it was last: bias.h */
    uint64_t asked_at; /* the same where many may have what it waits for: the place of that */
    int64_t asked_since;
};

#pragma GCC visibility push(hidden)
/* The member that this thread was last; often the one that is asked for. */
extern __thread pshm_member *pshm_member_cache __attribute__((tls_model("initial-exec")));
#pragma GCC visibility pop

/* The calling thread as a member, which it becomes if it is none.
 * PSHM_EREADONLY, PSHM_EPARTICIPANTS, PSHM_ELOST; -ENOMEM. */
int pshm_member_of(pshm_attachment *a, pshm_member **out);

/* The same if it is one already, else NULL. */
pshm_member *pshm_member_known(pshm_attachment *a);

/* The quick way to it: NULL sends to pshm_member_of. */
static inline pshm_member *pshm_member_quick(const pshm_attachment *a)
{
    pshm_member *m = pshm_member_cache;
    return PSHM_LIKELY(m && m->attachment == a && pshm_os_is_process(m->mark)) ? m : NULL;
}

/* Gives the slot of the calling thread back. PSHM_EHELD where it holds a lock: then nothing is done. */
int pshm_member_leave(pshm_attachment *a);

/* Lets go of all attachments without a handle that the calling thread is a member of and holds nothing in. */
void pshm_members_tidy(void);

/* Opens or finds: one more handle. `*created`: by this call. */
int pshm_attachment_open(const char *address, size_t length, const pshm_arena_options *options, pshm_attachment **out,
                         bool *created);
/* One handle less; and the last word: nobody asks a closed handle any more. */
void pshm_attachment_close(pshm_attachment *a);
void pshm_attachment_forget(pshm_attachment *a);

/* Keeps the mapping for a call of a thread that is no member, on a handle that is open: PSHM_ECLOSED. */
int pshm_arena_enter(pshm_arena *arena);
void pshm_arena_leave(pshm_arena *arena);

/* The same where the thread may be a member, which keeps the mapping anyway: *pinned goes to pshm_arena_unlook. */
static inline int pshm_arena_look(pshm_arena *arena, bool *pinned)
{
    *pinned = false;
    if (PSHM_LIKELY(pshm_member_quick(arena->attachment) && !arena->closed))
        return 0;
    int rc = pshm_arena_enter(arena);
    *pinned = rc == 0;
    return rc;
}

static inline void pshm_arena_unlook(pshm_arena *arena, bool pinned)
{
    if (PSHM_UNLIKELY(pinned))
        pshm_arena_leave(arena);
}

/* ---- places ---- */

static inline void *pshm_at(const pshm_attachment *a, uint64_t place)
{
    return a->base + place;
}

/* Does [place, place + size) lie inside the heap? A rest of less than a page and its tables may follow that. */
static inline bool pshm_in_heap(const pshm_attachment *a, uint64_t place, uint64_t size)
{
    uint64_t end = a->at.heap + a->at.heap_pages * PSHM_PAGE;
    return place >= a->at.heap && place <= end && size <= end - place;
}

static inline int pshm_attachment_verify(const pshm_attachment *a)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return PSHM_LIKELY(!*a->lost) ? 0 : PSHM_ELOST;
}

#endif
