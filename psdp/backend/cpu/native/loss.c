/* Softmax and cross-entropy, from logits to their gradient in place. */

#include "binding.h"
#include "kernels.h"

typedef struct {
    float *logits;
    const int64_t *targets;
    float scale, smoothing;
    float *losses;
    size_t width;
} Loss;

/* The target's logit, of which as much as smoothing says is the mean of all; less the largest. */
static inline float smoothed(const float *logits, float right, float largest, const Loss *a) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (size_t c = 0; c < a->width; c++) total += logits[c] - largest;
    return right + a->smoothing * (total / a->width - right);
}

KERNEL void loss_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Loss a = *(const Loss *)arguments;
    (void)part;
    for (size_t row = begin; row < end; row++) {
        float *logits = a.logits + row * a.width, largest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : largest)
        for (size_t c = 0; c < a.width; c++) largest = logits[c] > largest ? logits[c] : largest;
        float right = logits[a.targets[row]] - largest;
        if (a.smoothing > 0) right = smoothed(logits, right, largest, &a);
#pragma omp simd reduction(+ : sum)
        for (size_t c = 0; c < a.width; c++) {
            logits[c] = exponential(logits[c] - largest);
            sum += logits[c];
        }
        a.losses[row] = logf(sum) - right;
        const float slope = a.scale / sum;
        for (size_t c = 0; c < a.width; c++) logits[c] *= slope;
        if (a.smoothing > 0) {
            const float even = a.scale * a.smoothing / a.width;
            for (size_t c = 0; c < a.width; c++) logits[c] -= even;
        }
        logits[a.targets[row]] -= a.scale * (1 - a.smoothing);
    }
}

/* losses (rows) = -log softmax(logits)[target], or, of as much as smoothing says, the mean of all;
 * logits (rows, width) become scale times their gradient. */
static void cross_entropy(float *logits, const int64_t *targets, float scale, float smoothing,
                          float *losses, size_t rows, size_t width) {
    Loss a = {logits, targets, scale, smoothing, losses, width};
    in_parallel(loss_rows, &a, rows, parts_of(rows, 1 + 16384 / width));
}

static PyObject *refuse_target(Buffers *buffers, int64_t target, size_t width) {
    release(buffers);
    return PyErr_Format(PyExc_IndexError, "target %lld is outside of %zu logits", (long long)target,
                        width);
}

FUNCTION(cross_entropy) {
    BEGIN(7);
    size_t rows = size_of(in[5]), width = size_of(in[6]);
    float *logits = WRITE(in[0], rows * width), scale = real(in[2]), smoothing = real(in[3]);
    const int64_t *targets = array(&buffers, in[1], 'q', 0, rows);
    for (size_t row = 0; targets && row < rows; row++)
        if (targets[row] < 0 || (size_t)targets[row] >= width)
            return refuse_target(&buffers, targets[row], width);
    float *losses = WRITE(in[4], rows);
    RUN(cross_entropy(logits, targets, scale, smoothing, losses, rows, width));
    END;
}
