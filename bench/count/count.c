/* SPDX-License-Identifier: MIT
 *
 * count OPERATION TIMES: does one operation of the core so often, for callgrind to count.
 */
#include <polyshm/atomic.h>
#include <polyshm/mutex.h>
#include <stdlib.h>
#include <string.h>

static pshm_segment *segment;
static pshm_segment_mutex mutex;
static char bytes[64];

static void empty(void)
{
    __asm__ volatile("");
}

static void atomic_add(void)
{
    pshm_atomic_add64(segment->base, 1);
}

static void mutex_pair(void)
{
    pshm_death death;
    pshm_segment_mutex_try(&mutex, &death);
    pshm_segment_mutex_release(&mutex);
}

static void segment_read(void)
{
    pshm_segment_read(segment, 4096, bytes, sizeof bytes);
}

static void segment_write(void)
{
    pshm_segment_write(segment, 4096, bytes, sizeof bytes);
}

static const struct {
    const char *name;
    void (*run)(void);
} operations[] = {
    {"empty", empty},
    {"atomic.add", atomic_add},
    {"mutex.acquire+release", mutex_pair},
    {"segment.read 64 B", segment_read},
    {"segment.write 64 B", segment_write},
};

int main(int argc, char **argv)
{
    pshm_options options = PSHM_OPTIONS_INIT;
    options.size = 1 << 16;
    options.serial = true;
    if (argc != 3 || pshm_segment_open("anon:", 5, &options, &segment) ||
        pshm_segment_mutex_init(&mutex, segment, 64, true, PSHM_RECURSIVE_NO))
        return 2;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        if (strcmp(operations[i].name, argv[1]) != 0)
            continue;
        for (long n = atol(argv[2]); n > 0; n--)
            operations[i].run();
        return 0;
    }
    return 2;
}
