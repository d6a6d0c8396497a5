/* SPDX-License-Identifier: MIT
 *
 * Operations on an arena as cases of the kill tests. Of each only its own is written down: how the arena is before it,
 * what it does, and how one sees whether it was done. The rest is the same for all: a partner, and the last survivor,
 * who create, lock, count, allocate and delete on their own, and look whether everything is whole and nothing has leaked.
 */
#ifndef CRASH_DRIVER_WORK_H
#define CRASH_DRIVER_WORK_H

#include "driver_arena.h"

/* Which modes. */
#define CRASH_STATES 1u
#define CRASH_EVERY 2u
#define CRASH_STOP 4u
#define CRASH_REPAIR 8u

typedef struct crash_work {
    const char *name;
    unsigned modes;
    bool stranger;        /* the victim takes no part in the arena before */
    int (*prepare)(void); /* in the driver, optional: from an empty arena to that before the operation */
    void (*kept)(void);   /* in the driver, optional: what `prepare` made is what every run begins with from now on */
    /* In the driver, at the start of each run, optional: helpers. */
    void (*reset)(void);
    int (*set_up)(void);  /* in the victim before the operation, optional: an error's code is wrong */
    int (*operate)(void); /* the operation: 0 or an error's code, which is wrong */
    int (*partner)(void); /* optional, beside what all partners do: 0 or crash_fail() */
    int (*repair)(void);  /* for CRASH_REPAIR: as `operate` */
    /* In the last survivor, before what all do. `killed` without a victim: nobody has done anything yet. It leaves the
     * arena with the same bytes in use whether the operation was done or not. */
    const char *(*verify)(const crash_facts *facts);
    /* Optional: the same at the end, when the partner's things are gone too. */
    const char *(*finish)(const crash_facts *facts);
} crash_work;

/* The arena of all works, empty when `prepare` is called. */
extern crash_arena crash_here;

/* What is known beside it, zero at the start of each run. */
typedef struct crash_notes {
    volatile pid_t victim;
    volatile uint32_t go;    /* helpers may end; set when the victim sleeps or is over */
    volatile uint32_t ready; /* for the works' own use */
    volatile int64_t done;   /* the same */
} crash_notes;
extern crash_notes *crash_noted;

/* Names, and roots, that partners and survivors use for themselves. */
#define CRASH_ROOT 30u

/* Runs the work in its modes. An arena of `size` bytes, for so many participants. */
void crash_work_run(const crash_work *work, size_t size, unsigned participants);
/* The case alone, valid until the next call. */
const crash_case *crash_work_case(const crash_work *work, size_t size, unsigned participants);

/* Calls again while it is -EINTR: for three quarters of the time that survivors have; in a partner until it is clear that a
 * stopped victim has one of the arena's own locks, which is -EAGAIN. */
#define CRASH_PATIENTLY(call)                                                                                          \
    __extension__({                                                                                                    \
        int rc_;                                                                                                       \
        int64_t end_ = pshm_deadline(INT64_C(750000) * crash_deadline());                                              \
        do                                                                                                             \
            rc_ = (call);                                                                                              \
        while (rc_ == -EINTR && crash_goes_on(end_));                                                                  \
        rc_ == -EINTR &&crash_is_blocked() ? -EAGAIN : rc_;                                                            \
    })
bool crash_goes_on(int64_t end);
bool crash_is_blocked(void);

#endif
