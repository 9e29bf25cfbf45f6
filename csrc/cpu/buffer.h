// Room that starts at a cache line and is freed with its owner.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace hatebm {
namespace {

struct Freed {
    void operator()(void* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Freed>;
template <class T>
Buffer<T> buffer(int64_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    return Buffer<T>(static_cast<T*>(std::aligned_alloc(64, bytes ? bytes : 64)));
}

}  // namespace
}  // namespace hatebm
