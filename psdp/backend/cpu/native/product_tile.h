/* The two ends of a product: a block becomes panels, and two panels a tile. product.c includes this
 * twice, with BF16 0 and 1.
 *
 * `width` rows of a (or columns of b) make a panel, word by word along k: panel[word * width + i];
 * rows beyond the matrix are zero. A word is a float, or two neighbours along k as bfloat16, as
 * VDPBF16PS wants them (the sums stay float32).
 *
 * The tile is 14 x 32: 28 sums, two vectors of b and one broadcast fill 31 of the 32 registers, and
 * need 16 loads for 28 products. */

enum { NAME(PER_WORD) = BF16 ? 2 : 1 };

/* Sixteen words of a row that runs along k, of which `left` elements are left. */
TARGET static inline __m512i NAME(words_along)(const float *x, ptrdiff_t left) {
    const __m512 first = _mm512_maskz_loadu_ps(lanes_of(left), x);
#if BF16
    const __m512 second = _mm512_maskz_loadu_ps(lanes_of(left - LANES), x + LANES);
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
#else
    return _mm512_castps_si512(first);
#endif
}

/* A word of each of sixteen rows that lie side by side; the next element of a row is `along` away,
 * if it has one. */
TARGET static inline __m512i NAME(words_across)(const float *x, ptrdiff_t along, int has_next,
                                                __mmask16 rows) {
    const __m512 first = _mm512_maskz_loadu_ps(rows, x);
#if BF16
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
    if (!has_next) return low;
    const __m512 second = _mm512_maskz_loadu_ps(rows, x + along);
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
#else
    (void)along, (void)has_next;
    return _mm512_castps_si512(first);
#endif
}

/* Sixteen words of each row of a panel along k, of which `left` elements are left. A whole block
 * lacks neither a row nor a word. */
TARGET INLINE void NAME(pack_block)(uint32_t *out, const float *x, ptrdiff_t across, ptrdiff_t rows,
                                    ptrdiff_t left, const int width, const int whole) {
    const ptrdiff_t words = (left + NAME(PER_WORD) - 1) / NAME(PER_WORD);
#pragma GCC unroll 2
    for (int lane = 0; lane < width; lane += LANES) {
        __m512i r[LANES];
#pragma GCC unroll 16
        for (int row = 0; row < LANES; row++) {
            const int missing = lane + row >= width || (!whole && lane + row >= rows);
            r[row] = missing ? _mm512_setzero_si512()
                             : NAME(words_along)(x + (lane + row) * across,
                                                 whole ? LANES * NAME(PER_WORD) : left);
        }
        transpose(r);
#pragma GCC unroll 16
        for (int q = 0; q < LANES; q++)
            if (whole || q < words)
                _mm512_mask_storeu_epi32(out + q * width + lane, lanes_of(width - lane), r[q]);
    }
}

/* Panels of `count` rows, each contiguous along k, `across` apart. */
TARGET INLINE void NAME(pack_along)(uint32_t *out, const float *x, ptrdiff_t across,
                                    ptrdiff_t count, ptrdiff_t k, const int width) {
    const ptrdiff_t words = (k + NAME(PER_WORD) - 1) / NAME(PER_WORD);
    const ptrdiff_t step = LANES * NAME(PER_WORD);
    for (ptrdiff_t i = 0; i < count; i += width, out += words * width, x += width * across) {
        const ptrdiff_t rows = least(count - i, width), whole = rows == width ? k / step * step : 0;
        for (ptrdiff_t done = 0; done < k; done += step) {
            uint32_t *to = out + done / NAME(PER_WORD) * width;
            if (done < whole)
                NAME(pack_block)(to, x + done, across, width, step, width, 1);
            else
                NAME(pack_block)(to, x + done, across, rows, k - done, width, 0);
        }
    }
}

/* Panels of `count` rows that lie side by side, the elements of each `along` apart. Eight words at
 * a time are spread over all panels, so that both sides are read and written in runs. */
