// Activations and their slopes, for networks whose gradient needs both, on the CPU.
#include "cpu/activation.h"

#include <algorithm>

#include "cpu/cpu.h"
#include "cpu/parallel.h"

namespace hatebm::HATEBM_ISA {

void activation(const ActivationArgs& a) {
    constexpr int64_t chunk = 4096;  // floats, which stay in the first cache between the copy and the work
    const Activate activate = activate_of(a.kind);
    const int64_t whole = a.count / lanes * lanes;
    for_each((whole + chunk - 1) / chunk, a.count > worth_sharing ? a.threads : 1, [&](int64_t c) {
        const int64_t first = c * chunk, count = std::min(chunk, whole - first);
        std::copy_n(a.x + first, count, a.values + first);
        activate(a.parameter, count, a.values + first, a.slopes + first);
    });
    alignas(64) float value[lanes] = {}, slope[lanes];
    std::copy(a.x + whole, a.x + a.count, value);
    activate(a.parameter, lanes, value, slope);
    std::copy_n(value, a.count - whole, a.values + whole);
    std::copy_n(slope, a.count - whole, a.slopes + whole);
}

}  // namespace hatebm::HATEBM_ISA
