/* SPDX-License-Identifier: MIT
 *
 * What all handles on the objects of an arena share, over the table of each noun.
 */
#include "py_object.h"

#include <errno.h>

/* ---- names and messages ---- */

int py_object_name(py_arena *arena, PyObject *value, const char **name, size_t *length)
{
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "name must be str, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
    Py_ssize_t size;
    *name = PyUnicode_AsUTF8AndSize(value, &size);
    if (*name == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            PyErr_Clear();
            (void)py_arena_raise(arena, PSHM_ENAMETEXT, "%R", value);
        }
        return -1;
    }
    *length = (size_t)size;
    return 0;
}

static PyObject *name_of(const pshm_object *object)
{
    return PyUnicode_DecodeUTF8(object->name, (Py_ssize_t)object->name_size, "replace");
}

PyObject *py_object_describe(const pshm_object *object)
{
    PyObject *name = name_of(object);
    PyObject *text = name == NULL ? NULL : PyUnicode_FromFormat("%s %R", pshm_noun_name(object->kind), name);
    Py_XDECREF(name);
    return text;
}

static void raise_about(PyObject *self, int rc, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)glue_raise_about(glue_state(self), rc, ((py_object *)self)->object->arena->address, format, arguments);
    va_end(arguments);
}

PyObject *py_object_raise(PyObject *self, int rc)
{
    if (rc == GLUE_RAISED)
        return NULL;
    PyObject *what = py_object_describe(((py_object *)self)->object);
    if (what != NULL) {
        raise_about(self, rc, "%U", what);
        Py_DECREF(what);
    }
    return NULL;
}

PyObject *py_object_raise_count(PyObject *self, int rc, uint64_t n)
{
    const bool about = rc == PSHM_ETOOFEW || rc == PSHM_ETOOMANY || (rc == PSHM_ENOTOWNER && n > 1);
    PyObject *what = about ? py_object_describe(((py_object *)self)->object) : NULL;
    if (what != NULL) {
        raise_about(self, rc, "%U: n %llu", what, (unsigned long long)n);
        Py_DECREF(what);
    }
    return about ? NULL : py_object_raise(self, rc);
}

/* ---- opening ---- */

typedef struct opening {
    const py_noun *noun;
    void *handle;
    pshm_arena *arena;
    const char *name;
    size_t length;
    bool create;
    const void *options;
} opening;

static int open_step(void *closure, int64_t deadline)
{
    (void)deadline;
    const opening *wanted = closure;
    return wanted->noun->init(wanted->handle, wanted->arena, wanted->name, wanted->length, wanted->create,
                              wanted->options);
}

PyObject *py_object_open(py_arena *arena, const py_noun *noun, PyObject *name, bool create, const void *options,
                         PyObject *repair)
{
    opening wanted = {.noun = noun, .arena = arena->handle, .create = create, .options = options};
    if (py_object_name(arena, name, &wanted.name, &wanted.length) < 0)
        return NULL;
    char *state = (char *)glue_state((PyObject *)arena);
    PyTypeObject *type = (PyTypeObject *)*(PyObject **)(void *)(state + noun->type);
    py_object *self = (py_object *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    PyObject_GC_UnTrack(self); /* others run meanwhile, and gc.get_objects() is not to show what is not open */
    self->noun = noun;
    wanted.handle = (char *)self + noun->handle;
    int rc = glue_wait(NULL, open_step, &wanted, 0);
    if (rc != 0) {
        Py_DECREF(self);
        return py_arena_raise(arena, rc, "%s %R", noun->name, name);
    }
    self->object = wanted.handle;
    self->whole = Py_NewRef((PyObject *)arena);
    if (noun->opened != NULL && noun->opened((PyObject *)self, repair) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyObject *py_object_make(PyObject *arena, const py_noun *noun, PyObject *name, const void *options, PyObject *repair)
{
    py_arena *self = (py_arena *)arena;
    return py_object_open(self, noun, name, !self->handle->readonly, options, repair);
}

PyObject *py_object_of(PyObject *arena, const py_noun *noun, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    const glue_signature signature = {noun->name, 1, 1, 1, {"name"}};
    PyObject *given[1];
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    return py_object_make(arena, noun, given[0], NULL, NULL);
}

/* ---- waits ---- */

PyObject *py_object_wait(PyObject *self, glue_step step, void *closure, int64_t timeout)
{
    int rc = glue_wait(NULL, step, closure, pshm_deadline(timeout));
    if (rc == 0)
        Py_RETURN_TRUE;
    if (rc == -ETIMEDOUT)
        Py_RETURN_FALSE;
    return py_object_raise(self, rc);
}

PyObject *py_object_wait_verb(PyObject *self, glue_step step, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames)
{
    int64_t timeout;
    if (glue_wait_args(args, nargs, kwnames, GLUE_REFUSED, &timeout) < 0)
        return NULL;
    return py_object_wait(self, step, ((py_object *)self)->object, timeout);
}

/* ---- the type ---- */

int py_object_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((py_object *)self)->whole);
    return 0;
}

PyMemberDef py_object_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(py_object, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

void py_object_dealloc(PyObject *self)
{
    py_object *handle = (py_object *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (handle->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    if (handle->notifier != NULL)
        pshm_notifier_close(handle->notifier);
    if (handle->noun != NULL && handle->whole != NULL)
        handle->noun->fini(handle->object);
    Py_XDECREF(handle->whole);
    type->tp_free(self);
    Py_DECREF(type);
}

PyObject *py_object_repr(PyObject *self)
{
    const py_object *handle = (py_object *)self;
    const char *(*suffix)(PyObject *) = handle->noun->suffix;
    PyObject *name = name_of(handle->object);
    PyObject *text = name == NULL ? NULL
                                  : PyUnicode_FromFormat("<%s %R%s of %R>", Py_TYPE(self)->tp_name, name,
                                                         suffix != NULL ? suffix(self) : "", handle->whole);
    Py_XDECREF(name);
    return text;
}

PyObject *py_object_get_name(PyObject *self, void *unused)
{
    (void)unused;
    return name_of(((py_object *)self)->object);
}

PyObject *py_object_reduce_with(PyObject *self, PyObject *repair)
{
    const py_object *handle = (py_object *)self;
    int rc = pshm_object_check(handle->object);
    if (rc != 0)
        return py_object_raise(self, rc);
    return glue_reduce("reduce_object",
                       Py_BuildValue("(ONKO)", handle->whole, name_of(handle->object),
                                     (unsigned long long)handle->object->serial, repair != NULL ? repair : Py_None));
}

PyObject *py_object_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    return py_object_reduce_with(self, NULL);
}
