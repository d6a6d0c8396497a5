/* SPDX-License-Identifier: MIT
 *
 * polyshm.Atomic: a word of a segment. Each operation converts its argument, which may run Python code, then checks the
 * segment, works on the word and looks whether it was there.
 */
#include "glue.h"

#include <limits.h>

#include <polyshm/atomic.h>

typedef struct py_atomic {
    PyObject_HEAD
    pshm_segment *handle; /* the segment's, which keeps it */
    uint64_t offset;
    pshm_word word;
    py_segment *segment;
} py_atomic;

static const char *const tokens[] = {
#define X(name, token, ctype) [PSHM_WORD_##name] = token,
    PSHM_WORD_MAP(X)
#undef X
};

/* ---- values ---- */

static bool is_short(pshm_word word)
{
    return word <= PSHM_WORD_U32;
}

static int raise_range(const py_atomic *self, PyObject *value)
{
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_OverflowError))
        return -1;
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "value %.200R does not fit %s", value, tokens[self->word]);
    return -1;
}

/* What PyLong_AsLongLongAndOverflow could not give: more than 2**63 - 1. */
static int convert_large(const py_atomic *self, PyObject *value, uint64_t *out)
{
    PyObject *index = PyNumber_Index(value);
    if (index == NULL)
        return -1;
    unsigned long long number = PyLong_AsUnsignedLongLong(index);
    int rc = 0;
    if (number == ULLONG_MAX && PyErr_Occurred())
        rc = raise_range(self, index);
    Py_DECREF(index);
    *out = number;
    return rc;
}

/* A value as the word's bits. `exact`: within the word's own range, else within the signed or the unsigned one. */
static inline int convert(const py_atomic *self, PyObject *value, bool exact, uint64_t *out)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    const pshm_word word = self->word;
    if (PSHM_UNLIKELY(overflow != 0)) {
        if (overflow > 0 && !is_short(word) && (word == PSHM_WORD_U64 || !exact))
            return convert_large(self, value, out);
        return raise_range(self, value);
    }
    if (PSHM_UNLIKELY(number == -1) && PyErr_Occurred())
        return -1;
    long long low = LLONG_MIN, high = LLONG_MAX;
    if (is_short(word)) {
        low = exact && word == PSHM_WORD_U32 ? 0 : INT32_MIN;
        high = exact && word == PSHM_WORD_I32 ? INT32_MAX : UINT32_MAX;
    } else if (exact && word == PSHM_WORD_U64) {
        low = 0;
    }
    if (PSHM_UNLIKELY(number < low || number > high))
        return raise_range(self, value);
    *out = (uint64_t)number;
    return 0;
}

static inline PyObject *box(pshm_word word, uint64_t bits)
{
    switch (word) {
    case PSHM_WORD_I32:
        return PyLong_FromLong((int32_t)bits);
    case PSHM_WORD_U32:
        return PyLong_FromLong((long)(uint32_t)bits);
    case PSHM_WORD_I64:
        return PyLong_FromLong((int64_t)bits);
    case PSHM_WORD_U64:
        break;
    }
    return PSHM_LIKELY(bits <= LONG_MAX) ? PyLong_FromLong((long)bits) : PyLong_FromUnsignedLongLong(bits);
}

/* ---- operations ---- */

static PyObject *refuse(py_atomic *self, int rc)
{
    return glue_raise_range(self->segment, rc, self->offset, pshm_word_size(self->word));
}

/* The word, if it may be touched; else NULL and *rc. */
static inline void *begin(py_atomic *self, uint32_t rights, int *rc)
{
    pshm_segment *handle = self->handle;
    *rc = glue_enter(handle);
    if (PSHM_UNLIKELY(*rc != 0))
        return NULL;
    *rc = pshm_segment_check(handle, self->offset, pshm_word_size(self->word), rights);
    if (PSHM_LIKELY(*rc == 0))
        return handle->base + self->offset;
    glue_leave(handle);
    return NULL;
}

static inline int end(py_atomic *self)
{
    int rc = pshm_segment_verify(self->handle);
    glue_leave(self->handle);
    return rc;
}

static PyObject *atomic_load(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_atomic *self = (py_atomic *)object;
    int rc;
    const void *word = begin(self, PSHM_READ, &rc);
    if (PSHM_UNLIKELY(word == NULL))
        return refuse(self, rc);
    uint64_t bits = is_short(self->word) ? pshm_atomic_load32(word) : pshm_atomic_load64(word);
    rc = end(self);
    if (PSHM_UNLIKELY(rc != 0))
        return refuse(self, rc);
    return box(self->word, bits);
}

static PyObject *atomic_store(PyObject *object, PyObject *value)
{
    py_atomic *self = (py_atomic *)object;
    uint64_t bits = 0;
    int rc;
    if (convert(self, value, true, &bits) < 0)
        return NULL;
    void *word = begin(self, PSHM_READ | PSHM_WRITE, &rc);
    if (PSHM_UNLIKELY(word == NULL))
        return refuse(self, rc);
    if (is_short(self->word))
        pshm_atomic_store32(word, (uint32_t)bits);
    else
        pshm_atomic_store64(word, bits);
    rc = end(self);
    if (PSHM_UNLIKELY(rc != 0))
        return refuse(self, rc);
    Py_RETURN_NONE;
}

