/* SPDX-License-Identifier: MIT
 *
 * What can be waited for: handles on objects, and participants.
 */
#ifndef POLYSHM_PYTHON_WAIT_H
#define POLYSHM_PYTHON_WAIT_H

#include "py_object.h"

#include <polyshm/notifier.h>

/* A handle, alone or as (handle, at_least). Borrowed from `value`. 0, or -1 with a TypeError or ValueError, in which
 * `where` says which one it is: "objects[3]". `tickets`: also (condition, what its _now() gave) and (event, what its
 * _since() gave), for polyshm.aio. */
typedef struct py_waitable {
    PyObject *handle;
    pshm_waitable core;
} py_waitable;

int py_waitable_of(py_state *state, PyObject *value, py_waitable *out, const char *where, bool tickets);

/* Sets the exception of `rc` about one. Returns NULL. */
PyObject *py_waitable_raise(const py_waitable *waitable, int rc);

/* py_participant.c */
pshm_waitable py_participant_waitable(PyObject *participant);
PyObject *py_participant_raise(PyObject *participant, int rc);

#endif
