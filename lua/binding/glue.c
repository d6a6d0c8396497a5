/* SPDX-License-Identifier: MIT
 *
 * Userdata, errors, arguments, options and hooks for all types of the Lua binding; glue.h says what each is for.
 */
#include "glue.h"

#include <math.h>
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
        luaL_pushfail(L);
        lua_insert(L, -2);
        lua_pushstring(L, name);
        return 3;
    case PSHM_CLASS_LOST:
    case PSHM_CLASS_DELETED:
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
    if (rc == PSHM_ECLOSED)
        return luaL_error(L, "segment is closed");
    lua_pushfstring(L, "%s: %s", subject, pshm_error_text(rc));
    return fail_with(L, address, rc);
}

int lpshm_fail(lua_State *L, const char *address, int rc)
{
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

/* Arguments */

/* Reads a size or raises; `what` names it: an option, or NULL for argument `arg`. */
static uint64_t slow_bytes(lua_State *L, int arg, const char *name, bool option)
{
    const char *message;
    size_t length;
    uint64_t bytes;
    int rc;
    switch (lua_type(L, arg)) {
    case LUA_TSTRING: {
        const char *text = lua_tolstring(L, arg, &length);
        rc = pshm_size_parse(text, length, &bytes);
        if (!rc)
            return bytes;
        message = lua_pushfstring(L, "%s \"%s\": %s", name, text, pshm_error_text(rc));
        break;
    }
    case LUA_TNUMBER: {
        int isnum;
        (void)lua_tointegerx(L, arg, &isnum);
        message = lua_pushfstring(L, "%s %s: %s", name, luaL_tolstring(L, arg, NULL),
                                  isnum ? "must not be negative" : "not a whole number in range");
        break;
    }
    default:
        message = lua_pushfstring(L, "%s: integer or a text such as \"64M\" expected, got %s", name,
                                  luaL_typename(L, arg));
    }
    if (option)
        luaL_error(L, "option %s", message);
    luaL_argerror(L, arg, message);
    return 0;
}

uint64_t lpshm_slow_bytes(lua_State *L, int arg, const char *name)
{
    return slow_bytes(L, arg, name, false);
}

int64_t lpshm_timeout(lua_State *L, int arg)
{
    if (lua_isnoneornil(L, arg))
        return LPSHM_FOREVER;
    if (lua_type(L, arg) != LUA_TNUMBER)
        luaL_typeerror(L, arg, "number of seconds");
    lua_Number seconds = lua_tonumber(L, arg);
    if (!(seconds >= 0)) /* NaN too */
        luaL_argerror(L, arg, "timeout must be 0 or more seconds, or nil for ever");
    if (seconds >= 4e9)
        return LPSHM_FOREVER;
    return (int64_t)ceil(seconds * 1e9);
}

static int parse_access(const char *text, pshm_access *access)
{
    static const char *const names[] = {
        [PSHM_ACCESS_RW] = "rw", [PSHM_ACCESS_R] = "r", [PSHM_ACCESS_COPY] = "copy", [PSHM_ACCESS_NONE] = "none"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (text && !strcmp(text, names[i])) {
            *access = (pshm_access)i;
            return 0;
        }
    return PSHM_EACCESSNAME;
}

pshm_access lpshm_access(lua_State *L, int arg, const char *subject)
{
    pshm_access access = PSHM_ACCESS_RW;
    int rc = parse_access(luaL_checkstring(L, arg), &access);
    if (rc)
        luaL_error(L, "%s: access \"%s\": %s", subject, lua_tostring(L, arg), pshm_error_text(rc));
    return access;
}

/* Options */

static int option_type(lua_State *L, const char *name, const char *expected, int value)
{
    return luaL_error(L, "option %s: %s expected, got %s", name, expected, luaL_typename(L, value));
}

static bool option_boolean(lua_State *L, const char *name, int value)
{
    if (lua_type(L, value) != LUA_TBOOLEAN)
        option_type(L, name, "boolean", value);
    return lua_toboolean(L, value);
}

static uint64_t option_bytes(lua_State *L, const char *name, int value)
{
    int isnum;
    lua_Integer bytes = lua_tointegerx(L, value, &isnum);
    return isnum && bytes >= 0 ? (uint64_t)bytes : slow_bytes(L, value, name, true);
}

static uint32_t option_mode(lua_State *L, const char *name, int value)
{
    size_t length;
    uint32_t mode;
    if (lua_type(L, value) != LUA_TSTRING)
        option_type(L, name, "an octal text such as \"0600\"", value);
    const char *text = lua_tolstring(L, value, &length);
    int rc = pshm_mode_parse(text, length, &mode);
    if (rc)
        luaL_error(L, "option %s \"%s\": %s", name, text, pshm_error_text(rc));
    return mode;
}

static int64_t option_id(lua_State *L, const char *name, int value)
{
    int isnum;
    lua_Integer id = lua_tointegerx(L, value, &isnum);
    if (lua_type(L, value) != LUA_TNUMBER || !isnum || id < 0 || id >= (lua_Integer)UINT32_MAX)
        luaL_error(L, "option %s: an id from 0 to 4294967294 expected, got %s", name, luaL_tolstring(L, value, NULL));
    return id;
}

static void option_read(lua_State *L, const lpshm_option *option, int value, void *to)
{
    const char *name = option->name;
    switch (option->kind) {
    case LPSHM_OPTION_BOOLEAN:
        *(bool *)to = option_boolean(L, name, value);
        break;
    case LPSHM_OPTION_TRISTATE:
        *(int *)to = option_boolean(L, name, value);
        break;
    case LPSHM_OPTION_BYTES:
        *(uint64_t *)to = option_bytes(L, name, value);
        break;
    case LPSHM_OPTION_ID:
        *(int64_t *)to = option_id(L, name, value);
        break;
    case LPSHM_OPTION_MODE:
        *(uint32_t *)to = option_mode(L, name, value);
        break;
    case LPSHM_OPTION_ACCESS: {
        if (lua_type(L, value) != LUA_TSTRING)
            option_type(L, name, "a text", value);
        int rc = parse_access(lua_tostring(L, value), to);
        if (rc)
            luaL_error(L, "option %s \"%s\": %s", name, lua_tostring(L, value), pshm_error_text(rc));
        break;
    }
    case LPSHM_OPTION_HUGE: {
        uint64_t bytes;
        if (lua_type(L, value) == LUA_TBOOLEAN)
            bytes = (uint64_t)lua_toboolean(L, value);
        else if ((bytes = option_bytes(L, name, value)) < 2)
            luaL_error(L, "option %s: true, false or the size of a page expected, got %I", name, (LUAI_UACINT)bytes);
        *(uint64_t *)to = bytes;
        break;
    }
    case LPSHM_OPTION_FUNCTION:
        /* Anything may be called that has a __call. */
        if (lua_type(L, value) != LUA_TFUNCTION && luaL_getmetafield(L, value, "__call") == LUA_TNIL)
            option_type(L, name, "function", value);
        lua_settop(L, value);
        lua_pushvalue(L, value);
        lua_insert(L, value - 1); /* below the key and the value that lua_next works with */
        *(int *)to = value - 1;
        break;
    }
}

void lpshm_options(lua_State *L, int arg, const lpshm_option *options, size_t count, void *values)
{
    if (lua_isnoneornil(L, arg))
        return;
    luaL_checktype(L, arg, LUA_TTABLE);
    lua_pushnil(L);
    while (lua_next(L, arg)) {
        size_t i = count;
        if (lua_type(L, -2) == LUA_TSTRING) {
            const char *name = lua_tostring(L, -2);
            for (i = 0; i < count && strcmp(name, options[i].name); i++)
                ;
        }
        if (i == count)
            luaL_error(L, "unknown option '%s'", luaL_tolstring(L, -2, NULL));
        option_read(L, &options[i], lua_gettop(L), (char *)values + options[i].at);
        lua_pop(L, 1);
    }
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
