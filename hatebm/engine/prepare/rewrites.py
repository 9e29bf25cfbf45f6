"""Exact rewrites of a network's graph: fewer multiplications for the same function.

- A 3x3 convolution before a 2x2 average pool is one 4x4 convolution of stride 2: 16 multiplications for 36.
- A 1x1 convolution commutes with an average pool and with an upsampling: it runs at the smaller size.
- x * sigmoid(x) is one call, which keeps one tensor for the way back.
- A pool of a sum is the sum of the pools, which brings the two above through a shortcut.
- What has a kernel of our own on the CPU is given to it, see :mod:`hatebm.engine.prepare.placement`.

Each new node stands where the convolution stood, so that it reads what the convolution read, whatever is written in
place in between.
"""

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from hatebm.engine.prepare.fixed import bring_forward, graph_input
from hatebm.engine.prepare.nodes import (
    ADDITIONS,
    PRODUCTS,
    convolution_of,
    input_of,
    is_convolution,
    is_steady,
    made_with,
    replace_node,
)
from hatebm.engine.prepare.placement import BEGUN, BY_PIXELS, FILTERED, is_pooled_by_filter, placements, read_by_pixels
from hatebm.engine.prepare.tracing import is_hooked
from hatebm.nets.layers import conv_then_pool

SIGMOIDS = (torch.sigmoid, F.sigmoid, torch.special.expit, "sigmoid")
POOL_DEFAULTS = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}
KEPT = "folded kernels kept for the run"  # of our own networks, which fold themselves
SWISH = "x * sigmoid(x) in one"
SMOOTH = ("nearest", "bilinear")


def rewrite(module: nn.Module, graph: fx.Graph, *, filters: bool) -> dict[str, int]:
    """Rewrite a graph whose nodes carry their ``shape``, in place; returns how often each rewrite was made.

    ``filters`` says that the kernels of :mod:`hatebm.engine.prepare.winograd` may be used. A placeholder
    ``convolutions`` is added last: the run's :class:`hatebm.engine.prepare.convolutions.Convolutions`.
    """
    convolutions = graph_input(graph, "convolutions")
    bring_forward(graph)
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"  # a view wherever one can be had, in any layout
    parts = dict(module.named_modules())
    rewrites = {
        SWISH: lambda node: fold_swish(graph, parts, node),
        "pools brought through an addition": lambda node: _split(graph, parts, node),
        "3x3 convolutions folded with their pool": lambda node: _fold(graph, parts, convolutions, node),
        "1x1 convolutions moved after their pool": lambda node: _pool_first(graph, parts, node),
        "1x1 convolutions moved before their upsampling": lambda node: _upsample_last(parts, node),
        KEPT: lambda node: _keep(graph, parts, convolutions, node),
    }
    if filters:
        rewrites |= placements(graph, parts, convolutions)
    made = dict.fromkeys(rewrites, 0)
    changed = True
    while changed:
        changed = False
        for name, apply in rewrites.items():
            for node in list(graph.nodes):
                if not node._erased and apply(node):
                    made[name] += 1
                    changed = True
    if filters:
        made[FILTERED] += sum(is_pooled_by_filter(parts, node) for node in graph.nodes)
        by_kernels = made[FILTERED] or made[BEGUN]  # whose results are channels_last
        made[BY_PIXELS] = sum(read_by_pixels(graph, node) for node in list(graph.nodes)) if by_kernels else 0
    return {name: count for name, count in made.items() if count}


def fold_swish(graph: fx.Graph, parts: dict[str, nn.Module], node: fx.Node) -> bool:
    """Make a product x * sigmoid(x), whose sigmoid nobody else uses, one call."""
    product = node.op in ("call_function", "call_method") and node.target in PRODUCTS and len(node.args) == 2
    for x, gate in (node.args, node.args[::-1]) if product and not node.kwargs else ():
        if isinstance(gate, fx.Node) and _is_sigmoid(parts, gate) and input_of(gate) is x and len(gate.users) == 1:
            with graph.inserting_before(node):
                replace_node(graph, node, graph.call_function(F.silu, (x,)))
            graph.erase_node(gate)
            return True
    return False


