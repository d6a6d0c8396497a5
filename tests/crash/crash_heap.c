/* SPDX-License-Identifier: MIT
 *
 * The heap under the step-and-kill driver: blocks of every kind, taken and given back. See driver.h; not for valgrind and
 * the sanitizers.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "driver_work.h"

#define SIZE 65536
#define PARTICIPANTS 4
/* Bytes of a block of a span, and how many a span has; of one with pages of its own. */
#define SMALL 256u
#define SPAN 16u
#define LARGE 9000u

/* Pages of the largest block that can be had after a run of nobody. */
static int64_t *most;

/* The destinations: the subject's, and those of others. */
#define SUBJECT 0u
#define OTHERS 1u

static int take(uint32_t root, uint64_t size)
{
    return CRASH_PATIENTLY(pshm_heap_alloc_into(crash_here.arena, pshm_heap_root(root), size));
}

static int give(uint32_t root)
{
    return CRASH_PATIENTLY(pshm_heap_free_from(crash_here.arena, pshm_heap_root(root)));
}

static int alloc_small(void)
{
    return take(SUBJECT, SMALL);
}

static int alloc_large(void)
{
    return take(SUBJECT, LARGE);
}

static int free_it(void)
{
    return give(SUBJECT);
}

static int refused(void)
{
    int rc = take(SUBJECT, SIZE - SIZE / 4 - 4096);
    return rc == -ENOSPC ? 0 : rc ? rc : -EIO;
}

/* More than is free while empty spans are kept. */
static int alloc_larger(void)
{
    return take(SUBJECT, 5 * 4096);
}

/* In the manner of the directory, which allocates into words that hold something. */
static int alloc_and_free(void)
{
    int rc = alloc_small();
    return rc ? rc : free_it();
}

static int repair(void)
{
    return take(CRASH_ROOT, 48);
}

/* ---- before ---- */

static int others(unsigned count, uint64_t size)
{
    int rc = 0;
    for (unsigned i = 0; !rc && i < count; i++)
        rc = take(OTHERS + i, size);
    return rc;
}

/* The directory's table has its place. */
static int table(void)
{
    pshm_counter counter;
    bool created;
    int rc = CRASH_PATIENTLY(pshm_counter_init(&counter, crash_here.arena, "first", 5, true, &created));
    pshm_counter_fini(&counter);
    return rc;
}

static int one_other(void)
{
    return others(1, SMALL);
}

static int span_nearly_full(void)
{
    return others(SPAN - 1, SMALL);
}

static int subject_and_other(void)
{
    int rc = one_other();
    return rc ? rc : alloc_small();
}

/* The subject's is the last one of a span that is full. */
static int span_full(void)
{
    int rc = span_nearly_full();
    return rc ? rc : alloc_small();
}

/* The subject's is alone in a span, and another one is empty: when the subject's is freed, one span goes. */
static int spare_there(void)
{
    int rc = others(SPAN, SMALL);
    if (!rc)
        rc = alloc_small();
    for (unsigned i = 0; !rc && i < SPAN; i++)
        rc = give(OTHERS + i);
    return rc;
}

static int large_subject(void)
{
    int rc = one_other();
    return rc ? rc : alloc_large();
}

/* Empty spans of some classes, which are given back where pages run out; and little else. */
static int spares(void)
{
    static const uint64_t sizes[] = {16, 32, 64, 128, 256, SMALL, 2048};
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof sizes / sizeof *sizes; i++) {
        rc = take(OTHERS, sizes[i]);
        if (!rc)
            rc = give(OTHERS);
    }
    return rc;
}

static int (*step_before)(void);

static int prepare(void)
{
    int rc = table();
    return rc || !step_before ? rc : step_before();
}

/* ---- a lock that is biased ---- */

#define BIASED_ROOT 21u

static int take_often(unsigned pairs)
{
    int rc = 0;
    for (unsigned i = 0; !rc && i < pairs; i++) {
        rc = take(BIASED_ROOT, SMALL);
        if (!rc)
            rc = give(BIASED_ROOT);
    }
    return rc;
}

static bool is_biased(void)
{
    return ((const pshm_head *)(const void *)crash_here.bytes)->heap.lock.owner.word & PSHM_OWNER_BIASED;
}

static int be_biased(void)
{
    int rc = take_often(100);
    return rc || is_biased() ? rc : -EIO;
}

/* With the next pair it will be. */
static int be_nearly_biased(void)
{
    int rc = take_often(63);
    return rc || !is_biased() ? rc : -EIO;
}

static int leave(void)
{
    return pshm_participant_detach(crash_here.arena);
}

/* Another one, to whom it is biased, and who comes back. */
static int neighbour(void *context)
{
    (void)context;
    int rc = be_biased();
    if (rc)
        return crash_fail("neighbour: %s", pshm_error_name(rc));
    crash_noted->ready = 1;
    while (!crash_noted->go)
        usleep(100);
    rc = take(BIASED_ROOT, SMALL);
    if (!rc || rc == -EAGAIN)
        rc = give(BIASED_ROOT);
    return !rc || rc == -EAGAIN ? 0 : crash_fail("neighbour, later: %s", pshm_error_name(rc));
}

static void have_neighbour(void)
{
    pid_t pid = crash_spawn(neighbour, NULL);
    while (pid > 0 && !crash_noted->ready)
        usleep(100);
}

