/* SPDX-License-Identifier: MIT
 *
 * Notifiers. What is watched is asked which words to sleep on; the kernel or threads of ours sleep there and signal the
 * descriptor, an eventfd. Whatever ends a sleep, the thing is asked again before its token is told, and watched on if it
 * is not ready.
 *
 * A wake that came here was perhaps for one alone. Who is told may take what it was for; an owner word is marked, so that
 * its next owner wakes the next sleeper (pshm_owner_watch). Who is removed meanwhile passes the wake on.
 */
#include "sync/notifier.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/waiting.h"
#include "os/clock.h"
#include "os/process.h"
#include "os/ring.h"
#include "os/watcher.h"

/* How often it looks at what it may not sleep on. */
#define LOOK (2 * PSHM_LOOK_NS)
/* For so many a slice the system is asked whether an owner lives. */
#define PROOFS 16u
#define NOT_WOKEN (-1)

/* ---- sleeping ---- */

static bool is_ours(const pshm_notifier *n)
{
    return pshm_os_is_process(n->mark);
}

static int sleeper_of(pshm_notifier *n)
{
    if (n->sleeper)
        return 0;
    if (!n->threads && pshm_os_ring_open(n->fd, &n->sleeper) == 0)
        return 0;
    n->threads = true;
    return pshm_os_watcher_open(n->fd, &n->sleeper);
}

static bool sleeps_on(const pshm_watched *w, const pshm_watch *watch)
{
    if (w->count != watch->count)
        return false;
    for (unsigned i = 0; i < w->count; i++)
        if (w->words[i].word != watch->words[i].word || w->words[i].value != watch->words[i].value)
            return false;
    return true;
}

static int keep_words(pshm_watched *w, const pshm_watch *watch)
{
    if (watch->count > w->room) {
        pshm_os_futex *words = malloc(watch->count * sizeof *words);
        if (!words)
            return -ENOMEM;
        if (w->words != w->few)
            free(w->words);
        w->words = words;
        w->room = watch->count;
    }
    memcpy(w->words, watch->words, watch->count * sizeof *w->words);
    return 0;
}

/* Has it sleep, for a submit to complete. Where that cannot be it is looked at. */
static int begin(pshm_notifier *n, pshm_watched *w, const pshm_watch *watch)
{
    int rc = watch->count ? keep_words(w, watch) : 0;
    w->count = rc ? 0 : watch->count;
    if (w->count) {
        rc = sleeper_of(n);
        if (!rc)
            rc = n->sleeper->begin(n->sleeper, &w->sleep, w->words, w->count);
        if (rc)
            w->count = 0;
    }
    n->looked_at += !w->count;
    return rc;
}

/* The beacons of the dead wake one; there may be more. Objects have theirs behind a word of their own. */
static bool is_beacon(const pshm_watched *w, unsigned which)
{
    return which > 0 || !w->waitable.object;
}

/* It sleeps no more; what woke it is noted. */
static void awake(pshm_notifier *n, pshm_watched *w)
{
    n->looked_at -= !w->count;
    w->woken = NOT_WOKEN;
    if (w->count && w->sleep.result >= 0 && (unsigned)w->sleep.result < w->count) {
        w->woken = w->sleep.result;
        w->again = true;
        if (is_beacon(w, (unsigned)w->woken))
            pshm_os_futex_wake(w->words[w->woken].word, INT_MAX);
    }
}

static void stop(pshm_notifier *n, pshm_watched *w)
{
    if (w->count && n->sleeper)
        n->sleeper->end(n->sleeper, &w->sleep);
    awake(n, w);
}

static void pass_on(const pshm_watched *w)
{
    if (w->woken >= 0)
        pshm_os_futex_wake(w->words[w->woken].word, 1);
}

static int ask(const pshm_watched *w, bool prove, pshm_watch *watch)
{
    watch->count = 0;
    watch->again = w->again;
    watch->prove = prove;
    return pshm_waitable_watch(&w->waitable, watch);
}

/* It is ready, or an error is to be met by whoever tries. It sleeps no more. */
static void is_ready(pshm_notifier *n, pshm_watched *w)
{
    pshm_watched_remove(&n->quiet, w);
    pshm_watched_add(&n->ready, w);
    w->ready = true;
}

