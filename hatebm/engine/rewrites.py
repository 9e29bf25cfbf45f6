"""Exact rewrites of a network's graph: fewer multiplications for the same function.

- A 3x3 convolution before a 2x2 average pool is one 4x4 convolution of stride 2: 16 multiplications for 36.
- A 1x1 convolution commutes with an average pool and with an upsampling: it runs at the smaller size.
- A pool of a sum is the sum of the pools, which brings the two above through a shortcut.
- On the CPU a 3x3 convolution, and a 4x4 one of stride 2, is made by minimal filtering: 9 or 25 multiplications for 36
  or 64, see :mod:`hatebm.engine.winograd`; one of at most four channels has kernels of its own; and a smooth activation
  comes with its slope in one pass.

Each new node stands where the convolution stood, so that it reads what the convolution read, whatever is written in
place in between.
"""

import math
import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm

from hatebm.engine.activations import PLAIN, RELU, activated
from hatebm.engine.stem import can_begin
from hatebm.engine.tracing import is_hooked
from hatebm.engine.winograd import can_filter, pays
from hatebm.nets.layers import conv_then_pool
from hatebm.perceptron import activation_of

ADDITIONS = (operator.add, operator.iadd, torch.add)
POOL_DEFAULTS = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}
STEADY = (_SpectralNorm, _WeightNorm)  # parametrizations that in eval mode are functions of their tensors
KEPT = "folded kernels kept for the run"  # of our own networks, which fold themselves
FILTERED, BEGUN = "convolutions by minimal filtering", "convolutions of few channels"
SMOOTH = ("nearest", "bilinear")
FUNCTIONS = {F.silu: ("silu", 0.0), F.gelu: ("gelu", 0.0), F.softplus: ("softplus", 0.0), F.elu: ("elu", 1.0)} | {
    torch.tanh: ("tanh", 0.0)
}
Suits = Callable[[nn.Conv2d, int, tuple[int, ...]], bool]
WORTH_A_CALL = 1024  # elements of a chain


def rewritten(module: nn.Module, graph: fx.Graph, *, filters: bool) -> dict[str, int]:
    """Rewrite a graph whose nodes carry their ``shape``, in place; returns how often each rewrite was made.

    ``filters`` says that the kernels of :mod:`hatebm.engine.winograd` may be used. A placeholder ``kernels`` is added
    last: the run's :class:`hatebm.engine.kernels.Kernels`.
    """
    kernels = graph_input(graph, "kernels")
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"  # a view wherever one can be had, in any layout
    parts = dict(module.named_modules())
    rewrites = {
        "pools brought through an addition": lambda node: _split(graph, parts, node),
        "3x3 convolutions folded with their pool": lambda node: _fold(graph, parts, kernels, node),
        "1x1 convolutions moved after their pool": lambda node: _pool_first(graph, parts, node),
        "1x1 convolutions moved before their upsampling": lambda node: _upsample_last(parts, node),
        KEPT: lambda node: _keep(graph, parts, kernels, node),
    }
    if filters:
        rewrites[FILTERED] = lambda node: _filter(graph, parts, kernels, node, _has_filter)
        rewrites[BEGUN] = lambda node: _filter(graph, parts, kernels, node, _is_stem)
        rewrites["activations with their slopes"] = lambda node: _activate(graph, parts, node)
        rewrites["activations taken along"] = lambda node: _take_along(graph, parts, node)
    made = dict.fromkeys(rewrites, 0)
    changed = True
    while changed:
        changed = False
        for name, rewrite in rewrites.items():
            for node in list(graph.nodes):
                if not node._erased and rewrite(node):
                    made[name] += 1
                    changed = True
    if filters:
        made[FILTERED] += sum(_is_pooled_by_filter(parts, node) for node in graph.nodes)
    return {name: count for name, count in made.items() if count}


def graph_input(graph: fx.Graph, name: str) -> fx.Node:
    """A new last placeholder."""
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        return graph.placeholder(name)


def _split(graph: fx.Graph, parts: dict[str, nn.Module], pool: fx.Node) -> bool:
    source = _pooled(parts, pool)
    if source is None or not _is_addition(source) or len(source.users) != 1:
        return False
    terms = source.args
    alike = all(isinstance(term, fx.Node) and term.meta.get("shape") == source.meta.get("shape") for term in terms)
    if not alike or not any(_pays(parts, term) for term in terms) or terms[0] is terms[1]:
        return False
    if source.target in (operator.iadd, "add_") and len(terms[0].users) != 1:
        return False
    with graph.inserting_before(source):
        pools = []
        for term in terms:
            pools.append(graph.node_copy(pool, lambda node, term=term: term if node is source else node))
            pools[-1].meta["shape"] = pool.meta.get("shape")
        total = graph.call_function(operator.add, tuple(pools))
    _replace(graph, pool, total)
    graph.erase_node(source)
    return True


