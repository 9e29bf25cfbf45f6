#include "cpu/normal.h"
#include "cpu/parallel.h"

namespace hatebm::HATEBM_ISA {

void metropolis(const DecisionArgs& a) {
    const RoundKeys keys = round_keys(a.draw.seed);
    for_each((a.n + fold - 1) / fold, a.n > worth_sharing ? a.threads : 1, [&](int64_t piece) {
        const int64_t end = (piece + 1) * fold < a.n ? (piece + 1) * fold : a.n;
        for (int64_t start = piece * fold; start < end; start += lanes) {
            alignas(64) uint32_t chain_low[lanes], last[lanes];
            alignas(64) float drawn[lanes];
            for (int lane = 0; lane < lanes; ++lane) {
                const uint64_t chain = chain_id(a.chain_ids, start + lane < end ? start + lane : end - 1);
                chain_low[lane] = static_cast<uint32_t>(chain);
                last[lane] = last_counter(a.draw, chain);
            }
            Word w0(0u), w1 = load_words(chain_low), w2(static_cast<uint32_t>(a.draw.step)), w3 = load_words(last);
            philox(w0, w1, w2, w3, keys);
            store(drawn, minus_2_ln<Float>(to_int(w0)));
            for (int lane = 0; lane < lanes && start + lane < end; ++lane)
                a.accept[start + lane] = accepts(a.log_ratio[start + lane], drawn[lane]);
        }
    });
}

}  // namespace hatebm::HATEBM_ISA
