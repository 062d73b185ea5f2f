/* Rows dealt out to threads, and sums over what they did. */

#include "binding.h"
#include "kernels.h"

#include <stdlib.h>

size_t kernel_threads = 1;
/* Whether kernels that this thread calls use no other. */
static _Thread_local int alone;

/* How many parts of at least `least` rows to cut `count` rows into. */
size_t parts_of(size_t count, size_t least) {
    const size_t most = alone ? 1 : smaller(kernel_threads, MOST_PARTS);
    const size_t parts = smaller(most, count / (least ? least : 1));
    return parts ? parts : 1;
}

void in_parallel(Work *work, const void *arguments, size_t count, size_t parts) {
    if (parts == 1) {
        work(arguments, 0, 0, count);
        return;
    }
    /* Always the whole team: one that changes its size ends threads and starts others. A process
     * that forks after this must not come here again in the child. */
#pragma omp parallel for num_threads((int)smaller(kernel_threads, MOST_PARTS)) schedule(static, 1)
    for (size_t part = 0; part < parts; part++)
        work(arguments, part, count * part / parts, count * (part + 1) / parts);
}

/* Fewer parts than asked for where there is no memory; none are needed for sums that are null. */
Sums begin_sums(float *sums, size_t size, size_t parts) {
    Sums s = {sums, NULL, size, parts};
    if (sums && parts > 1) {
        s.rows = calloc(parts * size, sizeof *s.rows);
        if (!s.rows) s.parts = 1;
    }
    return s;
}

void end_sums(Sums s) {
    for (size_t part = 0; s.rows && part < s.parts; part++)
        for (size_t c = 0; c < s.size; c++) s.sums[c] += s.rows[part * s.size + c];
    free(s.rows);
}

FUNCTION(set_threads) {
    const size_t threads = given == 1 ? size_of(in[0]) : 0;
    (void)self;
    if (threads) kernel_threads = threads;
    END;
}

FUNCTION(set_alone) {
    (void)self;
    alone = given == 1 && PyObject_IsTrue(in[0]);
    END;
}
