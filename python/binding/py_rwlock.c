/* SPDX-License-Identifier: MIT
 *
 * polyshm.RWLock, and its two sides: the protocol of py_lock.h over reading and over writing.
 */
#include "py_lock.h"

#include <polyshm/rwlock.h>

typedef struct py_rwlock {
    py_lock lock; /* for its repair, which both sides have */
    pshm_rwlock rwlock;
} py_rwlock;

/* ---- verbs ---- */

#define SIDE(side)                                                                                                     \
    static int side##_try(void *rwlock, pshm_death *death)                                                             \
    {                                                                                                                  \
        return pshm_rwlock_##side##_try(rwlock, death);                                                                \
    }                                                                                                                  \
    static int side##_acquire(void *rwlock, int64_t deadline, pshm_death *death)                                       \
    {                                                                                                                  \
        return pshm_rwlock_##side##_acquire(rwlock, deadline, death);                                                  \
    }                                                                                                                  \
    static int side##_recover(void *rwlock, int64_t deadline, pshm_death *death)                                       \
    {                                                                                                                  \
        return pshm_rwlock_##side##_recover(rwlock, deadline, death);                                                  \
    }                                                                                                                  \
    static int side##_consistent(void *rwlock)                                                                         \
    {                                                                                                                  \
        return pshm_rwlock_##side##_consistent(rwlock);                                                                \
    }                                                                                                                  \
    static int side##_release(void *rwlock)                                                                            \
    {                                                                                                                  \
        return pshm_rwlock_##side##_release(rwlock);                                                                   \
    }                                                                                                                  \
    static int side##_locked(void *rwlock)                                                                             \
    {                                                                                                                  \
        return pshm_rwlock_##side##_locked(rwlock);                                                                    \
    }                                                                                                                  \
    static const py_lock_verbs side##_verbs = {side##_try,     side##_acquire, side##_recover, side##_consistent,      \
                                               side##_release, side##_locked,  side##_owner,   NULL};

static int write_owner(void *rwlock, uint32_t *pid)
{
    return pshm_rwlock_write_owner(rwlock, pid);
}

/* There may be many, and none of them is the owner. */
static int read_owner(void *rwlock, uint32_t *pid)
{
    int rc = pshm_rwlock_read_locked(rwlock);
    *pid = 0;
    return rc < 0 ? rc : 0;
}

SIDE(read)
SIDE(write)

/* ---- a side ---- */

static PyObject *side_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    const py_lock *lock = (py_lock *)self;
    PyObject *builtins = PyEval_GetBuiltins();
    PyObject *getattr = builtins == NULL ? NULL : PyMapping_GetItemString(builtins, "getattr");
    if (getattr == NULL)
        return NULL;
    return Py_BuildValue("(N(Os))", getattr, lock->head.whole, lock->verbs == &read_verbs ? "read" : "write");
}

static PyObject *side_repr(PyObject *self)
{
    const py_lock *lock = (py_lock *)self;
    return PyUnicode_FromFormat("<%s side of %R>", lock->verbs == &read_verbs ? "read" : "write", lock->head.whole);
}

static PyMethodDef side_methods[] = {
    PY_LOCK_METHODS("Deleted; ValueError once the arena is closed."),
    {"__reduce__", side_reduce, METH_NOARGS, "__reduce__($self, /)\n--\n\nPickles with its RWLock."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef side_attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot side_slots[] = {
    {Py_tp_doc, "One side of an RWLock, which is a lock: acquire, release, with, recover."},
    {Py_tp_dealloc, py_lock_dealloc},
    {Py_tp_traverse, py_lock_traverse},
    {Py_tp_clear, py_lock_clear},
    {Py_tp_repr, side_repr},
    {Py_tp_members, py_object_members},
    {Py_tp_methods, side_methods},
    {Py_tp_getset, side_attributes},
    {0, NULL},
};

static PyType_Spec side_spec = {"polyshm._RWLockSide", sizeof(py_lock), 0,
                                GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION, side_slots};

int py_rwlock_side_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &side_spec, true, &state->rwlock_side_type);
}

/* It keeps the lock alive, and not the other way round. */
static PyObject *side_of(PyObject *object, const py_lock_verbs *verbs)
{
    py_rwlock *self = (py_rwlock *)object;
    PyTypeObject *type = (PyTypeObject *)glue_state(object)->rwlock_side_type;
    py_lock *side = (py_lock *)type->tp_alloc(type, 0);
    if (side == NULL)
        return NULL;
    side->head.whole = Py_NewRef(object);
    side->head.object = &self->rwlock.object;
    side->verbs = verbs;
    side->mutex = &self->rwlock;
    side->repair = Py_XNewRef(self->lock.repair);
    return (PyObject *)side;
}

/* ---- the type ---- */

static PyObject *get_read(PyObject *self, void *unused)
{
    (void)unused;
    return side_of(self, &read_verbs);
}

static PyObject *get_write(PyObject *self, void *unused)
{
    (void)unused;
    return side_of(self, &write_verbs);
}

static PyObject *rwlock_downgrade(PyObject *self, PyObject *unused)
{
    (void)unused;
    int rc = pshm_rwlock_downgrade(&((py_rwlock *)self)->rwlock);
    if (rc != 0)
        return py_object_raise(self, rc);
    Py_RETURN_NONE;
}

static PyObject *rwlock_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    return py_object_reduce_with(self, ((py_lock *)self)->repair);
}

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {"read", get_read, NULL, "The lock for reading, which many can have.", NULL},
    {"write", get_write, NULL, "The lock for writing, which one has alone.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    {"downgrade", rwlock_downgrade, METH_NOARGS,
     "downgrade($self, /)\n--\n\n"
     "Turns what this thread has for writing into reading; nobody writes between. The with of write ends it as "
     "well.\n\n"
     "Errors: RuntimeError unless this thread writes; OSError EOWNERDEAD while a death is not made good."},
    {"__reduce__", rwlock_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nPickles with its arena, and with its repair; refused (Deleted) if another object has "
     "its name by then."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    PY_LOCK_SLOTS(
        "A lock by name that many threads have for reading, or one for writing; who writes goes first.\n\n"
        "read and write are locks. The death of a reader is nothing, that of a writer is told to all who come."),
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("RWLock", py_rwlock);

/* ---- opening ---- */

PY_OBJECT_INIT(rwlock)
PY_OBJECT_FINI(rwlock)

static int opened(PyObject *object, PyObject *repair)
{
    ((py_rwlock *)object)->lock.repair = Py_XNewRef(repair);
    return 0;
}

const py_noun py_rwlock_noun = {PY_NOUN(rwlock), .opened = opened};

const char py_rwlock_doc[] =
    "rwlock($self, /, name, repair=None)\n--\n\n"
    "The RWLock of that name; made where there is none and the arena may be written.\n\n"
    "repair(died) is called with the lock held alone when a writer has died; if it returns, the lock is clean, if it\n"
    "raises, it stays marked.\n\n"
    "Errors: ValueError where the name is another noun's; KeyError where there is none and the arena is read-only;\n"
    "OSError ENOSPC.";

PyObject *py_rwlock_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"rwlock", 1, 2, 2, {"name", "repair"}};
    PyObject *given[2], *repair;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || py_lock_repair(given[1], &repair) < 0)
        return NULL;
    return py_object_make(arena, &py_rwlock_noun, given[0], NULL, repair);
}
