/* SPDX-License-Identifier: MIT
 *
 * Slots. What survives a death at any instruction, and why:
 *
 *   Whoever holds a slot's beacon is alone at it, but for one step that anybody may take who has proof: a slot that is
 *   TAKEN and whose beacon is dark becomes DEAD, of the next generation. From then on every owner word that names the old
 *   generation is that of a dead owner, whoever takes the beacon next, and however long he stops before he goes on.
 *     take    beacon, (reclaim if DEAD,) who I am, stamp = TAKEN
 *     give    stamp = FREE, beacon
 *     reclaim beacon, words that are held = abandoned, stamp = FREE
 *   A death between any two of them leaves the beacon dark and the stamp as it is; each step can be done again.
 *   Where there is a file, two bytes of it go with a slot. The owner's process has the first one locked from before the
 *   stamp is TAKEN until after the beacon is given back: a second proof that the kernel gives where it could not walk the
 *   robust list of the dead. Whoever takes or reclaims has the second one for that long, so that who comes upon a beacon
 *   that shines at a DEAD slot knows that its holder is dead. They are two because a process has the first byte also of
 *   those of its threads that are dead.
 *   Two threads of one process share these locks, so they take turns by the process's own.
 */
#include "core/participant.h"

#include "core/bias.h"

#include <errno.h>

#include <string.h>

#include "core/owner.h"
#include "os/beacon.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/fork.h"
#include "os/process.h"

static pshm_os_beacon *beacon_at(const pshm_attachment *a, uint32_t index)
{
    return (pshm_os_beacon *)pshm_at(a, a->at.beacons) + index;
}

static uint32_t stamp_of(uint32_t generation, uint32_t phase)
{
    return generation << PSHM_GENERATION_SHIFT | phase;
}

static bool is_of_generation(uint32_t id, uint32_t generation)
{
    return (id & PSHM_ID_GENERATION) == (generation << PSHM_ID_GENERATION_SHIFT & PSHM_ID_GENERATION);
}

/* The slot of an id, or NULL for none there can be. */
static pshm_slot *slot_of(const pshm_attachment *a, uint32_t id, uint32_t *index)
{
    *index = (id & PSHM_ID_SLOT) - 1;
    return *index < a->at.participants ? pshm_slot_at(a, *index) : NULL;
}

static pshm_os_thread thread_of(const pshm_slot *slot)
{
    return (pshm_os_thread){.pid = pshm_peek(&slot->pid),
                            .tid = pshm_peek(&slot->thread),
                            .start = pshm_peek(&slot->start),
                            .pid_space = pshm_peek(&slot->pid_space)};
}

/* ---- the bytes of the file ---- */

static uint64_t owners_byte(uint32_t index)
{
    return PSHM_RECORD_BASE + index;
}

static uint64_t workers_byte(uint32_t index)
{
    return PSHM_RECORD_WORK + index;
}

/* Locks one for this process: true also where there is no file. Who shares the process shares the lock. */
static bool lock_byte(const pshm_attachment *a, uint64_t byte)
{
    return a->guard < 0 || pshm_os_record_lock(a->guard, 'w', byte, 1) == 0;
}

static void unlock_byte(const pshm_attachment *a, uint64_t byte)
{
    if (a->guard >= 0)
        pshm_os_record_lock(a->guard, 'u', byte, 1);
}

/* Is it a thread of the process of `self`, or may it be, where one of them could not ask for its PID namespace? */
static bool is_of_process(const pshm_os_thread *thread, const pshm_os_thread *self)
{
    return thread->pid == self->pid && (thread->pid_space == self->pid_space || !thread->pid_space || !self->pid_space);
}

/* Gives up the owner's byte, unless a thread of this process has the slot: then the lock is that one's. */
static void drop_owners_byte(const pshm_attachment *a, uint32_t index, const pshm_os_thread *self)
{
    const pshm_slot *slot = pshm_slot_at(a, index);
    bool taken = (pshm_load(&slot->stamp) & PSHM_PHASE) == PSHM_PHASE_TAKEN;
    const pshm_os_thread who = thread_of(slot);
    if (!taken || !is_of_process(&who, self))
        unlock_byte(a, owners_byte(index));
}

/* ---- proof ---- */

bool pshm_id_is_dead(const pshm_attachment *a, uint32_t id)
{
    uint32_t index;
    const pshm_slot *slot = slot_of(a, id, &index);
    if (!slot || a->bygone)
        return true;
    uint32_t stamp = pshm_load(&slot->stamp);
    if ((stamp & PSHM_PHASE) != PSHM_PHASE_TAKEN || !is_of_generation(id, stamp >> PSHM_GENERATION_SHIFT))
        return true;
    return pshm_os_beacon_is_dark(beacon_at(a, index));
}

