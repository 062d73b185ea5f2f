// Enough of CUDA to run kernels on a CPU, one block after another, exactly and slowly.
//
// The threads of a block are fibers on one thread of the host. They change over only where threads
// wait for one another: at a barrier of the block or of a warp. A kernel that forgets a barrier
// reads what has not been written yet, since a fiber runs on until it must wait; memory that a
// block did not write is filled with NaN. So missing barriers, reads beyond what was copied, and
// results that depend on luck show as wrong results.

#include <cassert>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <csetjmp>
#include <functional>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)
#define SHARED(type, name) type *name = (type *)host::dynamic_shared

using std::exp;
using std::log;
using std::sqrt;

struct dim3 {
    unsigned x, y, z;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host {

const int STACK = 1 << 17, LANES = EMULATED_WARP, LARGEST_SHARED = EMULATED_SHARED;

alignas(16) static unsigned char dynamic_shared[LARGEST_SHARED];

// A stack that threads run on, one after another until one must wait; that one keeps it.
struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::vector<char> stack;
    bool begun, taken;
};

struct Thread {
    Fiber *fiber;
    unsigned number;
    bool done;
    long waits; // barriers passed or waited for
};

static std::vector<Fiber *> fibers;
static std::vector<Thread> threads;
static unsigned unstarted; // the threads below this number
static jmp_buf scheduler;
static Thread *current;
static std::function<void()> work;
static unsigned shared_bytes;

static void begin(unsigned low, unsigned high) {
    Fiber *own = (Fiber *)((unsigned long)high << 32 | low);
    for (;;) {
        // Last first: what holds only where thread 0 comes first is wrong.
        while (unstarted) {
            current = &threads[--unstarted];
            current->fiber = own;
            threadIdx = {current->number, 0, 0};
            work();
            current->done = true;
        }
        own->taken = false;
        if (!_setjmp(own->place)) _longjmp(scheduler, 1);
    }
}

// Go on with this fiber until its thread waits, or it has no more threads to run.
static void resume(Fiber *fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber->begun) _longjmp(fiber->place, 1);
    fiber->begun = true;
    setcontext(&fiber->start);
}

static Fiber *free_fiber() {
    for (Fiber *fiber : fibers)
        if (!fiber->taken) return fiber;
    Fiber *fiber = new Fiber();
    fiber->stack.resize(STACK);
    getcontext(&fiber->start);
    fiber->start.uc_stack.ss_sp = fiber->stack.data();
    fiber->start.uc_stack.ss_size = STACK;
    fiber->start.uc_link = nullptr;
    unsigned long address = (unsigned long)fiber;
    makecontext(&fiber->start, (void (*)())begin, 2, (unsigned)address, (unsigned)(address >> 32));
    fibers.push_back(fiber);
    return fiber;
}

// Wait until all threads of [first, last) that are not done have come to this barrier. Barriers of
// a warp and of the block are counted alike, as all threads meet the same ones in the same order.
static void wait(unsigned first, unsigned last) {
    Thread *own = current;
    long waits = ++own->waits;
    for (;;) {
        bool all = true;
        for (unsigned i = first; i < last && all; i++)
            all = threads[i].done || threads[i].waits >= waits;
        if (all) return;
        if (!_setjmp(own->fiber->place)) _longjmp(scheduler, 1);
        current = own;
        threadIdx = {own->number, 0, 0};
    }
}

static unsigned first_of_warp() { return current->number / LANES * LANES; }

static void wait_for_warp() {
    unsigned first = first_of_warp(), last = first + LANES;
    wait(first, last < threads.size() ? last : threads.size());
}

// What each lane hands to the others; two halves in turn, so that one barrier an exchange is
// enough.
struct Hand {
    alignas(8) unsigned char bytes[48];
};
static std::vector<Hand> hands[2];

template <typename T> static const T &hand_of(int half, unsigned thread) {
    return *(const T *)hands[half][thread].bytes;
}

template <typename T> static int hand_out(const T &value) {
    static_assert(sizeof(T) <= sizeof(Hand), "a hand is too small");
    int half = (current->waits + 1) & 1;
    std::memcpy(hands[half][current->number].bytes, &value, sizeof(T));
    wait_for_warp();
    return half;
}

