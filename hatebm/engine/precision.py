"""Reduced precision, for those who ask: the network in bfloat16 or TF32, the state and its update in float32."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hatebm.checks import checked_choice, require
from hatebm.gradient import Potential, energy_and_gradient

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
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = True
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def gradient_error(potential: Potential, precision: str, t: int, state: Sequence[Tensor]) -> float:
    """|g - g32| / |g32| over the first chains: g in the precision, g32 the gradient of the energy as it is."""
    first = [x[:COMPARED].detach().clone() for x in state]
    blocks = range(len(first))
    exact = energy_and_gradient(potential.energy, first, blocks, {})[1]
    with reduced(precision, first[0].device):
        got = energy_and_gradient(potential.prepared or potential.energy, first, blocks, {})[1]
    apart = torch.stack([(a.float() - b).norm() for a, b in zip(got, exact, strict=True)]).norm()
    return float(apart / torch.stack([b.norm() for b in exact]).norm())
