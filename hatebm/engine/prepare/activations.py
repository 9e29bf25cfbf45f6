"""Smooth activations on the CPU: the value and the slope in one pass, where autograd would compute them apart."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hatebm.ops.native.chains import ACTIVATIONS
from hatebm.ops.native.extension import _C, address

Activation = tuple[str, float]  # a name, and the depth of elu
RELU: Activation = ("relu", 0.0)
PLAIN: dict[str, Callable[[Tensor, float], Tensor]] = {
    "silu": lambda x, _: F.silu(x),
    "softplus": lambda x, _: F.softplus(x),
    "tanh": lambda x, _: torch.tanh(x),
    "gelu": lambda x, _: F.gelu(x),
    "gelu_tanh": lambda x, _: F.gelu(x, approximate="tanh"),
    "elu": lambda x, alpha: F.elu(x, alpha),
    "relu": lambda x, _: F.relu(x),
}


def activated(x: Tensor, name: str, parameter: float) -> Tensor:
    """The activation of that name, within 4 ulp of 1, with a first derivative; ``parameter`` is the depth of elu."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return PLAIN[name](x, parameter)
    return _Activated.apply(x, name, parameter)


def values_and_slopes(x: Tensor, name: str, parameter: float) -> tuple[Tensor, Tensor]:
    """Both for every element of a float32 tensor on the CPU, in the layout of x where that is dense."""
    x = x.resolve_neg()
    values = torch.empty_like(x)
    x = x if x.stride() == values.stride() else torch.empty_like(values).copy_(x)
    slopes = torch.empty_like(values)
    addresses = [address(v, x.numel(), x.device) for v in (x, values, slopes)]
    _C.activation(ACTIVATIONS.index(name), parameter, x.numel(), *addresses, torch.get_num_threads())
    return values, slopes


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, parameter: float) -> Tensor:
        values, slopes = values_and_slopes(x, name, parameter)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.saved_tensors[0], None, None
