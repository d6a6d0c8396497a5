/* SPDX-License-Identifier: MIT
 *
 * The protocol of a lock that an owner's death marks: acquire, release, with, recover(), repair=. Written once, over the
 * verbs of whatever mutex lies below.
 */
#ifndef POLYSHM_PYTHON_LOCK_H
#define POLYSHM_PYTHON_LOCK_H

#include "glue.h"

#include <polyshm/mutex.h>

/* As the functions of mutex.h of the same names. */
typedef struct py_lock_verbs {
    int (*try)(void *mutex, pshm_death *death);
    int (*acquire)(void *mutex, int64_t deadline, pshm_death *death);
    int (*recover)(void *mutex, int64_t deadline, pshm_death *death);
    int (*consistent)(void *mutex);
    int (*release)(void *mutex);
} py_lock_verbs;

/* The head of every such object. */
typedef struct py_lock {
    PyObject_HEAD
    const py_lock_verbs *verbs;
    void *mutex;
    py_segment *segment;
    uint64_t offset;  /* for messages */
    PyObject *repair; /* a callable, or NULL */
} py_lock;

PyObject *py_lock_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_lock_release(PyObject *self, PyObject *unused);
PyObject *py_lock_enter(PyObject *self, PyObject *unused);
PyObject *py_lock_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs);
PyObject *py_lock_recover(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* Raises what is no more than a code. */
PyObject *py_lock_raise(py_lock *lock, int rc);

int py_lock_traverse(PyObject *self, visitproc visit, void *arg);
int py_lock_clear(PyObject *self);

/* The type of what recover() returns. */
int py_lock_register(PyObject *module);

#endif
