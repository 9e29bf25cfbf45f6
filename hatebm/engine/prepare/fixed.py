"""What a network computes apart from the state, once for a run.

Of its weights alone: weights divided by a norm, kernels folded. Of weights and keyword arguments: numbers of a class.
"""

import functools
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
    """What a network computes apart from the state, and the ways to the weights in its module that it is made of."""

    function: Callable[..., tuple]  # of the module, and for what is still of keyword arguments and what is fixed
    made_of: tuple[str, ...]


def bring_forward(graph: fx.Graph) -> None:
    """Mark what depends on weights alone as ``fixed`` and let it come first; nothing where a weight is written to.

    What depends on weights and keyword arguments is marked as ``still``; nothing where any of that is written to.
    """
    found: list[fx.Node] = []
    written = False
    for node in graph.nodes:
        given = node.all_input_nodes
        moves = node.op == "placeholder" and node.target.startswith("block")
        node.meta["still"] = not (moves or written) and all(before.meta["still"] for before in given)
        if given and given[0].meta["still"] and node.op in CALLS and _writes(node):
            written = True
            for before in graph.nodes:
                before.meta["still"] = False
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
    computed = sum(_computes_weight(node) for node in moved if not all(map(is_fixed, node.users)))
    return _moved(graph, moved, _looked_up(graph), "values"), computed


def set_still_apart(graph: fx.Graph) -> fx.Graph:
    """After that move what is still likewise: its graph takes the keyword arguments, then what is fixed."""
    *before, values = [node for node in graph.nodes if node.op == "placeholder"]
    inputs = [node for node in before[:-1] if not node.target.startswith("block")]  # the last one is ``convolutions``
    leaves = [*_looked_up(graph), *inputs, values, *values.users]
    moved, known = [], set(leaves)
    for node in graph.nodes:
        given = node.all_input_nodes
        if node not in known and node.op in CALLS and is_still(node) and given and known.issuperset(given):
            moved.append(node)
            known.add(node)
    return _moved(graph, moved, leaves, "numbers")


def _looked_up(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if is_fixed(node) and node.op == "get_attr"]


def _moved(graph: fx.Graph, moved: list[fx.Node], leaves: list[fx.Node], name: str) -> fx.Graph:
    """A graph of what some nodes compute of leaves; the first one takes what it needs of that as a last input."""
    inside, both = set(moved), {*moved, *leaves}
    handed = [node for node in moved if not inside.issuperset(node.users)]
    apart, known, values = fx.Graph(), {}, graph_input(graph, name)
    for node in graph.nodes:
        if node in both:
            known[node] = apart.node_copy(node, known.__getitem__)
    apart.output(tuple(known[node] for node in handed))
    apart.eliminate_dead_code()
    for k, node in enumerate(handed):
        with graph.inserting_before(node):
            found = graph.call_function(operator.getitem, (values, k))
        node.replace_all_uses_with(found, lambda user: user not in inside)
    for node in reversed(graph.nodes):
        if node in both and not node.users and node.op != "placeholder":
            graph.erase_node(node)
    return apart


class Values:
    """What rests in a run, made again when a tensor or a number that it is made of has changed."""

    def __init__(self, fixed: Fixed, module: nn.Module) -> None:
        self.fixed, self.module = fixed, module
        self._places = [_place_of(module, way.split(".")) for way in fixed.made_of]
        self.found: tuple = ()
        self._made_of: list = []
        self._given: tuple = ()  # held, so that no other tensor may pass for one of them

    def renewed(self, *given: Any) -> bool:
        """Bring what was ``found`` up to date with the weights and with what is given; whether it was made again."""
        now = self._versions_of_weights() + list(map(_version_of_given, given))
        if self._made_of == now + list(map(version_of, tensors_in(self.found))):  # a network may write to either
            return False
        with torch.no_grad():
            self.found = self.fixed.function(self.module, *given)
        self._given, self._made_of = given, now + list(map(version_of, tensors_in(self.found)))
        return True

    def _versions_of_weights(self) -> list[tuple]:
        return list(map(version_of, tensors_in(held[name] for held, name in self._places)))


def _version_of_given(thing: Any) -> Any:
    """As `version_of`; of a tensor whose writes leave no trace nothing that lasts."""
    if isinstance(thing, Tensor):
        return object() if thing.is_inference() else version_of(thing)
    return thing if type(thing) is float else id(thing)


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
    owner = functools.reduce(getattr, parts, module)
    held = (owner._parameters, owner._buffers, owner._modules)
    return next((names for names in held if name in names), vars(owner)), name


def _writes(node: fx.Node) -> bool:
    """Whether a call writes to its first argument, or may."""
    if node.op not in CALLS:
        return node.op == "call_module"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    named = name.endswith("_") and not name.endswith("__")
    return named or node.target in IN_PLACE or bool(node.kwargs.get("inplace")) or "out" in node.kwargs
