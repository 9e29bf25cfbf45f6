"""Chains that step by graphs on a GPU, and those beside them that do not."""

import torch
import torch.nn.functional as F
from torch import nn

import hatebm

N, D = 64, 20


class Net(nn.Module):
    """Two layers; products of these shapes add in one order."""

    def __init__(self, d=D):
        super().__init__()
        self.first, self.second, self.scale = nn.Linear(d, 64), nn.Linear(64, 1), 1.0

    def forward(self, x):
        return self.second(F.silu(self.first(x))).squeeze(1) * self.scale


def chains(energy, x, **law):
    return [hatebm.Chain(energy, x, compile=how, **{"eps": 0.1, "seed": 3} | law) for how in ("auto", "off")]


def assert_same_run(pair, n_steps=40):
    states = [chain.run(n_steps) for chain in pair]
    states = [state if isinstance(state, tuple) else (state,) for state in states]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    return next(line for line in pair[0].report().splitlines() if line.startswith("CUDA graph"))
