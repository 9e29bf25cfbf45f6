"""What the nodes of a traced network are: the calls that rewrites look for."""

import operator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm

from hatebm.engine.prepare.fixed import Applied, is_fixed
from hatebm.engine.prepare.tracing import is_hooked

CONV2D = {"weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
PRODUCTS = (operator.mul, torch.mul, "mul")
ADDITIONS = (operator.add, operator.iadd, torch.add)
STEADY = (_SpectralNorm, _WeightNorm)  # parametrizations that in eval mode are functions of their tensors


class Convolution(NamedTuple):
    """A convolution that pads with zeros and leaves no gaps: of a module, or with a weight that is computed."""

    weight: tuple[int, ...]  # (out, in of a group, rows, columns)
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    groups: int
    steady: bool  # whether its weight is a function of tensors that a forward does not move


def replace_node(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    """Let a new node serve all that the old one served."""
    new.meta["shape"] = old.meta.get("shape")
    old.replace_all_uses_with(new)
    graph.erase_node(old)


def input_of(node: fx.Node) -> fx.Node | None:
    """The first argument of a call."""
    return node.args[0] if node.args else node.kwargs.get("input")


def convolution_of(parts: dict[str, nn.Module], node: fx.Node) -> Convolution | None:
    """The convolution that a node calls, if it pads with zeros, leaves no gaps, and nobody listens to it."""
    if not isinstance(input_of(node), fx.Node):
        return None
    if node.op == "call_function" and node.target is F.conv2d:
        return _computed(node)
    if node.op != "call_module" or is_hooked(parts[node.target]):
        return None
    module = parts[node.target]
    if parametrize.type_before_parametrizations(module) is not nn.Conv2d:
        return None
    return _of_module(module) if module.dilation == (1, 1) and module.padding_mode == "zeros" else None


def made_with(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A new node for what a convolution's node convolves with: its module, or the weight that is computed."""
    if node.op == "call_module":
        return graph.create_node("get_attr", node.target)
    given = _given(node)
    found = graph.call_function(Applied, (given["weight"], given["bias"], _pair(given["stride"])))
    found.meta["fixed"] = True
    return found


def weight_of(parts: dict[str, nn.Module], made: fx.Node) -> tuple[int, ...]:
    """The shape of the weight behind a node of `made_with`."""
    return _of_module(parts[made.target]).weight if made.op == "get_attr" else made.args[0].meta["shape"]


def _of_module(module: nn.Conv2d) -> Convolution:
    # a look at the weight itself may move a parametrized one
    weight = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    return Convolution(weight, module.stride, module.padding, module.groups, is_steady(module))


def _computed(node: fx.Node) -> Convolution | None:
    given = _given(node)
    tensors = (given["weight"], *filter(None, [given["bias"]]))
    shape = given["weight"].meta.get("shape") if all(map(is_fixed, tensors)) else None
    if shape is None or len(shape) != 4 or _pair(given["dilation"]) != (1, 1):
        return None
    return Convolution(shape, _pair(given["stride"]), _pair(given["padding"]), given["groups"], True)


def _given(node: fx.Node) -> dict[str, Any]:
    return CONV2D | dict(zip(("input", *CONV2D), node.args, strict=False)) | node.kwargs


def _pair(size: Any) -> Any:
    if type(size) is int:
        return (size, size)
    return size if isinstance(size, str) else tuple(size) * (2 // len(size))


def is_convolution(parts: dict[str, nn.Module], node: fx.Node, kernel: tuple[int, int], stride: int = 1) -> bool:
    """A call of a convolution that keeps the size, or halves it by its stride."""
    found = convolution_of(parts, node)
    if found is None or found.weight[2:] != kernel or found.stride != (stride, stride):
        return False
    return found.padding == "same" or found.padding == tuple((k - stride + 1) // 2 for k in kernel)


def padding_of(convolution: Convolution) -> int | None:
    """Zeros on each side of the image; None where sides differ."""
    if convolution.padding == "valid":
        return 0
    if convolution.padding == "same":
        around = {(k - 1) / 2 for k in convolution.weight[2:]}
    else:
        around = set(convolution.padding)
    first = around.pop()
    return None if around or first != int(first) else int(first)


def is_steady(module: nn.Module) -> bool:
    """Whether the weight is a function of the module's tensors: one that a forward does not move."""
    if is_hooked(module):
        return False
    if not parametrize.is_parametrized(module):
        return True
    steps = [step for chain in module.parametrizations.values() for step in chain]
    return all(isinstance(step, STEADY) and not step.training for step in steps)


def is_relu(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    """A call of relu that leaves its argument as it is, and that nobody listens to."""
    if node.op == "call_module":
        module = parts[node.target]
        return type(module) is nn.ReLU and not module.inplace and not is_hooked(module)
    if node.op == "call_method":
        return node.target == "relu"
    plain = len(node.args) + ("input" in node.kwargs) == 1 and not node.kwargs.get("inplace")
    return node.op == "call_function" and node.target in (F.relu, torch.relu) and plain
