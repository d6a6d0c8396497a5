/* SPDX-License-Identifier: MIT
 *
 * polyshm.Once: a function that is run by one, once.
 */
#include "py_wait.h"

#include <polyshm/once.h>

typedef struct py_once {
    py_object head;
    pshm_once once;
} py_once;

static pshm_once *core_of(PyObject *object)
{
    return &((py_once *)object)->once;
}

static int begin_step(void *once, int64_t deadline)
{
    return pshm_once_begin(once, deadline);
}

/* The once is this thread's: runs the function and says how that ended. */
static PyObject *run_it(PyObject *object, PyObject *function)
{
    PyObject *result = PyObject_CallNoArgs(function);
    int rc = pshm_once_finish(core_of(object), result != NULL);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    if (rc != 0)
        return py_object_raise(object, rc);
    Py_RETURN_TRUE;
}

static PyObject *once_run(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"run", 1, 2, 2, {"function", "timeout"}};
    PyObject *given[2] = {nargs > 0 ? args[0] : NULL, NULL};
    int64_t timeout = -1;
    if (PSHM_UNLIKELY(nargs != 1 || kwnames != NULL) &&
        (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_timeout(given[1], GLUE_FOR_EVER, &timeout) < 0))
        return NULL;
    if (PSHM_UNLIKELY(!PyCallable_Check(given[0]))) {
        PyErr_Format(PyExc_TypeError, "function must be callable, not %.100s", Py_TYPE(given[0])->tp_name);
        return NULL;
    }
    int rc = pshm_once_done(core_of(object));
    if (PSHM_LIKELY(rc == 1))
        Py_RETURN_FALSE;
    if (rc == 0)
        rc = glue_wait(NULL, begin_step, core_of(object), pshm_deadline(timeout));
    if (rc == 0)
        return run_it(object, given[0]);
    if (rc == 1 && PyErr_Occurred() == NULL)
        Py_RETURN_FALSE;
    return py_object_raise(object, rc);
}

static PyObject *once_done(PyObject *object, PyObject *unused)
{
    (void)unused;
    int rc = pshm_once_done(core_of(object));
    return rc >= 0 ? PyBool_FromLong(rc) : py_object_raise(object, rc);
}

static PyMethodDef methods[] = {
    {"run", GLUE_METHOD(once_run), METH_FASTCALL | METH_KEYWORDS,
     "run($self, /, function, timeout=None)\n--\n\n"
     "Calls function(), unless it was run by anybody, in whatever process. True if this call ran it, False if it was "
     "done.\n"
     "While another runs it this waits; if that one dies, or its function raises, the next one runs it.\n\n"
     "Errors: what function raises, and it counts as not run; TimeoutError if another runs it for timeout seconds;\n"
     "RuntimeError where this thread is running it; Deleted; ValueError once the arena is closed."},
    {"done", once_done, METH_NOARGS, "done($self, /)\n--\n\nWas it run?"},
    PY_OBJECT_POLLFD,
    PY_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    PY_OBJECT_SLOTS("What is run once, by whoever comes first; if that one dies, by the next."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Once", py_once);

PY_OBJECT_INIT(once)
PY_OBJECT_FINI(once)

const py_noun py_once_noun = {PY_NOUN(once)};

const char py_once_doc[] =
    "once($self, /, name)\n--\n\n"
    "The Once of that name; made, not run, where there is none and the arena may be written.\n\nErrors: as mutex().";

PyObject *py_once_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return py_object_of(arena, &py_once_noun, args, nargs, kwnames);
}
