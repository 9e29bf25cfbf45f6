"""The order of training: which images each iteration sees."""

from functools import lru_cache

import torch
from torch import Tensor

from hatebm.ops.noise import Purpose, normal


def batch_indices(n: int, batch: int, *, seed: int, iteration: int) -> Tensor:
    """Which `batch` of the n training images iteration t sees: places t*batch to (t+1)*batch of the shuffled epochs.

    The epochs are laid end to end, so that a batch may span two (or, with fewer images than the batch, several), and
    each is ordered by the counter noise: any iteration's batch is known without running those before it.
    """
    start = iteration * batch
    first, last = start // n, (start + batch - 1) // n
    order = torch.cat([epoch_order(n, seed, epoch) for epoch in range(first, last + 1)])
    return order[start - first * n :][:batch]


@lru_cache(maxsize=2)
def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order of n images in one epoch, a permutation (n,)."""
    return (
        normal((n, 1), seed=seed, step=epoch, purpose=Purpose.DATA_ORDER, device="cpu").flatten().argsort(stable=True)
    )