def _fold(graph: fx.Graph, parts: dict[str, nn.Module], kernels: fx.Node, pool: fx.Node) -> bool:
    conv = _pooled(parts, pool)
    if conv is None or not _is_foldable(parts, conv):
        return False
    with graph.inserting_before(conv):
        module = graph.create_node("get_attr", conv.target)
        folded = graph.call_method("pooled", (kernels, module, _input(conv)))
    _replace(graph, pool, folded)
    graph.erase_node(conv)
    return True


def _pool_first(graph: fx.Graph, parts: dict[str, nn.Module], pool: fx.Node) -> bool:
    conv = _pooled(parts, pool)
    if conv is None or not _is_pointwise(parts, conv):
        return False
    source = _input(conv)
    with graph.inserting_before(conv):
        smaller = graph.node_copy(pool, lambda node: source if node is conv else node)
    conv.replace_input_with(source, smaller)
    shape = pool.meta.get("shape")
    smaller.meta["shape"], conv.meta["shape"] = None, shape
    pool.replace_all_uses_with(conv)
    graph.erase_node(pool)
    return True


def _upsample_last(parts: dict[str, nn.Module], conv: fx.Node) -> bool:
    if not _is_convolution(parts, conv, (1, 1)) or not isinstance(_input(conv), fx.Node):
        return False
    larger = _input(conv)
    if not _is_upsampling(parts, larger) or len(larger.users) != 1:
        return False
    source, shape = _input(larger), conv.meta.get("shape")
    conv.replace_all_uses_with(larger)
    conv.replace_input_with(larger, source)
    larger.prepend(conv)
    larger.replace_input_with(source, conv)
    conv.meta["shape"], larger.meta["shape"] = None, shape
    return True


