/* What kernels share: how one is compiled, how it is run on several cores, and the exponential
 * function.
 *
 * A kernel works on rows [begin, end) of row-major float32 arrays and holds one row, or a few, in
 * the first-level cache: it reads and writes main memory once, where a chain of array operations
 * would do so once an operation. benchmarks/compute.py measures what that gives. */

#ifndef PSDP_KERNELS_H
#define PSDP_KERNELS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* One binary for all processors: the compiler makes a version of a kernel for each level, and the
 * loader picks. Everything that a kernel calls must be inlined, or it would stay at the lowest. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#if __GNUC__ >= 12
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) static
#else
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default"))) static
#endif
#else
#define KERNEL static
#endif
/* Where there are no versions, those for the oldest x86-64 are slower than NumPy's. */
#if defined(__x86_64__) && (defined(__clang__) || !defined(__gnu_linux__))
enum { KERNELS_ARE_FAST = 0 };
#else
enum { KERNELS_ARE_FAST = 1 };
#endif
#define INLINE static inline __attribute__((always_inline))

/* Calls work(arguments, part, begin, end) for consecutive parts of [0, count), a thread each. The
 * parts depend on the number of threads alone, so sums that are made part by part repeat. */
typedef void Work(const void *arguments, size_t part, size_t begin, size_t end);
enum { MOST_PARTS = 256 };
size_t parts_of(size_t count, size_t least);
void in_parallel(Work *work, const void *arguments, size_t count, size_t parts);

/* Vectors that all parts add to, in memory of its own for each part: `sums` itself where there is
 * one part, and else rows of `size` that end_sums adds to it in order. */
typedef struct {
    float *sums, *rows;
    size_t size, parts;
} Sums;
Sums begin_sums(float *sums, size_t size, size_t parts);
void end_sums(Sums s);

/* Threads that in_parallel uses from now on. */
extern size_t kernel_threads;

typedef union {
    uint32_t bits;
    float value;
} Float;

INLINE uint32_t bits_of(float value) { return ((Float){.value = value}).bits; }
INLINE float float_of(uint32_t bits) { return ((Float){.bits = bits}).value; }

/* bfloat16 is the upper half of a float. */
INLINE float wide(uint16_t bf16) { return float_of((uint32_t)bf16 << 16); }

/* Sums are in the order of the text unless a loop says that it may be otherwise (omp simd
 * reduction): the two steps below, and what a kernel scales before it squares, depend on it.
 *
 * exp(x) to about 1e-7: x = k ln 2 + r, a polynomial in r, and k into the exponent. Results below
 * the smallest normal number or beyond the largest become those; NaN stays NaN. */
INLINE float exponential(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    const float k = rintf(x * 1.442695041f);
    float r = x - k * 0.693145752f; /* ln 2 in two parts, the first with few bits */
    r -= k * 1.428606765e-6f;
    float p = 0.0013934545f;
    p = p * r + 0.0083637768f;
    p = p * r + 0.0416664556f;
    p = p * r + 0.1666657329f;
    p = p * r + 0.5f;
    p = p * (r * r) + (r + 1.0f);
    /* Of NaN this is any power; p is NaN already. */
    const int32_t exponent = (int32_t)k + 127;
    return p * float_of((uint32_t)exponent << 23);
}

INLINE float *sums_of(Sums s, size_t part) { return s.rows ? s.rows + part * s.size : s.sums; }

INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* What the flag of a product says: 1 where a is stored as (k, m), 2 where b is as (n, k), 4 where
 * the result is known to be symmetric. */
enum { A_TRANSPOSED = 1, B_TRANSPOSED = 2, SYMMETRIC = 4 };

#endif
