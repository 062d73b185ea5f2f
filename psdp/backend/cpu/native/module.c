/* The Python side: each function takes NumPy arrays as buffers, checks their type and size, lets
 * other Python threads run, and calls a kernel. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

enum { MOST_ARRAYS = 8 };

/* The buffers of one call, released together. */
typedef struct {
    Py_buffer views[MOST_ARRAYS];
    int count;
} Buffers;

static void release(Buffers *buffers) {
    while (buffers->count) PyBuffer_Release(&buffers->views[--buffers->count]);
}

/* A function below may go on reading its arguments after one was refused: it gets NULL or 0 for
 * the rest, and RUN does nothing. */

/* The memory of a C-contiguous array of at least `size` elements; NULL with an exception set where
 * it is none. `type` is 'f' (float32), 'H' (uint16) or 'q' (int64). */
static void *array(Buffers *buffers, PyObject *object, char type, int writable, size_t size) {
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
static size_t first_size(const Buffers *buffers) {
    return buffers->count ? (size_t)(buffers->views[0].len / buffers->views[0].itemsize) : 0;
}

/* One side of an array: no less than 1, and small enough for the product of two to be a size. */
static size_t size_of(PyObject *number) {
    size_t size = PyErr_Occurred() ? 0 : PyLong_AsSize_t(number);
    if (!PyErr_Occurred() && (size < 1 || size > INT32_MAX))
        PyErr_Format(PyExc_ValueError, "expected a size from 1 to 2^31 - 1, got %zu", size);
    return PyErr_Occurred() ? 0 : size;
}

static float real(PyObject *number) {
    return PyErr_Occurred() ? 0 : (float)PyFloat_AsDouble(number);
}

#define FUNCTION(name) \
    static PyObject *py_##name(PyObject *self, PyObject *const *in, Py_ssize_t given)
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

FUNCTION(set_threads) {
    const size_t threads = given == 1 ? size_of(in[0]) : 0;
    (void)self;
    if (threads) kernel_threads = threads;
    END;
}

/* cblas_sgemm of the BLAS that NumPy has loaded. Its integers are 64 or 32 bits wide, which the
 * calling conventions of 64-bit little-endian machines do not tell apart: an argument has a
 * register or eight bytes of its own, and the callee reads the lower half. */
typedef void Sgemm(int order, int a_form, int b_form, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t a_row, const float *b, int64_t b_row, float beta,
                   float *c, int64_t c_row);
enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };
static Sgemm *sgemm;

FUNCTION(set_sgemm) {
    (void)self;
    if (given == 1) sgemm = (Sgemm *)PyLong_AsVoidPtr(in[0]);
    END;
}

/* What the flag of a product says: 1 where a is stored as (k, m), 2 where b is as (n, k). */
enum { A_TRANSPOSED = 1, B_TRANSPOSED = 2 };

/* out (m, n) += a b, by BLAS. */
FUNCTION(add_product) {
    BEGIN(7);
    int64_t m = (int64_t)size_of(in[3]), n = (int64_t)size_of(in[4]), k = (int64_t)size_of(in[5]);
    long flags = PyErr_Occurred() ? 0 : PyLong_AsLong(in[6]);
    int a_form = flags & A_TRANSPOSED ? TRANSPOSED : PLAIN;
    int b_form = flags & B_TRANSPOSED ? TRANSPOSED : PLAIN;
    const float *a = READ(in[0], (size_t)(m * k)), *b = READ(in[1], (size_t)(k * n));
    float *out = WRITE(in[2], (size_t)(m * n));
    if (!sgemm && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "set_sgemm must be called first");
    RUN(sgemm(ROW_MAJOR, a_form, b_form, m, n, k, 1.0f, a, a_form == PLAIN ? k : m, b,
              b_form == PLAIN ? n : k, 1.0f, out, n));
    END;
}

FUNCTION(product) {
    BEGIN(10);
    Product p = {.m = size_of(in[4]), .n = size_of(in[5]), .k = size_of(in[6])};
    int failed = 0;
    p.a = READ(in[0], p.m * p.k);
    p.b = READ(in[1], p.k * p.n);
    p.bias = in[2] == Py_None ? NULL : READ(in[2], p.n);
    p.c = WRITE(in[3], p.m * p.n);
    long flags = PyErr_Occurred() ? 0 : PyLong_AsLong(in[7]);
    p.a_transposed = flags & A_TRANSPOSED;
    p.b_transposed = flags & B_TRANSPOSED;
    p.add = PyObject_IsTrue(in[8]);
    p.bf16 = PyObject_IsTrue(in[9]);
    if (p.add && p.bias) PyErr_SetString(PyExc_ValueError, "a product that adds has no bias");
    RUN(failed = product(p));
    if (failed) PyErr_NoMemory();
    END;
}

