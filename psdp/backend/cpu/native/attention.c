/* Causal self-attention of one head of one sequence at a time (arXiv:1706.03762).
 *
 * A block of queries meets only the keys that it may see, the block's scores live in the
 * second-level cache, and nothing of the size T x T is kept: the backward pass makes the weights
 * again from the scores and one number a query, log-sum-exp (Dao et al. 2022, arXiv:2205.14135).
 * The products are too small for BLAS, whose calls and packing would cost as much as they do, so
 * they are made here. */

#include "binding.h"
#include "kernels.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t batch, heads, length, head_size, query_block;
} AttentionShape;

/* Eight floats: one AVX register, a half of an AVX-512 one, two of SSE. */
typedef float Vector __attribute__((vector_size(32), aligned(4)));
enum { LANES = 8, PANEL = 2 * LANES, TILE_ROWS = 6 };

INLINE Vector load(const float *p) { return *(const Vector *)p; }

/* c (rows, 16) = or += a b, with a[i, k] at a[i * a_row + k * a_step], b (depth, 16). All of c
 * stays in registers: 12 sums, enough to hide the latency of two multiply-adds a cycle. */
INLINE void multiply_tile(size_t rows, size_t depth, const float *a, size_t a_row, size_t a_step,
                          const float *b, float *c, size_t c_row, int add) {
    Vector low[TILE_ROWS], high[TILE_ROWS];
    for (size_t i = 0; i < rows; i++) low[i] = high[i] = (Vector){0};
    for (size_t k = 0; k < depth; k++) {
        const Vector b_low = load(b + k * PANEL), b_high = load(b + k * PANEL + LANES);
        for (size_t i = 0; i < rows; i++) {
            const float scale = a[i * a_row + k * a_step];
            low[i] += scale * b_low;
            high[i] += scale * b_high;
        }
    }
    for (size_t i = 0; i < rows; i++) {
        Vector *to = (Vector *)(c + i * c_row), *rest = (Vector *)(c + i * c_row + LANES);
        *to = add ? *to + low[i] : low[i];
        *rest = add ? *rest + high[i] : high[i];
    }
}

/* A matrix in panels of 16 columns, each with its rows one after the other: what a product reads
 * or writes lies together, however many rows there are. */
typedef struct {
    float *at;
    size_t panel; /* floats from one panel to the next */
    size_t row;   /* floats from one row to the next, 16 unless the panels interleave */
} Panels;

/* c (rows, width) = or += a b, with a (rows, depth) strided as above and b (depth, width). */
INLINE void multiply(size_t rows, size_t width, size_t depth, const float *a, size_t a_row,
                     size_t a_step, Panels b, Panels c, int add) {
    for (size_t j = 0; j * PANEL < width; j++) {
        const float *from = b.at + j * b.panel;
        float *to = c.at + j * c.panel;
        size_t i = 0;
        for (; i + TILE_ROWS <= rows; i += TILE_ROWS)
            multiply_tile(TILE_ROWS, depth, a + i * a_row, a_row, a_step, from, to + i * c.row,
                          c.row, add);
        for (; i + 4 <= rows; i += 4)
            multiply_tile(4, depth, a + i * a_row, a_row, a_step, from, to + i * c.row, c.row, add);
        for (; i < rows; i++)
            multiply_tile(1, depth, a + i * a_row, a_row, a_step, from, to + i * c.row, c.row, add);
    }
}

INLINE size_t padded(size_t size) { return (size + PANEL - 1) / PANEL * PANEL; }

INLINE Panels from_row(Panels p, size_t row) {
    return (Panels){p.at + row * p.row, p.panel, p.row};
}

/* Copies one head's rows, (length, width) with `stride` between rows, into panels. */
INLINE void gather(const float *rows, size_t stride, size_t length, size_t width, Panels to) {
    for (size_t j = 0; j < width; j += PANEL) {
        const size_t lanes = smaller(PANEL, width - j);
        float *panel = to.at + j / PANEL * to.panel;
        for (size_t t = 0; t < length; t++) {
            for (size_t c = 0; c < lanes; c++) panel[t * PANEL + c] = rows[t * stride + j + c];
            for (size_t c = lanes; c < PANEL; c++) panel[t * PANEL + c] = 0;
        }
    }
}

