/* SPDX-License-Identifier: MIT
 *
 * What a notifier keeps: between notifier.c and its table of tokens.
 */
#ifndef PSHM_SYNC_NOTIFIER_H
#define PSHM_SYNC_NOTIFIER_H

#include <polyshm/notifier.h>

#include "os/sleep.h"

/* One thing that is watched. */
typedef struct pshm_watched {
    pshm_os_sleep sleep;                  /* first: it leads here */
    struct pshm_watched *next, *previous; /* of those that sleep, or of those that are to be told */
    struct pshm_watched *chain;           /* of the same bucket */
    pshm_waitable waitable;
    uint64_t token;
    bool ready;           /* to be told */
    bool again;           /* it was woken before */
    int woken;            /* the word that woke it, NOT_WOKEN: none */
    unsigned count;       /* words; 0: it is looked at */
    unsigned room;        /* of `words` */
    pshm_os_futex *words; /* `few`, or memory of its own */
    pshm_os_futex few[2];
} pshm_watched;

typedef struct pshm_watched_list {
    pshm_watched *first, *last;
} pshm_watched_list;

struct pshm_notifier {
    int fd;
    uint32_t mark; /* of its process */
    bool threads;  /* no ring for it */
    pshm_os_sleeper *sleeper;
    pshm_watched_list quiet, ready; /* those that sleep, those that are to be told */
    pshm_watched **buckets;         /* by token */
    size_t size, count;             /* of buckets; of all that are watched */
    size_t looked_at;               /* how many have no words */
    int64_t scan;                   /* when all are asked again */
    int64_t alarm;                  /* when the sleeper will signal; 0: it will not */
};

void pshm_watched_add(pshm_watched_list *l, pshm_watched *w);
void pshm_watched_remove(pshm_watched_list *l, pshm_watched *w);

/* Where the one with this token hangs, NULL there: nowhere. Only where there has been room made. */
pshm_watched **pshm_notifier_find(const pshm_notifier *n, uint64_t token);
/* For one more. -ENOMEM. */
int pshm_notifier_make_room(pshm_notifier *n);
/* A new one, into the table and the list of the quiet. */
void pshm_notifier_keep(pshm_notifier *n, pshm_watched *w);
/* Frees one that is in no list any more. */
void pshm_notifier_forget(pshm_notifier *n, pshm_watched *w);

#endif
