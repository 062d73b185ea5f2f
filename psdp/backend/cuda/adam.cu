// What a server, or a worker with an optimizer of its own, does with flat vectors.

// mean and mean_sq move towards scale g and its square, w by Adam's rule; one pass.
extern "C" __global__ void adam(real *w, const real *g, real *mean, real *mean_sq, double scale,
                                double beta1, double beta2, double step_size, double eps,
                                double shrink, long long size) {
    const real to_mean = scale * (1 - beta1), to_square = scale * sqrt(1 - beta2);
    const real keep_mean = beta1, keep_square = beta2, step = step_size, least = eps, kept = shrink;
    for (long long i = thread_number(); i < size; i += thread_count()) {
        real m = mean[i] * keep_mean + g[i] * to_mean;
        // Scaled before it is squared: a gradient that is clipped may be too large to be squared.
        real scaled = g[i] * to_square, v = mean_sq[i] * keep_square + scaled * scaled;
        mean[i] = m;
        mean_sq[i] = v;
        w[i] = w[i] * kept - step * m / (sqrt(v) + least);
    }
}

// out = share x, or out += share x: one vector of a weighted mean.
extern "C" __global__ void add_share(const real *x, double share, real *out, long long size,
                                     long long first) {
    const real part = share;
    for (long long i = thread_number(); i < size; i += thread_count())
        out[i] = first ? part * x[i] : out[i] + part * x[i];
}
