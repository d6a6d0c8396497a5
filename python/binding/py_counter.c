/* SPDX-License-Identifier: MIT
 *
 * polyshm.Counter: a number in an arena. Each operation converts its argument, which may run Python code, and calls the
 * core.
 */
#include "py_arena.h"

#include <errno.h>

#include <polyshm/counter.h>

typedef struct py_counter {
    PyObject_HEAD
    pshm_counter counter;
    py_arena *arena; /* NULL: not open */
} py_counter;

static PyObject *refuse(py_counter *self, int rc)
{
    return py_object_raise(self->arena, &self->counter.object, rc);
}

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
        return refuse(self, rc);
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
        return refuse(self, rc);
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
        return refuse(self, rc);
    return PyLong_FromLong(now);
}

static PyObject *counter_sub(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"sub", 0, 1, 1, {"by"}};
    py_counter *self = (py_counter *)object;
    int64_t by, now;
    if (PSHM_UNLIKELY(step_of(&signature, args, nargs, kwnames, &by) < 0))
        return NULL;
    /* Arithmetic wraps, so that less by -2**63 is more by it. */
    int rc = pshm_counter_add(&self->counter, (int64_t)(0 - (uint64_t)by), &now);
    if (PSHM_UNLIKELY(rc != 0))
        return refuse(self, rc);
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
            return refuse(self, rc);                                                                                   \
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
        return refuse(self, rc);
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
        glue_timeout(given[1], false, &timeout) < 0)
        return NULL;
    wait_closure closure = {&self->counter, least};
    int rc = glue_wait(NULL, wait_step, &closure, pshm_deadline(timeout));
    if (rc == 0)
        Py_RETURN_TRUE;
    if (rc == -ETIMEDOUT)
        Py_RETURN_FALSE;
    return refuse(self, rc);
}

/* ---- life ---- */

const pshm_object *py_counter_object(PyObject *self)
{
    return &((py_counter *)self)->counter.object;
}

static PyObject *counter_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    const py_counter *self = (py_counter *)object;
    return py_object_reduce(self->arena, &self->counter.object, NULL);
}

static PyObject *counter_repr(PyObject *object)
{
    const py_counter *self = (py_counter *)object;
    PyObject *name = py_object_name_of(&self->counter.object);
    PyObject *text = name == NULL ? NULL : PyUnicode_FromFormat("<polyshm.Counter %R of %R>", name, self->arena);
    Py_XDECREF(name);
    return text;
}

static PyObject *get_name(PyObject *object, void *unused)
{
    (void)unused;
    return py_object_name_of(&((py_counter *)object)->counter.object);
}

static int counter_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_counter *)object)->arena);
    return 0;
}

static void counter_dealloc(PyObject *object)
{
    py_counter *self = (py_counter *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->arena != NULL)
        pshm_counter_fini(&self->counter);
    Py_XDECREF(self->arena);
    type->tp_free(object);
    Py_DECREF(type);
}

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
    {"__reduce__", counter_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nPickles with its arena; refused (Deleted) if another object has its name by then."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"name", get_name, NULL, "Its name in the arena.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "A signed 64-bit number by name. All operations are atomic and sequentially consistent.\n\n"
     "Errors of all of them: ValueError for a value outside of 64 bits and once the arena is closed, Deleted,\n"
     "TypeError for a change of a read-only arena, Lost."},
    {Py_tp_dealloc, counter_dealloc},
    {Py_tp_traverse, counter_traverse},
    {Py_tp_repr, counter_repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.Counter", sizeof(py_counter), 0, GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                           slots};

int py_counter_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &spec, true, &state->counter_type);
}

/* ---- opening ---- */

typedef struct opening {
    pshm_counter *counter;
    pshm_arena *arena;
    const char *name;
    size_t length;
    bool create;
} opening;

static int open_step(void *closure, int64_t deadline)
{
    (void)deadline;
    const opening *wanted = closure;
    bool created;
    return pshm_counter_init(wanted->counter, wanted->arena, wanted->name, wanted->length, wanted->create, &created);
}

static PyObject *make(py_arena *arena, PyObject *name, bool create)
{
    opening wanted = {.arena = arena->handle, .create = create};
    if (py_object_name(arena, name, &wanted.name, &wanted.length) < 0)
        return NULL;
    PyTypeObject *type = (PyTypeObject *)glue_state((PyObject *)arena)->counter_type;
    py_counter *self = (py_counter *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    wanted.counter = &self->counter;
    int rc = glue_wait(NULL, open_step, &wanted, 0);
    if (rc != 0) {
        Py_DECREF(self);
        return py_arena_raise(arena, rc, "counter %R", name);
    }
    self->arena = (py_arena *)Py_NewRef((PyObject *)arena);
    return (PyObject *)self;
}

PyObject *py_counter_open(py_arena *arena, PyObject *name, PyObject *repair)
{
    (void)repair;
    return make(arena, name, false);
}

PyObject *py_counter_of(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"counter", 1, 1, 1, {"name"}};
    py_arena *arena = (py_arena *)object;
    PyObject *given[1];
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    return make(arena, given[0], !arena->handle->readonly);
}