def _keep(graph: fx.Graph, parts: dict[str, nn.Module], kernels: fx.Node, node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is not conv_then_pool:
        return False
    module, x = node.args
    if not (isinstance(module, fx.Node) and module.op == "get_attr" and _is_steady(parts[module.target])):
        return False
    with graph.inserting_before(node):
        _replace(graph, node, graph.call_method("pooled", (kernels, module, x)))
    return True


def _filter(graph: fx.Graph, parts: dict[str, nn.Module], kernels: fx.Node, node: fx.Node, suits: Suits) -> bool:
    shape = node.meta.get("shape")
    kernel = next((k for k, stride in ((3, 1), (4, 2)) if _is_convolution(parts, node, (k, k), stride)), None)
    if kernel is None or shape is None or len(shape) != 4 or not _is_steady(parts[node.target]):
        return False
    if not suits(parts[node.target], kernel - 2, shape):
        return False
    with graph.inserting_before(node):
        attribute = graph.create_node("get_attr", node.target)
        _replace(graph, node, graph.call_method("filtered", (kernels, attribute, _input(node))))
    return True


def _take_along(graph: fx.Graph, parts: dict[str, nn.Module], node: fx.Node) -> bool:
    filters = node.op == "call_method" and (node.target == "filtered" or _is_pooled_by_filter(parts, node))
    if not filters or len(node.args) != 3 or len(node.args[2].users) != 1:
        return False
    kernels, module, before = node.args
    if _is_relu(parts, before):
        activation = RELU
    elif before.op == "call_function" and before.target is activated:
        activation = before.args[1:]
    else:
        return False
    node.args = (kernels, module, _input(before), activation)
    graph.erase_node(before)
    return True


def _activate(graph: fx.Graph, parts: dict[str, nn.Module], node: fx.Node) -> bool:
    found, shape = _smooth_activation(parts, node), node.meta.get("shape")
    if found is None or shape is None or math.prod(shape[1:]) < WORTH_A_CALL:
        return False
    with graph.inserting_before(node):
        _replace(graph, node, graph.call_function(activated, (_input(node), *found)))
    return True


def _smooth_activation(parts: dict[str, nn.Module], node: fx.Node) -> tuple[str, float] | None:
    """The name of an activation that leaves its argument as it is, and its number."""
    if node.op == "call_module" and not is_hooked(parts[node.target]):
        module = parts[node.target]
        found = None if getattr(module, "inplace", False) else activation_of(module)
    elif node.op == "call_function" and not (set(node.kwargs) - {"input", "inplace"} or node.kwargs.get("inplace")):
        found = FUNCTIONS.get(node.target) if len(node.args) + ("input" in node.kwargs) == 1 else None
    else:
        found = None
    return found if found and found[0] in PLAIN and found != RELU else None


def _has_filter(module: nn.Conv2d, stride: int, shape: tuple[int, ...]) -> bool:
    """Whether minimal filtering pays for a convolution of this stride with results of this shape."""
    weight = (module.out_channels, module.in_channels, stride + 2, stride + 2)
    return module.groups == 1 and can_filter(weight, stride) and pays(stride, *(stride * k for k in shape[2:]))


def _is_stem(module: nn.Conv2d, stride: int, shape: tuple[int, ...]) -> bool:
    return module.groups == 1 and can_begin(tuple(module.weight.shape), stride)


def _is_pooled_by_filter(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    if node.op != "call_method" or node.target != "pooled":
        return False
    return _has_filter(parts[node.args[1].target], 2, node.meta["shape"])


def _replace(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    new.meta["shape"] = old.meta.get("shape")
    old.replace_all_uses_with(new)
    graph.erase_node(old)


def _pooled(parts: dict[str, nn.Module], pool: fx.Node) -> fx.Node | None:
    """What a node takes 2x2 averages of, where nobody else uses it."""
    if pool.op == "call_module" and type(parts[pool.target]) is nn.AvgPool2d and not is_hooked(parts[pool.target]):
        module = parts[pool.target]
        given = {"kernel_size": module.kernel_size} | {key: getattr(module, key) for key in POOL_DEFAULTS}
    elif pool.op == "call_function" and pool.target is F.avg_pool2d:
        names = ("input", "kernel_size", *POOL_DEFAULTS)
        given = POOL_DEFAULTS | dict(zip(names, pool.args, strict=False)) | pool.kwargs
    else:
        return None
    halves = given["kernel_size"] in (2, (2, 2), [2, 2]) and given["stride"] in (None, 2, (2, 2), [2, 2])
    plain = given["padding"] in (0, (0, 0), [0, 0]) and not given["ceil_mode"] and not given["divisor_override"]
    source = _input(pool)
    fits = halves and plain and isinstance(source, fx.Node) and len(source.users) == 1
    return source if fits and len(source.meta.get("shape") or ()) == 4 else None


def _input(node: fx.Node) -> fx.Node | None:
    return node.args[0] if node.args else node.kwargs.get("input")


def _pays(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    if len(node.users) != 1:
        return False
    deeper = _is_addition(node) and any(isinstance(term, fx.Node) and _pays(parts, term) for term in node.args)
    return deeper or _is_foldable(parts, node) or _is_pointwise(parts, node)


def _is_addition(node: fx.Node) -> bool:
    by_function = node.op == "call_function" and node.target in ADDITIONS
    by_method = node.op == "call_method" and node.target in ("add", "add_")
    return (by_function or by_method) and len(node.args) == 2 and not node.kwargs


def _is_foldable(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    return _is_convolution(parts, node, (3, 3)) and parts[node.target].groups == 1 and _is_steady(parts[node.target])


def _is_pointwise(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    return _is_convolution(parts, node, (1, 1))


def _is_convolution(parts: dict[str, nn.Module], node: fx.Node, kernel: tuple[int, int], stride: int = 1) -> bool:
    """A call of a convolution that keeps the size, or halves it by its stride, and that nobody listens to."""
    if node.op != "call_module" or not isinstance(_input(node), fx.Node) or is_hooked(parts[node.target]):
        return False
    module = parts[node.target]
    if parametrize.type_before_parametrizations(module) is not nn.Conv2d:
        return False
    same = module.padding == "same" or module.padding == tuple((k - stride + 1) // 2 for k in kernel)
    plain = module.stride == (stride, stride) and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return module.kernel_size == kernel and same and plain


def _is_steady(module: nn.Module) -> bool:
    """Whether the weight is a function of the module's tensors: one that a forward does not move."""
    if is_hooked(module):
        return False
    if not parametrize.is_parametrized(module):
        return True
    steps = [step for chain in module.parametrizations.values() for step in chain]
    return all(isinstance(step, STEADY) and not step.training for step in steps)


def _is_relu(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    """A call of relu that leaves its argument as it is, and that nobody listens to."""
    if node.op == "call_module":
        module = parts[node.target]
        return type(module) is nn.ReLU and not module.inplace and not is_hooked(module)
    if node.op == "call_method":
        return node.target == "relu"
    plain = len(node.args) + ("input" in node.kwargs) == 1 and not node.kwargs.get("inplace")
    return node.op == "call_function" and node.target in (F.relu, torch.relu) and plain


def _is_upsampling(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    if node.op == "call_module" and isinstance(parts[node.target], nn.Upsample) and not is_hooked(parts[node.target]):
        settings = {key: getattr(parts[node.target], key) for key in ("mode", "align_corners")}
    elif node.op == "call_function" and node.target is F.interpolate and len(node.args) < 4:
        settings = {"mode": "nearest"} | node.kwargs
    else:
        return False
    before, after = getattr(_input(node), "meta", {}).get("shape"), node.meta.get("shape")
    if before is None or after is None or len(before) != 4:
        return False
    grows = all(a >= b for a, b in zip(after[2:], before[2:], strict=True))
    return grows and settings["mode"] in SMOOTH and not settings.get("align_corners") and not settings.get("antialias")
