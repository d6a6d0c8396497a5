/* SPDX-License-Identifier: MIT
 *
 * What every file of the Python binding shares: the module's state, the objects' layouts, the way from a code of the
 * core to an exception, arguments, and work without the GIL.
 */
#ifndef POLYSHM_PYTHON_GLUE_H
#define POLYSHM_PYTHON_GLUE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include <polyshm/segment.h>

#if PY_VERSION_HEX < 0x030c0000
#include <structmember.h>
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY
#endif

/* One interpreter's own: types and exceptions. The types of an arena's objects are those of kinds.def. */
#define PY_STATE_MAP(X)                                                                                                \
    X(segment_type)                                                                                                    \
    X(window_type)                                                                                                     \
    X(atomic_type)                                                                                                     \
    X(segment_mutex_type)                                                                                              \
    X(recovery_type)                                                                                                   \
    X(acquisition_type)                                                                                                \
    X(task_mutex_type)                                                                                                 \
    X(rwlock_side_type)                                                                                                \
    X(record_lock_type)                                                                                                \
    X(stat_type)                                                                                                       \
    X(arena_type)                                                                                                      \
    X(participant_type)                                                                                                \
    X(notifier_type)                                                                                                   \
    X(error)                                                                                                           \
    X(lost)                                                                                                            \
    X(deleted)                                                                                                         \
    X(corrupt)                                                                                                         \
    X(incompatible)                                                                                                    \
    X(owner_died)

typedef struct py_state {
#define X(name) PyObject *name;
    PY_STATE_MAP(X)
#undef X
#define PSHM_KIND(number, noun) PyObject *noun##_type;
#include <polyshm/kinds.def>
} py_state;

