/* SPDX-License-Identifier: MIT
 *
 * Permits in bytes that cannot be: wrong answers or codes, and nothing worse; and that what is right again works again.
 */
#include "helper_owner.h"

#include <polyshm/permits.h>

#include <stdlib.h>

#include "core/attachment.h"
#include "core/owner.h"
#include "core/waiting.h"

/* As csrc/sync/permits.c has it. */
typedef struct bytes {
    uint32_t sleepers, changes;
    pshm_owner guard;
    uint32_t total, free;
    uint64_t mark[2];
    uint64_t unused[2];
} bytes;

#define COUNT(n) ((uint64_t)(n) << PSHM_HELD_DEPTH_SHIFT)

static pshm_permits permits_of(helper_world *world, int64_t total)
{
    pshm_permits permits;
    assert_rc(pshm_permits_init(&permits, world->arena, "permits", 7, true, total, NULL), 0);
    return permits;
}

static bytes *bytes_of(const pshm_permits *permits)
{
    return permits->object.body;
}

static uint32_t available(pshm_permits *permits)
{
    uint32_t found = 99;
    assert_rc(pshm_permits_available(permits, &found), 0);
    return found;
}

static void test_total(helper_world *world)
{
    pshm_permits p = permits_of(world, 3), q;
    static const uint32_t wrong[] = {0, 65536, UINT32_MAX};
    pshm_watch words = {.count = 0};
    for (int i = 0; i < 3; i++) {
        bytes_of(&p)->total = wrong[i];
        assert_rc(pshm_permits_init(&q, world->arena, "permits", 7, true, 3, NULL), PSHM_ECORRUPT);
        assert_rc(pshm_permits_try(&p, 3), 0);
        assert_rc(pshm_permits_release(&p, 3), 0);
        int rc = p.object.watch(&p.object, 1, &words);
        assert_true(rc == 1 || rc == PSHM_ETOOMANY);
    }
    bytes_of(&p)->total = 3;
    pshm_permits_fini(&p);
}

/* `free` says what it likes: too much is not believed, too little is counted anew. */
static void test_hint(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    static const uint32_t wrong[] = {0, 1, 4, UINT32_MAX};
    for (int i = 0; i < 4; i++) {
        bytes_of(&p)->free = wrong[i];
        assert_rc(pshm_permits_try(&p, 2), 0);
        assert_int_equal(bytes_of(&p)->free, 1);
        bytes_of(&p)->free = wrong[i];
        assert_rc(pshm_permits_release(&p, 2), 0);
        assert_true(bytes_of(&p)->free <= 3);
        assert_int_equal(available(&p), 3);
    }
    pshm_permits_fini(&p);
}

/* Marks that are huge, and whose sum is: nothing is free until they are gone. */
static void test_marks(helper_world *world)
{
    pshm_permits p = permits_of(world, 65535);
    pshm_member *m;
    assert_rc(pshm_permits_try(&p, 1), 0);
    assert_rc(pshm_member_of(world->arena->attachment, &m), 0);
    int own = pshm_member_holds(m, p.place);
    assert_true(own >= 0);
    for (uint32_t i = 0; i < world->arena->participants; i++) {
        pshm_slot *slot = m->slot - m->index + i;
        for (int k = 0; k < (int)PSHM_HELD; k++)
            if (i != m->index || k != own)
                pshm_store(&slot->held[k], p.place | COUNT(65535));
    }
    bytes_of(&p)->free = 0;
    assert_int_equal(available(&p), 0);
    assert_rc(pshm_permits_try(&p, 1), -EBUSY);
    assert_rc(pshm_permits_acquire(&p, 1, PSHM_FOREVER), -EINTR);
    for (uint32_t i = 0; i < world->arena->participants; i++) {
        pshm_slot *slot = m->slot - m->index + i;
        for (int k = 0; k < (int)PSHM_HELD; k++)
            if (i != m->index || k != own)
                pshm_store(&slot->held[k], 0);
    }
    /* Its own. */
    pshm_store(&m->slot->held[own], p.place | COUNT(65535));
    assert_rc(pshm_permits_try(&p, 1), -EBUSY);
    assert_rc(pshm_permits_acquire(&p, 1, PSHM_FOREVER), PSHM_ESELFWAIT);
    assert_int_equal(available(&p), 0);
    assert_rc(pshm_permits_release(&p, 65534), 0);
    pshm_store(&m->slot->held[own], p.place); /* none, though it has one */
    assert_rc(pshm_permits_release(&p, 1), PSHM_ENOTOWNER);
    assert_rc(pshm_permits_try(&p, 65535), 0);
    assert_rc(pshm_permits_release(&p, 65535), 0);
    assert_int_equal(available(&p), 65535);
    pshm_permits_fini(&p);
}

/* Bytes of the body at random, while it is used: any codes, in few slices. */
static void test_any_bytes(helper_world *world)
{
    pshm_permits p = permits_of(world, 3);
    const bytes sound = *bytes_of(&p);
    srand(5);
    for (int i = 0; i < 3000; i++) {
        unsigned char *at = (unsigned char *)p.object.body + (unsigned)rand() % sizeof(bytes);
        uint32_t count;
        __atomic_store_n(at, (unsigned char)rand(), __ATOMIC_RELAXED);
        /* A guard that seems to be somebody's who lives would be waited for, a slice each time. */
        if (i % 300)
            pshm_store(&bytes_of(&p)->guard.word, 0);
        (void)pshm_permits_try(&p, 1 + rand() % 3);
        (void)pshm_permits_acquire(&p, 1, pshm_deadline(1000));
        (void)pshm_permits_available(&p, &count);
        assert_rc(pshm_permits_held(&p, &count), 0);
        assert_true(count <= 3);
        if (count)
            assert_rc(pshm_permits_release(&p, count), 0);
    }
    *bytes_of(&p) = sound;
    assert_rc(pshm_permits_try(&p, 3), 0);
    assert_rc(pshm_permits_release(&p, 3), 0);
    pshm_permits_fini(&p);
}

#define EACH_KIND(function)                                                                                            \
    static void each_##function(void **state)                                                                          \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        helper_each_kind(function);                                                                                    \
    }

EACH_KIND(test_total)
EACH_KIND(test_hint)
EACH_KIND(test_marks)
EACH_KIND(test_any_bytes)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_test_total),
        TEST(each_test_hint),
        TEST(each_test_marks),
        TEST(each_test_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
