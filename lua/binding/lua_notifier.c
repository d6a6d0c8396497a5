/* SPDX-License-Identifier: MIT
 *
 * pollfd() of whatever can be waited for: a notifier for each handle that is asked, which is closed with it.
 */
#include "lua_wait.h"

#include <string.h>

/* <object>:pollfd(at_least) -> integer
 * A descriptor for an event loop, readable from when it may be ready. Each call arms it anew, once: then try, and if that
 * fails call it again before you poll. `at_least` is for a counter (default: 1) and permits alone. */
int lpshm_pollfd(lua_State *L)
{
    pshm_waitable waitable;
    pshm_notifier **notifier;
    lpshm_object *self = NULL;
    int64_t least = luaL_optinteger(L, 2, 1);
    if (!lpshm_participant_waitable(L, 1, &waitable, &notifier)) {
        self = (lpshm_object *)(uintptr_t)lpshm_waitable(L, 1, &waitable);
        if (!self)
            return luaL_error(L, "cannot be waited for: %s", luaL_tolstring(L, 1, NULL));
        notifier = &self->notifier;
    }
    const char *noun = waitable.object ? pshm_noun_name(waitable.object->kind) : "participant";
    if (!lua_isnoneornil(L, 2) && strcmp(noun, "counter") != 0 && strcmp(noun, "permits") != 0)
        return luaL_error(L, "only a counter or permits goes with a number");
    waitable.least = least;
    int rc = pshm_notifier_pollfd(notifier, &waitable);
    if (rc < 0)
        return lpshm_waitable_fail(L, 1, rc);
    lua_pushinteger(L, rc);
    return 1;
}

void lpshm_notifier_register(lua_State *L)
{
    (void)L;
}
