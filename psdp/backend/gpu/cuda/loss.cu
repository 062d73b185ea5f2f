// Softmax and cross-entropy, a block a row. Shapes: logits (rows, width); ids (rows, 2), of which
// the first is the target; losses (rows,).

const int PACK = sizeof(Pack<act>) / sizeof(act);

// f(x) for this thread's elements of a row.
template <typename F>
__device__ __forceinline__ void each_of_row(const act *row, long long width, F f) {
    long long packs = packs_of(width, row);
    for (long long i = threadIdx.x; i < packs; i += blockDim.x) {
        Pack<act> part = ((const Pack<act> *)row)[i];
#pragma unroll
        for (int k = 0; k < PACK; k++) f(load(part.v + k));
    }
    for (long long v = packs * PACK + threadIdx.x; v < width; v += blockDim.x) f(load(row + v));
}

// losses = -log softmax(logits)[target]; logits become scale times their gradient.
extern "C" __global__ void cross_entropy(act *logits, const int *ids, double scale, real *losses,
                                         long long width) {
    logits += blockIdx.x * width;
    int target = ids[2 * (long long)blockIdx.x];
    real largest = load(logits), sum = 0;
    each_of_row(logits, width, [&](real x) { largest = larger(largest, x); });
    largest = block_max(largest);
    each_of_row(logits, width, [&](real x) { sum += exp(x - largest); });
    sum = block_sum(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = log(sum) - (load(logits + target) - largest);
    __syncthreads();
    real share = real(scale) / sum;
    auto slope = [&](act *logit, long long v) {
        real p = exp(load(logit) - largest) * share;
        store(logit, v == target ? p - real(scale) : p);
    };
    long long packs = packs_of(width, logits);
    for (long long i = threadIdx.x; i < packs; i += blockDim.x) {
        Pack<act> part = ((const Pack<act> *)logits)[i];
#pragma unroll
        for (int k = 0; k < PACK; k++) slope(part.v + k, i * PACK + k);
        ((Pack<act> *)logits)[i] = part;
    }
    for (long long v = packs * PACK + threadIdx.x; v < width; v += blockDim.x) slope(logits + v, v);
}

// best (rows, 2): the index of the greatest logit, the first of equals.
extern "C" __global__ void argmax(const act *logits, int *best, long long width) {
    __shared__ real values[WARP];
    __shared__ int indices[WARP];
    logits += blockIdx.x * width;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP,
        warps = (blockDim.x + WARP - 1) / WARP;
    int index = threadIdx.x < width ? threadIdx.x : 0;
    real value = load(logits + index);
    for (long long v = threadIdx.x; v < width; v += blockDim.x) {
        real x = load(logits + v);
        if (x > value) {
            value = x;
            index = (int)v;
        }
    }
    for (int stage = 0; stage < 2; stage++) {
        for (int step = WARP / 2; step; step /= 2) {
            real other = __shfl_xor_sync(0xffffffffu, value, step);
            int other_index = __shfl_xor_sync(0xffffffffu, index, step);
            if (other > value || (other == value && other_index < index)) {
                value = other;
                index = other_index;
            }
        }
        if (stage == 0) {
            if (lane == 0) {
                values[warp] = value;
                indices[warp] = index;
            }
            __syncthreads();
            value = lane < warps ? values[lane] : values[0];
            index = lane < warps ? indices[lane] : indices[0];
        }
    }
    if (threadIdx.x == 0) best[blockIdx.x] = index;
}
