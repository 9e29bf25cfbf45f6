"""Reduced precision, for those who ask: the network in bfloat16 or TF32, the state and its update in float32."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.backends import cuda, cudnn

from hatebm.dynamics.gradient import Potential, energy_and_gradient
from hatebm.energies.held import held, standing
from hatebm.ops.checks import checked_choice, require

PRECISIONS = ("float32", "tf32", "bfloat16")
COMPARED = 16  # chains at which the gradient's error is measured


def check_precision(precision: str, device: torch.device) -> None:
    """One of the three, and TF32 on CUDA alone.

    Raises:
        ValueError: naming the argument.
    """
    checked_choice("langevin", "precision", precision, PRECISIONS)
    text = "'float32' or 'bfloat16' where the state is not on CUDA"
    require(precision != "tf32" or device.type == "cuda", "langevin", "precision", text, precision)


@contextmanager
def reduced(precision: str, device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products in the precision; everything else in float32."""
    if precision == "bfloat16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return
    with held([SWITCHES], TF32):
        yield


@contextmanager
def as_set(device: torch.device) -> Iterator[None]:
    """On CUDA, convolutions and matrix products in the precision that torch is set to, whatever other threads run."""
    with held([SWITCHES], standing(SWITCHES)) if device.type == "cuda" else nullcontext():
        yield


class Backends:
    """The precision of torch's matrix products, convolutions and recurrences on CUDA, which all threads share."""

    @property
    def precision(self) -> tuple[str, ...]:
        """Of each, by the name that torch has had for it since 2.9."""
        return tuple(switch.fp32_precision for switch in (cuda.matmul, cudnn.conv, cudnn.rnn))

    @precision.setter
    def precision(self, names: tuple[str, ...]) -> None:
        cuda.matmul.allow_tf32, cudnn.allow_tf32 = (name == "tf32" for name in names[:2])  # older names, still read
        for switch, name in zip((cuda.matmul, cudnn.conv, cudnn.rnn), names, strict=True):
            switch.fp32_precision = name


SWITCHES, TF32 = (Backends(), "precision"), ("tf32",) * 3


def gradient_error(potential: Potential, precision: str, t: int, state: Sequence[Tensor]) -> float:
    """|g - g32| / |g32| over the first chains: g in the precision, g32 the gradient of the energy as it is."""
    first = [x[:COMPARED].detach().clone() for x in state]
    blocks = range(len(first))
    exact = energy_and_gradient(potential.energy, first, blocks, {})[1]
    with reduced(precision, first[0].device):
        got = energy_and_gradient(potential.prepared or potential.energy, first, blocks, {})[1]
    apart = torch.stack([(a.float() - b).norm() for a, b in zip(got, exact, strict=True)]).norm()
    return float(apart / torch.stack([b.norm() for b in exact]).norm())