/* ---- after ---- */

/* What the block at the subject's root has to have in it. */
static const char *is_zero(uint64_t place)
{
    static unsigned char bytes[SIZE];
    uint64_t size = 0;
    int rc = pshm_heap_block_size(crash_here.arena, place, &size);
    if (!rc)
        rc = pshm_heap_read(crash_here.arena, place, bytes, size);
    if (rc)
        return crash_wrong("the block", rc);
    for (uint64_t i = 0; i < size; i++)
        if (bytes[i])
            return "a new block is not zero";
    memset(bytes, 0x55, size); /* for the next one to find */
    rc = pshm_heap_write(crash_here.arena, place, bytes, size);
    return rc ? crash_wrong("write", rc) : NULL;
}

/* Everything the pages can give is there: as large a block as there ever was can be had. */
static const char *can_be_had(const crash_facts *facts)
{
    pshm_arena_stats stats;
    int64_t pages = 0;
    int rc = pshm_arena_stats_of(crash_here.arena, &stats);
    for (uint64_t n = stats.heap / 4096; !rc && n && !pages; n--) {
        rc = take(SUBJECT, n * 4096);
        if (!rc)
            pages = (int64_t)n;
        else if (rc == -ENOSPC)
            rc = 0;
    }
    if (!rc)
        rc = free_it();
    if (rc)
        return crash_wrong("the largest block", rc);
    if (!facts->victim)
        *most = pages;
    return pages == *most ? NULL : "pages are lost: the largest block is smaller than it was";
}

static const char *settled(const crash_facts *facts, bool allocated)
{
    uint64_t place = 0;
    int rc = pshm_heap_read(crash_here.arena, pshm_heap_root(SUBJECT), &place, sizeof place);
    if (rc)
        return crash_wrong("root", rc);
    if (!facts->killed && !place == allocated)
        return allocated ? "allocated, and not there" : "freed, and there";
    const char *wrong = place && allocated ? is_zero(place) : NULL;
    if (wrong)
        return wrong;
    rc = free_it();
    if (!rc)
        rc = alloc_small();
    if (!rc)
        rc = free_it();
    if (!rc)
        rc = give(CRASH_ROOT);
    return rc ? crash_wrong("free, allocate, free", rc) : NULL;
}

static const char *is_allocated(const crash_facts *facts)
{
    return settled(facts, true);
}

static const char *is_freed(const crash_facts *facts)
{
    return settled(facts, false);
}

#define BOTH (CRASH_STATES | CRASH_STOP)
#define ALL (BOTH | CRASH_REPAIR)

static const crash_work works[] = {
    {"heap: allocate, first of a class", ALL, .operate = alloc_small, .verify = is_allocated},
    {"heap: allocate, in a span", BOTH, .prepare = one_other, .operate = alloc_small, .verify = is_allocated},
    {"heap: allocate, last of a span", ALL, .prepare = span_nearly_full, .operate = alloc_small,
     .verify = is_allocated},
    {"heap: allocate, pages of its own", ALL, .prepare = one_other, .operate = alloc_large, .verify = is_allocated},
    {"heap: allocate, kept spans make room", BOTH, .prepare = spares, .operate = alloc_larger, .verify = is_allocated},
    {"heap: allocate, no room", BOTH, .prepare = spares, .operate = refused, .verify = is_freed},
    {"heap: allocate and free", BOTH, .prepare = one_other, .operate = alloc_and_free, .verify = is_freed},
    {"heap: free, one of some", BOTH, .prepare = subject_and_other, .operate = free_it, .verify = is_freed},
    {"heap: free, one of a full span", BOTH, .prepare = span_full, .operate = free_it, .verify = is_freed},
    {"heap: free, last of a span", ALL, .prepare = alloc_small, .operate = free_it, .verify = is_freed},
    {"heap: free, a span goes", ALL, .prepare = spare_there, .operate = free_it, .verify = is_freed},
    {"heap: allocate, biased", ALL, .set_up = be_biased, .operate = alloc_small, .verify = is_allocated},
    {"heap: allocate and free, biased", BOTH, .prepare = one_other, .set_up = be_biased, .operate = alloc_and_free,
     .verify = is_freed},
    {"heap: free, biased", ALL, .prepare = alloc_small, .set_up = be_biased, .operate = free_it, .verify = is_freed},
    {"heap: allocate and free, be biased", BOTH, .set_up = be_nearly_biased, .operate = alloc_and_free,
     .verify = is_freed},
    {"participant: detach, biased", ALL, .set_up = be_biased, .operate = leave, .verify = is_freed},
    {"heap: allocate, biased to another", ALL, .reset = have_neighbour, .operate = alloc_small, .verify = is_allocated},
    {"heap: free, pages of its own", ALL, .prepare = large_subject, .operate = free_it, .verify = is_freed},
};

int main(int argc, char **argv)
{
    (void)argc;
    crash_init(argv);
    most = crash_share(sizeof *most);
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        crash_work work = works[i];
        step_before = work.prepare;
        work.prepare = prepare;
        work.repair = repair;
        work.finish = can_be_had;
        crash_work_run(&work, SIZE, PARTICIPANTS);
    }
    return crash_report();
}
