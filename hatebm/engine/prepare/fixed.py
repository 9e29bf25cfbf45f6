"""What a network computes of its weights alone, once for a run: weights divided by a norm, kernels folded."""

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

CALLS = ("call_function", "call_method")
IN_PLACE = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.ipow),
    *(operator.imod, operator.imatmul, operator.iand, operator.ior, operator.ixor),
)


class Applied(NamedTuple):
    """A convolution with a weight that a network computes; named as those of nn.Conv2d."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]


class Fixed(NamedTuple):
    """What a network computes of weights alone, and the ways to those in its module."""

    function: Callable[[nn.Module], tuple]
    made_of: tuple[str, ...]


def bring_forward(graph: fx.Graph) -> None:
    """Mark what depends on weights alone as ``fixed`` and let it come first; nothing where a weight is written to.

    What depends on weights and keyword arguments is marked as ``still``.
    """
    found: list[fx.Node] = []
    for node in graph.nodes:
        still = [before.meta["still"] for before in node.all_input_nodes]
        node.meta["still"] = all(still) and not (node.op == "placeholder" and node.target.startswith("block"))
        given = node.all_input_nodes
        if given and given[0].meta["fixed"] and _writes(node):
            for before in graph.nodes:
                before.meta["fixed"] = before.meta["still"] = False
            return
        alone = bool(given) and all(before.meta["fixed"] for before in given)
        node.meta["fixed"] = node.op == "get_attr" or (node.op in CALLS and alone)
        if node.meta["fixed"]:
            found.append(node)
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in found:
        last.append(node)
        last = node


def is_fixed(node: Any) -> bool:
    """Whether a node depends on weights alone."""
    return isinstance(node, fx.Node) and node.meta.get("fixed", False)


def is_still(node: Any) -> bool:
    """Whether a node does not depend on the state."""
    return isinstance(node, fx.Node) and node.meta.get("still", False)


def graph_input(graph: fx.Graph, name: str) -> fx.Node:
    """A new last placeholder."""
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        return graph.placeholder(name)


def set_apart(graph: fx.Graph) -> tuple[fx.Graph, int]:
    """Move what is fixed, and more than a look-up, into a graph of its own, whose results this one takes last.

    Returns that graph, and how many weights of convolutions and products it computes.
    """
    moved = [node for node in graph.nodes if is_fixed(node) and node.op in CALLS]
    handed = [node for node in moved if not all(map(is_fixed, node.users))]
    computed = sum(_computes_weight(node) for node in handed)
    apart, known, values = fx.Graph(), {}, graph_input(graph, "values")
    for node in filter(is_fixed, graph.nodes):
        known[node] = apart.node_copy(node, known.__getitem__)
    apart.output(tuple(known[node] for node in handed))
    apart.eliminate_dead_code()
    for k, node in enumerate(handed):
        with graph.inserting_before(node):
            found = graph.call_function(operator.getitem, (values, k))
        node.replace_all_uses_with(found, lambda user: not is_fixed(user))
    for node in reversed(graph.nodes):
        if is_fixed(node) and not node.users:
            graph.erase_node(node)
    return apart, computed


class Values:
    """What is fixed in a run, made again when a tensor that it is made of has changed."""

    def __init__(self, fixed: Fixed, module: nn.Module) -> None:
        self.fixed, self.module = fixed, module
        self._places = [_place_of(module, way.split(".")) for way in fixed.made_of]
        self.found: tuple = ()
        self._made_of: list = []

    def renewed(self) -> bool:
        """Bring what was ``found`` up to date; whether it was made again."""
        weights = self._versions_of_weights()
        if self._made_of == weights + list(map(version_of, tensors_in(self.found))):  # a network may write to either
            return False
        with torch.no_grad():
            self.found = self.fixed.function(self.module)
        self._made_of = weights + list(map(version_of, tensors_in(self.found)))
        return True

    def _versions_of_weights(self) -> list[tuple]:
        return list(map(version_of, tensors_in(held[name] for held, name in self._places)))


def version_of(tensor: Tensor) -> tuple[int, int, int]:
    """What is another after a tensor was written to, or replaced."""
    return id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def tensors_in(things: Any) -> Iterator[Tensor]:
    """The tensors among things: tensors, modules, computed convolutions, others."""
    for thing in things:
        if isinstance(thing, Tensor):
            yield thing
        elif isinstance(thing, nn.Module):
            yield from (*thing.parameters(), *thing.buffers())
        elif isinstance(thing, Applied):
            yield from filter(lambda part: isinstance(part, Tensor), thing)


def _computes_weight(node: fx.Node) -> bool:
    if node.target is Applied:
        return node.args[0].op in CALLS
    return any(user.target in (F.conv2d, F.linear) and node in user.args[1:2] for user in node.users)


def _place_of(module: nn.Module, way: list[str]) -> tuple[dict[str, Any], str]:
    """Where a module or its part holds what is looked up that way: a look there takes no search."""
    *parts, name = way
    owner = module.get_submodule(".".join(parts))
    held = (owner._parameters, owner._buffers, owner._modules)
    return next((names for names in held if name in names), vars(owner)), name


def _writes(node: fx.Node) -> bool:
    """Whether a call writes to its first argument, or may."""
    if node.op not in CALLS:
        return node.op == "call_module"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    named = name.endswith("_") and not name.endswith("__")
    return named or node.target in IN_PLACE or bool(node.kwargs.get("inplace")) or "out" in node.kwargs
