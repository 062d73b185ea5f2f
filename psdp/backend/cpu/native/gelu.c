/* GELU, in the tanh form of GPT-2 and as defined; see activations.h. */

#include "binding.h"

#include "activations.h"

typedef struct {
    float *x, *y;
} Arrays;

KERNEL void gelu_part(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arrays a = *(const Arrays *)arguments;
    const float *restrict xs = a.x;
    float *restrict ys = a.y;
    (void)part;
    for (size_t i = begin; i < end; i++) ys[i] = xs[i] * gelu_share(xs[i]);
}

/* y = gelu(x), element by element. */
static void gelu(float *x, float *y, size_t size) {
    Arrays a = {x, y};
    in_parallel(gelu_part, &a, size, parts_of(size, 16384));
}

KERNEL void gelu_backward_part(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arrays a = *(const Arrays *)arguments;
    float *restrict xs = a.x, *restrict dys = a.y;
    (void)part;
    for (size_t i = begin; i < end; i++) {
        const Activation gelu = gelu_parts(xs[i]);
        dys[i] *= gelu.slope;
        xs[i] *= gelu.s;
    }
}

/* dy *= gelu'(x) and x = gelu(x), element by element. */
static void gelu_backward(float *x, float *dy, size_t size) {
    Arrays a = {x, dy};
    in_parallel(gelu_backward_part, &a, size, parts_of(size, 16384));
}

/* The normal distribution function, with exp(-x^2 / 2) in *bell: gelu(x) = x P(x) as defined. The
 * tail is formula 7.1.26 of Abramowitz and Stegun's handbook, good to 1.5e-7. */
INLINE float normal(float x, float *bell) {
    const float z = fabsf(x) * 0.707106781f, t = 1.0f / (1.0f + 0.3275911f * z);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    *bell = z > 9.0f ? 0.0f : exponential(-z * z);
    const float tail = 0.5f * p * t * *bell;
    return x < 0.0f ? tail : 1.0f - tail;
}

KERNEL void gelu_erf_part(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arrays a = *(const Arrays *)arguments;
    const float *restrict xs = a.x;
    float *restrict ys = a.y;
    (void)part;
    for (size_t i = begin; i < end; i++) {
        float bell;
        ys[i] = xs[i] * normal(xs[i], &bell);
    }
}

/* y = x P(x), element by element. */
static void gelu_erf(float *x, float *y, size_t size) {
    Arrays a = {x, y};
    in_parallel(gelu_erf_part, &a, size, parts_of(size, 16384));
}

KERNEL void gelu_erf_backward_part(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arrays a = *(const Arrays *)arguments;
    float *restrict xs = a.x, *restrict dys = a.y;
    (void)part;
    for (size_t i = begin; i < end; i++) {
        float bell;
        const float below = normal(xs[i], &bell);
        dys[i] *= below + 0.398942280f * xs[i] * bell; /* 1 / sqrt(2 pi) */
        xs[i] *= below;
    }
}

/* dy *= (x P(x))' and x = x P(x), element by element. */
static void gelu_erf_backward(float *x, float *dy, size_t size) {
    Arrays a = {x, dy};
    in_parallel(gelu_erf_backward_part, &a, size, parts_of(size, 16384));
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

FUNCTION(gelu_erf) {
    BEGIN(2);
    float *x = WRITE(in[0], 1);
    const size_t size = first_size(&buffers);
    float *y = WRITE(in[1], size);
    RUN(gelu_erf(x, y, size));
    END;
}

FUNCTION(gelu_erf_backward) {
    BEGIN(2);
    float *x = WRITE(in[0], 1);
    const size_t size = first_size(&buffers);
    float *dy = WRITE(in[1], size);
    RUN(gelu_erf_backward(x, dy, size));
    END;
}