TARGET INLINE void NAME(pack_across)(uint32_t *out, const float *x, ptrdiff_t along,
                                     ptrdiff_t count, ptrdiff_t k, const int width) {
    const ptrdiff_t words = (k + NAME(PER_WORD) - 1) / NAME(PER_WORD);
    for (ptrdiff_t first = 0; first < words; first += 8)
        for (ptrdiff_t i = 0; i < count; i += width)
            for (ptrdiff_t w = first; w < least(words, first + 8); w++) {
                const ptrdiff_t done = NAME(PER_WORD) * w;
                uint32_t *to = out + i * words + w * width;
#pragma GCC unroll 2
                for (int lane = 0; lane < width; lane += LANES) {
                    const __mmask16 written = lanes_of(width - lane);
                    const __mmask16 rows = lanes_of(count - i - lane) & written;
                    const __m512i word =
                        NAME(words_across)(x + done * along + i + lane, along, done + 1 < k, rows);
                    _mm512_mask_storeu_epi32(to + lane, written, word);
                }
            }
}

/* Panels of rows [i, i + count) and elements [from, from + k) of x. Code of its own for either
 * width, so that what is decided for each word is decided here, once. */
TARGET static void NAME(pack)(Operand x, ptrdiff_t i, ptrdiff_t count, ptrdiff_t from, ptrdiff_t k,
                              uint32_t *out, int width) {
    const float *at = x.at + i * x.across + from * x.along;
    if (x.along == 1 && width == TILE_ROWS)
        NAME(pack_along)(out, at, x.across, count, k, TILE_ROWS);
    else if (x.along == 1)
        NAME(pack_along)(out, at, x.across, count, k, TILE_COLUMNS);
    else if (width == TILE_ROWS)
        NAME(pack_across)(out, at, x.along, count, k, TILE_ROWS);
    else
        NAME(pack_across)(out, at, x.along, count, k, TILE_COLUMNS);
}

TARGET static inline __m512 NAME(multiply_add)(__m512i x, __m512i y, __m512 sum) {
#if BF16
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y);
#else
    return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), sum);
#endif
}

/* The first `rows` rows and `columns` columns of a tile. */
TARGET INLINE void NAME(tile_rows)(const int rows, ptrdiff_t words, const int32_t *a,
                                   const int32_t *b, Store store, float *c, ptrdiff_t c_row,
                                   ptrdiff_t columns) {
    __m512 sum[TILE_ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        _mm_prefetch((const char *)(c + i * c_row), _MM_HINT_T0);
        _mm_prefetch((const char *)(c + i * c_row + LANES), _MM_HINT_T0);
        sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    }
    for (ptrdiff_t w = 0; w < words; w++, a += TILE_ROWS, b += TILE_COLUMNS) {
        const __m512i left = _mm512_load_si512(b), right = _mm512_load_si512(b + LANES);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            const __m512i x = _mm512_set1_epi32(a[i]);
            sum[i][0] = NAME(multiply_add)(x, left, sum[i][0]);
            sum[i][1] = NAME(multiply_add)(x, right, sum[i][1]);
        }
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const __mmask16 kept = lanes_of(columns - half * LANES);
        __m512 start = _mm512_setzero_ps();
        if (store.bias) start = _mm512_maskz_loadu_ps(kept, store.bias + half * LANES);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            float *to = c + i * c_row + half * LANES;
            if (store.add) start = _mm512_maskz_loadu_ps(kept, to);
            _mm512_mask_storeu_ps(to, kept, _mm512_add_ps(start, sum[i][half]));
        }
    }
}

/* A tile of fewer rows is code of its own, or its sums would not be registers. */
#define ROWS(n) \
    case n: NAME(tile_rows)(n, words, a, b, store, c, c_row, columns); break;
TARGET static void NAME(tile)(ptrdiff_t rows, ptrdiff_t words, const int32_t *a, const int32_t *b,
                              Store store, float *c, ptrdiff_t c_row, ptrdiff_t columns) {
    switch (rows) {
        /* clang-format off */
        ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7)
        ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13)
            /* clang-format on */
            default : NAME(tile_rows)(TILE_ROWS, words, a, b, store, c, c_row, columns);
    }
}
#undef ROWS
