"""What pays, by shapes alone: a choice by the clock would change the bits between a training and its resumption.

Measured on two Zen-4 cores with AVX-512, torch 2.13, glibc's allocator.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

WORTH = 30e6  # multiply-adds of an evaluation's convolutions, below which calls and copies cost what is won
WIDE = 2048  # in times out channels from which channels_last wins 1.2 to 1.5, below it loses up to 1.3
PART_BYTES = 8 << 20  # of the largest tensor of a part; glibc never reuses memory above 32 MiB, and pages fault in anew
SMALLEST_PART = 4  # chains, below which a convolution does not fill the cores


def bound_on_work(module: nn.Module, pixels: int) -> int:
    """Multiply-adds of the convolutions if each ran once over all ``pixels`` of the state."""
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    return pixels * sum(c.in_channels // c.groups * c.out_channels * math.prod(c.kernel_size) for c in convs)


class Work(TorchDispatchMode):
    """Of what runs under it: multiply-adds of 2-d convolutions a chain, and the bytes of a chain's largest tensor."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.total, self.wide, self.largest = n, 0.0, 0.0, 0.0

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op is torch.ops.aten.convolution.default and result.dim() == 4:
            weight = args[1]
            work = result.numel() / self.n * math.prod(weight.shape[1:])
            self.total += work
            self.wide += work * (weight.shape[0] * weight.shape[1] >= WIDE)
        if isinstance(result, Tensor) and result.shape[:1] == (self.n,):
            self.largest = max(self.largest, 4 * result.numel() / self.n)
        return result


def part_size(largest: float, n: int) -> int | None:
    """Chains in a part, a power of two; None where the batch is one part."""
    size = SMALLEST_PART
    while 2 * size * largest <= PART_BYTES:
        size *= 2
    return size if n > size else None
