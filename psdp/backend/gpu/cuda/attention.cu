// Causal attention for any format, as a flash: squares of TILE_ROWS queries by as many keys,
// never whole.
//
// A block has THREADS threads, PER_ROW of them for each row of its tile; these lie side by
// side in a warp. Each takes every PER_ROW-th column of scores and of the head.

const int PER_ROW = THREADS / TILE_ROWS, SCORES = TILE_ROWS / PER_ROW;
const int DEPTH = (HEAD + PER_ROW - 1) / PER_ROW, SQUARE = TILE_ROWS * (TILE_ROWS + 1);
static_assert(SHARED_BYTES == sizeof(real) * (4 * TILE_ROWS * PITCH + 2 * SQUARE),
              "four tiles, two squares");
static_assert(WALK == TILE_ROWS, "all tiles are of one size");

// Whether the head has a column for this thread in round d.
__device__ __forceinline__ bool has(int part, int d) {
    return HEAD % PER_ROW == 0 || part + d * PER_ROW < HEAD;
}

// Copy TILE_ROWS rows of a head into shared memory; rows beyond the sequence become 0.
__device__ __forceinline__ void fetch(const act *from, long long pitch, long long first,
                                      long long length, real *tile) {
    for (int i = threadIdx.x; i < TILE_ROWS * HEAD; i += THREADS) {
        long long row = first + i / HEAD;
        tile[i / HEAD * PITCH + i % HEAD] =
            row < length ? load(from + row * pitch + i % HEAD) : real(0);
    }
}

__device__ __forceinline__ real dot(const real *a, const real *b) {
    real sum = 0;
    for (int d = 0; d < HEAD; d++) sum += a[d] * b[d];
    return sum;
}

extern "C" __global__ void attention(const act *qkv, act *out, real *logsumexp, const uint32 *seed,
                                     long long stream, double p, long long length, long long heads,
                                     double scale) {
    SHARED(real, q);
    real *k = q + TILE_ROWS * PITCH, *v = k + TILE_ROWS * PITCH, *weights = v + TILE_ROWS * PITCH;
    Offsets at = offsets_of(length, heads);
    Mask mask = mask_of(seed, stream, p);
    long long first = (long long)blockIdx.y * TILE_ROWS, pitch = 3 * at.width;
    int row = threadIdx.x / PER_ROW, part = threadIdx.x % PER_ROW;
    long long query = first + row;
    const act *base = qkv + at.queries;
    fetch(base, pitch, first, length, q);
    real largest = -INF, total = 0, context[DEPTH];
#pragma unroll
    for (int d = 0; d < DEPTH; d++) context[d] = 0;
    for (long long keys = 0; keys < first + TILE_ROWS && keys < length; keys += TILE_ROWS) {
        __syncthreads();
        fetch(base + at.width, pitch, keys, length, k);
        fetch(base + 2 * at.width, pitch, keys, length, v);
        __syncthreads();
        real scores[SCORES], most = -INF;
        for (int j = 0; j < SCORES; j++) {
            int key = part + j * PER_ROW;
            scores[j] = keys + key <= query ? dot(q + row * PITCH, k + key * PITCH) * real(scale)
                                            : real(-INF);
            most = larger(most, scores[j]);
        }
        most = larger(largest, warp_max(most, PER_ROW));
        real shrink = exp(largest - most), sum = 0;
        for (int j = 0; j < SCORES; j++) {
            int key = part + j * PER_ROW;
            real e = exp(scores[j] - most);
            sum += e;
            weights[row * (TILE_ROWS + 1) + key] =
                e * kept(mask, at.pair, length, query, keys + key);
        }
        total = total * shrink + warp_sum(sum, PER_ROW);
        largest = most;
        __syncwarp();
#pragma unroll
        for (int d = 0; d < DEPTH; d++) context[d] *= shrink;
        for (int key = 0; key < TILE_ROWS; key++) {
            real weight = weights[row * (TILE_ROWS + 1) + key];
#pragma unroll
            for (int d = 0; d < DEPTH; d++)
                if (has(part, d)) context[d] += weight * v[key * PITCH + part + d * PER_ROW];
        }
    }
    if (query >= length) return;
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        if (has(part, d))
            store(out + at.rows + query * at.width + part + d * PER_ROW, context[d] / total);
    if (part == 0) logsumexp[at.pair * length + query] = largest + log(total);
}

