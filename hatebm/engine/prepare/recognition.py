"""The kernel of its own that an energy has, wherever it is called from: a module, a function, with a sign before it.

Followed is the graph of the callable: one call of an energy of :mod:`hatebm.energies`, or a multilayer perceptron in
any writing, between changes of shape that leave a chain's elements side by side. What is found is kept with the first
module that the callable names.
"""

import math
import operator
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hatebm.energies.mlp import MLP
from hatebm.energies.perceptron import Layer, Perceptron, activation_of, layers_made_of, perceptron_of
from hatebm.engine.prepare.callables import anchor_of
from hatebm.engine.prepare.nodes import ADDITIONS
from hatebm.engine.prepare.probe import copied, probe_state
from hatebm.engine.prepare.rewrites import fold_swish
from hatebm.engine.prepare.rules import Work
from hatebm.engine.prepare.signatures import Refused, signature
from hatebm.engine.prepare.tracing import NothingDrawn, is_hooked, traced

KINDS_KEPT = 8  # of state and mode, for each network
RESHAPED = ("view", "reshape", "flatten", "squeeze", "unsqueeze", torch.flatten, torch.squeeze, torch.reshape)
SUMMED = ("sum", "mean", torch.sum, torch.mean)
ACTIVATIONS = {F.relu: "relu", torch.relu: "relu", "relu": "relu", F.silu: "silu", F.softplus: "softplus"} | {
    torch.tanh: "tanh", F.tanh: "tanh", "tanh": "tanh", F.elu: "elu", F.gelu: "gelu", F.leaky_relu: "leaky_relu"
}  # fmt: skip
NUMBERED = {"leaky_relu": ("negative_slope", 0.01), "elu": ("alpha", 1.0)}
_lock = threading.RLock()
_cache: weakref.WeakKeyDictionary[nn.Module, dict[Any, "list[Recipe] | None"]] = weakref.WeakKeyDictionary()


class Recipe(NamedTuple):
    """Where in a module the kernel's energy lies: a part, or linear layers and activations; and what it is times."""

    part: str | None
    linear: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()  # the ways to weights and to biases, () for none
    activations: tuple[tuple[str, float], ...] = ()
    factor: float = 1.0
    total: bool = False  # whether the energy is the sum over all chains


class Terms(NamedTuple):
    """The kernels of an energy that is a sum over the two blocks of a state, in their order."""

    kernels: tuple[Any, ...]


def terms_of(kernel: Any | None) -> list[Any]:
    """The kernels of each block; none where there is no kernel."""
    return [] if kernel is None else list(kernel.kernels) if isinstance(kernel, Terms) else [kernel]


def sum_of(energies: Sequence[Tensor]) -> Tensor:
    """The energy of a state whose blocks have these."""
    return reduce(torch.add, energies)


class Recognised(Perceptron):
    """The energy of a callable that computes a multilayer perceptron."""

    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        super().__init__(module)
        self.recipe, self.total = recipe, recipe.total

    def layers(self) -> list[Layer] | None:
        """The layers as they are now."""
        tensors = [(self._tensor(weight), self._tensor(bias)) for weight, bias in self.recipe.linear]
        layers = layers_made_of(tensors, self.recipe.activations)
        if layers is None or self.recipe.factor == 1:
            return layers
        last, factor = layers[-1], self.recipe.factor
        bias = None if last.bias is None else last.bias * factor
        return [*layers[:-1], last._replace(weight=last.weight * factor, bias=bias)]

    def takes(self, x: Tensor) -> bool:
        """Whether x has rows for the first layer: seen when the callable was followed."""
        return x.dim() > 1

    def in_kernel(self, x: Tensor, backend: str | None) -> Callable[[Tensor], Tensor] | None:
        """The energy with the gradient of the kernel's bits; None where the kernel does not take such chains."""
        each = super().in_kernel(x, backend)
        return (lambda x: each(x).sum()) if each and self.total else each

    def _tensor(self, name: tuple[str, ...]) -> Tensor | None:
        part = self.module
        for inner in name[:-1]:
            part = part._modules[inner]
        return getattr(part, name[-1]) if name else None


