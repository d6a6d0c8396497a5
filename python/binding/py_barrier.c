/* SPDX-License-Identifier: MIT
 *
 * polyshm.Barrier: threading.Barrier across processes.
 */
#include "py_object.h"

#include <errno.h>

#include <polyshm/barrier.h>

typedef struct py_barrier {
    py_object head;
    pshm_barrier barrier;
} py_barrier;

static pshm_barrier *core_of(PyObject *object)
{
    return &((py_barrier *)object)->barrier;
}

/* ---- waiting ---- */

typedef struct wait_closure {
    pshm_barrier *barrier;
    pshm_barrier_ticket ticket;
} wait_closure;

static int arrive_step(void *closure, int64_t deadline)
{
    wait_closure *wait = closure;
    return pshm_barrier_arrive(wait->barrier, &wait->ticket, deadline);
}

static int sleep_step(void *closure, int64_t deadline)
{
    wait_closure *wait = closure;
    return pshm_barrier_sleep(wait->barrier, &wait->ticket, deadline);
}

static int withdraw_step(void *closure, int64_t deadline)
{
    (void)deadline;
    const wait_closure *wait = closure;
    return pshm_barrier_withdraw(wait->barrier, &wait->ticket);
}

static PyObject *barrier_wait(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    wait_closure wait = {.barrier = core_of(object)};
    int64_t timeout = -1;
    if (glue_wait_args(args, nargs, kwnames, GLUE_AT_ONCE, &timeout) < 0)
        return NULL;
    const int64_t deadline = pshm_deadline(timeout);
    int rc = glue_wait(NULL, arrive_step, &wait, deadline);
    if (rc == 0) {
        rc = glue_wait(NULL, sleep_step, &wait, deadline);
        if (rc == GLUE_RAISED) { /* by a signal's handler: it has not come after all */
            glue_raised first;
            glue_raised_keep(&first);
            (void)glue_wait_through(withdraw_step, &wait);
            glue_raised_restore(&first);
        }
    }
    if (rc == 0)
        return PyLong_FromUnsignedLong(wait.ticket.index);
    return py_object_raise(object, rc == -ETIMEDOUT ? PSHM_EBROKEN : rc);
}

/* ---- for all ---- */

static int join_step(void *barrier, int64_t deadline)
{
    (void)deadline;
    return pshm_barrier_join(barrier);
}

static int leave_step(void *barrier, int64_t deadline)
{
    (void)deadline;
    return pshm_barrier_leave(barrier);
}

static int reset_step(void *barrier, int64_t deadline)
{
    (void)deadline;
    return pshm_barrier_reset(barrier);
}

static PyObject *none_or_raise(PyObject *object, int rc)
{
    if (rc != 0)
        return py_object_raise(object, rc);
    Py_RETURN_NONE;
}

static PyObject *barrier_join(PyObject *object, PyObject *unused)
{
    (void)unused;
    return none_or_raise(object, glue_wait(NULL, join_step, core_of(object), PSHM_FOREVER));
}

static PyObject *barrier_leave(PyObject *object, PyObject *unused)
{
    (void)unused;
    return none_or_raise(object, glue_wait(NULL, leave_step, core_of(object), PSHM_FOREVER));
}

static PyObject *barrier_reset(PyObject *object, PyObject *unused)
{
    (void)unused;
    return none_or_raise(object, glue_wait(NULL, reset_step, core_of(object), PSHM_FOREVER));
}

static PyObject *barrier_abort(PyObject *object, PyObject *unused)
{
    (void)unused;
    return none_or_raise(object, pshm_barrier_abort(core_of(object)));
}

static PyObject *get_parties(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(core_of(object)->parties);
}

static PyObject *get_waiting(PyObject *object, void *unused)
{
    (void)unused;
    int rc = pshm_barrier_waiting(core_of(object));
    return rc >= 0 ? PyLong_FromLong(rc) : py_object_raise(object, rc);
}

static PyObject *get_broken(PyObject *object, void *unused)
{
    (void)unused;
    int rc = pshm_barrier_broken(core_of(object));
    return rc >= 0 ? PyBool_FromLong(rc) : py_object_raise(object, rc);
}

static PyObject *get_on_death(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(pshm_on_death_name(core_of(object)->on_death));
}

