/* SPDX-License-Identifier: MIT
 *
 * A thread sleeps on its control word and the words of its places. Whoever changes the places changes the control word
 * and wakes it, so that it looks at them anew. It touches no word itself, but by futex(2), to which memory that is gone is
 * an error and not a fault.
 */
#include "os/watcher.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "os/clock.h"

#define PLACES (PSHM_OS_FUTEX_MANY - 1)
#define STACK ((size_t)256 << 10)
#define NEVER (INT64_MAX / 2)

/* A word that is slept on, for one or several. */
typedef struct place {
    const uint32_t *word;
    uint32_t value;
    unsigned users; /* 0: the place is free */
    bool over;
    int result; /* 0: woken */
} place;

typedef struct watcher watcher;
typedef struct sleeping {
    struct sleeping *next;
    watcher *owner;
    pthread_t thread;
    uint32_t control; /* changed: look again */
    bool touched;     /* since the last submit */
    bool ending;
    unsigned used;   /* places beyond this were never used */
    bool keeps_time; /* the alarm is its own to keep */
    place places[PLACES];
} sleeping;

struct watcher {
    pshm_os_sleeper sleeper;
    pthread_mutex_t lock; /* guards all below but for what only the caller's thread uses */
    int event;
    int64_t alarm;
    unsigned over; /* places that are, since the last reap */
    sleeping *threads;
    pshm_os_sleep *first; /* under way: the caller's */
};

static void settle(watcher *w, place *p, int result)
{
    if (!p->users) { /* nobody wants it any more; a wake was for somebody else */
        if (result == 0)
            pshm_os_futex_wake(p->word, 1);
        return;
    }
    p->over = true;
    p->result = result;
    w->over++;
    pshm_os_event_signal(w->event);
}

/* Which words are another already? The system says that one is, and not which. */
static void probe(sleeping *t, const unsigned *index, unsigned count)
{
    for (unsigned i = 1; i < count; i++) {
        place *p = &t->places[index[i]];
        if (p->over || !p->users)
            continue;
        int rc = pshm_os_futex_wait(p->word, p->value, 0);
        if (rc != -ETIMEDOUT && rc != -EINTR)
            settle(t->owner, p, rc);
    }
}

/* With the lock: what to sleep on. */
static unsigned gather(const sleeping *t, pshm_os_futex *words, unsigned *index)
{
    unsigned count = 1;
    words[0] = (pshm_os_futex){&t->control, t->control};
    for (unsigned i = 0; i < t->used; i++) {
        if (!t->places[i].users || t->places[i].over)
            continue;
        words[count] = (pshm_os_futex){t->places[i].word, t->places[i].value};
        index[count++] = i;
    }
    return count;
}

