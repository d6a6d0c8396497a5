/* SPDX-License-Identifier: MIT
 *
 * polyshm.Condition, as threading.Condition. Whatever ends a wait, the mutex is held again before anything else is raised,
 * but where the mutex itself cannot be had.
 */
#include "py_lock.h"

#include <errno.h>

#include <polyshm/condition.h>

typedef struct py_condition {
    py_object head;
    pshm_condition condition;
    py_lock *mutex; /* the Mutex; it has the repair */
} py_condition;

/* ---- the mutex's verbs ---- */

static PyObject *mutex_of(PyObject *self)
{
    return (PyObject *)((py_condition *)self)->mutex;
}

static PyObject *condition_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return py_lock_acquire(mutex_of(self), args, nargs, kwnames);
}

#define X(verb)                                                                                                        \
    static PyObject *condition_##verb(PyObject *self, PyObject *unused)                                                \
    {                                                                                                                  \
        return py_lock_##verb(mutex_of(self), unused);                                                                 \
    }
X(release)
X(locked)
X(enter)
#undef X

static PyObject *condition_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return py_lock_exit(mutex_of(self), args, nargs);
}

/* ---- waiting ---- */

typedef struct waiting {
    pshm_condition *condition;
    pshm_condition_ticket ticket;
    pshm_death death;
    PyObject *raised; /* by a signal's handler, while the mutex is not held */
} waiting;

static int wait_step(void *closure, int64_t deadline)
{
    waiting *w = closure;
    return pshm_condition_wait(w->condition, &w->ticket, deadline, &w->death);
}

/* The exception that is set, taken away. */
static PyObject *fetch_raised(void)
{
#if PY_VERSION_HEX >= 0x030c0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace != NULL)
        (void)PyException_SetTraceback(value, trace);
    Py_XDECREF(trace);
    Py_XDECREF(type);
    return value;
#endif
}

static void set_raised(PyObject *value)
{
#if PY_VERSION_HEX >= 0x030c0000
    PyErr_SetRaisedException(value);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(value)), value, PyException_GetTraceback(value));
#endif
}

/* What is raised now came while another exception was on its way. */
static void set_context(PyObject **earlier)
{
    PyObject *now = fetch_raised();
    if (*earlier != NULL && *earlier != now)
        PyException_SetContext(now, *earlier);
    else
        Py_XDECREF(*earlier);
    *earlier = now;
}

/* Takes the mutex back, whatever handlers of signals raise meanwhile, and after a death with its repair. Else it is not
 * held: a code, or GLUE_RAISED. */
static int take_back(py_condition *self, waiting *w)
{
    py_lock *lock = self->mutex;
    bool marked = false;
    for (;;) {
        int rc;
        Py_BEGIN_ALLOW_THREADS;
        rc = marked ? lock->verbs->recover(lock->mutex, PSHM_FOREVER, &w->death)
                    : pshm_condition_end(w->condition, &w->ticket, PSHM_FOREVER, &w->death);
        Py_END_ALLOW_THREADS;
        if (rc == -EINTR) {
            if (PyErr_CheckSignals() < 0)
                set_context(&w->raised);
        } else if (rc == -EOWNERDEAD) {
            if (lock->repair == NULL)
                return py_lock_raise_died(lock, &w->death);
            marked = true;
        } else if (rc != 0 || !marked) {
            return rc;
        } else {
            rc = w->death.died ? py_lock_run_repair(lock, lock->verbs, lock->mutex, &w->death) : 0;
            if (rc != 0)
                return rc;
            marked = false; /* once more, for its depth */
        }
    }
}

/* 1: notified, perhaps; 0: the deadline came; -1 with an exception set. */
static int wait_until(py_condition *self, int64_t deadline)
{
    waiting w = {.condition = &self->condition};
    int rc = glue_wait(NULL, wait_step, &w, deadline);
    bool pending = rc == GLUE_RAISED;
    if (pending)
        w.raised = fetch_raised();
    if (pending || rc == -EOWNERDEAD) {
        rc = take_back(self, &w);
        if (rc == 0 && w.raised != NULL) {
            set_raised(w.raised);
            return -1;
        }
        if (rc == 0)
            rc = w.ticket.result;
    }
    if (rc == 0 || rc == -ETIMEDOUT)
        return rc == 0;
    if (rc != GLUE_RAISED)
        (void)py_object_raise((PyObject *)self, rc);
    if (w.raised != NULL) {
        set_context(&w.raised);
        set_raised(w.raised);
    }
    return -1;
}

static PyObject *condition_wait(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    int64_t timeout;
    if (glue_wait_args(args, nargs, kwnames, GLUE_AT_ONCE, &timeout) < 0)
        return NULL;
    int woken = wait_until((py_condition *)self, pshm_deadline(timeout));
    return woken < 0 ? NULL : PyBool_FromLong(woken);
}

