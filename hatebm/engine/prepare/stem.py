"""3x3 convolutions of images with at most four channels, as networks begin with them, on the CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hatebm.ops.native.extension import _C, address, has_vectors, readable, unavailable

MOST_INPUTS = 4
CHANNELS = 16  # the outputs are a multiple of it


def can_begin(weight: tuple[int, ...], stride: int) -> bool:
    """Whether the kernels take a convolution of this weight (out, in, side, side), with padding 1."""
    outputs, inputs, *sides = weight
    fits = inputs <= MOST_INPUTS and outputs % CHANNELS == 0 and (sides, stride) == ([3, 3], 1)
    return fits and not unavailable("cpu") and has_vectors()


class Stem:
    """A 3x3 convolution with padding 1, prepared for one run: `stem(x)` is `conv2d(x, weight, bias, 1, 1)`.

    Args:
        weight: (out, in, 3, 3) float32 on the CPU.
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape[:2]
        self.bias = None if bias is None else readable(bias.detach())
        self.weight = readable(weight.detach().permute(2, 3, 1, 0))

    def __call__(self, x: Tensor) -> Tensor:
        """x: (n, in, rows, columns) in any layout; the result is channels_last, with a first derivative in x alone."""
        return _Begun.apply(x, self)

    def run(self, x: Tensor, outputs: int, *, pulled_back: bool) -> Tensor:
        """The convolution, or what pulls a gradient back through it; both channels_last."""
        layout, here = torch.channels_last, x.device
        x = readable(x, layout)
        n, _, rows, columns = x.shape
        size = (n, outputs, rows, columns)
        y = torch.empty(size, dtype=torch.float32, device=here, memory_format=layout)
        ends = [address(v, v.numel(), here) for v in (x, y)]
        weight = address(self.weight, self.weight.numel(), here)
        bias = address(None if pulled_back else self.bias, self.outputs, here)
        sizes = (n, rows, columns, self.inputs, self.outputs)
        _C.stem(pulled_back, ends[0], weight, bias, ends[1], *sizes, torch.get_num_threads())
        return y


class _Begun(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stem: Stem) -> Tensor:
        ctx.stem = stem
        return stem.run(x, stem.outputs, pulled_back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.stem.run(grad, ctx.stem.inputs, pulled_back=True), None
