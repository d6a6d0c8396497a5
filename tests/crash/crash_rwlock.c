/* SPDX-License-Identifier: MIT
 *
 * The verbs of the read-write lock under the step-and-kill driver: a reader's death is nothing, a writer's that waits for
 * readers neither, one inside is told. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <polyshm/rwlock.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 8

static pshm_rwlock rw;
static pshm_death death;
static uint32_t dead; /* who died in `prepare` */

/* Two words that the lock guards, equal while nobody writes. They lie outside, so that each run begins with zeros. */
#define FIRST crash_noted->ready
#define SECOND crash_noted->done

#define READ(deadline) CRASH_PATIENTLY(pshm_rwlock_read_acquire(&rw, (deadline), &death))
#define WRITE(deadline) CRASH_PATIENTLY(pshm_rwlock_write_acquire(&rw, (deadline), &death))
#define LATER pshm_deadline(INT64_C(60000000000))
#define SOON pshm_deadline(INT64_C(3000000))

static int prepare(void)
{
    bool created;
    pshm_rwlock_fini(&rw);
    return pshm_rwlock_init(&rw, crash_here.arena, "rw", 2, true, &created);
}

/* From the bytes alone: is somebody inside to write, or does he wait to? */
static bool is_entered(void)
{
    uint32_t low = (uint32_t)__atomic_load_n((uint64_t *)rw.object.body, __ATOMIC_SEQ_CST);
    return (low & PSHM_ID_SLOT) && (low & PSHM_ID_SLOT) != PSHM_ID_ABANDONED && !(low & PSHM_ID_GRANTED);
}

static bool is_pending(void)
{
    uint32_t low = (uint32_t)__atomic_load_n((uint64_t *)rw.object.body, __ATOMIC_SEQ_CST);
    return low & PSHM_ID_GRANTED;
}

/* ---- what others do ---- */

static int change_words(void)
{
    FIRST++;
    usleep(200);
    SECOND++;
    return FIRST == SECOND ? 0 : crash_fail("two write at the same time");
}

/* Reads and writes if it can: a stopped victim may have it. */
static int beside(void)
{
    int rc = pshm_rwlock_read_try(&rw, &death);
    if (rc == 0) {
        if (is_entered())
            return crash_fail("one reads while another writes");
        rc = pshm_rwlock_read_release(&rw);
    }
    if (rc && rc != -EBUSY && rc != -EOWNERDEAD)
        return crash_fail("partner, read: %s", pshm_error_name(rc));
    rc = pshm_rwlock_write_acquire(&rw, SOON, &death);
    if (rc == 0) {
        if (FIRST == SECOND && change_words())
            return 1;
        rc = pshm_rwlock_write_release(&rw);
    }
    return rc && rc != -ETIMEDOUT && rc != -EOWNERDEAD && rc != -EINTR
               ? crash_fail("partner, write: %s", pshm_error_name(rc))
               : 0;
}

static const char *can_be_used(void)
{
    for (int i = 0; i < 2; i++) {
        int rc = pshm_rwlock_read_try(&rw, &death);
        if (!rc && pshm_rwlock_read_locked(&rw) != 1)
            return "read, and not locked";
        if (!rc)
            rc = pshm_rwlock_read_release(&rw);
        if (rc)
            return crash_wrong("read", rc);
        rc = pshm_rwlock_write_try(&rw, &death);
        if (!rc && pshm_rwlock_write_locked(&rw) != 1)
            return "written, and not locked";
        if (!rc)
            rc = i ? pshm_rwlock_write_release(&rw) : pshm_rwlock_downgrade(&rw);
        if (!rc && !i)
            rc = pshm_rwlock_read_release(&rw);
        if (rc)
            return crash_wrong("write", rc);
    }
    return pshm_rwlock_read_locked(&rw) || pshm_rwlock_write_locked(&rw) ? "free, and yet locked" : NULL;
}

/* The last survivor: *told says whether a death was. The one that is told may be that of who took over from another, and
 * died between that and the note of it. */
