/* SPDX-License-Identifier: MIT
 *
 * Beginning, end, texts, errors and waits of every handle; lua_object.h says what each is for. The shared methods have
 * their noun as an upvalue.
 */
#include "lua_object.h"

#include "lua_arena.h"
#include "lua_wait.h"

#include <errno.h>

/* Beginning */

/* Takes the subject at the top; the address stands below it. */
static lpshm_object *new_object(lua_State *L, const lpshm_noun *noun, int within)
{
    lpshm_object *self = lpshm_new(L, &noun->type, noun->size, LPSHM_OBJECT_VALUES + noun->values);
    self->noun = noun;
    self->handle = (char *)self + noun->handle;
    lua_pushvalue(L, within);
    lua_setiuservalue(L, -2, LPSHM_OBJECT_WITHIN);
    lua_insert(L, -3);
    self->subject = lua_tostring(L, -1);
    lua_setiuservalue(L, -3, LPSHM_OBJECT_SUBJECT);
    self->address = lua_tostring(L, -1);
    lua_setiuservalue(L, -2, LPSHM_OBJECT_ADDRESS);
    return self;
}

void *lpshm_object_new(lua_State *L, const lpshm_noun *noun, const char *address)
{
    lua_pushstring(L, address);
    lua_insert(L, -2);
    return new_object(L, noun, 1);
}

void *lpshm_object_share(lua_State *L, const lpshm_noun *noun, int index)
{
    index = lua_absindex(L, index);
    lua_getiuservalue(L, index, LPSHM_OBJECT_ADDRESS);
    lua_getiuservalue(L, index, LPSHM_OBJECT_SUBJECT);
    lpshm_object *self = new_object(L, noun, index);
    lpshm_object *base = lua_touserdata(L, index);
    lpshm_object_keep(base);
    self->base = base;
    self->handle = base->handle;
    self->type = &noun->type;
    return self;
}

void lpshm_object_arguments(lua_State *L)
{
    (void)lpshm_to_arena(L, 1);
    (void)lpshm_object_name(L, NULL);
}

/* Pushes a handle on the object whose name is at 2 in the arena at 1, closed if that fails. 0 or a code. */
static int push_object(lua_State *L, const lpshm_noun *noun, bool create, const void *options, lpshm_object **result)
{
    size_t length;
    bool created;
    const char *name = lpshm_object_name(L, &length);
    const char *address = lpshm_to_arena(L, 1)->address;
    lua_pushfstring(L, "%s: %s \"%s\"", address, noun->type.noun, name);
    lpshm_object *self = *result = lpshm_object_new(L, noun, address);
    for (;;) {
        pshm_arena *arena = lpshm_to_arena(L, 1)->arena;
        int rc = noun->init(self->handle, arena, name, length, create && !arena->readonly, options, &created);
        if (!rc)
            break;
        if (rc != -EINTR)
            return rc;
        lpshm_run_hooks(L);
    }
    self->type = &noun->type;
    return 0;
}

void *lpshm_object_of(lua_State *L, const lpshm_noun *noun, const void *options)
{
    lpshm_object *self;
    int rc = push_object(L, noun, true, options, &self);
    if (rc)
        lpshm_object_fail_loudly(L, self, rc);
    return self;
}

int lpshm_object_open(lua_State *L, const lpshm_noun *noun, const void *options, void *self)
{
    lpshm_object *opened;
    int rc = push_object(L, noun, false, options, &opened);
    if (self)
        *(void **)self = opened;
    return rc;
}

/* End */

static void end(lpshm_object *self)
{
    if (self->base)
        lpshm_object_let_go(self->base);
    else
        self->noun->fini(self->handle);
}

void lpshm_object_keep(lpshm_object *self)
{
    self->uses++;
}

void lpshm_object_let_go(lpshm_object *self)
{
    if (!--self->uses && self->ended)
        end(self);
}

/* Methods of all nouns */

static const lpshm_noun *my_noun(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

/* __gc and __close: the end of the handle, not of what it is on. */
static int object_close(lua_State *L)
{
    lpshm_object *self = lpshm_to_close(L, 1, &my_noun(L)->type, sizeof *self);
    if (self) {
        self->type = &lpshm_closed;
        self->ended = true;
        if (self->notifier)
            pshm_notifier_close(self->notifier);
        self->notifier = NULL;
        if (!self->uses)
            end(self);
    }
    return 0;
}

static int object_tostring(lua_State *L)
{
    const lpshm_type *type = &my_noun(L)->type;
    const lpshm_object *self = lpshm_to_close(L, 1, type, sizeof *self);
    if (!self)
        lua_pushfstring(L, "%s (closed)", type->name);
    else
        lua_pushfstring(L, "%s (%s)", type->name, self->subject);
    return 1;
}

/* <object>:name() -> string */
static int object_name(lua_State *L)
{
    const lpshm_object *self = lpshm_to_object(L, 1, my_noun(L));
    const pshm_object *object = self->handle;
    lua_pushlstring(L, object->name, object->name_size);
    return 1;
}

static int object_pollfd(lua_State *L)
{
    (void)lpshm_to_object(L, 1, my_noun(L));
    return lpshm_pollfd(L);
}

void lpshm_new_noun(lua_State *L, const lpshm_noun *noun, const luaL_Reg *methods, lua_CFunction index)
{
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg named[] = {{"name", object_name}, {"pollfd", object_pollfd}, {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", object_close},
                                    {"__close", object_close},
                                    {"__tostring", object_tostring},
                                    {NULL, NULL}};
    lpshm_new_type(L, &noun->type, none, methods, index);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &noun->type);
    lua_pushlightuserdata(L, (void *)(uintptr_t)noun);
    luaL_setfuncs(L, meta, 1);
    lua_pop(L, 1);
    if (!noun->within) {
        lua_pushlightuserdata(L, (void *)(uintptr_t)noun);
        luaL_setfuncs(L, named, 1);
    }
}

/* Codes of the core */

int lpshm_object_fail(lua_State *L, const lpshm_object *self, int rc)
{
    const char *within = self->noun->within;
    if (rc == PSHM_ECLOSED)
        return luaL_error(L, "%s is closed", within ? within : lpshm_arena_type.noun);
    return lpshm_fail_about(L, self->subject, self->address, rc);
}

int lpshm_object_fail_loudly(lua_State *L, const lpshm_object *self, int rc)
{
    if (rc == PSHM_ECLOSED)
        return lpshm_object_fail(L, self, rc);
    return lpshm_fail_loudly(L, self->subject, self->address, rc);
}

int lpshm_object_slices(lua_State *L, const lpshm_noun *noun, int64_t timeout, lpshm_slice slice, void *data)
{
    int64_t deadline = pshm_deadline(timeout);
    for (;;) {
        const lpshm_object *self = lpshm_to_object(L, 1, noun);
        int rc = slice(self->handle, deadline, data);
        if (rc != -EINTR)
            return rc;
        lpshm_run_hooks(L);
    }
}

int lpshm_object_wait(lua_State *L, const lpshm_noun *noun, int64_t timeout, lpshm_slice slice, void *data)
{
    int rc = lpshm_object_slices(L, noun, timeout, slice, data);
    if (rc && rc != -ETIMEDOUT)
        return lpshm_object_fail(L, lpshm_to_object(L, 1, noun), rc);
    lua_pushboolean(L, !rc);
    if (!rc)
        return 1;
    lua_pushliteral(L, "timeout");
    return 2;
}
