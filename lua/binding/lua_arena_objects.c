/* SPDX-License-Identifier: MIT
 *
 * What is in an arena, by name: open, has, delete, list, pairs and #. What makes handles on objects of one noun stands in
 * that noun's file; kinds.def leads to it.
 */
#include "lua_arena.h"
#include "lua_object.h"

#include <errno.h>

const char *lpshm_object_name(lua_State *L, size_t *length)
{
    luaL_checktype(L, 2, LUA_TSTRING);
    return lua_tolstring(L, 2, length);
}

/* About the name at 2, whatever it is the name of. */
static const char *subject(lua_State *L)
{
    return lua_pushfstring(L, "object \"%s\"", lua_tostring(L, 2));
}

/* Pushes a handle on the object whose name is at 2 in the arena at 1, whatever its noun. 0 or a code. */
static int push_object(lua_State *L)
{
    size_t length;
    uint32_t kind;
    const char *name = lpshm_object_name(L, &length);
    int rc = pshm_arena_find(lpshm_to_arena(L, 1)->arena, name, length, &kind);
    if (rc)
        return rc;
    switch (kind) {
#define PSHM_KIND(number, noun)                                                                                        \
    case number:                                                                                                       \
        return lpshm_##noun##_open(L);
#include <polyshm/kinds.def>
    default: /* of a later version */
        return PSHM_EKIND;
    }
}

/* arena:open(name) -> object | nil, message, code
 * The object that has the name. */
int lpshm_arena_get(lua_State *L)
{
    (void)lpshm_to_arena(L, 1);
    (void)lpshm_object_name(L, NULL);
    lua_settop(L, 2);
    int rc = push_object(L);
    return rc ? lpshm_arena_fail(L, subject(L), rc) : 1;
}

/* arena:has(name) -> boolean */
int lpshm_arena_has(lua_State *L)
{
    size_t length;
    uint32_t kind;
    const lpshm_arena *self = lpshm_to_arena(L, 1);
    const char *name = lpshm_object_name(L, &length);
    int rc = pshm_arena_find(self->arena, name, length, &kind);
    if (rc && rc != PSHM_ENONAME)
        return lpshm_arena_fail(L, subject(L), rc);
    lua_pushboolean(L, !rc);
    return 1;
}

/* arena:delete(name) -> true | nil, message, code
 * Deletes the object that has the name: handles on it raise {code = "EDELETED"} from then on. */
int lpshm_arena_delete(lua_State *L)
{
    size_t length;
    int rc;
    for (;;) {
        const lpshm_arena *self = lpshm_to_arena(L, 1);
        const char *name = lpshm_object_name(L, &length);
        rc = pshm_arena_delete(self->arena, name, length, NULL);
        if (rc != -EINTR)
            break;
        lpshm_run_hooks(L);
    }
    return rc ? lpshm_arena_fail(L, subject(L), rc) : lpshm_arena_result(L, "", 0);
}

struct listing {
    pshm_entry *entries;
    size_t count;
};

/* A table of {name =, kind =}; the kind is a number where this version knows no noun for it. */
static int push_listing(lua_State *L)
{
    const struct listing *listing = lua_touserdata(L, 1);
    lua_createtable(L, (int)listing->count, 0);
    for (size_t i = 0; i < listing->count; i++) {
        const pshm_entry *entry = &listing->entries[i];
        const char *noun = pshm_noun_name(entry->kind);
        lua_createtable(L, 0, 2);
        lua_pushlstring(L, entry->name, entry->name_size);
        lua_setfield(L, -2, "name");
        if (noun)
            lua_pushstring(L, noun);
        else
            lua_pushinteger(L, entry->kind);
        lua_setfield(L, -2, "kind");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* Pushes that table. 0 or a code. */
static int list(lua_State *L)
{
    struct listing listing;
    int rc = pshm_arena_list(lpshm_to_arena(L, 1)->arena, &listing.entries, &listing.count);
    if (rc)
        return rc;
    int status = lpshm_protected(L, push_listing, &listing, 1);
    pshm_entries_free(listing.entries);
    return status == LUA_OK ? 0 : lua_error(L);
}

/* arena:list() -> table | nil, message, code
 * All objects, in no order: {name =, kind =}. */
int lpshm_arena_list(lua_State *L)
{
    int rc = list(L);
    return rc ? lpshm_arena_fail(L, "", rc) : 1;
}

/* #arena: how many objects there are. */
int lpshm_arena_len(lua_State *L)
{
    struct listing listing;
    int rc = pshm_arena_list(lpshm_to_arena(L, 1)->arena, &listing.entries, &listing.count);
    if (rc)
        return lpshm_arena_fail_loudly(L, "", rc);
    pshm_entries_free(listing.entries);
    lua_pushinteger(L, (lua_Integer)listing.count);
    return 1;
}

/* Upvalues: the arena, its list, and how far it is. Left out is what was deleted meanwhile, what lost another object that it
 * needs, and what is of a later version. */
static int pairs_next(lua_State *L)
{
    lua_Integer i = lua_tointeger(L, lua_upvalueindex(3));
    for (;;) {
        lua_settop(L, 0);
        lua_pushvalue(L, lua_upvalueindex(1));
        if (lua_rawgeti(L, lua_upvalueindex(2), ++i) == LUA_TNIL)
            return 1;
        lua_getfield(L, 2, "name");
        lua_replace(L, 2);
        lua_pushinteger(L, i);
        lua_replace(L, lua_upvalueindex(3));
        int rc = push_object(L);
        if (!rc) {
            lua_pushvalue(L, 2);
            lua_insert(L, -2);
            return 2;
        }
        if (rc != PSHM_ENONAME && rc != PSHM_EDELETED && rc != PSHM_EKIND)
            return lpshm_arena_fail_loudly(L, subject(L), rc);
    }
}

/* pairs(arena) -> iterator
 * For `for name, object in pairs(arena) do`: a handle on each object that was there at the start and still is. */
int lpshm_arena_pairs(lua_State *L)
{
    lua_settop(L, 1);
    int rc = list(L);
    if (rc)
        return lpshm_arena_fail_loudly(L, "", rc);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, pairs_next, 3);
    return 1;
}
