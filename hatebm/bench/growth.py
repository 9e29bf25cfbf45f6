"""How the cost of a chain grows with the batch, the side of its images and its number of steps."""

from functools import partial

import torch

from hatebm.bench.agreement import judged
from hatebm.bench.chains import Target, fitted_law, placed
from hatebm.bench.contest import HATEBM, IN_PLACE, NAIVE, Case, Contender
from hatebm.bench.loops import gradient, held, in_place, naive, with_hatebm
from hatebm.bench.targets import small_conv

AXES = {"batch": (1, 4, 16, 64), "side": (8, 16, 32, 64), "steps": (1, 10, 100)}
POINT = {"batch": 4, "side": 28, "steps": 10}  # where the axes cross


def cases(device: torch.device) -> list[Case]:
    """Every point of every curve."""
    return [case(axis, at, device) for axis, values in AXES.items() for at in values]


def case(axis: str, at: int, device: torch.device) -> Case:
    """One point of a curve, on the small convolutional energy."""
    batch, side, steps = (POINT | {axis: at}).values()
    target = Target("small convolutional energy", small_conv, (batch, 1, side, side), steps, steps)
    label = f"{target.label}, {side}x{side}, batch {batch}, {steps} steps a call"
    return Case("growth", f"growth-{axis}", label, "steps/s", steps, partial(contenders, target, device), axis, at)


def contenders(target: Target, device: torch.device) -> dict[str, Contender]:
    """Those that need no compiler, which would start anew at every point."""
    energy, start = placed(target, device)
    loops = {
        NAIVE: naive(energy, start),
        IN_PLACE: in_place(gradient(held(energy)), start),
        HATEBM: with_hatebm(energy, start),
    }
    return judged(loops, start, fitted_law(energy, start), target.cpu_steps)
