// Rows of a table, named by ids. Shapes: table (V, width); rows (count, width); ids (count, 2)
// pairs of a token and of an index: the indices sort the tokens, equal ones as they come (argsort
// on the host).

// rows = scale table[token] + positions[its position], if there are positions; a block a
// row.
extern "C" __global__ void embed(const real *table, const int *ids, double scale,
                                 const real *positions, real *rows, long long length,
                                 long long width) {
    const real multiplier = scale;
    long long row = blockIdx.x;
    table += ids[2 * row] * width;
    if (positions) positions += row % length * width;
    for (long long c = threadIdx.x; c < width; c += blockDim.x)
        rows[row * width + c] = multiplier * table[c] + (positions ? positions[c] : real(0));
}

// The k-th token in ascending order.
__device__ __forceinline__ int sorted(const int *ids, long long k) {
    return ids[2 * (long long)ids[2 * k + 1]];
}

// table[token] += scale times the sum of its rows, in their order: first for runs of a token within
// a chunk of the sorted tokens. What a chunk begins or ends with may go on in its neighbours; these
// sums are kept in edges (chunks, 2, width), for add_edges.
extern "C" __global__ void scatter_add(const int *ids, const real *rows, double scale, real *table,
                                       real *edges, long long count, long long width,
                                       long long chunk) {
    const real multiplier = scale;
    long long first = blockIdx.x * chunk, last = first + chunk < count ? first + chunk : count;
    for (long long c = (long long)blockIdx.y * blockDim.x + threadIdx.x; c < width;
         c += (long long)gridDim.y * blockDim.x) {
        real *edge = edges + 2 * blockIdx.x * width + c;
        long long begin = first;
        while (begin < last) {
            int token = sorted(ids, begin);
            real sum = 0;
            long long end = begin;
            for (; end < last && sorted(ids, end) == token; end++)
                sum += multiplier * rows[ids[2 * end + 1] * width + c];
            if (begin == first)
                edge[0] = sum;
            else if (end == last)
                edge[width] = sum;
            else
                table[token * width + c] += sum;
            begin = end;
        }
    }
}

// The runs that touch an edge of a chunk: a thread walks the chunks for each column.
extern "C" __global__ void add_edges(const int *ids, real *table, const real *edges,
                                     long long count, long long width, long long chunk) {
    long long c = thread_number(), chunks = (count + chunk - 1) / chunk;
    if (c >= width) return;
    int open = sorted(ids, 0);
    real sum = 0;
    for (long long k = 0; k < chunks; k++) {
        long long first = k * chunk, last = (first + chunk < count ? first + chunk : count) - 1;
        int begins = sorted(ids, first), ends = sorted(ids, last);
        const real *edge = edges + 2 * k * width + c;
        if (begins != open) {
            table[open * width + c] += sum;
            open = begins;
            sum = 0;
        }
        sum += edge[0];
        if (ends != begins) {
            table[open * width + c] += sum;
            open = ends;
            sum = edge[width];
        }
    }
    table[open * width + c] += sum;
}
