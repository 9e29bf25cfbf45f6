// The Langevin step on the CPU.

#include <cstdlib>

#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace hatebm::HATEBM_ISA {
namespace {

template <GradType G, class Number>
HATEBM_HD void step_tile(const LawOf<Number>& law, const Row& row, int64_t i, Tile eps, Tile factor, bool watched, Tile& unclean,
                         double* squares) {
    const Tile x = load_tile(row.x + i);
    Tile moved;
    if constexpr (G == GradType::none) {
        moved = noise_element(law, x, eps);
    } else {
        const Tile grad = load_grad<G>(row.grad, i);
        if (watched) unclean = fma(grad, Tile(0.0f), unclean);  // stays 0 while all is finite
        moved = step_element(law, x, total_gradient(law, x, grad), eps, factor);
    }
    store(row.x + i, moved);
    if (squares) store_squares(squares + i, moved - x);
    if (row.gz) store(row.image + i, load_tile(row.gz + i) + moved);
}

// The last elements of a row, fewer than a tile, in a tile of their own.
struct Tail {
    alignas(64) float x[tile], grad[tile], noise[tile], gz[tile], image[tile];

    Row open(const Row& row, int64_t i) {
        const int64_t left = row.count - i;
        for (int64_t e = 0; e < tile; ++e) {
            x[e] = e < left ? row.x[i + e] : 0;
            grad[e] = e < left && row.grad ? scalar_grad(row.grad, row.type, i + e) : 0;
            noise[e] = e < left && row.noise ? row.noise[i + e] : 0;
            gz[e] = e < left && row.gz ? row.gz[i + e] : 0;
        }
        return {x, grad, GradType::float32, row.noise ? noise : nullptr, row.gz ? gz : nullptr, image, row.first + i, tile, row.chain};
    }

