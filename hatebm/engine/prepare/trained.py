"""Convolutions of a network that learns, on the CPU: the kernels of runs, and torch's own gradient in the weight."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from hatebm.engine.prepare.activations import activated
from hatebm.engine.prepare.direct import Direct, can_convolve
from hatebm.engine.prepare.winograd import Filter, can_filter, filtered, pays

PLAIN = (Tensor, nn.Parameter)


class OwnKernels(TorchFunctionMode):
    """While it is entered, F.conv2d without bias and F.silu go through our own kernels where these win.

    They are the same functions, to float32 rounding, with first derivatives alone.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is F.conv2d and len(args) == 2 and given.keys() == {"stride", "padding"}:
            own = _kernel_of(*args, **given)
            if own is not None:
                return _Learned.apply(*args, own)
        if func is F.silu and len(args) == 1 and not given.get("inplace") and _is_plain(args[0]):
            return activated(args[0], "silu")
        return func(*args, **given)


def _kernel_of(x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Filter | Direct | None:
    fits = _is_plain(x) and _is_plain(weight) and x.dim() == weight.dim() == 4 and x.shape[1] == weight.shape[1]
    if not fits or type(stride) is not int or type(padding) is not int:
        return None
    shape = tuple(weight.shape)
    if padding == 1 and can_filter(shape, stride) and pays(stride, *x.shape[2:]):
        return Filter(weight, None, stride)
    return Direct(weight, None, stride, padding) if can_convolve(shape, stride, padding) else None


def _is_plain(x: Any) -> bool:
    return type(x) in PLAIN and x.dtype == torch.float32 and x.is_cpu and not torch.is_autocast_enabled("cpu")


class _Learned(torch.autograd.Function):
    """A convolution by a kernel that was prepared for its weight; the result is channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, own: Filter | Direct) -> Tensor:
        ctx.own = own
        ctx.save_for_backward(x, weight)
        if isinstance(own, Direct):
            return own.run(x, tuple(x.shape[2:]), pulled_back=False)
        size = (own.outputs, *(length // own.stride for length in x.shape[2:]))
        return filtered(x, own.kinds[0], own.forward, None, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        own, (x, weight), (moves, learns, _) = ctx.own, ctx.saved_tensors, ctx.needs_input_grad
        by_filter, pulled, learnt = isinstance(own, Filter), None, None
        if moves and by_filter:
            pulled = filtered(grad, own.kinds[1], own.backward, None, tuple(x.shape[1:]))
        elif moves:
            pulled = own.run(grad, tuple(x.shape[2:]), pulled_back=True)
        if learns:
            padding = 1 if by_filter else own.padding
            how = ([own.stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
            _, learnt, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *how, [False, True, False])
        return pulled, learnt, None
