/* SPDX-License-Identifier: MIT
 *
 * polyshm.wait: several handles at once. Between two slices hooks run, which may close any of them: so what is waited for
 * is read anew for each.
 */
#include "lua_wait.h"

#include <polyshm/error.h>

#include <errno.h>
#include <string.h>

/* ---- what can be waited for ---- */

static const lpshm_object *object_at(lua_State *L, int arg)
{
    const lpshm_object *self;
#define PSHM_KIND(number, noun)                                                                                        \
    self = lpshm_test(L, arg, &lpshm_##noun##_noun.type, sizeof *self);                                                \
    if (self)                                                                                                          \
        return self;
#include <polyshm/kinds.def>
    return NULL;
}

const void *lpshm_waitable(lua_State *L, int arg, pshm_waitable *out)
{
    pshm_notifier **unused;
    const lpshm_object *self = object_at(L, arg);
    if (!self)
        return lpshm_participant_waitable(L, arg, out, &unused);
    const pshm_object *object = self->handle;
    *out = (pshm_waitable){.object = object, .least = 1};
    return object->watch ? self : NULL;
}

int lpshm_waitable_fail(lua_State *L, int arg, int rc)
{
    const lpshm_object *self = object_at(L, arg);
    return self ? lpshm_object_fail_loudly(L, self, rc) : lpshm_participant_fail(L, arg, rc);
}

/* ---- polyshm.wait ---- */

/* The stack: the arguments, a copy of the table that nobody changes, memory for what is waited for. */
enum { OBJECTS = 1, TIMEOUT, COPY, MEMORY, TOP };

static void copy(lua_State *L, lua_Integer count)
{
    lua_createtable(L, (int)count, 0);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(L, OBJECTS, i);
        lua_rawseti(L, COPY, i);
    }
}

/* Pushes the handle of number i, and says what to wait for. */
static void push_one(lua_State *L, lua_Integer i, pshm_waitable *out)
{
    lua_rawgeti(L, COPY, i);
    bool is_pair = lua_istable(L, -1);
    if (is_pair) {
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        lua_remove(L, -3);
        lua_insert(L, -2); /* the number, the handle */
    }
    if (!lpshm_waitable(L, lua_gettop(L), out))
        luaL_error(L, "objects[%I] cannot be waited for: %s", (LUAI_UACINT)i, luaL_tolstring(L, -1, NULL));
    if (!is_pair)
        return;
    int isnum;
    const char *noun = out->object ? pshm_noun_name(out->object->kind) : "participant";
    if (strcmp(noun, "counter") != 0 && strcmp(noun, "permits") != 0)
        luaL_error(L, "objects[%I]: only a counter or permits goes with a number", (LUAI_UACINT)i);
    out->least = lua_tointegerx(L, -2, &isnum);
    if (!isnum || lua_type(L, -2) != LUA_TNUMBER)
        luaL_error(L, "objects[%I]: an integer is expected beside it", (LUAI_UACINT)i);
    lua_remove(L, -2);
}

/* polyshm.wait(objects, timeout) -> table
 * Waits until one of `objects` is ready, up to `timeout` seconds: those that are, in the order given; none after the
 * timeout. {counter, at_least} and {permits, n} say how much. */
int lpshm_wait(lua_State *L)
{
    luaL_checktype(L, OBJECTS, LUA_TTABLE);
    int64_t deadline = pshm_deadline(lpshm_timeout(L, TIMEOUT));
    lua_settop(L, TIMEOUT);
    lua_Integer count = (lua_Integer)lua_rawlen(L, OBJECTS);
    copy(L, count);
    pshm_waitable *core = lua_newuserdatauv(L, (size_t)count * (sizeof *core + 1), 0);
    bool *ready = (bool *)(core + count);
    size_t failed = 0;
    for (;;) {
        for (lua_Integer i = 1; i <= count; i++) {
            push_one(L, i, &core[i - 1]);
            lua_settop(L, MEMORY);
        }
        int rc = pshm_wait(core, (size_t)count, deadline, ready, &failed);
        if (rc >= 0 || rc == -ETIMEDOUT) {
            lua_createtable(L, rc > 0 ? rc : 0, 0);
            for (lua_Integer i = 1, n = 1; rc > 0 && i <= count; i++) {
                if (!ready[i - 1])
                    continue;
                lua_rawgeti(L, COPY, i);
                lua_rawseti(L, TOP, n++);
            }
            return 1;
        }
        if (rc != -EINTR && failed < (size_t)count) {
            push_one(L, (lua_Integer)failed + 1, core);
            return lpshm_waitable_fail(L, lua_gettop(L), rc);
        }
        if (rc != -EINTR)
            return luaL_error(L, "polyshm.wait: %s", pshm_error_text(rc));
        lpshm_run_hooks(L);
    }
}

void lpshm_wait_register(lua_State *L)
{
    (void)L;
}
