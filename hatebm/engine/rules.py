"""What pays, by shapes alone: a choice by the clock would change the bits between a training and its resumption.

Measured on two Zen-4 cores with AVX-512, torch 2.13, glibc's allocator.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

WORTH = 30e6  # multiply-adds of an evaluation's convolutions, below which calls and copies cost what is won
REDUCING = (torch.ops.aten.avg_pool2d.default, torch.ops.aten.max_pool2d_with_indices.default)
# Of a part's largest tensor: as much as the weights, which each part reads again, within these bounds. Above 32 MiB
# glibc maps each allocation anew and each of its pages faults; below that caches decide.
PART_BYTES = (8 << 20, 16 << 20)
SMALLEST_PART = 4  # chains, below which a convolution does not fill the cores


def bound_on_work(module: nn.Module, pixels: int) -> int:
    """Multiply-adds of the convolutions if each ran once over all ``pixels`` of the state."""
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    return pixels * sum(c.in_channels // c.groups * c.out_channels * math.prod(c.kernel_size) for c in convs)


class Work(TorchDispatchMode):
    """Of what runs under it: multiply-adds of 2-d convolutions a chain, and the bytes of a chain's largest tensor.

    ``reduces`` says that images are pooled or strided over: then channels_last wins 1.1 to 1.5 over the layout of
    PyTorch's own, at 16 to 256 channels, while convolutions that keep the size lose up to 1.4 by it.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.total, self.largest, self.reduces = n, 0.0, 0.0, False

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op is torch.ops.aten.convolution.default and result.dim() == 4:
            self.total += result.numel() / self.n * math.prod(args[1].shape[1:])
            self.reduces |= max(args[3]) > 1
        self.reduces |= op in REDUCING
        if isinstance(result, Tensor) and result.shape[:1] == (self.n,):
            self.largest = max(self.largest, 4 * result.numel() / self.n)
        return result


def part_size(module: nn.Module, largest: float, n: int) -> int | None:
    """Chains in a part, a power of two; None where the batch is one part."""
    weights = sum(4 * p.numel() for p in module.parameters())
    wanted = min(max(weights, PART_BYTES[0]), PART_BYTES[1])
    size = SMALLEST_PART
    while 2 * size * largest <= wanted:
        size *= 2
    return size if n > size else None