/* What the sleeper says to be over. */
static void meet(pshm_notifier *n, pshm_watched *w)
{
    pshm_watch watch;
    int result = w->sleep.result;
    awake(n, w);
    if (ask(w, false, &watch)) {
        is_ready(n, w);
        return;
    }
    if (result < 0 && result != -EAGAIN && result != -ECANCELED)
        watch.count = 0; /* it cannot sleep now; until the next time that all are asked it is looked at */
    (void)begin(n, w, &watch);
}

/* Asks all that sleep, or those alone that have no words. */
static void scan(pshm_notifier *n, bool all)
{
    pshm_watch watch;
    unsigned proofs = all ? PROOFS : 0;
    pshm_watched *last = n->quiet.last;
    for (pshm_watched *w = n->quiet.first, *next; w; w = next) {
        next = w == last ? NULL : w->next;
        if (!all && w->count)
            continue;
        bool prove = proofs > 0;
        proofs -= prove;
        int rc = ask(w, prove, &watch);
        if (!all) /* it may not sleep, or could not */
            watch.count = 0;
        if (!rc && sleeps_on(w, &watch)) {
            if (prove) { /* others are asked about the next time */
                pshm_watched_remove(&n->quiet, w);
                pshm_watched_add(&n->quiet, w);
            }
            continue;
        }
        stop(n, w);
        if (rc)
            is_ready(n, w);
        else
            (void)begin(n, w, &watch);
    }
}

/* The calling thread is another one than that of the ring: from now on threads do it, for whoever calls. */
static int move(pshm_notifier *n)
{
    pshm_watch watch;
    if (!n->sleeper || n->sleeper->is_mine(n->sleeper))
        return 0;
    n->sleeper->close(n->sleeper, false);
    n->sleeper = NULL;
    n->threads = true;
    n->alarm = 0;
    int rc = sleeper_of(n);
    for (pshm_watched *w = n->quiet.first, *next; w; w = next) {
        next = w->next;
        w->again = true; /* it may have been woken */
        n->looked_at -= !w->count;
        if (ask(w, false, &watch))
            is_ready(n, w);
        else
            (void)begin(n, w, &watch);
    }
    if (n->ready.first)
        pshm_os_event_signal(n->fd);
    return rc;
}

/* The next time that it has to look by itself. */
static int set_alarm(pshm_notifier *n)
{
    if (!n->quiet.first)
        return 0;
    int64_t now = pshm_os_now(), at = n->scan;
    if (at < now + PSHM_SLICE_NS / 2) /* where a take needs longer than a slice, something else is to be done too */
        at = now + PSHM_SLICE_NS / 2;
    if (n->looked_at)
        at = now + LOOK;
    int rc = sleeper_of(n);
    if (rc || (n->alarm > now && n->alarm <= at))
        return rc;
    rc = n->sleeper->alarm(n->sleeper, at);
    n->alarm = rc ? 0 : at;
    return rc;
}

/* ---- public ---- */

int pshm_notifier_open(pshm_notifier **out)
{
    const char *wish = getenv("POLYSHM_IO_URING");
    pshm_notifier *n = calloc(1, sizeof *n);
    if (!n)
        return -ENOMEM;
    int rc = pshm_os_event_open(&n->fd);
    if (rc) {
        free(n);
        return rc;
    }
    n->mark = pshm_os_process_mark();
    n->threads = wish && strcmp(wish, "off") == 0;
    *out = n;
    return 0;
}

void pshm_notifier_close(pshm_notifier *n)
{
    bool ours = is_ours(n);
    if (n->sleeper) {
        for (pshm_watched *w = ours && n->sleeper->is_mine(n->sleeper) ? n->quiet.first : NULL; w; w = w->next) {
            stop(n, w);
            pass_on(w);
        }
        n->sleeper->close(n->sleeper, !ours);
    }
    for (pshm_watched *w = n->ready.first; w && ours; w = w->next)
        pass_on(w);
    while (n->quiet.first || n->ready.first) {
        pshm_watched_list *l = n->quiet.first ? &n->quiet : &n->ready;
        pshm_watched *w = l->first;
        pshm_watched_remove(l, w);
        pshm_notifier_forget(n, w);
    }
    free(n->buckets);
    pshm_os_event_close(n->fd);
    free(n);
}

int pshm_notifier_fd(const pshm_notifier *notifier)
{
    return notifier->fd;
}

