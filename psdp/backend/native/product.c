/* Matrix products, c = a b, for processors with AVX-512.
 *
 * The plan is Goto's (2008): blocks of a and b are copied into panels that stay in the second- and
 * third-level cache, and one register tile of c is summed at a time. Against BLAS this wins what the
 * store of a tile can do on its way (a bias, or adding to what is there, where BLAS clears c first),
 * and it has no thread pool of its own to quarrel with that of the other kernels.
 *
 * With bfloat16 the copy is where float32 is rounded, so the caller's arrays stay float32 and no
 * bfloat16 array need exist. A word of a panel is then a pair of neighbours along k, as VDPBF16PS
 * wants them, and sums are float32.
 *
 * The tile is 14 x 32: 28 sums, two vectors of b and one broadcast fill 31 of the 32 registers, and
 * need 16 loads for 28 products. */

#define _DEFAULT_SOURCE /* madvise */

#include "kernels.h"

#if defined(__x86_64__) && defined(__gnu_linux__)

#include <immintrin.h>
#include <stdlib.h>
#include <sys/mman.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE_AVX512 static inline __attribute__((always_inline)) AVX512
#define INLINE_BF16 static inline __attribute__((always_inline)) AVX512_BF16

enum { LANES = 16, TILE_ROWS = 14, TILE_COLUMNS = 32 };
/* A block of a, (BLOCK_ROWS, BLOCK_WORDS), stays in the second-level cache; one of b,
 * (BLOCK_WORDS, BLOCK_COLUMNS), in the third. */
enum { BLOCK_WORDS = 512, BLOCK_ROWS = 14 * TILE_ROWS, BLOCK_COLUMNS = 1536 };

/* A matrix of the caller: element (i, k) of a, or (k, i) of b, is at[i * across + k * along]. */
typedef struct {
    const float *at;
    ptrdiff_t across, along;
} Operand;

/* Panels ----------------------------------------------------------------------------------------
 *
 * `width` rows of a (or columns of b) make a panel, word by word along k:
 * panel[word * width + i]. Rows beyond the matrix are zero. */

INLINE_AVX512 __mmask16 lanes_of(ptrdiff_t count) {
    return count >= LANES ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

INLINE_AVX512 void transpose(__m512i r[LANES]) {
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

/* Sixteen words of a row along k: floats, or pairs of neighbours rounded to bfloat16. */
INLINE_AVX512 __m512i words_along(const float *x, ptrdiff_t left) {
    return _mm512_castps_si512(_mm512_maskz_loadu_ps(lanes_of(left), x));
}

INLINE_BF16 __m512i pairs_along(const float *x, ptrdiff_t left) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(lanes_of(left - LANES), x + LANES),
                                        _mm512_maskz_loadu_ps(lanes_of(left), x));
}

/* A word of sixteen rows that lie side by side: floats, or pairs of two neighbours along k, `odd`
 * being NULL where there is no second one. */
INLINE_BF16 __m512i pairs_across(const float *even, const float *odd, __mmask16 mask) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, even)));
    __m512i high = _mm512_setzero_si512();
    if (odd) high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, odd)));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* Both kinds of panels, from a matrix whose elements are contiguous along k, or across it. The body is
 * one for float32 and bfloat16, instantiated below: `per_word` elements of k make a word. */
