// Sharing out a loop over torch's own threads; a loop for one thread never enters OpenMP, whose regions cost 0.3 us.
#pragma once

#include <cstdint>

namespace hatebm {
namespace {

template <class Body>
inline void for_each(int64_t count, int threads, Body body) {
    if (threads <= 1 || count <= 1) {
        for (int64_t i = 0; i < count; ++i) body(i);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; ++i) body(i);
}

constexpr int64_t worth_sharing = 16384;  // elements

}  // namespace
}  // namespace hatebm
