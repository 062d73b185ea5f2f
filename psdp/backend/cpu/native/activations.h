/* Activations g(x) = x s(x), of which kernels need s and the derivative of g. */

#ifndef PSDP_ACTIVATIONS_H
#define PSDP_ACTIVATIONS_H

#include "kernels.h"

typedef struct {
    float s, slope;
} Activation;

/* GELU in the tanh form of GPT-2 (Hendrycks and Gimpel 2016, arXiv:1606.08415).
 *
 * (1 + tanh u) / 2 is the logistic function of 2 u, so gelu(x) = x s with
 * s = 1 / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3), and
 * gelu'(x) = s + x s (1 - s) 2 du/dx. One exponential gives both, so the backward pass makes them
 * again from x instead of keeping gelu(x) or its derivative: memory costs more than arithmetic. */
#define GELU_LINEAR -1.595769122f /* -2 sqrt(2 / pi) */
#define GELU_CUBIC (0.044715f * GELU_LINEAR)

/* Where x << 0 the logistic function is exactly 0, or its product with x^3 could be anything. */
INLINE float logistic(float minus_two_u) {
    return minus_two_u > 80.0f ? 0.0f : 1.0f / (1.0f + exponential(minus_two_u));
}

INLINE float gelu_share(float x) { return logistic(x * (GELU_LINEAR + GELU_CUBIC * x * x)); }

INLINE Activation gelu_parts(float at) {
    /* Beyond +-100 the derivative is 1 or 0, and x^3 could overflow. */
    float x = at < -100.0f ? -100.0f : at;
    x = x > 100.0f ? 100.0f : x;
    const float square = x * x;
    const float s = logistic(x * (GELU_LINEAR + GELU_CUBIC * square));
    return (Activation){s, s - x * s * (1.0f - s) * (GELU_LINEAR + 3.0f * GELU_CUBIC * square)};
}

/* SiLU (arXiv:1606.08415): x / (1 + exp(-x)). */
INLINE Activation silu_parts(float x) {
    const float s = logistic(-x);
    return (Activation){s, s * (1.0f + x * (1.0f - s))};
}

#endif
