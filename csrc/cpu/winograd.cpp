// Convolutions of channels_last images by Winograd's minimal filtering on the CPU.
//
// Every output is one chain of fma over the input channels in ascending order, whatever tiles stand beside it, so that an
// image has the same bits in any batch.
// Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), arXiv 1509.09308.
#include "cpu/winograd.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/cpu.h"
#include "cpu/panels.h"
#include "cpu/parallel.h"
#include "cpu/winograd_points.h"

namespace hatebm::HATEBM_ISA {
namespace {

constexpr int rows_at_once = lanes == 16 ? 12 : 6, vectors_at_once = 2;
constexpr int64_t cache = 7 << 18;  // bytes of a core's own cache that a block of tiles may fill

// One tap of `wide` outputs and one input, to `to`.
void pack_tap(const FilterWeight& w, int64_t phase, int64_t tap, int64_t o, int64_t i, int64_t wide, float* to) {
    const bool same = w.filter == Filter::same, adjoint = w.adjoint || w.filter == Filter::up;
    const int64_t length = same ? 3 : 4, taps = same ? 3 : 2;
    int64_t row = tap / taps, column = tap % taps;
    if (adjoint) row = taps - 1 - row, column = taps - 1 - column;
    if (!same) row = 2 * row + phase / 2, column = 2 * column + phase % 2;
    const int64_t step = (adjoint ? 1 : w.inputs) * length * length;
    const float* from = w.weight + ((adjoint ? i * w.outputs + o : o * w.inputs + i) * length + row) * length + column;
    for (int64_t k = 0; k < wide; ++k) to[k] = from[k * step];
}

// m[r] = sum over k of v[r][k] u[k], or that added to m[r], for vectors of a panel's outputs.
template <int rows, int vectors>
HATEBM_HD void product(const float* v, const float* u, int64_t inputs, bool add, float* m) {
    Float sums[rows][vectors];
    HATEBM_UNROLL(16)
    for (int r = 0; r < rows; ++r)
        HATEBM_UNROLL(2)
        for (int j = 0; j < vectors; ++j) {
            if (add) load(m + r * panel + j * lanes, sums[r][j]);
            else sums[r][j] = Float(0.0f);
        }
    for (int64_t k = 0; k < inputs; k += 4, u += 4 * panel)
        HATEBM_UNROLL(4)
        for (int i = 0; i < 4; ++i) {
            Float weight[vectors];
            HATEBM_UNROLL(2)
            for (int j = 0; j < vectors; ++j) load(u + i * panel + j * lanes, weight[j]);
            HATEBM_UNROLL(16)
            for (int r = 0; r < rows; ++r) {
                const Float value(v[r * v_row + k + i]);
                HATEBM_UNROLL(2)
                for (int j = 0; j < vectors; ++j) sums[r][j] = fma(value, weight[j], sums[r][j]);
            }
        }
    HATEBM_UNROLL(16)
    for (int r = 0; r < rows; ++r)
        HATEBM_UNROLL(2)
        for (int j = 0; j < vectors; ++j) store(m + r * panel + j * lanes, sums[r][j]);
}

template <int vectors, int rows = rows_at_once - 1>
void last_rows(int64_t left, const float* v, const float* u, int64_t inputs, bool add, float* m) {
    if constexpr (rows > 0) {
        if (left == rows) product<rows, vectors>(v, u, inputs, add, m);
        else last_rows<vectors, rows - 1>(left, v, u, inputs, add, m);
    }
}

template <int vectors>
[[gnu::noinline]] void all_rows(int64_t rows, const float* v, const float* u, int64_t inputs, bool add,
                                float* m) {
    int64_t r = 0;
    for (; r + rows_at_once <= rows; r += rows_at_once)
        product<rows_at_once, vectors>(v + r * v_row, u, inputs, add, m + r * panel);
    last_rows<vectors>(rows - r, v + r * v_row, u, inputs, add, m + r * panel);
}

// A thread's room, kept from call to call: fresh pages would cost as much as the work on a small image.
float* room(int64_t count) {
    thread_local struct {
        std::unique_ptr<float[], Free> floats;
        int64_t count = 0;
    } kept;
    if (kept.count < count) {
        kept.floats.reset();
        kept.floats.reset(aligned_floats(count));
        kept.count = count;
    }
    return kept.floats.get();
}

template <int taps>
struct Block {
    static constexpr int count = points<taps>, area = count * count;
    const FilterArgs& a;
    const int64_t in_phases, out_phases, padded, tile_rows, tile_columns, tiles;
    const float* zeros;

