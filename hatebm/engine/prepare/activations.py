"""Activations on the CPU: the value and the slope in one pass, where autograd would compute them apart.

With numbers of each channel around them, as classes or styles have them, it is `act(gain * x) + shift`, still one pass.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hatebm.ops.native.chains import ACTIVATIONS
from hatebm.ops.native.extension import _C, address, readable

CHANNELS = 16  # channels with numbers of their own are a multiple of it


class Activation(NamedTuple):
    """A name, the number that some have, and what each channel is multiplied with before and moved by behind it."""

    name: str
    parameter: float = 0.0  # the depth of elu, the slope of leaky_relu
    gain: Tensor | None = None  # (n or 1, channels, 1, 1)
    shift: Tensor | None = None


RELU = Activation("relu")
PLAIN: dict[str, Callable[[Tensor, float], Tensor]] = {
    "silu": lambda x, _: F.silu(x),
    "leaky_relu": F.leaky_relu,
    "softplus": lambda x, _: F.softplus(x),
    "tanh": lambda x, _: torch.tanh(x),
    "gelu": lambda x, _: F.gelu(x),
    "gelu_tanh": lambda x, _: F.gelu(x, approximate="tanh"),
    "elu": lambda x, alpha: F.elu(x, alpha),
    "relu": lambda x, _: F.relu(x),
}


def activated(x: Tensor, *kind: Any) -> Tensor:
    """What arguments of :class:`Activation` make of x, within 4 ulp of 1 and with a first derivative in x."""
    activation = Activation(*kind)
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return plainly(x, activation)
    return _Activated.apply(x, activation)


def plainly(x: Tensor, activation: Activation) -> Tensor:
    """The same by torch."""
    name, parameter, gain, shift = activation
    values = PLAIN[name](x if gain is None else x * gain, parameter)
    return values if shift is None else values + shift


def values_and_slopes(
    x: Tensor, name: str, parameter: float, gain: Tensor | None = None, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Both for every element of a float32 tensor on the CPU, in the layout of x where that is dense."""
    x = x.resolve_neg()
    if gain is not None or shift is not None:
        return _modulated(x, Activation(name, parameter, gain, shift))
    values = torch.empty_like(x)
    x = x if x.stride() == values.stride() else torch.empty_like(values).copy_(x)
    slopes = torch.empty_like(values)
    addresses = [address(v, x.numel(), x.device) for v in (x, values, slopes)]
    _C.activation(ACTIVATIONS.index(name), parameter, x.numel(), *addresses, torch.get_num_threads())
    return values, slopes


def _modulated(x: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    name, parameter, *numbers = activation
    n, channels, *sides = x.shape
    layout, here = torch.channels_last, x.device
    x = readable(x, layout)
    values, slopes = (torch.empty(x.shape, dtype=x.dtype, device=here, memory_format=layout) for _ in range(2))
    rows = [None if v is None else readable(v.detach().flatten(1)) for v in numbers]
    told = [(0, 0) if v is None else (address(v, len(v) * channels, here), channels * (len(v) > 1)) for v in rows]
    at_x, *made = (address(v, x.numel(), here) for v in (x, values, slopes))
    sizes = (n, math.prod(sides), channels)
    _C.modulated(ACTIVATIONS.index(name), parameter, sizes, at_x, *told, *made, torch.get_num_threads())
    return values, slopes


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation) -> Tensor:
        values, slopes = values_and_slopes(x, *activation)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None
