/* SPDX-License-Identifier: MIT
 *
 * The owner-death protocol. No Python code runs here with the lock held, but the user's own: repair, and the body of
 * a with.
 */
#include "py_lock.h"

#include <errno.h>

static PyObject *address_of(const py_lock *lock)
{
    const pshm_object *object = lock->head.object;
    return object != NULL ? PyUnicode_DecodeFSDefault(object->arena->address) : glue_address(lock->handle);
}

static PyObject *describe(const py_lock *lock)
{
    return lock->verbs->describe != NULL ? lock->verbs->describe(lock) : py_object_describe(lock->head.object);
}

PyObject *py_lock_raise(py_lock *lock, int rc)
{
    if (rc == GLUE_RAISED)
        return NULL;
    PyObject *address = address_of(lock);
    PyObject *detail = address == NULL ? NULL : describe(lock);
    if (detail != NULL)
        (void)glue_raise(glue_state((PyObject *)lock), rc, address, detail);
    Py_XDECREF(detail);
    Py_XDECREF(address);
    return NULL;
}

static PyObject *number_or_none(uint32_t number, uint32_t less)
{
    if (number == 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(number - less);
}

static int set_number(PyObject *died, const char *name, PyObject *number)
{
    int rc = number == NULL ? -1 : PyObject_SetAttrString(died, name, number);
    Py_XDECREF(number);
    return rc;
}

PyObject *py_lock_died(py_lock *lock, const pshm_death *death)
{
    PyObject *type = glue_state((PyObject *)lock)->owner_died;
    char pid[40] = "";
    if (death->pid != 0)
        (void)PyOS_snprintf(pid, sizeof pid, " (pid %lu)", (unsigned long)death->pid);
    PyObject *address = address_of(lock);
    PyObject *what = address == NULL ? NULL : describe(lock);
    PyObject *text = what == NULL ? NULL : PyUnicode_FromFormat("the owner%s of the %U died", pid, what);
    PyObject *died = NULL;
    if (text != NULL)
        died = PyObject_CallFunction(type, "iOO", EOWNERDEAD, text, address);
    /* Slots are counted from 0; in a pshm_death 0 is none. */
    if (died != NULL && (PyObject_SetAttrString(died, "lock", (PyObject *)lock) < 0 ||
                         set_number(died, "pid", number_or_none(death->pid, 0)) < 0 ||
                         set_number(died, "participant", number_or_none(death->participant, 1)) < 0))
        Py_CLEAR(died);
    Py_XDECREF(address);
    Py_XDECREF(what);
    Py_XDECREF(text);
    return died;
}

int py_lock_raise_died(py_lock *lock, const pshm_death *death)
{
    PyObject *died = py_lock_died(lock, death);
    if (died != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(died), died);
        Py_DECREF(died);
    }
    return GLUE_RAISED;
}

/* ---- taking it ---- */

typedef struct wait_closure {
    int (*verb)(void *mutex, int64_t deadline, pshm_death *death);
    void *mutex;
    pshm_death *death;
} wait_closure;

static int wait_step(void *closure, int64_t deadline)
{
    const wait_closure *wait = closure;
    return wait->verb(wait->mutex, deadline, wait->death);
}

static int wait_for(py_lock *lock, int (*verb)(void *, int64_t, pshm_death *), int64_t timeout, pshm_death *death)
{
    wait_closure closure = {verb, lock->mutex, death};
    return glue_wait(lock->handle, wait_step, &closure, pshm_deadline(timeout));
}

/* Takes it marked or not. 0, -ETIMEDOUT, another code, GLUE_RAISED. */
static int take_marked(py_lock *lock, int64_t timeout, pshm_death *death)
{
    int rc = lock->verbs->recover(lock->mutex, 0, death);
    if ((rc == -ETIMEDOUT && timeout != 0) || rc == -EINTR)
        rc = wait_for(lock, lock->verbs->recover, timeout, death);
    return rc;
}

