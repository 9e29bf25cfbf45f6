// The names of scalar.h for vectors of 16 (AVX-512) or 8 (AVX2 + FMA) lanes; elsewhere `Vector` is the scalar itself.
//
// The Philox state lives in 64-bit lanes, two registers to a vector of words: the product of the low halves is one
// instruction, its high half one shift, and what gathers in the upper halves is never read.
// Lane 4 L + j of a vector of words holds quad `lanes / 4 * j + L`, so that the transposition of four vectors of
// normals to consecutive elements stays within 128-bit lanes.
#pragma once

#include "formulas/twice.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#define HATEBM_INLINE inline __attribute__((always_inline))

namespace hatebm {
namespace {

#if defined(__AVX512F__)

struct Float {
    __m512 v;
    HATEBM_INLINE Float() = default;
    HATEBM_INLINE Float(__m512 v) : v(v) {}
    HATEBM_INLINE explicit Float(float s) : v(_mm512_set1_ps(s)) {}
};
struct Int {
    __m512i v;
    HATEBM_INLINE Int(__m512i v) : v(v) {}
    HATEBM_INLINE explicit Int(int32_t s) : v(_mm512_set1_epi32(s)) {}
};
struct Word {  // lane p in the low half of 64-bit lane p / 2 of `even` or `odd`
    __m512i even, odd;
    HATEBM_INLINE Word(__m512i even, __m512i odd) : even(even), odd(odd) {}
    HATEBM_INLINE explicit Word(uint32_t s) : even(_mm512_set1_epi64(s)), odd(even) {}
};
struct Doubles {  // of the lanes of a Float
    __m512d lo, hi;
    HATEBM_INLINE Doubles() = default;
    HATEBM_INLINE Doubles(__m512d lo, __m512d hi) : lo(lo), hi(hi) {}
    HATEBM_INLINE explicit Doubles(double s) : lo(_mm512_set1_pd(s)), hi(lo) {}
};
struct Vector {
    static constexpr int lanes = 16;
    static constexpr bool two_tiles = true;  // drawn together, where there are registers for it
};

HATEBM_INLINE Float operator+(Float a, Float b) { return _mm512_add_ps(a.v, b.v); }
HATEBM_INLINE Float operator-(Float a, Float b) { return _mm512_sub_ps(a.v, b.v); }
HATEBM_INLINE Float operator*(Float a, Float b) { return _mm512_mul_ps(a.v, b.v); }
HATEBM_INLINE Float operator/(Float a, Float b) { return _mm512_div_ps(a.v, b.v); }
HATEBM_INLINE Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
HATEBM_INLINE Float sqrt_rn(Float a) { return _mm512_sqrt_ps(a.v); }
HATEBM_INLINE Float clamp(Float v, Float low, Float high) {
    return _mm512_min_ps(high.v, _mm512_max_ps(low.v, v.v));  // the second operand wins on NaN and on equal zeros
}
HATEBM_INLINE Float where_greater(Float a, Float b, Float yes, Float no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), no.v, yes.v);
}

HATEBM_INLINE Int operator+(Int a, Int b) { return _mm512_add_epi32(a.v, b.v); }
HATEBM_INLINE Int operator-(Int a, Int b) { return _mm512_sub_epi32(a.v, b.v); }
HATEBM_INLINE Int operator^(Int a, Int b) { return _mm512_xor_si512(a.v, b.v); }
HATEBM_INLINE Int operator&(Int a, Int b) { return _mm512_and_si512(a.v, b.v); }
HATEBM_INLINE Int shift_right_logical(Int v, int k) { return _mm512_srli_epi32(v.v, k); }
HATEBM_INLINE Int shift_right(Int v, int k) { return _mm512_srai_epi32(v.v, k); }
HATEBM_INLINE Int shift_left(Int v, int k) { return _mm512_slli_epi32(v.v, k); }
HATEBM_INLINE Int bits_of(Float v) { return _mm512_castps_si512(v.v); }
HATEBM_INLINE Float float_of_bits(Int v) { return _mm512_castsi512_ps(v.v); }
HATEBM_INLINE Float to_float(Int v) { return _mm512_cvtepi32_ps(v.v); }

