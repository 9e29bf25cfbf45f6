// The host's side of a launch: the right device, the size of the grid, the error in words.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cuda/cuda.h"

namespace hatebm::cuda {
namespace {

inline void check(cudaError_t error, const char* op) {
    if (error != cudaSuccess)
        throw std::runtime_error(std::string(op) + ": CUDA wanted cudaSuccess, got " + cudaGetErrorString(error));
}

// Makes a device the current one for as long as it lives.
class OnDevice {
public:
    OnDevice(const char* op, int device) : op(op) {
        check(cudaGetDevice(&before), op);
        if (before != device) check(cudaSetDevice(device), op);
        changed = before != device;
    }
    OnDevice(const OnDevice&) = delete;
    ~OnDevice() {
        if (changed) cudaSetDevice(before);
    }
    void check_launch() const { check(cudaGetLastError(), op); }

private:
    const char* op;
    int before = 0;
    bool changed = false;
};

// Blocks for `items` of which a block takes `per_block` at a time: enough to fill the device several times over.
inline unsigned blocks_for(const Launch& launch, int64_t items, int64_t per_block) {
    int processors = 1;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, launch.device);
    return static_cast<unsigned>(std::min<int64_t>((items + per_block - 1) / per_block, 32 * processors));
}

inline cudaStream_t stream_of(const Launch& launch) { return static_cast<cudaStream_t>(launch.stream); }

inline bool aligned(const void* pointer, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

}  // namespace
}  // namespace hatebm::cuda
