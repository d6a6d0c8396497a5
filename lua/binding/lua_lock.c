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

static lpshm_lock *to_lock(lua_State *L, const lpshm_type *type)
{
    return lpshm_to(L, 1, type, sizeof(lpshm_lock));
}

/* While a guard or a repair has the handle, the end of its userdata leaves it alone. */
static void keep(lpshm_lock *lock)
{
    lock->guards++;
}

static void let_go(lpshm_lock *lock)
{
    if (!--lock->guards && lock->ended)
        lock->ops->end(lock);
}

/* Errors */

/* Pushes {code = "EOWNERDEAD", lock =, pid =, participant =, message =} about the lock at `index`. */
static void push_death(lua_State *L, int index, const lpshm_lock *lock, const pshm_death *death)
{
    if (death->pid)
        lua_pushfstring(L, "%s: %s (process %I)", lock->subject, "the owner died holding it", (LUAI_UACINT)death->pid);
    else
        lua_pushfstring(L, "%s: %s", lock->subject, "the owner died holding it");
    lpshm_push_error(L, pshm_error_name(-EOWNERDEAD), lock->address);
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

int lpshm_lock_fail(lua_State *L, const lpshm_lock *lock, int rc)
{
    if (rc == PSHM_ECLOSED)
        return luaL_error(L, "%s is closed", lock->ops->within);
    return lpshm_fail_about(L, lock->subject, lock->address, rc);
}

static int fail(lua_State *L, const lpshm_lock *lock, int rc, const pshm_death *death)
{
    if (rc != -EOWNERDEAD)
        return lpshm_lock_fail(L, lock, rc);
    push_death(L, 1, lock, death);
    return lua_error(L);
}

/* The same where nil would be taken for a guard: an error object instead. */
static int fail_loudly(lua_State *L, const lpshm_lock *lock, int rc, const pshm_death *death)
{
    if (rc == -EOWNERDEAD || pshm_error_class(rc) != PSHM_CLASS_OS)
        return fail(L, lock, rc, death);
    lua_pushfstring(L, "%s: %s", lock->subject, pshm_error_text(rc));
    lpshm_push_error(L, pshm_error_name(rc), lock->address);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "lock");
    return lua_error(L);
}

/* Taking */