/* The first step of any take-over. false: somebody else has taken it, or the slot is not that owner's any more. */
static bool declare_dead(pshm_slot *slot, uint32_t stamp)
{
    return pshm_cas(&slot->stamp, &stamp, stamp_of((stamp >> PSHM_GENERATION_SHIFT) + 1, PSHM_PHASE_DEAD));
}

bool pshm_id_prove_dead(pshm_attachment *a, uint32_t id)
{
    uint32_t index;
    pshm_slot *slot = slot_of(a, id, &index);
    if (pshm_id_is_dead(a, id))
        return true;
    /* All of these are the owner's if the stamp is still the same when it is declared dead. */
    uint32_t stamp = pshm_load(&slot->stamp);
    uint32_t holder = pshm_os_beacon_holder(beacon_at(a, index));
    pshm_os_thread who = thread_of(slot);
    bool locked = pshm_peek(&slot->flags) & PSHM_SLOT_RECORD_LOCK;
    pshm_os_thread self;
    pshm_os_thread_now(&self);
    bool ours = is_of_process(&who, &self);
    pshm_os_fork_lock();
    /* Its process has the byte for as long as that lives; a thread of it may be gone before. */
    bool have = !ours && !a->readonly && lock_byte(a, owners_byte(index));
    bool gone = have && locked && a->guard >= 0;
    /* Somebody may have closed the descriptor of the living, as daemons close all that they do not know. */
    gone = (gone && !pshm_os_thread_lives(&who)) || pshm_os_thread_is_gone(&who);
    /* Somebody who is at work on the slot does what is left to do. Or has done it, and gone: then whoever has the beacon
     * now may be alive, and its thread have the same number in another PID namespace. */
    if (gone && !a->readonly && declare_dead(slot, stamp) && lock_byte(a, workers_byte(index))) {
        if (pshm_load(&slot->stamp) == stamp_of((stamp >> PSHM_GENERATION_SHIFT) + 1, PSHM_PHASE_DEAD))
            pshm_os_beacon_put_out(beacon_at(a, index), holder);
        unlock_byte(a, workers_byte(index));
    }
    if (have)
        drop_owners_byte(a, index, &self);
    pshm_os_fork_unlock();
    return gone;
}

bool pshm_id_is_this_thread(const pshm_attachment *a, uint32_t id)
{
    uint32_t index;
    const pshm_slot *slot = slot_of(a, id, &index);
    if (!slot || pshm_peek(&slot->pid) != pshm_os_pid() || pshm_peek(&slot->thread) != pshm_os_tid())
        return false;
    pshm_os_thread self;
    pshm_os_thread_now(&self);
    return pshm_peek(&slot->pid_space) == self.pid_space && pshm_peek(&slot->start) == self.start &&
           !pshm_id_is_dead(a, id);
}

uint32_t pshm_id_pid(const pshm_attachment *a, uint32_t id)
{
    uint32_t index;
    const pshm_slot *slot = slot_of(a, id, &index);
    if (!slot)
        return 0;
    uint32_t pid = pshm_load(&slot->pid), stamp = pshm_load(&slot->stamp);
    uint32_t generation = stamp >> PSHM_GENERATION_SHIFT;
    if ((stamp & PSHM_PHASE) == PSHM_PHASE_DEAD)
        generation--;
    else if ((stamp & PSHM_PHASE) != PSHM_PHASE_TAKEN)
        return 0;
    return is_of_generation(id, generation) ? pid : 0;
}

bool pshm_id_beacon(pshm_attachment *a, uint32_t id, uint32_t **word, uint32_t *value)
{
    uint32_t index;
    if (!slot_of(a, id, &index))
        return false;
    *word = pshm_os_beacon_word(beacon_at(a, index));
    return pshm_os_beacon_watch(beacon_at(a, index), value) && !pshm_id_is_dead(a, id);
}

/* ---- reclaim ---- */

/* Alone at a DEAD slot: marks what its owner held, and sets it free. */
static void mark_all(const pshm_attachment *a, pshm_slot *slot, uint32_t index, uint32_t generation)
{
    uint32_t id = pshm_id_of(index, generation - 1), pid = pshm_peek(&slot->pid);
    for (uint32_t i = 0; i < PSHM_HELD; i++) {
        uint64_t place = pshm_peek(&slot->held[i]) & PSHM_HELD_PLACE;
        if (pshm_is_lock(a, place))
            pshm_owner_abandon(a, pshm_at(a, place), id, pid, index);
        pshm_store(&slot->held[i], 0);
    }
    pshm_bias_end(&a->head->heap.lock.owner, id);
    pshm_store(&slot->waits, 0);
    pshm_store(&slot->busy, 0);
    pshm_store(&slot->stamp, stamp_of(generation, PSHM_PHASE_FREE));
}

