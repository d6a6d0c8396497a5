/* SPDX-License-Identifier: MIT
 *
 * Acquiring in slices, the death of an owner, repair, and guards, for every kind of lock.
 *
 * What Lua may raise is done before a lock is taken or after it is given back. The two exceptions, the object that
 * tells of a death and the call of a repair function, run protected, and the lock is given back if they fail.
 */
#include "lua_lock.h"

#include <errno.h>

const lpshm_type lpshm_guard_type = {"polyshm.guard", "guard"};

/* What guard() and recover() return. Its user value is the lock. */
typedef struct lpshm_guard {
    const lpshm_type *type;
    lpshm_lock *lock;
    bool recovered; /* it ends an owner's death: the mark goes if the block ends well */
} lpshm_guard;

static lpshm_lock *to_lock(lua_State *L, const lpshm_noun *noun)
{
    return lpshm_to_object(L, 1, noun);
}

/* Errors */

/* Pushes {code = "EOWNERDEAD", lock =, pid =, participant =, message =} about the lock at `index`. */
static void push_death(lua_State *L, int index, const lpshm_lock *lock, const pshm_death *death)
{
    if (death->pid)
        lua_pushfstring(L, "%s: %s (process %I)", lock->object.subject, "the owner died holding it",
                        (LUAI_UACINT)death->pid);
    else
        lua_pushfstring(L, "%s: %s", lock->object.subject, "the owner died holding it");
    lpshm_push_error(L, pshm_error_name(-EOWNERDEAD), lock->object.address);
    lua_pushvalue(L, index);
    lua_setfield(L, -2, "lock");
    if (death->pid) {
        lua_pushinteger(L, death->pid);
        lua_setfield(L, -2, "pid");
    }
    if (death->participant) {
        lua_pushinteger(L, (lua_Integer)death->participant - 1);
        lua_setfield(L, -2, "participant");
    }
}

int lpshm_lock_fail(lua_State *L, const lpshm_lock *lock, int rc, const pshm_death *death)
{
    if (rc != -EOWNERDEAD)
        return lpshm_object_fail(L, &lock->object, rc);
    push_death(L, 1, lock, death);
    return lua_error(L);
}

/* The same where nil would be taken for a guard: an error object instead. */
static int fail_loudly(lua_State *L, const lpshm_lock *lock, int rc, const pshm_death *death)
{
    if (rc == -EOWNERDEAD || pshm_error_class(rc) != PSHM_CLASS_OS)
        return lpshm_lock_fail(L, lock, rc, death);
    lua_pushfstring(L, "%s: %s", lock->object.subject, pshm_error_text(rc));
    lpshm_push_error(L, pshm_error_name(rc), lock->object.address);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "lock");
    return lua_error(L);
}

/* Taking */

/* Takes the lock at 1: 0, -ETIMEDOUT or what a kind of lock says. `recover`: marked or not. */
static int take(lua_State *L, const lpshm_noun *noun, int64_t timeout, bool recover, int rc, pshm_death *death)
{
    if (rc != -EBUSY)
        return rc;
    if (!timeout && !recover)
        return -ETIMEDOUT;
    int64_t deadline = pshm_deadline(timeout);
    for (;;) {
        lpshm_lock *lock = to_lock(L, noun);
        rc = (recover ? lock->ops->recover : lock->ops->acquire)(lock->object.handle, deadline, death);
        if (rc != -EINTR)
            return rc;
        lpshm_run_hooks(L);
    }
}

/* Called with the lock, the death and nothing or the function: makes the object, and returns it or gives it to that. */
static int tell(lua_State *L)
{
    const lpshm_lock *lock = lua_touserdata(L, 1);
    push_death(L, 1, lock, lua_touserdata(L, 2));
    if (lua_isnil(L, 3))
        return 1;
    lua_call(L, 1, 0);
    return 0;
}

/* Pushes what tell is called with. The death is only read. */
static void push_tell(lua_State *L, const pshm_death *death)
{
    lua_pushcfunction(L, tell);
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, (void *)(uintptr_t)death);
}

