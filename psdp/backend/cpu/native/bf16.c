/* What is pushed at half the bytes: float32 rounded to bfloat16. */

#include "binding.h"
#include "kernels.h"

typedef struct {
    const float *x;
    uint16_t *out;
} Rounding;

KERNEL void round_part(const void *arguments, size_t part, size_t begin, size_t end) {
    const Rounding a = *(const Rounding *)arguments;
    const float *restrict x = a.x;
    uint16_t *restrict out = a.out;
    (void)part;
    for (size_t i = begin; i < end; i++) {
        const uint32_t bits = bits_of(x[i]), above = bits >> 16;
        /* The carry could turn NaN into Inf or 0: it keeps its upper half, with a bit that says NaN
         * whatever was cut off. */
        const int is_nan = (bits & 0x7fffffff) > 0x7f800000;
        out[i] = (uint16_t)(is_nan ? above | 0x40 : (bits + 0x7fff + (above & 1)) >> 16);
    }
}

/* out (size) = x, to the nearest, ties to even. */
static void round_bf16(const float *x, uint16_t *out, size_t size) {
    Rounding a = {x, out};
    in_parallel(round_part, &a, size, parts_of(size, 65536));
}

FUNCTION(round_bf16) {
    BEGIN(2);
    const float *x = READ(in[0], 0);
    const size_t size = first_size(&buffers);
    uint16_t *out = array(&buffers, in[1], 'H', 1, size);
    RUN(round_bf16(x, out, size));
    END;
}