#define PACK(NAME, TARGET, PER_WORD, ALONG, ACROSS)                                                  \
    TARGET void NAME##_along(uint32_t *out, const float *x, ptrdiff_t across, ptrdiff_t count,       \
                             ptrdiff_t k, int width) {                                               \
        const ptrdiff_t words = (k + PER_WORD - 1) / PER_WORD;                                       \
        for (ptrdiff_t i = 0; i < count; i += width, out += words * width)                           \
            for (ptrdiff_t w = 0; w < words; w += LANES)                                             \
                for (int lane = 0; lane < width; lane += LANES) {                                    \
                    __m512i r[LANES];                                                                \
                    const ptrdiff_t rows = count - i - lane;                                         \
                    const float *from = x + (i + lane) * across + PER_WORD * w;                      \
                    const ptrdiff_t left = k - PER_WORD * w;                                         \
                    _Pragma("GCC unroll 16") for (int row = 0; row < LANES; row++) r[row] =          \
                        row < rows && lane + row < width ? ALONG(from + row * across, left)          \
                                                         : _mm512_setzero_si512();                   \
                    transpose(r);                                                                    \
                    _Pragma("GCC unroll 16") for (int q = 0; q < LANES; q++) if (w + q < words)      \
                        _mm512_mask_storeu_epi32(out + (w + q) * width + lane,                       \
                                                 lanes_of(width - lane), r[q]);                      \
                }                                                                                    \
    }                                                                                                \
    /* Eight words at a time are spread over all panels, so that both sides are read and written in  \
     * runs. */                                                                                      \
    TARGET void NAME##_across(uint32_t *out, const float *x, ptrdiff_t along, ptrdiff_t count,       \
                              ptrdiff_t k, int width) {                                              \
        const ptrdiff_t words = (k + PER_WORD - 1) / PER_WORD;                                       \
        for (ptrdiff_t some = 0; some < words; some += 8)                                            \
            for (ptrdiff_t i = 0; i < count; i += width)                                             \
                for (ptrdiff_t w = some; w < words && w < some + 8; w++)                             \
                    for (int lane = 0; lane < width; lane += LANES) {                                \
                        const float *from = x + PER_WORD * w * along + i + lane;                     \
                        const __mmask16 mask =                                                       \
                            lanes_of(count - i - lane) & lanes_of(width - lane);                     \
                        _mm512_mask_storeu_epi32(out + i * words + w * width + lane,                 \
                                                 lanes_of(width - lane), ACROSS);                    \
                    }                                                                                \
    }

PACK(pack_floats, AVX512 static, 1, words_along,
     _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, from)))
PACK(pack_pairs, AVX512_BF16 static, 2, pairs_along,
     pairs_across(from, 2 * w + 1 < k ? from + along : NULL, mask))

/* Tiles ----------------------------------------------------------------------------------------- */

/* What becomes of a tile's sums: c = sums + bias, or c += sums. */
typedef struct {
    const float *bias; /* (columns), or NULL */
    int add;
} Store;

#define FLOATS(sum, x, y) _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), sum)
#define PAIRS(sum, x, y) _mm512_dpbf16_ps(sum, (__m512bh)(x), (__m512bh)(y))

#define TILE(NAME, TARGET, MULTIPLY)                                                                 \
    TARGET void NAME##_rows(const int rows, ptrdiff_t words, const int32_t *a, const int32_t *b,     \
                            Store store, float *c, ptrdiff_t c_row, ptrdiff_t columns) {             \
        __m512 sum[TILE_ROWS][2];                                                                    \
        _Pragma("GCC unroll 14") for (int i = 0; i < rows; i++) {                                    \
            _mm_prefetch((const char *)(c + i * c_row), _MM_HINT_T0);                                \
            _mm_prefetch((const char *)(c + i * c_row + LANES), _MM_HINT_T0);                        \
            sum[i][0] = sum[i][1] = _mm512_setzero_ps();                                             \
        }                                                                                            \
        for (ptrdiff_t w = 0; w < words; w++, a += TILE_ROWS, b += TILE_COLUMNS) {                   \
            const __m512i left = _mm512_load_si512(b), right = _mm512_load_si512(b + LANES);         \
            _Pragma("GCC unroll 14") for (int i = 0; i < rows; i++) {                                \
                const __m512i x = _mm512_set1_epi32(a[i]);                                           \
                sum[i][0] = MULTIPLY(sum[i][0], x, left);                                            \
                sum[i][1] = MULTIPLY(sum[i][1], x, right);                                           \
            }                                                                                        \
        }                                                                                            \
        _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {                               \
            const __mmask16 kept = lanes_of(columns - half * LANES);                                 \
            __m512 start = _mm512_setzero_ps();                                                      \
            if (store.bias) start = _mm512_maskz_loadu_ps(kept, store.bias + half * LANES);          \
            _Pragma("GCC unroll 14") for (int i = 0; i < rows; i++) {                                \
                float *to = c + i * c_row + half * LANES;                                            \
                if (store.add) start = _mm512_maskz_loadu_ps(kept, to);                              \
                _mm512_mask_storeu_ps(to, kept, _mm512_add_ps(start, sum[i][half]));                 \
            }                                                                                        \
        }                                                                                            \
    }