def kernel_of(energy: nn.Module, state: Sequence[Tensor]) -> Any | None:
    """What takes whole runs in the energy, see :mod:`hatebm.energies.steps`; None where nothing can."""
    if hasattr(type(energy), "advance_"):
        return energy
    if isinstance(energy, MLP) and type(energy).forward is MLP.forward:
        return Perceptron(energy.layers)
    if type(energy) is nn.Sequential and (found := perceptron_of(energy)):
        return found
    if len(state) > 2 or not len(state[0]) or any(x.dtype != torch.float32 for x in state):
        return None
    try:
        with _lock:
            return _recognised(energy, state)
    except Refused:
        return None


def _recognised(module: nn.Module, state: Sequence[Tensor]) -> Any | None:
    if not any(_may_be_last(part) for part in module.modules()):
        return None
    if getattr(module, "tensors", None) or (key := signature(module)) is None:
        return None
    kinds = _cache.setdefault(anchor_of(module), {})
    key = key, tuple((x.shape, x.dtype, x.device) for x in state)
    if key not in kinds:
        kinds[key] = _recipes(module, state)
        for old in list(kinds)[:-KINDS_KEPT]:
            del kinds[old]
    if kinds[key] is None:
        return None
    parts = (Recognised(module, r) if r.part is None else module.get_submodule(r.part) for r in kinds[key])
    return next(parts) if len(state) == 1 else Terms(tuple(parts))


def _may_be_last(part: nn.Module) -> bool:
    return hasattr(type(part), "advance_") or (type(part) is nn.Linear and part.out_features == 1)


def _recipes(module: nn.Module, state: Sequence[Tensor]) -> list[Recipe] | None:
    """The recipe of each block's term."""
    try:
        graph = traced(module, len(state))
        parts = dict(module.named_modules())
        for node in list(graph.nodes):
            if not node._erased:
                fold_swish(graph, parts, node)
        probe = probe_state(state)
        with NothingDrawn(), torch.no_grad():
            Work(copied(module, torch.float64), graph, len(probe[0])).run(*probe)
    except Exception:  # what cannot be followed, or called with few chains in float64
        return None
    *_, output = graph.nodes
    blocks, n = [node for node in graph.nodes if node.op == "placeholder"], len(probe[0])
    ways = {way[0]: way[1:] for way in map(_way_to, _summands(output.args[0], n))}
    met = sum(1 + len(way) for way in ways.values()) + len(ways) - 1
    if ways.keys() != set(blocks) or met != len(list(filter(_is_of_chains, graph.nodes))):
        return None
    found = [_read(parts, ways[block], x, n) for block, x in zip(blocks, state, strict=True)]
    alone = len(found) == 1 or not any(recipe is not None and recipe.total for recipe in found)
    return None if None in found or not alone else found


def _summands(node: Any, n: int) -> list[fx.Node]:
    """The terms of a sum of energies of n chains."""
    if not isinstance(node, fx.Node):
        return []
    shapes = [getattr(given, "meta", {}).get("shape") for given in node.args[:2]]
    alike = shapes == [node.meta.get("shape")] * 2 and None not in shapes and math.prod(shapes[0]) == n
    if node.target in ADDITIONS and len(node.args) == 2 and not node.kwargs and alike:
        return [term for given in node.args for term in _summands(given, n)]
    return [node]


def _way_to(node: fx.Node) -> list[fx.Node]:
    """The calls that lead to a node, one after another, from the last that depends on more than one, or on none."""
    way = [node]
    while len(before := list(filter(_is_of_chains, way[0].all_input_nodes))) == 1:
        way = [*before, *way]
    return way


def _is_of_chains(node: fx.Node) -> bool:
    """Whether a node is a tensor that depends on the state: no weight, no size."""
    return node.op not in ("get_attr", "output") and node.meta.get("shape") is not None


def _read(parts: dict[str, nn.Module], nodes: list[fx.Node], x: Tensor, n: int) -> Recipe | None:
    """What a chain of calls computes of n chains like those of x; None where that is no kernel's energy."""
    recipe, before = Recipe(None), (n, *x.shape[1:])
    for node in nodes:
        after = node.meta["shape"]
        recipe = None if after is None else _with(recipe, parts, node, before, after, n)
        if recipe is None:
            return None
        before = after
    whole = len(recipe.linear) > 1 and len(recipe.activations) == len(recipe.linear) - 1
    plain = recipe.part is not None and recipe.factor == 1 and not recipe.total
    fits = before in ([()] if recipe.total else [(), (n,), (n, 1)])  # as chains take energies
    return recipe if fits and (whole or plain) else None