bool lpshm_lock_repair(lua_State *L, lpshm_lock *lock, const pshm_death *death)
{
    push_tell(L, death);
    lua_getiuservalue(L, 1, LPSHM_LOCK_REPAIR);
    if (lua_pcall(L, 3, 0, 0) != LUA_OK) {
        (void)lock->ops->release(lock->object.handle);
        return false;
    }
    int rc = lock->ops->consistent(lock->object.handle);
    if (rc) {
        (void)lock->ops->release(lock->object.handle);
        lua_pushfstring(L, "%s: %s", "after repair", pshm_error_text(rc));
    }
    return !rc;
}

int lpshm_lock_wait(lua_State *L, const lpshm_noun *noun, int64_t timeout, int rc, pshm_death *death)
{
    lpshm_lock *lock = to_lock(L, noun);
    rc = take(L, noun, timeout, lock->repair, rc, death);
    if (!rc) {
        if (lock->repair && death->died) {
            lpshm_object_keep(&lock->object);
            bool repaired = lpshm_lock_repair(L, lock, death);
            lpshm_object_let_go(&lock->object);
            if (!repaired)
                return lua_error(L);
        }
        lua_pushboolean(L, 1);
        return 1;
    }
    bool again = !timeout && (rc == PSHM_ERELOCK || rc == PSHM_EHELD);
    if (again || rc == -ETIMEDOUT) {
        lua_pushboolean(L, 0);
        lua_pushstring(L, again ? "held" : "timeout");
        return 2;
    }
    return lpshm_lock_fail(L, to_lock(L, noun), rc, death);
}

/* Guards */

