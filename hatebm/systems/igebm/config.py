"""The numbers of an IGEBM; the defaults are those of the published unconditional CIFAR-10 configuration."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hatebm.dynamics.law import Dynamics
from hatebm.learning.config import Config, Drops
from hatebm.sampling.replay import SEEN

NETWORKS = ("resnet", "conv")
STARTS = ("uniform", "normal")
LOSSES = ("difference", "softplus", "logsumexp")
MOST_RETURNS = 1000  # each halves the learning rates, which must stay above 0
LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True)
class IGEBMConfig(Config):
    """The network E, the Langevin law of its images in [0, 1], the buffer its chains go on from, and how E learns.

    One Langevin step adds `noise_std` times a standard normal, takes the gradient there, clips each of its elements to
    `max_gradient`, moves by `step_size` times it and stays in [0, 1].
    """

    MAY_BE_ZERO = Config.MAY_BE_ZERO | {"classes", "max_gradient", "energy_l2", "max_returns"}
    FRACTIONS = Config.FRACTIONS | {"reinit", "beta1"}
    LEAST: ClassVar = {"batch": 2}  # energies of one have no spread, by which symptoms are told
    CHOICES: ClassVar = Config.CHOICES | {
        "network": NETWORKS,
        "activation": ("leaky", "swish"),
        "start": STARTS,
        "loss": LOSSES,
    }

    network: str = "resnet"
    stem_width: int = 128  # of the convolution before the residual blocks
    energy_widths: tuple[int, ...] = (128, 256, 512)
    energy_depths: tuple[int, ...] = (3, 3, 3)  # residual blocks of a width
    hidden: int = 128  # of the dense layer before the last, in a "conv" network
    activation: str = "leaky"
    dropout: bool = True  # half of the units in the middle of each residual block, in training, its chains included
    classes: int = 0  # 0: unconditional

    langevin_steps: int = 60
    sample_steps: int = 600
    step_size: float = 10.0
    noise_std: float = 0.005
    max_gradient: float = 0.01  # of each element; 0: no bound
    start: str = "uniform"  # of chains that start afresh: U(0, 1), or 0.5 + 0.5 N(0, 1)
    buffer_size: int = 10_000
    reinit: float = 0.05  # share of the chains that start afresh

    loss: str = "difference"
    energy_l2: float = 1.0  # weight of mean E(x+)^2 + mean E(x-)^2
    lr: float = 1e-4
    lr_drops: Drops = ()
    beta1: float = 0.0
    average: float = 0.0
    max_returns: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout and self.network != "resnet":
            raise self._refused("dropout", f"be False, a network {self.network!r} has none", self.dropout)
        if self.buffer_size >= SEEN:
            raise self._refused("buffer_size", "be below 2^31", self.buffer_size)
        if self.max_returns > MOST_RETURNS:
            raise self._refused("max_returns", f"be at most {MOST_RETURNS}", self.max_returns)
        for name in ("step_size", "noise_std", "max_gradient"):
            if getattr(self, name) > LARGEST:
                raise self._refused(name, "lie in the range of float32", getattr(self, name))

    @property
    def dynamics(self) -> Dynamics:
        """Noise, gradient at the noised point, clip, step, clamp."""
        clip = ("value", self.max_gradient) if self.max_gradient else None
        return Dynamics(
            step_size=self.step_size, noise_std=self.noise_std, noise_at="before", clip=clip, clamp=(0.0, 1.0)
        )
