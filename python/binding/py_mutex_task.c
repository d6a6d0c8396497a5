/* SPDX-License-Identifier: MIT
 *
 * polyshm.Mutex for tasks that share a thread: what polyshm.aio stands on. Nothing here waits.
 */
#include "py_lock.h"

#include <errno.h>

typedef struct task_mutex {
    pshm_mutex *mutex;
    uint64_t task;
} task_mutex;

static int verb_consistent(void *closure)
{
    const task_mutex *of = closure;
    return pshm_mutex_consistent_task(of->mutex, of->task);
}

static int verb_release(void *closure)
{
    const task_mutex *of = closure;
    return pshm_mutex_release_task(of->mutex, of->task);
}

static const py_lock_verbs verbs = {.consistent = verb_consistent, .release = verb_release};

static int task_of(PyObject *value, uint64_t *task)
{
    *task = PyLong_AsUnsignedLongLong(value);
    return *task == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

int py_mutex_attempt(PyObject *mutex, uint64_t task, bool watched)
{
    py_lock *lock = (py_lock *)mutex;
    task_mutex of = {.mutex = lock->mutex, .task = task};
    pshm_death death = {false, 0, 0};
    int rc = lock->repair == NULL ? pshm_mutex_try_task(of.mutex, task, watched, &death)
                                  : pshm_mutex_recover_task(of.mutex, task, watched, &death);
    if (PSHM_UNLIKELY(rc == 0 && death.died))
        rc = py_lock_run_repair(lock, &verbs, &of, &death);
    if (PSHM_LIKELY(rc == 0))
        return 1;
    if (rc == -EBUSY)
        return 0;
    if (rc == -EOWNERDEAD)
        rc = py_lock_raise_died(lock, &death);
    (void)py_lock_raise(lock, rc);
    return -1;
}

/* The arguments of an attempt: which task, and whether it was told that it may try. */
static int attempt_of(PyObject *const *args, Py_ssize_t nargs, uint64_t *task, bool *watched)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "a task and a truth value are needed");
        return -1;
    }
    return task_of(args[0], task) < 0 || glue_bool(args[1], watched) < 0 ? -1 : 0;
}

PyObject *py_mutex_try_task(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t task;
    bool watched;
    if (attempt_of(args, nargs, &task, &watched) < 0)
        return NULL;
    int rc = py_mutex_attempt(self, task, watched);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

/* False: not to be had; None: held, and nobody died; the OwnerDied: held, and the mark stands. */
PyObject *py_mutex_recover_task(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    py_lock *lock = (py_lock *)self;
    pshm_death death = {false, 0, 0};
    uint64_t task;
    bool watched;
    if (attempt_of(args, nargs, &task, &watched) < 0)
        return NULL;
    int rc = pshm_mutex_recover_task(lock->mutex, task, watched, &death);
    if (rc == -EBUSY)
        Py_RETURN_FALSE;
    if (rc != 0)
        return py_lock_raise(lock, rc);
    if (!death.died)
        Py_RETURN_NONE;
    PyObject *died = py_lock_died(lock, &death);
    if (died == NULL)
        (void)pshm_mutex_release_task(lock->mutex, task);
    return died;
}

static PyObject *by_task(PyObject *self, PyObject *argument, int (*verb)(void *closure))
{
    py_lock *lock = (py_lock *)self;
    task_mutex of = {.mutex = lock->mutex};
    if (task_of(argument, &of.task) < 0)
        return NULL;
    int rc = verb(&of);
    if (rc != 0)
        return py_lock_raise(lock, rc);
    Py_RETURN_NONE;
}

PyObject *py_mutex_consistent_task(PyObject *self, PyObject *argument)
{
    return by_task(self, argument, verb_consistent);
}

PyObject *py_mutex_release_task(PyObject *self, PyObject *argument)
{
    return by_task(self, argument, verb_release);
}

PyObject *py_mutex_held_by_task(PyObject *self, PyObject *argument)
{
    uint64_t task;
    if (task_of(argument, &task) < 0)
        return NULL;
    return PyBool_FromLong(pshm_mutex_held_by_task(((py_lock *)self)->mutex, task));
}
