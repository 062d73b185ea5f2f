/* The product of the BLAS library that NumPy has loaded. */

#include "binding.h"
#include "kernels.h"

/* cblas_sgemm of the BLAS that NumPy has loaded. Its integers are 64 or 32 bits wide, which the
 * calling conventions of 64-bit little-endian machines do not tell apart: an argument has a
 * register or eight bytes of its own, and the callee reads the lower half. */
typedef void Sgemm(int order, int a_form, int b_form, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t a_row, const float *b, int64_t b_row, float beta,
                   float *c, int64_t c_row);
enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };
static Sgemm *sgemm;

FUNCTION(set_sgemm) {
    (void)self;
    if (given == 1) sgemm = (Sgemm *)PyLong_AsVoidPtr(in[0]);
    END;
}

/* out (m, n) += a b, by BLAS. */
FUNCTION(add_product) {
    BEGIN(7);
    int64_t m = (int64_t)size_of(in[3]), n = (int64_t)size_of(in[4]), k = (int64_t)size_of(in[5]);
    long flags = PyErr_Occurred() ? 0 : PyLong_AsLong(in[6]);
    int a_form = flags & A_TRANSPOSED ? TRANSPOSED : PLAIN;
    int b_form = flags & B_TRANSPOSED ? TRANSPOSED : PLAIN;
    const float *a = READ(in[0], (size_t)(m * k)), *b = READ(in[1], (size_t)(k * n));
    float *out = WRITE(in[2], (size_t)(m * n));
    if (!sgemm && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "set_sgemm must be called first");
    RUN(sgemm(ROW_MAJOR, a_form, b_form, m, n, k, 1.0f, a, a_form == PLAIN ? k : m, b,
              b_form == PLAIN ? n : k, 1.0f, out, n));
    END;
}
