/* One half of the channels, activated, times the other half (Shazeer 2020, arXiv:2002.05202). */

#include "binding.h"

#include "activations.h"

enum { SILU, GELU };

typedef struct {
    float *x, *y;
    size_t width;
} Arrays;

INLINE Activation parts_of_kind(float gate, int kind) {
    return kind == GELU ? gelu_parts(gate) : silu_parts(gate);
}

INLINE void gate_rows(const void *arguments, size_t begin, size_t end, int kind) {
    const Arrays a = *(const Arrays *)arguments;
    for (size_t row = begin; row < end; row++) {
        const float *restrict gate = a.x + row * 2 * a.width, *restrict values = gate + a.width;
        float *restrict y = a.y + row * a.width;
        for (size_t c = 0; c < a.width; c++)
            y[c] = gate[c] * parts_of_kind(gate[c], kind).s * values[c];
    }
}

INLINE void gate_backward_rows(const void *arguments, size_t begin, size_t end, int kind) {
    const Arrays a = *(const Arrays *)arguments;
    for (size_t row = begin; row < end; row++) {
        float *restrict gate = a.x + row * 2 * a.width, *restrict values = gate + a.width;
        float *restrict dy = a.y + row * a.width;
        for (size_t c = 0; c < a.width; c++) {
            const Activation part = parts_of_kind(gate[c], kind);
            const float activated = gate[c] * part.s, value = values[c];
            gate[c] = dy[c] * value * part.slope;
            values[c] = dy[c] * activated;
            dy[c] = activated * value;
        }
    }
}

/* A version for each processor of each kind: what is inlined takes that of its caller. */
#define PARTS(name, rows, kind)                                                      \
    KERNEL void name(const void *arguments, size_t part, size_t begin, size_t end) { \
        (void)part;                                                                  \
        rows(arguments, begin, end, kind);                                           \
    }
PARTS(swiglu_part, gate_rows, SILU)
PARTS(swiglu_backward_part, gate_backward_rows, SILU)
PARTS(geglu_part, gate_rows, GELU)
PARTS(geglu_backward_part, gate_backward_rows, GELU)

/* Runs work on x (rows, 2 width), [gate | values], and y (rows, width). */
static void run(Work *work, float *x, float *y, size_t rows, size_t width) {
    Arrays a = {x, y, width};
    in_parallel(work, &a, rows, parts_of(rows, 1 + 16384 / width));
}

static PyObject *offered(Work *work, PyObject *self, PyObject *const *in, Py_ssize_t given) {
    BEGIN(4);
    const size_t rows = size_of(in[2]), width = size_of(in[3]);
    float *x = WRITE(in[0], rows * 2 * width), *y = WRITE(in[1], rows * width);
    RUN(run(work, x, y, rows, width));
    END;
}

/* y = activation(gate) * values. */
FUNCTION(swiglu) { return offered(swiglu_part, self, in, given); }
FUNCTION(geglu) { return offered(geglu_part, self, in, given); }

/* x becomes its gradient, given that of y, which becomes y. */
FUNCTION(swiglu_backward) { return offered(swiglu_backward_part, self, in, given); }
FUNCTION(geglu_backward) { return offered(geglu_backward_part, self, in, given); }
