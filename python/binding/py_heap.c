/* SPDX-License-Identifier: MIT
 *
 * The heap of an arena: methods of Arena, which work on places.
 */
#include "py_arena.h"

#include <polyshm/heap.h>

/* The heap is no object of its own: Arena's table has its methods, so there is no type to make. */
int py_heap_register(PyObject *module)
{
    (void)module;
    return 0;
}

static PyObject *refuse(py_arena *self, int rc, uint64_t place)
{
    return py_arena_raise(self, rc, "place %llu", (unsigned long long)place);
}

PyObject *py_heap_root(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"root", 1, 1, 1, {"index"}};
    py_arena *self = (py_arena *)object;
    PyObject *given[1];
    uint64_t index = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "index", &index) < 0)
        return NULL;
    int rc = py_arena_check(self);
    if (rc != 0)
        return py_arena_raise(self, rc, NULL);
    uint64_t place = index < PSHM_HEAP_ROOTS ? pshm_heap_root((uint32_t)index) : 0;
    if (place == 0)
        return py_arena_raise(self, PSHM_EINDEX, "root %llu of %u", (unsigned long long)index, PSHM_HEAP_ROOTS);
    return PyLong_FromUnsignedLongLong(place);
}

typedef struct change {
    pshm_arena *handle;
    uint64_t target, size;
} change;

static int alloc_step(void *closure, int64_t deadline)
{
    (void)deadline;
    const change *wanted = closure;
    return pshm_heap_alloc_into(wanted->handle, wanted->target, wanted->size);
}

static int free_step(void *closure, int64_t deadline)
{
    (void)deadline;
    const change *wanted = closure;
    return pshm_heap_free_from(wanted->handle, wanted->target);
}

PyObject *py_heap_alloc_into(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"alloc_into", 2, 2, 2, {"place", "size"}};
    py_arena *self = (py_arena *)object;
    PyObject *given[2];
    change wanted = {self->handle, 0, 0};
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "place", &wanted.target) < 0 ||
        glue_size(given[1], "size", &wanted.size) < 0)
        return NULL;
    int rc = glue_wait(NULL, alloc_step, &wanted, 0);
    if (rc != 0)
        return py_arena_raise(self, rc, "%llu bytes into place %llu", (unsigned long long)wanted.size,
                              (unsigned long long)wanted.target);
    Py_RETURN_NONE;
}

PyObject *py_heap_free_from(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"free_from", 1, 1, 1, {"place"}};
    py_arena *self = (py_arena *)object;
    PyObject *given[1];
    change wanted = {self->handle, 0, 0};
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "place", &wanted.target) < 0)
        return NULL;
    int rc = glue_wait(NULL, free_step, &wanted, 0);
    if (rc != 0)
        return refuse(self, rc, wanted.target);
    Py_RETURN_NONE;
}

PyObject *py_heap_block_size(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"block_size", 1, 1, 1, {"place"}};
    py_arena *self = (py_arena *)object;
    PyObject *given[1];
    uint64_t place = 0, size;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "place", &place) < 0)
        return NULL;
    int rc = pshm_heap_block_size(self->handle, place, &size);
    if (rc != 0)
        return refuse(self, rc, place);
    return PyLong_FromUnsignedLongLong(size);
}

/* ---- bytes in and out ---- */

static PyObject *refuse_range(py_arena *self, int rc, uint64_t place, uint64_t size)
{
    return py_arena_raise(self, rc, "place %llu + size %llu", (unsigned long long)place, (unsigned long long)size);
}

/* rc = call, which copies `size` bytes: without the GIL where they are many. */
#define COPY(rc, size, call)                                                                                           \
    do {                                                                                                               \
        if ((size) >= GLUE_MANY) {                                                                                     \
            Py_BEGIN_ALLOW_THREADS;                                                                                    \
            (rc) = (call);                                                                                             \
            Py_END_ALLOW_THREADS;                                                                                      \
        } else {                                                                                                       \
            (rc) = (call);                                                                                             \
        }                                                                                                              \
    } while (0)

PyObject *py_heap_read(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"read", 2, 2, 2, {"place", "size"}};
    py_arena *self = (py_arena *)object;
    PyObject *given[2];
    uint64_t place = 0, size = 0;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "place", &place) < 0 ||
        glue_count(given[1], "size", &size) < 0)
        return NULL;
    int rc = py_arena_check(self);
    if (rc == 0 && size > self->handle->segment->size)
        rc = PSHM_ENOTBLOCK; /* before so many bytes are asked for */
    if (rc != 0)
        return refuse_range(self, rc, place, size);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes == NULL)
        return NULL;
    COPY(rc, size, pshm_heap_read(self->handle, place, PyBytes_AS_STRING(bytes), size));
    if (rc == 0)
        return bytes;
    Py_DECREF(bytes);
    return refuse_range(self, rc, place, size);
}

PyObject *py_heap_write(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"write", 2, 2, 2, {"place", "data"}};
    py_arena *self = (py_arena *)object;
    PyObject *given[2];
    uint64_t place = 0;
    glue_bytes data;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0 || glue_count(given[0], "place", &place) < 0 ||
        glue_borrow(given[1], &data) < 0)
        return NULL;
    int rc;
    const uint64_t size = data.size;
    COPY(rc, size, pshm_heap_write(self->handle, place, data.data, size));
    glue_give_back(&data);
    if (rc != 0)
        return refuse_range(self, rc, place, size);
    Py_RETURN_NONE;
}
