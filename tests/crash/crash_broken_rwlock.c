/* SPDX-License-Identifier: MIT
 *
 * Read-write locks that are broken on purpose, one way each: the driver has to find every one of them, and the same thing
 * done right has to pass. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "driver_work.h"
#include "os/clock.h"
#include "sync/rwlock.h"

#define SIZE 65536

/* What is wrong. */
typedef enum fault {
    SOUND,
    LOOKED_FIRST,    /* a reader looks at the word, and then notes that it reads */
    NOT_TAKEN_BACK,  /* a reader that finds a writer reads all the same */
    COUNTED,         /* readers are counted in the lock, which a death leaves as it is */
    NOT_DRAINED,     /* a writer does not wait for those who read */
    ENTERED_AT_ONCE, /* a writer that waits for readers is said to be inside */
    GIVEN_FIRST,     /* who downgrades gives the word back, and then notes that it reads */
} fault;

static fault broken;

static pshm_rwlock rw;
static pshm_death death;

#define FIRST crash_noted->ready
#define SECOND crash_noted->done
#define LATER pshm_deadline(INT64_C(60000000000))
/* One of the words beside the writer's, which the lock does not use. */
#define COUNT (&((body *)rw.object.body)->unused[0])

static int prepare(void)
{
    pshm_rwlock_fini(&rw);
    return pshm_rwlock_init(&rw, crash_here.arena, "rw", 2, true, NULL);
}

static bool is_entered(void)
{
    uint32_t low = (uint32_t)pshm_load(&writer_of(&rw)->word);
    return (low & PSHM_ID_SLOT) && (low & PSHM_ID_SLOT) != PSHM_ID_ABANDONED && !(low & PSHM_ID_GRANTED);
}

/* ---- the verbs, each with its faults ---- */

static pshm_member *self(void)
{
    pshm_member *m = NULL;
    return pshm_member_of(crash_here.arena->attachment, &m) ? NULL : m;
}

static int read_until(int64_t deadline)
{
    pshm_member *m = self();
    const bool looks_first = broken == LOOKED_FIRST, takes_back = broken != NOT_TAKEN_BACK;
    if (broken == COUNTED)
        __atomic_add_fetch(COUNT, 1, __ATOMIC_SEQ_CST);
    if (!looks_first && takes_back)
        return pshm_rwlock_read_acquire(&rw, deadline, &death);
    int at = __builtin_ctz(~m->used);
    while (looks_first && !pshm_owner_is_open(pshm_load(&writer_of(&rw)->word)))
        pshm_os_yield();
    pshm_store(&m->slot->waits, looks_first); /* where it can be stopped */
    m->used |= 1u << at;
    (void)note(m, at, &rw);
    return 0;
}

static int read_it(void)
{
    return CRASH_PATIENTLY(read_until(LATER));
}

static int read_release(void)
{
    if (broken == COUNTED)
        __atomic_sub_fetch(COUNT, 1, __ATOMIC_SEQ_CST);
    return pshm_rwlock_read_release(&rw);
}

static int write_until(int64_t deadline)
{
    const pshm_owner_guard guard = guard_of(&rw);
    pshm_member *m = self();
    pshm_death_of told;
    int rc;
    while (broken == COUNTED && pshm_load(COUNT)) {
        if (pshm_os_now() >= deadline)
            return -ETIMEDOUT;
        usleep(100);
    }
    if (broken != NOT_DRAINED && broken != ENTERED_AT_ONCE)
        return pshm_rwlock_write_acquire(&rw, deadline, &death);
    rc = pshm_owner_take(m, writer_of(&rw), PSHM_OWNER_PLAIN, &guard, deadline, &told);
    pshm_reader r;
    int64_t end = pshm_os_now() + PSHM_SLICE_NS;
    while (!rc && broken == ENTERED_AT_ONCE && pshm_rwlock_find_reader(&rw, m, 0, &r)) {
        if (pshm_os_now() > end) {
            pshm_owner_give(m, writer_of(&rw));
            rc = -EINTR;
        }
    }
    return rc;
}

static int write_it(void)
{
    return CRASH_PATIENTLY(write_until(LATER));
}

static int downgrade(void)
{
    pshm_member *m = self();
    if (broken != GIVEN_FIRST)
        return pshm_rwlock_downgrade(&rw);
    int rc = pshm_owner_give_as(m, writer_of(&rw), PSHM_OWNER_WAKE_ALL);
    m->used |= 1u;
    (void)note(m, 0, &rw);
    return rc;
}

/* ---- what is done with them ---- */

static int change_words(void)
{
    FIRST++;
    usleep(200);
    SECOND++;
    return FIRST == SECOND ? 0 : crash_fail("two write at the same time");
}

#define SOON pshm_deadline(INT64_C(3000000))

static int outcome(int rc)
{
    bool fine = !rc || rc == -ETIMEDOUT || rc == -EINTR || rc == -EOWNERDEAD;
    return fine ? 0 : crash_fail("partner: %s", pshm_error_name(rc));
}

/* If it can: a stopped victim may have it. */
static int write_beside(void)
{
    int rc = write_until(SOON);
    if (!rc && pshm_rwlock_read_locked(&rw))
        return crash_fail("one writes while another reads");
    if (!rc && change_words())
        return 1;
    return outcome(rc ? rc : pshm_rwlock_write_release(&rw));
}

static int write_and_die(void)
{
    int rc = write_until(SOON);
    if (!rc)
        FIRST++;
    return outcome(rc);
}