def _with(
    recipe: Recipe, parts: dict[str, nn.Module], node: fx.Node, before: tuple[int, ...], after: tuple[int, ...], n: int
) -> Recipe | None:
    """A recipe with one call more."""
    part = parts[node.target] if node.op == "call_module" else None
    if part is not None and (is_hooked(part) or len(node.args) != 1 or node.kwargs):
        return None
    begun, of_chains = recipe.linear or recipe.part, math.prod(before) == n and not recipe.total
    if part is not None and hasattr(type(part), "advance_"):
        return None if begun or after != (n,) else recipe._replace(part=node.target)
    if names := _linear(part, node):
        turned = recipe.part is not None or recipe.factor != 1 or recipe.total or len(before) != 2
        ready = len(recipe.activations) == len(recipe.linear)
        return None if turned or not ready else recipe._replace(linear=(*recipe.linear, names))
    if kind := _activation(part, node):
        follows = len(recipe.linear) == len(recipe.activations) + 1 and recipe.factor == 1 and not recipe.total
        return recipe._replace(activations=(*recipe.activations, kind)) if follows else None
    if (factor := _factor(node)) is not None:
        return recipe._replace(factor=recipe.factor * factor) if begun and (of_chains or recipe.total) else None
    if node.target in SUMMED and math.prod(after) == 1 != n:
        summed = node.target in ("sum", torch.sum) and begun and of_chains
        return recipe._replace(total=True) if summed else None
    same = math.prod(after) == math.prod(before) and (after[:1] == (n,) or (begun and of_chains))
    return recipe if same and (node.target in (*RESHAPED, *SUMMED) or _is_idle(part) or _is_index(node)) else None


def _linear(part: nn.Module | None, node: fx.Node) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The ways to weight and bias of a linear layer."""
    if type(part) is nn.Linear:
        way = tuple(node.target.split("."))
        return (*way, "weight"), () if part.bias is None else (*way, "bias")
    if node.target is not F.linear:
        return None
    given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
    found = [given["weight"], given.get("bias")]
    if not all(v is None or (isinstance(v, fx.Node) and v.op == "get_attr") for v in found):
        return None
    weight, bias = (() if v is None else tuple(v.target.split(".")) for v in found)
    return weight, bias


def _activation(part: nn.Module | None, node: fx.Node) -> tuple[str, float] | None:
    if part is not None:
        return activation_of(part)
    kind = ACTIVATIONS.get(node.target) if node.op in ("call_function", "call_method") else None
    if kind is None or (kind == "softplus" and len(node.args) + len(node.kwargs) > 1):
        return None
    name, number = NUMBERED.get(kind, ("inplace", 0.0))
    given = dict(zip(("input", name, "inplace"), node.args, strict=False)) | node.kwargs
    given.pop("inplace", None)
    if kind == "gelu" and given.pop("approximate", "none") == "tanh":
        kind = "gelu_tanh"
    known = set(given) <= {"input", name} and type(given.get(name, number)) in (int, float)
    return (kind, float(given.get(name, number))) if known else None


def _factor(node: fx.Node) -> float | None:
    """What a call multiplies with."""
    if node.target in (operator.neg, torch.neg, "neg"):
        return -1.0
    numbers = [v for v in node.args if type(v) in (int, float)]
    if len(node.args) != 2 or len(numbers) != 1 or node.kwargs:
        return None
    if node.target in (operator.mul, torch.mul, "mul"):
        return float(numbers[0])
    divided = node.target in (operator.truediv, torch.div, "div") and node.args[1] is numbers[0] and numbers[0]
    return 1 / numbers[0] if divided else None


def _is_index(node: fx.Node) -> bool:
    """Whether a call takes whole dimensions, and the one element of others."""
    if node.target is not operator.getitem:
        return False
    index = node.args[1] if type(node.args[1]) is tuple else (node.args[1],)
    return all(type(i) is int or i in (None, Ellipsis, slice(None)) for i in index)


def _is_idle(part: nn.Module | None) -> bool:
    """Whether a module leaves its numbers as they are."""
    dropout = isinstance(part, nn.Dropout) and (part.p == 0 or not part.training)
    return dropout or type(part) in (nn.Flatten, nn.Unflatten, nn.Identity)
