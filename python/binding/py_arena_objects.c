/* SPDX-License-Identifier: MIT
 *
 * Arena: its objects by name, as a mapping whose values are made by methods.
 */
#include "py_object.h"

/* ---- one object ---- */

static const py_noun *noun_of(uint32_t kind)
{
    switch (kind) {
#define PSHM_KIND(number, noun)                                                                                        \
    case number:                                                                                                       \
        return &py_##noun##_noun;
#include <polyshm/kinds.def>
    default:
        return NULL;
    }
}

/* `serial`: of the one that it has to be; NULL: any. */
static PyObject *open_object(py_arena *arena, PyObject *name, PyObject *repair, const uint64_t *serial)
{
    const char *text;
    size_t length;
    uint32_t kind;
    if (py_object_name(arena, name, &text, &length) < 0)
        return NULL;
    int rc = pshm_arena_find(arena->handle, text, length, &kind);
    if (rc == PSHM_ENONAME && serial != NULL)
        rc = PSHM_EDELETED;
    if (rc != 0)
        return py_arena_raise(arena, rc, "%R", name);
    const py_noun *noun = noun_of(kind);
    if (noun == NULL)
        return PyErr_Format(glue_state((PyObject *)arena)->incompatible,
                            "%s: %R: a kind of object that needs a newer version: %u", arena->handle->address, name,
                            kind);
    PyObject *found = py_object_open(arena, noun, name, false, NULL, repair);
    if (found == NULL || serial == NULL || ((py_object *)found)->object->serial == *serial)
        return found;
    Py_DECREF(found);
    return py_arena_raise(arena, PSHM_EREMADE, "%R", name);
}

PyObject *py_arena_get(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"open", 1, 1, 1, {"name"}};
    PyObject *given[1];
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    return open_object((py_arena *)object, given[0], NULL, NULL);
}

PyObject *py_arena_subscript(PyObject *object, PyObject *key)
{
    return open_object((py_arena *)object, key, NULL, NULL);
}

PyObject *py_arena_restore(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"_restore", 2, 3, 3, {"name", "serial", "repair"}};
    PyObject *given[3];
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    uint64_t serial = PyLong_AsUnsignedLongLong(given[1]);
    if (serial == UINT64_MAX && PyErr_Occurred())
        return NULL;
    PyObject *repair = given[2] == Py_None ? NULL : given[2];
    return open_object((py_arena *)object, given[0], repair, &serial);
}

int py_arena_contains(PyObject *object, PyObject *key)
{
    py_arena *self = (py_arena *)object;
    const char *text;
    size_t length;
    uint32_t kind;
    if (py_object_name(self, key, &text, &length) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError))
            return -1;
        PyErr_Clear(); /* what no object can be called */
        return 0;
    }
    int rc = pshm_arena_find(self->handle, text, length, &kind);
    if (rc == 0)
        return 1;
    if (rc == PSHM_ENONAME || rc == PSHM_ENAMESIZE || rc == PSHM_ENAMETEXT)
        return 0;
    (void)py_arena_raise(self, rc, NULL);
    return -1;
}

/* ---- deleting ---- */

typedef struct deletion {
    pshm_arena *handle;
    const char *name;
    size_t length;
} deletion;

static int delete_step(void *closure, int64_t deadline)
{
    (void)deadline;
    const deletion *wanted = closure;
    return pshm_arena_delete(wanted->handle, wanted->name, wanted->length, NULL);
}

static int delete_object(py_arena *self, PyObject *name)
{
    deletion wanted = {self->handle, NULL, 0};
    if (py_object_name(self, name, &wanted.name, &wanted.length) < 0)
        return -1;
    int rc = glue_wait(NULL, delete_step, &wanted, 0);
    if (rc == 0)
        return 0;
    (void)py_arena_raise(self, rc, "%R", name);
    return -1;
}

PyObject *py_arena_delete(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"delete", 1, 1, 1, {"name"}};
    PyObject *given[1];
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || delete_object((py_arena *)object, given[0]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

int py_arena_assign(PyObject *object, PyObject *key, PyObject *value)
{
    if (value == NULL)
        return delete_object((py_arena *)object, key);
    PyErr_SetString(PyExc_TypeError, "objects of an arena are made by its methods, such as arena.counter(name)");
    return -1;
}

/* ---- all of them ---- */

static int list_entries(py_arena *self, pshm_entry **entries, size_t *count)
{
    int rc;
    Py_BEGIN_ALLOW_THREADS;
    rc = pshm_arena_list(self->handle, entries, count);
    Py_END_ALLOW_THREADS;
    if (rc == 0)
        return 0;
    (void)py_arena_raise(self, rc, NULL);
    return -1;
}

PyObject *py_arena_keys(PyObject *object, PyObject *unused)
{
    (void)unused;
    pshm_entry *entries;
    size_t count;
    if (list_entries((py_arena *)object, &entries, &count) < 0)
        return NULL;
    PyObject *names = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count && names != NULL; i++) {
        PyObject *name = PyUnicode_DecodeUTF8(entries[i].name, (Py_ssize_t)entries[i].name_size, "replace");
        if (name == NULL)
            Py_CLEAR(names);
        else
            PyList_SET_ITEM(names, (Py_ssize_t)i, name);
    }
    pshm_entries_free(entries);
    return names;
}

PyObject *py_arena_iterate(PyObject *object)
{
    PyObject *names = py_arena_keys(object, NULL);
    PyObject *iterator = names == NULL ? NULL : PyObject_GetIter(names);
    Py_XDECREF(names);
    return iterator;
}

/* Left out is what was deleted meanwhile, what lost another object that it needs, and what is of a later version. */
static int append_item(PyObject *items, py_arena *self, PyObject *name)
{
    PyObject *found = open_object(self, name, NULL, NULL);
    if (found == NULL) {
        const py_state *state = glue_state((PyObject *)self);
        if (!PyErr_ExceptionMatches(PyExc_KeyError) && !PyErr_ExceptionMatches(state->deleted) &&
            !PyErr_ExceptionMatches(state->incompatible))
            return -1;
        PyErr_Clear();
        return 0;
    }
    PyObject *pair = PyTuple_Pack(2, name, found);
    Py_DECREF(found);
    int rc = pair == NULL ? -1 : PyList_Append(items, pair);
    Py_XDECREF(pair);
    return rc;
}

PyObject *py_arena_items(PyObject *object, PyObject *unused)
{
    PyObject *names = py_arena_keys(object, unused);
    PyObject *items = names == NULL ? NULL : PyList_New(0);
    for (Py_ssize_t i = 0; items != NULL && i < PyList_GET_SIZE(names); i++) {
        if (append_item(items, (py_arena *)object, PyList_GET_ITEM(names, i)) < 0)
            Py_CLEAR(items);
    }
    Py_XDECREF(names);
    return items;
}

Py_ssize_t py_arena_length(PyObject *object)
{
    pshm_entry *entries;
    size_t count;
    if (list_entries((py_arena *)object, &entries, &count) < 0)
        return -1;
    pshm_entries_free(entries);
    return (Py_ssize_t)count;
}