/* The same, times scale, as columns: (width, length) in panels of 16 rows. */
INLINE void gather_columns(const float *rows, size_t stride, size_t length, size_t width,
                           float scale, Panels to) {
    for (size_t t = 0; t < length; t += PANEL) {
        const size_t lanes = smaller(PANEL, length - t);
        float *panel = to.at + t / PANEL * to.panel;
        for (size_t c = 0; c < width; c++) {
            for (size_t lane = 0; lane < lanes; lane++)
                panel[c * PANEL + lane] = rows[(t + lane) * stride + c] * scale;
            for (size_t lane = lanes; lane < PANEL; lane++) panel[c * PANEL + lane] = 0;
        }
    }
}

/* Copies panels, times scale, to one head's rows. */
INLINE void scatter(Panels from, size_t length, size_t width, float scale, float *rows,
                    size_t stride) {
    for (size_t j = 0; j < width; j += PANEL) {
        const size_t lanes = smaller(PANEL, width - j);
        const float *panel = from.at + j / PANEL * from.panel;
        for (size_t t = 0; t < length; t++)
            for (size_t c = 0; c < lanes; c++)
                rows[t * stride + j + c] = panel[t * PANEL + c] * scale;
    }
}

typedef struct {
    AttentionShape shape;
    const float *qkv, *mask, *context, *logsumexp, *dcontext;
    float *out, *out_logsumexp;
    float *scratch;      /* of all parts */
    size_t scratch_size; /* of one part */
} Arguments;

/* Where the dropout mask of the queries from `start` on begins: the blocks of queries lie one after
 * the other, each (batch, heads, queries, keys). */
INLINE size_t mask_start(AttentionShape s, size_t start) {
    size_t before = 0;
    for (size_t block = 0; block < start; block += s.query_block) {
        const size_t stop = smaller(block + s.query_block, s.length);
        before += (stop - block) * stop;
    }
    return s.batch * s.heads * before;
}

static size_t mask_size(AttentionShape shape) { return mask_start(shape, shape.length); }

INLINE const float *mask_of(const Arguments *a, size_t pair, size_t start, size_t rows) {
    if (!a->mask) return NULL;
    return a->mask + mask_start(a->shape, start) + pair * rows * (start + rows);
}

/* Panels at *free for (rows, width); *free moves on. */
INLINE Panels take(float **free, size_t rows, size_t width) {
    Panels panels = {*free, rows * PANEL, PANEL};
    *free += rows * padded(width);
    return panels;
}

/* Rows of scores are worked on in whole vectors, up to the next multiple of 16: a rest, one number
 * at a time, would cost more than all of a short row. What is too much becomes 0 in the end.
 *
 * Scores of a block of queries: rows of `stride`, which is no power of two, so that a column does
 * not fall into one set of the cache. */
INLINE size_t score_stride(size_t length) { return padded(length) + PANEL; }

KERNEL void attend(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arguments *a = arguments;
    const AttentionShape s = a->shape;
    const size_t T = s.length, D = s.head_size, C = s.heads * D, stride = score_stride(T);
    const float scale = 1.0f / sqrtf((float)D);
    float *free = a->scratch + part * a->scratch_size;
    const Panels kt = take(&free, D, T), v = take(&free, T, D);
    const Panels context = take(&free, s.query_block, D);
    float *inverse_sums = free, *weights = free + padded(s.query_block);
    for (size_t pair = begin; pair < end; pair++) {
        const size_t row0 = pair / s.heads * T, column = pair % s.heads * D;
        const float *q = a->qkv + row0 * 3 * C + column;
        gather_columns(q + C, 3 * C, T, D, scale, kt);
        gather(q + 2 * C, 3 * C, T, D, v);
        for (size_t start = 0; start < T; start += s.query_block) {
            const size_t rows = smaller(s.query_block, T - start), keys = start + rows;
            const float *mask = mask_of(a, pair, start, rows);
            multiply(rows, keys, D, q + start * 3 * C, 3 * C, 1, kt,
                     (Panels){weights, PANEL, stride}, 0);
            for (size_t i = 0; i < rows; i++) {
                float *restrict w = weights + i * stride, largest = -INFINITY, sum = 0;
                const size_t seen = start + i + 1, whole = padded(seen);
                for (size_t j = seen; j < whole; j++) w[j] = -INFINITY;
#pragma omp simd reduction(max : largest)
                for (size_t j = 0; j < whole; j++) largest = w[j] > largest ? w[j] : largest;
#pragma omp simd reduction(+ : sum)
                for (size_t j = 0; j < whole; j++) {
                    w[j] = exponential(w[j] - largest);
                    sum += w[j];
                }
                for (size_t j = seen; j < keys; j++) w[j] = 0;
                if (mask)
                    for (size_t j = 0; j < seen; j++) w[j] *= mask[i * keys + j];
                a->out_logsumexp[pair * T + start + i] = largest + logf(sum);
                inverse_sums[i] = 1.0f / sum;
            }
            /* The output, which is shorter than the weights, is divided instead of them. */
            multiply(rows, D, keys, weights, stride, 1, v, context, 0);
            for (size_t i = 0; i < rows; i++)
                scatter(from_row(context, i), 1, D, inverse_sums[i],
                        a->out + (row0 + start + i) * C + column, C);
        }
    }
}

