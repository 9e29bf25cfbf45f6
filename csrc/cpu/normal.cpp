#include "cpu/normal.h"
#include "cpu/parallel.h"

namespace hatebm::HATEBM_ISA {

void normal(const NormalArgs& a) {
    const RoundKeys keys = round_keys(a.draw.seed);
    const bool packed = draws_packed(a.d);
    const int64_t run = packed ? fold / a.d : 1;  // chains that are drawn together
    const int64_t length = 16 * fold, pieces = packed ? 1 : (a.d + length - 1) / length;
    const int64_t jobs = (a.n + run - 1) / run * pieces;
    for_each(jobs, a.n * a.d > worth_sharing ? a.threads : 1, [&](int64_t job) {
        const int64_t chain = job / pieces * run, first = job % pieces * length;
        float* out = a.out + chain * a.d + first;
        if (packed) {
            packed_normals(a.draw, keys, a.chain_ids, chain, chain + run < a.n ? run : a.n - chain, a.d, out);
        } else {
            const int64_t count = first + length < a.d ? length : a.d - first;
            row_of_normals(a.draw, keys, chain_id(a.chain_ids, chain), first, count, out);
        }
    });
}

}  // namespace hatebm::HATEBM_ISA
