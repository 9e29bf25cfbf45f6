"""Convolutions of one run, whose kernels are prepared once."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.engine.prepare.activations import Activation, plainly
from hatebm.engine.prepare.direct import Direct, can_convolve
from hatebm.engine.prepare.fixed import Applied, tensors_in, version_of
from hatebm.engine.prepare.winograd import Filter, can_filter, pays
from hatebm.nets.layers import pooled_kernel


class Kept(NamedTuple):
    """What was made of a convolution, and the tensors that it was made of."""

    made_of: tuple
    weight: Tensor
    own: Filter | Direct | None  # our kernels of it


class Convolutions:
    """The convolutions of a run, whose kernels are prepared once and again when a weight changes within the run.

    A run makes its own, since a write through ``weight.data`` between runs leaves no trace. With ``channels_last``
    images, float32 ones on the CPU go through :mod:`hatebm.engine.prepare.winograd` where that pays.
    """

    def __init__(self, channels_last: bool) -> None:
        self.channels_last = channels_last
        self._kept: dict[tuple[int, bool], Kept] = {}

    def forget(self) -> None:
        """Prepare all anew: the computed weights are others."""
        self._kept.clear()

    def pooled(self, conv: nn.Conv2d | Applied, x: Tensor, activation: Activation | None = None) -> Tensor:
        """`avg_pool2d(conv(x), 2)` of a 3x3 convolution with padding 1; see :func:`hatebm.nets.layers.conv_then_pool`.

        x: (n, c, h, w), or its activation in its place; result: (n, conv.out_channels, h // 2, w // 2).
        """
        return self._convolved(conv, x, 2, 1, folded=True, activation=activation)

    def filtered(self, conv: nn.Conv2d | Applied, x: Tensor, activation: Activation | None = None) -> Tensor:
        """`conv(x)`, or that of an activation of x, of a convolution with padding 1: 3x3, or 4x4 of stride 2."""
        return self._convolved(conv, x, conv.stride[0], 1, folded=False, activation=activation)

    def direct(self, conv: nn.Conv2d | Applied, x: Tensor, padding: int) -> Tensor:
        """`conv(x)` of a convolution of few channels, see :mod:`hatebm.engine.prepare.direct`."""
        return self._convolved(conv, x, conv.stride[0], padding, folded=False, activation=None)

    def _convolved(
        self,
        conv: nn.Conv2d | Applied,
        x: Tensor,
        stride: int,
        padding: int,
        *,
        folded: bool,
        activation: Activation | None,
    ) -> Tensor:
        plain = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        filters = plain and pays(stride, *x.shape[2:])
        kept = self._prepared(conv, stride, padding, folded, self.channels_last and plain, filters)
        if isinstance(kept.own, Filter):
            return kept.own(x, activation)
        x = x if activation is None else plainly(x, Activation(*activation))
        if isinstance(kept.own, Direct):
            return kept.own(x)
        bias = None if conv.bias is None else conv.bias.detach()
        return F.conv2d(x, kept.weight, bias, stride=stride, padding=padding)

    def _prepared(
        self, conv: nn.Conv2d | Applied, stride: int, padding: int, folded: bool, own: bool, filters: bool
    ) -> Kept:
        made_of = (own, filters, *map(version_of, tensors_in([conv])))
        kept = self._kept.get((id(conv), folded))
        if kept is None or kept.made_of != made_of:
            with torch.no_grad(), torch.autocast(conv.weight.device.type, enabled=False):
                weight = pooled_kernel(conv.weight) if folded else conv.weight.detach()
                shape = tuple(weight.shape)
                made = None
                if own and weight.dtype == torch.float32:
                    if filters and can_filter(shape, stride):
                        made = Filter(weight, conv.bias, stride)
                    elif can_convolve(shape, stride, padding):
                        made = Direct(weight, conv.bias, stride, padding)
            kept = self._kept[id(conv), folded] = Kept(made_of, weight, made)
        return kept