def _is_sigmoid(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(parts[node.target]) is nn.Sigmoid and not is_hooked(parts[node.target])
    alone = len(node.args) + ("input" in node.kwargs) == 1 and not set(node.kwargs) - {"input"}
    return alone and node.op in ("call_function", "call_method") and node.target in SIGMOIDS


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
    replace_node(graph, pool, total)
    graph.erase_node(source)
    return True


def _fold(graph: fx.Graph, parts: dict[str, nn.Module], convolutions: fx.Node, pool: fx.Node) -> bool:
    conv = _pooled(parts, pool)
    if conv is None or not _is_foldable(parts, conv):
        return False
    with graph.inserting_before(conv):
        folded = graph.call_method("pooled", (convolutions, made_with(graph, conv), input_of(conv)))
    replace_node(graph, pool, folded)
    graph.erase_node(conv)
    return True


def _pool_first(graph: fx.Graph, parts: dict[str, nn.Module], pool: fx.Node) -> bool:
    conv = _pooled(parts, pool)
    if conv is None or not _is_pointwise(parts, conv):
        return False
    source = input_of(conv)
    with graph.inserting_before(conv):
        smaller = graph.node_copy(pool, lambda node: source if node is conv else node)
    conv.replace_input_with(source, smaller)
    shape = pool.meta.get("shape")
    smaller.meta["shape"], conv.meta["shape"] = None, shape
    pool.replace_all_uses_with(conv)
    graph.erase_node(pool)
    return True


def _upsample_last(parts: dict[str, nn.Module], conv: fx.Node) -> bool:
    if not is_convolution(parts, conv, (1, 1)) or not isinstance(input_of(conv), fx.Node):
        return False
    larger = input_of(conv)
    if not _is_upsampling(parts, larger) or len(larger.users) != 1:
        return False
    source, shape = input_of(larger), conv.meta.get("shape")
    conv.replace_all_uses_with(larger)
    conv.replace_input_with(larger, source)
    larger.prepend(conv)
    larger.replace_input_with(source, conv)
    conv.meta["shape"], larger.meta["shape"] = None, shape
    return True


def _keep(graph: fx.Graph, parts: dict[str, nn.Module], convolutions: fx.Node, node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is not conv_then_pool:
        return False
    module, x = node.args
    if not (isinstance(module, fx.Node) and module.op == "get_attr" and is_steady(parts[module.target])):
        return False
    with graph.inserting_before(node):
        replace_node(graph, node, graph.call_method("pooled", (convolutions, module, x)))
    return True


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
    source = input_of(pool)
    fits = halves and plain and isinstance(source, fx.Node) and len(source.users) == 1
    return source if fits and len(source.meta.get("shape") or ()) == 4 else None


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
    found = convolution_of(parts, node) if is_convolution(parts, node, (3, 3)) else None
    return found is not None and found.groups == 1 and found.steady


def _is_pointwise(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    return is_convolution(parts, node, (1, 1))


def _is_upsampling(parts: dict[str, nn.Module], node: fx.Node) -> bool:
    if node.op == "call_module" and isinstance(parts[node.target], nn.Upsample) and not is_hooked(parts[node.target]):
        settings = {key: getattr(parts[node.target], key) for key in ("mode", "align_corners")}
    elif node.op == "call_function" and node.target is F.interpolate and len(node.args) < 4:
        settings = {"mode": "nearest"} | node.kwargs
    else:
        return False
    before, after = getattr(input_of(node), "meta", {}).get("shape"), node.meta.get("shape")
    if before is None or after is None or len(before) != 4:
        return False
    grows = all(a >= b for a, b in zip(after[2:], before[2:], strict=True))
    return grows and settings["mode"] in SMOOTH and not settings.get("align_corners") and not settings.get("antialias")