static const char *survive(const crash_facts *facts, bool *told)
{
    uint32_t told_pid = 0;
    int rc = READ(LATER);
    *told = rc == -EOWNERDEAD;
    if (*told)
        told_pid = death.pid;
    else if (rc || (rc = pshm_rwlock_read_release(&rw)) != 0)
        return crash_wrong("read", rc);
    rc = CRASH_PATIENTLY(pshm_rwlock_write_recover(&rw, LATER, &death));
    if (rc)
        return crash_wrong("recover", rc);
    if (death.died != *told || (*told && death.pid != told_pid))
        return "a reader and a writer are told different things";
    if (FIRST != SECOND && !*told)
        return "the words differ, and no death was told";
    if (*told && dead && told_pid != dead && told_pid != (uint32_t)facts->victim)
        return "another death is told than the first";
    FIRST = 0;
    SECOND = 0;
    rc = pshm_rwlock_write_consistent(&rw);
    if (!rc)
        rc = pshm_rwlock_write_release(&rw);
    return rc ? crash_wrong("consistent", rc) : can_be_used();
}

static const char *is_nothing(const crash_facts *facts)
{
    bool told;
    const char *wrong = survive(facts, &told);
    return wrong ? wrong : told ? "a death is told that is nothing" : NULL;
}

/* Who ended well still had it. */
static const char *is_told(const crash_facts *facts)
{
    bool told;
    const char *wrong = survive(facts, &told);
    return wrong || told || facts->killed ? wrong : "a death inside is not told";
}

/* Who ended well did not have it. */
static const char *may_be_told(const crash_facts *facts)
{
    bool told;
    const char *wrong = survive(facts, &told);
    return wrong || !told || facts->killed ? wrong : "a death is told, and nobody died inside";
}

static const char *is_still_told(const crash_facts *facts)
{
    bool told;
    const char *wrong = survive(facts, &told);
    return wrong ? wrong : told ? NULL : "the first death is told no more";
}

/* ---- the verbs ---- */

static int read_try(void)
{
    return pshm_rwlock_read_try(&rw, &death);
}

static int read_it(void)
{
    return READ(LATER);
}

static int read_release(void)
{
    return pshm_rwlock_read_release(&rw);
}

static int write_try(void)
{
    return pshm_rwlock_write_try(&rw, &death);
}

static int write_it(void)
{
    return WRITE(LATER);
}

static int write_release(void)
{
    return pshm_rwlock_write_release(&rw);
}

static int downgrade(void)
{
    return pshm_rwlock_downgrade(&rw);
}

static int write_down(void)
{
    int rc = write_try();
    return rc ? rc : downgrade();
}

static int write_recover(void)
{
    int rc = CRASH_PATIENTLY(pshm_rwlock_write_recover(&rw, LATER, &death));
    return rc ? rc : death.died ? 0 : -EIO;
}

static int read_recover(void)
{
    int rc = CRASH_PATIENTLY(pshm_rwlock_read_recover(&rw, LATER, &death));
    return rc ? rc : death.died ? 0 : -EIO;
}

static int write_consistent(void)
{
    return pshm_rwlock_write_consistent(&rw);
}

static int read_consistent(void)
{
    return pshm_rwlock_read_consistent(&rw);
}

/* While a partner may have been in, too: it is tried until it is had. */
static int read_section(void)
{
    int rc = READ(LATER);
    if (rc)
        return rc;
    uint32_t first = FIRST;
    int64_t second = SECOND;
    return first != second || FIRST != first || SECOND != second ? -EIO : read_release();
}

static int write_section(void)
{
    int rc = WRITE(LATER);
    if (rc)
        return rc;
    uint32_t first = FIRST;
    FIRST = first + 1;
    SECOND = first + 1;
    return FIRST == first + 1 ? write_release() : -EIO;
}

static int down_section(void)
{
    int rc = WRITE(LATER);
    if (rc)
        return rc;
    uint32_t first = FIRST;
    FIRST = first + 1;
    SECOND = first + 1;
    rc = downgrade();
    if (rc)
        return rc;
    return FIRST == first + 1 && SECOND == first + 1 ? write_release() : -EIO;
}

