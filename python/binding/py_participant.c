/* SPDX-License-Identifier: MIT
 *
 * polyshm.Participant: a thread that takes part in an arena, as it was when it was listed.
 */
#include "py_wait.h"

#include <errno.h>
#include <string.h>

#include <polyshm/participant.h>

typedef struct py_participant {
    PyObject_HEAD
    py_arena *arena;
    uint32_t slot, generation, pid, thread;
    pshm_language language;
    bool alive, self;
    PyObject *holds;         /* a tuple of str */
    PyObject *waits;         /* str or None */
    pshm_notifier *notifier; /* of pollfd(); NULL: nobody has asked */
} py_participant;

/* ---- waiting ---- */

static int wait_step(void *closure, int64_t deadline)
{
    const py_participant *self = closure;
    return pshm_participant_wait(self->arena->handle, self->slot, self->generation, deadline);
}

static PyObject *participant_wait(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_participant *self = (py_participant *)object;
    int64_t timeout;
    if (glue_wait_args(args, nargs, kwnames, GLUE_REFUSED, &timeout) < 0)
        return NULL;
    int rc = glue_wait(NULL, wait_step, self, pshm_deadline(timeout));
    if (rc == 0)
        Py_RETURN_TRUE;
    if (rc == -ETIMEDOUT)
        Py_RETURN_FALSE;
    return py_participant_raise(object, rc);
}

PyObject *py_participant_raise(PyObject *object, int rc)
{
    const py_participant *self = (py_participant *)object;
    return py_arena_raise(self->arena, rc, "participant %u", self->slot);
}

pshm_waitable py_participant_waitable(PyObject *object)
{
    const py_participant *self = (py_participant *)object;
    return (pshm_waitable){.arena = self->arena->handle, .slot = self->slot, .generation = self->generation};
}

static PyObject *participant_pollfd(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_participant *self = (py_participant *)object;
    const pshm_waitable waitable = py_participant_waitable(object);
    int rc;
    GLUE_LOCK(object);
    rc = pshm_notifier_pollfd(&self->notifier, &waitable);
    GLUE_UNLOCK();
    return rc >= 0 ? PyLong_FromLong(rc) : py_participant_raise(object, rc);
}

/* ---- attributes ---- */

#define GET_NUMBER(name)                                                                                               \
    static PyObject *get_##name(PyObject *object, void *unused)                                                        \
    {                                                                                                                  \
        (void)unused;                                                                                                  \
        return PyLong_FromUnsignedLong(((py_participant *)object)->name);                                              \
    }

GET_NUMBER(slot)
GET_NUMBER(generation)
GET_NUMBER(pid)
GET_NUMBER(thread)

static PyObject *get_alive(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((py_participant *)object)->alive);
}

static PyObject *get_self(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((py_participant *)object)->self);
}

static const char *language_of(const py_participant *self)
{
    const char *name = pshm_language_name(self->language);
    return name != NULL ? name : "unknown";
}

static PyObject *get_language(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(language_of((py_participant *)object));
}

static PyObject *get_holds(PyObject *object, void *unused)
{
    (void)unused;
    return Py_NewRef(((py_participant *)object)->holds);
}

static PyObject *get_waits(PyObject *object, void *unused)
{
    (void)unused;
    return Py_NewRef(((py_participant *)object)->waits);
}

