/* SPDX-License-Identifier: MIT
 *
 * Permits, onces, barriers and read-write locks that somebody may be overwriting.
 */
#include "fuzz.h"

static bool begins(fuzz_user *u)
{
    return fuzz_below(&u->random, 4) != 0;
}

static int64_t few(fuzz_user *u)
{
    static const int64_t odd[] = {0, -1, 65535, 65536, INT64_MAX, INT64_MIN};
    return fuzz_below(&u->random, 8) ? (int64_t)fuzz_below(&u->random, 4) + 1
                                     : odd[fuzz_below(&u->random, sizeof odd / sizeof *odd)];
}

static void use_permits(fuzz_user *u)
{
    pshm_permits *p = &u->permits;
    char name[260];
    uint32_t count;
    bool created;
    if (!p->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_permits_init(p, u->arena, name, length, begins(u), few(u), &created));
        return;
    }
    switch (fuzz_below(&u->random, 8)) {
    case 0:
        FUZZ_CALL(u, pshm_permits_try(p, few(u)));
        break;
    case 1:
    case 2:
        FUZZ_CALL(u, pshm_permits_acquire(p, few(u), fuzz_soon(u)));
        break;
    case 3:
        FUZZ_CALL(u, pshm_permits_available(p, &count));
        break;
    case 4:
        FUZZ_CALL(u, pshm_permits_held(p, &count));
        break;
    case 5:
        fuzz_doing(u, "pshm_permits_fini");
        pshm_permits_fini(p);
        break;
    default:
        FUZZ_CALL(u, pshm_permits_release(p, few(u)));
    }
}

static void use_once(fuzz_user *u)
{
    pshm_once *o = &u->once;
    char name[260];
    bool created;
    if (!o->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_once_init(o, u->arena, name, length, begins(u), &created));
        return;
    }
    switch (fuzz_below(&u->random, 6)) {
    case 0:
        FUZZ_CALL(u, pshm_once_done(o));
        break;
    case 1:
        FUZZ_CALL(u, pshm_once_finish(o, fuzz_below(&u->random, 4) == 0));
        break;
    case 2:
        fuzz_doing(u, "pshm_once_fini");
        pshm_once_fini(o);
        break;
    default:
        if (FUZZ_CALL(u, pshm_once_begin(o, fuzz_soon(u))) == 0 && fuzz_below(&u->random, 4))
            FUZZ_CALL(u, pshm_once_finish(o, fuzz_below(&u->random, 4) == 0));
    }
}

static void wait_at(fuzz_user *u, pshm_barrier *b)
{
    pshm_barrier_ticket ticket;
    if (FUZZ_CALL(u, pshm_barrier_arrive(b, &ticket, fuzz_soon(u))))
        return;
    if (fuzz_below(&u->random, 4) == 0)
        FUZZ_CALL(u, pshm_barrier_withdraw(b, &ticket));
    else
        FUZZ_CALL(u, pshm_barrier_sleep(b, &ticket, fuzz_soon(u)));
}

static void use_barrier(fuzz_user *u)
{
    pshm_barrier *b = &u->barrier;
    char name[260];
    bool created;
    if (!b->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_barrier_init(b, u->arena, name, length, begins(u), (uint64_t)few(u),
                                       (pshm_on_death)((int)fuzz_below(&u->random, 3) - 1), &created));
        return;
    }
    switch (fuzz_below(&u->random, 12)) {
    case 0:
        FUZZ_CALL(u, pshm_barrier_join(b));
        break;
    case 1:
        FUZZ_CALL(u, pshm_barrier_leave(b));
        break;
    case 2:
        FUZZ_CALL(u, pshm_barrier_reset(b));
        break;
    case 3:
        FUZZ_CALL(u, pshm_barrier_abort(b));
        break;
    case 4:
        FUZZ_CALL(u, pshm_barrier_waiting(b));
        break;
    case 5:
        FUZZ_CALL(u, pshm_barrier_broken(b));
        break;
    case 6:
        fuzz_doing(u, "pshm_barrier_fini");
        pshm_barrier_fini(b);
        break;
    default:
        wait_at(u, b);
    }
}

static void use_rwlock(fuzz_user *u)
{
    pshm_rwlock *l = &u->rwlock;
    char name[260];
    uint32_t pid;
    bool created;
    pshm_death death;
    if (!l->object.arena) {
        size_t length = fuzz_name(u, name);
        FUZZ_CALL(u, pshm_rwlock_init(l, u->arena, name, length, begins(u), &created));
        return;
    }
    switch (fuzz_below(&u->random, 14)) {
    case 0:
        FUZZ_CALL(u, pshm_rwlock_read_try(l, &death));
        break;
    case 1:
        FUZZ_CALL(u, pshm_rwlock_read_acquire(l, fuzz_soon(u), &death));
        break;
    case 2:
        FUZZ_CALL(u, pshm_rwlock_read_recover(l, fuzz_soon(u), &death));
        break;
    case 3:
        FUZZ_CALL(u, pshm_rwlock_read_consistent(l));
        break;
    case 4:
        FUZZ_CALL(u, pshm_rwlock_write_try(l, &death));
        break;
    case 5:
        FUZZ_CALL(u, pshm_rwlock_write_acquire(l, fuzz_soon(u), &death));
        break;
    case 6:
        FUZZ_CALL(u, pshm_rwlock_write_recover(l, fuzz_soon(u), &death));
        break;
    case 7:
        FUZZ_CALL(u, pshm_rwlock_write_consistent(l));
        break;
    case 8:
        FUZZ_CALL(u, pshm_rwlock_downgrade(l));
        break;
    case 9:
        FUZZ_CALL(u, pshm_rwlock_read_locked(l));
        break;
    case 10:
        FUZZ_CALL(u, pshm_rwlock_write_owner(l, &pid));
        break;
    case 11:
        fuzz_doing(u, "pshm_rwlock_fini");
        pshm_rwlock_fini(l);
        break;
    case 12:
        FUZZ_CALL(u, pshm_rwlock_read_release(l));
        break;
    default:
        FUZZ_CALL(u, pshm_rwlock_write_release(l));
    }
}

void fuzz_use_owned(fuzz_user *u)
{
    static void (*const ways[])(fuzz_user *) = {use_permits, use_once, use_barrier, use_rwlock};
    ways[fuzz_below(&u->random, sizeof ways / sizeof *ways)](u);
}

void fuzz_end_owned(fuzz_user *u)
{
    fuzz_doing(u, "fini of what is owned");
    pshm_permits_fini(&u->permits);
    pshm_once_fini(&u->once);
    pshm_barrier_fini(&u->barrier);
    pshm_rwlock_fini(&u->rwlock);
}
