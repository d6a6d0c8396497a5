/* SPDX-License-Identifier: MIT */
#include "helper.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ENTRIES 4096
#define ENTRY 160

/* Lines of text that describe what there is. */
typedef struct list {
    size_t count;
    char at[ENTRIES][ENTRY];
} list;

/* Static: a snapshot must not change what it counts. */
static list names_before, names_now, own_before, own_now;

static void add(list *l, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (l->count < ENTRIES)
        vsnprintf(l->at[l->count++], ENTRY, format, arguments);
    va_end(arguments);
}

static bool has(const list *l, const char *text)
{
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->at[i], text) == 0)
            return true;
    return false;
}

/* The children of this program, the last ones. */
static pid_t children[1024];
static unsigned children_count;

static pid_t note_child(pid_t pid)
{
    if (pid > 0)
        children[children_count++ % (sizeof children / sizeof *children)] = pid;
    return pid;
}

static bool is_ours(pid_t pid)
{
    for (size_t i = 0; i < sizeof children / sizeof *children; i++)
        if (children[i] == pid)
            return true;
    return pid == getpid();
}

/* Names in /dev/shm and /tmp, and System V ids: what nothing else would remove. Other programs have theirs: only names
 * with this program's pid count, drafts, and ids that this program or a child of it has made. */
static void look_for_names(list *l)
{
    static const char *const places[] = {"/dev/shm", "/tmp"};
    char prefix[32];
    snprintf(prefix, sizeof prefix, "polyshm-c-%d-", (int)getpid());
    l->count = 0;
    for (int i = 0; i < 2; i++) {
        DIR *directory = opendir(places[i]);
        for (struct dirent *e; directory && (e = readdir(directory));)
            if (strncmp(e->d_name, prefix, strlen(prefix)) == 0 || strncmp(e->d_name, ".polyshm-", 9) == 0)
                add(l, "%s/%.*s", places[i], 120, e->d_name);
        if (directory)
            closedir(directory);
    }
    FILE *table = fopen("/proc/sysvipc/shm", "re");
    char line[512];
    while (table && fgets(line, sizeof line, table)) {
        int id, creator;
        if (sscanf(line, "%*d %d %*o %*d %d", &id, &creator) == 2 && is_ours(creator))
            add(l, "sysv:id=%d", id);
    }
    if (table)
        fclose(table);
}

static bool is_segment(const char *what)
{
    static const char *const signs[] = {"/dev/shm/", "/memfd:", "/SYSV", "/dev/zero", "/tmp/polyshm-c-"};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (strncmp(what, signs[i], strlen(signs[i])) == 0)
            return true;
    return false;
}

/* Descriptors and mappings of segments, and whether there are children. */
static void look_at_self(list *l)
{
    char path[300], link[ENTRY], line[ENTRY + 100];
    int status;
    l->count = 0;
    DIR *directory = opendir("/proc/self/fd");
    for (struct dirent *e; directory && (e = readdir(directory));) {
        snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
        ssize_t length = readlink(path, link, sizeof link - 1);
        if (length > 0 && (link[length] = '\0', is_segment(link)))
            add(l, "descriptor %s of %.*s", e->d_name, 120, link);
    }
    if (directory)
        closedir(directory);
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        const char *name = strchr(line, '/');
        line[strcspn(line, "\n")] = '\0';
        if (name && is_segment(name))
            add(l, "mapping %.*s", 140, line);
    }
    if (maps)
        fclose(maps);
    if (waitpid(-1, &status, WNOHANG) >= 0)
        add(l, "a child");
}

int helper_before(void **state)
{
    (void)state;
    look_for_names(&names_before);
    look_at_self(&own_before);
    return 0;
}

static int report(const list *now, const list *before, bool say)
{
    int left = 0;
    for (size_t i = 0; i < now->count; i++) {
        if (has(before, now->at[i]))
            continue;
        if (say && left < 5)
            print_error("left behind: %s\n", now->at[i]);
        left++;
    }
    return left;
}

int helper_after(void **state)
{
    const struct timespec pause = {0, 10000000};
    (void)state;
    look_at_self(&own_now);
    int left = report(&own_now, &own_before, true);
    for (int i = 0; i < 100; i++) { /* other programs come and go */
        look_for_names(&names_now);
        if (!report(&names_now, &names_before, false))
            break;
        nanosleep(&pause, NULL);
    }
    left += report(&names_now, &names_before, true);
    return left;
}

void helper_assert_rc(int rc, int code, const char *call, const char *file, int line)
{
    if (rc != code) {
        print_error("%s: %s (%d), expected %s (%d)\n", call, rc < 0 ? pshm_error_name(rc) : "result", rc,
                    code < 0 ? pshm_error_name(code) : "result", code);
        _fail(file, line);
    }
}

void helper_die(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: in a child: %s (errno %s)\n", file, line, condition, strerror(errno));
    _exit(1);
}

static struct sigaction ours;

/* Before main, and so before cmocka. */
__attribute__((constructor)) static void install_handler(void)
{
    pshm_segment *segment = NULL;
    pshm_options options = helper_sized(1);
    if (helper_open("anon:", &options, &segment) == 0)
        helper_end(segment);
    sigaction(SIGBUS, NULL, &ours);
}

