// Layer norm, a warp a row. Shapes: x, normal, y, dy, dx (rows, width); gain, bias (width,).

extern "C" __global__ void layer_norm(const real *x, const real *gain, const real *bias,
                                      act *normal, real *rstd, act *y, long long rows,
                                      long long width, double eps) {
    long long row = thread_number() / WARP;
    int lane = threadIdx.x % WARP;
    if (row >= rows) return;
    x += row * width;
    normal += row * width;
    y += row * width;
    real sum = 0;
    for (long long c = lane; c < width; c += WARP) sum += x[c];
    real mean = warp_sum(sum) / width, squares = 0;
    for (long long c = lane; c < width; c += WARP) squares += (x[c] - mean) * (x[c] - mean);
    real scale = real(1) / sqrt(warp_sum(squares) / width + real(eps));
    if (lane == 0) rstd[row] = scale;
    for (long long c = lane; c < width; c += WARP) {
        real n = (x[c] - mean) * scale;
        store(normal + c, n);
        store(y + c, gain[c] * n + (bias ? bias[c] : real(0)));
    }
}

// dx += rstd (g - mean(g) - normal mean(g normal)), with g = gain dy.
extern "C" __global__ void layer_norm_backward(const act *dy, const real *gain, const act *normal,
                                               const real *rstd, real *dx, long long rows,
                                               long long width) {
    long long row = thread_number() / WARP;
    int lane = threadIdx.x % WARP;
    if (row >= rows) return;
    dy += row * width;
    normal += row * width;
    dx += row * width;
    real mean = 0, slope = 0;
    for (long long c = lane; c < width; c += WARP) {
        real g = load(dy + c) * gain[c];
        mean += g;
        slope += g * load(normal + c);
    }
    mean = warp_sum(mean) / width;
    slope = warp_sum(slope) / width;
    for (long long c = lane; c < width; c += WARP)
        dx[c] += rstd[row] * (load(dy + c) * gain[c] - mean - load(normal + c) * slope);
}
