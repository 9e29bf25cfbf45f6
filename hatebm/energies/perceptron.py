"""Multilayer perceptrons as their kernel takes them: which modules are one, and the chains in their energy.

The kernel runs forward, backward and the step for a few chains at a time, a lane each, and agrees with autograd to
float32 rounding. A chain's bits depend on its own numbers alone: not on the other chains, the threads or the
instruction set.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from hatebm.energies.steps import Steps
from hatebm.ops import native
from hatebm.ops.backend import kernels_for, module_for
from hatebm.ops.native import extension

MOST_WEIGHTS = 1 << 21  # of all layers: beyond it they leave a core's own cache, and large products are as fast
MOST_ON_GPUS = 1 << 17  # beyond it, reading them at each step costs as much as the launches that are saved


class Layer(NamedTuple):
    """A linear layer and what becomes of its outputs, as the kernel takes them."""

    weight: Tensor  # (outputs, inputs)
    bias: Tensor | None  # (outputs,)
    activation: str
    parameter: float  # slope of leaky_relu below 0, depth of elu


class Perceptron:
    """The energy of a module that is a multilayer perceptron; its parameters are read at every run."""

    def __init__(self, module: nn.Module, seen: list[Layer] | None = None) -> None:
        self.module, self._seen = module, seen  # the layers that were just looked at, for the next to ask for them
        self._ready: list[Layer] | None = None  # the same of layers that the kernel takes, for the steps that follow

    def layers(self) -> list[Layer] | None:
        """The layers as they are now; None where the module is no perceptron any more."""
        return layers_of(self.module)

    def takes(self, x: Tensor) -> bool:
        """Whether x, (n, *sample), has rows for the first layer."""
        return x.dim() == 2 or (x.dim() > 2 and _flattens(self.module))

    def can_advance(self, x: Tensor, steps: Steps) -> str | None:
        """Why these chains go step by step; None where the kernel takes them."""
        return None if self._ready else self._obstacle(x, steps.backend)

    def advance_(self, x: Tensor, steps: Steps) -> Tensor:
        """Move x in place; returns the first bad step of each chain."""
        kernels = module_for("perceptron_chains_", steps.backend, x.device)
        layers, self._ready = self._ready or self.layers(), None
        return kernels.perceptron_chains_(x, layers, steps)

    def in_kernel(self, x: Tensor, backend: str | None) -> Callable[[Tensor], Tensor] | None:
        """The energy with the gradient of the kernel's bits; None where the kernel does not take such chains."""
        return None if self._obstacle(x, backend) else lambda x: _Energy.apply(x, self, backend)

    def _obstacle(self, x: Tensor, backend: str | None) -> str | None:
        kernels = kernels_for(backend, x.device)
        if kernels is None:
            return f"backend {backend!r} has no kernel for {x.device}"
        here = kernels is native and x.device.type == "cpu"
        if here and not extension.has_vectors():
            return "the portable build of the kernel is slower than a step at a time"
        if torch.is_autocast_enabled(x.device.type) or _has_any_global_hook():
            return "autocast or a hook of all modules changes what the layers compute"
        layers, self._seen = self._seen or self.layers(), None
        if layers is None or any(layer.weight.device != x.device for layer in layers):
            return "not a multilayer perceptron with float32 parameters beside the chains"
        most = MOST_WEIGHTS if here else MOST_ON_GPUS
        if sum(layer.weight.numel() for layer in layers[:-1]) > most:
            return f"more than {most} weights: a step at a time is as fast"
        if not here and not kernels.perceptron_fits(layers, x.device):
            return "layers too many or too wide for a GPU's chip"
        if not self.takes(x) or not x.numel() or x[0].numel() != layers[0].weight.shape[1]:
            return "the samples do not have as many elements as the first layer has inputs"
        self._ready = layers
        return None


class _Energy(torch.autograd.Function):
    """Energies whose gradient is the kernel's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, perceptron: Perceptron, backend: str | None) -> Tensor:
        kernels = module_for("perceptron_look", backend, x.device)
        energies, gradient = kernels.perceptron_look(x, perceptron.layers())
        ctx.save_for_backward(gradient)
        return energies

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream.view(-1, *[1] * (gradient.dim() - 1)) * gradient, None, None


def perceptron_of(energy: object) -> Perceptron | None:
    """The perceptron that a module is: Linear layers with an activation after each but the last, in a Sequential."""
    layers = layers_of(energy) if type(energy) is nn.Sequential else None
    return None if layers is None else Perceptron(energy, layers)


def layers_of(module: nn.Sequential) -> list[Layer] | None:
    """The layers as they are now; None where the module is not a perceptron that the kernel knows.

    A Flatten may come first, and a Flatten(0) last, that makes the (n, 1) energies (n,).
    """
    parts = list(_parts(module)) if type(module) is nn.Sequential else []
    parts = parts[_is_flatten(parts[:1], 1) : len(parts) - _is_flatten(parts[-1:], 0)]
    linear, between = parts[::2], parts[1::2]
    kinds = [activation_of(part) for part in between]
    if len(linear) < 2 or len(between) != len(linear) - 1 or None in kinds:
        return None
    if not all(type(part) is nn.Linear for part in linear):
        return None
    return layers_made_of([(part.weight, part.bias) for part in linear], kinds)


def layers_made_of(
    tensors: Sequence[tuple[Tensor, Tensor | None]], kinds: Sequence[tuple[str, float]]
) -> list[Layer] | None:
    """Layers of these weights and biases, with activations of these kinds between; None where the kernel knows none."""
    if not all(_is_plain(weight) and _is_plain(bias) for weight, bias in tensors):
        return None
    fits = all(a.shape[0] == b.shape[1] for (a, _), (b, _) in pairwise(tensors))
    if not fits or tensors[-1][0].shape[0] != 1 or any(weight.numel() == 0 for weight, _ in tensors):
        return None
    ends = [*kinds, ("none", 0.0)]
    return [Layer(_data(weight), _data(bias), *end) for (weight, bias), end in zip(tensors, ends, strict=True)]


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    for part in module:
        if type(part) is nn.Sequential:
            yield from _parts(part)
        elif not (type(part) is nn.Identity or (type(part) is nn.Dropout and (part.p == 0 or not part.training))):
            yield part


def activation_of(part: nn.Module) -> tuple[str, float] | None:
    """The kernel's name of an activation, and its number."""
    kind = type(part)
    if kind in (nn.ReLU, nn.SiLU, nn.Tanh):
        return kind.__name__.lower(), 0.0
    if kind is nn.LeakyReLU:
        return "leaky_relu", part.negative_slope
    if kind is nn.ELU:
        return "elu", part.alpha
    if kind is nn.GELU:
        return ("gelu" if part.approximate == "none" else "gelu_tanh"), 0.0
    if kind is nn.Softplus and (part.beta, part.threshold) == (1, 20):  # beyond 20 the line is within rounding
        return "softplus", 0.0
    return None


def _is_flatten(parts: list[nn.Module], start: int) -> bool:
    return bool(parts) and type(parts[0]) is nn.Flatten and (parts[0].start_dim, parts[0].end_dim) == (start, -1)


def _flattens(module: nn.Sequential) -> bool:
    return _is_flatten(list(_parts(module))[:1], 1)


def _is_plain(parameter: Tensor | None) -> bool:
    if parameter is None:
        return True
    own = type(parameter) in (nn.Parameter, Tensor) and parameter.layout == torch.strided
    return own and parameter.dtype == torch.float32 and parameter.device.type in ("cpu", "cuda")


def _data(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else extension.readable(parameter.detach())
