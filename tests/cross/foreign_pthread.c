/* SPDX-License-Identifier: MIT
 *
 * A program that knows nothing of polyshm: it maps a file (/dev/shm/name) or attaches a System V segment by key, and
 * uses the pthread mutex in it. `foreign_pthread PATH OFFSET` or `foreign_pthread KEY OFFSET`, then commands on stdin,
 * one a line, each answered by "ok ...", or by the name of what pthread said.
 *
 *   init                 a robust, process-shared mutex
 *   acquire              pthread_mutex_lock
 *   try                  pthread_mutex_trylock -> 1 or 0
 *   consistent, release  pthread_mutex_consistent, pthread_mutex_unlock
 *   incloop AT COUNT     COUNT times: lock, read the 64-bit number at AT, write it plus one, unlock
 *   exit, die            ends, in order or by SIGKILL; what it holds it holds
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned char *base;
static pthread_mutex_t *mutex;

static void fatal(const char *what)
{
    perror(what);
    exit(1);
}

static void map(const char *place)
{
    if (!strncmp(place, "0x", 2)) {
        int id = shmget((key_t)strtoul(place, NULL, 0), 0, 0);
        base = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
        if (base == (void *)-1)
            fatal(place);
        return;
    }
    struct stat status;
    int fd = open(place, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status))
        fatal(place);
    base = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        fatal("mmap");
    close(fd);
}

static int init(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    int rc = pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return rc;
}

static int incloop(unsigned long at, unsigned long count)
{
    volatile uint64_t *number = (volatile uint64_t *)(void *)(base + at);
    int rc = 0;
    for (; count && !rc; count--) {
        rc = pthread_mutex_lock(mutex);
        if (rc)
            break;
        *number = *number + 1;
        rc = pthread_mutex_unlock(mutex);
    }
    return rc;
}

static int run(const char *verb, unsigned long first, unsigned long second)
{
    if (!strcmp(verb, "init"))
        return init();
    if (!strcmp(verb, "acquire"))
        return pthread_mutex_lock(mutex);
    if (!strcmp(verb, "try"))
        return pthread_mutex_trylock(mutex);
    if (!strcmp(verb, "consistent"))
        return pthread_mutex_consistent(mutex);
    if (!strcmp(verb, "release"))
        return pthread_mutex_unlock(mutex);
    if (!strcmp(verb, "incloop"))
        return incloop(first, second);
    if (!strcmp(verb, "exit"))
        exit(0);
    if (!strcmp(verb, "die"))
        raise(SIGKILL);
    return EINVAL;
}

int main(int argc, char **argv)
{
    char line[256], verb[32];
    if (argc != 3)
        return 2;
    map(argv[1]);
    mutex = (pthread_mutex_t *)(void *)(base + strtoul(argv[2], NULL, 0));
    while (fgets(line, sizeof line, stdin)) {
        unsigned long first = 0, second = 0;
        if (sscanf(line, "%31s %lu %lu", verb, &first, &second) < 1)
            continue;
        int rc = run(verb, first, second);
        if (rc == 0)
            puts("ok");
        else
            printf("%s\n", rc == EOWNERDEAD ? "EOWNERDEAD" : rc == EBUSY ? "EBUSY" : strerror(rc));
        fflush(stdout);
    }
    return 0;
}
