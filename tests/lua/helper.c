/* SPDX-License-Identifier: MIT
 *
 * What the Lua tests need of the system and Lua does not have: processes, signals, limits, files cut short, and a
 * mutex that a program without polyshm made. A test helper, not part of the library.
 *
 * Functions return what they are asked for, or raise with the name of the call and errno's text.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

int luaopen_helper(lua_State *L);

static int failed(lua_State *L, const char *call)
{
    return luaL_error(L, "%s: %s", call, strerror(errno));
}

static int done(lua_State *L, const char *call, long result)
{
    if (result < 0)
        return failed(L, call);
    lua_pushinteger(L, result);
    return 1;
}

/* fork() -> pid, 0 in the child */
static int h_fork(lua_State *L)
{
    fflush(NULL);
    return done(L, "fork", fork());
}

/* exit(code): leaves a child at once, without finalizers and without flushing what the parent has in its buffers. */
static int h_exit(lua_State *L)
{
    _exit((int)luaL_optinteger(L, 1, 0));
}

/* kill(pid, signal) */
static int h_kill(lua_State *L)
{
    return done(L, "kill", kill((pid_t)luaL_checkinteger(L, 1), (int)luaL_checkinteger(L, 2)));
}

/* raise(signal) */
static int h_raise(lua_State *L)
{
    return done(L, "raise", raise((int)luaL_checkinteger(L, 1)));
}

/* waitpid(pid, nohang) -> "exit" | "signal", number; nothing while it runs, with nohang */
static int h_waitpid(lua_State *L)
{
    int status;
    pid_t pid;
    do
        pid = waitpid((pid_t)luaL_checkinteger(L, 1), &status, lua_toboolean(L, 2) ? WNOHANG : 0);
    while (pid < 0 && errno == EINTR);
    if (pid < 0)
        return failed(L, "waitpid");
    if (!pid)
        return 0;
    lua_pushstring(L, WIFEXITED(status) ? "exit" : "signal");
    lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return 2;
}

/* getpid() -> pid */
static int h_getpid(lua_State *L)
{
    lua_pushinteger(L, getpid());
    return 1;
}

/* getuid() -> uid, gid */
static int h_getuid(lua_State *L)
{
    lua_pushinteger(L, geteuid());
    lua_pushinteger(L, getegid());
    return 2;
}

/* setuid(uid): for a child that is to have no rights */
static int h_setuid(lua_State *L)
{
    return done(L, "setuid", setuid((uid_t)luaL_checkinteger(L, 1)));
}

/* exec(program, arguments...): never returns */
static int h_exec(lua_State *L)
{
    int n = lua_gettop(L);
    char **argv = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *argv, 0);
    for (int i = 0; i < n; i++)
        argv[i] = (char *)(uintptr_t)luaL_checkstring(L, i + 1);
    argv[n] = NULL;
    execvp(argv[0], argv);
    return failed(L, "exec");
}

/* sleep(seconds): to the end, whatever signals come */
static int h_sleep(lua_State *L)
{
    double seconds = luaL_checknumber(L, 1);
    struct timespec rest = {.tv_sec = (time_t)seconds};
    rest.tv_nsec = (long)((seconds - (double)rest.tv_sec) * 1e9);
    while (nanosleep(&rest, &rest) < 0 && errno == EINTR)
        ;
    return 0;
}

/* readable(fd, seconds) -> boolean */
static int h_readable(lua_State *L)
{
    struct pollfd poller = {(int)luaL_checkinteger(L, 1), POLLIN, 0};
    lua_pushboolean(L, poll(&poller, 1, (int)(luaL_checknumber(L, 2) * 1000)) == 1 && (poller.revents & POLLIN));
    return 1;
}

/* now() -> seconds on the monotonic clock */
static int h_now(lua_State *L)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9);
    return 1;
}

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
}

