// Sums down columns and over whole vectors, in two steps and a fixed order: parts, then their sum.

// parts (chunks, width): the sums of `chunk` rows each of x (rows, width); a thread a column.
template <typename T>
__device__ __forceinline__ void sum_columns(const T *x, real *parts, long long rows,
                                            long long width, long long chunk) {
    long long c = (long long)blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * chunk;
    if (c >= width) return;
    long long last = first + chunk < rows ? first + chunk : rows;
    real sum = 0;
    for (long long r = first; r < last; r++) sum += load(x + r * width + c);
    parts[blockIdx.y * width + c] = sum;
}

extern "C" __global__ void column_parts(const act *x, real *parts, long long rows, long long width,
                                        long long chunk) {
    sum_columns(x, parts, rows, width, chunk);
}

extern "C" __global__ void column_parts_real(const real *x, real *parts, long long rows,
                                             long long width, long long chunk) {
    sum_columns(x, parts, rows, width, chunk);
}

// The same for the products x y and, in parts behind these if asked for, for x.
extern "C" __global__ void column_dot_parts(const act *x, const act *y, real *parts, long long rows,
                                            long long width, long long chunk, long long sums_too) {
    long long c = (long long)blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * chunk;
    if (c >= width) return;
    long long last = first + chunk < rows ? first + chunk : rows;
    real sum = 0, dot = 0;
    for (long long r = first; r < last; r++) {
        real value = load(x + r * width + c);
        sum += value;
        dot += value * load(y + r * width + c);
    }
    parts[blockIdx.y * width + c] = dot;
    if (sums_too) parts[(gridDim.y + blockIdx.y) * width + c] = sum;
}

// out (width,) += the sum of the rows of parts (chunks, width).
extern "C" __global__ void add_parts(const real *parts, real *out, long long chunks,
                                     long long width) {
    long long c = thread_number();
    if (c >= width) return;
    real sum = 0;
    for (long long r = 0; r < chunks; r++) sum += parts[r * width + c];
    out[c] += sum;
}

// sums (blocks,): of the squares of `width` elements of x (size,) each, in float64, so that they
// overflow only where the vector does.
template <typename T>
__device__ __forceinline__ void sum_squares(const T *x, double *sums, long long size,
                                            long long width) {
    long long first = blockIdx.x * width, last = first + width < size ? first + width : size;
    double sum = 0;
    for (long long i = first + threadIdx.x; i < last; i += blockDim.x) {
        double value = load(x + i);
        sum += value * value;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void block_squares(const real *x, double *sums, long long size,
                                         long long width) {
    sum_squares(x, sums, size, width);
}

extern "C" __global__ void block_squares_bf16(const bf16 *x, double *sums, long long size,
                                              long long width) {
    sum_squares(x, sums, size, width);
}

// The sum of x (size,) in float64, for the first thread of the only block.
template <typename T> __device__ __forceinline__ double total(const T *x, long long size) {
    double sum = 0;
    for (long long i = threadIdx.x; i < size; i += blockDim.x) sum += (double)x[i];
    return block_sum(sum);
}

// out (1,) = the coefficient that clips a norm to `limit` (0: none does), given parts of its
// square; NaN if it is not finite. One block.
extern "C" __global__ void clip_coefficient(const double *parts, double *out, long long size,
                                            double limit) {
    double sum = total(parts, size);
    if (threadIdx.x) return;
    double coefficient = limit > 0 ? limit / (sqrt(sum) + 1e-6) : 1;
    *out = sum < INF ? (coefficient < 1 ? coefficient : 1) : sum - sum;
}

// out (1,) += scale times the sum of x (size,): one block.
extern "C" __global__ void add_total(const real *x, double *out, long long size, double scale) {
    double sum = total(x, size);
    if (threadIdx.x == 0) *out += scale * sum;
}
