/* SPDX-License-Identifier: MIT */
#include "os/thread.h"

#include <pthread.h>

/* Process-wide, as threads are: see "State of the process" in docs/design/survival.rst. */
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int (*begin_once)(void);
static int result;

static void begin_all(void)
{
    result = begin_once();
}

int pshm_os_once(int (*begin)(void))
{
    begin_once = begin;
    pthread_once(&once, begin_all);
    return result;
}

int pshm_os_thread_end_hook(void (*end)(void *unused))
{
    return -pthread_key_create(&key, end);
}

int pshm_os_thread_ends(void)
{
    return -pthread_setspecific(key, &key); /* any value: what it means is the hook's to know */
}
