// Two values that go through a formula side by side: what keeps a processor busy while one waits for its own result.
#pragma once

#include "formulas/scalar.h"

namespace hatebm {
namespace {

template <class T>
struct Twice {
    T a, b;
    Twice() = default;
    HATEBM_HD Twice(T a, T b) : a(a), b(b) {}
    template <class Number>
    HATEBM_HD explicit Twice(Number s) : a(s), b(a) {}
};

template <class T>
HATEBM_HD Twice<T> both(T a, T b) {
    return {a, b};
}

#define HATEBM_TWICE_1(name)                                                                                  \
    template <class T>                                                                                        \
    HATEBM_HD auto name(Twice<T> x) {                                                                         \
        return both(name(x.a), name(x.b));                                                                    \
    }
#define HATEBM_TWICE_OPERATOR(op)                                                                             \
    template <class T>                                                                                        \
    HATEBM_HD Twice<T> operator op(Twice<T> x, Twice<T> y) {                                                  \
        return {x.a op y.a, x.b op y.b};                                                                      \
    }

HATEBM_TWICE_1(sqrt_rn)
HATEBM_TWICE_1(bits_of)
HATEBM_TWICE_1(float_of_bits)
HATEBM_TWICE_1(to_float)
HATEBM_TWICE_1(to_int)
HATEBM_TWICE_1(abs_of)
HATEBM_TWICE_1(high)
HATEBM_TWICE_1(high_to_int)
HATEBM_TWICE_1(low)
HATEBM_TWICE_OPERATOR(+)
HATEBM_TWICE_OPERATOR(-)
HATEBM_TWICE_OPERATOR(*)
HATEBM_TWICE_OPERATOR(/)
HATEBM_TWICE_OPERATOR(&)
HATEBM_TWICE_OPERATOR(^)

template <class T>
HATEBM_HD Twice<T> fma(Twice<T> x, Twice<T> y, Twice<T> z) {
    return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)};
}
template <class T>
HATEBM_HD Twice<T> clamp(Twice<T> v, Twice<T> low, Twice<T> high) {
    return {clamp(v.a, low.a, high.a), clamp(v.b, low.b, high.b)};
}
template <class T>
HATEBM_HD Twice<T> where_greater(Twice<T> x, Twice<T> y, Twice<T> yes, Twice<T> no) {
    return {where_greater(x.a, y.a, yes.a, no.a), where_greater(x.b, y.b, yes.b, no.b)};
}
template <class T>
HATEBM_HD Twice<T> shift_right_logical(Twice<T> v, int k) {
    return {shift_right_logical(v.a, k), shift_right_logical(v.b, k)};
}
template <class T>
HATEBM_HD Twice<T> shift_right(Twice<T> v, int k) {
    return {shift_right(v.a, k), shift_right(v.b, k)};
}
template <class T>
HATEBM_HD Twice<T> shift_left(Twice<T> v, int k) {
    return {shift_left(v.a, k), shift_left(v.b, k)};
}
template <class T>
HATEBM_HD auto multiply(Twice<T> v, uint32_t by) {
    return both(multiply(v.a, by), multiply(v.b, by));
}
template <class T>
HATEBM_HD Twice<T> xor3(Twice<T> x, Twice<T> y, uint32_t z) {
    return {xor3(x.a, y.a, z), xor3(x.b, y.b, z)};
}

#undef HATEBM_TWICE_1
#undef HATEBM_TWICE_OPERATOR

}  // namespace
}  // namespace hatebm
