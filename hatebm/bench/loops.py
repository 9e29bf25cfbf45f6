"""Langevin chains of one block as everyone runs them."""

import copy
import importlib.util
import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hatebm.bench.agreement import Loop
from hatebm.bench.contest import COMPILED, HALF, HATEBM, IN_PLACE, NAIVE, OWN, TORCHEBM
from hatebm.dynamics.law import Dynamics
from hatebm.sampling.chain import Chain

Energy = Callable[..., Tensor]


def loops_on(energy: Energy, start: Tensor, own: Energy | None = None) -> dict[str, Loop]:
    """Everyone who can run here, each from `start`: (n, *sample); `own` is hatebm's own form of the energy."""
    loops = {
        NAIVE: naive(energy, start),
        IN_PLACE: in_place(gradient(held(energy)), start),
        COMPILED: in_place(compiled(gradient_function(held(energy)), start.device), start),
    }
    if has_torchebm():
        loops[TORCHEBM] = torchebm(energy, start)
    loops[HATEBM] = with_hatebm(energy, start)
    if own is not None:
        loops[OWN] = with_hatebm(own, start)
    if has_weights(energy) and has_half():
        loops[HALF] = with_hatebm(energy, start, precision="bfloat16")
    return loops


def naive(energy: Energy, start: Tensor) -> Loop:
    """The loop that people write."""

    def loop(steps: int, law: Dynamics) -> Tensor:
        x = start.clone()
        for _ in range(steps):
            x = x.detach().requires_grad_()
            grad = torch.autograd.grad(energy(x).sum(), x)[0]
            x = x - law.step_size * grad + law.noise_std * torch.randn_like(x)
        return x.detach()

    return loop


def in_place(grad_of: Callable[[Tensor], Tensor], start: Tensor) -> Loop:
    """Eager PyTorch at its best: weights frozen, nothing allocated that need not be."""

    @torch.no_grad()
    def loop(steps: int, law: Dynamics) -> Tensor:
        x = start.clone()
        for _ in range(steps):
            x.add_(grad_of(x), alpha=-law.step_size).add_(torch.randn_like(x), alpha=law.noise_std)
        return x

    return loop


def torchebm(energy: Energy, start: Tensor) -> Loop:
    """Its sampler; its noise has a positive scale, so next to none stands for none."""
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Model(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return energy(x)

    model = Model(device=start.device)

    def loop(steps: int, law: Dynamics) -> Tensor:
        scale = max(law.noise_std / math.sqrt(2 * law.step_size), 1e-30)
        sampler = LangevinDynamics(model, step_size=law.step_size, noise_scale=scale, device=start.device)
        return sampler.sample(start.clone(), n_steps=steps)

    return loop


def with_hatebm(energy: Energy, start: Tensor, **how: str) -> Loop:
    """A chain from beginning to end, whatever it prepares included."""

    def loop(steps: int, law: Dynamics) -> Tensor:
        return Chain(energy, start, law, seed=0, **how).run(steps)

    return loop


def gradient(energy: Energy) -> Callable[[Tensor], Tensor]:
    """The gradient by autograd, of a state that is no leaf."""

    def grad_of(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(energy(leaf).sum(), leaf)[0]

    return grad_of


def gradient_function(energy: Energy, argnums: int | tuple[int, ...] = 0) -> Callable[..., Tensor]:
    """The same as torch.compile follows it."""
    return torch.func.grad(lambda *x: energy(*x).sum(), argnums=argnums)


def compiled(function: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """torch.compile, on a GPU with CUDA graphs."""
    return torch.compile(function, mode="reduce-overhead" if device.type == "cuda" else None)


def held(energy: Energy) -> Energy:
    """A copy whose weights ask for no gradient."""
    return copy.deepcopy(energy).requires_grad_(False) if isinstance(energy, nn.Module) else energy


def has_weights(energy: Energy) -> bool:
    """Whether an energy is a network."""
    return isinstance(energy, nn.Module) and any(True for _ in energy.parameters())


def has_torchebm() -> bool:
    """Whether torchebm is installed."""
    return importlib.util.find_spec("torchebm") is not None


def has_half() -> bool:
    """Whether a chain takes a precision."""
    return "precision" in inspect.signature(Chain).parameters
