// What every kernel file begins with: number formats, sums over a warp and a block, random numbers.
//
// A file is compiled for two formats, given on the command line: `real`, of parameters, statistics
// and the residual stream (float or double), and `act`, of what lies in a branch between them (the
// same, or bf16). All arithmetic is in `real`. Kernels take arrays as pointers, sizes as long long
// and scalars as double, so that a launch needs no table of types.

typedef REAL real;
typedef unsigned short ushort_t;
typedef unsigned int uint32;
typedef unsigned long long uint64;

// bfloat16 as its bits: the upper half of a float.
struct bf16 {
    ushort_t bits;
};

__device__ __forceinline__ float float_of_bits(uint32 bits) {
    union {
        uint32 bits;
        float value;
    } both;
    both.bits = bits;
    return both.value;
}

__device__ __forceinline__ uint32 bits_of_float(float value) {
    union {
        float value;
        uint32 bits;
    } both;
    both.value = value;
    return both.bits;
}

// To the nearest bf16, ties to even; NaN stays NaN.
__device__ __forceinline__ ushort_t round_bf16(float value) {
    uint32 bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (ushort_t)(bits >> 16 | 0x40u);
    return (ushort_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ __forceinline__ real load(const float *p) { return *p; }
__device__ __forceinline__ double load(const double *p) { return *p; }
__device__ __forceinline__ float load(const bf16 *p) {
    return float_of_bits((uint32)p->bits << 16);
}
__device__ __forceinline__ void store(float *p, real value) { *p = (float)value; }
__device__ __forceinline__ void store(double *p, double value) { *p = value; }
__device__ __forceinline__ void store(bf16 *p, real value) { p->bits = round_bf16((float)value); }

typedef ACT act;

#define INF float_of_bits(0x7f800000u)

#ifndef SHARED
// Memory of a block whose size its launch gives.
#define SHARED(type, name)                                          \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type *name = (type *)dynamic_shared
#endif

__device__ __forceinline__ long long thread_number() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ long long thread_count() { return (long long)gridDim.x * blockDim.x; }

// As many neighbours as one access to memory moves at best; a vector is gone through in these where
// it lies so, and by elements where not, and at its end.
template <typename T> struct alignas(16) Pack {
    T v[16 / sizeof(T)];
};

template <typename T> __device__ __forceinline__ long long packs_of(long long size, const T *x) {
    return (uint64)x % sizeof(Pack<T>) ? 0 : size / (long long)(sizeof(Pack<T>) / sizeof(T));
}

// The larger of two. NaN is not lost: a comparison with it is false.
template <typename T> __device__ __forceinline__ T larger(T value, T other) {
    return other > value || other != other ? other : value;
}

// Every lane gets the sum of all of its warp, or of its so many neighbours; the order is fixed.
template <typename T> __device__ __forceinline__ T warp_sum(T value, int lanes = WARP) {
    for (int step = lanes / 2; step; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

template <typename T> __device__ __forceinline__ T warp_max(T value, int lanes = WARP) {
    for (int step = lanes / 2; step; step /= 2)
        value = larger(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

// Every thread of a block, of at most WARP warps, gets the sum of all.
template <typename T> __device__ __forceinline__ T block_sum(T value) {
    __shared__ T parts[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP,
        warps = (blockDim.x + WARP - 1) / WARP;
    value = warp_sum(value);
    __syncthreads();
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    return warp_sum(lane < warps ? parts[lane] : T(0));
}

template <typename T> __device__ __forceinline__ T block_max(T value) {
    __shared__ T parts[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP,
        warps = (blockDim.x + WARP - 1) / WARP;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    return warp_max(lane < warps ? parts[lane] : parts[0]);
}

// Four random words of a counter and a key (Philox 4x32-10, Salmon et al. 2011): a dropout mask is
// drawn again where it is needed and never kept.
struct Words {
    uint32 w[4];
};

__device__ __forceinline__ Words philox(uint64 counter, uint32 stream, uint32 key0, uint32 key1) {
    Words c = {{(uint32)counter, (uint32)(counter >> 32), stream, 0}};
    for (int round = 0; round < 10; round++) {
        uint64 a = (uint64)0xd2511f53u * c.w[0], b = (uint64)0xcd9e8d57u * c.w[2];
        Words next = {{(uint32)(b >> 32) ^ c.w[1] ^ key0, (uint32)b,
                       (uint32)(a >> 32) ^ c.w[3] ^ key1, (uint32)a}};
        c = next;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    return c;
}

// A mask: the stream of its layer, and what a step drew for all of them (seed, two words). Element
// `index` is kept where its word is at least `threshold`, p times 2^32.
struct Mask {
    const uint32 *seed;
    uint32 stream, threshold;
    real scale;
};

__device__ __forceinline__ Mask mask_of(const uint32 *seed, long long stream, double p) {
    Mask mask = {seed, (uint32)stream, (uint32)(p * 4294967296.0), (real)(1.0 / (1.0 - p))};
    return mask;
}

// What element `index` is multiplied by: 0 or 1 / (1 - p).
__device__ __forceinline__ real dropout_scale(const Mask &mask, uint64 index) {
    Words words = philox(index / 4, mask.stream, mask.seed[0], mask.seed[1]);
    // Chosen, not indexed, which would put the words into memory.
    uint32 low = index % 2 ? words.w[1] : words.w[0], high = index % 2 ? words.w[3] : words.w[2];
    return (index % 4 < 2 ? low : high) < mask.threshold ? real(0) : mask.scale;
}
