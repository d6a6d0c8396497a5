/* SPDX-License-Identifier: MIT
 *
 * Arguments and options for all types of the Lua binding: sizes, times, rights, and tables of names; glue.h says what each
 * is for.
 */
#include "glue.h"

#include <polyshm/arena.h>
#include <polyshm/barrier.h>

#include <math.h>

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

uint64_t lpshm_slow_count(lua_State *L, int arg, const char *name)
{
    int isnum;
    (void)lua_tointegerx(L, arg, &isnum);
    const char *what = lua_isnumber(L, arg) ? luaL_tolstring(L, arg, NULL) : luaL_typename(L, arg);
    const char *wrong = isnum ? "must not be negative" : "a whole number expected";
    luaL_argerror(L, arg, lua_pushfstring(L, "%s %s: %s", name, what, wrong));
    return 0;
}

static int64_t nanoseconds(lua_Number seconds)
{
    return seconds >= 4e9 ? LPSHM_FOREVER : (int64_t)ceil(seconds * 1e9);
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
    return nanoseconds(seconds);
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

static uint32_t option_count(lua_State *L, const char *name, int value)
{
    int isnum;
    lua_Integer count = lua_tointegerx(L, value, &isnum);
    if (lua_type(L, value) != LUA_TNUMBER || !isnum || count < 1 || count > (lua_Integer)UINT32_MAX)
        luaL_error(L, "option %s: a whole number from 1 on expected, got %s", name, luaL_tolstring(L, value, NULL));
    return (uint32_t)count;
}

static int64_t option_seconds(lua_State *L, const char *name, int value)
{
    if (lua_type(L, value) != LUA_TNUMBER)
        option_type(L, name, "number of seconds", value);
    lua_Number seconds = lua_tonumber(L, value);
    if (!(seconds >= 0)) /* NaN too */
        luaL_error(L, "option %s: 0 or more seconds expected, got %s", name, luaL_tolstring(L, value, NULL));
    return nanoseconds(seconds);
}

/* The index of a text among the `count` that `texts` gives. */
static int option_word(lua_State *L, const char *name, int value, const char *(*texts)(int index), int count,
                       const char *expected)
{
    if (lua_type(L, value) != LUA_TSTRING)
        option_type(L, name, "a text", value);
    const char *text = lua_tostring(L, value);
    int index = 0;
    while (index < count && strcmp(text, texts(index)))
        index++;
    if (index == count)
        luaL_error(L, "option %s \"%s\": %s", name, text, expected);
    return index;
}

static const char *life_text(int index)
{
    return pshm_life_name((pshm_life)index);
}

static const char *on_death_text(int index)
{
    return pshm_on_death_name((pshm_on_death)index);
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
    case LPSHM_OPTION_COUNT:
        *(uint32_t *)to = option_count(L, name, value);
        break;
    case LPSHM_OPTION_SECONDS:
        *(int64_t *)to = option_seconds(L, name, value);
        break;
    case LPSHM_OPTION_LIFE:
        *(pshm_life *)to = (pshm_life)option_word(L, name, value, life_text, PSHM_LIVES, pshm_error_text(PSHM_ELIFE));
        break;
    case LPSHM_OPTION_ON_DEATH:
        *(pshm_on_death *)to = (pshm_on_death)option_word(L, name, value, on_death_text, PSHM_ON_DEATHS,
                                                          "must be \"break\" or \"shrink\"");
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
