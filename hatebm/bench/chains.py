"""Whole chains on the energies that people sample from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hatebm import energies
from hatebm.bench.agreement import HALF_TOLERANCE, judged
from hatebm.bench.contest import HALF, Case, Contender
from hatebm.bench.loops import Energy, gradient, loops_on
from hatebm.bench.targets import Gaussian, PublishedEnergy, double_well, mlp, small_conv
from hatebm.dynamics.law import Dynamics

MOVE = 0.01  # a step's drift and noise on a network's energy, RMS: its random weights have no scale of their own


@dataclass(frozen=True)
class Target:
    """An energy, the shape of the state, and the steps of one chain on a CPU and on a GPU.

    `law` None fits one; `own` is the energy as hatebm has it.
    """

    label: str
    make: Callable[[], Energy]
    shape: tuple[int, ...]
    cpu_steps: int
    gpu_steps: int
    law: Dynamics | None = None
    own: Callable[[], Energy] | None = None


def sngan(width: int) -> Callable[[], nn.Module]:
    """An SN-GAN-style energy of 32x32 colour images."""
    return lambda: PublishedEnergy(3, (width,) * 4, pools=2)


def own_gaussian() -> nn.Module:
    """The Gaussian in 50 dimensions as hatebm has it."""
    sigma = Gaussian(50).sigma
    return energies.Gaussian(torch.zeros(50, dtype=torch.float32, device="cpu"), 1 / sigma**2)


DIFFUSION = Dynamics(step_size=0.01, noise_std=0.02**0.5)
TARGETS = {
    "sngan-64": Target("SN-GAN energy, 64 channels, 32x32, batch 64", sngan(64), (64, 3, 32, 32), 4, 60),
    "sngan-256-b16": Target("SN-GAN energy, 256 channels, 32x32, batch 16", sngan(256), (16, 3, 32, 32), 2, 60),
    "sngan-256-b128": Target("SN-GAN energy, 256 channels, 32x32, batch 128", sngan(256), (128, 3, 32, 32), 1, 20),
    "conv-28": Target("small convolutional energy, 28x28, batch 64", small_conv, (64, 1, 28, 28), 20, 100),
    "mlp-128": Target("MLP 100-200-200-1, batch 128", mlp, (128, 100), 100, 100),
    "mlp-1024": Target("MLP 100-200-200-1, batch 1024", mlp, (1024, 100), 50, 100),
    "double-well": Target(
        "double well, d = 2, batch 1024", lambda: double_well, (1024, 2), 1000, 1000, DIFFUSION, energies.DoubleWell
    ),
    "gaussian-50": Target(
        "Gaussian, d = 50, batch 1024", lambda: Gaussian(50), (1024, 50), 200, 200, DIFFUSION, own_gaussian
    ),
}


def cases(device: torch.device) -> list[Case]:
    """A case for each target."""
    return [case(name, target, device) for name, target in TARGETS.items()]


def case(name: str, target: Target, device: torch.device) -> Case:
    """Chains on a target, from N(0, I) or, for images, from noise in [-1, 1]."""
    steps = target.gpu_steps if device.type == "cuda" else target.cpu_steps
    label = f"{target.label}, {steps} steps a call"
    return Case("chain", name, label, "steps/s", steps, lambda: contenders(target, steps, device))


def contenders(target: Target, steps: int, device: torch.device) -> dict[str, Contender]:
    """Everyone who can run here."""
    energy, start = placed(target, device)
    law = target.law or fitted_law(energy, start)
    own = target.own().to(device) if target.own else None
    return judged(loops_on(energy, start, own), start, law, steps, {HALF: HALF_TOLERANCE})


def placed(target: Target, device: torch.device) -> tuple[Energy, Tensor]:
    """The energy with fixed random weights, in eval mode, and the start."""
    torch.manual_seed(0)
    energy = target.make()
    if isinstance(energy, nn.Module):
        energy = energy.to(device).eval()
    kind = {"dtype": torch.float32, "device": "cpu"}
    images = len(target.shape) == 4
    start = torch.rand(target.shape, **kind) * 2 - 1 if images else torch.randn(target.shape, **kind)
    return energy, start.to(device)


def fitted_law(energy: Energy, start: Tensor) -> Dynamics:
    """Drift and noise of MOVE, RMS, at the start."""
    few = start[:8]
    return Dynamics(step_size=MOVE / float(gradient(energy)(few).square().mean().sqrt()), noise_std=MOVE)
