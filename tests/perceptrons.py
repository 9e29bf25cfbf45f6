"""Perceptrons, their gradient in float64, and laws of chains in their energy."""

import copy

import torch

from hatebm.energies import MLP

LAWS = {
    "plain": {"eps": 0.1},
    "descent": {"step_size": 0.1, "noise_std": 0.0},
    "before": {"step_size": 1.0, "noise_std": 0.05, "noise_at": "before", "clip": ("value", 0.01), "clamp": (-1, 1)},
    "both walls": {"eps": 0.1, "noise_at": "before", "clamp": (-0.5, 0.5), "clamp_at": "noise+step"},
    "final": {"eps": 0.1, "clamp": (0, 1), "clamp_at": "final"},
    "tempered": {"eps": 0.1, "temperature": lambda t: 1 + t / 10, "prior_precision": 0.3, "add": "increment"},
    "norm": {"step_size": [0.1 / (1 + t) for t in range(60)], "clip": ("norm", 0.2), "clip_on": "update", "add": "fma"},
}


def network(widths=(20, 48, 33), activation="silu", seed=0):
    torch.manual_seed(seed)
    return MLP(widths, activation)


def gradient_in_float64(energy, x):
    double = copy.deepcopy(energy).double()
    leaf = x.double().requires_grad_()
    return torch.autograd.grad(double(leaf).sum(), leaf)[0]
