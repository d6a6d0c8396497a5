/* SPDX-License-Identifier: MIT
 *
 * polyshm.wait: several handles at once.
 */
#include "py_wait.h"

#include <errno.h>
#include <string.h>

#include <polyshm/event.h>

/* ---- what can be waited for ---- */

static bool is_handle(const py_state *state, PyObject *value)
{
    const PyObject *type = (PyObject *)Py_TYPE(value);
#define PSHM_KIND(number, noun)                                                                                        \
    if (type == state->noun##_type)                                                                                    \
        return true;
#include <polyshm/kinds.def>
    return false;
}

static int one_of(const py_state *state, PyObject *value, py_waitable *out, const char *where)
{
    out->handle = value;
    if ((PyObject *)Py_TYPE(value) == state->participant_type)
        out->core = py_participant_waitable(value);
    else if (is_handle(state, value) && ((py_object *)value)->object->watch != NULL)
        out->core = (pshm_waitable){.object = ((py_object *)value)->object, .least = 1};
    else {
        PyErr_Format(PyExc_TypeError, "%s cannot be waited for: %.200s", where, Py_TYPE(value)->tp_name);
        return -1;
    }
    return 0;
}

static int refuse_number(const py_waitable *waitable, const char *where)
{
    PyErr_Format(PyExc_TypeError, "%s: only a Counter or Permits goes with a number, not %.200s", where,
                 Py_TYPE(waitable->handle)->tp_name);
    return -1;
}

/* Of a condition it is what its _now() gave, of an event its _since(): for polyshm.aio, `tickets`. */
static bool has_least(const char *noun, bool tickets)
{
    return strcmp(noun, "counter") == 0 || strcmp(noun, "permits") == 0 ||
           (tickets && (strcmp(noun, "condition") == 0 || strcmp(noun, "event") == 0));
}

static int with_least(const py_state *state, PyObject *pair, py_waitable *out, const char *where, bool tickets)
{
    int overflow;
    if (one_of(state, PyTuple_GET_ITEM(pair, 0), out, where) < 0)
        return -1;
    const char *noun = out->core.object != NULL ? ((py_object *)out->handle)->noun->name : "participant";
    if (!has_least(noun, tickets))
        return refuse_number(out, where);
    out->core.least = PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(pair, 1), &overflow);
    if (out->core.least == -1 && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(PyExc_TypeError, "%s: an integer is expected, not %.200s", where,
                     Py_TYPE(PyTuple_GET_ITEM(pair, 1))->tp_name);
    if (overflow != 0)
        PyErr_Format(PyExc_ValueError, "%s: the number does not fit i64", where);
    if (PyErr_Occurred())
        return -1;
    return strcmp(noun, "event") == 0 && out->core.least < PSHM_EVENT_SINCE ? refuse_number(out, where) : 0;
}

int py_waitable_of(py_state *state, PyObject *value, py_waitable *out, const char *where, bool tickets)
{
    if (PyTuple_CheckExact(value) && PyTuple_GET_SIZE(value) == 2)
        return with_least(state, value, out, where, tickets);
    return one_of(state, value, out, where);
}

PyObject *py_waitable_raise(const py_waitable *waitable, int rc)
{
    return waitable->core.object != NULL ? py_object_raise(waitable->handle, rc)
                                         : py_participant_raise(waitable->handle, rc);
}

/* ---- polyshm.wait ---- */

typedef struct waiting {
    size_t count, failed;
    py_waitable *all;
    pshm_waitable *core;
    bool *ready;
} waiting;

static int step(void *closure, int64_t deadline)
{
    waiting *w = closure;
    int rc = pshm_wait(w->core, w->count, deadline, w->ready, &w->failed);
    return rc > 0 ? 0 : rc;
}

static void end(waiting *w)
{
    PyMem_Free(w->all);
    PyMem_Free(w->core);
    PyMem_Free(w->ready);
}

static int begin(waiting *w, py_state *state, PyObject *given)
{
    w->count = (size_t)PyTuple_GET_SIZE(given);
    w->all = PyMem_Calloc(w->count + 1, sizeof *w->all);
    w->core = PyMem_Calloc(w->count + 1, sizeof *w->core);
    w->ready = PyMem_Calloc(w->count + 1, sizeof *w->ready);
    if (w->all == NULL || w->core == NULL || w->ready == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < w->count; i++) {
        char where[40];
        PyOS_snprintf(where, sizeof where, "objects[%zu]", i);
        if (py_waitable_of(state, PyTuple_GET_ITEM(given, (Py_ssize_t)i), &w->all[i], where, false) < 0)
            return -1;
        w->core[i] = w->all[i].core;
    }
    return 0;
}

static PyObject *result_of(const waiting *w, PyObject *given, int rc)
{
    PyObject *list = PyList_New(0);
    for (size_t i = 0; i < w->count && rc == 0 && list != NULL; i++)
        if (w->ready[i] && PyList_Append(list, PyTuple_GET_ITEM(given, (Py_ssize_t)i)) < 0)
            Py_CLEAR(list);
    return list;
}

static PyObject *module_wait(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"wait", 1, 2, 2, {"objects", "timeout"}};
    PyObject *given[2] = {NULL, NULL}, *result = NULL;
    int64_t timeout = -1;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 ||
        (given[1] != NULL && glue_timeout(given[1], GLUE_REFUSED, &timeout) < 0))
        return NULL;
    PyObject *all = PySequence_Tuple(given[0]); /* which keeps them, whatever becomes of the list */
    if (all == NULL)
        return NULL;
    waiting w = {0};
    if (begin(&w, PyModule_GetState(module), all) == 0) {
        int rc = glue_wait(NULL, step, &w, pshm_deadline(timeout));
        if (rc == 0 || rc == -ETIMEDOUT)
            result = result_of(&w, all, rc);
        else if (rc != GLUE_RAISED)
            result = w.failed < w.count ? py_waitable_raise(&w.all[w.failed], rc) : PyErr_NoMemory();
    }
    end(&w);
    Py_DECREF(all);
    return result;
}

static PyMethodDef functions[] = {
    {"wait", GLUE_METHOD(module_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait(objects, timeout=None)\n--\n\n"
     "Waits until one of the objects is ready, up to timeout seconds (None: for ever): the list of those that are, in\n"
     "the order given, empty after the timeout. They may be of several arenas: an Event that is set, a Counter of 1 "
     "or\n"
     "more, a lock, semaphore or permits that can be had, a Latch at 0, a Participant that is gone. (counter, "
     "at_least)\n"
     "and (permits, n) say how much. Nothing is taken: whoever is told tries, and may find that another was faster.\n\n"
     "Errors: TypeError naming what cannot be waited for; Deleted, Lost; ValueError once an arena is closed."},
    {NULL, NULL, 0, NULL},
};

int py_wait_register(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
