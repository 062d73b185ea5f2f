/* Matrix products, c = a b, for processors with AVX-512.
 *
 * The plan is Goto's (2008): blocks of a and b are copied into panels that stay in the second- and
 * third-level cache, and one register tile of c is summed at a time. Against BLAS this wins what
 * the store of a tile can do on its way (a bias, or adding to what is there, where BLAS clears c
 * first), and it has no thread pool of its own to quarrel with that of the other kernels.
 *
 * With bfloat16 the copy is where float32 is rounded, so the caller's arrays stay float32 and no
 * bfloat16 array need exist. benchmarks/compute.py measures both. */

#define _DEFAULT_SOURCE /* madvise */

#include "binding.h"
#include "kernels.h"

/* Older compilers do not know bfloat16. */
#if defined(__x86_64__) && defined(__gnu_linux__) && (defined(__clang__) || __GNUC__ >= 10)

#include <immintrin.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

enum { LANES = 16, TILE_ROWS = 14, TILE_COLUMNS = 32 };
/* A block of a, (BLOCK_ROWS, BLOCK_WORDS), stays in the second-level cache; one of b,
 * (BLOCK_WORDS, BLOCK_COLUMNS), in the third. */
enum { BLOCK_WORDS = 512, BLOCK_ROWS = 14 * TILE_ROWS, BLOCK_COLUMNS = 1536 };

typedef struct {
    const float *a, *b, *bias;
    float *c;
    size_t m, n, k;
    int a_transposed, b_transposed, symmetric, add, bf16;
} Product;

/* A matrix of the caller: element (i, k) of a, or (k, i) of b, is at[i * across + k * along]. */
typedef struct {
    const float *at;
    ptrdiff_t across, along;
} Operand;

/* What becomes of a tile's sums: c = sums + bias, or c += sums. */
typedef struct {
    const float *bias; /* (columns), or NULL */
    int add;
} Store;

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

