/* SPDX-License-Identifier: MIT
 *
 * polyshm.Event: threading.Event across processes.
 */
#include "py_wait.h"

#include <errno.h>

#include <polyshm/event.h>

typedef struct py_event {
    py_object head;
    pshm_event event;
} py_event;

static pshm_event *core_of(PyObject *object)
{
    return &((py_event *)object)->event;
}

static PyObject *none_or_raise(PyObject *object, int rc)
{
    if (PSHM_UNLIKELY(rc != 0))
        return py_object_raise(object, rc);
    Py_RETURN_NONE;
}

static PyObject *event_set(PyObject *object, PyObject *unused)
{
    (void)unused;
    return none_or_raise(object, pshm_event_set(core_of(object)));
}

static PyObject *event_clear(PyObject *object, PyObject *unused)
{
    (void)unused;
    return none_or_raise(object, pshm_event_clear(core_of(object)));
}

static PyObject *event_is_set(PyObject *object, PyObject *unused)
{
    (void)unused;
    int rc = pshm_event_is_set(core_of(object));
    return PSHM_LIKELY(rc >= 0) ? PyBool_FromLong(rc) : py_object_raise(object, rc);
}

/* ---- waiting ---- */

typedef struct wait_closure {
    pshm_event *event;
    uint32_t since;
} wait_closure;

static int wait_step(void *closure, int64_t deadline)
{
    const wait_closure *wait = closure;
    return pshm_event_wait(wait->event, wait->since, deadline);
}

static PyObject *event_wait(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    wait_closure wait = {.event = core_of(object)};
    int64_t timeout = -1;
    if (glue_wait_args(args, nargs, kwnames, GLUE_AT_ONCE, &timeout) < 0)
        return NULL;
    int rc = pshm_event_since(wait.event, &wait.since);
    if (rc == 0) /* without waiting first, and then with the GIL still held */
        rc = pshm_event_wait(wait.event, wait.since, 0);
    if (PSHM_LIKELY(rc == 0))
        Py_RETURN_TRUE;
    if (rc != -ETIMEDOUT)
        return py_object_raise(object, rc);
    return timeout != 0 ? py_object_wait(object, wait_step, &wait, timeout) : Py_NewRef(Py_False);
}

/* For polyshm.aio: _since() before, which it is watched with, and then _passed(since): was it set meanwhile, or is it? Of one
 * that clears itself it takes the set, whatever `since` is. */
static PyObject *event_since(PyObject *object, PyObject *unused)
{
    (void)unused;
    uint32_t since;
    int rc = pshm_event_since(core_of(object), &since);
    return rc == 0 ? PyLong_FromLongLong(PSHM_EVENT_SINCE + since) : py_object_raise(object, rc);
}

static PyObject *event_passed(PyObject *object, PyObject *argument)
{
    long long since = PyLong_AsLongLong(argument);
    if (since == -1 && PyErr_Occurred())
        return NULL;
    int rc = pshm_event_wait(core_of(object), (uint32_t)since, 0);
    return rc == 0 || rc == -ETIMEDOUT ? PyBool_FromLong(rc == 0) : py_object_raise(object, rc);
}

static PyObject *get_auto(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(core_of(object)->automatic);
}

static PyMethodDef methods[] = {
    {"set", event_set, METH_NOARGS,
     "set($self, /)\n--\n\nSets it: all who wait go on; of one that clears itself, one of them."},
    {"clear", event_clear, METH_NOARGS, "clear($self, /)\n--\n\nClears it: who comes from now on waits."},
    {"is_set", event_is_set, METH_NOARGS, "is_set($self, /)\n--\n\nIs it set?"},
    {"wait", GLUE_METHOD(event_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\n"
     "Waits until it is set, or was set since the wait began, however soon it is cleared again. True; False after\n"
     "timeout seconds. Of one that clears itself it takes the set, which nobody else gets then."},
    {"_since", event_since, METH_NOARGS, NULL},
    {"_passed", event_passed, METH_O, NULL},
    PY_OBJECT_POLLFD,
    PY_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {"auto", get_auto, NULL, "Does it clear itself, and let one go each time?", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    PY_OBJECT_SLOTS("Set or clear, and waited for: threading.Event across processes."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Event", py_event);

static int event_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                      const void *options)
{
    const pshm_automatic *automatic = options;
    return pshm_event_init(handle, arena, name, length, create, automatic != NULL ? *automatic : PSHM_AUTOMATIC_ANY,
                           NULL);
}

PY_OBJECT_FINI(event)

static const char *suffix(PyObject *object)
{
    return core_of(object)->automatic ? " auto" : "";
}

const py_noun py_event_noun = {PY_NOUN(event), .suffix = suffix};

const char py_event_doc[] = "event($self, /, name, auto=None)\n--\n\n"
                            "The Event of that name; made, clear, where there is none and the arena may be written.\n\n"
                            "auto is taken from what exists, and False when creating: does it clear itself, and let "
                            "one waiter go each time?\n\n"
                            "Errors: as mutex(); ValueError where auto is another.";

PyObject *py_event_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"event", 1, 2, 2, {"name", "auto"}};
    PyObject *given[2];
    bool truth = false;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    bool any = given[1] == NULL || given[1] == Py_None;
    if (!any && glue_bool(given[1], &truth) < 0)
        return NULL;
    const pshm_automatic automatic = any ? PSHM_AUTOMATIC_ANY : truth ? PSHM_AUTOMATIC_YES : PSHM_AUTOMATIC_NO;
    return py_object_make(arena, &py_event_noun, given[0], &automatic, NULL);
}