static const lpshm_noun *my_noun(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static lpshm_guard *new_guard(lua_State *L)
{
    lpshm_guard *guard = lpshm_new(L, &lpshm_guard_type, sizeof *guard, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    return guard;
}

/* The lock is held: it is the guard's now. */
static void arm(lpshm_guard *guard, lpshm_lock *lock, bool recovered)
{
    lpshm_object_keep(&lock->object);
    guard->lock = lock;
    guard->recovered = recovered;
    guard->type = &lpshm_guard_type;
}

/* Gives the lock back; `clean`: the block that it guarded ended well. */
static int disarm(lpshm_guard *guard, bool clean)
{
    lpshm_lock *lock = guard->lock;
    int rc = 0;
    guard->type = &lpshm_closed;
    if (guard->recovered && clean)
        rc = lock->ops->consistent(lock->object.handle);
    int released = lock->ops->release(lock->object.handle);
    return rc ? rc : released;
}

/* lock:guard(timeout) -> guard
 * Acquires, for `local held <close> = lock:guard()`. Never returns nil: raises an error object, {code = "ETIMEDOUT"}
 * or {code = "EOWNERDEAD"}. */
static int lock_guard(lua_State *L)
{
    const lpshm_noun *noun = my_noun(L);
    pshm_death death = {0};
    lpshm_lock *lock = to_lock(L, noun);
    int64_t timeout = lpshm_timeout(L, 2);
    lua_settop(L, 2);
    lpshm_guard *guard = new_guard(L);
    lock = to_lock(L, noun);
    int rc = lock->repair ? -EBUSY : lock->ops->attempt(lock->object.handle, &death);
    if (rc)
        rc = take(L, noun, timeout, lock->repair, rc, &death);
    if (rc)
        return fail_loudly(L, to_lock(L, noun), rc, &death);
    arm(guard, lock, false);
    if (lock->repair && death.died && !lpshm_lock_repair(L, lock, &death)) {
        guard->type = &lpshm_closed;
        lpshm_object_let_go(&lock->object);
        return lua_error(L);
    }
    lua_settop(L, 3); /* the guard */
    return 1;
}

/* lock:recover(timeout) -> guard, died
 * Acquires whether the owner before died or not; `died` says so: {code = "EOWNERDEAD", lock =, pid =, participant =} or
 * nil. The mark goes when the guard ends well, and stays if an error ends it. Raises as guard does. */
static int lock_recover(lua_State *L)
{
    const lpshm_noun *noun = my_noun(L);
    pshm_death death = {0};
    lpshm_lock *lock = to_lock(L, noun);
    int64_t timeout = lpshm_timeout(L, 2);
    lua_settop(L, 2);
    lpshm_guard *guard = new_guard(L);
    int rc = take(L, noun, timeout, true, -EBUSY, &death);
    if (rc)
        return fail_loudly(L, to_lock(L, noun), rc, &death);
    arm(guard, lock, death.died);
    if (!death.died)
        return 1;
    push_tell(L, &death);
    lua_pushnil(L);
    if (lua_pcall(L, 3, 1, 0) != LUA_OK) {
        (void)disarm(guard, false);
        lpshm_object_let_go(&lock->object);
        return lua_error(L);
    }
    return 2;
}

/* guard:release()
 * Gives the lock back now; after a death that recover() told of, the mark goes too. Once is enough. */
static int guard_release(lua_State *L)
{
    lpshm_guard *guard = lpshm_to_close(L, 1, &lpshm_guard_type, sizeof *guard);
    if (!guard)
        return 0;
    lpshm_lock *lock = guard->lock;
    int rc = disarm(guard, true);
    lpshm_object_let_go(&lock->object);
    return rc ? lpshm_object_fail(L, &lock->object, rc) : 0;
}

/* __close and __gc. With an error on its way, or forgotten, the mark of a death stays; then and only then nothing is
 * said of a release that failed. */
static int guard_close(lua_State *L)
{
    lpshm_guard *guard = lpshm_to_close(L, 1, &lpshm_guard_type, sizeof *guard);
    if (!guard)
        return 0;
    if (lua_gettop(L) >= 2 && lua_isnil(L, 2)) {
        lua_settop(L, 1);
        return guard_release(L);
    }
    lpshm_lock *lock = guard->lock;
    (void)disarm(guard, false);
    lpshm_object_let_go(&lock->object);
    return 0;
}

static int guard_tostring(lua_State *L)
{
    const lpshm_guard *guard = lpshm_to_close(L, 1, &lpshm_guard_type, sizeof *guard);
    if (!guard)
        lua_pushfstring(L, "%s (released)", lpshm_guard_type.name);
    else
        lua_pushfstring(L, "%s (%s)", lpshm_guard_type.name, guard->lock->object.subject);
    return 1;
}

/* Looking */

/* lock:locked() -> boolean
 * Does a living owner have it? Of a record lock: would an acquire have to wait? */
static int lock_locked(lua_State *L)
{
    const lpshm_lock *lock = to_lock(L, my_noun(L));
    int rc = lock->ops->locked(lock->object.handle);
    if (rc < 0)
        return lpshm_object_fail(L, &lock->object, rc);
    lua_pushboolean(L, rc);
    return 1;
}

/* lock:owner() -> pid | nil
 * The process that has it; nil for nobody, and for one that does not use polyshm. */
static int lock_owner(lua_State *L)
{
    uint32_t pid;
    const lpshm_lock *lock = to_lock(L, my_noun(L));
    int rc = lock->ops->owner(lock->object.handle, &pid);
    if (rc)
        return lpshm_object_fail(L, &lock->object, rc);
    if (pid)
        lua_pushinteger(L, pid);
    else
        lua_pushnil(L);
    return 1;
}

/* Beginning */

void lpshm_lock_set(lua_State *L, const lpshm_lock_ops *ops, int repair)
{
    lpshm_lock *lock = lua_touserdata(L, -1);
    lock->ops = ops;
    lock->repair = repair != 0;
    if (repair) {
        lua_pushvalue(L, repair);
        lua_setiuservalue(L, -2, LPSHM_LOCK_REPAIR);
    }
}

void lpshm_new_lock_noun(lua_State *L, const lpshm_noun *noun, const lpshm_lock_ops *ops, const luaL_Reg *methods,
                         lua_CFunction index)
{
    const luaL_Reg shared[] = {{"guard", lock_guard},
                               {"locked", lock_locked},
                               {ops->recover ? "recover" : NULL, lock_recover},
                               {ops->owner ? "owner" : NULL, lock_owner}};
    lpshm_new_noun(L, noun, methods, index);
    for (size_t i = 0; i < sizeof shared / sizeof shared[0]; i++)
        if (shared[i].name) {
            lua_pushlightuserdata(L, (void *)(uintptr_t)noun);
            lua_pushcclosure(L, shared[i].func, 1);
            lua_setfield(L, -2, shared[i].name);
        }
}

void lpshm_lock_register(lua_State *L)
{
    static const luaL_Reg meta[] = {{"__gc", guard_close},
                                    {"__close", guard_close},
                                    {"__tostring", guard_tostring},
                                    {NULL, NULL}};
    static const luaL_Reg methods[] = {{"release", guard_release}, {NULL, NULL}};
    lpshm_new_type(L, &lpshm_guard_type, meta, methods, NULL);
    lua_pop(L, 1);
}
