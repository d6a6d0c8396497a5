/* SPDX-License-Identifier: MIT
 *
 * polyshm.Latch: counts down to 0, once.
 */
#include "py_wait.h"

#include <polyshm/latch.h>

typedef struct py_latch {
    py_object head;
    pshm_latch latch;
} py_latch;

static pshm_latch *core_of(PyObject *object)
{
    return &((py_latch *)object)->latch;
}

static PyObject *latch_count_down(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"count_down", 0, 1, 1, {"n"}};
    PyObject *given[1];
    uint64_t n = 1;
    uint32_t left;
    if (PSHM_UNLIKELY(nargs != 0 || kwnames != NULL) &&
        (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "n", &n) < 0))
        return NULL;
    int rc = pshm_latch_count_down(core_of(object), n, &left);
    return PSHM_LIKELY(rc == 0) ? PyLong_FromUnsignedLong(left) : py_object_raise(object, rc);
}

static PyObject *latch_count(PyObject *object, PyObject *unused)
{
    (void)unused;
    uint32_t left;
    int rc = pshm_latch_count(core_of(object), &left);
    return rc == 0 ? PyLong_FromUnsignedLong(left) : py_object_raise(object, rc);
}

static int wait_step(void *latch, int64_t deadline)
{
    return pshm_latch_wait(latch, deadline);
}

static PyObject *latch_wait(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return py_object_wait_verb(object, wait_step, args, nargs, kwnames);
}

static PyMethodDef methods[] = {
    {"count_down", GLUE_METHOD(latch_count_down), METH_FASTCALL | METH_KEYWORDS,
     "count_down($self, /, n=1)\n--\n\nCounts n down, to 0 at the least; returns what is left. At 0 all who wait go "
     "on.\n\n"
     "Errors: ValueError if n is 0, and once the arena is closed; Deleted; TypeError in a read-only one."},
    {"count", latch_count, METH_NOARGS, "count($self, /)\n--\n\nWhat is left to count."},
    {"wait", GLUE_METHOD(latch_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\nWaits until it is 0. True; False after timeout seconds."},
    PY_OBJECT_POLLFD,
    PY_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    PY_OBJECT_SLOTS("A number that counts down to 0 once, and lets go whoever waits for that."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Latch", py_latch);

static int latch_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                      const void *options)
{
    const int64_t *count = options;
    return pshm_latch_init(handle, arena, name, length, create, count != NULL ? *count : PSHM_LATCH_ANY, NULL);
}

PY_OBJECT_FINI(latch)

const py_noun py_latch_noun = {PY_NOUN(latch)};

const char py_latch_doc[] =
    "latch($self, /, name, n=None)\n--\n\n"
    "The Latch of that name; made with n to count where there is none and the arena may be written.\n\n"
    "Errors: as mutex(); ValueError where it is made without n, or began with another.";

PyObject *py_latch_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"latch", 1, 2, 2, {"name", "n"}};
    PyObject *given[2];
    uint64_t n = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count_or_none(given[1], "n", &n) < 0)
        return NULL;
    const int64_t count = given[1] == NULL || given[1] == Py_None ? PSHM_LATCH_ANY : (int64_t)n;
    return py_object_make(arena, &py_latch_noun, given[0], &count, NULL);
}
