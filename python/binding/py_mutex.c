/* SPDX-License-Identifier: MIT
 *
 * polyshm.Mutex: the protocol of py_lock.h over the mutex of an arena.
 */
#include "py_lock.h"

typedef struct py_mutex {
    py_lock lock;
    pshm_mutex mutex;
} py_mutex;

/* ---- verbs ---- */

static int verb_try(void *mutex, pshm_death *death)
{
    return pshm_mutex_try(mutex, death);
}

static int verb_acquire(void *mutex, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_acquire(mutex, deadline, death);
}

static int verb_recover(void *mutex, int64_t deadline, pshm_death *death)
{
    return pshm_mutex_recover(mutex, deadline, death);
}

static int verb_consistent(void *mutex)
{
    return pshm_mutex_consistent(mutex);
}

static int verb_release(void *mutex)
{
    return pshm_mutex_release(mutex);
}

static int verb_locked(void *mutex)
{
    return pshm_mutex_locked(mutex);
}

static int verb_owner(void *mutex, uint32_t *pid)
{
    return pshm_mutex_owner(mutex, pid);
}

static const py_lock_verbs verbs = {verb_try,     verb_acquire, verb_recover, verb_consistent,
                                    verb_release, verb_locked,  verb_owner,   NULL};

/* ---- the type ---- */

static PyObject *mutex_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    return py_object_reduce_with(object, ((py_lock *)object)->repair);
}

static PyObject *get_recursive(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((py_mutex *)object)->mutex.recursive);
}

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {"recursive", get_recursive, NULL, "May the owner take it again?", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    PY_LOCK_METHODS("Deleted; ValueError once the arena is closed."),
    PY_OBJECT_POLLFD,
    {"_try_task", GLUE_METHOD(py_mutex_try_task), METH_FASTCALL, NULL},
    {"_recover_task", GLUE_METHOD(py_mutex_recover_task), METH_FASTCALL, NULL},
    {"_consistent_task", py_mutex_consistent_task, METH_O, NULL},
    {"_release_task", py_mutex_release_task, METH_O, NULL},
    {"_held_by_task", py_mutex_held_by_task, METH_O, NULL},
    {"__reduce__", mutex_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nPickles with its arena, and with its repair; refused (Deleted) if another object has "
     "its name by then."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    PY_LOCK_SLOTS("A lock by name that survives the death of whoever holds it.\n\n"
                  "Only the thread that took it may release it. Who waits long is handed it next."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Mutex", py_mutex);

/* ---- opening ---- */

static int mutex_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                      const void *options)
{
    const pshm_recursive *recursive = options;
    return pshm_mutex_init(handle, arena, name, length, create, recursive != NULL ? *recursive : PSHM_RECURSIVE_ANY,
                           NULL);
}

PY_OBJECT_FINI(mutex)

static int opened(PyObject *object, PyObject *repair)
{
    py_mutex *self = (py_mutex *)object;
    self->lock.verbs = &verbs;
    self->lock.mutex = &self->mutex;
    self->lock.repair = Py_XNewRef(repair);
    return 0;
}

static const char *suffix(PyObject *object)
{
    return ((py_mutex *)object)->mutex.recursive ? " recursive" : "";
}

const py_noun py_mutex_noun = {PY_NOUN(mutex), .opened = opened, .suffix = suffix};

const char py_mutex_doc[] =
    "mutex($self, /, name, recursive=None, repair=None)\n--\n\n"
    "The Mutex of that name; made where there is none and the arena may be written.\n\n"
    "recursive is taken from what exists, and False when creating. repair(died) is called with the lock held when "
    "its\n"
    "owner has died; if it returns, the lock is clean, if it raises, it stays marked.\n\n"
    "Errors: ValueError where the name is another noun's, or recursive is another; KeyError where there is none and\n"
    "the arena is read-only; OSError ENOSPC.";

PyObject *py_mutex_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"mutex", 1, 3, 3, {"name", "recursive", "repair"}};
    PyObject *given[3], *repair;
    pshm_recursive recursive;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || py_lock_recursive(given[1], &recursive) < 0 ||
        py_lock_repair(given[2], &repair) < 0)
        return NULL;
    return py_object_make(arena, &py_mutex_noun, given[0], &recursive, repair);
}
