/* The module: its functions, which the files of kernels offer, and how these read arguments. */

#include "binding.h"

#include <stdlib.h>

#include "kernels.h"

void release(Buffers *buffers) {
    while (buffers->count) PyBuffer_Release(&buffers->views[--buffers->count]);
}

/* The memory of a C-contiguous array of at least `size` elements; NULL with an exception set where
 * it is none. `type` is 'f' (float32), 'H' (uint16) or 'q' (int64). */
void *array(Buffers *buffers, PyObject *object, char type, int writable, size_t size) {
    Py_buffer *view = &buffers->views[buffers->count];
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyErr_Occurred() || PyObject_GetBuffer(object, view, flags)) return NULL;
    buffers->count++;
    char got = view->format ? view->format[0] : 'B';
    if (got == 'l' && view->itemsize == 8) got = 'q';
    if (got != type || (size_t)view->len / (size_t)view->itemsize < size) {
        PyErr_Format(PyExc_ValueError,
                     "expected a contiguous array of type '%c' with %zu elements or more, got type "
                     "'%c' with %zd bytes",
                     type, size, got, view->len);
        return NULL;
    }
    return view->buf;
}

/* The elements of the array that was read first. */
size_t first_size(const Buffers *buffers) {
    return buffers->count ? (size_t)(buffers->views[0].len / buffers->views[0].itemsize) : 0;
}

/* One side of an array: no less than 1, and small enough for the product of two to be a size. */
size_t size_of(PyObject *number) {
    size_t size = PyErr_Occurred() ? 0 : PyLong_AsSize_t(number);
    if (!PyErr_Occurred() && (size < 1 || size > INT32_MAX))
        PyErr_Format(PyExc_ValueError, "expected a size from 1 to 2^31 - 1, got %zu", size);
    return PyErr_Occurred() ? 0 : size;
}

float real(PyObject *number) { return PyErr_Occurred() ? 0 : (float)PyFloat_AsDouble(number); }

FUNCTION(are_fast) {
    (void)self, (void)in, (void)given;
    return PyBool_FromLong(KERNELS_ARE_FAST);
}

enum { MOST_METHODS = 64 };
static PyMethodDef methods[MOST_METHODS + 1]; /* the last one stays empty */

void offer(const char *name, PyCFunction function) {
    static size_t count;
    if (count == MOST_METHODS) abort();
    methods[count++] = (PyMethodDef){name, function, METH_FASTCALL, NULL};
}

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    "_native",
    "Compiled kernels; see compiled.py.",
    -1,
    methods,
    NULL,
    NULL,
    NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&module); }
