// What both ways to compute attention share. Compiled for one HEAD, the size of a head, and for
// whether it DROPS weights.
// Shapes: qkv, dqkv (batch * length, 3 * heads * HEAD), out, dout (batch * length, heads * HEAD),
// logsumexp and deltas (batch, heads, length). A block of the grid is (sequence and head, tile).

// Of a sequence and head, in rows of all heads.
struct Offsets {
    long long queries, width, rows; // of the first row of this sequence and head; of a row; of all
    long long pair;                 // this sequence and head, counted over both
};

__device__ __forceinline__ Offsets offsets_of(long long length, long long heads) {
    Offsets offsets;
    long long sequence = blockIdx.x / heads, head = blockIdx.x % heads;
    offsets.width = heads * HEAD;
    offsets.queries = sequence * length * 3 * offsets.width + head * HEAD;
    offsets.rows = sequence * length * offsets.width + head * HEAD;
    offsets.pair = blockIdx.x;
    return offsets;
}

// What a weight is multiplied by where dropout acts on them.
__device__ __forceinline__ real kept(const Mask &mask, long long pair, long long length,
                                     long long query, long long key) {
    // The branch keeps the compiler from drawing for many weights at once, out of registers.
    if (!DROPS || mask.threshold == 0) return real(1);
    return dropout_scale(mask, (uint64)((pair * length + query) * length + key));
}

// deltas = the dot products of the rows of out and dout, a warp a row of a head.
extern "C" __global__ void attention_deltas(const act *out, const act *dout, real *deltas,
                                            long long length, long long heads, long long count) {
    long long number = thread_number() / WARP;
    if (number >= count) return;
    long long query = number % length, head = number / length % heads,
              sequence = number / length / heads;
    long long begin = ((sequence * length + query) * heads + head) * HEAD;
    real sum = 0;
    for (int d = threadIdx.x % WARP; d < HEAD; d += WARP)
        sum += load(out + begin + d) * load(dout + begin + d);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) deltas[number] = sum;
}
