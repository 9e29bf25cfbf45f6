"""Giving the nodes of a network to our own kernels on the CPU.

A 3x3 convolution, and a 4x4 one of stride 2, is made by minimal filtering: 9 or 25 multiplications for 36 or 64, see
:mod:`hatebm.engine.prepare.winograd`; one of an image, or of a stride, has kernels of its own; a smooth activation
comes with its slope in one pass; an activation before a filter takes no pass over the gradient; and a dense layer reads
the results pixel after pixel, as they lie.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from hatebm.energies.perceptron import activation_of
from hatebm.engine.prepare.activations import CHANNELS, PLAIN, RELU, activated
from hatebm.engine.prepare.direct import can_convolve
from hatebm.engine.prepare.fixed import CALLS, is_fixed, is_still
from hatebm.engine.prepare.nodes import (
    ADDITIONS,
    PRODUCTS,
    convolution_of,
    input_of,
    is_convolution,
    is_relu,
    made_with,
    padding_of,
    replace_node,
    weight_of,
)
from hatebm.engine.prepare.tracing import is_hooked
from hatebm.engine.prepare.winograd import can_filter, pays

FILTERED, BEGUN = "convolutions by minimal filtering", "convolutions of few channels"
MODULATED = "gains and shifts of channels made with their activations"
BY_PIXELS = "dense layers that read pixel after pixel"
FUNCTIONS = {F.silu: ("silu", 0.0), F.gelu: ("gelu", 0.0), F.softplus: ("softplus", 0.0), F.elu: ("elu", 1.0)} | {
    torch.tanh: ("tanh", 0.0)
}
Rewrite = Callable[[fx.Node], bool]
WORTH_A_CALL = 1024  # elements of a chain


def placements(graph: fx.Graph, parts: dict[str, nn.Module], convolutions: fx.Node) -> dict[str, Rewrite]:
    """The rewrites by name: each takes a node and says whether it was rewritten."""
    return {
        FILTERED: lambda node: _filter(graph, parts, convolutions, node),
        BEGUN: lambda node: _convolve(graph, parts, convolutions, node),
        "activations with their slopes": lambda node: _activate(graph, parts, node),
        MODULATED: lambda node: _modulate(node),
        "activations taken along": lambda node: _take_along(graph, parts, node),
    }


def _filter(graph: fx.Graph, parts: dict[str, nn.Module], convolutions: fx.Node, node: fx.Node) -> bool:
    kernel = next((k for k, stride in ((3, 1), (4, 2)) if is_convolution(parts, node, (k, k), stride)), None)
    if kernel is None:
        return False
    found = convolution_of(parts, node)
    if found.groups != 1 or not _has_filter(found.weight, kernel - 2, node.meta.get("shape") or ()):
        return False
    return _place(graph, parts, convolutions, node, "filtered")


def _convolve(graph: fx.Graph, parts: dict[str, nn.Module], convolutions: fx.Node, node: fx.Node) -> bool:
    found = convolution_of(parts, node)
    if found is None or found.groups != 1 or found.stride[0] != found.stride[1] or padding_of(found) is None:
        return False
    if not can_convolve(found.weight, found.stride[0], padding_of(found)):
        return False
    return _place(graph, parts, convolutions, node, "direct", padding_of(found))


def _place(
    graph: fx.Graph, parts: dict[str, nn.Module], convolutions: fx.Node, node: fx.Node, method: str, *how: int
) -> bool:
    if len(node.meta.get("shape") or ()) != 4 or not convolution_of(parts, node).steady:
        return False
    with graph.inserting_before(node):
        given = (convolutions, made_with(graph, node), input_of(node), *how)
        replace_node(graph, node, graph.call_method(method, given))
    return True


def _take_along(graph: fx.Graph, parts: dict[str, nn.Module], node: fx.Node) -> bool:
    filters = node.op == "call_method" and (node.target == "filtered" or is_pooled_by_filter(parts, node))
    if not filters or len(node.args) != 3 or len(node.args[2].users) != 1:
        return False
    convolutions, module, before = node.args
    if is_relu(parts, before):
        activation = tuple(RELU)
    elif before.op == "call_function" and before.target is activated:
        activation = before.args[1:]
    else:
        return False
    node.args = (convolutions, module, input_of(before), activation)
    graph.erase_node(before)
    return True


def _activate(graph: fx.Graph, parts: dict[str, nn.Module], node: fx.Node) -> bool:
    found, shape = _smooth_activation(parts, node), node.meta.get("shape")
    if found is None or shape is None or math.prod(shape[1:]) < WORTH_A_CALL:
        return False
    with graph.inserting_before(node):
        replace_node(graph, node, graph.call_function(activated, (input_of(node), *found)))
    return True


def _modulate(node: fx.Node) -> bool:
    """Let an activation multiply channels before it and move them behind it, by numbers that the state leaves alone."""
    made = node.op == "call_function" and node.target is activated
    if made and len(node.args) == 3 and _of_channels(node.args[0], PRODUCTS) and len(node.args[0].users) == 1:
        x, gain = _of_channels(node.args[0], PRODUCTS)
        product, node.args = node.args[0], (x, *node.args[1:], gain)
        product.graph.erase_node(product)
        return True
    if node.op in CALLS and _of_channels(node, ADDITIONS):
        before, shift = _of_channels(node, ADDITIONS)
        if before.target is activated and len(before.users) == 1 and len(before.args) < 5:
            gain = before.args[3] if len(before.args) > 3 else None
            with node.graph.inserting_before(node):
                whole = node.graph.call_function(activated, (*before.args[:3], gain, shift))
            replace_node(node.graph, node, whole)
            before.graph.erase_node(before)
            return True
    return False


def read_by_pixels(graph: fx.Graph, node: fx.Node) -> bool:
    """Let a product with a computed weight take images of many channels as channels_last has them, without a copy."""
    flat, weight = node.args[:2] if node.target is F.linear and len(node.args) > 1 else (None, None)
    if not (is_fixed(weight) and isinstance(flat, fx.Node) and flat.op == "call_method" and flat.target == "flatten"):
        return False
    shape = getattr(input_of(flat), "meta", {}).get("shape") or ()
    if flat.args[1:] != (1,) or flat.kwargs or len(flat.users) > 1 or len(shape) != 4 or 1 in shape[1:]:
        return False
    with graph.inserting_before(flat):
        pixels = graph.call_function(by_pixels, (input_of(flat),))
        columns = graph.call_function(columns_by_pixels, (weight, shape[1:]))
    columns.meta["fixed"] = True
    replace_node(graph, flat, pixels)
    node.update_arg(1, columns)
    return True


def by_pixels(x: Tensor) -> Tensor:
    """(n, channels, rows, columns) as (n, rows * columns * channels)."""
    return x.permute(0, 2, 3, 1).flatten(1)


def columns_by_pixels(weight: Tensor, sample: tuple[int, int, int]) -> Tensor:
    """The weight, (out, channels * rows * columns), of what `by_pixels` gives."""
    return by_pixels(weight.unflatten(1, sample))


def _of_channels(node: fx.Node, calls: tuple[Any, ...]) -> tuple[fx.Node, fx.Node] | None:
    """What such a call is made of: images, and numbers of their channels, which the state leaves alone."""
    if node.op not in CALLS or node.target not in calls or len(node.args) != 2 or node.kwargs:
        return None
    for x, numbers in (node.args, node.args[::-1]):
        shapes = [getattr(given, "meta", {}).get("shape") or () for given in (x, numbers)]
        if not is_still(numbers) or is_still(x) or list(map(len, shapes)) != [4, 4]:
            continue
        n, channels = shapes[0][:2]
        fits = shapes[1] in ((n, channels, 1, 1), (1, channels, 1, 1))
        if fits and channels % CHANNELS == 0:
            return x, numbers
    return None


def _smooth_activation(parts: dict[str, nn.Module], node: fx.Node) -> tuple[str, float] | None:
    """The name of an activation that leaves its argument as it is, and its number."""
    if node.op == "call_module" and not is_hooked(parts[node.target]):
        module = parts[node.target]
        found = None if getattr(module, "inplace", False) else activation_of(module)
    elif node.op == "call_function" and not (set(node.kwargs) - {"input", "inplace"} or node.kwargs.get("inplace")):
        found = FUNCTIONS.get(node.target) if len(node.args) + ("input" in node.kwargs) == 1 else None
    else:
        found = None
    return found if found and found[0] in PLAIN and found != RELU[:2] else None


def _has_filter(weight: tuple[int, ...], stride: int, shape: tuple[int, ...]) -> bool:
    """Whether minimal filtering pays for a convolution of this stride with results of this shape."""
    fits = len(shape) == 4 and can_filter(weight, stride)
    return fits and pays(stride, *(stride * k for k in shape[2:]))


def is_pooled_by_filter(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    """Whether a node is a convolution folded with its pool that minimal filtering makes."""
    if node.op != "call_method" or node.target != "pooled":
        return False
    return _has_filter((*weight_of(parts, node.args[1])[:2], 4, 4), 2, node.meta["shape"])
