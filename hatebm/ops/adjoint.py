"""The fused step as a function that autograd passes: for the last steps of a chain that is trained through."""

from typing import Any

import torch
from torch import Tensor

from hatebm.ops.library import langevin_step_
from hatebm.ops.scalars import OPEN


class LangevinStep(torch.autograd.Function):
    """x' = clamp(x - s clip(h) + noise), h = grad / T + prior_precision x, in the bits of the fused step.

    With u the gradient in x', zero where x' was clamped, and J the derivative of the clip: the gradient in x is
    u - prior_precision J'(s u), that in grad is -J'(s u) / T.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad: Tensor | None, backend: str | None, settings: dict[str, Any]) -> Tensor:
        """The step on a copy of x."""
        new, low, high = x.clone(), settings["low"], settings["high"]
        langevin_step_(new, grad, backend, **settings | OPEN)
        ctx.settings = settings
        ctx.save_for_backward(x, grad, (new < low) | (new > high))
        new = torch.where(new < low, low, new)
        return torch.where(new > high, high, new)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Differentiable itself, for losses of gradients."""
        x, grad, clamped = ctx.saved_tensors
        law, u = ctx.settings, torch.where(clamped, 0, u)
        if grad is None:
            return u, None, None, None
        pull = _through_clip(law, x, grad, law["step_size"] * u)
        return u - law["prior_precision"] * pull, (-law["inverse_temperature"] * pull).to(grad.dtype), None, None


def _through_clip(law: dict[str, Any], x: Tensor, grad: Tensor, u: Tensor) -> Tensor:
    """J'u with J the derivative of the clip of h."""
    if law["clip"] is None:
        return u
    h = grad.to(x.dtype) * law["inverse_temperature"] + law["prior_precision"] * x
    scale = abs(law["step_size"]) if law["clip_on"] == "update" else 1.0
    if law["clip"] == "value":
        return torch.where(scale * h.abs() <= law["bound"], u, 0)
    rows, pulled = (v.reshape(len(v), v[:1].numel()) for v in (h, u))
    norm = rows.norm(dim=1, keepdim=True)
    length = torch.where(norm > 0, norm, 1)  # rows of 0 are not capped; nor may they make a NaN of what is
    along = (rows * pulled).sum(1, keepdim=True) / length.square()
    capped = law["bound"] / (scale * length) * (pulled - rows * along)
    return torch.where(scale * norm <= law["bound"], pulled, capped).reshape(u.shape)
