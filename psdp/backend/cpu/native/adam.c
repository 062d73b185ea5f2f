/* Adam's update of a shard (Kingma, Ba 2014, arXiv:1412.6980), in one pass. */

#include "binding.h"
#include "kernels.h"

typedef struct {
    float beta1, rate1, beta2, rate2, scale, step_size, eps, shrink; /* rate = 1 - beta */
} AdamStep;

typedef struct {
    AdamStep step;
    const float *gradient;
    float *weights, *mean, *mean_square;
} Update;

KERNEL void adam_part(const void *arguments, size_t part, size_t begin, size_t end) {
    const Update a = *(const Update *)arguments;
    const float *restrict gradient = a.gradient;
    float *restrict weights = a.weights, *restrict mean = a.mean;
    float *restrict mean_square = a.mean_square;
    const float beta1 = a.step.beta1, rate1 = a.step.rate1;
    const float beta2 = a.step.beta2, rate2 = a.step.rate2, step_size = a.step.step_size;
    const float scale = a.step.scale, eps = a.step.eps, shrink = a.step.shrink;
    (void)part;
    for (size_t i = begin; i < end; i++) {
        const float g = scale * gradient[i];
        const float m = beta1 * mean[i] + rate1 * g;
        const float v = beta2 * mean_square[i] + rate2 * (g * g);
        mean[i] = m;
        mean_square[i] = v;
        weights[i] = weights[i] * shrink - step_size * m / (sqrtf(v) + eps);
    }
}

/* One pass over (size): mean and mean_square move towards g and g^2, with g = scale gradient, and
 * weights = shrink weights - step_size mean / (sqrt(mean_square) + eps). */
static void adam(AdamStep step, const float *gradient, float *weights, float *mean,
                 float *mean_square, size_t size) {
    Update a = {step, gradient, weights, mean, mean_square};
    in_parallel(adam_part, &a, size, parts_of(size, 65536));
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
