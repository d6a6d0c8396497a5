/* SPDX-License-Identifier: MIT
 *
 * Userdata, errors and hooks for all types of the Lua binding; glue.h says what each is for. Arguments and options stand in
 * glue_arguments.c.
 */
#include "glue.h"

#include <stdlib.h>

const lpshm_type lpshm_closed = {"polyshm.closed", "object"};

static const char lpshm_nothing = 0; /* its address is the key of a function that does nothing */

#define LPSHM_ERROR_NAME "polyshm.error"

_Noreturn void lpshm_type_error(lua_State *L, int arg, const lpshm_type *type)
{
    if (luaL_testudata(L, arg, type->name))
        luaL_error(L, "%s is closed", type->noun);
    luaL_typeerror(L, arg, type->name);
    abort();
}

void *lpshm_to_close(lua_State *L, int arg, const lpshm_type *type, size_t size)
{
    void *userdata = lpshm_test(L, arg, type, size);
    if (!userdata)
        luaL_checkudata(L, arg, type->name);
    return userdata;
}

void *lpshm_new(lua_State *L, const lpshm_type *type, size_t size, int values)
{
    void *userdata = lua_newuserdatauv(L, size, values);
    memset(userdata, 0, size);
    *(const lpshm_type **)userdata = &lpshm_closed;
    lua_rawgetp(L, LUA_REGISTRYINDEX, type);
    lua_setmetatable(L, -2);
    return userdata;
}

void lpshm_new_type(lua_State *L, const lpshm_type *type, const luaL_Reg *meta, const luaL_Reg *methods,
                    lua_CFunction index)
{
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    luaL_newmetatable(L, type->name);
    luaL_setfuncs(L, meta, 0);
    lua_pushvalue(L, -2);
    if (index)
        lua_pushcclosure(L, index, 1);
    lua_setfield(L, -2, "__index");
    lua_rawsetp(L, LUA_REGISTRYINDEX, type);
}

void lpshm_new_fields(lua_State *L, const lpshm_field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        lua_pushinteger(L, fields[i].number);
        lua_setfield(L, -2, fields[i].name);
    }
}

/* Errors */

void lpshm_push_error(lua_State *L, const char *code, const char *address)
{
    lua_createtable(L, 0, 5);
    lua_insert(L, -2);
    lua_setfield(L, -2, "message");
    lua_pushstring(L, code);
    lua_setfield(L, -2, "code");
    if (address) {
        lua_pushstring(L, address);
        lua_setfield(L, -2, "address");
    }
    luaL_setmetatable(L, LPSHM_ERROR_NAME);
}

/* The text of an error object. */
static int error_tostring(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_pushliteral(L, "message");
    lua_rawget(L, 1);
    luaL_tolstring(L, -1, NULL);
    return 1;
}

/* Takes the message at the top. */
static int fail_with(lua_State *L, const char *address, int rc)
{
    const char *name = pshm_error_name(rc);
    switch (pshm_error_class(rc)) {
    case PSHM_CLASS_OS:
    case PSHM_CLASS_KEY:
        luaL_pushfail(L);
        lua_insert(L, -2);
        lua_pushstring(L, name);
        return 3;
    case PSHM_CLASS_LOST:
    case PSHM_CLASS_DELETED:
    case PSHM_CLASS_INCOMPATIBLE:
    case PSHM_CLASS_CORRUPT:
    case PSHM_CLASS_BROKEN:
        lpshm_push_error(L, name, address);
        return lua_error(L);
    default:
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
        return lua_error(L);
    }
}

int lpshm_fail_about(lua_State *L, const char *subject, const char *address, int rc)
{
    lua_pushfstring(L, "%s: %s", subject, pshm_error_text(rc));
    return fail_with(L, address, rc);
}

int lpshm_fail_loudly(lua_State *L, const char *subject, const char *address, int rc)
{
    pshm_class class = pshm_error_class(rc);
    if (class != PSHM_CLASS_OS && class != PSHM_CLASS_KEY)
        return lpshm_fail_about(L, subject, address, rc);
    lua_pushfstring(L, "%s: %s", subject, pshm_error_text(rc));
    lpshm_push_error(L, pshm_error_name(rc), address);
    return lua_error(L);
}

int lpshm_fail(lua_State *L, const char *address, int rc)
{
    if (rc == PSHM_ECLOSED)
        return luaL_error(L, "segment is closed");
    return lpshm_fail_about(L, address, address, rc);
}

int lpshm_fail_range(lua_State *L, const pshm_segment *segment, int rc, uint64_t offset, uint64_t size)
{
    if (rc == PSHM_EBOUNDS)
        return luaL_error(L, "%s: offset %I + size %I: %s (size %I)", segment->address, (LUAI_UACINT)offset,
                          (LUAI_UACINT)size, pshm_error_text(rc), (LUAI_UACINT)segment->size);
    if (rc == PSHM_EALIGN)
        return luaL_error(L, "%s: offset %I: %s", segment->address, (LUAI_UACINT)offset, pshm_error_text(rc));
    return lpshm_fail(L, segment->address, rc);
}

int lpshm_result(lua_State *L, const pshm_segment *segment, int rc, uint64_t offset, uint64_t size)
{
    if (rc)
        return lpshm_fail_range(L, segment, rc, offset, size);
    lua_pushboolean(L, 1);
    return 1;
}

int lpshm_protected(lua_State *L, lua_CFunction function, void *data, int arg)
{
    lua_pushcfunction(L, function);
    lua_pushlightuserdata(L, data);
    lua_pushvalue(L, arg);
    return lua_pcall(L, 2, 1, 0);
}

/* Hooks */

void lpshm_run_hooks(lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    lua_State *main = lua_tothread(L, -1);
    lua_pop(L, 1);

    lua_Hook hook = lua_gethook(L);
    int mask = lua_gethookmask(L), count = lua_gethookcount(L);
    /* lua5.4 answers Ctrl-C with a hook on the main thread alone: a coroutine that waits here must see it too. */
    lua_Hook outer = main && main != L ? lua_gethook(main) : NULL;
    bool borrowed = outer && outer != hook;
    if (borrowed)
        lua_sethook(L, outer, lua_gethookmask(main), lua_gethookcount(main));
    else if (!hook)
        return;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &lpshm_nothing);
    lua_call(L, 0, 0);
    if (borrowed && lua_gethook(L) == outer)
        lua_sethook(L, hook, mask, count);
}

void lpshm_glue_register(lua_State *L)
{
    luaL_newmetatable(L, LPSHM_ERROR_NAME);
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    /* A Lua function, not a C one: count hooks see instructions only. */
    if (luaL_loadbufferx(L, "", 0, "=polyshm wait", "t"))
        lua_error(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &lpshm_nothing);
}