static PyObject *condition_wait_for(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"wait_for", 1, 2, 2, {"predicate", "timeout"}};
    PyObject *given[2];
    int64_t timeout;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_timeout(given[1], GLUE_AT_ONCE, &timeout) < 0)
        return NULL;
    int64_t deadline = pshm_deadline(timeout);
    for (int woken = 1;;) {
        PyObject *result = PyObject_CallNoArgs(given[0]);
        int truth = result == NULL ? -1 : PyObject_IsTrue(result);
        if (truth > 0 || (truth == 0 && !woken))
            return result;
        Py_XDECREF(result);
        woken = truth < 0 ? -1 : wait_until((py_condition *)self, deadline);
        if (woken < 0)
            return NULL;
    }
}

/* ---- notifying ---- */

static PyObject *condition_notify(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"notify", 0, 1, 1, {"n"}};
    PyObject *given[1];
    int overflow = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    long count = given[0] == NULL ? 1 : PyLong_AsLongAndOverflow(given[0], &overflow);
    if (count == -1 && !overflow && PyErr_Occurred())
        return NULL;
    if (count < 0)
        count = overflow > 0 ? UINT32_MAX : 0; /* as in threading: below 1 it is nobody */
    int rc = pshm_condition_notify(&((py_condition *)self)->condition, (uint32_t)Py_MIN(count, UINT32_MAX));
    if (rc != 0)
        return py_object_raise(self, rc);
    Py_RETURN_NONE;
}

static PyObject *condition_notify_all(PyObject *self, PyObject *unused)
{
    (void)unused;
    int rc = pshm_condition_notify_all(&((py_condition *)self)->condition);
    if (rc != 0)
        return py_object_raise(self, rc);
    Py_RETURN_NONE;
}

/* ---- for polyshm.aio ---- */

static PyObject *condition_now(PyObject *self, PyObject *unused)
{
    (void)unused;
    int64_t least;
    int rc = pshm_condition_now(&((py_condition *)self)->condition, &least);
    return rc != 0 ? py_object_raise(self, rc) : PyLong_FromLongLong(least);
}

static int ticket_of(const glue_signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                     pshm_condition_ticket *ticket)
{
    PyObject *given[2] = {NULL, NULL};
    uint64_t depth = 0;
    *ticket = (pshm_condition_ticket){.task = 0};
    if (glue_args(signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "task", &ticket->task) < 0 ||
        glue_count(given[1], "depth", &depth) < 0)
        return -1;
    ticket->depth = (uint32_t)depth;
    return 0;
}

static PyObject *condition_begin(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"_begin", 1, 1, 1, {"task"}};
    pshm_condition_ticket ticket;
    if (ticket_of(&signature, args, nargs, kwnames, &ticket) < 0)
        return NULL;
    int rc = pshm_condition_begin(&((py_condition *)self)->condition, &ticket);
    return rc != 0 ? py_object_raise(self, rc) : Py_BuildValue("(LI)", (long long)ticket.least, ticket.depth);
}

static PyObject *condition_end(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"_end", 2, 2, 2, {"task", "depth"}};
    pshm_condition_ticket ticket;
    pshm_death death;
    if (ticket_of(&signature, args, nargs, kwnames, &ticket) < 0)
        return NULL;
    int rc = pshm_condition_end(&((py_condition *)self)->condition, &ticket, INT64_MIN, &death);
    if (rc != 0 && rc != -EBUSY)
        return rc == -EOWNERDEAD ? (py_lock_raise_died(((py_condition *)self)->mutex, &death), NULL)
                                 : py_object_raise(self, rc);
    return PyBool_FromLong(rc == 0);
}

/* ---- the type ---- */

static PyObject *condition_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    return py_object_reduce_with(self, mutex_of(self));
}

static PyObject *get_mutex(PyObject *self, void *unused)
{
    (void)unused;
    return Py_NewRef(mutex_of(self));
}

static int condition_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((py_condition *)self)->mutex);
    return py_object_traverse(self, visit, arg);
}

static void condition_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(((py_condition *)self)->mutex);
    py_object_dealloc(self);
}

