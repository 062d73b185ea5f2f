/* The weighted mean of the gradients of a round, in one pass over all of them. */

#include "kernels.h"

enum { CHUNK = 2048 }; /* whose sums stay in the first-level cache */

typedef struct {
    const float *const *vectors;
    const float *shares;
    size_t count;
    float *out;
} Mean;

KERNEL void mean_of(const void *arguments, size_t part, size_t begin, size_t end) {
    const Mean a = *(const Mean *)arguments;
    float sums[CHUNK];
    (void)part;
    for (size_t start = begin; start < end; start += CHUNK) {
        const size_t size = smaller(CHUNK, end - start);
        for (size_t v = 0; v < a.count; v++) {
            const float *restrict x = a.vectors[v] + start;
            const float share = a.shares[v];
            if (v == 0)
                for (size_t i = 0; i < size; i++) sums[i] = share * x[i];
            else
                for (size_t i = 0; i < size; i++) sums[i] += share * x[i];
        }
        for (size_t i = 0; i < size; i++) a.out[start + i] = sums[i];
    }
}

/* out (size) = the sum of share times vector, in their order; out may be one of the vectors. */
void mean(const float *const *vectors, const float *shares, size_t count, float *out, size_t size) {
    Mean a = {vectors, shares, count, out};
    in_parallel(mean_of, &a, size, parts_of(size, 65536));
}
