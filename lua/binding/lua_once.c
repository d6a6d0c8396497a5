/* SPDX-License-Identifier: MIT
 *
 * Onces in Lua. The function runs protected, with the once held as its user's lock; it is given back however that ends.
 */
#include <errno.h>

#include <polyshm/once.h>

#include "lua_object.h"

typedef struct lpshm_once {
    lpshm_object object;
    pshm_once once;
} lpshm_once;

static int once_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create, const void *options,
                     bool *created)
{
    (void)options;
    return pshm_once_init(handle, arena, name, length, create, created);
}

static void once_fini(void *handle)
{
    pshm_once_fini(handle);
}

const lpshm_noun lpshm_once_noun = {
    .type = {"polyshm.once", "once"},
    .size = sizeof(lpshm_once),
    .handle = offsetof(lpshm_once, once),
    .init = once_init,
    .fini = once_fini,
};

int lpshm_once_open(lua_State *L)
{
    return lpshm_object_open(L, &lpshm_once_noun, NULL, NULL);
}

/* arena:once(name) -> once
 * Opens the once, or makes it, not run, where the arena may be written. Raises if it cannot. */
int lpshm_once_of(lua_State *L)
{
    lpshm_object_arguments(L);
    (void)lpshm_object_of(L, &lpshm_once_noun, NULL);
    return 1;
}

static int begin_slice(void *handle, int64_t deadline, void *data)
{
    (void)data;
    return pshm_once_begin(handle, deadline);
}

/* once:run(fn, timeout) -> true | false
 * Calls fn(), unless it was run by anybody: true if this call ran it, false if it was done. While another runs it this waits;
 * if that one dies, or its function raises, the next one runs it. Raises {code = "ETIMEDOUT"} if another runs it for
 * `timeout` seconds. */
static int once_run(lua_State *L)
{
    lpshm_once *self = lpshm_to_object(L, 1, &lpshm_once_noun);
    int64_t timeout = lpshm_timeout(L, 3);
    if (lua_type(L, 2) != LUA_TFUNCTION && luaL_getmetafield(L, 2, "__call") == LUA_TNIL)
        luaL_typeerror(L, 2, "function");
    int rc = pshm_once_done(&self->once);
    if (!rc)
        rc = lpshm_object_slices(L, &lpshm_once_noun, timeout, begin_slice, NULL);
    self = lpshm_to_object(L, 1, &lpshm_once_noun);
    if (rc < 0)
        return lpshm_object_fail_loudly(L, &self->object, rc);
    if (rc == 0) {
        lpshm_object_keep(&self->object);
        lua_settop(L, 2);
        bool done = lua_pcall(L, 0, 0, 0) == LUA_OK;
        int finished = pshm_once_finish(&self->once, done);
        lpshm_object_let_go(&self->object);
        if (!done)
            return lua_error(L);
        if (finished)
            return lpshm_object_fail_loudly(L, &self->object, finished);
    }
    lua_pushboolean(L, !rc);
    return 1;
}

/* once:done() -> boolean
 * Was it run? */
static int once_done(lua_State *L)
{
    lpshm_once *self = lpshm_to_object(L, 1, &lpshm_once_noun);
    int rc = pshm_once_done(&self->once);
    if (rc < 0)
        return lpshm_object_fail(L, &self->object, rc);
    lua_pushboolean(L, rc);
    return 1;
}

void lpshm_once_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"run", once_run}, {"done", once_done}, {NULL, NULL}};
    lpshm_new_noun(L, &lpshm_once_noun, methods, NULL);
    lua_pop(L, 1);
}
