/* SPDX-License-Identifier: MIT
 *
 * The partner's commands on read-write locks.
 */
#include "peer.h"

#include <errno.h>
#include <string.h>

static int do_rwlock(const peer_words *words)
{
    pshm_arena *arena = peer_find(words->word[1], PEER_ARENA)->arena;
    peer_thing *thing = peer_make(words->word[0], PEER_RWLOCK);
    int rc;
    do
        rc = pshm_rwlock_init(&thing->rwlock, arena, words->word[2], strlen(words->word[2]), !arena->readonly, NULL);
    while (rc == -EINTR);
    if (rc)
        thing->kind = PEER_FREE;
    return rc;
}

static pshm_rwlock *rwlock_of(const peer_words *words)
{
    return &peer_find(words->word[0], PEER_RWLOCK)->rwlock;
}

static bool reads(const peer_words *words)
{
    return !strcmp(words->word[1], "read");
}

static int take(pshm_rwlock *rwlock, bool read, int64_t deadline, pshm_death *death)
{
    int rc;
    do
        rc = read ? pshm_rwlock_read_acquire(rwlock, deadline, death)
                  : pshm_rwlock_write_acquire(rwlock, deadline, death);
    while (rc == -EINTR);
    return rc;
}

static int do_take(const peer_words *words)
{
    pshm_death death;
    int rc = take(rwlock_of(words), reads(words), peer_until(words->word[2]), &death);
    if (rc == -EOWNERDEAD) {
        peer_say(" %u", death.pid);
        return PEER_TOLD;
    }
    if (rc && rc != -ETIMEDOUT && rc != -EBUSY)
        return rc;
    peer_say(" %d", !rc);
    return 0;
}

static int do_give(const peer_words *words)
{
    return reads(words) ? pshm_rwlock_read_release(rwlock_of(words)) : pshm_rwlock_write_release(rwlock_of(words));
}

static int do_down(const peer_words *words)
{
    return pshm_rwlock_downgrade(rwlock_of(words));
}

static int do_locked(const peer_words *words)
{
    uint32_t pid = 0;
    int read = pshm_rwlock_read_locked(rwlock_of(words)), write = pshm_rwlock_write_locked(rwlock_of(words));
    int rc = pshm_rwlock_write_owner(rwlock_of(words), &pid);
    if (read < 0 || write < 0 || rc < 0)
        return read < 0 ? read : write < 0 ? write : rc;
    peer_say(" %d %d %u", read, write, pid);
    return 0;
}

static int do_mend(const peer_words *words)
{
    pshm_rwlock *rwlock = rwlock_of(words);
    pshm_death death;
    int rc;
    do
        rc = reads(words) ? pshm_rwlock_read_recover(rwlock, PSHM_FOREVER, &death)
                          : pshm_rwlock_write_recover(rwlock, PSHM_FOREVER, &death);
    while (rc == -EINTR);
    if (rc)
        return rc;
    peer_say(" %u", death.died ? death.pid : 0);
    rc = reads(words) ? pshm_rwlock_read_consistent(rwlock) : pshm_rwlock_write_consistent(rwlock);
    return rc ? rc : do_give(words);
}

static int do_loop(const peer_words *words)
{
    pshm_rwlock *rwlock = rwlock_of(words);
    pshm_counter *counter = &peer_find(words->word[1], PEER_COUNTER)->counter;
    pshm_death death;
    int rc = 0;
    for (uint64_t i = 0, count = peer_number(words->word[2]); i < count && !rc; i++) {
        int64_t before = 0, after = 0;
        bool write = i % 3 == 0;
        rc = take(rwlock, !write, PSHM_FOREVER, &death);
        if (!rc)
            rc = pshm_counter_load(counter, &before);
        if (!rc && write)
            rc = pshm_counter_store(counter, before + 1);
        if (!rc && write)
            rc = pshm_rwlock_downgrade(rwlock);
        if (!rc)
            rc = pshm_counter_load(counter, &after);
        if (!rc && after != before + write)
            rc = -EIO;
        if (!rc)
            rc = pshm_rwlock_read_release(rwlock);
    }
    return rc;
}

const peer_command peer_rwlock_commands[] = {
    {"rwlock", 3, do_rwlock},  {"rtake", 3, do_take}, {"rgive", 2, do_give}, {"rdown", 1, do_down},
    {"rlocked", 1, do_locked}, {"rmend", 2, do_mend}, {"rloop", 3, do_loop}, {NULL, 0, NULL},
};