/* Is it proven that whoever has the beacon of a slot that is not TAKEN is dead, whatever it says? Nobody else is at work
 * here; but a FREE one's last owner may be about to give it back, and has the owner's byte for as long. */
static bool is_holder_dead(const pshm_attachment *a, uint32_t index, uint32_t stamp)
{
    return a->guard >= 0 && ((stamp & PSHM_PHASE) == PSHM_PHASE_DEAD || lock_byte(a, owners_byte(index)));
}

/* Takes the beacon of a slot that is not TAKEN by a living owner, and makes it FREE. For whoever has the worker's byte. */
static bool enter_slot(const pshm_attachment *a, uint32_t index)
{
    pshm_slot *slot = pshm_slot_at(a, index);
    pshm_os_beacon *beacon = beacon_at(a, index);
    uint32_t stamp = pshm_load(&slot->stamp);
    if ((stamp & PSHM_PHASE) == PSHM_PHASE_TAKEN) {
        if (!pshm_os_beacon_is_dark(beacon))
            return false;
        declare_dead(slot, stamp);
    } else if (!pshm_os_beacon_is_dark(beacon) && is_holder_dead(a, index, stamp)) {
        pshm_os_beacon_put_out(beacon, pshm_os_beacon_holder(beacon));
    }
    if (pshm_os_beacon_take(beacon))
        return false;
    stamp = pshm_load(&slot->stamp);
    if ((stamp & PSHM_PHASE) == PSHM_PHASE_TAKEN) { /* its owner died since: the beacon would not be ours otherwise */
        declare_dead(slot, stamp);
        stamp = pshm_load(&slot->stamp);
    }
    if ((stamp & PSHM_PHASE) != PSHM_PHASE_FREE)
        mark_all(a, slot, index, stamp >> PSHM_GENERATION_SHIFT);
    return true;
}

bool pshm_slot_reclaim(pshm_attachment *a, uint32_t index)
{
    const pshm_slot *slot = pshm_slot_at(a, index);
    uint32_t stamp = pshm_load(&slot->stamp);
    if ((stamp & PSHM_PHASE) == PSHM_PHASE_FREE)
        return true;
    if ((stamp & PSHM_PHASE) == PSHM_PHASE_TAKEN && !pshm_os_beacon_is_dark(beacon_at(a, index)))
        return false;
    pshm_os_thread self;
    pshm_os_thread_now(&self);
    pshm_os_fork_lock();
    bool done = false;
    if (lock_byte(a, workers_byte(index))) {
        done = enter_slot(a, index);
        if (done)
            pshm_os_beacon_give(beacon_at(a, index));
        drop_owners_byte(a, index, &self);
        unlock_byte(a, workers_byte(index));
    }
    pshm_os_fork_unlock();
    return done;
}

/* ---- take and give ---- */

static void raise_high_water(pshm_attachment *a, uint32_t to)
{
    uint32_t now = pshm_load(&a->head->high_water);
    while (now < to && !pshm_cas(&a->head->high_water, &now, to))
        continue;
}

/* The slot is FREE and its beacon ours. */
static uint32_t move_in(pshm_attachment *a, uint32_t index, uint32_t language, const pshm_os_thread *self)
{
    pshm_slot *slot = pshm_slot_at(a, index);
    uint32_t flags = (a->guard >= 0 ? PSHM_SLOT_RECORD_LOCK : 0u) | (pshm_os_fence_register() ? PSHM_SLOT_FENCED : 0u);
    uint32_t generation = (pshm_load(&slot->stamp) >> PSHM_GENERATION_SHIFT) + 1;
    pshm_store(&slot->flags, flags);
    pshm_store(&slot->pid, self->pid);
    pshm_store(&slot->thread, self->tid);
    pshm_store(&slot->start, self->start);
    pshm_store(&slot->pid_space, self->pid_space);
    pshm_store(&slot->language, language);
    raise_high_water(a, index + 1);
    pshm_store(&slot->stamp, stamp_of(generation, PSHM_PHASE_TAKEN));
    return generation & (UINT32_MAX >> PSHM_GENERATION_SHIFT);
}

/* What is tried one after the other: slots that were in use before and whose owners are gone or dead, those that were
 * never taken, and those of whom only the system can tell that they are dead. */
