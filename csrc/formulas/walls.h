// Walls that reflect: an element that has moved, folded back until it is inside.
#pragma once

#include "formulas/scalar.h"

namespace hatebm {
namespace {

// NaN passes through. A side that is infinite has no wall; `width` is that between the walls, rounded once.
HATEBM_HD float folded(float x, float low, float high, float width) {
    if (!(x < low) && !(x > high)) return x;
    if (low == -INFINITY || high == INFINITY) return 2 * (low == -INFINITY ? high : low) - x;
    float way = fmodf(x - low, 2 * width);
    if (way < 0) way += 2 * width;
    if (way > width) way = 2 * width - way;
    return clamp(low + way, low, high);
}

}  // namespace
}  // namespace hatebm