/* Takes the lock at 1: 0, -ETIMEDOUT or what a kind of lock says. `recover`: marked or not. */
static int take(lua_State *L, const lpshm_type *type, int64_t timeout, bool recover, int rc, pshm_death *death)
{
    if (rc != -EBUSY)
        return rc;
    if (!timeout && !recover)
        return -ETIMEDOUT;
    int64_t deadline = pshm_deadline(timeout);
    for (;;) {
        lpshm_lock *lock = to_lock(L, type);
        rc = recover ? lock->ops->recover(lock, deadline, death) : lock->ops->acquire(lock, deadline, death);
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

/* With the lock at 1 held, and kept: runs its repair function. If that returns, the lock is clean. If it raises, the
 * lock is given back with its mark: false, and the error is at the top of the stack. */
static bool repair(lua_State *L, lpshm_lock *lock, const pshm_death *death)
{
    push_tell(L, death);
    lua_getiuservalue(L, 1, LPSHM_LOCK_REPAIR);
    if (lua_pcall(L, 3, 0, 0) != LUA_OK) {
        (void)lock->ops->release(lock);
        return false;
    }
    int rc = lock->ops->consistent(lock);
    if (rc) {
        (void)lock->ops->release(lock);
        lua_pushfstring(L, "%s: %s", "after repair", pshm_error_text(rc));
    }
    return !rc;
}

int lpshm_lock_acquire(lua_State *L, const lpshm_type *type, int64_t timeout, int rc, pshm_death *death)
{
    lpshm_lock *lock = to_lock(L, type);
    rc = take(L, type, timeout, lock->repair, rc, death);
    if (!rc) {
        if (lock->repair && death->died) {
            keep(lock);
            bool repaired = repair(L, lock, death);
            let_go(lock);
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
    return fail(L, to_lock(L, type), rc, death);
}

/* Guards */

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
    keep(lock);
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
        rc = lock->ops->consistent(lock);
    int released = lock->ops->release(lock);
    return rc ? rc : released;
}

int lpshm_lock_guard(lua_State *L, const lpshm_type *type)
{
    pshm_death death = {0};
    lpshm_lock *lock = to_lock(L, type);
    int64_t timeout = lpshm_timeout(L, 2);
    lua_settop(L, 2);
    lpshm_guard *guard = new_guard(L);
    lock = to_lock(L, type);
    int rc = lock->repair ? -EBUSY : lock->ops->attempt(lock, &death);
    if (rc)
        rc = take(L, type, timeout, lock->repair, rc, &death);
    if (rc)
        return fail_loudly(L, to_lock(L, type), rc, &death);
    arm(guard, lock, false);
    if (lock->repair && death.died && !repair(L, lock, &death)) {
        guard->type = &lpshm_closed;
        let_go(lock);
        return lua_error(L);
    }
    lua_settop(L, 3); /* the guard */
    return 1;
}

int lpshm_lock_recover(lua_State *L, const lpshm_type *type)
{
    pshm_death death = {0};
    lpshm_lock *lock = to_lock(L, type);
    int64_t timeout = lpshm_timeout(L, 2);
    lua_settop(L, 2);
    lpshm_guard *guard = new_guard(L);
    int rc = take(L, type, timeout, true, -EBUSY, &death);
    if (rc)
        return fail_loudly(L, to_lock(L, type), rc, &death);
    arm(guard, lock, death.died);
    if (!death.died)
        return 1;
    push_tell(L, &death);
    lua_pushnil(L);
    if (lua_pcall(L, 3, 1, 0) != LUA_OK) {
        (void)disarm(guard, false);
        let_go(lock);
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
    let_go(lock);
    return rc ? lpshm_lock_fail(L, lock, rc) : 0;
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
    let_go(lock);
    return 0;
}

static int guard_tostring(lua_State *L)
{
    const lpshm_guard *guard = lpshm_to_close(L, 1, &lpshm_guard_type, sizeof *guard);
    if (!guard)
        lua_pushfstring(L, "%s (released)", lpshm_guard_type.name);
    else
        lua_pushfstring(L, "%s (%s)", lpshm_guard_type.name, guard->lock->subject);
    return 1;
}

/* Beginning, end and text of a lock */

lpshm_lock *lpshm_lock_new(lua_State *L, const lpshm_type *type, size_t size, const lpshm_lock_ops *ops,
                           const char *address, int repair)
{
    lpshm_lock *lock = lpshm_new(L, type, size, LPSHM_LOCK_VALUES);
    lua_insert(L, -2);
    lock->subject = lua_tostring(L, -1);
    lua_setiuservalue(L, -2, LPSHM_LOCK_SUBJECT);
    lock->address = lua_pushstring(L, address);
    lua_setiuservalue(L, -2, LPSHM_LOCK_ADDRESS);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, LPSHM_LOCK_WITHIN);
    if (repair) {
        lua_pushvalue(L, repair);
        lua_setiuservalue(L, -2, LPSHM_LOCK_REPAIR);
    }
    lock->repair = repair != 0;
    lock->ops = ops;
    return lock;
}

int lpshm_lock_close(lua_State *L, const lpshm_type *type)
{
    lpshm_lock *lock = lpshm_to_close(L, 1, type, sizeof *lock);
    if (lock) {
        lock->type = &lpshm_closed;
        lock->ended = true;
        if (!lock->guards)
            lock->ops->end(lock);
    }
    return 0;
}

int lpshm_lock_tostring(lua_State *L, const lpshm_type *type)
{
    const lpshm_lock *lock = lpshm_to_close(L, 1, type, sizeof *lock);
    if (!lock)
        lua_pushfstring(L, "%s (closed)", type->name);
    else
        lua_pushfstring(L, "%s (%s)", type->name, lock->subject);
    return 1;
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
