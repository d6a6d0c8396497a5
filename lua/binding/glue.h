/* SPDX-License-Identifier: MIT
 *
 * What every type of the Lua binding needs: userdata of ours and the cheap test for one, errors in Lua's two manners,
 * sizes and timeouts from the stack, options, and the pause between two slices of a wait.
 *
 * Two rules keep finalizers and memory errors from doing harm. Lua may run finalizers, which may close anything, in
 * every call that allocates: so allocate first, and check and use a handle after that. Lua may longjmp out of every
 * call that allocates or checks: so nothing is entered or held across one, unless a userdata owns it.
 */
#ifndef POLYSHM_LUA_GLUE_H
#define POLYSHM_LUA_GLUE_H

#include <lauxlib.h>
#include <lua.h>

#include <polyshm/element.h>
#include <polyshm/segment.h>

/* A type of userdata. Its address is the first word of each live userdata of that type, and the key of its metatable
 * in the registry. */
typedef struct lpshm_type {
    const char *name; /* "polyshm.segment" */
    const char *noun; /* "segment" */
} lpshm_type;

/* The first word of every userdata of ours that is not in use: not yet, or not any more. */
extern const lpshm_type lpshm_closed;

typedef struct lpshm_segment {
    const lpshm_type *type;
    pshm_segment *segment; /* one reference; NULL before it is opened and after __gc */
} lpshm_segment;

extern const lpshm_type lpshm_segment_type;
extern const lpshm_type lpshm_view_type;
extern const lpshm_type lpshm_atomic_type;
extern const lpshm_type lpshm_guard_type;

/* Raises that argument `arg` is not a live userdata of `type`. */
_Noreturn void lpshm_type_error(lua_State *L, int arg, const lpshm_type *type);

/* The userdata of `type` at `arg`, NULL for anything else. lua_rawlen is 0 for a light userdata, so the first word is
 * read only where there is one. `type` is written after the metatable and taken back by __gc: a foreign userdata that
 * gets the same memory later does not find it there. */
static inline void *lpshm_test(lua_State *L, int arg, const lpshm_type *type, size_t size)
{
    void *userdata = lua_touserdata(L, arg);
    if (PSHM_LIKELY(userdata && lua_rawlen(L, arg) >= size && *(const lpshm_type *const *)userdata == type))
        return userdata;
    return NULL;
}

/* The same, raising for anything else. */
static inline void *lpshm_to(lua_State *L, int arg, const lpshm_type *type, size_t size)
{
    void *userdata = lpshm_test(L, arg, type, size);
    if (PSHM_UNLIKELY(!userdata))
        lpshm_type_error(L, arg, type);
    return userdata;
}

static inline lpshm_segment *lpshm_to_segment(lua_State *L, int arg)
{
    return lpshm_to(L, arg, &lpshm_segment_type, sizeof(lpshm_segment));
}

/* For __gc and __close: the userdata, or NULL where it is closed already. */
void *lpshm_to_close(lua_State *L, int arg, const lpshm_type *type, size_t size);

/* Pushes a new zeroed userdata with `values` user values and the metatable of `type`; its first word says closed. */
void *lpshm_new(lua_State *L, const lpshm_type *type, size_t size, int values);

/* Makes the metatable of a type. Methods go to a table of their own, which is `__index`; where `index` is given, that
 * function is it, with the table as its first upvalue. Leaves the table of methods on the stack. */
void lpshm_new_type(lua_State *L, const lpshm_type *type, const luaL_Reg *meta, const luaL_Reg *methods,
                    lua_CFunction index);

/* The fields of a type with an `index` function: numbers from 1 on, which stand in the table of methods under their names.
 * Takes that table at the top of the stack, and leaves it there. */
typedef struct lpshm_field {
    const char *name;
    int number;
} lpshm_field;

void lpshm_new_fields(lua_State *L, const lpshm_field *fields, size_t count);

