// Walls that reflect: an element that has moved, folded back until it is inside.
#pragma once

#include "formulas/scalar.h"

namespace hatebm {
namespace {

// NaN passes through. A side that is infinite has no wall; `width` is that between the walls, rounded once. An element
// that has met an odd number of walls has `turned`.
HATEBM_HD float folded(float x, float low, float high, float width, bool& turned) {
    turned = x < low || x > high;
    if (!turned) return x;
    if (low == -INFINITY || high == INFINITY) return 2 * (low == -INFINITY ? high : low) - x;
    float way = fmodf(x - low, 2 * width);
    if (way < 0) way += 2 * width;
    turned = way > width;
    if (turned) way = 2 * width - way;
    return clamp(low + way, low, high);
}

HATEBM_HD float folded(float x, float low, float high, float width) {
    bool turned;
    return folded(x, low, high, width, turned);
}

}  // namespace
}  // namespace hatebm
