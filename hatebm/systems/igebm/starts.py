"""Where the chains of an IGEBM begin."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hatebm.ops.noise import Purpose, normal, uniform
from hatebm.systems.igebm.config import IGEBMConfig


def fresh_starts(
    config: IGEBMConfig, chain_ids: Tensor | Sequence[int], *, seed: int, step: int, device: torch.device
) -> Tensor:
    """Images to begin at, (n, channels, size, size): U(0, 1), or 0.5 + 0.5 N(0, 1), which the first step clamps."""
    shape = (len(chain_ids), config.channels, config.size, config.size)
    place = {"seed": seed, "step": step, "purpose": Purpose.INITIAL_STATE, "chain_ids": chain_ids, "device": device}
    return uniform(shape, **place) if config.start == "uniform" else 0.5 + 0.5 * normal(shape, **place)
