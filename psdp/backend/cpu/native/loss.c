/* Softmax and cross-entropy, from logits to their gradient in place. */

#include "binding.h"
#include "kernels.h"

typedef struct {
    float *logits;
    const int64_t *targets;
    float scale;
    float *losses;
    size_t width;
} Loss;

KERNEL void loss_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Loss a = *(const Loss *)arguments;
    (void)part;
    for (size_t row = begin; row < end; row++) {
        float *logits = a.logits + row * a.width, largest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : largest)
        for (size_t c = 0; c < a.width; c++) largest = logits[c] > largest ? logits[c] : largest;
        const float right = logits[a.targets[row]] - largest;
#pragma omp simd reduction(+ : sum)
        for (size_t c = 0; c < a.width; c++) {
            logits[c] = exponential(logits[c] - largest);
            sum += logits[c];
        }
        a.losses[row] = logf(sum) - right;
        const float slope = a.scale / sum;
        for (size_t c = 0; c < a.width; c++) logits[c] *= slope;
        logits[a.targets[row]] -= a.scale;
    }
}

/* losses (rows) = -log softmax(logits)[target]; logits (rows, width) become scale times their
 * gradient. */
static void cross_entropy(float *logits, const int64_t *targets, float scale, float *losses,
                          size_t rows, size_t width) {
    Loss a = {logits, targets, scale, losses, width};
    in_parallel(loss_rows, &a, rows, parts_of(rows, 1 + 16384 / width));
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
