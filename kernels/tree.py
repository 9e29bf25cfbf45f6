"""The sums of :func:`hatebm.ops.reference.tree_sum` in Triton: runs of 1024 folded in halves, then so the runs."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hatebm.kernels.quads import EXACT

RUN = 1024
RUN_LEVELS = 10


@triton.jit
def fold_in_halves(v, LEVELS: tl.constexpr):
    """(rows, 2^LEVELS) to (rows,): element i meets element i + half, until one is left."""
    rows: tl.constexpr = v.shape[0]
    for level in tl.static_range(LEVELS):
        v = tl.sum(tl.reshape(v, (rows, 2, 2 ** (LEVELS - 1 - level))), 1)
    return tl.reshape(v, (rows,))


@triton.jit
def quads_by_run(RUNS: tl.constexpr, QUADS: tl.constexpr):
    """The quads of RUNS runs in an order that gives a warp a run, and a lane quads that meet early in the tree."""
    i = tl.arange(0, QUADS)
    return i // 32 % RUNS * (QUADS // RUNS) + i // (32 * RUNS) * 32 + i % 32


@triton.jit
def run_totals(v, RUNS: tl.constexpr, LEVELS: tl.constexpr):
    """The sums of runs of 2^LEVELS: float64 of quads by run (quads, 4) to (RUNS,)."""
    IN_LANE: tl.constexpr = LEVELS - 7 if LEVELS > 7 else 0
    for level in tl.static_range(IN_LANE):
        v = tl.sum(tl.reshape(v, (2, RUNS * 2 ** (LEVELS - 1 - level))), 0)
    return fold_in_halves(tl.reshape(v, (RUNS, 2 ** (LEVELS - IN_LANE))), LEVELS - IN_LANE)


@triton.jit
def run_sums(v, RUNS: tl.constexpr, LEVELS: tl.constexpr):
    """The sums of the squares of runs: float32 of quads by run (quads, 4) to float64 (RUNS,)."""
    return run_totals(v.to(tl.float64) * v.to(tl.float64), RUNS, LEVELS)


@triton.jit
def norm_of(squares):
    return tl.sqrt(squares).to(tl.float32)


@triton.jit
def fold_runs(sums, folded, norms, runs, LEVELS: tl.constexpr):
    """A program folds 2^LEVELS runs of one sample; the last level writes the norms."""
    sample, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    run = group * 2**LEVELS + tl.arange(0, 2**LEVELS)
    v = tl.load(sums + sample * runs + run, mask=run < runs, other=0.0)
    total = fold_in_halves(tl.reshape(v, (1, 2**LEVELS)), LEVELS)
    at = sample * tl.num_programs(1) + group + tl.arange(0, 1)
    tl.store(folded + at, total)
    if norms is not None:
        tl.store(norms + at, norm_of(total))


def tree_sum(sums: Tensor, norms: Tensor | None) -> Tensor:
    """Run sums (n, runs) to sums (n, 1); ``norms`` (n,), if any, receives the roots."""
    while sums.shape[1] > 1:
        n, runs = sums.shape
        folded = torch.empty(n, triton.cdiv(runs, RUN), dtype=torch.float64, device=sums.device)
        roots = norms if folded.shape[1] == 1 else None
        with torch.cuda.device_of(sums):
            fold_runs[tuple(folded.shape)](sums, folded, roots, runs, LEVELS=RUN_LEVELS, **EXACT)
        sums = folded
    return sums
