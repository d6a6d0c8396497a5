/* SPDX-License-Identifier: MIT
 *
 * Latches in Lua.
 */
#include <polyshm/latch.h>

#include "lua_object.h"

typedef struct lpshm_latch {
    lpshm_object object;
    pshm_latch latch;
} lpshm_latch;

static int latch_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                      const void *options, bool *created)
{
    return pshm_latch_init(handle, arena, name, length, create, *(const int64_t *)options, created);
}

static void latch_fini(void *handle)
{
    pshm_latch_fini(handle);
}

const lpshm_noun lpshm_latch_noun = {
    .type = {"polyshm.latch", "latch"},
    .size = sizeof(lpshm_latch),
    .handle = offsetof(lpshm_latch, latch),
    .init = latch_init,
    .fini = latch_fini,
};

int lpshm_latch_open(lua_State *L)
{
    static const int64_t any = PSHM_LATCH_ANY;
    return lpshm_object_open(L, &lpshm_latch_noun, &any, NULL);
}

/* arena:latch(name, n) -> latch
 * Opens the latch, or makes it with `n` to count where the arena may be written. Raises if it cannot. */
int lpshm_latch_of(lua_State *L)
{
    lpshm_object_arguments(L);
    const int64_t count = lua_isnoneornil(L, 3) ? PSHM_LATCH_ANY : (int64_t)lpshm_count(L, 3, "n");
    (void)lpshm_object_of(L, &lpshm_latch_noun, &count);
    return 1;
}

static int left_or_fail(lua_State *L, const lpshm_latch *self, int rc, uint32_t left)
{
    if (PSHM_UNLIKELY(rc))
        return lpshm_object_fail(L, &self->object, rc);
    lua_pushinteger(L, left);
    return 1;
}

/* latch:count_down(n) -> integer
 * Counts `n` (1) down, to 0 at the least; what is left. */
static int latch_count_down(lua_State *L)
{
    lpshm_latch *self = lpshm_to_object(L, 1, &lpshm_latch_noun);
    uint32_t left = 0;
    int rc = pshm_latch_count_down(&self->latch, lpshm_opt_count(L, 2, "n", 1), &left);
    return left_or_fail(L, self, rc, left);
}

/* latch:count() -> integer */
static int latch_count(lua_State *L)
{
    lpshm_latch *self = lpshm_to_object(L, 1, &lpshm_latch_noun);
    uint32_t left = 0;
    int rc = pshm_latch_count(&self->latch, &left);
    return left_or_fail(L, self, rc, left);
}

static int wait_slice(void *handle, int64_t deadline, void *data)
{
    (void)data;
    return pshm_latch_wait(handle, deadline);
}

/* latch:wait(timeout) -> true | false, "timeout"
 * Waits up to `timeout` seconds until it is 0: nil for ever, 0 not at all. */
static int latch_wait(lua_State *L)
{
    (void)lpshm_to_object(L, 1, &lpshm_latch_noun);
    return lpshm_object_wait(L, &lpshm_latch_noun, lpshm_timeout(L, 2), wait_slice, NULL);
}

void lpshm_latch_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"count_down", latch_count_down},
                                       {"count", latch_count},
                                       {"wait", latch_wait},
                                       {NULL, NULL}};
    lpshm_new_noun(L, &lpshm_latch_noun, methods, NULL);
    lua_pop(L, 1);
}
