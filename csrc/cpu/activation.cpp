// Activations and their slopes, for networks whose gradient needs both, on the CPU.
#include "cpu/activation.h"

#include <algorithm>

#include "cpu/cpu.h"
#include "cpu/parallel.h"

namespace hatebm::HATEBM_ISA {

namespace {

constexpr int64_t chunk = 4096;  // floats, which stay in the first cache between the copy and the work

}  // namespace

void modulated(const ModulatedArgs& a) {
    if (a.count == 0) return;
    const Activate activate = activate_of(a.kind);
    const int64_t size = a.count / a.images, part = std::max<int64_t>(1, chunk / a.channels) * a.channels;
    const int64_t parts = (size + part - 1) / part;
    for_each(a.images * parts, a.count > worth_sharing ? a.threads : 1, [&](int64_t job) {
        const int64_t image = job / parts, first = image * size + job % parts * part;
        const int64_t count = std::min(part, (image + 1) * size - first);
        const float* gain = a.gain.at ? a.gain.at + image * a.gain.step : nullptr;
        const float* shift = a.shift.at ? a.shift.at + image * a.shift.step : nullptr;
        float *values = a.values + first, *slopes = a.slopes + first;
        const auto each = [&](auto work) {
            for (int64_t pixel = 0; pixel < count; pixel += a.channels)
                for (int64_t c = 0; c < a.channels; c += lanes) work(pixel + c, c);
        };
        const auto multiply = [&](const float* from, float* to) {
            each([&](int64_t i, int64_t c) {
                Float v, g;
                load(from + i, v);
                load(gain + c, g);
                store(to + i, v * g);
            });
        };
        if (gain) multiply(a.x + first, values);
        else std::copy_n(a.x + first, count, values);
        activate(a.parameter, count, values, slopes);
        if (gain) multiply(slopes, slopes);
        if (shift)
            each([&](int64_t i, int64_t c) {
                Float v, s;
                load(values + i, v);
                load(shift + c, s);
                store(values + i, v + s);
            });
    });
}

void activation(const ActivationArgs& a) {
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