#define KEYWORDS (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef methods[] = {
    {"acquire", GLUE_METHOD(condition_acquire), KEYWORDS,
     "acquire($self, /, blocking=True, timeout=None)\n--\n\nmutex.acquire()"},
    {"release", condition_release, METH_NOARGS, "release($self, /)\n--\n\nmutex.release()"},
    {"locked", condition_locked, METH_NOARGS, "locked($self, /)\n--\n\nmutex.locked()"},
    {"wait", GLUE_METHOD(condition_wait), KEYWORDS,
     "wait($self, /, timeout=None)\n--\n\n"
     "Releases the mutex, however often it is held, until another notifies, and takes it again. False after timeout\n"
     "seconds, else True, perhaps for no reason: look again at what is waited for, or use wait_for.\n\n"
     "Errors: RuntimeError unless this thread holds the mutex; OwnerDied if the mutex was left by a dead owner and "
     "has\n"
     "no repair, then it is not held; Deleted, held unless the mutex itself is. What a signal's handler raises comes\n"
     "when the mutex is held again."},
    {"wait_for", GLUE_METHOD(condition_wait_for), KEYWORDS,
     "wait_for($self, /, predicate, timeout=None)\n--\n\n"
     "Waits until predicate(), which is called with the mutex held, is true; what it gave last, after timeout seconds\n"
     "also if that is false."},
    {"notify", GLUE_METHOD(condition_notify), KEYWORDS,
     "notify($self, /, n=1)\n--\n\nWakes n of those who wait, perhaps more. RuntimeError unless this thread holds the "
     "mutex."},
    {"notify_all", condition_notify_all, METH_NOARGS,
     "notify_all($self, /)\n--\n\nWakes all who wait. RuntimeError unless this thread holds the mutex."},
    {"_now", condition_now, METH_NOARGS, "_now($self, /)\n--\n\nWhat it is watched with, to be told of what follows."},
    {"_begin", GLUE_METHOD(condition_begin), KEYWORDS,
     "_begin($self, /, task)\n--\n\nReleases the mutex of a task: what to watch with, and the depth for _end."},
    {"_end", GLUE_METHOD(condition_end), KEYWORDS,
     "_end($self, /, task, depth)\n--\n\nGives the mutex, tried for if the task has it not, its depth again."},
    {"__enter__", condition_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nacquire()"},
    {"__exit__", GLUE_METHOD(condition_exit), METH_FASTCALL, "__exit__($self, /, *args)\n--\n\nrelease()"},
    {"__reduce__", condition_reduce, METH_NOARGS,
     "__reduce__($self, /)\n--\n\nPickles with its arena and its mutex; refused (Deleted) if another object has its "
     "name "
     "by then."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    PY_OBJECT_ATTRIBUTES,
    {"mutex", get_mutex, NULL, "The Mutex that goes with it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "What waits, with a mutex, until another says that something has changed: as threading.Condition.\n\n"
                "No death loses a wake. When somebody dies with the mutex, those who wait wake up."},
    {Py_tp_dealloc, condition_dealloc},
    {Py_tp_traverse, condition_traverse},
    {Py_tp_repr, py_object_repr},
    {Py_tp_members, py_object_members},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {0, NULL},
};

static PyType_Spec spec = PY_OBJECT_SPEC("Condition", py_condition);

/* ---- opening ---- */

static int condition_init(void *handle, pshm_arena *arena, const char *name, size_t length, bool create,
                          const void *options)
{
    const pshm_mutex *mutex = options;
    return pshm_condition_init(handle, arena, name, length, create, mutex, NULL);
}

PY_OBJECT_FINI(condition)

/* `given`: the Mutex, or NULL. */
static int opened(PyObject *object, PyObject *given)
{
    py_condition *self = (py_condition *)object;
    const pshm_object *wanted = &self->condition.mutex.object;
    if (given == NULL) {
        PyObject *name = PyUnicode_DecodeUTF8(wanted->name, (Py_ssize_t)wanted->name_size, NULL);
        if (name != NULL)
            self->mutex = (py_lock *)py_object_open((py_arena *)self->head.whole, &py_mutex_noun, name, false, NULL,
                                                    NULL);
        Py_XDECREF(name);
        if (self->mutex == NULL)
            return -1;
    } else if (!Py_IS_TYPE(given, (PyTypeObject *)glue_state(object)->mutex_type)) {
        PyErr_Format(PyExc_TypeError, "mutex must be a Mutex of the arena, not %.100s", Py_TYPE(given)->tp_name);
        return -1;
    } else {
        self->mutex = (py_lock *)Py_NewRef(given);
    }
    const pshm_object *found = self->mutex->head.object;
    if (found->serial == wanted->serial && found->place == wanted->place)
        return 0;
    (void)py_object_raise(object, given == NULL ? PSHM_EDELETED : PSHM_EPARAMETER);
    return -1;
}

const py_noun py_condition_noun = {PY_NOUN(condition), .opened = opened};

const char py_condition_doc[] =
    "condition($self, /, name, mutex=None)\n--\n\n"
    "The Condition of that name; made where there is none and the arena may be written.\n\n"
    "mutex, a Mutex of the same arena, is needed to make one; what exists has its own, and another one is refused.\n\n"
    "Errors: as mutex(); Deleted if the mutex of what exists was deleted.";

PyObject *py_condition_of(PyObject *arena, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"condition", 1, 2, 2, {"name", "mutex"}};
    PyObject *given[2];
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    PyObject *mutex = given[1] == Py_None ? NULL : given[1];
    if (mutex != NULL && !Py_IS_TYPE(mutex, (PyTypeObject *)glue_state(arena)->mutex_type))
        return PyErr_Format(PyExc_TypeError, "mutex must be a Mutex of the arena, not %.100s", Py_TYPE(mutex)->tp_name);
    return py_object_make(arena, &py_condition_noun, given[0], mutex == NULL ? NULL : ((py_lock *)mutex)->mutex, mutex);
}