FUNCTION(product_support) {
    (void)self, (void)in, (void)given;
    return PyLong_FromLong(product_support());
}

FUNCTION(are_fast) {
    (void)self, (void)in, (void)given;
    return PyBool_FromLong(KERNELS_ARE_FAST);
}

FUNCTION(add_bias) {
    BEGIN(4);
    size_t rows = size_of(in[2]), width = size_of(in[3]);
    float *y = WRITE(in[0], rows * width);
    const float *bias = READ(in[1], width);
    RUN(add_bias(y, bias, rows, width));
    END;
}

FUNCTION(add_column_sums) {
    BEGIN(4);
    size_t rows = size_of(in[2]), width = size_of(in[3]);
    const float *x = READ(in[0], rows * width);
    float *sums = WRITE(in[1], width);
    RUN(add_column_sums(x, sums, rows, width));
    END;
}

FUNCTION(gelu) {
    BEGIN(2);
    float *x = WRITE(in[0], 1);
    const size_t size = first_size(&buffers);
    float *y = WRITE(in[1], size);
    RUN(gelu(x, y, size));
    END;
}

FUNCTION(gelu_backward) {
    BEGIN(2);
    float *x = WRITE(in[0], 1);
    const size_t size = first_size(&buffers);
    float *dy = WRITE(in[1], size);
    RUN(gelu_backward(x, dy, size));
    END;
}

FUNCTION(layer_norm) {
    BEGIN(8);
    size_t rows = size_of(in[6]), width = size_of(in[7]);
    const float *x = READ(in[0], rows * width), *gain = READ(in[1], width);
    const float *bias = in[2] == Py_None ? NULL : READ(in[2], width);
    float *normal = WRITE(in[3], rows * width), *rstd = WRITE(in[4], rows);
    float *y = WRITE(in[5], rows * width);
    RUN(layer_norm(x, gain, bias, normal, rstd, y, rows, width));
    END;
}

FUNCTION(layer_norm_backward) {
    BEGIN(9);
    size_t rows = size_of(in[7]), width = size_of(in[8]);
    const float *dy = READ(in[0], rows * width), *gain = READ(in[1], width);
    const float *normal = READ(in[2], rows * width), *rstd = READ(in[3], rows);
    float *dx = WRITE(in[4], rows * width), *dgain = WRITE(in[5], width);
    float *dbias = in[6] == Py_None ? NULL : WRITE(in[6], width);
    RUN(layer_norm_backward(dy, gain, normal, rstd, dx, dgain, dbias, rows, width));
    END;
}

static PyObject *refuse_target(Buffers *buffers, int64_t target, size_t width) {
    release(buffers);
    return PyErr_Format(PyExc_IndexError, "target %lld is outside of %zu logits", (long long)target,
                        width);
}

FUNCTION(cross_entropy) {
    BEGIN(6);
    size_t rows = size_of(in[4]), width = size_of(in[5]);
    float *logits = WRITE(in[0], rows * width), scale = real(in[2]);
    const int64_t *targets = array(&buffers, in[1], 'q', 0, rows);
    for (size_t row = 0; targets && row < rows; row++)
        if (targets[row] < 0 || (size_t)targets[row] >= width)
            return refuse_target(&buffers, targets[row], width);
    float *losses = WRITE(in[3], rows);
    RUN(cross_entropy(logits, targets, scale, losses, rows, width));
    END;
}

/* From batch, heads, tokens and query block, and the qkv (tokens, 3 heads x D) that was read first.
 */
static AttentionShape shape_of(const Buffers *buffers, PyObject *const *in) {
    AttentionShape s = {size_of(in[0]), size_of(in[1]), 0, 0, size_of(in[3])};
    const size_t tokens = size_of(in[2]), elements = first_size(buffers);
    if (PyErr_Occurred()) return s;
    if (tokens % s.batch || elements % tokens || elements / tokens % (3 * s.heads))
        PyErr_Format(PyExc_ValueError,
                     "expected %zu sequences of %zu tokens in all, each 3 x %zu heads, got %zu "
                     "elements",
                     s.batch, tokens, s.heads, elements);
    s.length = tokens / s.batch;
    s.head_size = elements / tokens / (3 * s.heads);
    return s;
}

