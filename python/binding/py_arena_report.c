/* SPDX-License-Identifier: MIT
 *
 * Arena: what there is to tell of the whole.
 */
#include "py_arena.h"

#include <string.h>

PyObject *py_arena_examine(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_arena *self = (py_arena *)object;
    char *report = NULL;
    size_t count = 0;
    int rc;
    Py_BEGIN_ALLOW_THREADS;
    rc = pshm_arena_check(self->handle, &report, &count);
    Py_END_ALLOW_THREADS;
    if (rc != 0)
        return py_arena_raise(self, rc, NULL);
    const char *found = report != NULL ? report : "";
    PyObject *text = PyUnicode_DecodeUTF8(found, (Py_ssize_t)strlen(found), "replace");
    pshm_report_free(report);
    PyObject *lines = text == NULL ? NULL : PyUnicode_Splitlines(text, 0);
    Py_XDECREF(text);
    return lines;
}

/* Puts a number into a dict: 0, or -1 with an exception set. */
static int put(PyObject *dict, const char *key, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    int rc = number == NULL ? -1 : PyDict_SetItemString(dict, key, number);
    Py_XDECREF(number);
    return rc;
}

static PyObject *class_of(const pshm_class_stats *stats)
{
    PyObject *dict = PyDict_New();
    if (dict != NULL && (put(dict, "block", stats->block) < 0 || put(dict, "pages", stats->pages) < 0 ||
                         put(dict, "used", stats->used) < 0 || put(dict, "free", stats->free) < 0))
        Py_CLEAR(dict);
    return dict;
}

static PyObject *classes_of(const pshm_arena_stats *stats)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; i < stats->classes && list != NULL; i++) {
        PyObject *dict = class_of(&stats->class_[i]);
        if (dict == NULL || PyList_Append(list, dict) < 0)
            Py_CLEAR(list);
        Py_XDECREF(dict);
    }
    return list;
}

/* Fields of pshm_arena_stats that are keys as they are called. */
#define NUMBER_MAP(X)                                                                                                  \
    X(size)                                                                                                            \
    X(heap)                                                                                                            \
    X(used)                                                                                                            \
    X(free)                                                                                                            \
    X(largest_free)                                                                                                    \
    X(large)                                                                                                           \
    X(large_pages)                                                                                                     \
    X(objects)                                                                                                         \
    X(taking_part)                                                                                                     \
    X(participants)

PyObject *py_arena_stats(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_arena *self = (py_arena *)object;
    pshm_arena_stats stats;
    int rc;
    Py_BEGIN_ALLOW_THREADS;
    rc = pshm_arena_stats_of(self->handle, &stats);
    Py_END_ALLOW_THREADS;
    if (rc != 0)
        return py_arena_raise(self, rc, NULL);
    PyObject *dict = PyDict_New();
    PyObject *classes = dict == NULL ? NULL : classes_of(&stats);
    if (classes == NULL)
        goto failed;
#define X(name)                                                                                                        \
    if (put(dict, #name, stats.name) < 0)                                                                              \
        goto failed;
    NUMBER_MAP(X)
#undef X
    if (PyDict_SetItemString(dict, "classes", classes) < 0)
        goto failed;
    Py_DECREF(classes);
    return dict;

failed:
    Py_XDECREF(classes);
    Py_XDECREF(dict);
    return NULL;
}