KERNEL void attend_backward(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arguments *a = arguments;
    const AttentionShape s = a->shape;
    const size_t T = s.length, D = s.head_size, C = s.heads * D, stride = score_stride(T);
    const float scale = 1.0f / sqrtf((float)D);
    float *free = a->scratch + part * a->scratch_size;
    const Panels q = take(&free, T, D), k = take(&free, T, D), d_o = take(&free, T, D);
    const Panels kt = take(&free, D, T), vt = take(&free, D, T), dq = take(&free, T, D);
    const Panels dk = take(&free, T, D), dv = take(&free, T, D);
    float *weights = free, *dscores = weights + s.query_block * stride;
    for (size_t pair = begin; pair < end; pair++) {
        const size_t row0 = pair / s.heads * T, column = pair % s.heads * D;
        const float *q_rows = a->qkv + row0 * 3 * C + column;
        const float *d_o_rows = a->dcontext + row0 * C + column;
        const float *context = a->context + row0 * C + column;
        gather(q_rows, 3 * C, T, D, q);
        gather(q_rows + C, 3 * C, T, D, k);
        gather(d_o_rows, C, T, D, d_o);
        gather_columns(q_rows + C, 3 * C, T, D, scale, kt);
        gather_columns(q_rows + 2 * C, 3 * C, T, D, 1.0f, vt);
        memset(dk.at, 0, 2 * T * padded(D) * sizeof(float)); /* dv lies behind it */
        for (size_t start = 0; start < T; start += s.query_block) {
            const size_t rows = smaller(s.query_block, T - start), keys = start + rows;
            const float *mask = mask_of(a, pair, start, rows);
            multiply(rows, keys, D, q_rows + start * 3 * C, 3 * C, 1, kt,
                     (Panels){weights, PANEL, stride}, 0);
            multiply(rows, keys, D, d_o_rows + start * C, C, 1, vt,
                     (Panels){dscores, PANEL, stride}, 0);
            for (size_t i = 0; i < rows; i++) {
                float *restrict w = weights + i * stride, *restrict ds = dscores + i * stride;
                const float logsumexp = a->logsumexp[pair * T + start + i];
                const size_t seen = start + i + 1, whole = padded(seen), row = (start + i) * C;
                /* Softmax needs sum_j p_j dp_j, which is the product of the output and its
                 * gradient: D terms, not T. */
                float delta = 0;
#pragma omp simd reduction(+ : delta)
                for (size_t d = 0; d < D; d++) delta += d_o_rows[row + d] * context[row + d];
                for (size_t j = 0; j < whole; j++) w[j] = exponential(w[j] - logsumexp);
                if (mask) {
                    for (size_t j = 0; j < seen; j++) {
                        const float kept = mask[i * keys + j];
                        ds[j] = w[j] * (ds[j] * kept - delta);
                        w[j] *= kept;
                    }
                } else {
                    for (size_t j = 0; j < whole; j++) ds[j] = w[j] * (ds[j] - delta);
                }
                for (size_t j = seen; j < keys; j++) w[j] = ds[j] = 0;
            }
            multiply(rows, D, keys, dscores, stride, 1, k, from_row(dq, start), 0);
            multiply(keys, D, rows, dscores, 1, stride, from_row(q, start), dk, 1);
            multiply(keys, D, rows, weights, 1, stride, from_row(d_o, start), dv, 1);
        }
        float *dqkv = a->out + row0 * 3 * C + column;
        scatter(dq, T, D, scale, dqkv, 3 * C);
        scatter(dk, T, D, scale, dqkv + C, 3 * C);
        scatter(dv, T, D, 1.0f, dqkv + 2 * C, 3 * C);
    }
}