static const float *mask_or_null(Buffers *buffers, PyObject *object, AttentionShape shape) {
    if (object == Py_None || PyErr_Occurred()) return NULL;
    return array(buffers, object, 'f', 0, mask_size(shape));
}

FUNCTION(attention) {
    BEGIN(8);
    int failed = 0;
    const float *qkv = READ(in[0], 1);
    const AttentionShape s = shape_of(&buffers, in + 4);
    const size_t tokens = s.batch * s.length;
    const float *mask = mask_or_null(&buffers, in[1], s);
    float *context = WRITE(in[2], tokens * s.heads * s.head_size);
    float *logsumexp = WRITE(in[3], tokens * s.heads);
    RUN(failed = attention(s, qkv, mask, context, logsumexp));
    if (failed) PyErr_NoMemory();
    END;
}

FUNCTION(attention_backward) {
    BEGIN(10);
    int failed = 0;
    const float *qkv = READ(in[0], 1);
    const AttentionShape s = shape_of(&buffers, in + 6);
    const size_t tokens = s.batch * s.length, width = s.heads * s.head_size;
    const float *mask = mask_or_null(&buffers, in[1], s);
    const float *context = READ(in[2], tokens * width), *logsumexp = READ(in[3], tokens * s.heads);
    const float *dcontext = READ(in[4], tokens * width);
    float *dqkv = WRITE(in[5], tokens * 3 * width);
    RUN(failed = attention_backward(s, qkv, mask, context, logsumexp, dcontext, dqkv));
    if (failed) PyErr_NoMemory();
    END;
}

/* in: out, a list of gradients, a list of their shares, whether these gradients are bfloat16. */
FUNCTION(mean) {
    BEGIN(4);
    Py_ssize_t count = PyList_Size(in[1]);
    if (count < 1 || PyList_Size(in[2]) != count)
        return PyErr_Format(PyExc_TypeError, "expected a list of vectors and one of their shares");
    Py_buffer *views = calloc((size_t)count + 1, sizeof *views);
    const void **vectors = calloc((size_t)count + 1, sizeof *vectors);
    float *shares = calloc((size_t)count + 1, sizeof *shares), *out = WRITE(in[0], 0);
    size_t size = out ? (size_t)buffers.views[0].len / sizeof(float) : 0;
    const int bf16 = PyObject_IsTrue(in[3]);
    if (!views || !vectors || !shares) PyErr_NoMemory();
    Py_ssize_t held = 0;
    for (; held < count && !PyErr_Occurred(); held++) {
        Buffers one = {.count = 0};
        vectors[held] = array(&one, PyList_GetItem(in[1], held), bf16 ? 'H' : 'f', 0, size);
        shares[held] = real(PyList_GetItem(in[2], held));
        views[held] = one.views[0];
    }
    RUN(mean(vectors, bf16, shares, (size_t)count, out, size));
    while (held) PyBuffer_Release(&views[--held]);
    free(views);
    free(vectors);
    free(shares);
    END;
}

FUNCTION(round_bf16) {
    BEGIN(2);
    const float *x = READ(in[0], 0);
    const size_t size = first_size(&buffers);
    uint16_t *out = array(&buffers, in[1], 'H', 1, size);
    RUN(round_bf16(x, out, size));
    END;
}

FUNCTION(adam) {
    BEGIN(12);
    AdamStep step = {real(in[4]), real(in[5]), real(in[6]),  real(in[7]),
                     real(in[8]), real(in[9]), real(in[10]), real(in[11])};
    const float *gradient = READ(in[1], 0);
    const size_t size = first_size(&buffers);
    float *weights = WRITE(in[0], size), *mean = WRITE(in[2], size);
    float *mean_square = WRITE(in[3], size);
    RUN(adam(step, gradient, weights, mean, mean_square, size));
    END;
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    METHOD(set_threads),   METHOD(set_sgemm),       METHOD(add_product),
    METHOD(product),       METHOD(product_support), METHOD(are_fast),
    METHOD(add_bias),      METHOD(add_column_sums), METHOD(gelu),
    METHOD(gelu_backward), METHOD(layer_norm),      METHOD(layer_norm_backward),
    METHOD(cross_entropy), METHOD(attention),       METHOD(attention_backward),
    METHOD(mean),          METHOD(round_bf16),      METHOD(adam),
    {NULL, NULL, 0, NULL},
};

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
