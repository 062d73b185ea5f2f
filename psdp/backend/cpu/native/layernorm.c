/* Layer normalisation (Ba et al. 2016, arXiv:1607.06450). */

#include "binding.h"
#include "kernels.h"

typedef struct {
    const float *x, *gain, *bias;
    float *normal, *rstd, *y;
    float eps;
    size_t width;
} Forward;

KERNEL void normalize_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Forward a = *(const Forward *)arguments;
    const size_t width = a.width;
    const float *restrict gain = a.gain, *restrict bias = a.bias;
    (void)part;
    for (size_t row = begin; row < end; row++) {
        const float *restrict x = a.x + row * width;
        float *restrict normal = a.normal + row * width, *restrict y = a.y + row * width;
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t c = 0; c < width; c++) sum += x[c];
        const float mean = sum / (float)width;
#pragma omp simd reduction(+ : squares)
        for (size_t c = 0; c < width; c++) squares += (x[c] - mean) * (x[c] - mean);
        const float rstd = 1.0f / sqrtf(squares / (float)width + a.eps);
        a.rstd[row] = rstd;
        if (bias) {
            for (size_t c = 0; c < width; c++) {
                normal[c] = (x[c] - mean) * rstd;
                y[c] = normal[c] * gain[c] + bias[c];
            }
        } else {
            for (size_t c = 0; c < width; c++) {
                normal[c] = (x[c] - mean) * rstd;
                y[c] = normal[c] * gain[c];
            }
        }
    }
}

/* normal = (x - mean) / std and y = gain normal + bias of each row of (rows, width), with eps added
 * to the variance; rstd (rows) becomes 1 / std. bias may be null. */
static void layer_norm(const float *x, const float *gain, const float *bias, float eps,
                       float *normal, float *rstd, float *y, size_t rows, size_t width) {
    Forward a = {x, gain, bias, normal, rstd, y, eps, width};
    in_parallel(normalize_rows, &a, rows, parts_of(rows, 1 + 32768 / width));
}

typedef struct {
    const float *dy, *gain, *normal, *rstd;
    float *dx;
    Sums dgain, dbias;
    size_t width;
} Backward;

KERNEL void normalize_backward_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Backward a = *(const Backward *)arguments;
    const size_t width = a.width;
    const float *restrict gain = a.gain;
    float *restrict dgain = sums_of(a.dgain, part), *restrict dbias = sums_of(a.dbias, part);
    for (size_t row = begin; row < end; row++) {
        const float *restrict dy = a.dy + row * width, *restrict normal = a.normal + row * width;
        float *restrict dx = a.dx + row * width;
        float sum = 0, slope = 0;
#pragma omp simd reduction(+ : sum, slope)
        for (size_t c = 0; c < width; c++) {
            const float g = dy[c] * gain[c];
            sum += g;
            slope += g * normal[c];
            dgain[c] += dy[c] * normal[c];
        }
        if (dbias)
            for (size_t c = 0; c < width; c++) dbias[c] += dy[c];
        const float mean = sum / (float)width, rstd = a.rstd[row];
        slope /= (float)width;
        for (size_t c = 0; c < width; c++)
            dx[c] += rstd * (dy[c] * gain[c] - mean - normal[c] * slope);
    }
}

/* With g = gain dy: dx += rstd (g - mean(g) - normal mean(g normal)); dgain and dbias, which may be
 * null, += column sums of dy normal and of dy. Shapes as in layer_norm. */
static void layer_norm_backward(const float *dy, const float *gain, const float *normal,
                                const float *rstd, float *dx, float *dgain, float *dbias,
                                size_t rows, size_t width) {
    Backward a = {dy, gain, normal, rstd, dx, .width = width};
    a.dgain = begin_sums(dgain, width, parts_of(rows, 1 + 32768 / width));
    a.dbias = begin_sums(dbias, width, a.dgain.parts);
    in_parallel(normalize_backward_rows, &a, rows, a.dbias.parts);
    end_sums(a.dgain);
    end_sums(a.dbias);
}

FUNCTION(layer_norm) {
    BEGIN(9);
    size_t rows = size_of(in[7]), width = size_of(in[8]);
    const float *x = READ(in[0], rows * width), *gain = READ(in[1], width);
    const float *bias = in[2] == Py_None ? NULL : READ(in[2], width);
    const float eps = real(in[3]);
    float *normal = WRITE(in[4], rows * width), *rstd = WRITE(in[5], rows);
    float *y = WRITE(in[6], rows * width);
    RUN(layer_norm(x, gain, bias, eps, normal, rstd, y, rows, width));
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
