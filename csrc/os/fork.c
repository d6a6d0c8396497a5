/* SPDX-License-Identifier: MIT */
#include "os/fork.h"

#include <pthread.h>
#include <stddef.h>

/* Process-wide, since fork is. Held across a fork, so that the child finds the list whole. */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static pshm_os_fork_hook *hooks;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_result;

static void before(void)
{
    pthread_mutex_lock(&guard);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&guard);
}

static void in_child(void)
{
    for (pshm_os_fork_hook *hook = hooks; hook; hook = hook->next)
        hook->in_child(hook);
    pthread_mutex_unlock(&guard);
}

static void set_up(void)
{
    once_result = pthread_atfork(before, in_parent, in_child);
}

int pshm_os_fork_hook_add(pshm_os_fork_hook *hook)
{
    pthread_once(&once, set_up);
    if (once_result)
        return -once_result;
    pthread_mutex_lock(&guard);
    hook->previous = NULL;
    hook->next = hooks;
    if (hooks)
        hooks->previous = hook;
    hooks = hook;
    pthread_mutex_unlock(&guard);
    return 0;
}

void pshm_os_fork_hook_remove(pshm_os_fork_hook *hook)
{
    pthread_mutex_lock(&guard);
    if (hook->previous)
        hook->previous->next = hook->next;
    else
        hooks = hook->next;
    if (hook->next)
        hook->next->previous = hook->previous;
    pthread_mutex_unlock(&guard);
}

void pshm_os_fork_lock(void)
{
    pthread_mutex_lock(&guard);
}

void pshm_os_fork_unlock(void)
{
    pthread_mutex_unlock(&guard);
}