void helper_sigbus(void)
{
    sigaction(SIGBUS, &ours, NULL);
}

static unsigned counter;

const char *helper_posix(void)
{
    static char name[64];
    snprintf(name, sizeof name, "posix:/polyshm-c-%d-%u", (int)getpid(), counter++);
    return name;
}

const char *helper_file(void)
{
    static char name[64];
    snprintf(name, sizeof name, "file:/tmp/polyshm-c-%d-%u", (int)getpid(), counter++);
    return name;
}

int helper_open(const char *address, const pshm_options *options, pshm_segment **out)
{
    return pshm_segment_open(address, strlen(address), options, out);
}

pshm_segment *helper_segment(const char *address, const pshm_options *options)
{
    pshm_segment *segment = NULL;
    int rc = helper_open(address, options, &segment);
    if (rc)
        fail_msg("%s: %s", address, pshm_error_name(rc));
    return segment;
}

pshm_options helper_sized(uint64_t size)
{
    pshm_options options = PSHM_OPTIONS_INIT;
    options.size = size;
    options.create = true;
    return options;
}

void helper_end(pshm_segment *segment)
{
    pshm_segment_close(segment);
    pshm_segment_release(segment);
}

void helper_end_unlink(pshm_segment *segment)
{
    int rc = pshm_segment_unlink(segment);
    helper_end(segment);
    assert_rc(rc, 0);
}

pid_t helper_fork(helper_child *function, void *context)
{
    fflush(stdout);
    pid_t pid = note_child(fork());
    if (pid == 0)
        _exit(function(context));
    assert_true(pid > 0);
    return pid;
}

int helper_wait(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

void helper_in_child(helper_child *function, void *context)
{
    assert_int_equal(helper_wait(helper_fork(function, context)), 0);
}

const char *helper_program(const char *name)
{
    static char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    const char *build = getenv("POLYSHM_BUILD");
    if (build) { /* under valgrind the executable is valgrind's own */
        snprintf(path, sizeof path, "%s/tests/%s", build, name);
    } else if (length > 0) {
        path[length] = '\0';
        strcpy(strrchr(path, '/') + 1, name);
    }
    return path;
}

int helper_run(char *output, size_t size, const char *program, ...)
{
    char *words[16] = {(char *)(uintptr_t)program};
    int pipes[2];
    va_list arguments;
    va_start(arguments, program);
    for (int i = 1; i < 15 && (words[i] = va_arg(arguments, char *)); i++)
        continue;
    va_end(arguments);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    fflush(stdout);
    pid_t pid = note_child(fork());
    if (pid == 0) {
        dup2(pipes[1], 1);
        execv(program, words);
        _exit(127);
    }
    close(pipes[1]);
    size_t filled = 0;
    char rest[256];
    for (;;) {
        bool room = output && filled + 1 < size;
        ssize_t got = room ? read(pipes[0], output + filled, size - 1 - filled) : read(pipes[0], rest, sizeof rest);
        if (got <= 0)
            break;
        filled += room ? (size_t)got : 0;
    }
    if (output && size)
        output[filled] = '\0';
    close(pipes[0]);
    return helper_wait(pid);
}

bool helper_valgrind_lacks(const char *what)
{
    const char *preload = getenv("LD_PRELOAD");
    if (!preload || !strstr(preload, "vgpreload"))
        return false;
    print_message("left out, valgrind lacks: %s\n", what);
    return true;
}

void helper_until_asleep(pid_t pid)
{
    const struct timespec pause = {0, 500000};
    char path[40], line[256];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    for (int i = 0; i < 4000; i++) {
        FILE *file = fopen(path, "re");
        if (!file)
            return;
        bool read = fgets(line, sizeof line, file) != NULL;
        fclose(file);
        const char *name_end = read ? strrchr(line, ')') : NULL;
        if (name_end && (name_end[2] == 'S' || name_end[2] == 'Z'))
            return;
        nanosleep(&pause, NULL);
    }
}

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (write(fd, text, strlen(text)) < 0)
            errno = 0;
        close(fd);
    }
}

int helper_unshare(int flags)
{
    if (geteuid() != 0) {
        char map[64];
        unsigned uid = geteuid(), gid = getegid();
        if (unshare(CLONE_NEWUSER))
            return 1;
        write_text("/proc/self/setgroups", "deny");
        snprintf(map, sizeof map, "0 %u 1", uid);
        write_text("/proc/self/uid_map", map);
        snprintf(map, sizeof map, "0 %u 1", gid);
        write_text("/proc/self/gid_map", map);
    }
    if (unshare(flags))
        return 1;
    return (flags & CLONE_NEWNS) && mount("none", "/", "none", MS_REC | MS_PRIVATE, "");
}

void helper_in_namespace(helper_child *function, const char *why)
{
    int code = helper_wait(helper_fork(function, NULL));
    if (code == HELPER_NOT_ALLOWED) {
        print_message("skipped: %s\n", why);
        skip();
    }
    assert_int_equal(code, 0);
}

void *helper_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

void helper_memory_end(void *memory, size_t size)
{
    munmap(memory, size);
}
