// The float32 and integer operations that the formulas are written in, for one element, on host and device.
// simd.h gives the same names to vectors. Every operation is rounded exactly once (-ffp-contract=off, -fmad=false).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define HATEBM_HD __host__ __device__ __forceinline__
#define HATEBM_UNROLL(times) _Pragma("unroll")
#else
#define HATEBM_HD inline __attribute__((always_inline))
#define HATEBM_PRAGMA(text) _Pragma(#text)
#define HATEBM_UNROLL(times) HATEBM_PRAGMA(GCC unroll times)
#endif

namespace hatebm {
namespace {

HATEBM_HD float fma(float a, float b, float c) {
#ifdef __CUDA_ARCH__
    return __fmaf_rn(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}

HATEBM_HD float sqrt_rn(float v) {
#ifdef __CUDA_ARCH__
    return __fsqrt_rn(v);
#else
    return __builtin_sqrtf(v);
#endif
}

HATEBM_HD int32_t bits_of(float v) {
    int32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

HATEBM_HD float float_of_bits(int32_t bits) {
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

// float16 to float32, exact: a normal number by shifting its fields, a subnormal one by a product.
HATEBM_HD float float_of_half(uint16_t half) {
#ifdef __CUDA_ARCH__
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(half));
    return v;
#else
    const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 0x1F, mantissa = half & 0x3FFu;
    const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
    uint32_t bits = exponent == 31 ? 0x7F800000u | mantissa << 13 : (exponent + 112) << 23 | mantissa << 13;
    if (exponent == 0) bits = static_cast<uint32_t>(bits_of(subnormal));
    return float_of_bits(static_cast<int32_t>(sign | bits));
#endif
}

HATEBM_HD float to_float(int32_t v) { return static_cast<float>(v); }
HATEBM_HD int32_t shift_right_logical(int32_t v, int k) { return static_cast<int32_t>(static_cast<uint32_t>(v) >> k); }
HATEBM_HD int32_t shift_right(int32_t v, int k) { return v >> k; }
HATEBM_HD int32_t shift_left(int32_t v, int k) { return static_cast<int32_t>(static_cast<uint32_t>(v) << k); }

// NaN and the sign of zero pass through.
HATEBM_HD float clamp(float v, float low, float high) {
    v = v < low ? low : v;
    return v > high ? high : v;
}
HATEBM_HD float abs_of(float v) { return float_of_bits(bits_of(v) & 0x7FFFFFFF); }
HATEBM_HD float where_greater(float a, float b, float yes, float no) { return a > b ? yes : no; }

HATEBM_HD uint64_t multiply(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b; }
HATEBM_HD uint32_t high(uint64_t product) { return static_cast<uint32_t>(product >> 32); }
HATEBM_HD uint32_t low(uint64_t product) { return static_cast<uint32_t>(product); }
HATEBM_HD uint32_t xor3(uint32_t a, uint32_t b, uint32_t c) { return a ^ b ^ c; }
HATEBM_HD int32_t to_int(uint32_t word) { return static_cast<int32_t>(word); }
HATEBM_HD int32_t high_to_int(uint64_t product) { return to_int(high(product)); }
HATEBM_HD int32_t xor3(int32_t a, int32_t b, uint32_t c) { return a ^ b ^ to_int(c); }

}  // namespace
}  // namespace hatebm
