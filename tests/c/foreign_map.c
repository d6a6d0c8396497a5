/* SPDX-License-Identifier: MIT
 *
 * A program that knows nothing of polyshm and uses a segment by the system's own calls:
 *
 *   foreign_map KIND NAME read OFFSET LENGTH     prints the bytes
 *   foreign_map KIND NAME write OFFSET TEXT      writes them
 *   foreign_map KIND NAME init OFFSET WHAT       pthread_mutex_init: WHAT is any of the letters s (process-shared),
 *                                                r (robust), n (normal), e (error-checking), c (recursive), or -
 *   foreign_map KIND NAME lock OFFSET COUNTER    pthread_mutex_lock, adds 1 to the 64-bit number at COUNTER, unlocks;
 *                                                prints "locked", or the error's name where it is EOWNERDEAD (after
 *                                                pthread_mutex_consistent) or ENOTRECOVERABLE
 *   foreign_map KIND NAME abandon OFFSET HOW     locks, and ends: HOW is die (SIGKILL), or giveup: meets a death and
 *                                                unlocks without pthread_mutex_consistent
 *
 * KIND NAME: posix /name, file path, sysv 0x1234 (a key), id 42, fd 7 (inherited). Ends with 0, or says why and 1.
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
static size_t size;

static int failed(const char *what, int error)
{
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    return 1;
}

static int map(const char *kind, const char *name)
{
    if (strcmp(kind, "sysv") == 0 || strcmp(kind, "id") == 0) {
        struct shmid_ds ds;
        int id = strcmp(kind, "id") == 0 ? atoi(name) : shmget((key_t)strtoul(name, NULL, 0), 0, 0);
        if (id < 0 || shmctl(id, IPC_STAT, &ds))
            return failed("shmget", errno);
        base = shmat(id, NULL, 0);
        size = ds.shm_segsz;
        return base == (void *)-1 ? failed("shmat", errno) : 0;
    }
    int fd = strcmp(kind, "fd") == 0      ? atoi(name)
             : strcmp(kind, "posix") == 0 ? shm_open(name, O_RDWR, 0)
                                          : open(name, O_RDWR);
    struct stat st;
    if (fd < 0 || fstat(fd, &st))
        return failed(name, errno);
    size = (size_t)st.st_size;
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return base == MAP_FAILED ? failed("mmap", errno) : 0;
}

static int init(pthread_mutex_t *mutex, const char *what)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    if (strchr(what, 's'))
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (strchr(what, 'r'))
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    static const struct {
        char letter;
        int type;
    } types[] = {{'n', PTHREAD_MUTEX_NORMAL}, {'e', PTHREAD_MUTEX_ERRORCHECK}, {'c', PTHREAD_MUTEX_RECURSIVE}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strchr(what, types[i].letter))
            pthread_mutexattr_settype(&attributes, types[i].type);
    int error = pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return error ? failed("pthread_mutex_init", error) : 0;
}

static int lock(pthread_mutex_t *mutex, uint64_t counter)
{
    int error = pthread_mutex_lock(mutex);
    if (error == ENOTRECOVERABLE)
        return puts("ENOTRECOVERABLE") < 0;
    if (error == EOWNERDEAD) {
        error = pthread_mutex_consistent(mutex);
        puts("EOWNERDEAD");
    } else if (!error) {
        puts("locked");
    }
    if (error)
        return failed("pthread_mutex_lock", error);
    uint64_t number;
    memcpy(&number, base + counter, sizeof number);
    number++;
    memcpy(base + counter, &number, sizeof number);
    error = pthread_mutex_unlock(mutex);
    return error ? failed("pthread_mutex_unlock", error) : 0;
}

static int abandon(pthread_mutex_t *mutex, const char *how)
{
    int error = pthread_mutex_lock(mutex);
    if (strcmp(how, "giveup") == 0)
        return error != EOWNERDEAD || pthread_mutex_unlock(mutex);
    if (error)
        return failed("pthread_mutex_lock", error);
    return raise(SIGKILL);
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: foreign_map KIND NAME read|write|init|lock|abandon OFFSET ARGUMENT\n");
        return 2;
    }
    const char *verb = argv[3], *argument = argv[5];
    size_t offset = strtoul(argv[4], NULL, 0), number = strtoul(argument, NULL, 0);
    if (map(argv[1], argv[2]))
        return 1;
    size_t need = strcmp(verb, "read") == 0    ? number
                  : strcmp(verb, "write") == 0 ? strlen(argument)
                                               : sizeof(pthread_mutex_t);
    if (offset > size || need > size - offset)
        return failed("offset", ERANGE);
    pthread_mutex_t *mutex = (pthread_mutex_t *)(void *)(base + offset);
    if (strcmp(verb, "read") == 0)
        return fwrite(base + offset, 1, number, stdout) != number;
    if (strcmp(verb, "write") == 0)
        memcpy(base + offset, argument, strlen(argument));
    else if (strcmp(verb, "init") == 0)
        return init(mutex, argument);
    else if (strcmp(verb, "lock") == 0)
        return number > size - sizeof number ? failed("counter", ERANGE) : lock(mutex, number);
    else if (strcmp(verb, "abandon") == 0)
        return abandon(mutex, argument);
    else
        return failed(verb, EINVAL);
    return 0;
}
