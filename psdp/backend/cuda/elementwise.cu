// Chains of operations on single elements: activations, biases, dropout, rounding.

// gelu(x) = x / (1 + exp(x (LINEAR + CUBIC x^2))), the tanh form of GPT-2.
__device__ __forceinline__ real logistic(real x) {
    const real linear = real(-1.5957691216057308), cubic = real(0.044715 * -1.5957691216057308);
    return real(1) / (real(1) + exp(x * (linear + cubic * x * x)));
}

extern "C" __global__ void gelu(const act *x, act *y, long long size) {
    for (long long i = thread_number(); i < size; i += thread_count()) {
        real v = load(x + i);
        store(y + i, v * logistic(v));
    }
}

// dy *= gelu'(x); x becomes gelu(x).
extern "C" __global__ void gelu_backward(act *x, act *dy, long long size) {
    const real linear = real(-1.5957691216057308), cubic = real(0.044715 * -1.5957691216057308);
    for (long long i = thread_number(); i < size; i += thread_count()) {
        real v = load(x + i), s = logistic(v);
        // Where s is 0 or 1 the slope's second term vanishes, however large its polynomial.
        real bend = s * (real(1) - s), term = real(0);
        if (bend > real(0)) term = v * bend * -(linear + 3 * cubic * v * v);
        if (v != v) term = v;
        store(dy + i, load(dy + i) * (s + term));
        store(x + i, v * s);
    }
}

extern "C" __global__ void relu(const act *x, act *y, long long size) {
    for (long long i = thread_number(); i < size; i += thread_count()) {
        real v = load(x + i);
        store(y + i, v < real(0) ? real(0) : v);
    }
}

// dy *= x > 0; x becomes max(x, 0).
extern "C" __global__ void relu_backward(act *x, act *dy, long long size) {
    for (long long i = thread_number(); i < size; i += thread_count()) {
        real v = load(x + i);
        if (v <= real(0)) {
            store(dy + i, real(0));
            store(x + i, real(0));
        } else if (v != v) {
            store(dy + i, v);
        }
    }
}

// Every row of y (rows, width) += bias (width,).
extern "C" __global__ void add_bias_act(const real *bias, act *y, long long size, long long width) {
    for (long long i = thread_number(); i < size; i += thread_count())
        store(y + i, load(y + i) + bias[i % width]);
}

extern "C" __global__ void add_bias_real(const real *bias, real *y, long long size,
                                         long long width) {
    for (long long i = thread_number(); i < size; i += thread_count()) y[i] += bias[i % width];
}

extern "C" __global__ void round_to_act(const real *x, act *y, long long size) {
    for (long long i = thread_number(); i < size; i += thread_count()) store(y + i, x[i]);
}

// y += mask * x: the end of a branch.
extern "C" __global__ void add_dropped(const act *x, const uint32 *seed, long long stream, double p,
                                       real *y, long long size) {
    Mask mask = mask_of(seed, stream, p);
    for (long long i = thread_number(); i < size; i += thread_count())
        y[i] += factor(mask, i) * load(x + i);
}

// y = mask * x, in place or not.
extern "C" __global__ void drop_real(const real *x, const uint32 *seed, long long stream, double p,
                                     real *y, long long size) {
    Mask mask = mask_of(seed, stream, p);
    for (long long i = thread_number(); i < size; i += thread_count())
        y[i] = factor(mask, i) * x[i];
}

extern "C" __global__ void drop_to_act(const real *x, const uint32 *seed, long long stream,
                                       double p, act *y, long long size) {
    Mask mask = mask_of(seed, stream, p);
    for (long long i = thread_number(); i < size; i += thread_count())
        store(y + i, factor(mask, i) * x[i]);
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
