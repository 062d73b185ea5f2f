// Causal attention on tensor cores, for bf16: the flash of attention.cu, in squares of TILE_ROWS
// queries by WALK keys, by products of 16 x 16 by 16 x 8. The kernels have the names and arguments
// of those of attention.cu.
//
// Each warp of a block has 16 rows of its tile. Of a product's 16 x 8 sums a lane has two
// neighbours in row lane / 4 and two in that row + 8, in the columns 2 (lane % 4) and the next.

const int STEPS = HEAD / 16, COLUMNS = HEAD / 8;
static_assert(HEAD % 16 == 0 && TILE_ROWS == THREADS / WARP * 16, "a warp has 16 rows");
static_assert(SHARED_BYTES == sizeof(ushort_t) * 2 * WALK * PITCH, "two walked tiles");
// Lanes that have a row of sums between them.
const int ROW_LANES = 4;
const float LOG2E = 1.4426950408889634f;

#ifndef MMA_IS_DEFINED
// sums (16, 8) += a (16, 16) b (16, 8).
__device__ __forceinline__ void multiply_add(float *sums, const uint32 *a, uint32 b0, uint32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The right fragments of two products from shared memory: four 8 x 8 squares, of each of which
// eight lanes, in their order, know the rows; transposed ones become columns.
__device__ __forceinline__ void load_squares(uint32 *fragment, const ushort_t *row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address));
}

__device__ __forceinline__ void load_transposed_squares(uint32 *fragment, const ushort_t *row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address));
}
#endif

__device__ __forceinline__ uint32 pack(float low, float high) {
    return (uint32)round_bf16(low) | (uint32)round_bf16(high) << 16;
}

// Two neighbours of a row.
__device__ __forceinline__ uint32 pair(const ushort_t *p) { return *(const uint32 *)p; }

struct Lane {
    int row, column; // of the first of its sums
};

__device__ __forceinline__ Lane lane_of() {
    Lane lane = {(int)(threadIdx.x % WARP / 4), (int)(threadIdx.x % 4 * 2)};
    return lane;
}

// The left fragment of a product: this warp's 16 rows of a head, from global memory.
__device__ __forceinline__ void load_fragment(const ushort_t *from, long long pitch, long long row,
                                              long long length, uint32 (*fragment)[4]) {
    Lane lane = lane_of();
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < 4; i++) {
            long long r = row + lane.row + i % 2 * 8;
            int c = step * 16 + lane.column + i / 2 * 8;
            fragment[step][i] = r < length ? pair(from + r * pitch + c) : 0;
        }
}

// WALK rows of a head into shared memory; rows beyond the end are 0.
__device__ __forceinline__ void fetch(const ushort_t *from, long long pitch, long long first,
                                      long long length, ushort_t *tile) {
    const int WIDTH = sizeof(Pack<ushort_t>) / sizeof(ushort_t), PACKS = HEAD / WIDTH;
    for (int i = threadIdx.x; i < WALK * PACKS; i += THREADS) {
        int row = i / PACKS, column = i % PACKS * WIDTH;
        Pack<ushort_t> part = {};
        if (first + row < length)
            part = *(const Pack<ushort_t> *)(from + (first + row) * pitch + column);
        *(Pack<ushort_t> *)(tile + row * PITCH + column) = part;
    }
}

// sums (16, WALK) = a fragment times the transpose of the rows of a tile (WALK, HEAD).
__device__ __forceinline__ void scores_of(const uint32 (*fragment)[4], const ushort_t *tile,
                                          float (*sums)[4]) {
    int lane = threadIdx.x % WARP;
    // Of two neighbouring squares of rows: which one, which row of it, which half of the columns.
    tile += (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < WALK / 8; n += 2) {
        for (int i = 0; i < 4; i++) sums[n][i] = sums[n + 1][i] = 0;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint32 right[4];
            load_squares(right, tile + n * 8 * PITCH + step * 16);
            multiply_add(sums[n], fragment[step], right[0], right[1]);
            multiply_add(sums[n + 1], fragment[step], right[2], right[3]);
        }
    }
}

// sums (16, HEAD) += weights (16, WALK) times a tile (WALK, HEAD).
__device__ __forceinline__ void add_weighted(const float (*weights)[4], const ushort_t *tile,
                                             float (*sums)[4]) {
    int lane = threadIdx.x % WARP;
    tile += lane % 16 * PITCH + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < WALK / 16; step++) {
        const float *low = weights[2 * step], *high = weights[2 * step + 1];
        uint32 fragment[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]),
                              pack(high[2], high[3])};
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 2) {
            uint32 right[4];
            load_transposed_squares(right, tile + step * 16 * PITCH + n * 8);
            multiply_add(sums[n], fragment, right[0], right[1]);
            multiply_add(sums[n + 1], fragment, right[2], right[3]);
        }
    }
}

