"""The Metropolis decision in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hatebm.kernels.noise import chain_of, minus_2_ln, words_of
from hatebm.kernels.quads import EXACT, NUMBERS, QUADS, place, value_or_load
from hatebm.ops.native.extension import readable


@triton.jit(do_not_specialize=NUMBERS)
def decide(
    log_ratio, accept, chain_ids, seed: tl.int64, step: tl.int64, seed_at, step_at, purpose_and_block: tl.int64, n,
    BLOCK: tl.constexpr,
):  # fmt: skip
    seed, step = value_or_load(seed, seed_at), value_or_load(step, step_at)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = i < n
    chain = chain_of(chain_ids, i, live)
    word, _, _, _ = words_of(seed, step, purpose_and_block, chain, i * 0)
    drawn = minus_2_ln(word).to(tl.float64)
    tl.store(accept + i, (drawn > -2.0 * tl.load(log_ratio + i, mask=live, other=0.0)).to(tl.int8), mask=live)


def metropolis(
    log_ratio: Tensor,
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`hatebm.ops.reference.metropolis`."""
    log_ratio, n = readable(log_ratio), len(log_ratio)
    accept = torch.empty_like(log_ratio, dtype=torch.bool)
    if n > 0:
        at = place(seed, step, block, purpose)
        with torch.cuda.device_of(log_ratio):
            grid = (triton.cdiv(n, QUADS),)
            decide[grid](log_ratio, accept.view(torch.int8), chain_ids, **at, n=n, BLOCK=QUADS, **EXACT)
    return accept