    explicit Block(const FilterArgs& a, const float* zeros)
        : a(a), in_phases(a.filter == Filter::down ? 4 : 1), out_phases(a.filter == Filter::up ? 4 : 1),
          padded((a.outputs + panel - 1) / panel * panel), tile_rows(tiles_along(a.out_rows)),
          tile_columns(tiles_along(a.out_columns)), tiles(a.n * tile_rows * tile_columns),
          zeros(zeros) {}

    int64_t tiles_along(int64_t size) const {
        const int64_t outputs = a.filter == Filter::up ? (size + 1) / 2 : size;
        return (outputs + side - 1) / side;
    }
    static int64_t m_row(int64_t block) { return block * panel + apart; }
    int64_t m_size(int64_t block) const { return area * m_row(block) * (padded / panel); }
    int64_t room_for(int64_t block) const { return area * block * v_row + m_size(block) + count * u_row + panel; }
    int64_t block_size() const {
        const int64_t bytes = 4 * (area * v_row + m_size(1));
        const int64_t most = std::max<int64_t>(rows_at_once, cache / bytes / rows_at_once * rows_at_once);
        const int64_t share = (tiles + a.threads - 1) / a.threads, blocks = (share + most - 1) / most;
        return (share + blocks - 1) / blocks;
    }

    // The first row or column that output `at` of a phase's tile sees, and the step from one to the next.
    int64_t seen_from(int64_t at, int64_t phase) const {
        if (a.filter == Filter::down) return 2 * at + phase - 1;
        return a.filter == Filter::up ? at - phase : at - 1;
    }
    int64_t put_at(int64_t at, int64_t phase) const { return a.filter == Filter::up ? 2 * at + 1 - phase : at; }

    void see(int64_t first, int64_t block, int64_t phase, int64_t input, int64_t inputs, float* v) const {
        const int64_t step = a.filter == Filter::down ? 2 : 1;
        for (int64_t t = 0; t < block; ++t) {
            const int64_t tile = first + t, image = tile / (tile_rows * tile_columns);
            const int64_t top = seen_from(tile / tile_columns % tile_rows * side, phase / 2);
            const int64_t left = seen_from(tile % tile_columns * side, phase % 2);
            const float* pixels[area];
            for (int r = 0; r < count; ++r)
                for (int c = 0; c < count; ++c) {
                    const int64_t row = top + r * step, column = left + c * step;
                    const bool inside = row >= 0 && row < a.rows && column >= 0 && column < a.columns;
                    const float* x = a.x + ((image * a.rows + row) * a.columns + column) * a.inputs + input;
                    pixels[r * count + c] = inside ? x : zeros;
                }
            for (int64_t i = 0; i < inputs; i += lanes) {
                Float between[count][count];
                HATEBM_UNROLL(6)
                for (int c = 0; c < count; ++c) {
                    Float d[count], s[count];
                    HATEBM_UNROLL(6)
                    for (int r = 0; r < count; ++r) {
                        load(pixels[r * count + c] + i, d[r]);
                        if (a.rectified) d[r] = clamp(d[r], Float(0.0f), Float(__builtin_inff()));
                    }
                    seen(d, s);
                    HATEBM_UNROLL(6)
                    for (int r = 0; r < count; ++r) between[r][c] = s[r];
                }
                HATEBM_UNROLL(6)
                for (int r = 0; r < count; ++r) {
                    Float s[count];
                    seen(between[r], s);
                    HATEBM_UNROLL(6)
                    for (int c = 0; c < count; ++c) store(v + ((r * count + c) * block + t) * v_row + i, s[c]);
                }
            }
        }
    }

    void multiply(int64_t block, const float* weight, int64_t inputs, bool add, const float* v, float* u, float* m) const {
        constexpr int64_t together = vectors_at_once * lanes;
        for (int c = 0; c < count; ++c) {
            value_column<taps>(Values<taps>::of_taps[c], weight, a.inputs * panel, inputs * panel, u);
            for (int r = 0; r < count; ++r)
                for (int64_t o = 0; o < panel; o += together)
                    all_rows<vectors_at_once>(block, v + (r * count + c) * block * v_row, u + r * u_row + o, inputs, add,
                                              m + (r * count + c) * m_row(block) + o);
        }
    }

