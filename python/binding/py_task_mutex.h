/* SPDX-License-Identifier: MIT
 *
 * What py_task_mutex.c and py_acquisition.c share.
 */
#ifndef POLYSHM_PYTHON_TASK_MUTEX_H
#define POLYSHM_PYTHON_TASK_MUTEX_H

#include "py_lock.h"

typedef struct py_task_mutex {
    PyObject_HEAD
    PyObject *mutex;        /* a Mutex */
    PyObject *loop;         /* of the tasks that used it last; NULL: none yet */
    unsigned long thread;   /* that loop's */
    PyObject *current_task; /* asyncio.current_task */
    PyObject *tasks;   /* asyncio's dict of the running task of each loop, which is quicker; NULL where it has none */
    Py_ssize_t queued; /* so many wait in a queue already */
} py_task_mutex;

#define PY_NO_TASK 1 /* what runs is none */

/* What tells the running task from others of the thread; never 0, which is the thread itself. 0: an exception is set. */
uint64_t py_task_running(py_task_mutex *self);

bool py_task_mutex_is_made(const py_task_mutex *self);

/* What acquire() gives, and in the end gives `result`. */
PyObject *py_acquisition_of(PyObject *mutex, PyObject *result);
int py_acquisition_register(PyObject *module);

#endif
