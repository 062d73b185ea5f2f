// What a server, or a worker with an optimizer of its own, does with flat vectors.

// mean and mean_sq move towards scale g and its square, w by Adam's rule; one pass. The scale is
// multiplied by a coefficient from memory, if there is one.
extern "C" __global__ void adam(real *w, const real *g, real *mean, real *mean_sq,
                                const double *coefficient, double scale, double beta1, double beta2,
                                double step_size, double eps, double shrink, long long size) {
    if (coefficient) scale *= *coefficient;
    const real to_mean = scale * (1 - beta1), to_square = scale * sqrt(1 - beta2);
    const real keep_mean = beta1, keep_square = beta2, step = step_size, least = eps, kept = shrink;
    auto update = [=](real &weight, real slope, real &average, real &average_sq) {
        average = average * keep_mean + slope * to_mean;
        // Scaled before it is squared: a gradient that is clipped may be too large to be squared.
        real scaled = slope * to_square;
        average_sq = average_sq * keep_square + scaled * scaled;
        weight = weight * kept - step * average / (sqrt(average_sq) + least);
    };
    const int PACK = sizeof(Pack<real>) / sizeof(real);
    bool packed =
        packs_of(size, w) && packs_of(size, g) && packs_of(size, mean) && packs_of(size, mean_sq);
    long long packs = packed ? size / PACK : 0;
    for (long long i = thread_number(); i < packs; i += thread_count()) {
        Pack<real> a = ((Pack<real> *)w)[i], b = ((const Pack<real> *)g)[i];
        Pack<real> c = ((Pack<real> *)mean)[i], d = ((Pack<real> *)mean_sq)[i];
#pragma unroll
        for (int k = 0; k < PACK; k++) update(a.v[k], b.v[k], c.v[k], d.v[k]);
        ((Pack<real> *)w)[i] = a;
        ((Pack<real> *)mean)[i] = c;
        ((Pack<real> *)mean_sq)[i] = d;
    }
    for (long long i = packs * PACK + thread_number(); i < size; i += thread_count())
        update(w[i], g[i], mean[i], mean_sq[i]);
}

// out = share x, or out += share x: one vector of a weighted mean.
template <typename T>
__device__ __forceinline__ void add_part(const T *x, double share, real *out, long long size,
                                         long long first) {
    const real part = share;
    for (long long i = thread_number(); i < size; i += thread_count())
        out[i] = first ? part * load(x + i) : out[i] + part * load(x + i);
}

extern "C" __global__ void add_share(const real *x, double share, real *out, long long size,
                                     long long first) {
    add_part(x, share, out, size, first);
}

extern "C" __global__ void add_share_bf16(const bf16 *x, double share, real *out, long long size,
                                          long long first) {
    add_part(x, share, out, size, first);
}
