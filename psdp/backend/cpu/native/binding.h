/* How a kernel is offered to Python, in the file of the kernel: a function takes NumPy arrays as
 * buffers, checks their type and size, lets other Python threads run, and calls the kernel. */

#ifndef PSDP_BINDING_H
#define PSDP_BINDING_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

enum { MOST_ARRAYS = 8 };

/* The buffers of one call, released together. */
typedef struct {
    Py_buffer views[MOST_ARRAYS];
    int count;
} Buffers;

/* A function may go on reading its arguments after one was refused: it gets NULL or 0 for
 * the rest, and RUN does nothing. */

void *array(Buffers *buffers, PyObject *object, char type, int writable, size_t size);
size_t first_size(const Buffers *buffers);
size_t size_of(PyObject *number);
float real(PyObject *number);
void release(Buffers *buffers);

/* FUNCTION(name) { ... } is all that makes a function of the module: it is on the module's list
 * before the module is made. */
#define SIGNATURE(name) \
    static PyObject *py_##name(PyObject *self, PyObject *const *in, Py_ssize_t given)
#define FUNCTION(name)                                            \
    SIGNATURE(name);                                              \
    __attribute__((constructor)) static void offer_##name(void) { \
        offer(#name, (PyCFunction)(void (*)(void))py_##name);     \
    }                                                             \
    SIGNATURE(name)
void offer(const char *name, PyCFunction function);

#define BEGIN(expected)             \
    Buffers buffers = {.count = 0}; \
    (void)self;                     \
    if (given != (expected))        \
    return PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", expected, given)
#define READ(object, size) array(&buffers, object, 'f', 0, size)
#define WRITE(object, size) array(&buffers, object, 'f', 1, size)
#define RUN(call)               \
    if (!PyErr_Occurred()) {    \
        Py_BEGIN_ALLOW_THREADS; \
        call;                   \
        Py_END_ALLOW_THREADS;   \
    }                           \
    release(&buffers)
#define END                            \
    if (PyErr_Occurred()) return NULL; \
    Py_RETURN_NONE

#endif
