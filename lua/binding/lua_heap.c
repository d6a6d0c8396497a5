/* SPDX-License-Identifier: MIT
 *
 * The heap in Lua: methods of the arena. Places are bytes from the arena's start; a destination is the place of a word that
 * holds the place of a block, or 0.
 */
#include <polyshm/heap.h>

#include "lua_arena.h"

#include <errno.h>

static const char *place_subject(lua_State *L, const char *what, uint64_t place)
{
    return lua_pushfstring(L, "%s at %I", what, (LUAI_UACINT)place);
}

/* arena:root(index) -> place
 * The place of root `index`, counted from 1: words that every arena has, to begin with. */
static int arena_root(lua_State *L)
{
    (void)lpshm_to_arena(L, 1);
    lua_Integer index = luaL_checkinteger(L, 2);
    if (index < 1 || index > PSHM_HEAP_ROOTS)
        return luaL_error(L, "root %I: %s (1 to %I)", (LUAI_UACINT)index, pshm_error_text(PSHM_EINDEX),
                          (LUAI_UACINT)PSHM_HEAP_ROOTS);
    lua_pushinteger(L, (lua_Integer)pshm_heap_root((uint32_t)index - 1));
    return 1;
}

/* arena:alloc_into(place, size) -> true | nil, message, code
 * Allocates `size` zeroed bytes and puts their place into the destination at `place`, which has to hold 0. */
static int arena_alloc_into(lua_State *L)
{
    (void)lpshm_to_arena(L, 1);
    uint64_t target = lpshm_bytes(L, 2, "place");
    uint64_t size = lpshm_bytes(L, 3, "size");
    int rc;
    while ((rc = pshm_heap_alloc_into(lpshm_to_arena(L, 1)->arena, target, size)) == -EINTR)
        lpshm_run_hooks(L);
    return rc ? lpshm_arena_fail(L, place_subject(L, "destination", target), rc) : lpshm_arena_result(L, "", 0);
}

/* arena:free_from(place) -> true | nil, message, code
 * Frees the block that the destination at `place` holds, and leaves 0 there. */
static int arena_free_from(lua_State *L)
{
    (void)lpshm_to_arena(L, 1);
    uint64_t target = lpshm_bytes(L, 2, "place");
    int rc;
    while ((rc = pshm_heap_free_from(lpshm_to_arena(L, 1)->arena, target)) == -EINTR)
        lpshm_run_hooks(L);
    return rc ? lpshm_arena_fail(L, place_subject(L, "destination", target), rc) : lpshm_arena_result(L, "", 0);
}

/* arena:block_size(place) -> bytes
 * Bytes of the block at `place`: at least those that were asked for. */
static int arena_block_size(lua_State *L)
{
    uint64_t size;
    const lpshm_arena *self = lpshm_to_arena(L, 1);
    uint64_t place = lpshm_bytes(L, 2, "place");
    int rc = pshm_heap_block_size(self->arena, place, &size);
    if (rc)
        return lpshm_arena_fail(L, place_subject(L, "block", place), rc);
    lua_pushinteger(L, (lua_Integer)size);
    return 1;
}

/* arena:read(place, size) -> string
 * `size` bytes at `place`, inside one block. */
static int arena_read(lua_State *L)
{
    luaL_Buffer buffer;
    const lpshm_arena *self = lpshm_to_arena(L, 1);
    uint64_t place = lpshm_bytes(L, 2, "place");
    uint64_t size = lpshm_bytes(L, 3, "size");
    int rc = PSHM_ENOTBLOCK;
    if (size <= self->arena->segment->size) {
        char *to = luaL_buffinitsize(L, &buffer, size);
        rc = pshm_heap_read(lpshm_to_arena(L, 1)->arena, place, to, size);
    }
    if (rc)
        return lpshm_arena_fail(L, place_subject(L, "block", place), rc);
    luaL_pushresultsize(&buffer, size);
    return 1;
}

/* arena:write(place, data)
 * The bytes of a string to `place`, inside one block. */
static int arena_write(lua_State *L)
{
    size_t length;
    const lpshm_arena *self = lpshm_to_arena(L, 1);
    uint64_t place = lpshm_bytes(L, 2, "place");
    if (PSHM_UNLIKELY(lua_type(L, 3) != LUA_TSTRING))
        return luaL_typeerror(L, 3, "string");
    const char *data = lua_tolstring(L, 3, &length);
    int rc = pshm_heap_write(self->arena, place, data, length);
    return rc ? lpshm_arena_fail(L, place_subject(L, "block", place), rc) : 0;
}

/* The heap has no type of its own: its verbs go to the arena's methods, which are there already. */
void lpshm_heap_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"root", arena_root},
                                       {"alloc_into", arena_alloc_into},
                                       {"free_from", arena_free_from},
                                       {"block_size", arena_block_size},
                                       {"read", arena_read},
                                       {"write", arena_write},
                                       {NULL, NULL}};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &lpshm_arena_type);
    lua_getfield(L, -1, "__index");
    lua_getupvalue(L, -1, 1);
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 3);
}