enum { USED, FRESH, ASKED, WAYS };

static bool may_enter(pshm_attachment *a, uint32_t index, uint32_t high_water, int way)
{
    const pshm_slot *slot = pshm_slot_at(a, index);
    if ((index < high_water) == (way == FRESH))
        return false;
    uint32_t stamp = pshm_load(&slot->stamp);
    return (stamp & PSHM_PHASE) != PSHM_PHASE_TAKEN || pshm_os_beacon_is_dark(beacon_at(a, index)) ||
           (way == ASKED && pshm_id_prove_dead(a, pshm_id_of(index, stamp >> PSHM_GENERATION_SHIFT)));
}

/* false: its bytes are lost, and the thread's robust list leads to them for ever. */
static bool give_beacon(pshm_attachment *a, uint32_t index)
{
    pshm_os_beacon *beacon = beacon_at(a, index);
    bool mine = pshm_os_beacon_is_mine(beacon);
    if (mine)
        pshm_os_beacon_give(beacon);
    return mine;
}

/* 0; -EBUSY; -EAGAIN: only one of its bytes is in the way; PSHM_ELOST. */
static int try_slot(pshm_attachment *a, uint32_t index, uint32_t language, const pshm_os_thread *self,
                    uint32_t *generation)
{
    int rc = -EAGAIN;
    pshm_os_fork_lock();
    if (lock_byte(a, workers_byte(index))) {
        rc = enter_slot(a, index) ? 0 : -EBUSY;
        if (!rc && !lock_byte(a, owners_byte(index))) {
            give_beacon(a, index);
            rc = -EAGAIN;
        }
        if (!rc)
            *generation = move_in(a, index, language, self);
        if (!rc && *a->lost) { /* zeros, which nobody else sees; but the thread's robust list must not lead into them */
            a->stranded |= !give_beacon(a, index);
            rc = PSHM_ELOST;
        }
        if (rc)
            drop_owners_byte(a, index, self);
        unlock_byte(a, workers_byte(index));
    }
    pshm_os_fork_unlock();
    return rc;
}

/* The kernel closes the files of the dead a moment after it has put out their beacons. */
#define TRIES 20
#define PAUSE INT64_C(5000000)

int pshm_slot_take(pshm_attachment *a, uint32_t language, uint32_t *index, uint32_t *generation)
{
    pshm_os_thread self;
    pshm_os_thread_now(&self);
    for (int i = 0;; i++) {
        bool blocked = false;
        uint32_t high_water = pshm_high_water(a);
        for (uint32_t n = 0; n < WAYS * a->at.participants; n++) {
            *index = n % a->at.participants;
            if (!may_enter(a, *index, high_water, (int)(n / a->at.participants)))
                continue;
            int rc = try_slot(a, *index, language, &self, generation);
            if (rc == 0 || *a->lost)
                return rc ? PSHM_ELOST : 0;
            blocked |= rc == -EAGAIN;
        }
        if (!blocked)
            return PSHM_EPARTICIPANTS;
        if (i == TRIES)
            return -EAGAIN; /* somebody has locked the whole file */
        pshm_os_sleep_until(pshm_os_now() + PAUSE);
    }
}

bool pshm_slot_give(pshm_attachment *a, uint32_t index)
{
    pshm_slot *slot = pshm_slot_at(a, index);
    uint32_t generation = (pshm_load(&slot->stamp) >> PSHM_GENERATION_SHIFT) + 1;
    pshm_os_fork_lock();
    pshm_bias_end(&a->head->heap.lock.owner, pshm_id_of(index, generation - 1));
    pshm_store(&slot->busy, 0);
    pshm_store(&slot->stamp, stamp_of(generation, PSHM_PHASE_FREE));
    bool given = give_beacon(a, index);
    unlock_byte(a, owners_byte(index));
    pshm_os_fork_unlock();
    return given;
}

void pshm_slots_reset(pshm_attachment *a)
{
    for (uint32_t i = 0; i < a->at.participants; i++) {
        pshm_slot *slot = pshm_slot_at(a, i);
        uint32_t stamp = pshm_load(&slot->stamp), phase = stamp & PSHM_PHASE;
        if (!stamp)
            continue;
        memset(beacon_at(a, i), 0, sizeof(pshm_os_beacon));
        if (phase == PSHM_PHASE_TAKEN)
            declare_dead(slot, stamp);
        if (phase != PSHM_PHASE_FREE)
            mark_all(a, slot, i, pshm_load(&slot->stamp) >> PSHM_GENERATION_SHIFT);
    }
}
