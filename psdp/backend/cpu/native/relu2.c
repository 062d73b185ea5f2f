/* max(x, 0)^2 (So et al. 2021, arXiv:2109.08668). */

#include "binding.h"
#include "kernels.h"

typedef struct {
    float *x, *y;
} Arrays;

/* NaN stays NaN. */
INLINE float relu(float x) { return x < 0.0f ? 0.0f : x; }

KERNEL void relu2_part(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arrays a = *(const Arrays *)arguments;
    const float *restrict xs = a.x;
    float *restrict ys = a.y;
    (void)part;
    for (size_t i = begin; i < end; i++) ys[i] = relu(xs[i]) * relu(xs[i]);
}

/* y = max(x, 0)^2, element by element. */
static void relu2(float *x, float *y, size_t size) {
    Arrays a = {x, y};
    in_parallel(relu2_part, &a, size, parts_of(size, 65536));
}

KERNEL void relu2_backward_part(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arrays a = *(const Arrays *)arguments;
    float *restrict xs = a.x, *restrict dys = a.y;
    (void)part;
    for (size_t i = begin; i < end; i++) {
        const float passed = relu(xs[i]);
        dys[i] *= 2.0f * passed;
        xs[i] = passed * passed;
    }
}

/* dy *= 2 max(x, 0) and x = max(x, 0)^2, element by element. */
static void relu2_backward(float *x, float *dy, size_t size) {
    Arrays a = {x, dy};
    in_parallel(relu2_backward_part, &a, size, parts_of(size, 65536));
}

FUNCTION(relu2) {
    BEGIN(2);
    float *x = WRITE(in[0], 1);
    const size_t size = first_size(&buffers);
    float *y = WRITE(in[1], size);
    RUN(relu2(x, y, size));
    END;
}

FUNCTION(relu2_backward) {
    BEGIN(2);
    float *x = WRITE(in[0], 1);
    const size_t size = first_size(&buffers);
    float *dy = WRITE(in[1], size);
    RUN(relu2_backward(x, dy, size));
    END;
}