TILE(floats, INLINE_AVX512, FLOATS)
TILE(pairs, INLINE_BF16, PAIRS)

/* A tile of fewer rows is code of its own, or its sums would not be registers. */
#define CASE(NAME, ROWS) \
    case ROWS: NAME##_rows(ROWS, words, a, b, store, c, c_row, columns); break;
#define ANY_TILE(NAME, TARGET)                                                                       \
    TARGET static void NAME##_tile(ptrdiff_t rows, ptrdiff_t words, const int32_t *a,                \
                                   const int32_t *b, Store store, float *c, ptrdiff_t c_row,         \
                                   ptrdiff_t columns) {                                              \
        switch (rows) {                                                                              \
            CASE(NAME, 1) CASE(NAME, 2) CASE(NAME, 3) CASE(NAME, 4) CASE(NAME, 5) CASE(NAME, 6)      \
            CASE(NAME, 7) CASE(NAME, 8) CASE(NAME, 9) CASE(NAME, 10) CASE(NAME, 11)                  \
            CASE(NAME, 12) CASE(NAME, 13)                                                            \
        default: NAME##_rows(TILE_ROWS, words, a, b, store, c, c_row, columns);                      \
        }                                                                                            \
    }
ANY_TILE(floats, AVX512)
ANY_TILE(pairs, AVX512_BF16)

/* Products -------------------------------------------------------------------------------------- */

typedef struct {
    Product p;
    Operand a, b;
    int split_rows; /* whether parts are rows of c, or its columns */
    int failed;
} Arguments;

/* Memory for a thread's blocks, which stays with it. */
static uint32_t *blocks(void) {
    static _Thread_local uint32_t *own;
    const size_t huge = 2u << 20, words = BLOCK_WORDS * (BLOCK_ROWS + BLOCK_COLUMNS + 2 * LANES);
    if (!own) {
        const size_t bytes = (words * sizeof *own + huge - 1) / huge * huge;
        own = aligned_alloc(huge, bytes);
        if (own) madvise(own, bytes, MADV_HUGEPAGE);
    }
    return own;
}

static void pack(const Product *p, Operand x, ptrdiff_t i, ptrdiff_t count, ptrdiff_t from,
                 ptrdiff_t k, uint32_t *out, int width) {
    const float *at = x.at + i * x.across + from * x.along;
    if (p->bf16)
        x.along == 1 ? pack_pairs_along(out, at, x.across, count, k, width)
                     : pack_pairs_across(out, at, x.along, count, k, width);
    else
        x.along == 1 ? pack_floats_along(out, at, x.across, count, k, width)
                     : pack_floats_across(out, at, x.along, count, k, width);
}