HATEBM_INLINE Word multiply(Word a, uint32_t b) {
    const __m512i m = _mm512_set1_epi64(b);
    return {_mm512_mul_epu32(a.even, m), _mm512_mul_epu32(a.odd, m)};
}
HATEBM_INLINE Word high(Word p) {  // a shuffle: shifts share the multiplier's port on Intel
    return {_mm512_shuffle_epi32(p.even, _MM_PERM_DDBB), _mm512_shuffle_epi32(p.odd, _MM_PERM_DDBB)};
}
HATEBM_INLINE Word operator^(Word a, Word b) {
    return {_mm512_xor_si512(a.even, b.even), _mm512_xor_si512(a.odd, b.odd)};
}
HATEBM_INLINE Word xor3(Word a, Word b, uint32_t c) {
    const __m512i k = _mm512_set1_epi32(static_cast<int32_t>(c));
    return {_mm512_ternarylogic_epi64(a.even, b.even, k, 0x96), _mm512_ternarylogic_epi64(a.odd, b.odd, k, 0x96)};
}
HATEBM_INLINE Int to_int(Word w) { return _mm512_mask_shuffle_epi32(w.even, 0xAAAA, w.odd, _MM_PERM_CCAA); }
HATEBM_INLINE Int high_to_int(Word p) { return _mm512_mask_shuffle_epi32(p.odd, 0x5555, p.even, _MM_PERM_DDBB); }
HATEBM_INLINE Int xor3(Int a, Int b, uint32_t c) {
    return _mm512_ternarylogic_epi32(a.v, b.v, _mm512_set1_epi32(static_cast<int32_t>(c)), 0x96);
}
HATEBM_INLINE Word load_words(const uint32_t* p) {
    const __m512i v = _mm512_loadu_si512(p);
    return {v, _mm512_srli_epi64(v, 32)};
}
HATEBM_INLINE Word quads_from(uint32_t first) {
    const __m512i even = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), odd = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    const __m512i base = _mm512_set1_epi32(static_cast<int32_t>(first));
    return {_mm512_add_epi32(base, even), _mm512_add_epi32(base, odd)};
}

HATEBM_INLINE void load(const float* p, Float& v) { v = _mm512_loadu_ps(p); }
HATEBM_INLINE void store(float* p, Float v) { _mm512_storeu_ps(p, v.v); }
HATEBM_INLINE void load_bfloat16(const uint16_t* p, Float& v) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    v = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
HATEBM_INLINE void load_float16(const uint16_t* p, Float& v) {
    v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
HATEBM_INLINE Doubles doubles_of(Float v) {
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(v.v)),
            _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v.v), 1)))};
}
HATEBM_INLINE Doubles operator+(Doubles a, Doubles b) { return {_mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi)}; }
HATEBM_INLINE Doubles operator-(Doubles a, Doubles b) { return {_mm512_sub_pd(a.lo, b.lo), _mm512_sub_pd(a.hi, b.hi)}; }
HATEBM_INLINE Doubles operator*(Doubles a, Doubles b) { return {_mm512_mul_pd(a.lo, b.lo), _mm512_mul_pd(a.hi, b.hi)}; }
HATEBM_INLINE Doubles sqrt_rn(Doubles a) { return {_mm512_sqrt_pd(a.lo), _mm512_sqrt_pd(a.hi)}; }
HATEBM_INLINE Float rounded(Doubles a) {
    const __m512d lo = _mm512_castps_pd(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.lo)));
    return _mm512_castpd_ps(_mm512_insertf64x4(lo, _mm256_castps_pd(_mm512_cvtpd_ps(a.hi)), 1));
}
HATEBM_INLINE void store(double* p, Doubles v) { _mm512_storeu_pd(p, v.lo), _mm512_storeu_pd(p + 8, v.hi); }
HATEBM_INLINE bool all_zero(Float v) {
    return _mm512_cmp_ps_mask(v.v, _mm512_setzero_ps(), _CMP_EQ_OQ) == 0xFFFF;
}

