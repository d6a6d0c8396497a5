/* SPDX-License-Identifier: MIT
 *
 * Barriers in Lua.
 */
#include <errno.h>
#include <string.h>

#include <polyshm/barrier.h>

#include "lua_object.h"

typedef struct lpshm_barrier {
    lpshm_object object;
    pshm_barrier barrier;
} lpshm_barrier;

typedef struct barrier_options {
    uint64_t parties;
    pshm_on_death on_death;
} barrier_options;

static int barrier_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                        const void *options, bool *created)
{
    const barrier_options *with = options;
    return pshm_barrier_init(handle, arena, name, length, create, with->parties, with->on_death, created);
}

static void barrier_fini(void *handle)
{
    pshm_barrier_fini(handle);
}

const lpshm_noun lpshm_barrier_noun = {
    .type = {"polyshm.barrier", "barrier"},
    .size = sizeof(lpshm_barrier),
    .handle = offsetof(lpshm_barrier, barrier),
    .init = barrier_init,
    .fini = barrier_fini,
};

static lpshm_barrier *to_barrier(lua_State *L)
{
    return lpshm_to_object(L, 1, &lpshm_barrier_noun);
}

int lpshm_barrier_open(lua_State *L)
{
    static const barrier_options any = {0, PSHM_ON_DEATH_UNSET};
    return lpshm_object_open(L, &lpshm_barrier_noun, &any, NULL);
}

/* arena:barrier(name, parties, {on_death =}) -> barrier
 * Opens the barrier, or makes it with so many parties where the arena may be written. `on_death`: what the death of a member
 * does, "break" (of a new one, unless said) or "shrink". Raises if it cannot. */
int lpshm_barrier_of(lua_State *L)
{
    barrier_options options = {0, PSHM_ON_DEATH_UNSET};
    static const lpshm_option names[] = {{"on_death", LPSHM_OPTION_ON_DEATH, offsetof(barrier_options, on_death)}};
    lpshm_object_arguments(L);
    options.parties = lpshm_opt_count(L, 3, "parties", 0);
    luaL_argcheck(L, options.parties || lua_isnoneornil(L, 3), 3, "parties must be at least 1");
    lpshm_options(L, 4, names, sizeof names / sizeof names[0], &options);
    (void)lpshm_object_of(L, &lpshm_barrier_noun, &options);
    return 1;
}

/* Waiting */

/* Called with the barrier, which a hook may close. */
static int run_hooks(lua_State *L)
{
    lpshm_run_hooks(L);
    (void)to_barrier(L);
    return 0;
}

/* Between two slices of a wait that has arrived: what a hook raises is at the top, and it has not come after all. */
static bool are_hooks_well(lua_State *L, lpshm_barrier *self, const pshm_barrier_ticket *ticket)
{
    lua_pushcfunction(L, run_hooks);
    lua_pushvalue(L, 1);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK)
        return true;
    while (pshm_barrier_withdraw(&self->barrier, ticket) == -EINTR)
        continue;
    return false;
}

static int arrive_slice(void *handle, int64_t deadline, void *data)
{
    return pshm_barrier_arrive(handle, data, deadline);
}

/* barrier:wait(timeout) -> integer
 * Waits until as many have come as there are parties; how many had come before: 0 to parties - 1, another number for each.
 * The first wait makes this thread a member, whose death counts. Raises {code = "EBROKEN"} if it is or gets broken, is reset
 * meanwhile, or after `timeout` seconds (nil: for ever), which breaks it for all. */
static int barrier_wait(lua_State *L)
{
    lpshm_barrier *self = to_barrier(L);
    int64_t timeout = lpshm_timeout(L, 2), deadline = pshm_deadline(timeout);
    pshm_barrier_ticket ticket;
    int rc = lpshm_object_slices(L, &lpshm_barrier_noun, timeout, arrive_slice, &ticket);
    self = to_barrier(L);
    if (!rc) {
        lpshm_object_keep(&self->object);
        bool well = true;
        do
            rc = pshm_barrier_sleep(&self->barrier, &ticket, deadline);
        while (rc == -EINTR && (well = are_hooks_well(L, self, &ticket)));
        lpshm_object_let_go(&self->object);
        if (!well)
            return lua_error(L);
    }
    if (rc)
        return lpshm_object_fail_loudly(L, &self->object, rc == -ETIMEDOUT ? PSHM_EBROKEN : rc);
    lua_pushinteger(L, ticket.index);
    return 1;
}

