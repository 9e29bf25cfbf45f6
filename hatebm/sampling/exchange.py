"""Exchanges of states between neighbours on a ladder of temperatures."""

import math

import torch
from torch import Tensor

from hatebm.ops import metropolis
from hatebm.ops.noise import Purpose
from hatebm.sampling.replicas import Replicas


def exchanged(
    replicas: Replicas, ladder: list[float], t: int, first: int, seed: int, ids: Tensor
) -> list[dict[str, Tensor]]:
    """Every second pair of neighbours exchanges states; a list of what to tell of it, empty where there is no pair.

    Chain c of every replica decides by the noise of ``ids``[c], (n,).
    """
    pairs = range(first, len(ladder) - 1, 2)
    if not pairs:
        return []
    energies = replicas.energies(t)
    shares = torch.full_like(energies[1:], math.nan)
    rows = torch.arange(energies.numel(), dtype=torch.int64, device=energies.device).view_as(energies)
    place = {"seed": seed, "step": t, "purpose": Purpose.SWAP, "chain_ids": ids}
    for i in pairs:
        log_ratio = (1 / ladder[i] - 1 / ladder[i + 1]) * (energies[i] - energies[i + 1])
        accept = metropolis(log_ratio, block=i, **place)
        rows[i : i + 2] = torch.where(accept, rows[i : i + 2].flip(0), rows[i : i + 2])
        shares[i] = accept.double()
    replicas.take(rows.flatten())
    at = torch.tensor([t], dtype=torch.int64, device="cpu")
    return [{"swap_step": at, "swap_energy": energies[None], "swap_accept": shares[None]}]
