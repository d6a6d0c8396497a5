/* SPDX-License-Identifier: MIT
 *
 * Events in Lua.
 */
#include <polyshm/event.h>

#include "lua_object.h"

typedef struct lpshm_event {
    lpshm_object object;
    pshm_event event;
} lpshm_event;

static int event_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                      const void *options, bool *created)
{
    return pshm_event_init(handle, arena, name, length, create, *(const int *)options, created);
}

static void event_fini(void *handle)
{
    pshm_event_fini(handle);
}

const lpshm_noun lpshm_event_noun = {
    .type = {"polyshm.event", "event"},
    .size = sizeof(lpshm_event),
    .handle = offsetof(lpshm_event, event),
    .init = event_init,
    .fini = event_fini,
};

int lpshm_event_open(lua_State *L)
{
    static const int any = PSHM_AUTOMATIC_ANY;
    return lpshm_object_open(L, &lpshm_event_noun, &any, NULL);
}

/* arena:event(name, {auto =}) -> event
 * Opens the event, or makes it, clear, where the arena may be written. `auto` says what it must be (default: what it is;
 * false for a new one): does it clear itself, and let one waiter go each time? Raises if it cannot. */
int lpshm_event_of(lua_State *L)
{
    struct event_options {
        int automatic;
    } options = {PSHM_AUTOMATIC_ANY};
    static const lpshm_option names[] = {
        {"auto", LPSHM_OPTION_TRISTATE, offsetof(struct event_options, automatic)},
    };
    lpshm_object_arguments(L);
    lpshm_options(L, 3, names, sizeof names / sizeof names[0], &options);
    (void)lpshm_object_of(L, &lpshm_event_noun, &options.automatic);
    return 1;
}

/* event:set() */
static int event_set(lua_State *L)
{
    lpshm_event *self = lpshm_to_object(L, 1, &lpshm_event_noun);
    int rc = pshm_event_set(&self->event);
    return PSHM_LIKELY(!rc) ? 0 : lpshm_object_fail(L, &self->object, rc);
}

/* event:clear() */
static int event_clear(lua_State *L)
{
    lpshm_event *self = lpshm_to_object(L, 1, &lpshm_event_noun);
    int rc = pshm_event_clear(&self->event);
    return PSHM_LIKELY(!rc) ? 0 : lpshm_object_fail(L, &self->object, rc);
}

/* event:is_set() -> boolean */
static int event_is_set(lua_State *L)
{
    lpshm_event *self = lpshm_to_object(L, 1, &lpshm_event_noun);
    int rc = pshm_event_is_set(&self->event);
    if (PSHM_UNLIKELY(rc < 0))
        return lpshm_object_fail(L, &self->object, rc);
    lua_pushboolean(L, rc);
    return 1;
}

static int wait_slice(void *handle, int64_t deadline, void *data)
{
    return pshm_event_wait(handle, *(uint32_t *)data, deadline);
}

/* event:wait(timeout) -> true | false, "timeout"
 * Waits up to `timeout` seconds (nil: for ever, 0: not at all) until it is set, or was set since the wait began. Of one that
 * clears itself it takes the set. */
static int event_wait(lua_State *L)
{
    lpshm_event *self = lpshm_to_object(L, 1, &lpshm_event_noun);
    int64_t timeout = lpshm_timeout(L, 2);
    uint32_t since = 0;
    int rc = pshm_event_since(&self->event, &since);
    if (rc)
        return lpshm_object_fail(L, &self->object, rc);
    return lpshm_object_wait(L, &lpshm_event_noun, timeout, wait_slice, &since);
}

/* event:auto() -> boolean
 * Does it clear itself, and let one waiter go each time? */
static int event_auto(lua_State *L)
{
    lpshm_event *self = lpshm_to_object(L, 1, &lpshm_event_noun);
    lua_pushboolean(L, self->event.automatic);
    return 1;
}

void lpshm_event_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"set", event_set},   {"clear", event_clear}, {"is_set", event_is_set},
                                       {"wait", event_wait}, {"auto", event_auto},   {NULL, NULL}};
    lpshm_new_noun(L, &lpshm_event_noun, methods, NULL);
    lua_pop(L, 1);
}