static PyGetSetDef attributes[] = {
    {"slot", get_slot, NULL, "Its place in the arena's table, from 0.", NULL},
    {"generation", get_generation, NULL, "Of the slot: another one is another participant.", NULL},
    {"pid", get_pid, NULL, "Its process, as its own PID namespace numbers it.", NULL},
    {"thread", get_thread, NULL, "Its thread, as gettid(2) there.", NULL},
    {"language", get_language, NULL, "\"c\", \"python\" or \"lua\"; \"unknown\" for what this version does not know.",
     NULL},
    {"alive", get_alive, NULL, "Was it alive then?", NULL},
    {"self", get_self, NULL, "Is it the thread that asked?", NULL},
    {"holds", get_holds, NULL,
     "The names of the locks that it holds, as a tuple; \"(heap)\" and \"(directory)\" are the arena's own.", NULL},
    {"waits", get_waits, NULL, "The name of what it sleeps for, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---- life ---- */

static PyObject *participant_repr(PyObject *object)
{
    const py_participant *self = (py_participant *)object;
    return PyUnicode_FromFormat("<polyshm.Participant %u pid=%u thread=%u %s%s%s holds=%R waits=%R>", self->slot,
                                self->pid, self->thread, language_of(self), self->alive ? "" : " dead",
                                self->self ? " self" : "", self->holds, self->waits);
}

static int participant_traverse(PyObject *object, visitproc visit, void *arg)
{
    py_participant *self = (py_participant *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->arena);
    Py_VISIT(self->holds);
    return 0;
}

static void participant_dealloc(PyObject *object)
{
    py_participant *self = (py_participant *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->notifier != NULL)
        pshm_notifier_close(self->notifier);
    Py_XDECREF(self->arena);
    Py_XDECREF(self->holds);
    Py_XDECREF(self->waits);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"wait", GLUE_METHOD(participant_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\nWaits until it is gone: dead, ended or detached. True once it is, False "
     "after "
     "timeout seconds;\n"
     "None waits for ever.\n\n"
     "Errors: ValueError once the arena is closed; Lost."},
    {"pollfd", participant_pollfd, METH_NOARGS,
     "pollfd($self, /)\n--\n\nA descriptor for an event loop, which becomes readable when it may be gone. Each call "
     "arms "
     "it anew,\nonce: then ask wait(0), and if it is not, call it again before you poll. It is closed with this "
     "object."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A thread that owns or waits for something in an arena, as it was when participants() looked."},
    {Py_tp_dealloc, participant_dealloc},
    {Py_tp_traverse, participant_traverse},
    {Py_tp_repr, participant_repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm.Participant", sizeof(py_participant), 0,
                           GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

int py_participant_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &spec, true, &state->participant_type);
}

/* ---- listing ---- */

static PyObject *name_of(const char *name)
{
    return PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
}

static PyObject *holds_of(const pshm_participant *found)
{
    const uint32_t count = found->holding < PSHM_HOLDS_MAX ? found->holding : PSHM_HOLDS_MAX;
    PyObject *holds = PyTuple_New(count);
    for (uint32_t i = 0; i < count && holds != NULL; i++) {
        PyObject *name = name_of(found->holds[i].name);
        if (name == NULL)
            Py_CLEAR(holds);
        else
            PyTuple_SET_ITEM(holds, i, name);
    }
    return holds;
}

static PyObject *make(py_arena *arena, const pshm_participant *found)
{
    PyTypeObject *type = (PyTypeObject *)glue_state((PyObject *)arena)->participant_type;
    py_participant *self = (py_participant *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->arena = (py_arena *)Py_NewRef((PyObject *)arena);
    self->slot = found->slot;
    self->generation = found->generation;
    self->pid = found->pid;
    self->thread = found->thread;
    self->language = found->language;
    self->alive = found->alive;
    self->self = found->self;
    self->holds = holds_of(found);
    self->waits = found->waits[0] != '\0' ? name_of(found->waits) : Py_NewRef(Py_None);
    if (self->holds == NULL || self->waits == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

PyObject *py_arena_participants(PyObject *object, PyObject *unused)
{
    (void)unused;
    py_arena *self = (py_arena *)object;
    pshm_participant *found = NULL;
    size_t count = 0;
    int rc;
    Py_BEGIN_ALLOW_THREADS;
    rc = pshm_arena_list_participants(self->handle, &found, &count);
    Py_END_ALLOW_THREADS;
    if (rc != 0)
        return py_arena_raise(self, rc, NULL);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; i < count && list != NULL; i++) {
        PyObject *one = make(self, &found[i]);
        if (one == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, one);
    }
    pshm_participants_free(found);
    return list;
}
