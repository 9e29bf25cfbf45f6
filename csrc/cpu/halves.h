// The sum of the lanes of a vector: its upper half is added to the lower one, and so on.
#pragma once

#include "cpu/simd.h"

namespace hatebm {
namespace {

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))

HATEBM_INLINE float sum_of_halves(__m256 v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif

HATEBM_HD float sum_of_halves(Float v) {
#if defined(__AVX512F__)
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v.v), 1));
    return sum_of_halves(_mm256_add_ps(_mm512_castps512_ps256(v.v), upper));
#elif defined(__AVX2__) && defined(__FMA__)
    return sum_of_halves(v.v);
#else
    return v;
#endif
}

}  // namespace
}  // namespace hatebm