static int read_beside(void)
{
    int rc = read_until(SOON);
    if (!rc && is_entered())
        return crash_fail("one reads while another writes");
    return outcome(rc ? rc : read_release());
}

static int read_section(void)
{
    int rc = read_it();
    uint32_t first = FIRST;
    int64_t second = SECOND;
    if (rc)
        return rc == -EOWNERDEAD ? 0 : rc;
    return first != second || FIRST != first || SECOND != second ? -EIO : read_release();
}

static int write_section(void)
{
    int rc = write_it();
    if (rc)
        return rc;
    uint32_t first = FIRST;
    FIRST = first + 1;
    SECOND = first + 1;
    return pshm_rwlock_write_release(&rw);
}

static int down_section(void)
{
    int rc = write_it();
    if (rc)
        return rc;
    uint32_t first = FIRST;
    FIRST = first + 1;
    SECOND = first + 1;
    rc = downgrade();
    if (rc)
        return rc;
    return FIRST == first + 1 && SECOND == first + 1 ? read_release() : -EIO;
}

/* One slice of waiting for a reader, who goes on until that is over. */
static int keep_reading(void *context)
{
    (void)context;
    int rc = pshm_rwlock_read_try(&rw, &death);
    crash_noted->ready = 1;
    crash_noted->done = 1;
    /* Beyond a slice. */
    for (int i = 0; !rc && i < 1500 && (i < 150 || pshm_owner_id(writer_of(&rw))); i++) {
        if (is_entered() && broken != ENTERED_AT_ONCE)
            return crash_fail("one writes while another reads");
        usleep(1000);
    }
    if (!rc)
        rc = pshm_rwlock_read_release(&rw);
    return rc ? crash_fail("holder: %s", pshm_error_name(rc)) : 0;
}

static void have_reader(void)
{
    crash_spawn(keep_reading, NULL);
    while (!crash_noted->ready)
        usleep(100);
}

static int write_for_a_slice(void)
{
    int rc = write_until(PSHM_FOREVER);
    return rc == -EINTR ? 0 : -EIO;
}

/* ---- what is left ---- */

static const char *survive(bool *told)
{
    int64_t end = pshm_deadline(INT64_C(400000000));
    int rc;
    do
        rc = write_until(end);
    while (rc == -EINTR && pshm_os_now() < end);
    *told = rc == -EOWNERDEAD;
    if (*told)
        rc = CRASH_PATIENTLY(pshm_rwlock_write_recover(&rw, LATER, &death));
    if (rc)
        return crash_wrong("write", rc);
    if (FIRST != SECOND && !*told)
        return "the words differ, and no death was told";
    FIRST = 0;
    SECOND = 0;
    rc = pshm_rwlock_write_consistent(&rw);
    if (!rc)
        rc = pshm_rwlock_write_release(&rw);
    return rc ? crash_wrong("release", rc) : NULL;
}

static const char *is_nothing(const crash_facts *facts)
{
    bool told;
    (void)facts;
    const char *wrong = survive(&told);
    return wrong ? wrong : told ? "a death is told that is nothing" : NULL;
}

static const char *may_be_told(const crash_facts *facts)
{
    bool told;
    (void)facts;
    return survive(&told);
}

/* ---- what has to be found ---- */

typedef const crash_row *crash_mode(const crash_case *c);

static const crash_work reading = {.operate = read_section, .partner = write_beside, .verify = is_nothing};
static const crash_work torn = {.operate = read_section, .partner = write_and_die, .verify = may_be_told};
static const crash_work writing = {.operate = write_section, .partner = read_beside, .verify = may_be_told};
static const crash_work downgrading = {.operate = down_section, .partner = write_beside, .verify = may_be_told};
static const crash_work waiting = {.reset = have_reader, .operate = write_for_a_slice, .verify = is_nothing};

/* One fault, and the work and mode that have to find it. */
static const struct expectation {
    const char *name;
    fault fault;
    const crash_work *work;
    crash_mode *mode;
} expectations[] = {
    {"a reader looks before it notes", LOOKED_FIRST, &torn, crash_stop},
    {"a reader that finds a writer stays", NOT_TAKEN_BACK, &writing, crash_stop},
    {"readers are counted", COUNTED, &reading, crash_states},
    {"a writer does not wait for readers", NOT_DRAINED, &reading, crash_stop},
    {"a writer that waits is inside", ENTERED_AT_ONCE, &waiting, crash_states},
    {"the word is given back before the note", GIVEN_FIRST, &downgrading, crash_stop},
};

int main(int argc, char **argv)
{
    (void)argc;
    int wrong = 0;
    crash_init(argv);
    crash_failures_max = 3;
    for (size_t i = 0; i < 2 * sizeof expectations / sizeof *expectations; i++) {
        const struct expectation *e = &expectations[i / 2];
        bool sound = i % 2;
        crash_work work = *e->work;
        work.name = sound ? "sound" : e->name;
        work.prepare = prepare;
        broken = SOUND; /* for the rehearsal */
        const crash_case *c = crash_work_case(&work, SIZE, 3);
        broken = sound ? SOUND : e->fault;
        crash_quiet = !sound;
        crash_deadline_ms = sound ? 2000 : 1000;
        if (!e->mode(c)->failures == sound)
            continue;
        printf("FAILED: %s \"%s\"\n", sound ? "a fault was found where there is none, beside" : "not found:", e->name);
        wrong++;
    }
    printf("%d faults missed or invented\n", wrong);
    return wrong != 0;
}
