/* SPDX-License-Identifier: MIT
 *
 * The exporter behind seg.view(type, offset, count): elements of one type on the memory. A memoryview of it, its slices
 * and arrays over it keep the mapping, closed segment or not, until the last of them is released.
 */
#include "glue.h"

#include <string.h>

#include <polyshm/element.h>

typedef struct py_window {
    PyObject_HEAD
    py_segment *segment;
    uint64_t offset;
    Py_ssize_t count;
    Py_ssize_t exports; /* as long as there is one, more may come though the segment is closed */
    uint32_t size;      /* bytes of an element */
    char format[3];
} py_window;

static void set_format(py_window *self, const pshm_element *element)
{
    char *next = self->format;
    if (element->swap)
        *next++ = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '>' : '<';
    *next++ = element->letter;
    *next = 0;
}

static int window_enter(py_window *self)
{
    pshm_segment *handle = self->segment->handle;
    int rc = 0;
    GLUE_LOCK(self);
    if (self->exports > 0)
        pshm_segment_enter_again(handle, PSHM_USE_LENT);
    else
        rc = pshm_segment_enter(handle, PSHM_USE_LENT);
    if (rc == 0)
        self->exports++;
    GLUE_UNLOCK();
    return rc;
}

static void window_leave(py_window *self)
{
    GLUE_LOCK(self);
    self->exports--;
    pshm_segment_leave(self->segment->handle, PSHM_USE_LENT);
    GLUE_UNLOCK();
}

static int window_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    py_window *self = (py_window *)object;
    pshm_segment *handle = self->segment->handle;
    view->obj = NULL;
    int rc = window_enter(self);
    if (rc != 0) {
        (void)glue_raise_segment(self->segment, rc, NULL);
        return -1;
    }
    uint64_t bytes = (uint64_t)self->count * self->size;
    uint32_t rights = pshm_segment_rights(handle, self->offset, bytes);
    if ((rights & PSHM_READ) == 0) {
        window_leave(self);
        (void)glue_raise_range(self->segment, self->offset + bytes > handle->size ? PSHM_EBOUNDS : PSHM_ENOACCESS,
                               self->offset, bytes);
        return -1;
    }
    if ((flags & PyBUF_WRITABLE) && !(rights & PSHM_WRITE)) {
        window_leave(self);
        PyErr_SetString(PyExc_BufferError, "the memory is read-only");
        return -1;
    }
    Py_INCREF(self);
    view->obj = object;
    view->buf = handle->base + self->offset;
    view->len = (Py_ssize_t)bytes;
    view->readonly = !(rights & PSHM_WRITE);
    view->itemsize = (Py_ssize_t)self->size;
    view->format = (flags & PyBUF_FORMAT) == PyBUF_FORMAT ? self->format : NULL;
    view->ndim = 1;
    view->shape = (flags & PyBUF_ND) == PyBUF_ND ? &self->count : NULL;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &view->itemsize : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    return 0;
}

static void window_release_buffer(PyObject *object, Py_buffer *view)
{
    (void)view;
    window_leave((py_window *)object);
}

static int window_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_window *)object)->segment);
    return 0;
}

static void window_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_XDECREF(((py_window *)object)->segment);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *window_repr(PyObject *object)
{
    py_window *self = (py_window *)object;
    PyObject *address = glue_address(self->segment->handle);
    if (address == NULL)
        return NULL;
    PyObject *text = PyUnicode_FromFormat("<polyshm window %s x %zd at offset %llu of %U>", self->format, self->count,
                                          (unsigned long long)self->offset, address);
    Py_DECREF(address);
    return text;
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "The exporter of a memoryview that Segment.view() made."},
    {Py_tp_dealloc, window_dealloc},
    {Py_tp_traverse, window_traverse},
    {Py_tp_repr, window_repr},
    {Py_bf_getbuffer, window_get_buffer},
    {Py_bf_releasebuffer, window_release_buffer},
    {0, NULL},
};

static PyType_Spec spec = {"polyshm._Window", sizeof(py_window), 0, GLUE_FLAGS | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                           slots};

int py_window_register(PyObject *module)
{
    py_state *state = PyModule_GetState(module);
    return glue_type(module, &spec, false, &state->window_type);
}

/* The elements that were asked for, or that fit. */
static int convert_count(py_segment *segment, PyObject *value, uint64_t offset, uint32_t size, uint64_t *count)
{
    const pshm_segment *handle = segment->handle;
    *count = PSHM_UNSET;
    if (glue_count_or_none(value, "count", count) < 0)
        return -1;
    if (handle->closed) {
        (void)glue_raise_segment(segment, PSHM_ECLOSED, NULL);
        return -1;
    }
    if (offset > handle->size) {
        (void)glue_raise_range(segment, PSHM_EBOUNDS, offset, 0);
        return -1;
    }
    uint64_t most = (handle->size - offset) / size;
    if (*count == PSHM_UNSET)
        *count = most;
    if (*count <= most)
        return 0;
    (void)glue_raise_segment(segment, PSHM_EBOUNDS, "offset %llu + %llu elements of %u bytes, size %llu",
                             (unsigned long long)offset, (unsigned long long)*count, size,
                             (unsigned long long)handle->size);
    return -1;
}

PyObject *py_window_view(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const glue_signature signature = {"view", 1, 3, 3, {"type", "offset", "count"}};
    py_segment *segment = (py_segment *)object;
    PyObject *given[3];
    uint64_t offset = 0, count = 0;
    pshm_element element;
    if (glue_args(&signature, args, nargs, kwnames, given) < 0)
        return NULL;
    if (!PyUnicode_Check(given[0]))
        return PyErr_Format(PyExc_TypeError, "type must be str, not %.100s", Py_TYPE(given[0])->tp_name);
    Py_ssize_t length;
    const char *token = PyUnicode_AsUTF8AndSize(given[0], &length);
    if (token == NULL)
        return NULL;
    int rc = pshm_element_parse(token, (size_t)length, &element);
    if (rc != 0)
        return PyErr_Format(PyExc_ValueError, "type %R: %s", given[0], pshm_error_text(rc));
    if (glue_count(given[1], "offset", &offset) < 0 ||
        convert_count(segment, given[2], offset, element.size, &count) < 0)
        return NULL;

    PyTypeObject *type = (PyTypeObject *)glue_state(object)->window_type;
    py_window *window = (py_window *)type->tp_alloc(type, 0);
    if (window == NULL)
        return NULL;
    Py_INCREF(segment);
    window->segment = segment;
    window->offset = offset;
    window->count = (Py_ssize_t)count;
    window->size = element.size;
    set_format(window, &element);
    PyObject *view = PyMemoryView_FromObject((PyObject *)window);
    Py_DECREF(window);
    return view;
}