HATEBM_INLINE void transpose(Float& n0, Float& n1, Float& n2, Float& n3) {
    const __m512 a = _mm512_unpacklo_ps(n0.v, n1.v), b = _mm512_unpackhi_ps(n0.v, n1.v);
    const __m512 c = _mm512_unpacklo_ps(n2.v, n3.v), d = _mm512_unpackhi_ps(n2.v, n3.v);
    n0 = _mm512_shuffle_ps(a, c, 0x44);
    n1 = _mm512_shuffle_ps(a, c, 0xEE);
    n2 = _mm512_shuffle_ps(b, d, 0x44);
    n3 = _mm512_shuffle_ps(b, d, 0xEE);
}

#else

struct Float {
    __m256 v;
    HATEBM_INLINE Float() = default;
    HATEBM_INLINE Float(__m256 v) : v(v) {}
    HATEBM_INLINE explicit Float(float s) : v(_mm256_set1_ps(s)) {}
};
struct Int {
    __m256i v;
    HATEBM_INLINE Int(__m256i v) : v(v) {}
    HATEBM_INLINE explicit Int(int32_t s) : v(_mm256_set1_epi32(s)) {}
};
struct Word {
    __m256i even, odd;
    HATEBM_INLINE Word(__m256i even, __m256i odd) : even(even), odd(odd) {}
    HATEBM_INLINE explicit Word(uint32_t s) : even(_mm256_set1_epi64x(s)), odd(even) {}
};
struct Doubles {  // of the lanes of a Float
    __m256d lo, hi;
    HATEBM_INLINE Doubles() = default;
    HATEBM_INLINE Doubles(__m256d lo, __m256d hi) : lo(lo), hi(hi) {}
    HATEBM_INLINE explicit Doubles(double s) : lo(_mm256_set1_pd(s)), hi(lo) {}
};
struct Vector {
    static constexpr int lanes = 8;
    static constexpr bool two_tiles = true;
};

HATEBM_INLINE Float operator+(Float a, Float b) { return _mm256_add_ps(a.v, b.v); }
HATEBM_INLINE Float operator-(Float a, Float b) { return _mm256_sub_ps(a.v, b.v); }
HATEBM_INLINE Float operator*(Float a, Float b) { return _mm256_mul_ps(a.v, b.v); }
HATEBM_INLINE Float operator/(Float a, Float b) { return _mm256_div_ps(a.v, b.v); }
HATEBM_INLINE Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
HATEBM_INLINE Float sqrt_rn(Float a) { return _mm256_sqrt_ps(a.v); }
HATEBM_INLINE Float clamp(Float v, Float low, Float high) {
    return _mm256_min_ps(high.v, _mm256_max_ps(low.v, v.v));
}
HATEBM_INLINE Float where_greater(Float a, Float b, Float yes, Float no) {
    return _mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ));
}

HATEBM_INLINE Int operator+(Int a, Int b) { return _mm256_add_epi32(a.v, b.v); }
HATEBM_INLINE Int operator-(Int a, Int b) { return _mm256_sub_epi32(a.v, b.v); }
HATEBM_INLINE Int operator^(Int a, Int b) { return _mm256_xor_si256(a.v, b.v); }
HATEBM_INLINE Int operator&(Int a, Int b) { return _mm256_and_si256(a.v, b.v); }
HATEBM_INLINE Int shift_right_logical(Int v, int k) { return _mm256_srli_epi32(v.v, k); }
HATEBM_INLINE Int shift_right(Int v, int k) { return _mm256_srai_epi32(v.v, k); }
HATEBM_INLINE Int shift_left(Int v, int k) { return _mm256_slli_epi32(v.v, k); }
HATEBM_INLINE Int bits_of(Float v) { return _mm256_castps_si256(v.v); }
HATEBM_INLINE Float float_of_bits(Int v) { return _mm256_castsi256_ps(v.v); }
HATEBM_INLINE Float to_float(Int v) { return _mm256_cvtepi32_ps(v.v); }

