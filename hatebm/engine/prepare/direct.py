"""Convolutions of few channels on the CPU: of images, as networks begin with them, and of strides."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hatebm.ops.native.extension import _C, address, has_vectors, readable, unavailable

IMAGE = 4  # channels of an image, at most
CHANNELS = 16  # the outputs are a multiple of it, and the inputs where they are more than an image's
MOST_WEIGHTS = 128 * 128  # channels in times out: beyond it torch's own blocking wins
SIDES = range(3, 8)


def can_convolve(weight: tuple[int, ...], stride: int, padding: int) -> bool:
    """Whether the kernels take a convolution of this weight (out, in, side, side), and gain by it.

    Between many channels torch loses time on strides alone, on the way back.
    """
    outputs, inputs, *sides = weight
    begins = inputs <= IMAGE and stride in (1, 2)
    strides = inputs % CHANNELS == 0 and inputs * outputs <= MOST_WEIGHTS and stride == 2
    square = sides[0] == sides[1] and sides[0] in SIDES and padding < sides[0]
    fits = (begins or strides) and outputs % CHANNELS == 0 and square
    return fits and not unavailable("cpu") and has_vectors()


class Direct:
    """A convolution prepared for one run: `direct(x)` is `conv2d(x, weight, bias, stride, padding)`.

    Args:
        weight: (out, in, side, side) float32 on the CPU.
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> None:
        self.outputs, self.inputs, self.side = weight.shape[:3]
        self.stride, self.padding = stride, padding
        self.bias = None if bias is None else readable(bias.detach())
        begins, weight = self.inputs <= IMAGE, weight.detach()
        self.kernel = _C.stem if begins else _C.direct
        self.forward = readable(weight.permute(2, 3, 1, 0))
        self.backward = self.forward if begins else readable(weight.permute(2, 3, 0, 1))

    def __call__(self, x: Tensor) -> Tensor:
        """x: (n, in, rows, columns) in any layout; the result is channels_last, with a first derivative in x alone."""
        return _Convolved.apply(x, self)

    def run(self, x: Tensor, size: tuple[int, int], *, pulled_back: bool) -> Tensor:
        """The convolution of images of this size, or what pulls a gradient back through it; both channels_last."""
        layout, here = torch.channels_last, x.device
        x = readable(x, layout)
        made = [(length + 2 * self.padding - self.side) // self.stride + 1 for length in size]
        shape = (len(x), self.inputs, *size) if pulled_back else (len(x), self.outputs, *made)
        y = torch.empty(shape, dtype=torch.float32, device=here, memory_format=layout)
        weight, bias = (self.backward, None) if pulled_back else (self.forward, self.bias)
        x_at, weight_at, y_at = (address(v, v.numel(), here) for v in (x, weight, y))
        kind = (self.inputs, self.outputs, self.side, self.stride, self.padding)
        bias_at = address(bias, self.outputs, here)
        self.kernel(pulled_back, x_at, weight_at, bias_at, y_at, len(x), *size, *kind, torch.get_num_threads())
        return y


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, convolution: Direct) -> Tensor:
        ctx.convolution, ctx.size = convolution, tuple(x.shape[2:])
        return convolution.run(x, ctx.size, pulled_back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.convolution.run(grad, ctx.size, pulled_back=True), None