/* verb, name of the core's function, does the value have to be in the word's own range? */
#define OPERATION_MAP(X)                                                                                               \
    X(add, add, false)                                                                                                 \
    X(sub, sub, false)                                                                                                 \
    X(and_, and, false)                                                                                                \
    X(or_, or, false)                                                                                                  \
    X(xor, xor, false)                                                                                                 \
    X(exchange, exchange, true)

#define X(verb, function, exact)                                                                                       \
    static PyObject *atomic_##verb(PyObject *object, PyObject *value)                                                  \
    {                                                                                                                  \
        py_atomic *self = (py_atomic *)object;                                                                         \
        uint64_t bits = 0;                                                                                             \
        int rc;                                                                                                        \
        if (PSHM_UNLIKELY(convert(self, value, exact, &bits) < 0))                                                     \
            return NULL;                                                                                               \
        void *word = begin(self, PSHM_READ | PSHM_WRITE, &rc);                                                         \
        if (PSHM_UNLIKELY(word == NULL))                                                                               \
            return refuse(self, rc);                                                                                   \
        if (is_short(self->word))                                                                                      \
            bits = pshm_atomic_##function##32(word, (uint32_t)bits);                                                   \
        else                                                                                                           \
            bits = pshm_atomic_##function##64(word, bits);                                                             \
        rc = end(self);                                                                                                \
        if (PSHM_UNLIKELY(rc != 0))                                                                                    \
            return refuse(self, rc);                                                                                   \
        return box(self->word, bits);                                                                                  \
    }

OPERATION_MAP(X)
#undef X

static PyObject *atomic_compare_exchange(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"compare_exchange", 2, 2, 2, {"expected", "desired"}};
    py_atomic *self = (py_atomic *)object;
    PyObject *given[2];
    uint64_t expected = 0, desired = 0;
    int rc;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || convert(self, given[0], true, &expected) < 0 ||
        convert(self, given[1], true, &desired) < 0)
        return NULL;
    void *word = begin(self, PSHM_READ | PSHM_WRITE, &rc);
    if (PSHM_UNLIKELY(word == NULL))
        return refuse(self, rc);
    if (is_short(self->word)) {
        uint32_t found = (uint32_t)expected;
        (void)pshm_atomic_compare_exchange32(word, &found, (uint32_t)desired);
        expected = found;
    } else {
        (void)pshm_atomic_compare_exchange64(word, &expected, desired);
    }
    rc = end(self);
    if (PSHM_UNLIKELY(rc != 0))
        return refuse(self, rc);
    return box(self->word, expected);
}

/* ---- waiting ---- */

typedef struct wait_closure {
    const py_atomic *self;
    uint32_t expected;
} wait_closure;

static int wait_step(void *closure, int64_t deadline)
{
    const wait_closure *wait = closure;
    return pshm_atomic_wait(wait->self->handle, wait->self->offset, wait->expected, deadline);
}

static int check_waitable(const py_atomic *self, const char *verb)
{
    if (is_short(self->word))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s needs a word of 32 bits: i32 or u32, not %s", verb, tokens[self->word]);
    return -1;
}

static PyObject *atomic_wait(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"wait", 1, 2, 2, {"expected", "timeout"}};
    py_atomic *self = (py_atomic *)object;
    PyObject *given[2];
    uint64_t expected = 0;
    int64_t timeout = -1;
    int rc;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || check_waitable(self, "wait()") < 0 ||
        convert(self, given[0], true, &expected) < 0 || glue_timeout(given[1], GLUE_REFUSED, &timeout) < 0)
        return NULL;
    const void *word = begin(self, PSHM_READ, &rc);
    if (word == NULL)
        return refuse(self, rc);
    bool differs = pshm_atomic_load32(word) != (uint32_t)expected;
    rc = end(self);
    if (rc == 0 && !differs) {
        wait_closure closure = {self, (uint32_t)expected};
        rc = glue_wait(self->handle, wait_step, &closure, pshm_deadline(timeout));
    }
    if (rc == 0)
        Py_RETURN_TRUE;
    if (rc == -ETIMEDOUT)
        Py_RETURN_FALSE;
    return refuse(self, rc);
}

static PyObject *atomic_notify(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"notify", 0, 1, 1, {"n"}};
    py_atomic *self = (py_atomic *)object;
    PyObject *given[1];
    uint64_t count = 1;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || check_waitable(self, "notify()") < 0 ||
        glue_count(given[0], "n", &count) < 0)
        return NULL;
    int rc = glue_enter(self->handle);
    if (rc == 0) {
        rc = pshm_atomic_notify(self->handle, self->offset, count > INT_MAX ? INT_MAX : (int)count);
        glue_leave(self->handle);
    }
    if (rc < 0)
        return refuse(self, rc);
    return PyLong_FromLong(rc);
}

