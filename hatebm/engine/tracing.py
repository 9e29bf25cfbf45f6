"""Following a module's forward with torch.fx, without a trace left on it."""

import random
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

import hatebm.nets.energy
from hatebm.nets.layers import conv_then_pool

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
REGISTERED = {"_parameters", "_buffers", "_modules", "training"}
OPAQUE = object()
CONSTANTS = (bool, int, float, str, type(None), torch.dtype, torch.device, type)


class Refused(Exception):  # noqa: N818 (no error: a reason)
    """Why a network is left alone."""


class BlockTracer(fx.Tracer):
    """Calls a forward with one placeholder per block of the state, all its other arguments at their defaults."""

    proxy_buffer_attributes = True  # else a number read from a buffer would stay as it was

    def __init__(self, n_blocks: int) -> None:
        super().__init__(autowrap_modules=(hatebm.nets.energy,), autowrap_functions=(conv_then_pool,))
        self.n_blocks = n_blocks

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args: Any = None) -> tuple:
        """The module itself and its placeholders."""
        blocks = [self.create_proxy("placeholder", f"block{k}", (), {}) for k in range(self.n_blocks)]
        return root_fn, [self.root, *blocks]


def traced(module: nn.Module, n_blocks: int) -> fx.Graph:
    """The graph of a module's forward; names only, so that every weight is looked up when it is used.

    Raises:
        Refused: a forward that torch.fx cannot follow, or that does more than compute.
    """
    _refuse_strangers(module)
    parts = list(module.modules())
    before = [_shallow(part) for part in parts]
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    try:
        tracer = BlockTracer(n_blocks)
        graph = tracer.trace(module)
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise Refused(f"torch.fx cannot follow its forward ({type(error).__name__}: {first_line})") from error
    finally:
        wrote = [_restore(part, old) for part, old in zip(parts, before, strict=True)]
        drew = not torch.equal(torch_state, torch.get_rng_state()) or random.getstate() != python_state
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
    if drew:
        raise Refused("its forward draws random numbers")
    if any(wrote):
        raise Refused("its forward writes to the module, or makes tensors of its own")
    return graph


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of the module is more than its forward."""
    return any(getattr(module, name) for name in HOOKS)


def signature(module: nn.Module) -> Any:
    """What a trace depends on beside the tensors; None where that cannot be told, and each run traces anew."""
    parts = []
    for name, part in module.named_modules(remove_duplicate=False):
        forward = getattr(type(part).forward, "__code__", None)
        outside = getattr(type(part).forward, "__globals__", {})
        read = [plain(outside[key]) for key in forward.co_names if isinstance(outside.get(key), (int, float, str))]
        own = [(key, plain(value)) for key, value in vars(part).items() if key not in REGISTERED]
        parts.append((name, type(part), part.training, tuple(read), tuple(own)))
        if any(value is OPAQUE for _, value in own):
            return None
    return tuple(parts)


def plain(value: Any) -> Any:
    """A constant as a key that compares by value and type; OPAQUE where something else may change it."""
    kind = type(value)
    if isinstance(value, CONSTANTS):
        return (kind, value)
    if isinstance(value, (tuple, list, set, frozenset, dict)):
        listed = [part for item in value.items() for part in item] if isinstance(value, dict) else value
        items = tuple(map(plain, listed)) if value else ()
        return OPAQUE if OPAQUE in items else (kind, items)
    if isinstance(value, types.FunctionType) and not value.__closure__:
        return value.__code__
    if isinstance(value, types.BuiltinFunctionType) and not isinstance(value.__self__, Tensor | nn.Module):
        return value
    return OPAQUE


def _refuse_strangers(module: nn.Module) -> None:
    optimized = type(module).__name__ == "OptimizedModule"  # by name: torch._dynamo takes a second to import
    if isinstance(module, torch.jit.ScriptModule) or optimized or module._compiled_call_impl:
        raise Refused("it is compiled")
    if nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks:
        raise Refused("there are global hooks of modules")
    if "forward" in vars(module):
        raise Refused("its forward was replaced")
    tracer = BlockTracer(1)
    for name, part in module.named_modules():
        if is_hooked(part) and (part is module or not tracer.is_leaf_module(part, name)):
            raise Refused(f"{name or 'it'} has hooks")


def _shallow(module: nn.Module) -> dict[str, Any]:
    containers = dict | list | set
    return {key: value.copy() if isinstance(value, containers) else value for key, value in vars(module).items()}


def _restore(module: nn.Module, before: dict[str, Any]) -> bool:
    now, wrote = vars(module), False
    for key in [key for key in now if key not in before]:
        del now[key]
        wrote = True
    for key, old in before.items():
        new = now.get(key, OPAQUE)
        if isinstance(old, dict | list | set) and type(new) is type(old):
            if len(new) != len(old) or any(a is not b for a, b in zip(_items(new), _items(old), strict=True)):
                new.clear()
                new.extend(old) if isinstance(new, list) else new.update(old)
                wrote = True
        elif new is not old:
            now[key] = old
            wrote = True
    return wrote


def _items(container: dict | list | set) -> list[Any]:
    return [part for item in container.items() for part in item] if isinstance(container, dict) else list(container)
