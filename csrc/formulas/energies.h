// Energies with a formula and their gradients, for scalars and SIMD vectors that hold one chain a lane.
//
// An energy looks at the whole state first, and gathers there what every element's gradient needs; sums over elements are
// taken in ascending order. State and scratch are columns: element e by [e], and `put` writes it. On a GPU a crew of
// threads may share the look at one state; each then sees what all have written.
#pragma once

#include "formulas/philox.h"
#include "formulas/whole.h"

namespace hatebm {

namespace {

// e^x within 1 ulp, subnormal results included: x = k ln 2 + r with |r| <= ln(2) / 2, a polynomial (Cephes' expf), and
// 2^k as two factors.
template <class Float>
HATEBM_HD Float exponential(Float x) {
    using Int = decltype(bits_of(x));
    x = clamp(x, Float(-104.0f), Float(89.0f));
    const Float shifted = fma(x, Float(1.4426950216293335f), Float(12582912.0f));
    const Float whole = shifted - Float(12582912.0f);
    const Float r = fma(whole, Float(0.00021219444170128554f), fma(whole, Float(-0.693359375f), x));
    Float p = Float(0.00019875691214110702f);
    p = fma(p, r, Float(0.001398199936375022f));
    p = fma(p, r, Float(0.008333452045917511f));
    p = fma(p, r, Float(0.04166579619050026f));
    p = fma(p, r, Float(0.1666666567325592f));
    p = fma(p, r, Float(0.5f));
    p = fma(p, r, Float(1.0f));
    p = fma(p, r, Float(1.0f));
    const Int k = bits_of(shifted) - Int(0x4B400000);
    const Int half = shift_right(k, 1);
    const Float first = float_of_bits(shift_left(half - Int(-127), 23));
    return p * first * float_of_bits(shift_left(k - half - Int(-127), 23));
}

// ln x of a normal x > 0, by the polynomial of the normals' logarithm.
template <class Float>
HATEBM_HD Float logarithm(Float x) {
    using Int = decltype(bits_of(x));
    const Int above = bits_of(x) - Int(0x3F2AAAAB);
    const Float t = float_of_bits(bits_of(x) - (above & Int(-0x800000))) - Float(1.0f);
    return Float(-0.5f) * fma(to_float(shift_right(above, 23)), Float(-1.3862943649291992f), t * log_series(t));
}

// The crew of a state that nobody shares.
struct Alone {
    static constexpr int rank = 0, size = 1;
    HATEBM_HD void wait() const {}
};

// E = sum p (x - m)^2 / 2
struct Diagonal {
    const float *mean, *precision;
    HATEBM_HD explicit Diagonal(const Formula& f) : mean(f.where), precision(f.weight) {}

    template <class Float>
    struct Seen {};
    template <class Column, class Crew>
    HATEBM_HD Seen<typename Column::Value> look(Column, int64_t, Column, Crew) const {
        return {};
    }
    template <int count, class Column, class Float>
    HATEBM_HD void gradient(const Seen<Float>&, Column, int64_t e, const Float* x, Float* g) const {
        HATEBM_UNROLL(4)
        for (int k = 0; k < count; ++k) g[k] = Float(precision[e + k]) * (x[k] - Float(mean[e + k]));
    }
    template <class Float>
    HATEBM_HD Float term(const Seen<Float>&, int64_t e, Float x, Float g) const {
        return g * (x - Float(mean[e]));
    }
    HATEBM_HD double total(double sum) const { return 0.5 * sum; }
};

// E = (x - m)' P (x - m) / 2; the differences lie in `scratch`.
struct Full {
    const float *mean, *rows;
    int64_t d;
    HATEBM_HD explicit Full(const Formula& f) : mean(f.where), rows(f.weight), d(f.d) {}

    template <class Float>
    struct Seen {};
    template <class Column, class Crew>
    HATEBM_HD Seen<typename Column::Value> look(Column state, int64_t count, Column scratch, Crew crew) const {
        using Float = typename Column::Value;
        for (int64_t e = crew.rank; e < count; e += crew.size) scratch.put(e, state[e] - Float(mean[e]));
        crew.wait();
        return {};
    }
    template <int count, class Column, class Float>
    HATEBM_HD void gradient(const Seen<Float>&, Column scratch, int64_t e, const Float*, Float* g) const {
        const float* row = rows + e * d;
        Float sum[count];
        HATEBM_UNROLL(4)
        for (int k = 0; k < count; ++k) sum[k] = Float(0.0f);
        for (int64_t j = 0; j < d; ++j) {
            const Float away = scratch[j];
            HATEBM_UNROLL(4)
            for (int k = 0; k < count; ++k) sum[k] = fma(Float(row[k * d + j]), away, sum[k]);
        }
        HATEBM_UNROLL(4)
        for (int k = 0; k < count; ++k) g[k] = sum[k];
    }
    template <class Float>
    HATEBM_HD Float term(const Seen<Float>&, int64_t e, Float x, Float g) const {
        return g * (x - Float(mean[e]));
    }
    HATEBM_HD double total(double sum) const { return 0.5 * sum; }
};

// E = height sum ((x / a)^2 - 1)^2, with height, 1 / a and 4 height / a as numbers
struct DoubleWell {
    float height, inverse, slope;
    HATEBM_HD explicit DoubleWell(const Formula& f) : height(f.where[0]), inverse(f.where[1]), slope(f.where[2]) {}

