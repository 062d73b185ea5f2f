/* What a linear layer needs beside its products: the bias, and the bias's gradient. */

#include "kernels.h"

#include <stdlib.h>

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
void add_bias(float *y, const float *bias, size_t rows, size_t width) {
    Rows a = {y, bias, width};
    in_parallel(add_bias_rows, &a, rows, parts_of(rows, 1 + 65536 / width));
}

/* Adds rows to the sums of this part, y (parts, width). Four rows at a time, so that a sum is read
 * and written once for the four. */
KERNEL void sum_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Rows a = *(const Rows *)arguments;
    float *restrict sums = a.y + part * a.width;
    size_t row = begin;
    for (; row + 4 <= end; row += 4) {
        const float *restrict x0 = a.x + row * a.width, *restrict x1 = x0 + a.width;
        const float *restrict x2 = x1 + a.width, *restrict x3 = x2 + a.width;
        for (size_t c = 0; c < a.width; c++) sums[c] += (x0[c] + x1[c]) + (x2[c] + x3[c]);
    }
    for (; row < end; row++)
        for (size_t c = 0; c < a.width; c++) sums[c] += a.x[row * a.width + c];
}

/* sums (width) += the sum of the rows of x (rows, width). */
void add_column_sums(const float *x, float *sums, size_t rows, size_t width) {
    size_t parts = parts_of(rows, 1 + 65536 / width);
    float *partial = parts > 1 ? calloc(parts * width, sizeof *partial) : NULL;
    if (!partial) parts = 1;
    Rows a = {partial ? partial : sums, x, width};
    in_parallel(sum_rows, &a, rows, parts);
    for (size_t part = 0; partial && part < parts; part++)
        for (size_t c = 0; c < width; c++) sums[c] += partial[part * width + c];
    free(partial);
}
