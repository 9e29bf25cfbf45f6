"""Do two loops run the same chain? Without noise they must end at one place; and the noise must have the law's size."""

import dataclasses
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from hatebm.bench.contest import Contender, Verdict
from hatebm.dynamics.law import Dynamics
from hatebm.sampling.chain import State

TOLERANCE = 1e-3  # of the distance that a chain went, the median over chains: rounding alone stays far below
KINKS = 3e-2  # the same of all chains together: where rounding turns a ReLU, a chain goes another way by some percent
HALF_TOLERANCE = 0.3  # bfloat16 is another chain: its gradients are off by some percent
ERRORS = 5.0  # standard errors that the mean and the variance of the noise may be off
Loop = Callable[[int, Dynamics], State]  # so many steps by the law, from where this loop begins


def judged(
    loops: dict[str, Loop],
    origin: State,
    law: Dynamics,
    steps: int,
    tolerances: dict[str, float] | None = None,
    asides: dict[str, str] | None = None,
) -> dict[str, Contender]:
    """Each loop as a contender that runs `steps` steps; the first of them judges the others.

    Args:
        loops: name -> loop, the judge first.
        origin: where the chains begin, shaped like what the loops return.
        law: with the step sizes and noises of the state's blocks.
        steps: of one call, with which drifts are compared too.
        tolerances: name -> another one than TOLERANCE.
        asides: name -> why this loop runs another chain, which is not compared.
    """
    judge = next(iter(loops.values()))
    truth = cache(lambda n: _blocks(judge(n, without_noise(law))))

    def contender(name: str, loop: Loop) -> Contender:
        def verdict() -> Verdict:
            if name in (asides or {}):
                loop(1, law)
                return Verdict(True, asides[name])
            tolerance = (tolerances or {}).get(name, TOLERANCE)
            found = compare(loop, truth, _blocks(origin), law, steps, tolerance)
            return Verdict(True, "the judge") if found.agrees and loop is judge else found

        return Contender(lambda: loop(steps, law), verdict)

    return {name: contender(name, loop) for name, loop in loops.items()}


def compare(
    loop: Loop,
    truth: Callable[[int], tuple[Tensor, ...]],
    origin: tuple[Tensor, ...],
    law: Dynamics,
    steps: int,
    tolerance: float,
) -> Verdict:
    """Where the chains are after `steps` steps without noise, and what one step's noise looks like in each block.

    `truth(n)` are the states after n noiseless steps, of which `origin` is the beginning.
    """
    ended = _blocks(loop(steps, without_noise(law)))
    error, worst = apart(ended, truth(steps), origin)
    if not (error <= tolerance and worst <= max(KINKS, tolerance)):
        return Verdict(False, f"NO: drift off by {error:.1e}, in all {worst:.1e}")
    for k, calm in enumerate(truth(1)):
        std = law.noise_std[k] if isinstance(law.noise_std, tuple) else law.noise_std
        noise = (_blocks(loop(1, noise_of(law, k)))[k] - calm) / std
        mean = abs(float(noise.mean())) * math.sqrt(noise.numel())
        variance = abs(float(noise.double().var()) - 1) * math.sqrt(noise.numel() / 2)
        if not (mean <= ERRORS and variance <= ERRORS):
            return Verdict(False, f"NO: noise off by {max(mean, variance):.1f} standard errors")
    return Verdict(True, f"to {error:.0e}" if error else "bit for bit")


def apart(ended: tuple[Tensor, ...], wanted: tuple[Tensor, ...], origin: tuple[Tensor, ...]) -> tuple[float, float]:
    """How far apart chains end, of the way they went: the median chain, and all together; of the worst block."""
    typical, whole = [], []  # as tensors, whose largest is NaN where one is
    for x, y, start in zip(ended, wanted, origin, strict=True):
        off, way = (x - y).flatten(1).double(), (y - start).flatten(1).double()
        typical.append((off.norm(dim=1) / way.norm(dim=1).clamp(min=1e-30)).median())
        whole.append(off.norm() / way.norm())
    return float(torch.stack(typical).max()), float(torch.stack(whole).max())


def without_noise(law: Dynamics) -> Dynamics:
    """The law as a descent."""
    none = tuple(0.0 for _ in law.noise_std) if isinstance(law.noise_std, tuple) else 0.0
    return dataclasses.replace(law, noise_std=none)


def noise_of(law: Dynamics, block: int) -> Dynamics:
    """The law with the noise of one block alone."""
    if not isinstance(law.noise_std, tuple):
        return law
    kept = tuple(std if k == block else 0.0 for k, std in enumerate(law.noise_std))
    return dataclasses.replace(law, noise_std=kept)


def _blocks(state: State) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else state