static int repair(void)
{
    int rc = CRASH_PATIENTLY(pshm_rwlock_write_recover(&rw, LATER, &death));
    if (rc)
        return rc;
    if (death.died) {
        FIRST = 7;
        SECOND = 7;
    }
    rc = pshm_rwlock_write_consistent(&rw);
    return rc ? rc : write_release();
}

static int repair_to_read(void)
{
    int rc = CRASH_PATIENTLY(pshm_rwlock_read_recover(&rw, LATER, &death));
    if (rc)
        return rc;
    if (death.died) {
        FIRST = 7;
        SECOND = 7;
    }
    rc = pshm_rwlock_read_consistent(&rw);
    return rc ? rc : read_release();
}

/* ---- after a death ---- */

static int die_writing(void *context)
{
    (void)context;
    int rc = pshm_rwlock_write_try(&rw, &death);
    raise(rc ? SIGTERM : SIGKILL);
    return 1;
}

static int prepare_a_death(void)
{
    int rc = prepare();
    pid_t pid = rc ? 0 : crash_fork(die_writing, NULL);
    while (!rc && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    dead = (uint32_t)pid;
    return rc;
}

/* ---- with others who wait, or have it ---- */

/* Waits from when the victim has it, and may get it from it or from its death. */
static int wait_to_write(void *context)
{
    (void)context;
    while (!crash_noted->ready)
        usleep(100);
    int rc = WRITE(LATER);
    if (rc == 0)
        rc = write_release();
    return rc && rc != -EOWNERDEAD ? crash_fail("waiter, write: %s", pshm_error_name(rc)) : 0;
}

static int wait_to_read(void *context)
{
    (void)context;
    while (!crash_noted->ready)
        usleep(100);
    int rc = READ(LATER);
    if (rc == 0)
        rc = read_release();
    return rc && rc != -EOWNERDEAD ? crash_fail("waiter, read: %s", pshm_error_name(rc)) : 0;
}

static pid_t *waiters; /* shared */

static void have_waiters(int (*function)(void *), unsigned count)
{
    if (!waiters)
        waiters = crash_share(sizeof *waiters * 2);
    waiters[0] = waiters[1] = 0;
    for (unsigned i = 0; i < count; i++)
        waiters[i] = crash_spawn(i ? wait_to_read : function, NULL);
}

static void have_writer(void)
{
    have_waiters(wait_to_write, 1);
}

static void have_reader(void)
{
    have_waiters(wait_to_read, 1);
}

static void have_both(void)
{
    have_waiters(wait_to_write, 2);
}

/* In the victim: takes it, and waits until they sleep. The words stay equal. */
static int with_waiters(int (*take)(void))
{
    int rc = take();
    SECOND = 1;
    FIRST = 1;
    for (unsigned i = 0; i < 2 && waiters[i]; i++)
        crash_wait_asleep(waiters[i]);
    return rc;
}

static int read_with_waiters(void)
{
    return with_waiters(read_try);
}

static int write_with_waiters(void)
{
    return with_waiters(write_try);
}

static int down_with_waiters(void)
{
    return with_waiters(write_down);
}

static int have_it_until_go(bool write)
{
    int rc = write ? WRITE(LATER) : READ(LATER);
    crash_noted->ready = 1;
    crash_noted->done = 1;
    while (!rc && !crash_noted->go) {
        if (!write && is_entered())
            return crash_fail("one writes while another reads");
        usleep(100);
    }
    if (!rc)
        rc = write ? write_release() : read_release();
    return rc ? crash_fail("holder: %s", pshm_error_name(rc)) : 0;
}

static int hold_to_write(void *context)
{
    (void)context;
    return have_it_until_go(true);
}

static int hold_to_read(void *context)
{
    (void)context;
    return have_it_until_go(false);
}

static void have_holder(int (*function)(void *))
{
    crash_spawn(function, NULL);
    while (!crash_noted->ready)
        usleep(100);
}

static void have_writing(void)
{
    have_holder(hold_to_write);
}

static void have_reading(void)
{
    have_holder(hold_to_read);
}

/* One slice of waiting for a reader, and the word is given back: with a wish. */
static int keep_reading(void *context)
{
    (void)context;
    int rc = READ(LATER);
    crash_noted->ready = 1;
    crash_noted->done = 1;
    for (int i = 0; !rc && i < 1500 && (i < 150 || is_pending()); i++) /* beyond a slice */
        usleep(1000);
    if (!rc)
        rc = read_release();
    return rc ? crash_fail("holder: %s", pshm_error_name(rc)) : 0;
}

static void have_long_reading(void)
{
    have_holder(keep_reading);
}

static int write_for_a_slice(void)
{
    int rc = pshm_rwlock_write_acquire(&rw, PSHM_FOREVER, &death);
    return rc == -EINTR ? 0 : -EIO;
}

/* ---- deleted, and its memory given to somebody else, while a call on it is under way ---- */

#define BLOCKS 8

static int read_what_is_deleted(void)
{
    int rc = read_try();
    if (rc == 0)
        rc = read_release();
    return rc == PSHM_EDELETED ? 0 : rc;
}

static int write_what_is_deleted(void)
{
    int rc = write_try();
    if (rc == 0)
        rc = downgrade();
    if (rc == 0)
        rc = write_release();
    return rc == PSHM_EDELETED ? 0 : rc;
}

static int delete_and_reuse(void)
{
    int rc = CRASH_PATIENTLY(pshm_arena_delete(crash_here.arena, "rw", 2, NULL));
    for (unsigned i = 0; !rc && i < BLOCKS; i++)
        rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(i), 128));
    return rc && rc != -EAGAIN ? crash_fail("partner, delete: %s", pshm_error_name(rc)) : 0;
}