/* The start of such a function: 0, and the method (or nil) is at the top of the stack; or the number of the field. */
static inline lua_Integer lpshm_index(lua_State *L)
{
    if (PSHM_UNLIKELY(lua_gettop(L) != 2))
        lua_settop(L, 2);
    if (PSHM_LIKELY(lua_rawget(L, lua_upvalueindex(1)) != LUA_TNUMBER))
        return 0;
    return lua_tointeger(L, -1);
}

/* Pushes a string of bytes that others may be changing meanwhile. */
static inline void lpshm_push_bytes(lua_State *L, const void *from, size_t size)
{
    /* Lua hashes a short string and copies it after that: both must see the same bytes. */
    char stable[64];
    if (size < sizeof stable) {
        memcpy(stable, from, size);
        from = stable;
    }
    lua_pushlstring(L, from, size);
}

/* Pushes an error object {code =, message =, address =}; the message is at the top of the stack and is taken. */
void lpshm_push_error(lua_State *L, const char *code, const char *address);

/* A code of the core in Lua's manner: pushes nil, "address: text", name for what the system refused, or for a name that
 * nothing has, and returns 3; raises for everything else. */
int lpshm_fail(lua_State *L, const char *address, int rc);
/* The same about something in a segment: "posix:/demo: mutex at 64". */
int lpshm_fail_about(lua_State *L, const char *subject, const char *address, int rc);
/* The same where there is no way to return it: raises an error object for that too. */
int lpshm_fail_loudly(lua_State *L, const char *subject, const char *address, int rc);
/* The same, about a range of a segment. */
int lpshm_fail_range(lua_State *L, const pshm_segment *segment, int rc, uint64_t offset, uint64_t size);
/* The same for a call that is done: `true`, or as lpshm_fail_range. */
int lpshm_result(lua_State *L, const pshm_segment *segment, int rc, uint64_t offset, uint64_t size);

/* Calls function(data, the value at `arg`) and leaves its result, or the error, at the top of the stack: for what has to
 * be freed in either case. LUA_OK or what lua_pcall says. */
int lpshm_protected(lua_State *L, lua_CFunction function, void *data, int arg);

/* A count of bytes at `arg`: an integer from 0, a float of that value, or a text such as "64M". */
uint64_t lpshm_slow_bytes(lua_State *L, int arg, const char *name);
static inline uint64_t lpshm_bytes(lua_State *L, int arg, const char *name)
{
    int isnum;
    lua_Integer value = lua_tointegerx(L, arg, &isnum);
    if (PSHM_LIKELY(isnum && value >= 0))
        return (uint64_t)value;
    return lpshm_slow_bytes(L, arg, name);
}
static inline uint64_t lpshm_opt_bytes(lua_State *L, int arg, const char *name, uint64_t otherwise)
{
    return lua_isnoneornil(L, arg) ? otherwise : lpshm_bytes(L, arg, name);
}

/* A count of other things at `arg`: an integer from 0, or a float of that value. */
uint64_t lpshm_slow_count(lua_State *L, int arg, const char *name);
static inline uint64_t lpshm_count(lua_State *L, int arg, const char *name)
{
    int isnum;
    lua_Integer value = lua_tointegerx(L, arg, &isnum);
    return PSHM_LIKELY(isnum && value >= 0) ? (uint64_t)value : lpshm_slow_count(L, arg, name);
}
static inline uint64_t lpshm_opt_count(lua_State *L, int arg, const char *name, uint64_t otherwise)
{
    return lua_isnoneornil(L, arg) ? otherwise : lpshm_count(L, arg, name);
}

/* What is left of a segment from `offset` on; 0 beyond its end, which the check refuses then. */
static inline uint64_t lpshm_rest(const pshm_segment *segment, uint64_t offset)
{
    return offset < segment->size ? segment->size - offset : 0;
}