int py_lock_run_repair(py_lock *lock, const py_lock_verbs *verbs, void *mutex, const pshm_death *death)
{
    int rc = GLUE_RAISED;
    PyObject *repair = Py_NewRef(lock->repair);
    PyObject *died = py_lock_died(lock, death);
    PyObject *result = died == NULL ? NULL : PyObject_CallFunctionObjArgs(repair, died, NULL);
    if (result != NULL)
        rc = verbs->consistent(mutex);
    if (rc != 0)
        (void)verbs->release(mutex);
    Py_XDECREF(result);
    Py_XDECREF(died);
    Py_DECREF(repair);
    return rc;
}

/* 0: held and clean. Else not held: -ETIMEDOUT, another code, or GLUE_RAISED. */
static int take_slowly(py_lock *lock, int64_t timeout, int rc, pshm_death *death)
{
    if (lock->repair != NULL) {
        rc = take_marked(lock, timeout, death);
        return rc == 0 && death->died ? py_lock_run_repair(lock, lock->verbs, lock->mutex, death) : rc;
    }
    if (rc == -EBUSY)
        rc = timeout == 0 ? -ETIMEDOUT : wait_for(lock, lock->verbs->acquire, timeout, death);
    return rc == -EOWNERDEAD ? py_lock_raise_died(lock, death) : rc;
}

/* Without waiting first, and then with the GIL still held: that is nearly always the whole of it. */
static inline int take(py_lock *lock, int64_t timeout)
{
    pshm_death death = {false, 0, 0};
    int rc = -EBUSY;
    if (lock->repair == NULL) {
        rc = lock->verbs->try(lock->mutex, &death);
        if (PSHM_LIKELY(rc == 0))
            return 0;
    }
    return take_slowly(lock, timeout, rc, &death);
}

/* ---- methods ---- */

PyObject *py_lock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_lock *lock = (py_lock *)self;
    int64_t timeout = -1;
    if (PSHM_UNLIKELY(nargs != 0 || kwnames != NULL) &&
        glue_acquire_args(args, nargs, kwnames, GLUE_FOR_EVER, &timeout) < 0)
        return NULL;
    int rc = take(lock, timeout);
    if (PSHM_LIKELY(rc == 0))
        Py_RETURN_TRUE;
    if (rc == -ETIMEDOUT || (rc == PSHM_ERELOCK && timeout == 0))
        Py_RETURN_FALSE;
    return py_lock_raise(lock, rc);
}

PyObject *py_lock_release(PyObject *self, PyObject *unused)
{
    (void)unused;
    py_lock *lock = (py_lock *)self;
    int rc = lock->verbs->release(lock->mutex);
    if (PSHM_LIKELY(rc == 0))
        Py_RETURN_NONE;
    return py_lock_raise(lock, rc);
}

PyObject *py_lock_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    int rc = take((py_lock *)self, -1);
    if (PSHM_LIKELY(rc == 0))
        Py_RETURN_TRUE;
    return py_lock_raise((py_lock *)self, rc);
}

/* The exception of the body goes first: a second one would hide it. */
PyObject *py_lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    py_lock *lock = (py_lock *)self;
    int rc = lock->verbs->release(lock->mutex);
    if (PSHM_LIKELY(rc == 0) || (nargs > 0 && args[0] != Py_None))
        Py_RETURN_NONE;
    return py_lock_raise(lock, rc);
}

PyObject *py_lock_locked(PyObject *self, PyObject *unused)
{
    (void)unused;
    py_lock *lock = (py_lock *)self;
    int rc = lock->verbs->locked(lock->mutex);
    if (rc < 0)
        return py_lock_raise(lock, rc);
    return PyBool_FromLong(rc);
}

PyObject *py_lock_owner(PyObject *self, PyObject *unused)
{
    (void)unused;
    py_lock *lock = (py_lock *)self;
    uint32_t pid = 0;
    int rc = lock->verbs->owner(lock->mutex, &pid);
    if (rc < 0)
        return py_lock_raise(lock, rc);
    return number_or_none(pid, 0);
}

