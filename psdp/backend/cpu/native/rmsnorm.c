/* Root mean square layer normalisation (Zhang and Sennrich 2019, arXiv:1910.07467). */

#include "binding.h"
#include "kernels.h"

typedef struct {
    const float *x, *gain;
    float *normal, *rstd, *y;
    float eps;
    size_t width;
} Forward;

KERNEL void rms_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Forward a = *(const Forward *)arguments;
    const size_t width = a.width;
    const float *restrict gain = a.gain;
    (void)part;
    for (size_t row = begin; row < end; row++) {
        const float *restrict x = a.x + row * width;
        float *restrict normal = a.normal + row * width, *restrict y = a.y + row * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (size_t c = 0; c < width; c++) squares += x[c] * x[c];
        const float rstd = 1.0f / sqrtf(squares / (float)width + a.eps);
        a.rstd[row] = rstd;
        for (size_t c = 0; c < width; c++) {
            normal[c] = x[c] * rstd;
            y[c] = normal[c] * gain[c];
        }
    }
}

/* normal = x / sqrt(mean(x^2) + eps) and y = gain normal of each row of (rows, width); rstd (rows)
 * becomes what x is multiplied by. */
static void rms_norm(const float *x, const float *gain, float eps, float *normal, float *rstd,
                     float *y, size_t rows, size_t width) {
    Forward a = {x, gain, normal, rstd, y, eps, width};
    in_parallel(rms_rows, &a, rows, parts_of(rows, 1 + 32768 / width));
}

typedef struct {
    const float *dy, *gain, *normal, *rstd;
    float *dx;
    Sums dgain;
    size_t width;
} Backward;

KERNEL void rms_backward_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Backward a = *(const Backward *)arguments;
    const size_t width = a.width;
    const float *restrict gain = a.gain;
    float *restrict dgain = sums_of(a.dgain, part);
    for (size_t row = begin; row < end; row++) {
        const float *restrict dy = a.dy + row * width, *restrict normal = a.normal + row * width;
        float *restrict dx = a.dx + row * width;
        float slope = 0;
#pragma omp simd reduction(+ : slope)
        for (size_t c = 0; c < width; c++) {
            slope += dy[c] * gain[c] * normal[c];
            dgain[c] += dy[c] * normal[c];
        }
        const float rstd = a.rstd[row];
        slope /= (float)width;
        for (size_t c = 0; c < width; c++) dx[c] += rstd * (dy[c] * gain[c] - normal[c] * slope);
    }
}

/* With g = gain dy: dx += rstd (g - normal mean(g normal)); dgain += column sums of dy normal.
 * Shapes as in rms_norm. */
static void rms_norm_backward(const float *dy, const float *gain, const float *normal,
                              const float *rstd, float *dx, float *dgain, size_t rows,
                              size_t width) {
    Backward a = {dy, gain, normal, rstd, dx, .width = width};
    a.dgain = begin_sums(dgain, width, parts_of(rows, 1 + 32768 / width));
    in_parallel(rms_backward_rows, &a, rows, a.dgain.parts);
    end_sums(a.dgain);
}

FUNCTION(rms_norm) {
    BEGIN(8);
    const size_t rows = size_of(in[6]), width = size_of(in[7]);
    const float *x = READ(in[0], rows * width), *gain = READ(in[1], width);
    const float eps = real(in[2]);
    float *normal = WRITE(in[3], rows * width), *rstd = WRITE(in[4], rows);
    float *y = WRITE(in[5], rows * width);
    RUN(rms_norm(x, gain, eps, normal, rstd, y, rows, width));
    END;
}

FUNCTION(rms_norm_backward) {
    BEGIN(8);
    const size_t rows = size_of(in[6]), width = size_of(in[7]);
    const float *dy = READ(in[0], rows * width), *gain = READ(in[1], width);
    const float *normal = READ(in[2], rows * width), *rstd = READ(in[3], rows);
    float *dx = WRITE(in[4], rows * width), *dgain = WRITE(in[5], width);
    RUN(rms_norm_backward(dy, gain, normal, rstd, dx, dgain, rows, width));
    END;
}
