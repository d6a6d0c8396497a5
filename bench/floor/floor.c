/* SPDX-License-Identifier: MIT */
#include "floor.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

double floor_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double per_operation(double start, long n)
{
    return (floor_now() - start) / (double)n * 1e9;
}

static void *shared(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

double floor_atomic_add(long n)
{
    uint64_t *word = shared(4096);
    double start = floor_now();
    for (long i = 0; i < n; i++)
        __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
    double result = per_operation(start, n);
    munmap(word, 4096);
    return result;
}

double floor_mutex_pair(long n)
{
    pthread_mutex_t *mutex = shared(4096);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(mutex, &attributes);
    double start = floor_now();
    for (long i = 0; i < n; i++) {
        pthread_mutex_lock(mutex);
        pthread_mutex_unlock(mutex);
    }
    double result = per_operation(start, n);
    munmap(mutex, 4096);
    return result;
}

double floor_copy(long n, size_t size)
{
    char *to = shared(size), *from = malloc(size);
    memset(from, 1, size);
    double start = floor_now();
    for (long i = 0; i < n; i++) {
        memcpy(to, from, size);
        __asm__ volatile("" ::"r"(to) : "memory");
    }
    double result = per_operation(start, n);
    free(from);
    munmap(to, size);
    return result;
}

double floor_malloc_copy(long n, size_t size)
{
    char *from = shared(size);
    memset(from, 1, size);
    double start = floor_now();
    for (long i = 0; i < n; i++) {
        char *to = malloc(size);
        memcpy(to, from, size);
        __asm__ volatile("" ::"r"(to) : "memory");
        free(to);
    }
    double result = per_operation(start, n);
    munmap(from, size);
    return result;
}

double floor_create(long n)
{
    double start = floor_now();
    for (long i = 0; i < n; i++) {
        int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0 || fallocate(fd, 0, 0, 4096) || linkat(fd, "", AT_FDCWD, "/dev/shm/bench-floor", AT_EMPTY_PATH))
            return -1;
        void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        munmap(p, 4096);
        close(fd);
        unlink("/dev/shm/bench-floor");
    }
    return per_operation(start, n);
}

double floor_attach(long n, const char *path)
{
    double start = floor_now();
    for (long i = 0; i < n; i++) {
        struct stat st;
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || fstat(fd, &st))
            return -1;
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        munmap(p, (size_t)st.st_size);
        close(fd);
    }
    return per_operation(start, n);
}
