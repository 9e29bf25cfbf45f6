"""What pays, by shapes alone: a choice by the clock would change the bits between a training and its resumption.

Measured on two Zen-4 cores with AVX-512, torch 2.13, glibc's allocator.
"""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from hatebm.nets.layers import conv_then_pool

WORTH = 30e6  # multiply-adds of an evaluation's convolutions, below which calls and copies cost what is won
PIXELS = 14 * 14  # of an image whose reduction counts: at 8 x 8 channels_last wins nothing in our own networks
# Of a part's largest tensor: as much as the weights, which each part reads again, within these bounds. Above 32 MiB
# glibc maps each allocation anew and each of its pages faults; below that caches decide.
PART_BYTES = (4 << 20, 16 << 20)
SMALLEST_PART = 4  # chains, below which a convolution does not fill the cores


def bound_on_work(module: nn.Module) -> int:
    """Multiply-adds a pixel of the state, if each convolution, and each weight shaped like one, meets it once."""
    return sum(
        part.in_channels // part.groups * part.out_channels * math.prod(part.kernel_size)
        if isinstance(part, nn.Conv2d)
        else sum(w.numel() for w in part.parameters(recurse=False) if not is_lazy(w) and w.dim() == 4)
        for part in module.modules()
    )


class Work(fx.Interpreter):
    """Runs a graph on n chains and notes each node's ``shape``; of one chain, what the choices here go by.

    ``total`` is the multiply-adds of 2-d convolutions, ``largest`` the bytes of the largest tensor, ``result_dim`` the
    dimensions of what comes out. ``reduces`` says that images of some size are pooled or strided over: then
    channels_last wins 1.1 to 1.5 over the layout of PyTorch's own, at 16 to 256 channels, while convolutions that keep
    the size lose up to 1.4 by it.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, n: int) -> None:
        super().__init__(module, graph=graph)
        self.n, self.total, self.largest, self.result_dim, self.reduces = n, 0.0, 0.0, 0, False

    def run_node(self, node: fx.Node) -> Any:
        """One node."""
        result = super().run_node(node)
        shape = node.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else None
        self.result_dim = len(shape or ())
        if shape is None or shape[:1] != (self.n,):
            return result
        self.largest = max(self.largest, 4 * result.numel() / self.n)
        if len(shape) == 4:
            before = [given.meta.get("shape") or () for given in node.all_input_nodes]
            larger = max((math.prod(given[2:]) for given in before if len(given) == 4), default=0)
            self.reduces |= 1 < math.prod(shape[2:]) < larger >= PIXELS
            self.total += result.numel() / self.n * self._taps(node)
        return result

    def _taps(self, node: fx.Node) -> int:
        if node.op == "call_module" and isinstance(self.submodules[node.target], nn.Conv2d):
            return math.prod(self.submodules[node.target].weight.shape[1:])
        if node.target is conv_then_pool:
            return 16 * self.submodules[node.args[0].target].in_channels
        if node.target is F.conv2d and len(node.args) > 1:
            return math.prod(node.args[1].meta["shape"][1:])
        return 0


def part_size(module: nn.Module, largest: float, n: int) -> int | None:
    """Chains in a part, a power of two; None where the batch is one part."""
    weights = sum(4 * p.numel() for p in module.parameters())
    wanted = min(max(weights, PART_BYTES[0]), PART_BYTES[1])
    size = SMALLEST_PART
    while 2 * size * largest <= wanted:
        size *= 2
    return size if n > size else None
