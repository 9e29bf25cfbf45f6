"""A rewritten network as a function of the state."""

import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from hatebm.engine.prepare.arguments import of_chains
from hatebm.engine.prepare.callables import Called
from hatebm.engine.prepare.convolutions import Convolutions
from hatebm.engine.prepare.fixed import Fixed, Values, set_apart, set_still_apart


class Rewritten(NamedTuple):
    """What is known of a network: nothing of it holds the network or its weights."""

    function: Callable[..., Tensor] | None  # of the module, blocks, inputs and what a run keeps; None: left alone
    fixed: Fixed | None
    still: Fixed | None  # where arguments are looked at anew by each call, on a GPU, there is none
    inputs: tuple[str, ...]  # the keyword arguments that it takes anew
    part: int | None  # chains evaluated together
    channels_last: bool
    notes: tuple[str, ...]


class Bound:
    """A rewritten network with its weights, for one run: an energy of the state."""

    def __init__(self, rewritten: Rewritten, module: nn.Module) -> None:
        self.rewritten, self.module, self.convolutions = rewritten, module, Convolutions(rewritten.channels_last)
        self.values = Values(rewritten.fixed, module)
        self.numbers = None if rewritten.still is None else Values(rewritten.still, module)
        self.named = module.tensors if type(module) is Called else {}

    def __call__(self, /, *state: Tensor, **kwargs: Any) -> Tensor:
        part, kwargs = self.rewritten.part, self.named | kwargs
        if part is None or len(state[0]) <= part:
            return self.together(state, kwargs)
        return _InParts.apply(self, part, kwargs, *state)

    def together(self, state: Sequence[Tensor], kwargs: dict[str, Any]) -> Tensor:
        """The energies of chains that are evaluated together."""
        blocks = [_ChannelsLast.apply(x) if self.rewritten.channels_last and x.dim() == 4 else x for x in state]
        inputs = [kwargs[name] for name in self.rewritten.inputs]
        if self.values.renewed():
            self.convolutions.forget()
        rests = [self.values.found]
        if self.numbers is not None:
            self.numbers.renewed(*inputs, self.values.found)
            rests.append(self.numbers.found)
        return self.rewritten.function(self.module, *blocks, *inputs, self.convolutions, *rests)


def split(graph: fx.Graph, *, still: bool) -> tuple[Callable[..., Tensor], Fixed, Fixed | None, int]:
    """A rewritten graph as a function, what it takes that is fixed or still, and how many weights that are."""
    fixed, computed = set_apart(graph)
    numbers = set_still_apart(graph) if still else None
    return compiled(graph), _of_module(fixed), None if numbers is None else _of_module(numbers), computed


def _of_module(graph: fx.Graph) -> Fixed:
    names = dict.fromkeys(node.target for node in graph.nodes if node.op == "get_attr")
    return Fixed(compiled(graph), tuple(names))


def compiled(graph: fx.Graph) -> Callable[..., Any]:
    """The graph as a Python function whose first argument is the module: each weight is looked up at each call."""
    code = graph.python_code("self")
    space = dict(code.globals)
    exec(compile(code.src, "<hatebm.engine>", "exec"), space)
    return space["forward"]


class _InParts(torch.autograd.Function):
    """Energies part after part, each with its gradient, so that all parts use the same memory."""

    @staticmethod
    def forward(ctx: Any, bound: Bound, part: int, kwargs: dict[str, Any], *state: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[3:]
        grads = [torch.empty_like(x) if moves else None for x, moves in zip(state, wanted, strict=True)]
        energies = []
        for begin in range(0, len(state[0]), part):
            here = slice(begin, begin + part)
            with torch.set_grad_enabled(any(wanted)):
                blocks = [x[here].detach().requires_grad_(moves) for x, moves in zip(state, wanted, strict=True)]
                energy = bound.together(blocks, of_chains(kwargs, here, len(state[0]))).reshape(len(blocks[0]))
                leaves = [x for x in blocks if x.requires_grad]
                found = iter(torch.autograd.grad(energy.sum(), leaves) if leaves else ())
            energies.append(energy.detach())
            for grad in grads:
                if grad is not None:
                    grad[here] = next(found)
        ctx.grads = grads
        return torch.cat(energies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        weighted = [g if g is None else g * weight.view(-1, *[1] * (g.dim() - 1)) for g in ctx.grads]
        return None, None, None, *weighted


class _ChannelsLast(torch.autograd.Function):
    """A copy with the channels of a pixel side by side, of one channel too; the gradient as the caller's layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last).copy_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous()


def described(function: Callable[..., Any]) -> str:
    """What a callable is called in a report."""
    function = function.function if type(function) is Called else function
    kind = isinstance(function, types.FunctionType | types.MethodType)
    return function.__qualname__ if kind else type(function).__name__