/* For all */

static int join_slice(void *handle, int64_t deadline, void *data)
{
    (void)deadline;
    (void)data;
    return pshm_barrier_join(handle);
}

static int leave_slice(void *handle, int64_t deadline, void *data)
{
    (void)deadline;
    (void)data;
    return pshm_barrier_leave(handle);
}

static int reset_slice(void *handle, int64_t deadline, void *data)
{
    (void)deadline;
    (void)data;
    return pshm_barrier_reset(handle);
}

static int nothing_or_fail(lua_State *L, int rc)
{
    return rc ? lpshm_object_fail_loudly(L, &to_barrier(L)->object, rc) : 0;
}

/* barrier:join()
 * Makes this thread a member before its first wait. */
static int barrier_join(lua_State *L)
{
    (void)to_barrier(L);
    return nothing_or_fail(L, lpshm_object_slices(L, &lpshm_barrier_noun, LPSHM_FOREVER, join_slice, NULL));
}

/* barrier:leave()
 * This thread is a member no longer, and another may join. One that ends without leaving counts as dead. */
static int barrier_leave(lua_State *L)
{
    (void)to_barrier(L);
    return nothing_or_fail(L, lpshm_object_slices(L, &lpshm_barrier_noun, LPSHM_FOREVER, leave_slice, NULL));
}

/* barrier:reset()
 * Makes it whole again; who waits gets {code = "EBROKEN"}. Where a death breaks it, the dead are members no longer. */
static int barrier_reset(lua_State *L)
{
    (void)to_barrier(L);
    return nothing_or_fail(L, lpshm_object_slices(L, &lpshm_barrier_noun, LPSHM_FOREVER, reset_slice, NULL));
}

/* barrier:abort()
 * Breaks it: who waits, and who comes, gets {code = "EBROKEN"} until somebody resets it. */
static int barrier_abort(lua_State *L)
{
    return nothing_or_fail(L, pshm_barrier_abort(&to_barrier(L)->barrier));
}

/* barrier:parties() -> integer, barrier:n_waiting() -> integer, barrier:broken() -> boolean, barrier:on_death() -> string */
static int barrier_parties(lua_State *L)
{
    lua_pushinteger(L, to_barrier(L)->barrier.parties);
    return 1;
}

static int barrier_n_waiting(lua_State *L)
{
    lpshm_barrier *self = to_barrier(L);
    int rc = pshm_barrier_waiting(&self->barrier);
    if (rc < 0)
        return lpshm_object_fail(L, &self->object, rc);
    lua_pushinteger(L, rc);
    return 1;
}

static int barrier_broken(lua_State *L)
{
    lpshm_barrier *self = to_barrier(L);
    int rc = pshm_barrier_broken(&self->barrier);
    if (rc < 0)
        return lpshm_object_fail(L, &self->object, rc);
    lua_pushboolean(L, rc);
    return 1;
}

static int barrier_on_death(lua_State *L)
{
    lua_pushstring(L, pshm_on_death_name(to_barrier(L)->barrier.on_death));
    return 1;
}

void lpshm_barrier_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"wait", barrier_wait},           {"join", barrier_join},
                                       {"leave", barrier_leave},         {"reset", barrier_reset},
                                       {"abort", barrier_abort},         {"parties", barrier_parties},
                                       {"n_waiting", barrier_n_waiting}, {"broken", barrier_broken},
                                       {"on_death", barrier_on_death},   {NULL, NULL}};
    lpshm_new_noun(L, &lpshm_barrier_noun, methods, NULL);
    lua_pop(L, 1);
}