    template <class Float>
    struct Seen {};
    template <class Column, class Crew>
    HATEBM_HD Seen<typename Column::Value> look(Column, int64_t, Column, Crew) const {
        return {};
    }
    template <int count, class Column, class Float>
    HATEBM_HD void gradient(const Seen<Float>&, Column, int64_t, const Float* x, Float* g) const {
        HATEBM_UNROLL(4)
        for (int k = 0; k < count; ++k) {
            const Float s = x[k] * Float(inverse);
            g[k] = Float(slope) * (s * fma(s, s, Float(-1.0f)));
        }
    }
    template <class Float>
    HATEBM_HD Float term(const Seen<Float>&, int64_t, Float x, Float) const {
        const Float s = x * Float(inverse), wall = fma(s, s, Float(-1.0f));
        return wall * wall;
    }
    HATEBM_HD double total(double sum) const { return height * sum; }
};

// E = v^2 / (2 scale^2) + (d - 1) v / 2 + e^-v sum x^2 / 2, v = element 0, with 1 / scale^2 as a number
struct Funnel {
    float inverse, slope;
    HATEBM_HD explicit Funnel(const Formula& f) : inverse(f.where[0]), slope(0.5f * static_cast<float>(f.d - 1)) {}

    template <class Float>
    struct Seen {
        Float narrow, squares;  // e^-v and the sum of the squares
    };
    template <class Column, class Crew>
    HATEBM_HD Seen<typename Column::Value> look(Column state, int64_t count, Column, Crew) const {
        using Float = typename Column::Value;
        Float squares(0.0f);
        for (int64_t e = 1; e < count; ++e) {
            const Float x = state[e];
            squares = fma(x, x, squares);
        }
        return {exponential(Float(0.0f) - state[0]), squares};
    }
    template <int count, class Column, class Float>
    HATEBM_HD void gradient(const Seen<Float>& seen, Column, int64_t e, const Float* x, Float* g) const {
        HATEBM_UNROLL(4)
        for (int k = 0; k < count; ++k) g[k] = seen.narrow * x[k];
        if (e == 0) g[0] = fma(seen.narrow * seen.squares, Float(-0.5f), fma(x[0], Float(inverse), Float(slope)));
    }
    template <class Float>
    HATEBM_HD Float term(const Seen<Float>& seen, int64_t e, Float x, Float) const {
        return e == 0 ? x * fma(x, Float(0.5f * inverse), Float(slope)) : Float(0.5f) * seen.narrow * x * x;
    }
    HATEBM_HD double total(double sum) const { return sum; }
};

// a / b, rounded once.
template <class Float>
HATEBM_HD Float quotient(Float a, Float b) {
#ifdef __CUDA_ARCH__
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
}

// E = -ln sum_k exp(a_k), a_k = log weight_k - |x - m_k|^2 / (2 std_k^2); what pulls to each mean lies in `scratch`.
// A component e^-80 of the largest counts as 0: subnormal numbers are slow.
struct Mixture {
    const float *means, *fall, *precision, *log_weight;
    int64_t components, row;
    HATEBM_HD explicit Mixture(const Formula& f)
        : means(f.where), fall(f.weight), precision(f.weight + f.components),
          log_weight(f.weight + 2 * f.components), components(f.components), row(f.d) {}

    template <class Float>
    struct Seen {
        Float energy;
    };
    template <class Column, class Crew>
    HATEBM_HD Seen<typename Column::Value> look(Column state, int64_t count, Column scratch, Crew crew) const {
        using Float = typename Column::Value;
        for (int64_t k = crew.rank; k < components; k += crew.size) {
            Float squares(0.0f);
            for (int64_t e = 0; e < count; ++e) {
                const Float away = state[e] - Float(means[k * row + e]);
                squares = fma(away, away, squares);
            }
            scratch.put(k, fma(squares, Float(fall[k]), Float(log_weight[k])));
        }
        crew.wait();
        Float most = scratch[0];
        for (int64_t k = 1; k < components; ++k) most = where_greater(scratch[k], most, scratch[k], most);
        crew.wait();
        for (int64_t k = crew.rank; k < components; k += crew.size) {
            const Float below = scratch[k] - most;
            const Float share = exponential(clamp(below, Float(-80.0f), Float(0.0f)));
            scratch.put(k, where_greater(below, Float(-80.0f), share, Float(0.0f)));
        }
        crew.wait();
        Float sum(0.0f);
        for (int64_t k = 0; k < components; ++k) sum = sum + scratch[k];
        crew.wait();
        for (int64_t k = crew.rank; k < components; k += crew.size)
            scratch.put(k, quotient(scratch[k], sum) * Float(precision[k]));
        crew.wait();
        return {Float(0.0f) - (most + logarithm(sum))};
    }
    template <int count, class Column, class Float>
    HATEBM_HD void gradient(const Seen<Float>&, Column scratch, int64_t e, const Float* x, Float* g) const {
        Float sum[count];
        HATEBM_UNROLL(4)
        for (int k = 0; k < count; ++k) sum[k] = Float(0.0f);
        for (int64_t c = 0; c < components; ++c) {
            const Float pull = scratch[c];
            HATEBM_UNROLL(4)
            for (int k = 0; k < count; ++k) sum[k] = fma(pull, x[k] - Float(means[c * row + e + k]), sum[k]);
        }
        HATEBM_UNROLL(4)
        for (int k = 0; k < count; ++k) g[k] = sum[k];
    }
    template <class Float>
    HATEBM_HD Float term(const Seen<Float>& seen, int64_t e, Float, Float) const {
        return e == 0 ? seen.energy : Float(0.0f);
    }
    HATEBM_HD double total(double sum) const { return sum; }
};

}  // namespace
}  // namespace hatebm
