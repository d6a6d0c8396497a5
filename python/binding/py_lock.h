/* SPDX-License-Identifier: MIT
 *
 * The protocol of a lock that an owner's death marks: acquire, release, with, recover(), repair=. Written once, over the
 * verbs of whatever mutex lies below.
 */
#ifndef POLYSHM_PYTHON_LOCK_H
#define POLYSHM_PYTHON_LOCK_H

#include "py_object.h"

#include <polyshm/mutex.h>

typedef struct py_lock py_lock;

typedef struct py_lock_verbs {
    /* As the functions of mutex.h of the same names. All but acquire see to it that the memory stays. */
    int (*try)(void *mutex, pshm_death *death);
    int (*acquire)(void *mutex, int64_t deadline, pshm_death *death);
    int (*recover)(void *mutex, int64_t deadline, pshm_death *death);
    int (*consistent)(void *mutex);
    int (*release)(void *mutex);
    int (*locked)(void *mutex);
    int (*owner)(void *mutex, uint32_t *pid);
    /* What messages call it, as str: "mutex at offset 64". NULL: as they call the object of an arena. */
    PyObject *(*describe)(const py_lock *lock);
} py_lock_verbs;

/* The head of every such object, on raw memory, in an arena, or a part of an object there. */
struct py_lock {
    py_object head; /* its `whole` is the Segment, the Arena, or the object that this is a part of */
    const py_lock_verbs *verbs;
    void *mutex;
    PyObject *repair;     /* a callable, or NULL */
    pshm_segment *handle; /* a wait enters it for every slice; NULL where a member of an arena keeps its own mapping */
};

PyObject *py_lock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_lock_release(PyObject *self, PyObject *unused);
PyObject *py_lock_enter(PyObject *self, PyObject *unused);
PyObject *py_lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *py_lock_recover(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_lock_locked(PyObject *self, PyObject *unused);
PyObject *py_lock_owner(PyObject *self, PyObject *unused);

/* The rows of a table of methods that all locks have. */
#define PY_LOCK_METHODS(closed)                                                                                        \
    {"acquire", GLUE_METHOD(py_lock_acquire), METH_FASTCALL | METH_KEYWORDS,                                           \
     "acquire($self, /, blocking=True, timeout=None)\n--\n\n"                                                          \
     "Takes the lock, waiting up to timeout seconds (None or -1: for ever). True, or False if it was not to be had.\n" \
     "\n"                                                                                                              \
     "Errors: OwnerDied if the owner died and there is no repair, the lock is not held and stays marked;\n"            \
     "RuntimeError if this thread holds it already and it is not recursive (not blocking: False); " closed "\n"        \
     "A signal's handler runs during the wait; if it raises, the lock is not held."},                                  \
        {"release", py_lock_release, METH_NOARGS,                                                                      \
         "release($self, /)\n--\n\nReleases, after close() too. RuntimeError unless this thread holds it."},           \
        {"locked", py_lock_locked, METH_NOARGS, "locked($self, /)\n--\n\nIs it held by a living owner?"},              \
        {"owner", py_lock_owner, METH_NOARGS,                                                                          \
         "owner($self, /)\n--\n\nThe pid of the process that holds it; None for nobody, or one that is not known."},   \
        {"recover", GLUE_METHOD(py_lock_recover), METH_FASTCALL | METH_KEYWORDS,                                       \
         "recover($self, /, timeout=None)\n--\n\n"                                                                     \
         "A context manager that acquires, whether the owner died or not, and gives the OwnerDied, or None. Leaving "  \
         "it\n"                                                                                                        \
         "takes the mark away and releases; leaving it by an exception only releases. TimeoutError after timeout\n"    \
         "seconds."},                                                                                                  \
        {"__enter__", py_lock_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nacquire()"},                             \
    {                                                                                                                  \
        "__exit__", GLUE_METHOD(py_lock_exit), METH_FASTCALL, "__exit__($self, /, *args)\n--\n\nrelease()"             \
    }

/* A repair as it was given: NULL for None. -1 with an exception set if it cannot be called. */
int py_lock_repair(PyObject *value, PyObject **out);

/* None, False or True as what a mutex is wanted to be; -1 with an exception set. */
int py_lock_recursive(PyObject *value, pshm_recursive *out);

/* Raises what is no more than a code. */
PyObject *py_lock_raise(py_lock *lock, int rc);

/* Raises the OwnerDied of -EOWNERDEAD. Returns GLUE_RAISED. */
int py_lock_raise_died(py_lock *lock, const pshm_death *death);

/* The lock is held and marked: the user's repair, which there is, makes it whole, or it stays marked and is not held. 0, a
 * code, GLUE_RAISED. */
int py_lock_run_repair(py_lock *lock, const py_lock_verbs *verbs, void *mutex, const pshm_death *death);

/* An OwnerDied that is not raised yet. */
PyObject *py_lock_died(py_lock *lock, const pshm_death *death);

int py_lock_traverse(PyObject *self, visitproc visit, void *arg);
int py_lock_clear(PyObject *self);
void py_lock_dealloc(PyObject *self);

/* The slots of a lock in an arena, as PY_OBJECT_SLOTS. */
#define PY_LOCK_SLOTS(doc)                                                                                             \
    {Py_tp_doc, (void *)(doc)}, {Py_tp_dealloc, py_lock_dealloc}, {Py_tp_traverse, py_lock_traverse},                  \
        {Py_tp_clear, py_lock_clear}, {Py_tp_repr, py_object_repr}, {Py_tp_methods, methods},                          \
        {Py_tp_members, py_object_members},                                                                            \
    {                                                                                                                  \
        Py_tp_getset, attributes                                                                                       \
    }

/* py_mutex_task.c: verbs of Mutex for tasks that share a thread. An attempt: 1, 0: another has it, -1 with an exception. */
int py_mutex_attempt(PyObject *mutex, uint64_t task, bool watched);
PyObject *py_mutex_try_task(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *py_mutex_recover_task(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *py_mutex_consistent_task(PyObject *self, PyObject *argument);
PyObject *py_mutex_release_task(PyObject *self, PyObject *argument);
PyObject *py_mutex_held_by_task(PyObject *self, PyObject *argument);

#endif