// A block has a tile of keys and walks the queries that see them: dk = ds^T q, dv = w^T dout.
extern "C" __global__ void attention_backward_keys(const act *qkv, const act *dout,
                                                   const real *logsumexp, const real *deltas,
                                                   act *dqkv, const uint32 *seed, long long stream,
                                                   double p, long long length, long long heads,
                                                   double scale) {
    SHARED(real, q);
    real *k = q + TILE_ROWS * PITCH, *v = k + TILE_ROWS * PITCH, *g = v + TILE_ROWS * PITCH;
    real *slopes = g + TILE_ROWS * PITCH, *weights = slopes + SQUARE;
    Offsets at = offsets_of(length, heads);
    Mask mask = mask_of(seed, stream, p);
    long long first = (long long)blockIdx.y * TILE_ROWS, pitch = 3 * at.width;
    int row = threadIdx.x / PER_ROW, part = threadIdx.x % PER_ROW;
    long long key = first + row;
    const act *base = qkv + at.queries;
    const real *sums = logsumexp + at.pair * length, *dots = deltas + at.pair * length;
    fetch(base + at.width, pitch, first, length, k);
    fetch(base + 2 * at.width, pitch, first, length, v);
    real dk[DEPTH], dv[DEPTH];
#pragma unroll
    for (int d = 0; d < DEPTH; d++) dk[d] = dv[d] = 0;
    for (long long queries = first; queries < length; queries += TILE_ROWS) {
        __syncthreads();
        fetch(base, pitch, queries, length, q);
        fetch(dout + at.rows, at.width, queries, length, g);
        __syncthreads();
        for (int j = 0; j < SCORES; j++) {
            int local = part + j * PER_ROW;
            long long query = queries + local;
            real weight = 0, slope = 0;
            if (query < length && key <= query) {
                real w = exp(dot(q + local * PITCH, k + row * PITCH) * real(scale) - sums[query]);
                real keep = kept(mask, at.pair, length, query, key);
                weight = w * keep;
                slope = w * (dot(g + local * PITCH, v + row * PITCH) * keep - dots[query]) *
                        real(scale);
            }
            weights[row * (TILE_ROWS + 1) + local] = weight;
            slopes[row * (TILE_ROWS + 1) + local] = slope;
        }
        __syncwarp();
        for (int local = 0; local < TILE_ROWS; local++) {
            real slope = slopes[row * (TILE_ROWS + 1) + local];
            real weight = weights[row * (TILE_ROWS + 1) + local];
#pragma unroll
            for (int d = 0; d < DEPTH; d++)
                if (has(part, d)) {
                    dk[d] += slope * q[local * PITCH + part + d * PER_ROW];
                    dv[d] += weight * g[local * PITCH + part + d * PER_ROW];
                }
        }
    }
    if (key >= length) return;
    act *to = dqkv + at.queries + at.width + key * pitch;
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        if (has(part, d)) {
            store(to + part + d * PER_ROW, dk[d]);
            store(to + at.width + part + d * PER_ROW, dv[d]);
        }
}

// A block has a tile of queries and walks the keys that they see: dq = ds k.
extern "C" __global__ void attention_backward_queries(const act *qkv, const act *dout,
                                                      const real *logsumexp, const real *deltas,
                                                      act *dqkv, const uint32 *seed,
                                                      long long stream, double p, long long length,
                                                      long long heads, double scale) {
    SHARED(real, q);
    real *k = q + TILE_ROWS * PITCH, *v = k + TILE_ROWS * PITCH, *g = v + TILE_ROWS * PITCH;
    real *slopes = g + TILE_ROWS * PITCH;
    Offsets at = offsets_of(length, heads);
    Mask mask = mask_of(seed, stream, p);
    long long first = (long long)blockIdx.y * TILE_ROWS, pitch = 3 * at.width;
    int row = threadIdx.x / PER_ROW, part = threadIdx.x % PER_ROW;
    long long query = first + row;
    const act *base = qkv + at.queries;
    fetch(base, pitch, first, length, q);
    fetch(dout + at.rows, at.width, first, length, g);
    real row_logsumexp = query < length ? logsumexp[at.pair * length + query] : real(0);
    real delta = query < length ? deltas[at.pair * length + query] : real(0), dq[DEPTH];
#pragma unroll
    for (int d = 0; d < DEPTH; d++) dq[d] = 0;
    for (long long keys = 0; keys < first + TILE_ROWS && keys < length; keys += TILE_ROWS) {
        __syncthreads();
        fetch(base + at.width, pitch, keys, length, k);
        fetch(base + 2 * at.width, pitch, keys, length, v);
        __syncthreads();
        for (int j = 0; j < SCORES; j++) {
            int local = part + j * PER_ROW;
            long long key = keys + local;
            real slope = 0;
            if (query < length && key <= query) {
                real w = exp(dot(q + row * PITCH, k + local * PITCH) * real(scale) - row_logsumexp);
                real keep = kept(mask, at.pair, length, query, key);
                slope = w * (dot(g + row * PITCH, v + local * PITCH) * keep - delta) * real(scale);
            }
            slopes[row * (TILE_ROWS + 1) + local] = slope;
        }
        __syncwarp();
        for (int local = 0; local < TILE_ROWS; local++) {
            real slope = slopes[row * (TILE_ROWS + 1) + local];
#pragma unroll
            for (int d = 0; d < DEPTH; d++)
                if (has(part, d)) dq[d] += slope * k[local * PITCH + part + d * PER_ROW];
        }
    }
    if (query >= length) return;
    act *to = dqkv + at.queries + query * pitch;
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        if (has(part, d)) store(to + part + d * PER_ROW, dq[d]);
}
