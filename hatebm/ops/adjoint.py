"""The fused step as a function that autograd passes: for steps of a chain that is trained through."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.ops.library import langevin_step_, place
from hatebm.ops.reference import Number, Numbers
from hatebm.ops.scalars import OPEN

PLACE = ("block", "purpose", "chain_ids")


class LangevinStep(torch.autograd.Function):
    """x' = clamp(x - D(h) + noise_std eps), h = grad / T + p x, D the clipped drift, in the bits of the fused step.

    With u the gradient in x', zero where x' was clamped, and v = D'(h)' u, the gradient in x is u - p v, and that in
    grad -v / T. Each number of the law gets the sum over its chain's elements of -u dD (step size and bound), of u eps
    (noise_std), of -v grad (1 / T) and of -v x (p).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, grad: Tensor | None, numbers: Tensor | None, backend: str | None, settings: dict[str, Any]
    ) -> Tensor:
        """The step on a copy of x."""
        new, low, high = x.clone(), settings["low"], settings["high"]
        langevin_step_(new, grad, backend, **settings | OPEN | {"numbers": numbers})
        ctx.settings, ctx.backend = settings, backend
        ctx.save_for_backward(x, grad, numbers, (new < low) | (new > high))
        new = torch.where(new < low, low, new)
        return torch.where(new > high, high, new)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiable itself, for losses of gradients."""
        x, grad, numbers, clamped = ctx.saved_tensors
        settings, u = ctx.settings, torch.where(clamped, 0, u)
        learned = numbers is not None and ctx.needs_input_grad[2]
        law = Numbers(*(settings[name] for name in Numbers._fields)).of_each(numbers, x)
        along = Numbers(*[None] * len(law))
        if learned and settings["noise_std"] != 0:
            along = along._replace(noise_std=u * _eps(x, settings, ctx.backend))
        if grad is None:
            return u, None, _summed(along, numbers) if learned else None, None, None
        g = grad.to(x.dtype)
        h = g * law.inverse_temperature + law.prior_precision * x
        clip = _clip_of(h, law, settings)
        v = _through(clip, law, u)
        if learned:
            step_size, bound = _along_clip(clip, h, law, settings)
            along = along._replace(step_size=-u * step_size, inverse_temperature=-v * g)
            along = along if bound is None else along._replace(bound=-u * bound)
            along = along if settings["prior_precision"] == 0 else along._replace(prior_precision=-v * x)
        numbers_grad = _summed(along, numbers) if learned else None
        return u - law.prior_precision * v, (-law.inverse_temperature * v).to(grad.dtype), numbers_grad, None, None


class Clip(NamedTuple):
    """How a clip met h: where it was free, where along its bound lies, and how long h was."""

    free: Tensor
    direction: Tensor
    length: Tensor | None  # of each sample; None where elements are clipped
    bound: Number
    scale: Number  # what of h meets the bound


def _clip_of(h: Tensor, law: Numbers, settings: dict[str, Any]) -> Clip | None:
    """None without a clip."""
    infinite = not isinstance(law.bound, Tensor) and math.isinf(law.bound)
    if settings["clip"] is None or infinite:
        return None
    scale = abs(law.step_size) if settings["clip_on"] == "update" else 1.0
    bound = torch.where(law.bound.isinf(), 0, law.bound) if isinstance(law.bound, Tensor) else law.bound
    if settings["clip"] == "value":
        return Clip(scale * h.abs() <= law.bound, h.sign(), None, bound, scale)
    rows = h.reshape(len(h), h[:1].numel())
    norm = rows.norm(dim=1).view(-1, *[1] * (h.dim() - 1))
    length = torch.where(norm > 0, norm, 1)  # samples of 0 are not capped; nor may they make a NaN of what is
    return Clip(scale * norm <= law.bound, h / length, length, bound, scale)


def _through(clip: Clip | None, law: Numbers, u: Tensor) -> Tensor:
    """D'(h)' u."""
    v = law.step_size * u
    if clip is None:
        return v
    if clip.length is None:
        return torch.where(clip.free, v, 0)
    across = (clip.direction * v).reshape(len(v), v[:1].numel()).sum(1).view(clip.length.shape)
    capped = clip.bound / (_unless_zero(clip.scale) * clip.length) * (v - clip.direction * across)
    return torch.where(clip.free, v, capped)


def _along_clip(clip: Clip | None, h: Tensor, law: Numbers, settings: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """What D changes by with the step size, and with the bound."""
    if clip is None:
        return h, None
    if settings["clip_on"] == "update":
        sign = law.step_size.sign() if isinstance(law.step_size, Tensor) else math.copysign(1.0, law.step_size)
        return torch.where(clip.free, h, 0), torch.where(clip.free, 0, sign * clip.direction)
    step_size = torch.where(clip.free, h, clip.bound * clip.direction)
    return step_size, torch.where(clip.free, 0, law.step_size * clip.direction)


def _unless_zero(scale: Number) -> Number:
    """A scale that divides what is not chosen where it is 0."""
    if isinstance(scale, Tensor):
        return torch.where(scale == 0, 1, scale)
    return scale or 1.0


def _eps(x: Tensor, settings: dict[str, Any], backend: str | None) -> Tensor:
    """The normals of a step, once more."""
    if settings["noise"] is not None:
        return settings["noise"]
    at = place(settings["seed"], settings["step"]) | {name: settings[name] for name in PLACE}
    return torch.ops.hatebm.normal(list(x.shape), **at, device=x.device, backend=backend).to(x.dtype)


def _summed(along: Numbers, numbers: Tensor) -> Tensor:
    """The gradients of a law's numbers, like them, from those of every element."""
    columns = numbers.shape[1]
    none = numbers.new_zeros(columns)
    rows = [part if part is None else part.reshape(len(part), part[:1].numel()).sum(1) for part in along]
    return torch.stack([none if row is None else row if columns != 1 else row.sum().view(1) for row in rows])
