/* SPDX-License-Identifier: MIT
 *
 * The read-write lock of an arena in Lua, and its two sides: each is a lock of lua_lock.c's on the same handle.
 */
#include <polyshm/rwlock.h>

#include "lua_lock.h"

typedef struct lpshm_rwlock {
    lpshm_object object;
    pshm_rwlock rwlock;
} lpshm_rwlock;

/* User values of the whole: its two sides. Each keeps the handle, and not the other way round. */
enum { SIDE_READ = LPSHM_OBJECT_VALUES + 1, SIDE_WRITE, SIDES = 2 };

#define SIDE(side)                                                                                                     \
    static int side##_attempt(void *handle, pshm_death *death)                                                         \
    {                                                                                                                  \
        return pshm_rwlock_##side##_try(handle, death);                                                                \
    }                                                                                                                  \
    static int side##_wait(void *handle, int64_t deadline, pshm_death *death)                                          \
    {                                                                                                                  \
        return pshm_rwlock_##side##_acquire(handle, deadline, death);                                                  \
    }                                                                                                                  \
    static int side##_wait_marked(void *handle, int64_t deadline, pshm_death *death)                                   \
    {                                                                                                                  \
        return pshm_rwlock_##side##_recover(handle, deadline, death);                                                  \
    }                                                                                                                  \
    static int side##_consistent(void *handle)                                                                         \
    {                                                                                                                  \
        return pshm_rwlock_##side##_consistent(handle);                                                                \
    }                                                                                                                  \
    static int side##_give(void *handle)                                                                               \
    {                                                                                                                  \
        return pshm_rwlock_##side##_release(handle);                                                                   \
    }                                                                                                                  \
    static int side##_locked(void *handle)                                                                             \
    {                                                                                                                  \
        return pshm_rwlock_##side##_locked(handle);                                                                    \
    }                                                                                                                  \
    static const lpshm_lock_ops side##_ops = {.attempt = side##_attempt,                                               \
                                              .acquire = side##_wait,                                                  \
                                              .recover = side##_wait_marked,                                           \
                                              .consistent = side##_consistent,                                         \
                                              .release = side##_give,                                                  \
                                              .locked = side##_locked,                                                 \
                                              .owner = side##_owner}

static int write_owner(void *handle, uint32_t *pid)
{
    return pshm_rwlock_write_owner(handle, pid);
}

/* There may be many, and none of them is the owner. */
static int read_owner(void *handle, uint32_t *pid)
{
    int rc = pshm_rwlock_read_locked(handle);
    *pid = 0;
    return rc < 0 ? rc : 0;
}

SIDE(read);
SIDE(write);

static void rwlock_fini(void *handle)
{
    pshm_rwlock_fini(handle);
}

static int rwlock_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                       const void *options, bool *created)
{
    (void)options;
    return pshm_rwlock_init(handle, arena, name, length, create, created);
}

const lpshm_noun lpshm_rwlock_noun = {
    .type = {"polyshm.rwlock", "rwlock"},
    .size = sizeof(lpshm_rwlock),
    .handle = offsetof(lpshm_rwlock, rwlock),
    .values = SIDES,
    .init = rwlock_init,
    .fini = rwlock_fini,
};

/* Of a side: its handle is the whole's. */
static const lpshm_noun side_noun = {
    .type = {"polyshm.rwlock_side", "side of a rwlock"},
    .size = sizeof(lpshm_lock),
    .values = LPSHM_LOCK_VALUES,
};

/* The whole is at the top; `repair` is the place of such a function, or 0. */
static void add_sides(lua_State *L, int repair)
{
    int whole = lua_gettop(L);
    (void)lpshm_object_share(L, &side_noun, whole);
    lpshm_lock_set(L, &read_ops, repair);
    lua_setiuservalue(L, whole, SIDE_READ);
    (void)lpshm_object_share(L, &side_noun, whole);
    lpshm_lock_set(L, &write_ops, repair);
    lua_setiuservalue(L, whole, SIDE_WRITE);
}

int lpshm_rwlock_open(lua_State *L)
{
    int rc = lpshm_object_open(L, &lpshm_rwlock_noun, NULL, NULL);
    if (!rc)
        add_sides(L, 0);
    return rc;
}

/* arena:rwlock(name, {repair =}) -> rwlock
 * Opens the read-write lock, or makes it where the arena may be written. `repair(died)` is called with the lock held alone
 * when a writer died. Raises if it cannot. */
int lpshm_rwlock_of(lua_State *L)
{
    struct rwlock_options {
        int repair;
    } options = {0};
    static const lpshm_option names[] = {
        {"repair", LPSHM_OPTION_FUNCTION, offsetof(struct rwlock_options, repair)},
    };
    lpshm_object_arguments(L);
    lpshm_options(L, 3, names, sizeof names / sizeof names[0], &options);
    (void)lpshm_object_of(L, &lpshm_rwlock_noun, NULL);
    add_sides(L, options.repair);
    return 1;
}

/* rwlock.read, rwlock.write, and the methods, all in the first upvalue. */
static int rwlock_index(lua_State *L)
{
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TNUMBER) {
        (void)lpshm_to_object(L, 1, &lpshm_rwlock_noun);
        lua_getiuservalue(L, 1, (int)lua_tointeger(L, -1));
    }
    return 1;
}

/* rwlock:downgrade()
 * Turns what this thread has for writing into reading; nobody writes between. The guard of write ends it as well. Raises
 * unless this thread writes, and {code = "EOWNERDEAD"} while a death is not made good. */
static int rwlock_downgrade(lua_State *L)
{
    lpshm_rwlock *self = lpshm_to_object(L, 1, &lpshm_rwlock_noun);
    int rc = pshm_rwlock_downgrade(&self->rwlock);
    return rc ? lpshm_object_fail_loudly(L, &self->object, rc) : 0;
}

static int side_acquire(lua_State *L)
{
    return lpshm_lock_acquire(L, &side_noun, NULL);
}

static int side_release(lua_State *L)
{
    return lpshm_lock_release(L, &side_noun, NULL);
}

void lpshm_rwlock_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"downgrade", rwlock_downgrade}, {NULL, NULL}};
    static const luaL_Reg side[] = {{"acquire", side_acquire}, {"release", side_release}, {NULL, NULL}};
    static const lpshm_field fields[] = {{"read", SIDE_READ}, {"write", SIDE_WRITE}};
    lpshm_new_noun(L, &lpshm_rwlock_noun, methods, rwlock_index);
    lpshm_new_fields(L, fields, sizeof fields / sizeof fields[0]);
    lua_pop(L, 1);
    lpshm_new_lock_noun(L, &side_noun, &write_ops, side, NULL);
    lua_pop(L, 1);
}