int pshm_notifier_add(pshm_notifier *n, const pshm_waitable *waitable, uint64_t token)
{
    pshm_watch watch;
    if (!is_ours(n))
        return PSHM_ECLOSED;
    int rc = move(n);
    if (!rc)
        rc = pshm_notifier_make_room(n);
    if (rc)
        return rc;
    if (*pshm_notifier_find(n, token))
        return -EEXIST;
    pshm_watched *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    *w = (pshm_watched){.waitable = *waitable, .token = token, .woken = NOT_WOKEN, .words = w->few, .room = 2};
    rc = ask(w, false, &watch);
    if (rc) {
        free(w);
        return rc;
    }
    if (!n->quiet.first)
        n->scan = pshm_os_now() + PSHM_SLICE_NS;
    pshm_notifier_keep(n, w);
    rc = begin(n, w, &watch);
    if (!rc)
        rc = set_alarm(n);
    if (!rc && n->sleeper)
        rc = n->sleeper->submit(n->sleeper);
    if (rc) {
        stop(n, w);
        pshm_watched_remove(&n->quiet, w);
        pshm_notifier_forget(n, w);
    }
    return rc;
}

int pshm_notifier_remove(pshm_notifier *n, uint64_t token)
{
    if (!is_ours(n))
        return PSHM_ECLOSED;
    int rc = move(n);
    pshm_watched *w = n->size ? *pshm_notifier_find(n, token) : NULL;
    if (rc || !w)
        return rc ? rc : -ENOENT;
    if (!w->ready)
        stop(n, w);
    pass_on(w);
    pshm_watched_remove(w->ready ? &n->ready : &n->quiet, w);
    pshm_notifier_forget(n, w);
    return 0;
}

/* Takes what the sleeper has. A ring signals also what is fetched here. */
static void fetch(pshm_notifier *n)
{
    pshm_os_sleep *over;
    bool first = true;
    while ((over = n->sleeper ? n->sleeper->reap(n->sleeper) : NULL) || first) {
        pshm_os_event_drain(n->fd);
        first = false;
        for (pshm_os_sleep *s = over, *next; s; s = next) {
            next = s->next;
            meet(n, (pshm_watched *)s);
        }
    }
}

int pshm_notifier_take(pshm_notifier *n, uint64_t *tokens, size_t room)
{
    if (!is_ours(n))
        return PSHM_ECLOSED;
    int rc = move(n);
    if (rc)
        return rc;
    fetch(n);
    int64_t now = n->quiet.first ? pshm_os_now() : 0;
    bool all = now >= n->scan;
    if (n->quiet.first && (all || n->looked_at))
        scan(n, all);
    if (all)
        n->scan = now + PSHM_SLICE_NS;
    size_t told = 0;
    for (pshm_watched *w; told < room && told < INT_MAX && (w = n->ready.first);) {
        tokens[told++] = w->token;
        pshm_watched_remove(&n->ready, w);
        pshm_notifier_forget(n, w);
    }
    if (set_alarm(n) || (n->sleeper && n->sleeper->submit(n->sleeper)) || n->ready.first)
        pshm_os_event_signal(n->fd); /* the kernel had no memory: the next call tries again */
    return (int)told;
}

#define ONLY 1u /* token of the one thing */

static bool is_same(const pshm_waitable *a, const pshm_waitable *b)
{
    return a->object == b->object && a->least == b->least && a->arena == b->arena && a->slot == b->slot &&
           a->generation == b->generation;
}

/* 1: it is ready; 0: it is watched. */
static int watch_only(pshm_notifier *n, const pshm_waitable *waitable)
{
    uint64_t told;
    int rc = pshm_notifier_take(n, &told, 1);
    if (rc < 0)
        return rc;
    const pshm_watched *w = n->size ? *pshm_notifier_find(n, ONLY) : NULL;
    if (w && is_same(&w->waitable, waitable))
        return pshm_waitable_ready(waitable);
    if (w && (rc = pshm_notifier_remove(n, ONLY)))
        return rc;
    return pshm_notifier_add(n, waitable, ONLY);
}

int pshm_notifier_pollfd(pshm_notifier **notifier, const pshm_waitable *waitable)
{
    if (*notifier && !is_ours(*notifier)) {
        pshm_notifier_close(*notifier);
        *notifier = NULL;
    }
    int rc = *notifier ? 0 : pshm_notifier_open(notifier);
    if (!rc)
        rc = watch_only(*notifier, waitable);
    if (rc < 0)
        return rc;
    if (rc)
        pshm_os_event_signal((*notifier)->fd);
    return (*notifier)->fd;
}