/* A timeout in seconds at `arg`, in nanoseconds; negative: for ever. */
#define LPSHM_FOREVER INT64_C(-1)
int64_t lpshm_timeout(lua_State *L, int arg);

/* "rw", "r", "copy" or "none" at `arg`. */
pshm_access lpshm_access(lua_State *L, int arg, const char *subject);

/* Options. One table of names per function; `values` follow it in order. Reads the table at `arg` (or nothing, where
 * there is none) and raises at a key that is not among the names, or a value of a wrong type. */
typedef enum lpshm_option_kind {
    LPSHM_OPTION_BOOLEAN,  /* bool */
    LPSHM_OPTION_TRISTATE, /* int: 0 or 1 */
    LPSHM_OPTION_BYTES,    /* uint64_t */
    LPSHM_OPTION_ID,       /* int64_t: a user or group */
    LPSHM_OPTION_COUNT,    /* uint32_t, from 1 on */
    LPSHM_OPTION_SECONDS,  /* int64_t: nanoseconds; negative: for ever */
    LPSHM_OPTION_LIFE,     /* pshm_life */
    LPSHM_OPTION_ON_DEATH, /* pshm_on_death */
    LPSHM_OPTION_MODE,     /* uint32_t, from an octal text */
    LPSHM_OPTION_ACCESS,   /* pshm_access */
    LPSHM_OPTION_HUGE,     /* uint64_t: boolean or size */
    LPSHM_OPTION_FUNCTION, /* int: its place on the stack */
} lpshm_option_kind;

typedef struct lpshm_option {
    const char *name;
    lpshm_option_kind kind;
    size_t at; /* offsetof in what is filled */
} lpshm_option;

void lpshm_options(lua_State *L, int arg, const lpshm_option *options, size_t count, void *values);

/* Between two slices of a wait, with nothing entered: lets the hooks of this state run, which may raise (lua5.4 does
 * so on Ctrl-C), close things, or collect them. Fetch every userdata anew after it. */
void lpshm_run_hooks(lua_State *L);

/* Registers what the functions above keep in the registry. */
void lpshm_glue_register(lua_State *L);

/* One per noun, and per type that is none: registers it. */
#define PSHM_RAW(noun) void lpshm_##noun##_register(lua_State *L);
#define PSHM_KIND(number, noun) PSHM_RAW(noun)
#include <polyshm/kinds.def>
void lpshm_view_register(lua_State *L);
void lpshm_lock_register(lua_State *L);
void lpshm_segment_mutex_register(lua_State *L);

/* Methods of a segment and functions of the module that stand in files of their own. */
int lpshm_segment_open(lua_State *L);
int lpshm_segment_stat(lua_State *L);
int lpshm_segment_set(lua_State *L);
int lpshm_segment_flush(lua_State *L);
int lpshm_segment_protect(lua_State *L);
int lpshm_segment_advise(lua_State *L);
int lpshm_segment_pin(lua_State *L);
int lpshm_segment_unpin(lua_State *L);
int lpshm_segment_resize(lua_State *L);
int lpshm_segment_unlink(lua_State *L);
int lpshm_segment_view(lua_State *L);
int lpshm_segment_pack(lua_State *L);
int lpshm_segment_unpack(lua_State *L);
int lpshm_segment_atomic(lua_State *L);
int lpshm_segment_mutex(lua_State *L);
int lpshm_segment_record_lock(lua_State *L);
int lpshm_arena_open(lua_State *L);
int lpshm_list(lua_State *L);
int lpshm_stat(lua_State *L);
int lpshm_exists(lua_State *L);
int lpshm_unlink(lua_State *L);

/* The bytes behind a view, for others to copy to or from: checked for `rights` and valid until Lua is called again.
 * Raises. */
unsigned char *lpshm_view_bytes(lua_State *L, int arg, uint32_t rights, uint64_t *size);
/* After that access: raises if the memory was gone. */
void lpshm_view_verify(lua_State *L, int arg);

#endif
