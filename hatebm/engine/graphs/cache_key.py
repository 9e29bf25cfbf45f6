"""What a module's forward depends on beside its tensors' values: the key under which a graph of it is kept."""

import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hatebm.energies.closure import PURE, is_from
from hatebm.energies.precision import set_to
from hatebm.engine.prepare.signatures import OPAQUE, plain, signature

CODE = (type, types.ModuleType, types.FunctionType)


def storage_key(module: nn.Module) -> tuple:
    """Where the tensors of a module lie, and what they are."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    return tuple((name, v.data_ptr(), v.shape, v.stride(), v.dtype, v.device) for name, v in tensors)


def settings_of_torch() -> tuple:
    """The settings of torch by which it chooses kernels."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    numbers = (*set_to(torch.device("cuda")), torch.get_default_dtype())
    sums = (matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction)
    choice = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled())
    return *numbers, *sums, *choice


def forward_key(module: nn.Module) -> Any:
    """Every constant that a forward can name, with all parts and their modes; None where that cannot be told."""
    found = signature(module)
    named: dict[types.CodeType, tuple] = {}
    if found is None or not all(_is_followed(part, named) for part in module.modules()):
        return None
    return found, tuple(named.items())


def _is_followed(part: nn.Module, named: dict[types.CodeType, tuple]) -> bool:
    kind = type(part)
    held = [item for value in vars(part).values() for item in (value if type(value) in (list, tuple) else [value])]
    functions = [item for item in held if type(item) is types.FunctionType and not is_from(item, PURE)]
    if any(not is_from(base, PURE) for base in kind.__mro__):
        if kind.__call__ is not nn.Module.__call__ or kind.__getattr__ is not nn.Module.__getattr__:
            return False
        functions.append(kind.forward)
    return all(_follow(function, kind, named) for function in functions)


def _follow(function: Any, kind: type, named: dict[types.CodeType, tuple]) -> bool:
    """Gather the constants that a function and all that it calls can name; False where it names anything else."""
    if not isinstance(function, types.FunctionType):
        return False
    if function.__code__ in named:
        return True
    named[function.__code__] = ()
    values = [value for value in _named(function, kind) if not (isinstance(value, CODE) and is_from(value, PURE))]
    called = [value for value in values if isinstance(value, types.FunctionType)]
    constants = [_constant(value, kind) for value in values if not isinstance(value, types.FunctionType)]
    named[function.__code__] = tuple(constants)
    return not any(v is OPAQUE for v in constants) and all(_follow(value, kind, named) for value in called)


def _constant(value: Any, kind: type) -> Any:
    """A class says by its name alone what it holds only where it is one of the module's own."""
    return OPAQUE if isinstance(value, type) and value not in kind.__mro__ else plain(value)


def _named(function: types.FunctionType, kind: type) -> Iterator[Any]:
    """Whatever a name in a function's code may mean: a closure's content, a global, an attribute of the class."""
    yield from (cell.cell_contents for cell in function.__closure__ or ())
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]
        for base in kind.__mro__:
            if name in vars(base) and not is_from(base, PURE):
                own = vars(base)[name]
                yield own.fget if isinstance(own, property) else getattr(own, "__func__", own)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)