HATEBM_INLINE Word multiply(Word a, uint32_t b) {
    const __m256i m = _mm256_set1_epi64x(b);
    return {_mm256_mul_epu32(a.even, m), _mm256_mul_epu32(a.odd, m)};
}
HATEBM_INLINE Word high(Word p) { return {_mm256_shuffle_epi32(p.even, 0xF5), _mm256_shuffle_epi32(p.odd, 0xF5)}; }
HATEBM_INLINE Word operator^(Word a, Word b) {
    return {_mm256_xor_si256(a.even, b.even), _mm256_xor_si256(a.odd, b.odd)};
}
HATEBM_INLINE Word xor3(Word a, Word b, uint32_t c) {
    const __m256i k = _mm256_set1_epi32(static_cast<int32_t>(c));
    return a ^ b ^ Word(k, k);
}
HATEBM_INLINE Int to_int(Word w) { return _mm256_blend_epi32(w.even, _mm256_slli_epi64(w.odd, 32), 0xAA); }
HATEBM_INLINE Int high_to_int(Word p) { return _mm256_blend_epi32(_mm256_shuffle_epi32(p.even, 0xF5), p.odd, 0xAA); }
HATEBM_INLINE Int xor3(Int a, Int b, uint32_t c) { return a ^ b ^ Int(static_cast<int32_t>(c)); }
HATEBM_INLINE Word load_words(const uint32_t* p) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {v, _mm256_srli_epi64(v, 32)};
}
HATEBM_INLINE Word quads_from(uint32_t first) {
    const __m256i even = _mm256_setr_epi64x(0, 4, 1, 5), odd = _mm256_setr_epi64x(2, 6, 3, 7);
    const __m256i base = _mm256_set1_epi32(static_cast<int32_t>(first));
    return {_mm256_add_epi32(base, even), _mm256_add_epi32(base, odd)};
}

HATEBM_INLINE void load(const float* p, Float& v) { v = _mm256_loadu_ps(p); }
HATEBM_INLINE void store(float* p, Float v) { _mm256_storeu_ps(p, v.v); }
HATEBM_INLINE void load_bfloat16(const uint16_t* p, Float& v) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    v = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
HATEBM_INLINE void load_float16(const uint16_t* p, Float& v) {
    v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
HATEBM_INLINE Doubles doubles_of(Float v) {
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(v.v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v.v, 1))};
}
HATEBM_INLINE Doubles operator+(Doubles a, Doubles b) { return {_mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)}; }
HATEBM_INLINE Doubles operator-(Doubles a, Doubles b) { return {_mm256_sub_pd(a.lo, b.lo), _mm256_sub_pd(a.hi, b.hi)}; }
HATEBM_INLINE Doubles operator*(Doubles a, Doubles b) { return {_mm256_mul_pd(a.lo, b.lo), _mm256_mul_pd(a.hi, b.hi)}; }
HATEBM_INLINE Doubles sqrt_rn(Doubles a) { return {_mm256_sqrt_pd(a.lo), _mm256_sqrt_pd(a.hi)}; }
HATEBM_INLINE Float rounded(Doubles a) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(a.lo)), _mm256_cvtpd_ps(a.hi), 1);
}
HATEBM_INLINE void store(double* p, Doubles v) { _mm256_storeu_pd(p, v.lo), _mm256_storeu_pd(p + 4, v.hi); }
HATEBM_INLINE bool all_zero(Float v) {
    return _mm256_movemask_ps(_mm256_cmp_ps(v.v, _mm256_setzero_ps(), _CMP_EQ_OQ)) == 0xFF;
}

