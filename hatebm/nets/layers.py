"""Layers that the networks share, and how their weights start."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Affine(nn.Module):
    """Per-channel scale and shift, `y = weight * x + bias`.

    Batch norm whose running statistics stay at mean 0 and variance 1 is this layer with
    `weight = gamma / sqrt(1 + eps)`; the Hat EBM code so evaluates its generator's batch norms, in training too.

    x: (n, channels, h, w).
    """

    def __init__(self, channels: int):
        super().__init__()
        here = torch.get_default_device()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1, dtype=torch.float32, device=here))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1, dtype=torch.float32, device=here))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.weight)


# float32, whatever the caller's default is
conv3 = partial(nn.Conv2d, kernel_size=3, padding=1, dtype=torch.float32)
conv1 = partial(nn.Conv2d, kernel_size=1, dtype=torch.float32)
dense = partial(nn.Linear, dtype=torch.float32)
Norm = Callable[[int], nn.Module]
NORMS: dict[str, Norm] = {"affine": Affine, "batch": partial(nn.BatchNorm2d, dtype=torch.float32)}


def conv_then_pool(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`avg_pool2d(conv(x), 2)` of a 3x3 convolution with padding 1, as one 4x4 convolution of stride 2.

    The mean of four shifted 3x3 kernels is one 4x4 kernel: the same function in 4 multiplications instead of 9.

    x: (n, c, 2h, 2w); result: (n, conv.out_channels, h, w).
    """
    return F.conv2d(x, pooled_kernel(conv.weight), conv.bias, stride=2, padding=1)


def pooled_kernel(weight: Tensor) -> Tensor:
    """The mean of a 3x3 kernel's four shifts; weight: (out, in, 3, 3), result: (out, in, 4, 4)."""
    unit_kernels = torch.eye(9, dtype=weight.dtype, device=weight.device).view(9, 1, 3, 3)
    fold = F.avg_pool2d(unit_kernels, 2, stride=1, padding=1).view(9, 16)
    return (weight.flatten(2) @ fold).unflatten(2, (4, 4))


def upsample(x: Tensor) -> Tensor:
    """Bilinear upsampling by 2 with half-pixel centres; x: (n, c, h, w), result: (n, c, 2h, 2w)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def init_glorot(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases in every convolution and dense layer, the default of Keras."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_sngan(net: nn.Module) -> None:
    """Glorot-uniform weights, with gain sqrt(2) in the 3x3 convolutions of `net.blocks`, and PyTorch's own biases.

    Source: the SN-GANs of the mimicry library (github.com/kwotsin/mimicry).
    """
    in_blocks = set(net.blocks.modules())
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            wide = layer in in_blocks and layer.weight.shape[2:] == (3, 3)
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2) if wide else 1.0)
