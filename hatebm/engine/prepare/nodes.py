"""What the nodes of a traced network are: the calls that rewrites look for."""

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm

from hatebm.engine.prepare.tracing import is_hooked

STEADY = (_SpectralNorm, _WeightNorm)  # parametrizations that in eval mode are functions of their tensors


def replace_node(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    """Let a new node serve all that the old one served."""
    new.meta["shape"] = old.meta.get("shape")
    old.replace_all_uses_with(new)
    graph.erase_node(old)


def input_of(node: fx.Node) -> fx.Node | None:
    """The first argument of a call."""
    return node.args[0] if node.args else node.kwargs.get("input")


def convolution_of(parts: dict[str, nn.Module], node: fx.Node) -> nn.Conv2d | None:
    """The convolution that a node calls, if it pads with zeros, leaves no gaps, and nobody listens to it."""
    if node.op != "call_module" or not isinstance(input_of(node), fx.Node) or is_hooked(parts[node.target]):
        return None
    module = parts[node.target]
    if parametrize.type_before_parametrizations(module) is not nn.Conv2d:
        return None
    return module if module.dilation == (1, 1) and module.padding_mode == "zeros" else None


def is_convolution(parts: dict[str, nn.Module], node: fx.Node, kernel: tuple[int, int], stride: int = 1) -> bool:
    """A call of a convolution that keeps the size, or halves it by its stride."""
    module = convolution_of(parts, node)
    if module is None or module.kernel_size != kernel or module.stride != (stride, stride):
        return False
    return module.padding == "same" or module.padding == tuple((k - stride + 1) // 2 for k in kernel)


def padding_of(module: nn.Conv2d) -> int | None:
    """Zeros on each side of the image; None where sides differ."""
    if module.padding == "valid":
        return 0
    if module.padding == "same":
        around = {(k - 1) / 2 for k in module.kernel_size}
    else:
        around = set(module.padding)
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
