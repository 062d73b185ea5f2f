/* Heads of rows of [queries | keys | values]: turned by their position (Su et al. 2021,
 * arXiv:2104.09864), and shared (Ainslie et al. 2023, arXiv:2305.13245). */

#include "binding.h"
#include "kernels.h"

#include <string.h>

typedef struct {
    float *qkv;
    const float *cos, *sin;
    float sign;
    size_t length, heads, size, half;
} Turn;

KERNEL void turn_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Turn a = *(const Turn *)arguments;
    (void)part;
    for (size_t row = begin; row < end; row++) {
        const float *restrict cos = a.cos + row % a.length * a.half;
        const float *restrict sin = a.sin + row % a.length * a.half;
        for (size_t head = 0; head < 2 * a.heads; head++) {
            float *restrict first = a.qkv + (row * 3 * a.heads + head) * a.size;
            float *restrict second = first + a.half;
            for (size_t c = 0; c < a.half; c++) {
                const float x = first[c], y = second[c], s = a.sign * sin[c];
                first[c] = x * cos[c] - y * s;
                second[c] = y * cos[c] + x * s;
            }
        }
    }
}

/* Turns the pairs (c, c + half) of the queries and the keys of each head in rows of 3 heads x size
 * by the angle of their position, of `length` in turn, or back where sign is -1. */
static void rotate(Turn a, size_t rows) {
    in_parallel(turn_rows, &a, rows, parts_of(rows, 1 + 32768 / (2 * a.heads * a.size)));
}

typedef struct {
    const float *from;
    float *to;
    size_t heads, kv_heads, size;
} Share;

INLINE size_t few(Share a) { return (a.heads + 2 * a.kv_heads) * a.size; }
INLINE size_t many(Share a) { return 3 * a.heads * a.size; }

KERNEL void repeat_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Share a = *(const Share *)arguments;
    const size_t width = a.heads * a.size, group = a.heads / a.kv_heads;
    (void)part;
    for (size_t row = begin; row < end; row++) {
        const float *from = a.from + row * few(a);
        float *to = a.to + row * many(a);
        memcpy(to, from, width * sizeof *to);
        for (size_t head = 0; head < 2 * a.heads; head++)
            memcpy(to + width + head * a.size, from + width + head / group * a.size,
                   a.size * sizeof *to);
    }
}

KERNEL void sum_rows(const void *arguments, size_t part, size_t begin, size_t end) {
    const Share a = *(const Share *)arguments;
    const size_t width = a.heads * a.size, group = a.heads / a.kv_heads;
    (void)part;
    for (size_t row = begin; row < end; row++) {
        const float *from = a.from + row * many(a);
        float *to = a.to + row * few(a);
        memcpy(to, from, width * sizeof *to);
        for (size_t head = 0; head < 2 * a.kv_heads; head++) {
            const float *restrict alike = from + width + head * group * a.size;
            float *restrict sum = to + width + head * a.size;
            for (size_t c = 0; c < a.size; c++) sum[c] = alike[c];
            for (size_t other = 1; other < group; other++)
                for (size_t c = 0; c < a.size; c++) sum[c] += alike[other * a.size + c];
        }
    }
}

static void share(Work *work, Share a, size_t rows) {
    in_parallel(work, &a, rows, parts_of(rows, 1 + 32768 / many(a)));
}

FUNCTION(rotate) {
    BEGIN(8);
    const size_t rows = size_of(in[3]), length = size_of(in[4]), heads = size_of(in[5]);
    const size_t half = size_of(in[6]);
    float *qkv = WRITE(in[0], 1);
    const float *cos = READ(in[1], length * half), *sin = READ(in[2], length * half);
    const float sign = real(in[7]);
    const size_t size = PyErr_Occurred() ? 0 : first_size(&buffers) / (rows * 3 * heads);
    if (!PyErr_Occurred() && size < 2 * half)
        PyErr_Format(PyExc_ValueError, "expected heads of %zu channels or more, got %zu", 2 * half,
                     size);
    RUN(rotate((Turn){qkv, cos, sin, sign, length, heads, size, half}, rows));
    END;
}

static Share share_of(PyObject *const *in) {
    Share a = {NULL, NULL, size_of(in[0]), size_of(in[1]), size_of(in[2])};
    if (!PyErr_Occurred() && a.heads % a.kv_heads)
        PyErr_Format(PyExc_ValueError, "expected as many heads for each of %zu, got %zu",
                     a.kv_heads, a.heads);
    return a;
}

/* qkv (rows, 3 heads x size) = packed (rows, (heads + 2 kv_heads) x size) with each head of keys
 * and values as often as makes heads. */
FUNCTION(repeat_heads) {
    BEGIN(6);
    Share a = share_of(in + 3);
    const size_t rows = size_of(in[2]);
    a.from = READ(in[0], rows * few(a));
    a.to = WRITE(in[1], rows * many(a));
    RUN(share(repeat_rows, a, rows));
    END;
}

/* The transpose of that: dpacked = sums of dqkv. */
FUNCTION(sum_heads) {
    BEGIN(6);
    Share a = share_of(in + 3);
    const size_t rows = size_of(in[2]);
    a.from = READ(in[0], rows * many(a));
    a.to = WRITE(in[1], rows * few(a));
    RUN(share(sum_rows, a, rows));
    END;
}
