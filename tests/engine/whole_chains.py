"""Chains in one kernel: the laws that it takes, where they start, and what comes out."""

import torch
from parity import LAWS

import hatebm

MORE = {
    "before": {"noise_at": "before"},
    "before, fma": {"noise_at": "before", "add": "fma", "clamp": (-1.0, 1.5)},
    "before, walls": {"noise_at": "before", "clamp": (-0.7, 0.9), "clamp_at": "noise+step"},
    "before, norm": {"noise_at": "before", "clip": ("norm", 0.3), "temperature": 0.5},
    "final": {"clamp": (-0.4, 0.4), "clamp_at": "final"},
    "schedules": {
        "step_size": [0.01 / (t + 1) for t in range(40)],
        "noise_std": torch.linspace(0.2, 0, 40),
        "temperature": lambda t: 1 + 0.1 * t,
    },
    "pauses": {"step_size": [0.02, 0.0, 0.0, 0.01] * 10, "noise_std": [0.1, 0.0, 0.2, 0.0] * 10},
    "kicks alone": {"step_size": 0.0, "noise_std": 0.1, "noise_at": "before"},
    "still": {"step_size": 0.0, "noise_std": 0.0, "clamp": (-0.1, 0.1)},
    "uphill": {"step_size": -0.001, "noise_std": 0.1},
}
EVERY_LAW = LAWS | MORE


def start(kind, n, d):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n + d)) * (0.5 if kind == "funnel" else 1.5)


def never(*_):
    raise AssertionError("the kernel ran")


def outcome(energy, x, mode, n_steps, **options):
    """The state after a run, or the step and the chains of its report."""
    try:
        return hatebm.langevin(energy, x, n_steps, compile=mode, **options)
    except hatebm.ChainDiverged as error:
        return error.step, error.chains