int py_lock_repair(PyObject *value, PyObject **out)
{
    *out = value == Py_None ? NULL : value;
    if (*out == NULL || PyCallable_Check(value))
        return 0;
    PyErr_Format(PyExc_TypeError, "repair must be callable or None, not %.100s", Py_TYPE(value)->tp_name);
    return -1;
}

int py_lock_recursive(PyObject *value, pshm_recursive *out)
{
    bool truth;
    *out = PSHM_RECURSIVE_ANY;
    if (value == NULL || value == Py_None)
        return 0;
    if (glue_bool(value, &truth) < 0)
        return -1;
    *out = truth ? PSHM_RECURSIVE_YES : PSHM_RECURSIVE_NO;
    return 0;
}

int py_lock_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((py_lock *)self)->repair);
    return py_object_traverse(self, visit, arg);
}

/* The whole stays: a method that a finalizer calls later finds it. It leads nowhere, so no cycle needs it. */
int py_lock_clear(PyObject *self)
{
    Py_CLEAR(((py_lock *)self)->repair);
    return 0;
}

void py_lock_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    (void)py_lock_clear(self);
    py_object_dealloc(self);
}

/* ---- recover() ---- */

typedef struct py_recovery {
    PyObject_HEAD
    py_lock *lock;
    int64_t timeout;
} py_recovery;

static PyObject *recovery_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    const py_recovery *recovery = (py_recovery *)self;
    py_lock *lock = recovery->lock;
    pshm_death death = {false, 0, 0};
    int rc = take_marked(lock, recovery->timeout, &death);
    if (rc != 0)
        return py_lock_raise(lock, rc);
    if (!death.died)
        Py_RETURN_NONE;
    PyObject *died = py_lock_died(lock, &death);
    if (died == NULL)
        (void)lock->verbs->release(lock->mutex);
    return died;
}

static PyObject *recovery_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    py_lock *lock = ((py_recovery *)self)->lock;
    const bool raising = nargs > 0 && args[0] != Py_None;
    int rc = raising ? 0 : lock->verbs->consistent(lock->mutex);
    int released = lock->verbs->release(lock->mutex);
    if (rc == 0)
        rc = released;
    if (rc == 0 || raising)
        Py_RETURN_NONE;
    return py_lock_raise(lock, rc);
}

static int recovery_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((py_recovery *)self)->lock);
    return 0;
}

static void recovery_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((py_recovery *)self)->lock);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *recovery_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<polyshm recovery of %R>", ((py_recovery *)self)->lock);
}

static PyMethodDef recovery_methods[] = {
    {"__enter__", recovery_enter, METH_NOARGS,
     "__enter__($self, /)\n--\n\nAcquires, marked or not. The OwnerDied that left the mark, or None.\n\n"
     "Errors: TimeoutError."},
    {"__exit__", GLUE_METHOD(recovery_exit), METH_FASTCALL,
     "__exit__($self, /, *args)\n--\n\nReleases; takes the mark away first, unless the body raised."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot recovery_slots[] = {
    {Py_tp_doc, "What recover() returns: a context manager that acquires a lock whose owner may have died."},
    {Py_tp_dealloc, recovery_dealloc},
    {Py_tp_traverse, recovery_traverse},
    {Py_tp_repr, recovery_repr},
    {Py_tp_methods, recovery_methods},
    {0, NULL},
};

static PyType_Spec recovery_spec = {"polyshm._Recovery", sizeof(py_recovery), 0,
                                    GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, recovery_slots};

int py_lock_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &recovery_spec, true, &state->recovery_type);
}

PyObject *py_lock_recover(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"recover", 0, 1, 1, {"timeout"}};
    PyObject *given[1];
    int64_t timeout = -1;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_timeout(given[0], GLUE_REFUSED, &timeout) < 0)
        return NULL;
    PyTypeObject *type = (PyTypeObject *)glue_state(self)->recovery_type;
    py_recovery *recovery = (py_recovery *)type->tp_alloc(type, 0);
    if (recovery == NULL)
        return NULL;
    Py_INCREF(self);
    recovery->lock = (py_lock *)self;
    recovery->timeout = timeout;
    return (PyObject *)recovery;
}