/* alarm(seconds, interval): SIGALRM, caught and counted, once or every `interval` seconds; 0 ends it. -> count so far */
static int h_alarm(lua_State *L)
{
    double times[2] = {luaL_checknumber(L, 1), luaL_optnumber(L, 2, 0)};
    struct timeval at[2];
    struct sigaction action = {.sa_handler = on_alarm};
    for (int i = 0; i < 2; i++) {
        at[i].tv_sec = (time_t)times[i];
        at[i].tv_usec = (suseconds_t)((times[i] - (double)at[i].tv_sec) * 1e6);
    }
    sigaction(SIGALRM, &action, NULL);
    struct itimerval timer = {.it_value = at[0], .it_interval = at[1]};
    if (setitimer(ITIMER_REAL, &timer, NULL))
        return failed(L, "setitimer");
    lua_pushinteger(L, alarms);
    return 1;
}

/* truncate(path, size) */
static int h_truncate(lua_State *L)
{
    return done(L, "truncate", truncate(luaL_checkstring(L, 1), (off_t)luaL_checkinteger(L, 2)));
}

/* filesize(path) -> bytes, permissions */
static int h_filesize(lua_State *L)
{
    struct stat status;
    if (stat(luaL_checkstring(L, 1), &status))
        return failed(L, "stat");
    lua_pushinteger(L, status.st_size);
    lua_pushinteger(L, status.st_mode & 07777);
    return 2;
}

/* open(path, writable) -> descriptor */
static int h_open(lua_State *L)
{
    return done(L, "open", open(luaL_checkstring(L, 1), (lua_toboolean(L, 2) ? O_RDWR : O_RDONLY) | O_CLOEXEC));
}

/* close(descriptor) */
static int h_close(lua_State *L)
{
    return done(L, "close", close((int)luaL_checkinteger(L, 1)));
}

/* cloexec(descriptor) -> boolean */
static int h_cloexec(lua_State *L)
{
    int flags = fcntl((int)luaL_checkinteger(L, 1), F_GETFD);
    if (flags < 0)
        return failed(L, "fcntl");
    lua_pushboolean(L, flags & FD_CLOEXEC);
    return 1;
}

/* umask(mode) -> the one before */
static int h_umask(lua_State *L)
{
    lua_pushinteger(L, umask((mode_t)luaL_checkinteger(L, 1)));
    return 1;
}

/* rlimit(name, soft) -> the soft limit before; "memlock", "nofile" or "fsize". nil: for ever. */
static int h_rlimit(lua_State *L)
{
    static const char *const names[] = {"memlock", "nofile", "fsize", NULL};
    static const int resources[] = {RLIMIT_MEMLOCK, RLIMIT_NOFILE, RLIMIT_FSIZE};
    int resource = resources[luaL_checkoption(L, 1, NULL, names)];
    struct rlimit limit;
    if (getrlimit(resource, &limit))
        return failed(L, "getrlimit");
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = lua_isnoneornil(L, 2) ? limit.rlim_max : (rlim_t)luaL_checkinteger(L, 2);
    if (setrlimit(resource, &limit))
        return failed(L, "setrlimit");
    lua_pushinteger(L, (lua_Integer)before);
    return 1;
}

static pthread_mutex_t *map_mutex(lua_State *L)
{
    int fd = open(luaL_checkstring(L, 1), O_RDWR | O_CLOEXEC);
    lua_Integer offset = luaL_checkinteger(L, 2);
    struct stat status;
    if (fd < 0 || fstat(fd, &status))
        failed(L, "open");
    void *map = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        failed(L, "mmap");
    close(fd);
    return (pthread_mutex_t *)(void *)((char *)map + offset);
}

/* foreign_mutex(path, offset, kind): makes a pthread mutex in a file as a program without polyshm would, process-shared
 * and, unless `kind` is "fragile", robust. The file stays mapped. */
static int h_foreign_mutex(lua_State *L)
{
    static const char *const kinds[] = {"robust", "fragile", NULL};
    int kind = luaL_checkoption(L, 3, "robust", kinds);
    pthread_mutex_t *mutex = map_mutex(L);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (kind == 0)
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return 0;
}

