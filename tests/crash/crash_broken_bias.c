/* SPDX-License-Identifier: MIT
 *
 * Biased locks that are broken on purpose, one way each: the driver has to find every one of them, and the same thing done
 * right has to pass. See driver.h; not for valgrind and the sanitizers.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "core/bias.h"
#include "core/heap.h"
#include "driver_work.h"

#define SIZE 65536
#define ROOT 3u
#define GUARDED 4u /* root of the block that the lock guards, for these tests */

/* What is wrong. */
typedef enum fault {
    SOUND,
    NOT_NOTED,     /* it is entered before that is noted */
    LEFT_TOO_LATE, /* it is noted as left before what was done inside is whole */
    NOT_LOOKED,    /* it is taken away without a look whether its owner is inside */
    NOT_MARKED,    /* it is taken away without a mark for who comes after a death */
} fault;

static fault broken;

/* Two words in the arena: whoever is inside finds them equal, but for a death. */
static volatile uint64_t *guarded(void)
{
    const pshm_attachment *a = crash_here.arena->attachment;
    return pshm_at(a, a->head->roots[GUARDED]);
}

static int make_guarded(void)
{
    return pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(GUARDED), 64);
}

static pshm_biased *lock(void)
{
    return &crash_here.arena->attachment->head->heap.lock;
}

static int myself(pshm_member **m)
{
    return pshm_member_of(crash_here.arena->attachment, m);
}

static int be_biased(void)
{
    pshm_member *m;
    int rc = myself(&m);
    for (int i = 0; !rc && i < 300; i++) {
        rc = CRASH_PATIENTLY(pshm_heap_enter(m));
        if (!rc)
            pshm_heap_leave(m);
    }
    return rc || pshm_load(&lock()->owner.word) == m->biased ? rc : -EIO;
}

/* ---- the owner ---- */

static int change_inside(void)
{
    pshm_member *m;
    const uint64_t place = offsetof(pshm_head, heap.lock);
    int rc = myself(&m);
    if (rc)
        return rc;
    bool quick = broken == NOT_NOTED || pshm_bias_enter_quickly(m, lock(), place);
    if (!quick)
        rc = CRASH_PATIENTLY(pshm_heap_enter(m));
    if (rc)
        return rc;
    guarded()[0]++;
    if (broken == NOT_NOTED)
        pshm_bias_enter_quickly(m, lock(), place);
    if (broken == LEFT_TOO_LATE && quick)
        pshm_bias_leave_quickly(m, lock());
    guarded()[1]++;
    if (!quick)
        pshm_heap_leave(m);
    else if (broken != LEFT_TOO_LATE)
        return pshm_bias_leave_quickly(m, lock());
    return 0;
}

/* ---- who takes it away ---- */

static int take_away(pshm_member *m)
{
    pshm_owner *o = &lock()->owner;
    uint64_t word = pshm_load(&o->word);
    if (broken == NOT_LOOKED && pshm_bias_is_on(word)) {
        int at = pshm_member_note(m, pshm_place_of(m->attachment, o));
        if (at < 0 || !pshm_cas(&o->word, &word, m->me))
            return -EIO;
        m->used |= 1u << at;
        return 0;
    }
    if (broken == NOT_MARKED && pshm_bias_is_on(word))
        pshm_cas(&o->word, &word, word & ~PSHM_OWNER_BIASED);
    return CRASH_PATIENTLY(pshm_heap_enter(m));
}

static int look_inside(void)
{
    pshm_member *m;
    int rc = myself(&m);
    if (!rc)
        rc = take_away(m);
    if (rc == -EAGAIN) /* the victim is stopped inside */
        return 0;
    if (rc)
        return crash_fail("partner: %s", pshm_error_name(rc));
    bool torn = guarded()[0] != guarded()[1];
    pshm_heap_leave(m);
    return torn ? crash_fail("partner: two are inside") : 0;
}

/* As a victim: it is biased to a neighbour. */
static int take_from_neighbour(void)
{
    pshm_member *m;
    int rc = myself(&m);
    if (!rc)
        rc = take_away(m);
    if (!rc)
        pshm_heap_leave(m);
    return rc;
}

static int neighbour(void *context)
{
    (void)context;
    int rc = be_biased();
    crash_noted->ready = 1;
    while (!rc && !crash_noted->go)
        usleep(100);
    return rc ? crash_fail("neighbour: %s", pshm_error_name(rc)) : 0;
}

static void have_neighbour(void)
{
    pid_t pid = crash_spawn(neighbour, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
}

static const char *is_to_be_had(const crash_facts *facts)
{
    (void)facts;
    guarded()[0] = guarded()[1] = 0;
    int rc = CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(ROOT), 64));
    if (!rc)
        rc = CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, pshm_heap_root(ROOT)));
    return rc ? crash_wrong("the heap's lock", rc) : NULL;
}

/* ---- what has to be found ---- */

static const crash_work inside = {.name = "inside",
                                  .prepare = make_guarded,
                                  .set_up = be_biased,
                                  .operate = change_inside,
                                  .partner = look_inside,
                                  .verify = is_to_be_had};
static const crash_work taking = {.name = "taking",
                                  .prepare = make_guarded,
                                  .reset = have_neighbour,
                                  .operate = take_from_neighbour,
                                  .partner = look_inside,
                                  .verify = is_to_be_had};

static const struct expectation {
    const char *name;
    fault fault;
    const crash_work *work;
    const crash_row *(*mode)(const crash_case *c);
} expectations[] = {
    {"bias: entered before it is noted", NOT_NOTED, &inside, crash_stop},
    {"bias: left before it is done", LEFT_TOO_LATE, &inside, crash_stop},
    {"bias: taken without a look who is inside", NOT_LOOKED, &inside, crash_stop},
    {"bias: taken without a mark", NOT_MARKED, &taking, crash_stop},
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
        broken = SOUND; /* for the rehearsal */
        work.name = sound ? "sound" : e->name;
        const crash_case *c = crash_work_case(&work, SIZE, 4);
        broken = sound ? SOUND : e->fault;
        crash_quiet = !sound;
        crash_deadline_ms = sound ? 2000 : 600;
        if (!e->mode(c)->failures == sound)
            continue;
        printf("FAILED: %s \"%s\"\n", sound ? "a fault was found where there is none, beside" : "not found:", e->name);
        wrong++;
    }
    printf("%d faults missed or invented\n", wrong);
    return wrong != 0;
}