static void *run(void *context)
{
    sleeping *t = context;
    watcher *w = t->owner;
    pshm_os_futex words[PSHM_OS_FUTEX_MANY];
    unsigned index[PSHM_OS_FUTEX_MANY], which;
    pthread_mutex_lock(&w->lock);
    while (!t->ending) {
        unsigned count = gather(t, words, index);
        int64_t until = t->keeps_time ? w->alarm : NEVER;
        pthread_mutex_unlock(&w->lock);
        int rc = pshm_os_futex_wait_many(words, count, until, &which);
        pthread_mutex_lock(&w->lock);
        /* A place may have been given up, and even away, in the meantime: then it is not the one that was slept on. */
        if (rc == 0 && which) {
            place *p = &t->places[index[which]];
            bool same = p->word == words[which].word && p->value == words[which].value && !p->over;
            if (same)
                settle(w, p, 0);
            else
                pshm_os_futex_wake(words[which].word, 1);
        } else if (rc != -ETIMEDOUT && rc != -EINTR && words[0].value == t->control) {
            probe(t, index, count);
        }
        if (t->keeps_time && w->alarm <= pshm_os_now()) {
            w->alarm = NEVER;
            pshm_os_event_signal(w->event);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void touch(sleeping *t)
{
    t->control++;
    t->touched = true;
}

/* With the lock. NULL: no thread could be had. */
static sleeping *add_thread(watcher *w, int *rc)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    sleeping *t = calloc(1, sizeof *t);
    *rc = -ENOMEM;
    if (!t)
        return NULL;
    t->owner = w;
    t->keeps_time = !w->threads;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    *rc = -pthread_create(&t->thread, &attributes, run, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (*rc) {
        free(t);
        return NULL;
    }
    t->next = w->threads;
    w->threads = t;
    return t;
}

/* With the lock. The place of such a word, one that is shared, free or new. */
static place *place_for(watcher *w, const pshm_os_futex *f, int *rc)
{
    sleeping *where = NULL;
    place *found = NULL;
    for (sleeping *t = w->threads; t; t = t->next) {
        for (unsigned i = 0; i < t->used; i++) {
            place *p = &t->places[i];
            if (p->users && !p->over && p->word == f->word && p->value == f->value) {
                p->users++;
                return p;
            }
            if (!p->users && !found) {
                found = p;
                where = t;
            }
        }
        if (!found && t->used < PLACES) {
            found = &t->places[t->used];
            where = t;
        }
    }
    if (!found) {
        where = add_thread(w, rc);
        if (!where)
            return NULL;
        found = where->places;
    }
    if (found == &where->places[where->used])
        where->used++;
    *found = (place){.word = f->word, .value = f->value, .users = 1};
    touch(where);
    return found;
}

/* With the lock. Its thread sleeps on the word until it looks again, and passes on what wakes it there. */
static void give_up(watcher *w, place *p)
{
    if (--p->users || p->over)
        return;
    for (sleeping *t = w->threads; t; t = t->next)
        if (p >= t->places && p < t->places + PLACES)
            touch(t);
}

/* With the lock. */
static void give_places(watcher *w, pshm_os_sleep *sleep, unsigned count)
{
    place **places = sleep->places;
    for (unsigned i = 0; i < count; i++)
        give_up(w, places[i]);
    free(places);
    sleep->places = NULL;
}

static int begin(pshm_os_sleeper *sleeper, pshm_os_sleep *sleep, const pshm_os_futex *words, unsigned count)
{
    watcher *w = (watcher *)sleeper;
    place **places = calloc(count, sizeof *places);
    int rc = -ENOMEM;
    if (!places)
        return rc;
    sleep->places = places;
    pthread_mutex_lock(&w->lock);
    for (unsigned i = 0; i < count; i++) {
        places[i] = place_for(w, &words[i], &rc);
        if (!places[i]) {
            give_places(w, sleep, i);
            pthread_mutex_unlock(&w->lock);
            return rc;
        }
    }
    pthread_mutex_unlock(&w->lock);
    sleep->under_way = true;
    sleep->count = count;
    sleep->previous = NULL;
    sleep->next = w->first;
    if (w->first)
        w->first->previous = sleep;
    w->first = sleep;
    return 0;
}

static int submit(pshm_os_sleeper *sleeper)
{
    watcher *w = (watcher *)sleeper;
    pthread_mutex_lock(&w->lock);
    for (sleeping *t = w->threads; t; t = t->next) {
        if (t->touched)
            pshm_os_futex_wake(&t->control, 1);
        t->touched = false;
    }
    pthread_mutex_unlock(&w->lock);
    return 0;
}

static int set_alarm(pshm_os_sleeper *sleeper, int64_t at)
{
    watcher *w = (watcher *)sleeper;
    int rc = 0;
    pthread_mutex_lock(&w->lock);
    w->alarm = at;
    if (!w->threads)
        (void)add_thread(w, &rc);
    for (sleeping *t = w->threads; t; t = t->next)
        if (t->keeps_time)
            touch(t);
    pthread_mutex_unlock(&w->lock);
    return rc ? rc : submit(sleeper);
}

/* With the lock: is it over? */
static bool is_over(pshm_os_sleep *sleep)
{
    place *const *places = sleep->places;
    for (unsigned i = 0; i < sleep->count; i++) {
        if (!places[i]->over)
            continue;
        sleep->result = places[i]->result ? places[i]->result : (int)i;
        return true;
    }
    return false;
}

static void finish(watcher *w, pshm_os_sleep *sleep)
{
    if (sleep->previous)
        sleep->previous->next = sleep->next;
    else
        w->first = sleep->next;
    if (sleep->next)
        sleep->next->previous = sleep->previous;
    sleep->under_way = false;
    give_places(w, sleep, sleep->count);
}

static void end(pshm_os_sleeper *sleeper, pshm_os_sleep *sleep)
{
    watcher *w = (watcher *)sleeper;
    if (!sleep->under_way)
        return;
    pthread_mutex_lock(&w->lock);
    if (!is_over(sleep))
        sleep->result = -ECANCELED;
    finish(w, sleep);
    pthread_mutex_unlock(&w->lock);
    (void)submit(sleeper);
}

static pshm_os_sleep *reap(pshm_os_sleeper *sleeper)
{
    watcher *w = (watcher *)sleeper;
    pshm_os_sleep *over = NULL, **at = &over;
    pthread_mutex_lock(&w->lock);
    for (pshm_os_sleep *s = w->over ? w->first : NULL, *next; s; s = next) {
        next = s->next;
        if (!is_over(s))
            continue;
        finish(w, s);
        s->next = NULL;
        *at = s;
        at = &s->next;
    }
    w->over = 0;
    pthread_mutex_unlock(&w->lock);
    return over;
}

static bool is_mine(const pshm_os_sleeper *sleeper)
{
    (void)sleeper;
    return true;
}

static void close_watcher(pshm_os_sleeper *sleeper, bool in_child)
{
    watcher *w = (watcher *)sleeper;
    if (!in_child) { /* a child has neither the threads, nor a lock that it could trust */
        while (w->first)
            end(sleeper, w->first);
        pthread_mutex_lock(&w->lock);
        for (sleeping *t = w->threads; t; t = t->next) {
            t->ending = true;
            touch(t);
        }
        pthread_mutex_unlock(&w->lock);
        (void)submit(sleeper);
    }
    for (sleeping *t = w->threads, *next; t; t = next) {
        next = t->next;
        if (!in_child)
            pthread_join(t->thread, NULL);
        free(t);
    }
    for (pshm_os_sleep *s = w->first; s; s = s->next)
        free(s->places);
    free(w);
}

int pshm_os_watcher_open(int event, pshm_os_sleeper **out)
{
    watcher *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->sleeper = (pshm_os_sleeper){begin, submit, end, reap, set_alarm, is_mine, close_watcher};
    pthread_mutex_init(&w->lock, NULL);
    w->event = event;
    w->alarm = NEVER;
    *out = &w->sleeper;
    return 0;
}
