"""The precision that a chain asks for: what it may be, what it costs, and what there is to tell of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hatebm.dynamics.gradient import Potential, energy_and_gradient
from hatebm.energies.precision import OPS, ieee, reduced, set_to, under_autocast
from hatebm.ops.checks import require

REDUCED = ("tf32", "bfloat16")
PRECISIONS = ("float32", *REDUCED)
COMPARED = 16  # chains at which the gradient's error is measured


def check_precision(precision: str | None, device: torch.device) -> None:
    """None or one of the three, and TF32 on CUDA alone.

    Raises:
        ValueError: naming the argument.
    """
    known = precision is None or (isinstance(precision, str) and precision in PRECISIONS)
    require(known, "langevin", "precision", f"None or one of {PRECISIONS}", precision)
    text = "None, 'float32' or 'bfloat16' where the state is not on CUDA"
    require(precision != "tf32" or device.type == "cuda", "langevin", "precision", text, precision)


def in_words(precision: str | None, device: torch.device, is_ieee: bool = False) -> str:
    """What is computed in where this precision is asked for, as torch is set now; ``is_ieee`` where that is known."""
    if precision is not None:
        return "float32 (IEEE)" if precision == "float32" else precision
    if is_ieee:
        return "as torch is set (float32, IEEE)"
    if under_autocast(device):
        return f"as torch is set (autocast to {torch.get_autocast_dtype(device.type)})".replace("torch.", "")
    names = [f"{op} {name}" for op, name in zip(OPS, set_to(device), strict=True) if name != "ieee"]
    return f"as torch is set ({', '.join(names) or 'float32, IEEE'})"


def gradient_error(potential: Potential, precision: str, t: int, state: Sequence[Tensor]) -> float:
    """|g - g32| / |g32| over the first chains: g in the precision, g32 the gradient of the energy in float32."""
    first = [x[:COMPARED].detach().clone() for x in state]
    blocks, device = range(len(first)), first[0].device
    with ieee(device):
        exact = energy_and_gradient(potential.energy, first, blocks, {})[1]
    with reduced(precision, device):
        got = energy_and_gradient(potential.prepared or potential.energy, first, blocks, {})[1]
    apart = torch.stack([(a.float() - b).norm() for a, b in zip(got, exact, strict=True)]).norm()
    return float(apart / torch.stack([b.norm() for b in exact]).norm())
