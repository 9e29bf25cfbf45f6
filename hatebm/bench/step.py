"""One Langevin step of a float32 state, the gradient given: what is left of a chain when its energy costs nothing."""

import importlib.util
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from hatebm import ops
from hatebm.bench.agreement import Loop, judged
from hatebm.bench.contest import COMPILED, HATEBM, IN_PLACE, NAIVE, TORCHEBM, Case, Contender
from hatebm.dynamics.law import Dynamics

LAW = Dynamics(step_size=0.125, noise_std=0.5, clamp=(-3.0, 3.0))
FLOOR = "hatebm, no noise"  # the same pass over memory: what any step costs at least
NUMELS = {"step-393k": 393_216, "step-3M": 3_145_728, "step-67M": 67_108_864}
Step = Callable[[Tensor, Tensor, Dynamics], Tensor]


def cases(device: torch.device) -> list[Case]:
    """A batch of 128 images of 3x32x32, and larger states."""
    return [case(name, numel, device) for name, numel in NUMELS.items()]


def case(name: str, numel: int, device: torch.device) -> Case:
    """The steps of a state of `numel` elements, a multiple of 3072."""
    shape = (numel // 3072, 3, 32, 32) if numel % 3072 == 0 else (numel // 4096, 4096)
    label = f"one step of {tuple(shape)} float32"
    return Case("step", name, label, "ns/element", math.prod(shape), lambda: contenders(steps(), shape, device))


def contenders(steps: dict[str, Step], shape: tuple[int, ...], device: torch.device) -> dict[str, Contender]:
    """Steps in place of one state where they can; it begins well inside the box."""
    generator = torch.Generator("cpu").manual_seed(0)
    x, grad = (
        0.3 * torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(device) for _ in range(2)
    )
    moving = x.clone()

    def loop_of(step: Step) -> Loop:
        return lambda n, law: step(x.clone(), grad, law)

    checked = judged({name: loop_of(step) for name, step in steps.items()}, x, LAW, 1, asides={FLOOR: "no noise"})
    return {
        name: Contender(lambda step=step: step(moving, grad, LAW), checked[name].verdict)
        for name, step in steps.items()
    }


def steps() -> dict[str, Step]:
    """Everyone who can run here, the baseline first."""
    found = {NAIVE: naive, IN_PLACE: in_place, COMPILED: torch.compile(in_place)}
    if importlib.util.find_spec("torchebm") is not None:
        found[TORCHEBM] = torchebm_step()
    return found | {HATEBM: fused, FLOOR: floor}


def naive(x: Tensor, grad: Tensor, law: Dynamics) -> Tensor:
    """The idiom people write."""
    return (x - law.step_size * grad + law.noise_std * torch.randn_like(x)).clamp(*law.clamp)


def in_place(x: Tensor, grad: Tensor, law: Dynamics) -> Tensor:
    """Eager PyTorch at its best."""
    return x.add_(grad, alpha=-law.step_size).add_(torch.randn_like(x), alpha=law.noise_std).clamp_(*law.clamp)


def torchebm_step() -> Step:
    """The step of torchebm's sampler."""
    from torchebm.integrators import EulerMaruyamaIntegrator

    integrator = EulerMaruyamaIntegrator()
    scalar = cache(lambda number, device: torch.tensor(number, dtype=torch.float32, device=device))

    def step(x: Tensor, grad: Tensor, law: Dynamics) -> Tensor:
        size = scalar(law.step_size, x.device)
        scale = scalar(law.noise_std / math.sqrt(2 * law.step_size), x.device)
        moved = integrator.step({"x": x}, drift=lambda _, t: -grad, step_size=size, noise_scale=scale)
        return moved["x"].clamp_(*law.clamp)

    return step


def fused(x: Tensor, grad: Tensor, law: Dynamics) -> Tensor:
    """The fused step."""
    numbers = {"step_size": law.step_size, "noise_std": law.noise_std, "clamp": law.clamp}
    return ops.langevin_step_(x, grad, **numbers, seed=0, step=7)


def floor(x: Tensor, grad: Tensor, law: Dynamics) -> Tensor:
    """The fused step without its noise."""
    return ops.langevin_step_(x, grad, step_size=law.step_size, noise_std=0.0, clamp=law.clamp)