/* Every type is final and belongs to the module, so its module is the type's. */
static inline py_state *glue_state(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

typedef struct py_segment {
    PyObject_HEAD
    pshm_segment *handle; /* never NULL; closed or not */
    PyObject *weakrefs;
    PyObject *folder; /* where a relative path starts; else NULL */
    uint64_t offset;  /* as it was opened: what a pickle repeats */
    pshm_access access;
    bool exec;
} py_segment;

/* ---- errors ---- */

/* An exception is set; no code of the core is positive. */
#define GLUE_RAISED 1

/* Sets the exception of `rc` about `address`: "address: detail: text". Both are str, or the detail NULL for none.
 * Returns NULL. */
PyObject *glue_raise(py_state *state, int rc, PyObject *address, PyObject *detail);

/* The same, the address and the detail as C has them; nothing where the exception is set already. */
PyObject *glue_raise_about(py_state *state, int rc, const char *address, const char *format, va_list arguments);

/* The same about a segment, the detail as PyUnicode_FromFormat writes it; NULL for none. */
PyObject *glue_raise_segment(py_segment *segment, int rc, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same about a range of it. */
PyObject *glue_raise_range(py_segment *segment, int rc, uint64_t offset, uint64_t size);

/* The address of a segment as str. */
PyObject *glue_address(const pshm_segment *handle);

/* ---- arguments: 0, or -1 with an exception set ---- */

typedef struct glue_signature {
    const char *function;
    int required;   /* so many must be given */
    int positional; /* so many may be given by position */
    int count;      /* so many there are */
    const char *names[10];
} glue_signature;

int glue_sort(const glue_signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
              PyObject **out);

/* Puts arguments into `out` in the order of the signature; borrowed, NULL for what was left out. */
static inline int glue_args(const glue_signature *signature, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                            PyObject **out)
{
    if (PSHM_LIKELY(kwnames == NULL && nargs == signature->count && nargs <= signature->positional)) {
        for (Py_ssize_t i = 0; i < nargs; i++) {
            PyObject *arg = args[i];
            /* One load each: the interpreter has just stored them one by one, and a wide load of two would have to wait
             * until both have left the store buffer. */
            __asm__("" : "+r"(arg));
            out[i] = arg;
        }
        return 0;
    }
    return glue_sort(signature, args, nargs, kwnames, out);
}

int glue_count_slowly(PyObject *value, const char *name, uint64_t *out);

/* The value of a small int, without a call: most offsets and sizes are. -1 for everything else. */
static inline int64_t glue_small(PyObject *value)
{
    if (!PyLong_CheckExact(value))
        return -1;
#if PY_VERSION_HEX >= 0x030C0000
    const PyLongObject *number = (const PyLongObject *)value;
    return PyUnstable_Long_IsCompact(number) ? PyUnstable_Long_CompactValue(number) : -1;
#elif PY_VERSION_HEX >= 0x030B0000
    Py_ssize_t digits = Py_SIZE(value);
    return digits == 1 ? (int64_t)((const PyLongObject *)value)->ob_digit[0] : -(int64_t)(digits != 0);
#else
    return -1;
#endif
}

/* An integer from 0 to 2**63 - 1: an offset, a size. Leaves *out alone where `value` is NULL or, for `none`, None. */
static inline int glue_count(PyObject *value, const char *name, uint64_t *out)
{
    if (value == NULL)
        return 0;
    int64_t small = glue_small(value);
    if (PSHM_LIKELY(small >= 0)) {
        *out = (uint64_t)small;
        return 0;
    }
    if (PyLong_CheckExact(value)) {
        int overflow;
        long number = PyLong_AsLongAndOverflow(value, &overflow);
        if (PSHM_LIKELY(number >= 0 && !overflow)) {
            *out = (uint64_t)number;
            return 0;
        }
    }
    return glue_count_slowly(value, name, out);
}

static inline int glue_count_or_none(PyObject *value, const char *name, uint64_t *out)
{
    return value == Py_None ? 0 : glue_count(value, name, out);
}

/* A size in bytes, or text such as "64M". */
int glue_size(PyObject *value, const char *name, uint64_t *out);

/* The working directory, where the path of a file: address starts from there; else NULL, without an exception. */
PyObject *glue_folder(pshm_segment_kind kind, const char *path);

/* Permissions: an int, or octal digits. */
int glue_mode(PyObject *value, uint32_t *out);

int glue_bool(PyObject *value, bool *out);

/* What a negative timeout is. threading has all three. */
typedef enum glue_negative {
    GLUE_REFUSED,
    GLUE_FOR_EVER, /* -1 alone, as of a Lock; what else is negative is refused */
    GLUE_AT_ONCE,  /* over already, as of a Semaphore, or what waits with a Condition */
} glue_negative;

/* Seconds as nanoseconds; -1 for ever, which None stands for. */
int glue_timeout(PyObject *value, glue_negative negative, int64_t *out);

/* The two arguments of acquire, as in threading: of a lock GLUE_FOR_EVER, of a semaphore GLUE_AT_ONCE. */
int glue_acquire_args(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, glue_negative negative,
                      int64_t *timeout);

/* The one argument of wait(timeout=None): of what has a namesake in threading, GLUE_AT_ONCE. */
int glue_wait_args(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, glue_negative negative,
                   int64_t *timeout);

/* "rw", "r", "copy", "none" */
int glue_access(PyObject *value, pshm_access *out);

/* Bytes that somebody lends. bytes itself needs no protocol and no end. */
typedef struct glue_bytes {
    const void *data;
    uint64_t size;
    bool lent;
    Py_buffer buffer;
} glue_bytes;

int glue_borrow(PyObject *value, glue_bytes *out);

static inline void glue_give_back(glue_bytes *bytes)
{
    if (bytes->lent)
        PyBuffer_Release(&bytes->buffer);
}

/* ---- the segment stays mapped ---- */

/* In a build without the GIL every access says so; else the GIL is enough. */
#ifdef Py_GIL_DISABLED
#define GLUE_SERIAL false
#define GLUE_LOCK(object) Py_BEGIN_CRITICAL_SECTION(object)
#define GLUE_UNLOCK() Py_END_CRITICAL_SECTION()
static inline int glue_enter(pshm_segment *handle)
{
    return pshm_segment_enter(handle, PSHM_USE_RAW);
}
static inline void glue_leave(pshm_segment *handle)
{
    pshm_segment_leave(handle, PSHM_USE_RAW);
}
#else
#define GLUE_SERIAL true
#define GLUE_LOCK(object) {
#define GLUE_UNLOCK() }
static inline int glue_enter(pshm_segment *handle)
{
    (void)handle;
    return 0;
}
static inline void glue_leave(pshm_segment *handle)
{
    (void)handle;
}
#endif

/* Copies of so many bytes let other threads run meanwhile. */
#define GLUE_MANY UINT64_C(65536)

/* rc = call, which takes its time: without the GIL, on memory that stays however soon somebody closes. */
#define GLUE_UNLOCKED(rc, handle, call)                                                                                \
    do {                                                                                                               \
        (rc) = pshm_segment_enter((handle), PSHM_USE_RAW);                                                             \
        if ((rc) == 0) {                                                                                               \
            Py_BEGIN_ALLOW_THREADS;                                                                                    \
            (rc) = (call);                                                                                             \
            Py_END_ALLOW_THREADS;                                                                                      \
            pshm_segment_leave((handle), PSHM_USE_RAW);                                                                \
        }                                                                                                              \
    } while (0)

/* rc = call, which works on `size` bytes at `offset`: without the GIL where they are many. What is looked at with the GIL
 * holds without it too: a segment with somebody inside may grow, but neither shrink nor lose a right. */
#define GLUE_COPY(rc, handle, offset, size, rights, call)                                                              \
    do {                                                                                                               \
        if (PSHM_UNLIKELY((size) >= GLUE_MANY)) {                                                                      \
            (rc) = pshm_segment_check((handle), (offset), (size), (rights));                                           \
            if ((rc) == 0)                                                                                             \
                GLUE_UNLOCKED(rc, handle, call);                                                                       \
        } else {                                                                                                       \
            (rc) = glue_enter(handle);                                                                                 \
            if (PSHM_LIKELY((rc) == 0)) {                                                                              \
                (rc) = (call);                                                                                         \
                glue_leave(handle);                                                                                    \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* One slice of a wait. */
typedef int (*glue_step)(void *closure, int64_t deadline);

/* Waits without the GIL, slice by slice; between two of them signal handlers run and a close is seen. Where `handle` is
 * NULL the steps see to it themselves that their memory stays.
 * Returns what the last step did, PSHM_ECLOSED, or GLUE_RAISED when a handler raised. */
int glue_wait(pshm_segment *handle, glue_step step, void *closure, int64_t deadline);

/* The exception that is set, put aside, so that something can be done first. */
typedef struct glue_raised {
    PyObject *type, *value, *trace;
} glue_raised;

void glue_raised_keep(glue_raised *raised);
/* Sets it again, if there was one; where another is set by now, that one goes on, and the first is its context. */
void glue_raised_restore(glue_raised *raised);

/* For ever, and whatever a signal's handler raises meanwhile: that is set when the steps are over. Returns what the last
 * step did. */
int glue_wait_through(glue_step step, void *closure);

/* ---- types ---- */

#define GLUE_METHOD(function) ((PyCFunction)(void (*)(void))(function))
#define GLUE_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE)

/* Makes a type of the module and, if `add`, puts it there under its name. */
int glue_type(PyObject *module, PyType_Spec *spec, bool add, PyObject **out);

/* What a module of Python has under that name. */
PyObject *glue_import(const char *module, const char *name);

/* (polyshm._pickle.function)(self, *rest): what __reduce__ returns. Pickling is imported when it is needed. */
PyObject *glue_reduce(const char *function, PyObject *arguments);

/* ---- one per noun; py_object.h has those of an arena ---- */

#define PSHM_RAW(noun) int py_##noun##_register(PyObject *module);
#include <polyshm/kinds.def>
int py_segment_mutex_register(PyObject *module);
int py_lock_register(PyObject *module);
int py_task_mutex_register(PyObject *module);
int py_rwlock_side_register(PyObject *module);
int py_window_register(PyObject *module);
int py_stat_register(PyObject *module);

/* Methods of Segment that live with what they make. */
PyObject *py_window_view(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_atomic_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_segment_mutex_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_record_lock_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *py_stat_of(PyObject *self, PyObject *unused);

/* Functions of the module. */
extern PyMethodDef py_stat_functions[];

#endif
