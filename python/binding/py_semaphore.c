/* SPDX-License-Identifier: MIT
 *
 * polyshm.Semaphore: threading.Semaphore across processes.
 */
#include "py_wait.h"

#include <errno.h>

#include <polyshm/semaphore.h>

typedef struct py_semaphore {
    py_object head;
    pshm_semaphore semaphore;
} py_semaphore;

static pshm_semaphore *core_of(PyObject *object)
{
    return &((py_semaphore *)object)->semaphore;
}

static int acquire_step(void *semaphore, int64_t deadline)
{
    return pshm_semaphore_acquire(semaphore, deadline);
}

static PyObject *take(PyObject *object, int64_t timeout)
{
    int rc = pshm_semaphore_try(core_of(object));
    if (PSHM_LIKELY(rc == 0))
        Py_RETURN_TRUE;
    if (rc != -EBUSY)
        return py_object_raise(object, rc);
    if (timeout == 0)
        Py_RETURN_FALSE;
    return py_object_wait(object, acquire_step, core_of(object), timeout);
}

static PyObject *semaphore_acquire(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout = -1;
    if (PSHM_UNLIKELY(nargs != 0 || kwnames != NULL) &&
        glue_acquire_args(args, nargs, kwnames, GLUE_AT_ONCE, &timeout) < 0)
        return NULL;
    return take(object, timeout);
}

static PyObject *semaphore_release(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"release", 0, 1, 1, {"n"}};
    PyObject *given[1];
    uint64_t n = 1;
    if (PSHM_UNLIKELY(nargs != 0 || kwnames != NULL) &&
        (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "n", &n) < 0))
        return NULL;
    int rc = pshm_semaphore_release(core_of(object), n);
    if (PSHM_UNLIKELY(rc != 0))
        return py_object_raise(object, rc);
    Py_RETURN_NONE;
}

static PyObject *semaphore_value(PyObject *object, PyObject *unused)
{
    (void)unused;
    uint32_t value;
    int rc = pshm_semaphore_value(core_of(object), &value);
    return rc == 0 ? PyLong_FromUnsignedLong(value) : py_object_raise(object, rc);
}

static PyObject *semaphore_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return take(object, -1);
}

/* The exception of the body goes first: a second one would hide it. */
static PyObject *semaphore_exit(PyObject *object, PyObject *const *args, Py_ssize_t nargs)
{
    int rc = pshm_semaphore_release(core_of(object), 1);
    if (PSHM_LIKELY(rc == 0) || (nargs > 0 && args[0] != Py_None))
        Py_RETURN_NONE;
    return py_object_raise(object, rc);
}

static PyMethodDef methods[] = {
    {"acquire", GLUE_METHOD(semaphore_acquire), METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\n"
     "Takes one, waiting up to timeout seconds (None: for ever). True, or False if none was to be had.\n\n"
     "Errors: Deleted; ValueError once the arena is closed; TypeError in a read-only one."},
    {"release", GLUE_METHOD(semaphore_release), METH_FASTCALL | METH_KEYWORDS,
     "release($self, /, n=1)\n--\n\nGives n back, whoever took them. ValueError if n is 0, or more than 2147483647 "
     "would "
     "be free."},
    {"value", semaphore_value, METH_NOARGS, "value($self, /)\n--\n\nHow many are free now."},
    {"__enter__", semaphore_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nTakes one."},
    {"__exit__", GLUE_METHOD(semaphore_exit), METH_FASTCALL, "__exit__($self, /, *args)\n--\n\nGives it back."},
    PY_OBJECT_POLLFD,
    PY_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    PY_OBJECT_SLOTS("A number of free places that nobody owns: threading.Semaphore across processes.\n\n"
                    "What a dead process had acquired stays acquired; Permits give it back."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Semaphore", py_semaphore);

static int semaphore_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                          const void *options)
{
    const int64_t *value = options;
    return pshm_semaphore_init(handle, arena, name, length, create, value != NULL ? *value : PSHM_SEMAPHORE_ANY, NULL);
}

PY_OBJECT_FINI(semaphore)

const py_noun py_semaphore_noun = {PY_NOUN(semaphore)};

const char py_semaphore_doc[] =
    "semaphore($self, /, name, value=None)\n--\n\n"
    "The Semaphore of that name; made with that value (1) where there is none and the arena may be written.\n\n"
    "Errors: as mutex(); ValueError where it began with another value.";

PyObject *py_semaphore_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"semaphore", 1, 2, 2, {"name", "value"}};
    PyObject *given[2];
    uint64_t value = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count_or_none(given[1], "value", &value) < 0)
        return NULL;
    const int64_t wanted = given[1] == NULL || given[1] == Py_None ? PSHM_SEMAPHORE_ANY : (int64_t)value;
    return py_object_make(arena, &py_semaphore_noun, given[0], &wanted, NULL);
}
