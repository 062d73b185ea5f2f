// Chains of operations on single elements: activations, biases, dropout, rounding.

// gelu(x) = x / (1 + exp(x (LINEAR + CUBIC x^2))), the tanh form of GPT-2.
__device__ __forceinline__ real logistic(real x) {
    const real linear = real(-1.5957691216057308), cubic = real(0.044715 * -1.5957691216057308);
    return real(1) / (real(1) + exp(x * (linear + cubic * x * x)));
}

const int PACK = sizeof(Pack<act>) / sizeof(act);

// y = f(x), element by element.
template <typename F>
__device__ __forceinline__ void map(const act *x, act *y, long long size, F f) {
    long long packs = packs_of(size, x) && packs_of(size, y) ? size / PACK : 0;
    for (long long i = thread_number(); i < packs; i += thread_count()) {
        Pack<act> from = ((const Pack<act> *)x)[i], to;
#pragma unroll
        for (int k = 0; k < PACK; k++) store(to.v + k, f(load(from.v + k)));
        ((Pack<act> *)y)[i] = to;
    }
    for (long long i = packs * PACK + thread_number(); i < size; i += thread_count())
        store(y + i, f(load(x + i)));
}

// f(x, y) changes both, element by element.
template <typename F> __device__ __forceinline__ void change(act *x, act *y, long long size, F f) {
    long long packs = packs_of(size, x) && packs_of(size, y) ? size / PACK : 0;
    for (long long i = thread_number(); i < packs; i += thread_count()) {
        Pack<act> first = ((Pack<act> *)x)[i], second = ((Pack<act> *)y)[i];
#pragma unroll
        for (int k = 0; k < PACK; k++) {
            real u = load(first.v + k), v = load(second.v + k);
            f(u, v);
            store(first.v + k, u);
            store(second.v + k, v);
        }
        ((Pack<act> *)x)[i] = first;
        ((Pack<act> *)y)[i] = second;
    }
    for (long long i = packs * PACK + thread_number(); i < size; i += thread_count()) {
        real u = load(x + i), v = load(y + i);
        f(u, v);
        store(x + i, u);
        store(y + i, v);
    }
}

extern "C" __global__ void gelu(const act *x, act *y, long long size) {
    map(x, y, size, [](real v) { return v * logistic(v); });
}

// dy *= gelu'(x); x becomes gelu(x).
extern "C" __global__ void gelu_backward(act *x, act *dy, long long size) {
    change(x, dy, size, [](real &v, real &d) {
        const real linear = real(-1.5957691216057308), cubic = real(0.044715 * -1.5957691216057308);
        real s = logistic(v), bend = s * (real(1) - s), term = real(0);
        // Where s is 0 or 1 the slope's second term vanishes, however large its polynomial.
        if (bend > real(0)) term = v * bend * -(linear + 3 * cubic * v * v);
        if (v != v) term = v;
        d *= s + term;
        v *= s;
    });
}

extern "C" __global__ void relu(const act *x, act *y, long long size) {
    map(x, y, size, [](real v) { return v < real(0) ? real(0) : v; });
}

// dy *= x > 0; x becomes max(x, 0).
extern "C" __global__ void relu_backward(act *x, act *dy, long long size) {
    change(x, dy, size, [](real &v, real &d) {
        if (v != v) d = v;
        if (v <= real(0)) v = d = real(0);
    });
}

// Every row of y (rows, width) += bias (width,); a block a row.
extern "C" __global__ void add_bias_act(const act *bias, act *y, long long width) {
    y += blockIdx.x * width;
    long long packs = packs_of(width, y);
    for (long long i = threadIdx.x; i < packs; i += blockDim.x) {
        Pack<act> part = ((Pack<act> *)y)[i];
#pragma unroll
        for (int k = 0; k < PACK; k++)
            store(part.v + k, load(part.v + k) + load(bias + i * PACK + k));
        ((Pack<act> *)y)[i] = part;
    }
    for (long long c = packs * PACK + threadIdx.x; c < width; c += blockDim.x)
        store(y + c, load(y + c) + load(bias + c));
}

// Every row of x (rows, width) += bias (width,), if there is one, and y = gelu(x); a block a row.
extern "C" __global__ void bias_gelu(const act *bias, act *x, act *y, long long width) {
    x += blockIdx.x * width, y += blockIdx.x * width;
    auto both = [bias](act *v, act *to, long long c) {
        if (bias) store(v, load(v) + load(bias + c));
        real inner = load(v); // as the backward pass will see it
        store(to, inner * logistic(inner));
    };
    long long packs = packs_of(width, x) && packs_of(width, y) ? width / PACK : 0;
    for (long long i = threadIdx.x; i < packs; i += blockDim.x) {
        Pack<act> inner = ((Pack<act> *)x)[i], out;
#pragma unroll
        for (int k = 0; k < PACK; k++) both(inner.v + k, out.v + k, i * PACK + k);
        if (bias) ((Pack<act> *)x)[i] = inner;
        ((Pack<act> *)y)[i] = out;
    }
    for (long long c = packs * PACK + threadIdx.x; c < width; c += blockDim.x)
        both(x + c, y + c, c);
}

extern "C" __global__ void add_bias_real(const real *bias, real *y, long long width) {
    y += blockIdx.x * width;
    for (long long c = threadIdx.x; c < width; c += blockDim.x) y[c] += bias[c];
}

extern "C" __global__ void round_to_act(const real *x, act *y, long long size) {
    for (long long i = thread_number(); i < size; i += thread_count()) store(y + i, x[i]);
}

extern "C" __global__ void round_to_bf16(const real *x, bf16 *y, long long size) {
    for (long long i = thread_number(); i < size; i += thread_count()) store(y + i, x[i]);
}

// y += mask * x: the end of a branch.
extern "C" __global__ void add_dropped(const act *x, const uint32 *seed, long long stream, double p,
                                       real *y, long long size) {
    Mask mask = mask_of(seed, stream, p);
    for (long long i = thread_number(); i < size; i += thread_count())
        y[i] += dropout_scale(mask, i) * load(x + i);
}

// y = mask * x, in place or not.
extern "C" __global__ void drop_real(const real *x, const uint32 *seed, long long stream, double p,
                                     real *y, long long size) {
    Mask mask = mask_of(seed, stream, p);
    for (long long i = thread_number(); i < size; i += thread_count())
        y[i] = dropout_scale(mask, i) * x[i];
}

extern "C" __global__ void drop_to_act(const real *x, const uint32 *seed, long long stream,
                                       double p, act *y, long long size) {
    Mask mask = mask_of(seed, stream, p);
    for (long long i = thread_number(); i < size; i += thread_count())
        store(y + i, dropout_scale(mask, i) * x[i]);
}

// Turn channel pairs (d, d + head / 2) of queries and keys by the angles of their positions; cos
// and sin are (length, head / 2), and a sign of -1 turns back. A thread a pair of a query and of a
// key.
extern "C" __global__ void rotate(act *qkv, const real *cos, const real *sin, long long length,
                                  long long heads, long long head, double sign, long long size) {
    const real direction = sign;
    long long half = head / 2;
    for (long long i = thread_number(); i < size; i += thread_count()) {
        long long pair = i % half, which = i / half % heads, row = i / half / heads;
        long long angle = row % length * half + pair;
        real c = cos[angle], s = direction * sin[angle];
        act *first = qkv + row * 3 * heads * head + which * head + pair;
        for (int part = 0; part < 2; part++, first += heads * head) {
            real x = load(first), y = load(first + half);
            store(first, x * c - y * s);
            store(first + half, y * c + x * s);
        }
    }
}
