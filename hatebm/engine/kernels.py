"""Folded convolution kernels of one run."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.nets.layers import pooled_kernel


class Kernels:
    """Kernels of convolutions folded with a pool, computed once and again when a weight changes within the run.

    A run makes its own, since a write through ``weight.data`` between runs leaves no trace.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[tuple, Tensor]] = {}

    def pooled(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """`avg_pool2d(conv(x), 2)` of a 3x3 convolution with padding 1; see :func:`hatebm.nets.layers.conv_then_pool`.

        x: (n, c, h, w); result: (n, conv.out_channels, h // 2, w // 2).
        """
        made_of = tuple((id(w), w.data_ptr(), w._version) for w in (*conv.parameters(), *conv.buffers()))
        kept = self._kept.get(id(conv))
        if kept is None or kept[0] != made_of:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                kept = self._kept[id(conv)] = (made_of, pooled_kernel(conv.weight))
        return F.conv2d(x, kept[1], conv.bias, stride=2, padding=1)