static void run_block(unsigned count) {
    threads.resize(count);
    for (unsigned i = 0; i < count; i++) threads[i] = {nullptr, i, false, 0};
    for (auto &half : hands) half.assign((count + LANES - 1) / LANES * LANES, Hand());
    // Static shared memory cannot be filled from here; what a launch gives is.
    std::memset(dynamic_shared, 0xff, shared_bytes);
    unstarted = count;
    while (unstarted) {
        Fiber *fiber = free_fiber();
        fiber->taken = true;
        resume(fiber);
    }
    for (bool left = true; left;) {
        left = false;
        for (unsigned i = count; i-- > 0;) {
            if (threads[i].done) continue;
            left = true;
            resume(threads[i].fiber);
        }
    }
}

struct Launch {
    unsigned grid[3], block, shared;
};

template <typename... P, std::size_t... I>
static void run(void (*kernel)(P...), const Launch &launch, void **arguments,
                std::index_sequence<I...>) {
    gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
    blockDim = {launch.block, 1, 1};
    if (launch.shared > LARGEST_SHARED || launch.block > LANES * LANES) std::abort();
    work = [&] { kernel(*(P *)arguments[I]...); };
    shared_bytes = launch.shared;
    for (unsigned z = 0; z < gridDim.z; z++)
        for (unsigned y = 0; y < gridDim.y; y++)
            for (unsigned x = 0; x < gridDim.x; x++) {
                blockIdx = {x, y, z};
                run_block(launch.block);
            }
}

template <typename... P>
static void run(void (*kernel)(P...), const Launch &launch, void **arguments) {
    run(kernel, launch, arguments, std::index_sequence_for<P...>());
}

} // namespace host

static inline void __syncthreads() { host::wait(0, host::threads.size()); }
static inline void __syncwarp() { host::wait_for_warp(); }

template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int mask) {
    unsigned own = host::current->number;
    int half = host::hand_out(value);
    return host::hand_of<T>(half, own / host::LANES * host::LANES + ((own ^ mask) % host::LANES));
}

// The tensor core's product of 16 x 16 by 16 x 8 bfloat16, with the layout of its PTX instruction.
#define MMA_IS_DEFINED
struct Operands {
    unsigned a[4], b[2];
};

static inline float low_or_high(unsigned two, int which) {
    unsigned bits = which ? two & 0xffff0000u : two << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static inline void multiply_add(float *sums, const unsigned *a, unsigned b0, unsigned b1) {
    Operands own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    unsigned lane = host::current->number % host::LANES, first = host::first_of_warp();
    int half = host::hand_out(own);
    for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            const Operands &left = host::hand_of<Operands>(half, first + row % 8 * 4 + k % 8 / 2);
            const Operands &right = host::hand_of<Operands>(half, first + column * 4 + k % 8 / 2);
            sums[i] += low_or_high(left.a[row / 8 + k / 8 * 2], k % 2) *
                       low_or_high(right.b[k / 8], k % 2);
        }
    }
}

// What a lane gets of a square whose rows eight lanes know: two neighbours of a row or, transposed,
// of a column.
static inline void emulated_squares(unsigned *fragment, const unsigned short *row,
                                    bool transposed) {
    unsigned lane = host::current->number % host::LANES, first = host::first_of_warp();
    int half = host::hand_out(row);
    for (int i = 0; i < 4; i++) {
        unsigned low = transposed ? lane % 4 * 2 : lane / 4, high = transposed ? low + 1 : low;
        int from = transposed ? lane / 4 : lane % 4 * 2, to = transposed ? from : from + 1;
        const unsigned short *a = host::hand_of<const unsigned short *>(half, first + i * 8 + low);
        const unsigned short *b = host::hand_of<const unsigned short *>(half, first + i * 8 + high);
        if ((unsigned long)a % 16) std::abort(); // rows of a square lie at multiples of 16 bytes
        fragment[i] = a[from] | (unsigned)b[to] << 16;
    }
    host::wait_for_warp(); // what was read may be overwritten from here
}

static inline void load_squares(unsigned *fragment, const unsigned short *row) {
    emulated_squares(fragment, row, false);
}

static inline void load_transposed_squares(unsigned *fragment, const unsigned short *row) {
    emulated_squares(fragment, row, true);
}
