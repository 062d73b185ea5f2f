/* The weighted mean of the gradients of a round, in one pass over all of them. */

#include "binding.h"
#include "kernels.h"

#include <stdlib.h>

enum { CHUNK = 2048 }; /* whose sums stay in the first-level cache */

typedef struct {
    const void *const *vectors; /* of float, or of the bits of bfloat16 */
    const float *shares;
    size_t count;
    float *out;
} Mean;

INLINE float element(const void *vector, size_t i, int bf16) {
    return bf16 ? wide(((const uint16_t *)vector)[i]) : ((const float *)vector)[i];
}

INLINE void mean_part(Mean a, size_t begin, size_t end, int bf16) {
    float sums[CHUNK];
    for (size_t start = begin; start < end; start += CHUNK) {
        const size_t size = smaller(CHUNK, end - start);
        for (size_t v = 0; v < a.count; v++) {
            const void *x = a.vectors[v];
            const float share = a.shares[v];
            if (v == 0)
                for (size_t i = 0; i < size; i++) sums[i] = share * element(x, start + i, bf16);
            else
                for (size_t i = 0; i < size; i++) sums[i] += share * element(x, start + i, bf16);
        }
        for (size_t i = 0; i < size; i++) a.out[start + i] = sums[i];
    }
}

KERNEL void mean_of_float(const void *arguments, size_t part, size_t begin, size_t end) {
    (void)part;
    mean_part(*(const Mean *)arguments, begin, end, 0);
}

KERNEL void mean_of_bf16(const void *arguments, size_t part, size_t begin, size_t end) {
    (void)part;
    mean_part(*(const Mean *)arguments, begin, end, 1);
}

/* out (size) = the sum of share times vector, in their order; all vectors are float, of which out
 * may be one, or all bfloat16. */
static void mean(const void *const *vectors, int bf16, const float *shares, size_t count,
                 float *out, size_t size) {
    Mean a = {vectors, shares, count, out};
    in_parallel(bf16 ? mean_of_bf16 : mean_of_float, &a, size, parts_of(size, 65536));
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