// This warp's 16 rows of a head, to global memory.
__device__ __forceinline__ void put(const float (*sums)[4], const float *scales, ushort_t *to,
                                    long long pitch, long long row, long long length) {
    Lane lane = lane_of();
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            long long r = row + lane.row + half * 8;
            const float *two = sums[n] + half * 2;
            if (r < length)
                *(uint32 *)(to + r * pitch + n * 8 + lane.column) =
                    pack(two[0] * scales[half], two[1] * scales[half]);
        }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const act *qkv_, act *out_, real *logsumexp, const uint32 *seed, long long stream,
              double p, long long length, long long heads, double scale) {
    SHARED(ushort_t, k);
    ushort_t *v = k + WALK * PITCH;
    Offsets at = offsets_of(length, heads);
    Mask mask = mask_of(seed, stream, p);
    Lane lane = lane_of();
    const ushort_t *base = (const ushort_t *)qkv_ + at.queries;
    // The last tiles have the most keys: they begin first.
    long long pitch = 3 * at.width, first = (long long)(gridDim.y - 1 - blockIdx.y) * TILE_ROWS;
    long long row = first + threadIdx.x / WARP * 16;
    float to_exponent = (float)scale * LOG2E;
    uint32 q[STEPS][4];
    load_fragment(base, pitch, row, length, q);
    float context[COLUMNS][4], largest[2] = {-INF, -INF}, total[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
        context[n][0] = context[n][1] = context[n][2] = context[n][3] = 0;
    for (long long keys = 0; keys < first + TILE_ROWS && keys < length; keys += WALK) {
        __syncthreads();
        fetch(base + at.width, pitch, keys, length, k);
        fetch(base + 2 * at.width, pitch, keys, length, v);
        __syncthreads();
        float scores[WALK / 8][4], most[2] = {-INF, -INF};
        scores_of(q, k, scores);
#pragma unroll
        for (int n = 0; n < WALK / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                long long query = row + lane.row + i / 2 * 8,
                          key = keys + n * 8 + lane.column + i % 2;
                float score = key <= query ? scores[n][i] * to_exponent : -INF;
                scores[n][i] = score;
                most[i / 2] = larger(most[i / 2], score);
            }
        float shrink[2], sum[2] = {0, 0};
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float new_most = larger(largest[half], warp_max(most[half], ROW_LANES));
            shrink[half] = exp2f(largest[half] - new_most);
            largest[half] = new_most;
        }
#pragma unroll
        for (int n = 0; n < WALK / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                long long query = row + lane.row + i / 2 * 8,
                          key = keys + n * 8 + lane.column + i % 2;
                float e = exp2f(scores[n][i] - largest[i / 2]);
                sum[i / 2] += e;
                scores[n][i] = e * kept(mask, at.pair, length, query, key);
            }
        for (int half = 0; half < 2; half++)
            total[half] = total[half] * shrink[half] + warp_sum(sum[half], ROW_LANES);
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
            for (int i = 0; i < 4; i++) context[n][i] *= shrink[i / 2];
        add_weighted(scores, v, context);
    }
    float scales[2] = {1 / total[0], 1 / total[1]};
    put(context, scales, (ushort_t *)out_ + at.rows, at.width, row, length);
    for (int half = 0; half < 2; half++) {
        long long query = row + lane.row + half * 8;
        if (lane.column == 0 && query < length)
            logsumexp[at.pair * length + query] = (largest[half] + log2f(total[half])) / LOG2E;
    }
}

