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


def is_convolution(parts: dict[str, nn.Module], node: fx.Node, kernel: tuple[int, int], stride: int = 1) -> bool:
    """A call of a convolution that keeps the size, or halves it by its stride, and that nobody listens to."""
    if node.op != "call_module" or not isinstance(input_of(node), fx.Node) or is_hooked(parts[node.target]):
        return False
    module = parts[node.target]
    if parametrize.type_before_parametrizations(module) is not nn.Conv2d:
        return False
    same = module.padding == "same" or module.padding == tuple((k - stride + 1) // 2 for k in kernel)
    plain = module.stride == (stride, stride) and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return module.kernel_size == kernel and same and plain


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