static PyMethodDef methods[] = {
    {"wait", GLUE_METHOD(barrier_wait), METH_FASTCALL | METH_KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\n"
     "Waits until as many have come as there are parties. Returns how many had come before, 0 to parties - 1: another "
     "number\n"
     "for each. The first wait of a thread makes it a member, whose death counts.\n\n"
     "Errors: threading.BrokenBarrierError if it is or gets broken, is reset meanwhile, or after timeout seconds, "
     "which\n"
     "breaks it for all; RuntimeError where as many others are members as there are parties; Deleted; ValueError once "
     "the\n"
     "arena is closed; TypeError in a read-only one.\n"
     "A signal's handler runs during the wait; if it raises, this thread has not come."},
    {"join", barrier_join, METH_NOARGS,
     "join($self, /)\n--\n\nMakes this thread a member before its first wait. Errors: as wait()."},
    {"leave", barrier_leave, METH_NOARGS,
     "leave($self, /)\n--\n\nThis thread is a member no longer, and another may join. One that ends without leaving "
     "counts as "
     "dead."},
    {"reset", barrier_reset, METH_NOARGS,
     "reset($self, /)\n--\n\nMakes it whole again; who waits gets threading.BrokenBarrierError. Where a death breaks "
     "it,\n"
     "the dead are members no longer."},
    {"abort", barrier_abort, METH_NOARGS,
     "abort($self, /)\n--\n\nBreaks it: who waits, and who comes, gets threading.BrokenBarrierError until somebody "
     "resets "
     "it."},
    PY_OBJECT_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {"parties", get_parties, NULL, "How many have to come.", NULL},
    {"n_waiting", get_waiting, NULL, "How many wait now.", NULL},
    {"broken", get_broken, NULL, "Is it broken?", NULL},
    {"on_death", get_on_death, NULL, "\"break\": the death of a member breaks it; \"shrink\": one less is waited for.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    PY_OBJECT_SLOTS(
        "As many as it has parties wait for each other, again and again: threading.Barrier across processes."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Barrier", py_barrier);

/* ---- opening ---- */

typedef struct barrier_options {
    uint64_t parties;
    pshm_on_death on_death;
} barrier_options;

static int barrier_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                        const void *options)
{
    const barrier_options any = {0, PSHM_ON_DEATH_UNSET};
    const barrier_options *with = options != NULL ? options : &any;
    return pshm_barrier_init(handle, arena, name, length, create, with->parties, with->on_death, NULL);
}

PY_OBJECT_FINI(barrier)

const py_noun py_barrier_noun = {PY_NOUN(barrier)};

const char py_barrier_doc[] =
    "barrier($self, /, name, parties=None, on_death=None)\n--\n\n"
    "The Barrier of that name; made with so many parties where there is none and the arena may be written.\n\n"
    "on_death: what the death of a member does: \"break\" (of a new one, unless said) or \"shrink\".\n\n"
    "Errors: as mutex(); ValueError where it is made without parties, or has others.";

static int on_death_of(PyObject *value, pshm_on_death *out)
{
    *out = PSHM_ON_DEATH_UNSET;
    if (value == NULL || value == Py_None)
        return 0;
    for (int i = 0; i < PSHM_ON_DEATHS; i++)
        if (PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, pshm_on_death_name(i)) == 0)
            *out = i;
    if (*out != PSHM_ON_DEATH_UNSET)
        return 0;
    PyErr_Format(PyUnicode_Check(value) ? PyExc_ValueError : PyExc_TypeError,
                 "on_death must be \"break\" or \"shrink\", not %R", value);
    return -1;
}

PyObject *py_barrier_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"barrier", 1, 3, 3, {"name", "parties", "on_death"}};
    PyObject *given[3];
    barrier_options options = {0, PSHM_ON_DEATH_UNSET};
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 ||
        glue_count_or_none(given[1], "parties", &options.parties) < 0 || on_death_of(given[2], &options.on_death) < 0)
        return NULL;
    if (given[1] != NULL && given[1] != Py_None && options.parties == 0) {
        PyErr_SetString(PyExc_ValueError, "parties must be at least 1");
        return NULL;
    }
    return py_object_make(arena, &py_barrier_noun, given[0], &options, NULL);
}