    void close(const Row& row, int64_t i) const {
        __builtin_memcpy(row.x + i, x, (row.count - i) * sizeof(float));
        if (row.gz) __builtin_memcpy(row.image + i, image, (row.count - i) * sizeof(float));
    }
};

// The noise of the tile at element i of the row.
HATEBM_HD Tile tile_of_noise(bool noisy, const Draw& draw, const RoundKeys& keys, const Row& row, int64_t i) {
    if (!noisy) return Tile(0.0f);
    if (row.noise) return load_tile(row.noise + i);
    return tile_of_normals(draw, keys, row.chain, static_cast<uint32_t>((row.first + i) / 4));
}

// The step without options: noise drawn, nothing clipped, nothing gathered.
bool is_plain(const Law& law, const Row& row, const double* squares) {
    return law.noise_std != 0 && law.add == Add::sequential && law.clip == Clip::none && law.prior_precision == 0 &&
           law.inverse_temperature == 1 && !row.noise && !row.gz && !squares;
}

// Steps a row; `squares`, if any, receives the squared displacements. False where a `watched` gradient is not finite.
template <GradType G, class Laws>
HATEBM_HD bool step_tiles(const Laws& laws, bool noisy, const Draw& draw, const RoundKeys& keys, const Row& row,
                          float clip_factor, bool watched, double* squares) {
    Tile unclean(0.0f);
    const Tile factor(clip_factor);
    const auto step = [&](int64_t at, Tile eps) __attribute__((always_inline)) {
        step_tile<G>(laws.at(at), row, at, eps, factor, watched, unclean, squares);
    };
    int64_t i = noisy && !row.noise ? for_pairs_of_tiles(draw, keys, row.chain, row.first, row.count, step) : 0;
    for (; i + tile <= row.count; i += tile) step(i, tile_of_noise(noisy, draw, keys, row, i));
    if (i < row.count) {
        Tail tail;
        const Row last = tail.open(row, i);
        constexpr GradType in_tail = G == GradType::none ? G : GradType::float32;
        const Tile eps = tile_of_noise(noisy, draw, keys, last, 0);
        step_tile<in_tail>(laws.at(i), last, 0, eps, factor, watched, unclean, squares ? squares + i : nullptr);
        tail.close(row, i);
    }
    return all_zero(unclean);
}

// The law of a plain row: the compiler knows its options.
struct PlainLaw {
    float step_size, noise_std, low, high;
    HATEBM_HD Law at(int64_t) const {
        if (noise_std == 0) __builtin_unreachable();
        return {step_size, noise_std, 1, 0, Add::sequential, Clip::none, false, 0, low, high};
    }
};

// Loops with arguments of their own, which stores to a state cannot change.
template <GradType G>
bool step_plain(const PlainLaw law, const Draw draw, const RoundKeys keys, Row row, bool watched) {
    row.noise = nullptr, row.gz = nullptr;
    return step_tiles<G>(law, true, draw, keys, row, 1, watched, nullptr);
}

template <GradType G>
bool step_any(const OneLaw law, const Draw draw, const RoundKeys keys, const Row row, float clip_factor, bool watched,
              double* squares) {
    return step_tiles<G>(law, law.law.noise_std != 0, draw, keys, row, clip_factor, watched, squares);
}

template <GradType G>
bool step_row(const Law& law, const Draw& draw, const RoundKeys& keys, const Row& row, float factor, bool watched,
              double* squares) {
    if (is_plain(law, row, squares))
        return step_plain<G>({law.step_size, law.noise_std, law.low, law.high}, draw, keys, row, watched);
    return step_any<G>({law}, draw, keys, row, factor, watched, squares);
}

template <GradType G>
bool step_row(const OwnLaws& laws, const Draw& draw, const RoundKeys& keys, const Row& row, float factor, bool watched,
              double* squares) {
    return step_tiles<G>(laws, laws.law.noise_std != 0, draw, keys, row, factor, watched, squares);
}

template <class Laws>
bool step_row(const Laws& law, const Draw& draw, const RoundKeys& keys, const Row& row, float factor, bool watched,
              double* squares) {
    switch (row.type) {
        case GradType::float32: return step_row<GradType::float32>(law, draw, keys, row, factor, watched, squares);
        case GradType::bfloat16: return step_row<GradType::bfloat16>(law, draw, keys, row, factor, watched, squares);
        case GradType::float16: return step_row<GradType::float16>(law, draw, keys, row, factor, watched, squares);
        default: return step_row<GradType::none>(law, draw, keys, row, factor, watched, squares);
    }
}

void mark(const StepArgs& a, int64_t i) {
    if (a.diverged && static_cast<int64_t>(a.draw.step) < a.diverged[i]) a.diverged[i] = static_cast<int64_t>(a.draw.step);
}

bool needs_norm(const StepArgs& a) { return a.grad && (a.law.clip == Clip::norm || a.grad_norm); }

// One sample, row by row: its gradient's norm where that is needed, then the step.
void step_sample(const StepArgs& a, const RoundKeys& keys, int64_t i, int threads, double* sums) {
    const int64_t runs = (a.d + fold - 1) / fold;
    const Law law = law_at(a.law, a.numbers, 0, i);
    float factor = 1;
    if (needs_norm(a)) {
        for_each(runs, threads, [&](int64_t r) {
            Copies copies;
            const int64_t first = r * fold, count = r + 1 < runs ? fold : a.d - first;
            const Row row = open_row(a, i, first, count, copies);
            sums[r] = squared_gradient(law, row.x, row.grad, row.type, count);
        });
        const float norm = static_cast<float>(__builtin_sqrt(tree_sum(sums, runs)));
        if (a.grad_norm) a.grad_norm[i] = norm;
        if (law.clip == Clip::norm) factor = clip_factor(law, norm);
    }
    const bool short_rows = a.displacement || a.layout.dims != 0;  // those that must pass through buffers
    const int64_t length = short_rows ? fold : 16 * fold, rows = (a.d + length - 1) / length;
    bool broken = false;
    for_each(rows, threads, [&](int64_t r) {
        Copies copies;
        double squares[fold + tile];
        const int64_t first = r * length, count = r + 1 < rows ? length : a.d - first;
        const Row row = open_row(a, i, first, count, copies);
        const bool finite = step_row(law, a.draw, keys, row, factor, a.diverged, a.displacement ? squares : nullptr);
        if (!finite) __atomic_store_n(&broken, true, __ATOMIC_RELAXED);
        close_row(a, i, row, copies);
        if (a.displacement) sums[r] = fold_run(squares, row.count);
    });
    if (a.displacement) a.displacement[i] = static_cast<float>(__builtin_sqrt(tree_sum(sums, runs)));
    if (broken) mark(a, i);
}

// Several small chains as one row, their noise drawn beforehand.
void step_run(const StepArgs& a, const RoundKeys& keys, int64_t first, int64_t chains) {
    Copies unused;
    alignas(64) float noise[fold], grad[fold];
    double squares[fold + tile];
    Law law = a.law;
    Row row = open_row(a, first, 0, chains * a.d, unused);
    const Row given = row;
    if (law.noise_std != 0 && !row.noise) {
        if (draws_packed(a.d))
            packed_normals(a.draw, keys, a.chain_ids, first, chains, a.d, noise);
        else
            for (int64_t c = 0; c < chains; ++c)
                row_of_normals(a.draw, keys, chain_id(a.chain_ids, first + c), 0, a.d, noise + c * a.d);
        row.noise = noise;
    }
    const auto law_of = [&](int64_t c) { return law_at(a.law, a.numbers, 0, first + c); };
    const bool measured = needs_norm(a);
    if (measured) {
        float* norms = a.grad_norm ? a.grad_norm + first : nullptr;
        prepare_gradients(law_of, row.x, row.grad, row.type, chains, a.d, norms, grad);
        row.grad = grad, row.type = GradType::float32;
        law = prepared(law);
    }
    const auto step = [&](const auto& laws) {
        return step_row(laws, a.draw, keys, row, 1, a.diverged, a.displacement ? squares : nullptr);
    };
    const auto left_of = [&](int64_t c) { return measured ? prepared(law_of(c)) : law_of(c); };
    const bool finite = a.numbers.at ? step(OwnLaws(law, left_of, chains, a.d)) : step(law);
    for (int64_t c = 0; a.displacement && c < chains; ++c) {
        double own[fold];
        __builtin_memcpy(own, squares + c * a.d, a.d * sizeof(double));
        a.displacement[first + c] = static_cast<float>(__builtin_sqrt(fold_run(own, a.d)));
    }
    for (int64_t e = 0; !finite && e < row.count; ++e) {
        const float g = scalar_grad(given.grad, given.type, e);
        if (!(g - g == 0)) mark(a, first + e / a.d);
    }
}

}  // namespace

