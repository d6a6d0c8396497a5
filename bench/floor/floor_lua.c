/* SPDX-License-Identifier: MIT
 *
 * Empty methods of Lua: a full userdata, checked by size and first word as polyshm's are; the same arguments converted,
 * the same types returned. `object` has its methods in a plain __index table; `field_object` has them behind a C
 * function, as a type with fields must; `array` is a bare C __index.
 */
#include <lauxlib.h>
#include <lua.h>
#include <string.h>

#include "floor.h"

typedef struct {
    const void *tag;
    lua_Integer value;
    char bytes[64];
    double numbers[64];
} empty;

static const char tag;

static empty *check(lua_State *L)
{
    empty *e = lua_touserdata(L, 1);
    if (!e || lua_rawlen(L, 1) < sizeof *e || e->tag != &tag)
        luaL_typeerror(L, 1, "floor");
    return e;
}

static int empty_nop(lua_State *L)
{
    check(L);
    return 0;
}

static int empty_true(lua_State *L)
{
    check(L);
    lua_pushboolean(L, 1);
    return 1;
}

static int empty_add(lua_State *L)
{
    empty *e = check(L);
    lua_Integer value = luaL_checkinteger(L, 2);
    lua_Integer previous = e->value;
    e->value = (lua_Integer)((lua_Unsigned)previous + (lua_Unsigned)value);
    lua_pushinteger(L, previous);
    return 1;
}

static int empty_take(lua_State *L)
{
    check(L);
    luaL_checkinteger(L, 2);
    luaL_checklstring(L, 3, NULL);
    return 0;
}

static int empty_give(lua_State *L)
{
    empty *e = check(L);
    luaL_checkinteger(L, 2);
    luaL_checkinteger(L, 3);
    lua_pushlstring(L, e->bytes, 64);
    return 1;
}

static int array_index(lua_State *L)
{
    const empty *e = lua_touserdata(L, 1);
    lua_pushnumber(L, e->numbers[lua_tointeger(L, 2) - 1]);
    return 1;
}

static int field_index(lua_State *L)
{
    lua_settop(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

static const luaL_Reg methods[] = {{"nop", empty_nop},   {"yes", empty_true},  {"add", empty_add},
                                   {"take", empty_take}, {"give", empty_give}, {NULL, NULL}};

static void make(lua_State *L)
{
    empty *e = lua_newuserdatauv(L, sizeof *e, 0);
    memset(e, 0, sizeof *e);
    e->tag = &tag;
    memset(e->bytes, 'x', sizeof e->bytes);
}

static int now(lua_State *L)
{
    lua_pushnumber(L, floor_now());
    return 1;
}

static int atomic_add(lua_State *L)
{
    lua_pushnumber(L, floor_atomic_add((long)luaL_checkinteger(L, 1)));
    return 1;
}

static int mutex_pair(lua_State *L)
{
    lua_pushnumber(L, floor_mutex_pair((long)luaL_checkinteger(L, 1)));
    return 1;
}

static int copy(lua_State *L)
{
    lua_pushnumber(L, floor_copy((long)luaL_checkinteger(L, 1), (size_t)luaL_checkinteger(L, 2)));
    return 1;
}

static int malloc_copy(lua_State *L)
{
    lua_pushnumber(L, floor_malloc_copy((long)luaL_checkinteger(L, 1), (size_t)luaL_checkinteger(L, 2)));
    return 1;
}

static int create(lua_State *L)
{
    lua_pushnumber(L, floor_create((long)luaL_checkinteger(L, 1)));
    return 1;
}

static int attach(lua_State *L)
{
    lua_pushnumber(L, floor_attach((long)luaL_checkinteger(L, 1), luaL_checkstring(L, 2)));
    return 1;
}

static const luaL_Reg functions[] = {{"now", now},
                                     {"atomic_add", atomic_add},
                                     {"mutex_pair", mutex_pair},
                                     {"copy", copy},
                                     {"malloc_copy", malloc_copy},
                                     {"create", create},
                                     {"attach", attach},
                                     {NULL, NULL}};

int luaopen_floor_lua(lua_State *L)
{
    luaL_newlib(L, functions);
    make(L); /* object */
    lua_newtable(L);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "object");
    make(L); /* field_object */
    lua_newtable(L);
    luaL_newlib(L, methods);
    lua_pushcclosure(L, field_index, 1);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "field_object");
    make(L); /* array */
    lua_newtable(L);
    lua_pushcfunction(L, array_index);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "array");
    return 1;
}