AVX512 static inline __mmask16 lanes_of(ptrdiff_t count) {
    return count >= LANES ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

AVX512 static inline void transpose(__m512i r[LANES]) {
    __m512i t[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
    }
}

/* Panels and tiles, in both precisions. */
#define BF16 0
#define NAME(function) function##_floats
#define TARGET AVX512
#include "product_tile.h"
#undef BF16
#undef NAME
#undef TARGET
#define BF16 1
#define NAME(function) function##_pairs
#define TARGET AVX512_BF16
#include "product_tile.h"

typedef struct {
    Product p;
    Operand a, b;
    int split_rows; /* whether parts are rows of c, or its columns */
    size_t units;   /* of which parts are made */
    int failed;
} Arguments;

static pthread_key_t own_blocks;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void make_key(void) { pthread_key_create(&own_blocks, free); }

/* Memory for a thread's blocks, which stays with it and goes when it ends; NULL without any. */
static uint32_t *blocks(void) {
    const size_t huge = 2u << 20, bytes = BLOCK_WORDS * (BLOCK_ROWS + BLOCK_COLUMNS) * 4;
    const size_t whole = (bytes + huge - 1) / huge * huge;
    pthread_once(&once, make_key);
    uint32_t *own = pthread_getspecific(own_blocks);
    if (own) return own;
    own = aligned_alloc(huge, whole);
    if (own && pthread_setspecific(own_blocks, own)) {
        free(own);
        return NULL;
    }
    if (own) madvise(own, whole, MADV_HUGEPAGE);
    return own;
}

/* The part of c with rows [top, bottom) and columns [left, right); of one that is symmetric, what
 * lies on the diagonal or above it, and little more. */
static int multiply(const Arguments *g, ptrdiff_t top, ptrdiff_t bottom, ptrdiff_t left,
                    ptrdiff_t right) {
    const Product *p = &g->p;
    const ptrdiff_t per_word = p->bf16 ? 2 : 1, c_row = (ptrdiff_t)p->n, depth = (ptrdiff_t)p->k;
    uint32_t *a_block = blocks();
    if (!a_block) return -1;
    uint32_t *b_block = a_block + BLOCK_WORDS * BLOCK_ROWS;
    void (*pack)(Operand, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, uint32_t *, int) =
        p->bf16 ? pack_pairs : pack_floats;
    for (ptrdiff_t j = left; j < right; j += BLOCK_COLUMNS) {
        const ptrdiff_t columns = least(right - j, BLOCK_COLUMNS);
        for (ptrdiff_t k = 0; k < depth; k += BLOCK_WORDS * per_word) {
            const ptrdiff_t some = least(depth - k, BLOCK_WORDS * per_word);
            const ptrdiff_t words = (some + per_word - 1) / per_word;
            pack(g->b, j, columns, k, some, b_block, TILE_COLUMNS);
            const ptrdiff_t last = p->symmetric ? least(bottom, j + columns) : bottom;
            for (ptrdiff_t i = top; i < last; i += BLOCK_ROWS) {
                const ptrdiff_t rows = least(last - i, BLOCK_ROWS);
                pack(g->a, i, rows, k, some, a_block, TILE_ROWS);
                for (ptrdiff_t jt = 0; jt < columns; jt += TILE_COLUMNS) {
                    const Store store = {
                        k || !p->bias ? NULL : p->bias + j + jt,
                        k || p->add,
                    };
                    const ptrdiff_t needed =
                        p->symmetric ? least(rows, j + jt + TILE_COLUMNS - i) : rows;
                    for (ptrdiff_t it = 0; it < needed; it += TILE_ROWS)
                        (p->bf16 ? tile_pairs : tile_floats)(
                            needed - it, words, (int32_t *)a_block + it * words,
                            (int32_t *)b_block + jt * words, store,
                            p->c + (i + it) * c_row + j + jt, c_row, columns - jt);
                }
            }
        }
    }
    return 0;
}

/* Where the part that begins at this unit begins. Half of a symmetric c is a triangle, whose parts
 * are as large as one another where the squares of their ends are as far apart. */
static ptrdiff_t edge(const Arguments *g, size_t unit) {
    return g->p.symmetric ? (ptrdiff_t)sqrt((double)unit * (double)g->units) : (ptrdiff_t)unit;
}

static void part_of_product(const void *arguments, size_t part, size_t begin, size_t end) {
    Arguments *g = (Arguments *)arguments;
    const ptrdiff_t unit = g->split_rows ? TILE_ROWS : TILE_COLUMNS;
    const ptrdiff_t m = (ptrdiff_t)g->p.m, n = (ptrdiff_t)g->p.n, size = g->split_rows ? m : n;
    const ptrdiff_t first = edge(g, begin) * unit, last = least(edge(g, end) * unit, size);
    (void)part;
    if (g->split_rows ? multiply(g, first, last, 0, n) : multiply(g, 0, m, first, last)) {
#pragma omp atomic write
        g->failed = 1;
    }
}

/* Squares of c, whose rows are those of [begin, end) in sixteens: what lies above the diagonal is
 * copied below it. */
AVX512 static void mirror(const void *arguments, size_t part, size_t begin, size_t end) {
    const Arguments *g = arguments;
    const ptrdiff_t n = (ptrdiff_t)g->p.n;
    float *c = g->p.c;
    (void)part;
    for (ptrdiff_t i = (ptrdiff_t)begin * LANES; i < least(n, (ptrdiff_t)end * LANES); i += LANES)
        for (ptrdiff_t j = 0; j <= i; j += LANES) {
            __m512i r[LANES];
#pragma GCC unroll 16
            for (int q = 0; q < LANES; q++)
                r[q] =
                    _mm512_maskz_loadu_epi32(j + q < n ? lanes_of(n - i) : 0, c + (j + q) * n + i);
            transpose(r);
#pragma GCC unroll 16
            for (int q = 0; q < LANES; q++)
                if (i + q < n)
                    _mm512_mask_storeu_epi32(c + (i + q) * n + j, lanes_of(i + q - j), r[q]);
        }
}

/* c (m, n) = a b + bias, or c += a b (without a bias); a (m, k) and b (k, n), given as (k, m) and
 * (n, k) where their flag says transposed; bias (n) or null. With bf16 both are rounded to
 * bfloat16. If c is known to be symmetric half of it is computed and copied to the other half.
 * The order of a sum depends on k alone. Returns -1 where there is no memory. */
static int product(Product p) {
    Arguments g = {.p = p};
    const ptrdiff_t m = (ptrdiff_t)p.m, n = (ptrdiff_t)p.n, k = (ptrdiff_t)p.k;
    g.a = p.a_transposed ? (Operand){p.a, 1, m} : (Operand){p.a, k, 1};
    g.b = p.b_transposed ? (Operand){p.b, k, 1} : (Operand){p.b, 1, n};
    g.split_rows = m >= n && !p.symmetric;
    const size_t unit = g.split_rows ? TILE_ROWS : TILE_COLUMNS;
    g.units = ((size_t)(g.split_rows ? m : n) + unit - 1) / unit;
    /* A part of less than a million products is not worth waking a thread for. */
    const size_t work = p.m * p.n * p.k / (p.symmetric ? 2 * g.units : g.units);
    in_parallel(part_of_product, &g, g.units, parts_of(g.units, 1 + 1000000 / (work ? work : 1)));
    if (p.symmetric) {
        const size_t strips = (p.n + LANES - 1) / LANES;
        in_parallel(mirror, &g, strips, parts_of(strips, 1 + 65536 / p.n));
    }
    return g.failed ? -1 : 0;
}

/* Whether this processor can run product: 1 with float32, 2 with bfloat16 too. */
static int product_support(void) {
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return 0;
    return __builtin_cpu_supports("avx512bf16") ? 2 : 1;
}

#else

static int product(Product p) {
    (void)p;
    return -1;
}

static int product_support(void) { return 0; }

#endif

FUNCTION(product) {
    BEGIN(10);
    Product p = {.m = size_of(in[4]), .n = size_of(in[5]), .k = size_of(in[6])};
    int failed = 0;
    p.a = READ(in[0], p.m * p.k);
    p.b = READ(in[1], p.k * p.n);
    p.bias = in[2] == Py_None ? NULL : READ(in[2], p.n);
    p.c = WRITE(in[3], p.m * p.n);
    long flags = PyErr_Occurred() ? 0 : PyLong_AsLong(in[7]);
    p.a_transposed = flags & A_TRANSPOSED;
    p.b_transposed = flags & B_TRANSPOSED;
    p.symmetric = flags & SYMMETRIC;
    p.add = PyObject_IsTrue(in[8]);
    p.bf16 = PyObject_IsTrue(in[9]);
    if (p.add && p.bias) PyErr_SetString(PyExc_ValueError, "a product that adds has no bias");
    if (p.symmetric && (p.m != p.n || p.add || p.bias))
        PyErr_SetString(PyExc_ValueError, "a symmetric product is square, and nothing is added");
    RUN(failed = product(p));
    if (failed) PyErr_NoMemory();
    END;
}

FUNCTION(product_support) {
    (void)self, (void)in, (void)given;
    return PyLong_FromLong(product_support());
}