    void put(int64_t first, int64_t block, int64_t phase, int64_t o, int64_t wide, const float* m, float* nowhere) const {
        for (int64_t t = 0; t < block; ++t) {
            const int64_t tile = first + t, image = tile / (tile_rows * tile_columns);
            float* pixels[side * side];
            for (int r = 0; r < side; ++r)
                for (int c = 0; c < side; ++c) {
                    const int64_t row = put_at(tile / tile_columns % tile_rows * side + r, phase / 2);
                    const int64_t column = put_at(tile % tile_columns * side + c, phase % 2);
                    const bool inside = row < a.out_rows && column < a.out_columns;
                    float* y = a.y + ((image * a.out_rows + row) * a.out_columns + column) * a.outputs + o;
                    pixels[r * side + c] = inside ? y : nowhere;
                }
            for (int64_t i = 0; i < wide; i += lanes) {
                Float between[side][count], bias(0.0f);
                if (a.bias) load(a.bias + o + i, bias);
                HATEBM_UNROLL(6)
                for (int c = 0; c < count; ++c) {
                    Float at[count], s[side];
                    HATEBM_UNROLL(6)
                    for (int r = 0; r < count; ++r) load(m + (r * count + c) * m_row(block) + t * panel + i, at[r]);
                    put_out(at, s);
                    HATEBM_UNROLL(4)
                    for (int r = 0; r < side; ++r) between[r][c] = s[r];
                }
                HATEBM_UNROLL(4)
                for (int r = 0; r < side; ++r) {
                    Float s[side];
                    put_out(between[r], s);
                    HATEBM_UNROLL(4)
                    for (int c = 0; c < side; ++c) {
                        float* y = pixels[r * side + c] + i;
                        Float value = s[c] + bias;
                        const bool inside = pixels[r * side + c] != nowhere;
                        Float before;
                        if (a.gate && inside) {
                            load(a.gate + (y - a.y), before);
                            value = where_greater(before, Float(0.0f), value, Float(0.0f));
                        }
                        if (a.slopes && inside) {
                            load(a.slopes + (y - a.y), before);
                            value = value * before;
                        }
                        store(y, value);
                    }
                }
            }
        }
    }

    void operator()(int64_t first, int64_t block, float* v) const {
        float *m = v + area * block * v_row, *u = m + m_size(block), *nowhere = u + count * u_row;
        for (int64_t out = 0; out < out_phases; ++out) {
            for (int64_t in = 0; in < in_phases; ++in)
                for (int64_t i = 0; i < a.inputs; i += inputs_at_once) {
                    const int64_t inputs = std::min(inputs_at_once, a.inputs - i);
                    see(first, block, in + out, i, inputs, v);
                    for (int64_t o = 0; o < padded; o += panel) {
                        const float* weight = a.prepared + (((in + out) * padded + o) * taps * taps * a.inputs) + i * panel;
                        multiply(block, weight, inputs, in > 0 || i > 0, v, u, m + area * m_row(block) * (o / panel));
                    }
                }
            for (int64_t o = 0; o < padded; o += panel)
                put(first, block, out, o, std::min(a.outputs - o, int64_t(panel)), m + area * m_row(block) * (o / panel), nowhere);
        }
    }
};

template <int taps>
void filter_all(const FilterArgs& a) {
    const std::vector<float> zeros(a.inputs, 0.0f);
    const Block<taps> whole(a, zeros.data());
    if (whole.tiles == 0) return;
    const int64_t block = whole.block_size(), blocks = (whole.tiles + block - 1) / block;
    for_each(blocks, a.threads, [&](int64_t b) {
        const int64_t first = b * block, here = std::min(block, whole.tiles - first);
        whole(first, here, room(whole.room_for(here)));
    });
}

}  // namespace

void filter_weight(const FilterWeight& w, int threads) {
    const int64_t phases = w.filter == Filter::same ? 1 : 4, taps = w.filter == Filter::same ? 9 : 4;
    const int64_t panels = (w.outputs + panel - 1) / panel;
    for_each(phases * panels, threads, [&](int64_t at) {
        const int64_t first = at % panels * panel, wide = std::min<int64_t>(panel, w.outputs - first);
        float* to = w.prepared + at * panel * taps * w.inputs;
        for (int64_t tap = 0; tap < taps; ++tap)
            for (int64_t i = 0; i < w.inputs; ++i, to += panel) {
                pack_tap(w, at / panels, tap, first, i, wide, to);
                std::fill(to + wide, to + panel, 0.0f);
            }
    });
}

void filter(const FilterArgs& a) {
    if (a.filter == Filter::same) filter_all<3>(a);
    else filter_all<2>(a);
}

}  // namespace hatebm::HATEBM_ISA
