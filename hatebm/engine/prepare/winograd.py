"""Convolutions by Winograd's minimal filtering on the CPU: 3x3, and 4x4 of stride 2.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), arXiv 1509.09308. A tile of 4x4
outputs takes (r + 3)^2 multiplications a channel for 16 r^2, where r = 3, or r = 2 for each phase of a stride of 2.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hatebm.engine.prepare.activations import RELU, Activation, values_and_slopes
from hatebm.ops.native.extension import _C, address, has_vectors, readable, unavailable

CHANNELS = 16  # both counts are multiples of it
PANEL = 32  # output channels whose weights lie side by side
MOST_WEIGHTS = 512 * 512  # channels in times out: beyond it few tiles fill a core's cache
PAYS = 0.6  # share of the convolution's own multiplications, which torch makes at a higher rate
FILTERS = ("same", "down", "up")


def can_filter(weight: tuple[int, ...], stride: int) -> bool:
    """Whether convolutions of this weight (out, in, side, side), with padding 1, have a filter."""
    outputs, inputs, *sides = weight
    known = (sides, stride) in (([3, 3], 1), ([4, 4], 2))
    fits = outputs % CHANNELS == 0 and inputs % CHANNELS == 0 and outputs * inputs <= MOST_WEIGHTS
    return known and fits and not unavailable("cpu") and has_vectors()


def pays(stride: int, rows: int, columns: int) -> bool:
    """Whether tiles waste little enough on images of this size."""
    outputs = rows // stride * (columns // stride)
    tiles = math.ceil(rows // stride / 4) * math.ceil(columns // stride / 4)
    own, direct = (36 * tiles, 9 * outputs) if stride == 1 else (100 * tiles, 16 * outputs)
    return own <= PAYS * direct


class Filter:
    """A convolution with padding 1, prepared for one run: `filter(x)` is `conv2d(x, weight, bias, stride, 1)`.

    With an activation it is that of the activation of x, whose slopes then take no pass over the gradient of their own;
    a relu takes none over the images either.

    Args:
        weight: (out, in, 3, 3), or (out, in, 4, 4) for a stride of 2; float32 on the CPU.
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int) -> None:
        weight = readable(weight.detach())
        self.stride, (self.outputs, self.inputs) = stride, weight.shape[:2]
        self.bias = None if bias is None else readable(bias.detach())
        self.kinds = ("same", "same") if stride == 1 else ("down", "up")
        self.forward = prepared(weight, self.kinds[0], False)
        self.backward = prepared(weight, self.kinds[1], True)

    def __call__(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """x: (n, in, rows, columns) in any layout; the result is channels_last, with a first derivative in x alone."""
        return _Filtered.apply(x, self, activation)


def prepared(weight: Tensor, kind: str, adjoint: bool) -> Tensor:
    """The values of every filter at the points, as the kernel takes them."""
    outputs, inputs = weight.shape[1::-1] if adjoint else weight.shape[:2]
    phases, taps = (1, 9) if kind == "same" else (4, 4)
    padded = math.ceil(outputs / PANEL) * PANEL
    size, here = phases * taps * padded * inputs, weight.device
    result = torch.empty(size, dtype=torch.float32, device=here)
    place = (
        address(weight, weight.numel(), here),
        outputs,
        inputs,
        address(result, size, here),
        torch.get_num_threads(),
    )
    _C.filter_weight(FILTERS.index(kind), adjoint, *place)
    return result


def filtered(
    x: Tensor,
    kind: str,
    weight: Tensor,
    bias: Tensor | None,
    size: tuple[int, int, int],
    *,
    rectified: bool = False,
    gate: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Run a prepared filter: (n, in, rows, columns) to (n, *size), both channels_last.

    Args:
        rectified: whether max(x, 0) stands in place of x.
        gate: like the result and channels_last too; the result is 0 where this is not above 0.
        slopes: likewise; the result is multiplied with them.
    """
    layout, here = torch.channels_last, x.device
    x = readable(x, layout)
    n, inputs, rows, columns = x.shape
    y = torch.empty((n, *size), dtype=torch.float32, device=here, memory_format=layout)
    places = (address(v, y.numel(), here) for v in (y, gate, slopes))
    addresses = (
        address(x, x.numel(), here),
        address(weight, weight.numel(), here),
        address(bias, size[0], here),
    )
    sizes = ((rows, columns, inputs), (*size[1:], size[0]))
    y_at, *gates = places
    _C.filter(FILTERS.index(kind), *addresses, y_at, n, *sizes, rectified, *gates, torch.get_num_threads())
    return y


class _Filtered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, filter: Filter, activation: Activation | None) -> Tensor:
        x = readable(x, torch.channels_last)
        ctx.filter, ctx.size, ctx.rectified = filter, tuple(x.shape[2:]), activation == RELU
        if ctx.rectified:
            ctx.save_for_backward(x)
        elif activation is not None:
            x, slopes = values_and_slopes(x, *activation)
            ctx.save_for_backward(slopes)
        size = (filter.outputs, *(length // filter.stride for length in ctx.size))
        return filtered(x, filter.kinds[0], filter.forward, filter.bias, size, rectified=ctx.rectified)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        filter, saved = ctx.filter, next(iter(ctx.saved_tensors), None)
        after = {"gate" if ctx.rectified else "slopes": saved}
        return filtered(grad, filter.kinds[1], filter.backward, None, (filter.inputs, *ctx.size), **after), None, None