/* foreign_lock(path, offset, verb) -> errno; "lock", "try" or "unlock" by pthread alone. The file stays mapped. */
static int h_foreign_lock(lua_State *L)
{
    static const char *const verbs[] = {"lock", "try", "unlock", NULL};
    static int (*const calls[])(pthread_mutex_t *) = {pthread_mutex_lock, pthread_mutex_trylock, pthread_mutex_unlock};
    static pthread_mutex_t *held; /* stays mapped: the thread's list of robust mutexes goes through it */
    int verb = luaL_checkoption(L, 3, NULL, verbs);
    pthread_mutex_t *mutex = verb == 2 && held ? held : map_mutex(L);
    int rc = calls[verb](mutex);
    held = verb == 2 ? NULL : rc ? held : mutex;
    lua_pushinteger(L, rc);
    return 1;
}

/* An allocator that has nothing any more after `left` more blocks, where that is not negative. */
static void *scarce(void *data, void *block, size_t old_size, size_t size)
{
    long *left = data;
    if (!size) {
        free(block);
        return NULL;
    }
    if (*left >= 0 && (!block || size > old_size)) {
        if (!*left)
            return NULL;
        --*left;
    }
    return realloc(block, size);
}

/* scarce(source, blocks) -> ok, message: in a Lua state of its own, runs `source`, which returns two functions; calls
 * the first with no more than so many blocks of memory left, and then, with memory, the second, which must not fail. */
static int h_scarce(lua_State *L)
{
    const char *source = luaL_checkstring(L, 1);
    long blocks = (long)luaL_checkinteger(L, 2), left = -1;
    lua_State *S = lua_newstate(scarce, &left);
    luaL_openlibs(S);
    if (luaL_dostring(S, source)) {
        lua_pushstring(L, lua_tostring(S, -1));
        lua_close(S);
        return lua_error(L);
    }
    lua_pushvalue(S, -2);
    left = blocks;
    int status = lua_pcall(S, 0, 0, 0);
    left = -1;
    lua_pushboolean(L, status == LUA_OK);
    lua_pushstring(L, status == LUA_OK ? "" : luaL_tolstring(S, -1, NULL));
    lua_settop(S, 2);
    lua_remove(S, 1);
    if (lua_pcall(S, 0, 0, 0)) {
        lua_pushstring(L, lua_tostring(S, -1));
        lua_close(S);
        return lua_error(L);
    }
    lua_close(S);
    return 2;
}

int luaopen_helper(lua_State *L)
{
    static const luaL_Reg functions[] = {{"fork", h_fork},
                                         {"readable", h_readable},
                                         {"exit", h_exit},
                                         {"kill", h_kill},
                                         {"raise", h_raise},
                                         {"waitpid", h_waitpid},
                                         {"getpid", h_getpid},
                                         {"getuid", h_getuid},
                                         {"setuid", h_setuid},
                                         {"exec", h_exec},
                                         {"sleep", h_sleep},
                                         {"now", h_now},
                                         {"alarm", h_alarm},
                                         {"truncate", h_truncate},
                                         {"filesize", h_filesize},
                                         {"open", h_open},
                                         {"close", h_close},
                                         {"cloexec", h_cloexec},
                                         {"umask", h_umask},
                                         {"rlimit", h_rlimit},
                                         {"scarce", h_scarce},
                                         {"foreign_mutex", h_foreign_mutex},
                                         {"foreign_lock", h_foreign_lock},
                                         {NULL, NULL}};
    static const struct {
        const char *name;
        int number;
    } signals[] = {{"SIGKILL", SIGKILL}, {"SIGINT", SIGINT},   {"SIGTERM", SIGTERM}, {"SIGSTOP", SIGSTOP},
                   {"SIGCONT", SIGCONT}, {"SIGALRM", SIGALRM}, {"SIGSEGV", SIGSEGV}, {"SIGBUS", SIGBUS}};
    luaL_newlib(L, functions);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        lua_pushinteger(L, signals[i].number);
        lua_setfield(L, -2, signals[i].name);
    }
    lua_pushinteger(L, sysconf(_SC_PAGESIZE));
    lua_setfield(L, -2, "PAGE");
    return 1;
}
