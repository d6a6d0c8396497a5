/* SPDX-License-Identifier: MIT
 *
 * polyshm.Permits: so many at a time, each owned by the thread that took it.
 */
#include "py_wait.h"

#include <errno.h>

#include <polyshm/permits.h>

typedef struct py_permits {
    py_object head;
    pshm_permits permits;
} py_permits;

static pshm_permits *core_of(PyObject *object)
{
    return &((py_permits *)object)->permits;
}

typedef struct wait_closure {
    pshm_permits *permits;
    int64_t n;
} wait_closure;

static int wait_step(void *closure, int64_t deadline)
{
    const wait_closure *wait = closure;
    return pshm_permits_acquire(wait->permits, wait->n, deadline);
}

static PyObject *take(PyObject *object, uint64_t n, int64_t timeout)
{
    wait_closure wait = {core_of(object), (int64_t)n};
    int rc = pshm_permits_try(wait.permits, wait.n);
    if (PSHM_LIKELY(rc == 0))
        Py_RETURN_TRUE;
    if (rc != -EBUSY)
        return py_object_raise_count(object, rc, n);
    if (timeout == 0)
        Py_RETURN_FALSE;
    return py_object_wait(object, wait_step, &wait, timeout);
}

static PyObject *permits_acquire(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"acquire", 0, 2, 2, {"n", "timeout"}};
    PyObject *given[2];
    uint64_t n = 1;
    int64_t timeout = -1;
    if (PSHM_UNLIKELY(nargs != 0 || kwnames != NULL) &&
        (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "n", &n) < 0 ||
         glue_timeout(given[1], GLUE_FOR_EVER, &timeout) < 0))
        return NULL;
    return take(object, n, timeout);
}

static PyObject *permits_release(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"release", 0, 1, 1, {"n"}};
    PyObject *given[1];
    uint64_t n = 1;
    if (PSHM_UNLIKELY(nargs != 0 || kwnames != NULL) &&
        (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "n", &n) < 0))
        return NULL;
    int rc = pshm_permits_release(core_of(object), (int64_t)n);
    if (PSHM_UNLIKELY(rc != 0))
        return py_object_raise_count(object, rc, n);
    Py_RETURN_NONE;
}

static PyObject *permits_available(PyObject *object, PyObject *unused)
{
    (void)unused;
    uint32_t count;
    int rc = pshm_permits_available(core_of(object), &count);
    return rc == 0 ? PyLong_FromUnsignedLong(count) : py_object_raise(object, rc);
}

static PyObject *permits_held(PyObject *object, PyObject *unused)
{
    (void)unused;
    uint32_t count;
    int rc = pshm_permits_held(core_of(object), &count);
    return rc == 0 ? PyLong_FromUnsignedLong(count) : py_object_raise(object, rc);
}

static PyObject *permits_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return take(object, 1, -1);
}

/* The exception of the body goes first: a second one would hide it. */
static PyObject *permits_exit(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    int rc = pshm_permits_release(core_of(object), 1);
    if (PSHM_LIKELY(rc == 0) || (nargs > 0 && args[0] != Py_None))
        Py_RETURN_NONE;
    return py_object_raise(object, rc);
}

static PyObject *get_total(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(core_of(object)->total);
}

static PyMethodDef methods[] = {
    {"acquire", GLUE_METHOD(permits_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, n=1, timeout=None)\n--\n\n"
     "Takes n permits, all or none, waiting up to timeout seconds (None or -1: for ever, 0: not at all). True, or "
     "False\n"
     "if they were not to be had. They are this thread's; its death gives them back at once.\n\n"
     "Errors: ValueError if n is 0 or more than there are, and once the arena is closed; RuntimeError where the "
     "thread\n"
     "has so many already that it would wait for itself; Deleted; TypeError in a read-only arena."},
    {"release", GLUE_METHOD(permits_release), METH_FASTCALL | METH_KEYWORDS,
     "release($self, /, n=1)\n--\n\nGives n of this thread's back, after close() too. RuntimeError if it has not so "
     "many."},
    {"available", permits_available, METH_NOARGS, "available($self, /)\n--\n\nHow many could be had now."},
    {"held", permits_held, METH_NOARGS, "held($self, /)\n--\n\nHow many this thread has."},
    {"__enter__", permits_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nTakes one."},
    {"__exit__", GLUE_METHOD(permits_exit), METH_FASTCALL, "__exit__($self, /, *args)\n--\n\nGives it back."},
    PY_OBJECT_POLLFD,
    PY_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {"total", get_total, NULL, "How many there are, whoever has them.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    PY_OBJECT_SLOTS(
        "So many at a time: each permit belongs to the thread that took it, and is free again when that dies."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Permits", py_permits);

static int permits_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                        const void *options)
{
    const int64_t *total = options;
    return pshm_permits_init(handle, arena, name, length, create, total != NULL ? *total : PSHM_PERMITS_ANY, NULL);
}

PY_OBJECT_FINI(permits)

const py_noun py_permits_noun = {PY_NOUN(permits)};

const char py_permits_doc[] =
    "permits($self, /, name, n=None)\n--\n\n"
    "The Permits of that name; n of them, 1 to 65535, are made where there are none and the arena may be written.\n\n"
    "Errors: as mutex(); ValueError where they are made without n, or are not n.";

PyObject *py_permits_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"permits", 1, 2, 2, {"name", "n"}};
    PyObject *given[2];
    uint64_t n = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count_or_none(given[1], "n", &n) < 0)
        return NULL;
    const int64_t total = given[1] == NULL || given[1] == Py_None ? PSHM_PERMITS_ANY : (int64_t)n;
    return py_object_make(arena, &py_permits_noun, given[0], &total, NULL);
}