void langevin_step(const StepArgs& a) {
    if (a.n == 0 || a.d == 0) {
        for (int64_t i = 0; i < a.n && a.grad_norm; ++i) a.grad_norm[i] = 0;
        for (int64_t i = 0; i < a.n && a.displacement; ++i) a.displacement[i] = 0;
        return;
    }
    const RoundKeys keys = round_keys(a.draw.seed);
    const int threads = a.n * a.d > worth_sharing ? a.threads : 1;
    if (a.layout.dims == 0 && 2 * a.d <= fold) {
        const int64_t run = fold / a.d, runs = (a.n + run - 1) / run;
        for_each(runs, threads, [&](int64_t r) { step_run(a, keys, r * run, r + 1 < runs ? run : a.n - r * run); });
        return;
    }
    const bool across = a.n % threads == 0 || a.n >= 8 * threads;  // threads share the samples, else each sample's rows
    const int64_t runs = (a.d + fold - 1) / fold;
    const bool per_sample = needs_norm(a) || a.displacement;
    auto* sums = per_sample ? static_cast<double*>(std::malloc((across ? a.n : 1) * runs * sizeof(double))) : nullptr;
    for_each(a.n, across ? threads : 1, [&](int64_t i) {
        step_sample(a, keys, i, across ? 1 : threads, across && sums ? sums + i * runs : sums);
    });
    std::free(sums);
}

}  // namespace hatebm::HATEBM_ISA
