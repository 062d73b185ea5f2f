/* The weighted mean of the gradients of a round, in one pass over all of them. */

#include "kernels.h"

enum { CHUNK = 2048 }; /* whose sums stay in the first-level cache */

typedef struct {
    const void *const *vectors; /* of float, or of the bits of bfloat16 */
    const float *shares;
    size_t count;
    float *out;
} Mean;

INLINE float element(const void *vector, size_t i, int bf16) {
    return bf16 ? wide(((const uint16_t *)vector)[i]) : ((const float *)vector)[i];
}

INLINE void mean_part(Mean a, size_t begin, size_t end, int bf16) {
    float sums[CHUNK];
    for (size_t start = begin; start < end; start += CHUNK) {
        const size_t size = smaller(CHUNK, end - start);
        for (size_t v = 0; v < a.count; v++) {
            const void *x = a.vectors[v];
            const float share = a.shares[v];
            if (v == 0)
                for (size_t i = 0; i < size; i++) sums[i] = share * element(x, start + i, bf16);
            else
                for (size_t i = 0; i < size; i++) sums[i] += share * element(x, start + i, bf16);
        }
        for (size_t i = 0; i < size; i++) a.out[start + i] = sums[i];
    }
}

KERNEL void mean_of_float(const void *arguments, size_t part, size_t begin, size_t end) {
    (void)part;
    mean_part(*(const Mean *)arguments, begin, end, 0);
}

KERNEL void mean_of_bf16(const void *arguments, size_t part, size_t begin, size_t end) {
    (void)part;
    mean_part(*(const Mean *)arguments, begin, end, 1);
}

/* out (size) = the sum of share times vector, in their order; all vectors are float, of which out
 * may be one, or all bfloat16. */
void mean(const void *const *vectors, int bf16, const float *shares, size_t count, float *out,
          size_t size) {
    Mean a = {vectors, shares, count, out};
    in_parallel(bf16 ? mean_of_bf16 : mean_of_float, &a, size, parts_of(size, 65536));
}