/* ---- life ---- */

static PyObject *atomic_reduce(PyObject *object, PyObject *unused)
{
    (void)unused;
    const py_atomic *self = (py_atomic *)object;
    return glue_reduce("reduce_atomic",
                       Py_BuildValue("(OsK)", self->segment, tokens[self->word], (unsigned long long)self->offset));
}

static PyObject *atomic_repr(PyObject *object)
{
    const py_atomic *self = (py_atomic *)object;
    return PyUnicode_FromFormat("<polyshm.Atomic %s at offset %llu of %R>", tokens[self->word],
                                (unsigned long long)self->offset, self->segment);
}

static int atomic_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_atomic *)object)->segment);
    return 0;
}

static void atomic_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(((py_atomic *)object)->segment);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"load", atomic_load, METH_NOARGS, "load($self, /)\n--\n\nThe value."},
    {"store", atomic_store, METH_O,
     "store($self, value, /)\n--\n\nSets the value. ValueError if it does not fit the type."},
    {"add", atomic_add, METH_O,
     "add($self, value, /)\n--\n\nAdds, wrapping around, and returns the previous value. Any integer of the signed or "
     "the\n"
     "unsigned range of the word will do."},
    {"sub", atomic_sub, METH_O,
     "sub($self, value, /)\n--\n\nSubtracts, wrapping around, and returns the previous value."},
    {"and_", atomic_and_, METH_O, "and_($self, value, /)\n--\n\nBitwise and; returns the previous value."},
    {"or_", atomic_or_, METH_O, "or_($self, value, /)\n--\n\nBitwise or; returns the previous value."},
    {"xor", atomic_xor, METH_O, "xor($self, value, /)\n--\n\nBitwise exclusive or; returns the previous value."},
    {"exchange", atomic_exchange, METH_O,
     "exchange($self, value, /)\n--\n\nSets the value and returns the previous one. ValueError if it does not fit the "
     "type."},
    {"compare_exchange", GLUE_METHOD(atomic_compare_exchange), METH_FASTCALL | METH_KEYWORDS,
     "compare_exchange($self, /, expected, desired)\n--\n\nSets the value to desired if it is expected. Returns the "
     "previous value\n"
     "either way: it was done if that equals expected."},
    {"wait", GLUE_METHOD(atomic_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, expected, timeout=None)\n--\n\nWaits while the value is expected: futex(2). True once it is not, "
     "False after timeout\n"
     "seconds; None waits for ever. i32 and u32 alone."},
    {"notify", GLUE_METHOD(atomic_notify), METH_FASTCALL | METH_KEYWORDS,
     "notify($self, /, n=1)\n--\n\nWakes up to n that wait() for this word, in any process; returns how many."},
    {"__reduce__", atomic_reduce, METH_NOARGS, "__reduce__($self, /)\n--\n\nPickles with its segment."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc,
     "A word of shared memory. All operations are atomic and sequentially consistent.\n\n"
     "Errors of all of them: ValueError once the segment is closed, TypeError for a change of read-only memory,\n"
     "Lost where the memory is gone."},
    {Py_tp_dealloc, atomic_dealloc},
    {Py_tp_traverse, atomic_traverse},
    {Py_tp_repr, atomic_repr},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.Atomic", sizeof(py_atomic), 0, GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                           slots};

int py_atomic_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &spec, true, &state->atomic_type);
}

PyObject *py_atomic_of(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"atomic", 2, 2, 2, {"type", "offset"}};
    py_segment *segment = (py_segment *)object;
    PyObject *given[2];
    uint64_t offset = 0;
    pshm_word word;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    if (!PyUnicode_Check(given[0]))
        return PyErr_Format(PyExc_TypeError, "type must be str, not %.100s", Py_TYPE(given[0])->tp_name);
    Py_ssize_t length;
    const char *token = PyUnicode_AsUTF8AndSize(given[0], &length);
    if (token == NULL)
        return NULL;
    int rc = pshm_word_parse(token, (size_t)length, &word);
    if (rc != 0)
        return PyErr_Format(PyExc_ValueError, "type %R: %s: use i32, u32, i64 or u64", given[0], pshm_error_text(rc));
    if (glue_count(given[1], "offset", &offset) < 0)
        return NULL;
    rc = pshm_atomic_check(segment->handle, word, offset);
    if (rc == PSHM_EALIGN)
        return glue_raise_segment(segment, rc, "offset %llu for %s", (unsigned long long)offset, tokens[word]);
    if (rc != 0)
        return glue_raise_range(segment, rc, offset, pshm_word_size(word));

    PyTypeObject *type = (PyTypeObject *)glue_state(object)->atomic_type;
    py_atomic *self = (py_atomic *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    Py_INCREF(segment);
    self->segment = segment;
    self->handle = segment->handle;
    self->offset = offset;
    self->word = word;
    return (PyObject *)self;
}