static const char *is_untouched(const crash_facts *facts)
{
    bool created;
    pshm_rwlock r;
    (void)facts;
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint64_t place = 0, words[16];
        int rc = pshm_heap_read(crash_here.arena, pshm_heap_root(i), &place, sizeof place);
        if (!rc && !place)
            continue;
        if (!rc)
            rc = pshm_heap_read(crash_here.arena, place, words, sizeof words);
        for (size_t j = 0; !rc && j < sizeof words / sizeof *words; j++)
            if (words[j])
                return "a call on what was deleted wrote into somebody else's block";
        if (!rc)
            rc = CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, pshm_heap_root(i)));
        if (rc)
            return crash_wrong("block", rc);
    }
    int rc = CRASH_PATIENTLY(pshm_rwlock_init(&r, crash_here.arena, "rw", 2, true, &created));
    return rc ? crash_wrong("again", rc) : NULL;
}

#define SHORT (CRASH_STATES | CRASH_EVERY | CRASH_STOP)
#define LONG (CRASH_STATES | CRASH_STOP)
#define AFTER_DEATH .prepare = prepare_a_death

static const crash_work works[] = {
    {"rwlock: read, try", SHORT, .operate = read_try, .partner = beside, .verify = is_nothing},
    {"rwlock: read, acquire", SHORT, .operate = read_it, .partner = beside, .verify = is_nothing},
    {"rwlock: read, again", SHORT, .set_up = read_try, .operate = read_try, .partner = beside, .verify = is_nothing},
    {"rwlock: read, release", SHORT, .set_up = read_try, .operate = read_release, .partner = beside,
     .verify = is_nothing},
    {"rwlock: read section", SHORT, .operate = read_section, .partner = beside, .verify = is_nothing},
    {"rwlock: read, release with a writer that waits", LONG, .reset = have_writer, .set_up = read_with_waiters,
     .operate = read_release, .verify = is_nothing},
    {"rwlock: read while another writes", LONG, .reset = have_writing, .operate = read_it, .verify = is_nothing},
    {"rwlock: write, try", SHORT, .operate = write_try, .partner = beside, .verify = is_told},
    {"rwlock: write, acquire", SHORT, .operate = write_it, .partner = beside, .verify = is_told},
    {"rwlock: write, release", SHORT, .set_up = write_try, .operate = write_release, .partner = beside,
     .verify = may_be_told},
    {"rwlock: write section", SHORT, .operate = write_section, .partner = beside, .verify = may_be_told},
    {"rwlock: write while others read", LONG, .reset = have_reading, .operate = write_it, .verify = is_told},
    {"rwlock: write while another writes", LONG, .reset = have_writing, .operate = write_it, .verify = is_told},
    {"rwlock: write, for a slice only", CRASH_STATES, .reset = have_long_reading, .operate = write_for_a_slice,
     .verify = is_nothing},
    {"rwlock: write, release with a writer that waits", LONG, .reset = have_writer, .set_up = write_with_waiters,
     .operate = write_release, .verify = may_be_told},
    {"rwlock: write, release with a reader that waits", LONG, .reset = have_reader, .set_up = write_with_waiters,
     .operate = write_release, .verify = may_be_told},
    {"rwlock: write, release with both", LONG, .reset = have_both, .set_up = write_with_waiters,
     .operate = write_release, .verify = may_be_told},
    {"rwlock: downgrade", SHORT, .set_up = write_try, .operate = downgrade, .partner = beside, .verify = may_be_told},
    {"rwlock: downgrade section", SHORT, .operate = down_section, .partner = beside, .verify = may_be_told},
    {"rwlock: downgrade with both", LONG, .reset = have_both, .set_up = write_with_waiters, .operate = downgrade,
     .verify = may_be_told},
    {"rwlock: downgraded, release", SHORT, .set_up = write_down, .operate = write_release, .partner = beside,
     .verify = is_nothing},
    {"rwlock: downgraded, release with a writer", LONG, .reset = have_writer, .set_up = down_with_waiters,
     .operate = write_release, .verify = is_nothing},
    {"rwlock: write, recover", SHORT, AFTER_DEATH, .operate = write_recover, .partner = beside,
     .verify = is_still_told},
    {"rwlock: read, recover", SHORT, AFTER_DEATH, .operate = read_recover, .partner = beside, .verify = is_still_told},
    {"rwlock: write, recover and give up", SHORT, AFTER_DEATH, .set_up = write_recover, .operate = write_release,
     .partner = beside, .verify = is_still_told},
    {"rwlock: read, recover and give up", SHORT, AFTER_DEATH, .set_up = read_recover, .operate = read_release,
     .partner = beside, .verify = is_still_told},
    {"rwlock: write, repair", CRASH_REPAIR, .operate = write_section, .repair = repair, .verify = may_be_told},
    {"rwlock: read, repair", CRASH_REPAIR, .operate = write_section, .repair = repair_to_read, .verify = may_be_told},
    {"rwlock: read, deleted meanwhile", CRASH_STOP, .operate = read_what_is_deleted, .partner = delete_and_reuse,
     .verify = is_untouched},
    {"rwlock: write, deleted meanwhile", CRASH_STOP, .operate = write_what_is_deleted, .partner = delete_and_reuse,
     .verify = is_untouched},
};

/* Who takes the mark away and dies before he releases is told himself: as a writer always, as a reader no more. */
static const crash_work consistents[] = {
    {"rwlock: write, consistent", SHORT, AFTER_DEATH, .set_up = write_recover, .operate = write_consistent,
     .partner = beside, .verify = is_told},
    {"rwlock: read, consistent", SHORT, AFTER_DEATH, .set_up = read_recover, .operate = read_consistent,
     .partner = beside, .verify = may_be_told},
};

static void run(const crash_work *given)
{
    crash_work work = *given;
    dead = 0;
    if (!work.prepare)
        work.prepare = prepare;
    crash_work_run(&work, SIZE, PARTICIPANTS);
}

static void forget_the_dead(void)
{
    dead = 0;
}

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++)
        run(&works[i]);
    for (size_t i = 0; i < sizeof consistents / sizeof *consistents; i++) {
        crash_work work = consistents[i];
        work.kept = forget_the_dead;
        run(&work);
    }
    return crash_report();
}
