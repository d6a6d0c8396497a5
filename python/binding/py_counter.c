/* SPDX-License-Identifier: MIT
 *
 * polyshm.Counter: a number in an arena. Each operation converts its argument, which may run Python code, and calls the
 * core.
 */
#include "py_object.h"

#include <polyshm/counter.h>

typedef struct py_counter {
    py_object head;
    pshm_counter counter;
} py_counter;

/* ---- values ---- */

static inline int convert(PyObject *value, int64_t *out)
{
    int64_t small = glue_small(value);
    if (PSHM_LIKELY(small >= 0)) {
        *out = small;
        return 0;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (PSHM_UNLIKELY(overflow != 0)) {
        PyErr_Format(PyExc_ValueError, "value %.200R does not fit i64", value);
        return -1;
    }
    if (PSHM_UNLIKELY(number == -1) && PyErr_Occurred())
        return -1;
    *out = number;
    return 0;
}

/* ---- operations ---- */

static PyObject *counter_load(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_counter *self = (py_counter *)object;
    int64_t value;
    int rc = pshm_counter_load(&self->counter, &value);
    if (PSHM_UNLIKELY(rc != 0))
        return py_object_raise(object, rc);
    return PyLong_FromLong(value);
}

static PyObject *counter_store(PyObject *object, PyObject *argument)
{
    py_counter *self = (py_counter *)object;
    int64_t value;
    if (convert(argument, &value) < 0)
        return NULL;
    int rc = pshm_counter_store(&self->counter, value);
    if (PSHM_UNLIKELY(rc != 0))
        return py_object_raise(object, rc);
    Py_RETURN_NONE;
}

/* The argument of add and sub, 1 where it is left out. */
static inline int step_of(const glue_signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                          int64_t *by)
{
    PyObject *given[1];
    if (PSHM_UNLIKELY(glue_args(signature, args, nargs, kwnames, given) < 0))
        return -1;
    *by = 1;
    return given[0] == NULL ? 0 : convert(given[0], by);
}

static PyObject *counter_add(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"add", 0, 1, 1, {"by"}};
    py_counter *self = (py_counter *)object;
    int64_t by, now;
    if (PSHM_UNLIKELY(step_of(&signature, args, nargs, kwnames, &by) < 0))
        return NULL;
    int rc = pshm_counter_add(&self->counter, by, &now);
    if (PSHM_UNLIKELY(rc != 0))
        return py_object_raise(object, rc);
    return PyLong_FromLong(now);
}

static PyObject *counter_sub(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"sub", 0, 1, 1, {"by"}};
    py_counter *self = (py_counter *)object;
    int64_t by, now;
    if (PSHM_UNLIKELY(step_of(&signature, args, nargs, kwnames, &by) < 0))
        return NULL;
    int rc = pshm_counter_sub(&self->counter, by, &now);
    if (PSHM_UNLIKELY(rc != 0))
        return py_object_raise(object, rc);
    return PyLong_FromLong(now);
}

/* verb: a value in, a value out */
#define OPERATION_MAP(X)                                                                                               \
    X(exchange)                                                                                                        \
    X(max)                                                                                                             \
    X(min)

#define X(verb)                                                                                                        \
    static PyObject *counter_##verb(PyObject *object, PyObject *argument)                                              \
    {                                                                                                                  \
        py_counter *self = (py_counter *)object;                                                                       \
        int64_t value;                                                                                                 \
        if (convert(argument, &value) < 0)                                                                             \
            return NULL;                                                                                               \
        int rc = pshm_counter_##verb(&self->counter, value, &value);                                                   \
        if (PSHM_UNLIKELY(rc != 0))                                                                                    \
            return py_object_raise(object, rc);                                                                        \
        return PyLong_FromLong(value);                                                                                 \
    }

OPERATION_MAP(X)
#undef X

static PyObject *counter_compare_exchange(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"compare_exchange", 2, 2, 2, {"expected", "desired"}};
    py_counter *self = (py_counter *)object;
    PyObject *given[2];
    int64_t expected, desired;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || convert(given[0], &expected) < 0 ||
        convert(given[1], &desired) < 0)
        return NULL;
    int rc = pshm_counter_compare_exchange(&self->counter, &expected, desired);
    if (PSHM_UNLIKELY(rc != 0))
        return py_object_raise(object, rc);
    return PyLong_FromLong(expected);
}

/* ---- waiting ---- */

typedef struct wait_closure {
    pshm_counter *counter;
    int64_t least;
} wait_closure;

static int wait_step(void *closure, int64_t deadline)
{
    const wait_closure *wait = closure;
    return pshm_counter_wait(wait->counter, wait->least, deadline);
}

static PyObject *counter_wait(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"wait", 1, 2, 2, {"at_least", "timeout"}};
    py_counter *self = (py_counter *)object;
    PyObject *given[2];
    int64_t least, timeout;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || convert(given[0], &least) < 0 ||
        glue_timeout(given[1], GLUE_REFUSED, &timeout) < 0)
        return NULL;
    wait_closure closure = {&self->counter, least};
    return py_object_wait(object, wait_step, &closure, timeout);
}

/* ---- the type ---- */

#define KEYWORDS (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef methods[] = {
    {"add", GLUE_METHOD(counter_add), KEYWORDS,
     "add($self, /, by=1)\n--\n\nAdds, wrapping around; returns the new value."},
    {"sub", GLUE_METHOD(counter_sub), KEYWORDS,
     "sub($self, /, by=1)\n--\n\nSubtracts, wrapping around; returns the new value."},
    {"load", counter_load, METH_NOARGS, "load($self, /)\n--\n\nThe value."},
    {"store", counter_store, METH_O, "store($self, value, /)\n--\n\nSets the value."},
    {"exchange", counter_exchange, METH_O,
     "exchange($self, value, /)\n--\n\nSets the value and returns the previous one."},
    {"compare_exchange", GLUE_METHOD(counter_compare_exchange), KEYWORDS,
     "compare_exchange($self, /, expected, desired)\n--\n\nSets the value to desired if it is expected. Returns the "
     "previous value\n"
     "either way: it was done if that equals expected."},
    {"max", counter_max, METH_O,
     "max($self, value, /)\n--\n\nRaises the value to this one if it is less; returns the new value."},
    {"min", counter_min, METH_O,
     "min($self, value, /)\n--\n\nLowers the value to this one if it is more; returns the new value."},
    {"wait", GLUE_METHOD(counter_wait), KEYWORDS,
     "wait($self, /, at_least, timeout=None)\n--\n\nWaits until the value is at_least or more. True once it is, False "
     "after timeout seconds; None waits for ever."},
    PY_OBJECT_POLLFD,
    PY_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    PY_OBJECT_SLOTS("A signed 64-bit number by name. All operations are atomic and sequentially consistent.\n\n"
                    "Errors of all of them: ValueError for a value outside of 64 bits and once the arena is closed, "
                    "Deleted,\n"
                    "TypeError for a change of a read-only arena, Lost."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Counter", py_counter);

/* ---- opening ---- */

PY_OBJECT_INIT(counter)
PY_OBJECT_FINI(counter)

const py_noun py_counter_noun = {PY_NOUN(counter)};

const char py_counter_doc[] =
    "counter($self, /, name)\n--\n\n"
    "The Counter of that name; made with the value 0 where there is none and the arena may be written.\n\n"
    "Errors: as mutex().";

PyObject *py_counter_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return py_object_of(arena, &py_counter_noun, args, nargs, kwnames);
}