// A block has a tile of keys and walks the queries that see them. Its squares lie transposed: a row
// a key.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_backward_keys(const act *qkv_, const act *dout_, const real *logsumexp,
                            const real *deltas, act *dqkv_, const uint32 *seed, long long stream,
                            double p, long long length, long long heads, double scale) {
    SHARED(ushort_t, q);
    ushort_t *g = q + WALK * PITCH;
    Offsets at = offsets_of(length, heads);
    Mask mask = mask_of(seed, stream, p);
    Lane lane = lane_of();
    const ushort_t *base = (const ushort_t *)qkv_ + at.queries;
    const ushort_t *dout = (const ushort_t *)dout_ + at.rows;
    const real *sums = logsumexp + at.pair * length, *dots = deltas + at.pair * length;
    long long pitch = 3 * at.width, first = (long long)blockIdx.y * TILE_ROWS;
    long long row = first + threadIdx.x / WARP * 16;
    float to_exponent = (float)scale * LOG2E;
    uint32 k[STEPS][4], v[STEPS][4];
    load_fragment(base + at.width, pitch, row, length, k);
    load_fragment(base + 2 * at.width, pitch, row, length, v);
    float dk[COLUMNS][4], dv[COLUMNS][4];
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
        for (int i = 0; i < 4; i++) dk[n][i] = dv[n][i] = 0;
    for (long long queries = first; queries < length; queries += WALK) {
        __syncthreads();
        fetch(base, pitch, queries, length, q);
        fetch(dout, at.width, queries, length, g);
        __syncthreads();
        float weights[WALK / 8][4], slopes[WALK / 8][4];
        scores_of(k, q, weights);
        scores_of(v, g, slopes);
#pragma unroll
        for (int n = 0; n < WALK / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                long long key = row + lane.row + i / 2 * 8,
                          query = queries + n * 8 + lane.column + i % 2;
                float w = 0, keep = 1, delta = 0;
                if (query < length && key <= query) {
                    w = exp2f(weights[n][i] * to_exponent - sums[query] * LOG2E);
                    keep = kept(mask, at.pair, length, query, key);
                    delta = dots[query];
                }
                weights[n][i] = w * keep;
                slopes[n][i] = w * (slopes[n][i] * keep - delta);
            }
        add_weighted(slopes, q, dk);
        add_weighted(weights, g, dv);
    }
    ushort_t *to = (ushort_t *)dqkv_ + at.queries + at.width;
    float scales[2] = {(float)scale, (float)scale}, ones[2] = {1, 1};
    put(dk, scales, to, pitch, row, length);
    put(dv, ones, to + at.width, pitch, row, length);
}

// A block has a tile of queries and walks the keys that they see.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention_backward_queries(const act *qkv_, const act *dout_, const real *logsumexp,
                               const real *deltas, act *dqkv_, const uint32 *seed, long long stream,
                               double p, long long length, long long heads, double scale) {
    SHARED(ushort_t, k);
    ushort_t *v = k + WALK * PITCH;
    Offsets at = offsets_of(length, heads);
    Mask mask = mask_of(seed, stream, p);
    Lane lane = lane_of();
    const ushort_t *base = (const ushort_t *)qkv_ + at.queries;
    long long pitch = 3 * at.width, first = (long long)(gridDim.y - 1 - blockIdx.y) * TILE_ROWS;
    long long row = first + threadIdx.x / WARP * 16;
    float to_exponent = (float)scale * LOG2E, row_logsumexp[2], delta[2];
    for (int half = 0; half < 2; half++) {
        long long query = row + lane.row + half * 8;
        row_logsumexp[half] = query < length ? logsumexp[at.pair * length + query] * LOG2E : 0;
        delta[half] = query < length ? deltas[at.pair * length + query] : 0;
    }
    uint32 q[STEPS][4], g[STEPS][4];
    load_fragment(base, pitch, row, length, q);
    load_fragment((const ushort_t *)dout_ + at.rows, at.width, row, length, g);
    float dq[COLUMNS][4];
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
        for (int i = 0; i < 4; i++) dq[n][i] = 0;
    for (long long keys = 0; keys < first + TILE_ROWS && keys < length; keys += WALK) {
        __syncthreads();
        fetch(base + at.width, pitch, keys, length, k);
        fetch(base + 2 * at.width, pitch, keys, length, v);
        __syncthreads();
        float weights[WALK / 8][4], slopes[WALK / 8][4];
        scores_of(q, k, weights);
        scores_of(g, v, slopes);
#pragma unroll
        for (int n = 0; n < WALK / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                long long query = row + lane.row + i / 2 * 8,
                          key = keys + n * 8 + lane.column + i % 2;
                float w = 0, keep = 1;
                if (query < length && key <= query) {
                    w = exp2f(weights[n][i] * to_exponent - row_logsumexp[i / 2]);
                    keep = kept(mask, at.pair, length, query, key);
                }
                slopes[n][i] = w * (slopes[n][i] * keep - delta[i / 2]);
            }
        add_weighted(slopes, k, dq);
    }
    float scales[2] = {(float)scale, (float)scale};
    put(dq, scales, (ushort_t *)dqkv_ + at.queries, pitch, row, length);
}