/* The part of c with rows [top, bottom) and columns [left, right). */
static int multiply(const Arguments *g, ptrdiff_t top, ptrdiff_t bottom, ptrdiff_t left,
                    ptrdiff_t right) {
    const Product *p = &g->p;
    const ptrdiff_t per_word = p->bf16 ? 2 : 1, c_row = (ptrdiff_t)p->n, depth = (ptrdiff_t)p->k;
    uint32_t *a_block = blocks(), *b_block = a_block + BLOCK_WORDS * BLOCK_ROWS;
    if (!a_block) return -1;
    for (ptrdiff_t j = left; j < right; j += BLOCK_COLUMNS) {
        const ptrdiff_t columns = right - j < BLOCK_COLUMNS ? right - j : BLOCK_COLUMNS;
        for (ptrdiff_t k = 0; k < depth; k += BLOCK_WORDS * per_word) {
            const ptrdiff_t most = BLOCK_WORDS * per_word, some = depth - k < most ? depth - k : most;
            const ptrdiff_t words = (some + per_word - 1) / per_word;
            pack(p, g->b, j, columns, k, some, b_block, TILE_COLUMNS);
            for (ptrdiff_t i = top; i < bottom; i += BLOCK_ROWS) {
                const ptrdiff_t rows = bottom - i < BLOCK_ROWS ? bottom - i : BLOCK_ROWS;
                pack(p, g->a, i, rows, k, some, a_block, TILE_ROWS);
                for (ptrdiff_t jt = 0; jt < columns; jt += TILE_COLUMNS) {
                    const Store store = {
                        k || !p->bias ? NULL : p->bias + j + jt,
                        k || p->add,
                    };
                    for (ptrdiff_t it = 0; it < rows; it += TILE_ROWS)
                        (p->bf16 ? pairs_tile : floats_tile)(
                            rows - it, words, (int32_t *)a_block + it * words,
                            (int32_t *)b_block + jt * words, store,
                            p->c + (i + it) * c_row + j + jt, c_row, columns - jt);
                }
            }
        }
    }
    return 0;
}

static void part_of_product(const void *arguments, size_t part, size_t begin, size_t end) {
    Arguments *g = (Arguments *)arguments;
    const ptrdiff_t unit = g->split_rows ? TILE_ROWS : TILE_COLUMNS;
    const ptrdiff_t m = (ptrdiff_t)g->p.m, n = (ptrdiff_t)g->p.n, size = g->split_rows ? m : n;
    const ptrdiff_t first = (ptrdiff_t)begin * unit, past = (ptrdiff_t)end * unit;
    const ptrdiff_t last = past < size ? past : size;
    (void)part;
    if (g->split_rows ? multiply(g, first, last, 0, n) : multiply(g, 0, m, first, last))
        g->failed = 1;
}

/* c (m, n) = a b + bias, or c += a b; a (m, k) and b (k, n), given as (k, m) and (n, k) where their
 * flag says transposed; bias (n) or null. With bf16 both are rounded to bfloat16. The order of a
 * sum depends on k alone. Returns -1 where there is no memory. */
int product(Product p) {
    Arguments g = {.p = p};
    const ptrdiff_t m = (ptrdiff_t)p.m, n = (ptrdiff_t)p.n, k = (ptrdiff_t)p.k;
    g.a = p.a_transposed ? (Operand){p.a, 1, m} : (Operand){p.a, k, 1};
    g.b = p.b_transposed ? (Operand){p.b, k, 1} : (Operand){p.b, 1, n};
    g.split_rows = m >= n;
    const size_t unit = g.split_rows ? TILE_ROWS : TILE_COLUMNS;
    const size_t units = ((size_t)(g.split_rows ? m : n) + unit - 1) / unit;
    /* A part of less than a million products is not worth waking a thread for. */
    const size_t work = p.m * p.n * p.k / (units ? units : 1);
    in_parallel(part_of_product, &g, units, parts_of(units, 1 + 1000000 / (work ? work : 1)));
    return g.failed ? -1 : 0;
}

/* Whether this processor can run product: 1 with float32, 2 with bfloat16 too. */
int product_support(void) {
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return 0;
    return __builtin_cpu_supports("avx512bf16") ? 2 : 1;
}

#else

int product(Product p) {
    (void)p;
    return -1;
}

int product_support(void) { return 0; }

#endif
