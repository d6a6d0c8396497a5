/* SPDX-License-Identifier: MIT
 *
 * The lists of a notifier, and its table of tokens.
 */
#include "sync/notifier.h"

#include <errno.h>
#include <stdlib.h>

void pshm_watched_add(pshm_watched_list *l, pshm_watched *w)
{
    w->next = NULL;
    w->previous = l->last;
    if (l->last)
        l->last->next = w;
    else
        l->first = w;
    l->last = w;
}

void pshm_watched_remove(pshm_watched_list *l, pshm_watched *w)
{
    if (w->previous)
        w->previous->next = w->next;
    else
        l->first = w->next;
    if (w->next)
        w->next->previous = w->previous;
    else
        l->last = w->previous;
}

static pshm_watched **bucket_of(const pshm_notifier *n, uint64_t token)
{
    return &n->buckets[(token * UINT64_C(0x9e3779b97f4a7c15)) >> 32 & (n->size - 1)];
}

pshm_watched **pshm_notifier_find(const pshm_notifier *n, uint64_t token)
{
    pshm_watched **at = bucket_of(n, token);
    while (*at && (*at)->token != token)
        at = &(*at)->chain;
    return at;
}

int pshm_notifier_make_room(pshm_notifier *n)
{
    if (n->count < n->size)
        return 0;
    size_t before = n->size;
    pshm_watched **old = n->buckets, **buckets = calloc(before ? before * 2 : 8, sizeof *buckets);
    if (!buckets)
        return -ENOMEM;
    n->buckets = buckets;
    n->size = before ? before * 2 : 8;
    for (size_t i = 0; i < before; i++) {
        for (pshm_watched *w = old[i], *next; w; w = next) {
            next = w->chain;
            pshm_watched **at = bucket_of(n, w->token);
            w->chain = *at;
            *at = w;
        }
    }
    free(old);
    return 0;
}

void pshm_notifier_keep(pshm_notifier *n, pshm_watched *w)
{
    pshm_watched **at = bucket_of(n, w->token);
    w->chain = *at;
    *at = w;
    n->count++;
    pshm_watched_add(&n->quiet, w);
}

void pshm_notifier_forget(pshm_notifier *n, pshm_watched *w)
{
    *pshm_notifier_find(n, w->token) = w->chain;
    n->count--;
    if (w->words != w->few)
        free(w->words);
    free(w);
}
