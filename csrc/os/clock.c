/* SPDX-License-Identifier: MIT */
#include "os/clock.h"

#include <sched.h>
#include <time.h>

int64_t pshm_os_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void pshm_os_sleep_until(int64_t until)
{
    struct timespec when = {.tv_sec = until / INT64_C(1000000000), .tv_nsec = until % INT64_C(1000000000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL);
}

void pshm_os_yield(void)
{
    sched_yield();
}