HATEBM_INLINE void transpose(Float& n0, Float& n1, Float& n2, Float& n3) {
    const __m256 a = _mm256_unpacklo_ps(n0.v, n1.v), b = _mm256_unpackhi_ps(n0.v, n1.v);
    const __m256 c = _mm256_unpacklo_ps(n2.v, n3.v), d = _mm256_unpackhi_ps(n2.v, n3.v);
    n0 = _mm256_shuffle_ps(a, c, 0x44);
    n1 = _mm256_shuffle_ps(a, c, 0xEE);
    n2 = _mm256_shuffle_ps(b, d, 0x44);
    n3 = _mm256_shuffle_ps(b, d, 0xEE);
}

#endif

HATEBM_INLINE Word low(Word product) { return product; }
HATEBM_INLINE Float abs_of(Float v) { return float_of_bits(bits_of(v) & Int(0x7FFFFFFF)); }

}  // namespace
}  // namespace hatebm

#else

namespace hatebm {
namespace {

struct Vector {
    static constexpr int lanes = 1;
    static constexpr bool two_tiles = false;
};
using Float = float;
using Doubles = double;
using Int = int32_t;
using Word = uint32_t;

HATEBM_HD Word load_words(const uint32_t* p) { return *p; }
HATEBM_HD Word quads_from(uint32_t first) { return first; }
HATEBM_HD void load(const float* p, float& v) { v = *p; }
HATEBM_HD void store(float* p, float v) { *p = v; }
HATEBM_HD void load_bfloat16(const uint16_t* p, float& v) { v = float_of_bits(static_cast<int32_t>(uint32_t(*p) << 16)); }
HATEBM_HD void load_float16(const uint16_t* p, float& v) { v = float_of_half(*p); }
HATEBM_HD double doubles_of(float v) { return v; }
HATEBM_HD double sqrt_rn(double v) { return __builtin_sqrt(v); }
HATEBM_HD float rounded(double v) { return static_cast<float>(v); }
HATEBM_HD void store(double* p, double v) { *p = v; }
HATEBM_HD bool all_zero(float v) { return v == 0; }
HATEBM_HD void transpose(float&, float&, float&, float&) {}

}  // namespace
}  // namespace hatebm

#endif

namespace hatebm {
namespace {

// A tile: the four vectors that one vector of Philox counters serves.
using Tile = Twice<Twice<Float>>;
constexpr int lanes = Vector::lanes;
constexpr int tile = 4 * lanes;

template <void (*load_vector)(const uint16_t*, Float&)>
HATEBM_HD Tile load_tile(const uint16_t* p) {
    Tile t;
    load_vector(p, t.a.a), load_vector(p + lanes, t.a.b), load_vector(p + 2 * lanes, t.b.a), load_vector(p + 3 * lanes, t.b.b);
    return t;
}
HATEBM_HD Tile load_tile(const float* p) {
    Tile t;
    load(p, t.a.a), load(p + lanes, t.a.b), load(p + 2 * lanes, t.b.a), load(p + 3 * lanes, t.b.b);
    return t;
}
HATEBM_HD void store(float* p, Tile t) {
    store(p, t.a.a), store(p + lanes, t.a.b), store(p + 2 * lanes, t.b.a), store(p + 3 * lanes, t.b.b);
}
HATEBM_HD Doubles squares_of(Float v) { return doubles_of(v) * doubles_of(v); }
HATEBM_HD void store_squares(double* p, Float v) { store(p, squares_of(v)); }
HATEBM_HD void store_squares(double* p, Tile t) {
    store_squares(p, t.a.a), store_squares(p + lanes, t.a.b);
    store_squares(p + 2 * lanes, t.b.a), store_squares(p + 3 * lanes, t.b.b);
}
HATEBM_HD bool all_zero(Tile t) { return all_zero(t.a.a + t.a.b + (t.b.a + t.b.b)); }

}  // namespace
}  // namespace hatebm
