/* What a linear layer needs beside its products: the bias, and the bias's gradient. */

#include "binding.h"
#include "kernels.h"

typedef struct {
    float *y;
    const float *x;
    size_t width;
} Rows;

KERNEL void add_bias_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Rows a = *(const Rows *)arguments;
    (void)part;
    for (size_t row = begin; row < end; row++) {
        float *y = a.y + row * a.width;
        for (size_t c = 0; c < a.width; c++) y[c] += a.x[c];
    }
}

/* y (rows, width) += bias (width). */
static void add_bias(float *y, const float *bias, size_t rows, size_t width) {
    Rows a = {y, bias, width};
    in_parallel(add_bias_rows, &a, rows, parts_of(rows, 1 + 65536 / width));
}

typedef struct {
    const float *x;
    Sums sums;
} Columns;

/* Four rows at a time, so that a sum is read and written once for the four. */
KERNEL void sum_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Columns a = *(const Columns *)arguments;
    const size_t width = a.sums.size;
    float *restrict sums = sums_of(a.sums, part);
    size_t row = begin;
    for (; row + 4 <= end; row += 4) {
        const float *restrict x0 = a.x + row * width, *restrict x1 = x0 + width;
        const float *restrict x2 = x1 + width, *restrict x3 = x2 + width;
        for (size_t c = 0; c < width; c++) sums[c] += (x0[c] + x1[c]) + (x2[c] + x3[c]);
    }
    for (; row < end; row++)
        for (size_t c = 0; c < width; c++) sums[c] += a.x[row * width + c];
}

/* sums (width) += the sum of the rows of x (rows, width). */
static void add_column_sums(const float *x, float *sums, size_t rows, size_t width) {
    Columns a = {x, begin_sums(sums, width, parts_of(rows, 1 + 65536 / width))};
    in_parallel(sum_rows, &a, rows, a.sums.parts);
    end_sums(a.sums);
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