/* Runs work on all pairs of a sequence and a head, with room for so many matrices (T, D) and
 * blocks of scores. */
static int run(Work *work, Arguments a, size_t matrices, size_t blocks) {
    const AttentionShape s = a.shape;
    const size_t pairs = s.batch * s.heads, parts = parts_of(pairs, 1);
    /* Forward has a panel for a block of queries, which may be longer than the sequence. */
    const size_t rows = s.length > s.query_block ? s.length : s.query_block;
    a.scratch_size = matrices * padded(rows) * padded(s.head_size) +
                     blocks * padded(s.query_block) * score_stride(s.length);
    a.scratch = aligned_alloc(64, parts * a.scratch_size * sizeof(float));
    if (!a.scratch) return -1;
    in_parallel(work, &a, pairs, parts);
    free(a.scratch);
    return 0;
}

/* context (N, C) = attention of qkv (N, 3C), rows of [queries | keys | values], each heads x D;
 * logsumexp (batch, heads, T). mask is the dropout mask, see mask_of, or null. Returns -1 where
 * there is no memory. */
static int attention(AttentionShape shape, const float *qkv, const float *mask, float *context,
                     float *logsumexp) {
    Arguments a = {
        .shape = shape, .qkv = qkv, .mask = mask, .out = context, .out_logsumexp = logsumexp};
    return run(attend, a, 3, 2);
}

/* dqkv (N, 3C) = the gradient of qkv, given that of context, which is dcontext (N, C). */
static int attention_backward(AttentionShape shape, const float *qkv, const float *mask,
                              const float *context, const float *logsumexp, const float *dcontext,
                              float *dqkv) {
    Arguments a = {.shape = shape,
                   .qkv = qkv,
                   .mask = mask,
                   .context = context,
                   .logsumexp = logsumexp,
                   .dcontext = dcontext,
                   .out = dqkv};
    return run(attend_backward, a, 8, 2);
}

/* From batch, heads, tokens and query block, and the qkv (tokens, 3 heads x D) that was read first.
 */
static AttentionShape shape_of(const Buffers *buffers, PyObject *const *in) {
    AttentionShape s = {size_of(in[0]), size_of(in[1]), 0, 0, size_of(in[3])};
    const size_t tokens = size_of(in[2]), elements = first_size(buffers);
    if (PyErr_Occurred()) return s;
    if (tokens % s.batch || elements % tokens || elements / tokens % (3 * s.heads))
        PyErr_Format(PyExc_ValueError,
                     "expected %zu sequences of %zu tokens in all, each 3 x %zu heads, got %zu "
                     "elements",
                     s.batch, tokens, s.heads, elements);
    s.length = tokens / s.batch;
    s.head_size = elements / tokens / (3 * s.heads);
    return s;
}

static const float *mask_or_null(Buffers *buffers, PyObject *object, AttentionShape shape) {
    if (object == Py_None || PyErr_Occurred()) return NULL;
    return array(buffers, object, 'f', 0, mask_size(shape));
}

FUNCTION(attention) {
    BEGIN(8);
    int failed = 0;
    const float *qkv = READ(in[0], 1);
    const AttentionShape s = shape_of(&buffers, in + 4);
    const size_t tokens = s.batch * s.length;
    const float *mask = mask_or_null(&buffers, in[1], s);
    float *context = WRITE(in[2], tokens * s.heads * s.head_size);
    float *logsumexp = WRITE(in[3], tokens * s.heads);
    RUN(failed = attention(s, qkv, mask, context, logsumexp));
    if (failed) PyErr_NoMemory();
    END;
}

FUNCTION(attention_backward) {
    BEGIN(10);
    int failed = 0;
    const float *qkv = READ(in[0], 1);
    const AttentionShape s = shape_of(&buffers, in + 6);
    const size_t tokens = s.batch * s.length, width = s.heads * s.head_size;
    const float *mask = mask_or_null(&buffers, in[1], s);
    const float *context = READ(in[2], tokens * width), *logsumexp = READ(in[3], tokens * s.heads);
    const float *dcontext = READ(in[4], tokens * width);
    float *dqkv = WRITE(in[5], tokens * 3 * width);
    RUN(failed = attention_backward(s, qkv, mask, context, logsumexp, dcontext, dqkv));
    if (failed) PyErr_NoMemory();
    END;
}
