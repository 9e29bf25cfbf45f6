// Runs CUDA kernels on the CPU: each thread of a block is a fiber, which gives way where it waits for others.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __maxnreg__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float4 {
    float x, y, z, w;
};
struct uint2 {
    uint32_t x, y;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int) {
    return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, void*) {
    return std::memset(to, value, bytes), cudaSuccess;
}
inline int processors = 1;
inline cudaError_t cudaDeviceGetAttribute(int* value, int attribute, int) {
    return *value = attribute == cudaDevAttrMultiProcessorCount ? processors : 227 * 1024, cudaSuccess;
}

inline dim3 blockIdx, blockDim, gridDim, threadIdx;
inline double __dsqrt_rn(double v) { return std::sqrt(v); }
inline float __double2float_rn(double v) { return static_cast<float>(v); }
inline void atomicMin(long long* at, long long v) { *at = v < *at ? v : *at; }

namespace emulation {

struct Barrier {
    int waiting = 0, rounds = 0;
};

struct Fiber {
    ucontext_t context;
    dim3 index;
    bool done = false;
    std::vector<char> stack = std::vector<char>(1 << 17);
};

inline std::vector<Fiber> fibers;
inline size_t current;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline std::vector<Barrier> barriers;  // of each warp, then of the block
inline double slots[1024];
alignas(16) inline char shared[227 * 1024];  // what a launch asks for

inline void give_way() { swapcontext(&fibers[current].context, &scheduler); }

inline void wait(Barrier& barrier, int threads) {
    const int round = barrier.rounds;
    if (++barrier.waiting == threads) {
        barrier.waiting = 0;
        ++barrier.rounds;
    }
    while (barrier.rounds == round) give_way();
}

inline void run_fiber() {
    body();
    fibers[current].done = true;
    give_way();
}

inline void run_block() {
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    if (threads % 32 != 0) std::abort();
    fibers.resize(threads);
    barriers.assign(threads / 32 + 1, {});
    for (unsigned t = 0; t < threads; ++t) {
        Fiber& fiber = fibers[t];
        fiber.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool running = true; running;) {
        running = false;
        for (current = 0; current < threads; ++current) {
            if (fibers[current].done) continue;
            running = true;
            threadIdx = fibers[current].index;
            swapcontext(&scheduler, &fibers[current].context);
        }
    }
}

template <class... Parameters>
auto launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t bytes, cudaStream_t) {
    if (bytes > sizeof shared) std::abort();
    return [=](Parameters... arguments) {
        std::memset(shared, 0xFF, sizeof shared);
        body = [=] { kernel(arguments...); };
        gridDim = blocks;
        blockDim = threads;
        for (unsigned b = 0; b < blocks.x; ++b) {
            blockIdx = {b};
            run_block();
        }
    };
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::barriers.back(), static_cast<int>(emulation::fibers.size())); }

inline bool __syncthreads_and(bool mine) {
    using namespace emulation;
    slots[current] = mine;
    __syncthreads();
    bool all = true;
    for (size_t t = 0; t < fibers.size(); ++t) all = all && slots[t] != 0;
    __syncthreads();
    return all;
}

inline double __shfl_xor_sync(unsigned, double v, int mask) {
    using namespace emulation;
    Barrier& warp = barriers[current / 32];
    slots[current] = v;
    wait(warp, 32);
    const double other = slots[current ^ mask];
    wait(warp, 32);
    return other;
}

inline void __syncwarp() { emulation::wait(emulation::barriers[emulation::current / 32], 32); }

inline bool __any_sync(unsigned, bool mine) {
    double any = mine;
    for (int mask = 16; mask > 0; mask /= 2) any += __shfl_xor_sync(~0u, any, mask);
    return any != 0;
}
