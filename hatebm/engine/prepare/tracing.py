"""Following a module's forward with torch.fx, without a trace left on it."""

import random
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

import hatebm.nets.energy
from hatebm.energies.closure import FOREIGN, first_difference, is_from, snapshot
from hatebm.energies.named import named_by, names_in, names_used_by
from hatebm.engine.prepare.signatures import HOOKS, Refused
from hatebm.engine.prepare.twin import twin
from hatebm.nets.layers import conv_then_pool


class BlockTracer(fx.Tracer):
    """Calls a forward with a placeholder for each block of the state and each input, and the constants that are given.

    torch.fx changes how modules are called for every thread: what other threads call meanwhile is left as it is.
    """

    proxy_buffer_attributes = True  # else a number read from a buffer would stay as it was

    def __init__(self, n_blocks: int, inputs: Iterable[str] = (), constants: dict[str, Any] | None = None) -> None:
        super().__init__(autowrap_modules=(hatebm.nets.energy,), autowrap_functions=(conv_then_pool,))
        self.n_blocks, self.inputs, self.constants = n_blocks, tuple(inputs), constants or {}
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """A part that is not looked into: PyTorch's own, and an energy with a formula."""
        return hasattr(type(m), "formula") or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        """A part that is called."""
        mine = threading.get_ident() == self.thread
        return super().call_module(m, forward, args, kwargs) if mine else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A tensor or a part that is named."""
        mine = threading.get_ident() == self.thread
        return super().getattr(attr, attr_val, parameter_proxy_cache) if mine else attr_val

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args: Any = None) -> tuple:
        """The forward with its constants, the module itself and the placeholders."""
        blocks = [self.create_proxy("placeholder", f"block{k}", (), {}) for k in range(self.n_blocks)]
        inputs = [self.create_proxy("placeholder", f"input{k}", (), {}) for k in range(len(self.inputs))]

        def forward(root: nn.Module, *given: fx.Proxy) -> Any:
            named = dict(zip(self.inputs, given[self.n_blocks :], strict=True))
            return root_fn(root, *given[: self.n_blocks], **named, **self.constants)

        return forward, [self.root, *blocks, *inputs]


def traced(
    module: nn.Module, n_blocks: int, inputs: Iterable[str] = (), constants: dict[str, Any] | None = None
) -> fx.Graph:
    """The graph of a module's forward; names only, so that every weight is looked up when it is used.

    Its placeholders are the blocks, then the ``inputs``; the ``constants`` are as given.

    Raises:
        Refused: a forward that torch.fx cannot follow, or that does more than compute.
    """
    _refuse_strangers(module)
    try:
        root = twin(module, lambda tensor: tensor)
        before = [_shallow(part) for part in root.modules()]
        called = _check_apart(root, module) if "reach" in vars(module) else None
        seen = snapshot(called) if called else []
        with NothingDrawn(), _nothing_drawn_in_python():
            graph = BlockTracer(n_blocks, inputs, constants).trace(root)
    except Refused:
        raise
    except Exception as error:
        first_line = next(iter(str(error).splitlines()), "")
        raise Refused(f"torch.fx cannot follow its forward ({type(error).__name__}: {first_line})") from error
    if any(_is_changed(vars(part), old) for part, old in zip(root.modules(), before, strict=True)):
        raise Refused("its forward writes to the module, or makes tensors of its own")
    if called and (name := first_difference(seen, snapshot(called))):
        raise Refused(f"it writes to what it reads ({name})")
    return graph


@contextmanager
def _nothing_drawn_in_python() -> Iterator[None]:
    """The same for Python's own random numbers and NumPy's: they are put back where they were."""
    numpy = sys.modules.get("numpy")
    before, states = random.getstate(), numpy and numpy.random.get_state()
    yield
    drawn = random.getstate() != before
    random.setstate(before)
    if numpy:
        now = numpy.random.get_state()
        drawn = drawn or now[2:] != states[2:] or bool((now[1] != states[1]).any())
        numpy.random.set_state(states)
    if drawn:
        raise Refused("its forward draws random numbers")


def _check_apart(root: nn.Module, module: nn.Module) -> Callable[..., Any]:
    """What the twin of a callable's module calls: it may lead to nothing of the callable's own that can be written."""
    named = named_by(root.function)
    own = {id(part) for part in module.modules()} | {id(thing) for thing in module.reach if not _is_fixed(thing)}
    if shared := [thing for thing in (*named.modules, *named.reach) if id(thing) in own]:
        raise Refused(f"it names what cannot be copied, of type {type(shared[0]).__name__}")
    return root.function


def _is_fixed(thing: Any) -> bool:
    """Whether a call can hardly write to a thing."""
    return issubclass(type(thing), type | tuple | frozenset | types.FunctionType | types.MappingProxyType)


class NothingDrawn(TorchDispatchMode):
    """In this thread a draw from torch's own generators raises :class:`Refused` before it is made."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # what says so to torch._dynamo imports it, which takes a second
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """An operation of torch."""
        if torch.Tag.nondeterministic_seeded in func.tags and _draws(func, args, kwargs or {}):
            raise Refused("its forward draws random numbers")
        return func(*args, **kwargs or {})


def _draws(func: Any, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Each of these does, but one with a generator of its own, and an attention without dropout."""
    names = [argument.name for argument in func._schema.arguments]
    values = {argument.name: argument.default_value for argument in func._schema.arguments}
    values |= dict(zip(names, args, strict=False)) | kwargs
    return values.get("generator") is None and values.get("dropout_p") != 0


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of the module is more than its class says: hooks, or a forward of its own."""
    return any(vars(module).get(name) for name in HOOKS)


def _refuse_strangers(module: nn.Module) -> None:
    optimized = type(module).__name__ == "OptimizedModule"  # by name: torch._dynamo takes a second to import
    if isinstance(module, torch.jit.ScriptModule) or optimized or module._compiled_call_impl:
        raise Refused("it is compiled")
    if nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks:
        raise Refused("there are global hooks of modules")
    if "forward" in vars(module):
        raise Refused("its forward was replaced")
    if any("print" in names for names in _names_of(module)):
        raise Refused("it prints")
    tracer = BlockTracer(1)
    for name, part in module.named_modules():
        if is_hooked(part) and (part is module or not tracer.is_leaf_module(part, name)):
            raise Refused(f"{name or 'it'} has hooks")


def _names_of(module: nn.Module) -> Iterator[frozenset[str]]:
    """What the code names that a call of the module runs, class by class and function by function."""
    yield from (names_used_by(kind) for kind in set(map(type, module.modules())) if not is_from(kind, FOREIGN))
    functions = (thing for thing in vars(module).get("reach", ()) if type(thing) is types.FunctionType)
    yield from (names_in(function.__code__) for function in functions)


def _shallow(module: nn.Module) -> dict[str, Any]:
    containers = (dict, list, set)
    return {key: value.copy() if issubclass(type(value), containers) else value for key, value in vars(module).items()}


def _is_changed(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() != before.keys() or any(not _is_same(now[key], old) for key, old in before.items())


def _is_same(new: Any, old: Any) -> bool:
    if not issubclass(type(old), (dict, list, set)) or type(new) is not type(old):
        return new is old
    return len(new) == len(old) and all(a is b for a, b in zip(_items(new), _items(old), strict=True))


def _items(container: dict | list | set) -> list[Any]:
    return [part for item in container.items() for part in item] if isinstance(container, dict) else list(container)
