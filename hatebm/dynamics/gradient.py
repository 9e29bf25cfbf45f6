"""The energies of all chains at a state and their gradient."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from hatebm.energies.hat import remembering
from hatebm.energies.parts import Parts, summed
from hatebm.energies.precision import ieee
from hatebm.ops.checks import GRAD_DTYPES, check_like, checked_blocks, require


class Potential:
    """The energy of every chain and its gradient: autograd's, or a given one; 0 where a mask holds the state.

    ``differentiable`` keeps the graph of the gradient; ``changes`` says that the energy is another one at each step;
    ``prepared`` is the energy in a form that serves first derivatives alone; ``within`` opens the context in which the
    gradient is to be taken, and ``reduced`` says that it is none of IEEE float32, in which energies that decide always
    are; ``kept`` is where hat energies keep what they made within a run; ``parts`` are those of the last energies, None
    before the first of a run.
    """

    def __init__(
        self,
        energy: Callable[..., Tensor] | None,
        grad_fn: Callable[..., Any] | None,
        kwargs: dict[str, Any] | Callable[[int], dict[str, Any]] | None,
        masks: Sequence[Tensor | None],
    ) -> None:
        self.energy, self.grad_fn, self.masks = energy, grad_fn, masks
        self.changes = kwargs is not None and not isinstance(kwargs, dict)
        self.kwargs = Scheduled(kwargs) if self.changes else Always(dict(kwargs or {}))
        self.differentiable = False
        self._ones = Ones()
        self.prepared: Callable[..., Tensor] | None = None
        self.within: Callable[[], AbstractContextManager[None]] = nullcontext
        self.reduced = False
        self.kept: dict[Any, Any] | None = None
        self.parts: Parts | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"prepared": None, "kept": None, "parts": None}  # made afresh by each run

    def gradient(self, t: int, state: Sequence[Tensor], wanted: Sequence[int]) -> tuple[Tensor | None, list[Tensor]]:
        """The energies where they come along, (n,) or a scalar, and the gradient in the blocks ``wanted``."""
        kwargs = self.kwargs(t)
        if self.grad_fn is None:
            asked = (self._energy(), state, wanted, kwargs)
            with self._remembering(), self.within():
                energies, grads, parts = _evaluated(*asked, self.differentiable, self._ones)
            self._see(parts)
        else:
            with self.within():
                energies, grads = None, given_gradient(self.grad_fn, state, wanted, kwargs, self.differentiable)
        held = (self.masks[k] for k in wanted)
        return energies, [g if m is None else torch.where(m, g, 0) for g, m in zip(grads, held, strict=True)]

    def energies_and_gradient(
        self, t: int, state: Sequence[Tensor], wanted: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """One energy a chain, (n,), and the gradient: what a Metropolis test needs."""
        energies, grads = self.gradient(t, state, wanted)
        if self.grad_fn is not None:
            grads = [g.clone() for g in grads]  # they live on, while the next ones may come in the same tensor
        alone = energies is None or self.reduced
        return self.energies(t, state) if alone else _one_each(energies, len(state[0])), grads

    def energies(self, t: int, state: Sequence[Tensor]) -> Tensor:
        """One energy a chain, (n,), alone."""
        kwargs = self.kwargs(t)
        with self._remembering(), ieee(state[0].device):
            energies, parts = _energies_alone(self._energy(), state, kwargs)
        self._see({name: part.clone() for name, part in parts.items()})
        return _one_each(energies.clone(), len(state[0]))

    def _see(self, parts: Parts) -> None:
        if self.parts is not None and self.parts.keys() != parts.keys():
            text = f"a dict of {list(self.parts)} at every step" if self.parts else "a tensor at every step"
            require(False, "langevin", "energy's result", text, f"a dict of {list(parts)}" if parts else "a tensor")
        self.parts = parts

    def _remembering(self) -> AbstractContextManager[None]:
        if torch.compiler.is_compiling():
            return nullcontext()
        return remembering(None if self.differentiable else self.kept)

    def _energy(self) -> Callable[..., Tensor]:
        return self.energy if self.prepared is None or self.differentiable else self.prepared


def energy_and_gradient(
    energy: Callable[..., Tensor],
    state: Sequence[Tensor],
    wanted: Sequence[int],
    kwargs: dict[str, Any],
    differentiable: bool = False,
    ones: "Ones | None" = None,
) -> tuple[Tensor, list[Tensor]]:
    """E(state), (n,) or scalar, and its gradient in the blocks ``wanted``; ``ones`` are kept from call to call.

    Raises:
        ValueError: an energy of another shape, or one that does not depend on a wanted block.
    """
    return _evaluated(energy, state, wanted, kwargs, differentiable, ones or Ones())[:2]


def _evaluated(
    energy: Callable[..., Tensor],
    state: Sequence[Tensor],
    wanted: Sequence[int],
    kwargs: dict[str, Any],
    differentiable: bool,
    ones: "Ones",
) -> tuple[Tensor, list[Tensor], Parts]:
    """The same, and the energy's parts."""
    if not wanted:
        energies, parts = _energies_alone(energy, state, kwargs)
        return energies, [], parts
    if torch.compiler.is_compiling():
        return _traced_gradient(energy, state, wanted, kwargs, differentiable)
    before = [] if len(wanted) == len(state) else _versions(state, wanted)
    with torch.enable_grad():
        leaves = [_leaf(x, k in wanted, differentiable) for k, x in enumerate(state)]
        try:
            energies, parts = _checked_energies(energy(*leaves, **kwargs), state[0].shape[0])
        except RuntimeError as error:
            _explain(error)
            raise
        at = tuple(leaves[k] for k in wanted)
        grads = _gradient_of_sum(energies, at, differentiable, ones) if energies.requires_grad else ()
    if before:
        _check_unwritten(before, state, wanted)
    if all(grad is None for grad in grads):
        text = "a function of the state through autograd (not detached)"
        require(False, "langevin", "energy", text, "a result that does not depend on it")
    for k, grad in zip(wanted, grads, strict=True):
        if grad is None:
            text = "a function of every block that moves; a block of step size and noise 0 stays where it is"
            require(False, "langevin", "energy", text, f"a result that does not depend on block {k}")
    return energies.detach(), list(grads), _detached(parts)


def _energies_alone(
    energy: Callable[..., Tensor], state: Sequence[Tensor], kwargs: dict[str, Any]
) -> tuple[Tensor, Parts]:
    before = _versions(state)
    with torch.no_grad():
        found = _checked_energies(energy(*state, **kwargs), len(state[0]))
    _check_unwritten(before, state)
    return found


def _detached(parts: Parts) -> Parts:
    return {name: part.detach() for name, part in parts.items()}


def _explain(error: RuntimeError) -> None:
    """Say what autograd's refusal of a tensor from inference mode means to the one who wrote the energy."""
    if str(error).startswith("Inference tensors"):
        text = "made of tensors from outside torch.inference_mode(), or of clones that are"
        raise RuntimeError(f"langevin: energy must be {text}, got one that no gradient can pass") from error


def _versions(state: Sequence[Tensor], but: Sequence[int] = ()) -> list[int]:
    """How often each block was written to, but for those that autograd guards."""
    if torch.compiler.is_compiling():
        return []
    return [0 if k in but or x.is_inference() else x._version for k, x in enumerate(state)]


def _check_unwritten(before: list[int], state: Sequence[Tensor], but: Sequence[int] = ()) -> None:
    if before != _versions(state, but):
        text = "a function that leaves the state as it is (x.clone() is its own)"
        require(False, "langevin", "energy", text, "one that writes to it", RuntimeError)


@dataclass
class Always:
    """The same keyword arguments at every step."""

    kwargs: dict[str, Any]

    def __call__(self, t: int) -> dict[str, Any]:
        return self.kwargs


@dataclass
class Scheduled:
    """The keyword arguments of each step."""

    function: Callable[[int], dict[str, Any]]

    def __call__(self, t: int) -> dict[str, Any]:
        found = self.function(t)
        require(isinstance(found, dict), "langevin", "energy_kwargs", "a dict at every step", found, TypeError)
        return found


class Ones:
    """Ones like the energies of the CPU, made again only where those are of another kind."""

    def __init__(self) -> None:
        self._kept: Tensor | None = None

    def like(self, energies: Tensor) -> Tensor:
        """Ones as autograd hands them from a sum to what was summed."""
        kept = self._kept
        if kept is not None and kept.shape == energies.shape and kept.dtype == energies.dtype:
            return kept
        ones = torch.ones((), dtype=energies.dtype, device=energies.device).expand(energies.shape)
        if type(energies) is Tensor and energies.device.type == "cpu":  # a captured graph outlives what it reads
            self._kept = ones
        return ones


def _gradient_of_sum(
    energies: Tensor, at: tuple[Tensor, ...], differentiable: bool, ones: Ones
) -> tuple[Tensor | None, ...]:
    """What torch.autograd.grad(energies.sum(), at, allow_unused=True) returns, less what it costs a small energy.

    The engine starts where the sum would send it, and no argument is checked a second time.
    """
    start = (ones.like(energies),)
    return _engine_run_backward((energies,), start, differentiable, differentiable, at, True, accumulate_grad=False)


def given_gradient(
    grad_fn: Callable[..., Any],
    state: Sequence[Tensor],
    wanted: Sequence[int],
    kwargs: dict[str, Any],
    differentiable: bool = False,
) -> list[Tensor]:
    """The gradient that ``grad_fn`` returns (minus the score), in the blocks ``wanted``."""
    with torch.set_grad_enabled(differentiable):
        grads = grad_fn(*(x.clone() for x in state), **kwargs)  # which may work in place on what it is given
    grads = checked_blocks("langevin", "grad_fn's result", grads, len(state))
    for k, (grad, x) in enumerate(zip(grads, state, strict=True)):
        require(k not in wanted or grad is not None, "langevin", "grad_fn's result", "a tensor a block", grad)
        check_like("langevin", "grad_fn's result", grad, x, (x.dtype, *GRAD_DTYPES))
    return [grads[k] for k in wanted]


def _traced_gradient(
    energy: Callable[..., Tensor],
    state: Sequence[Tensor],
    wanted: Sequence[int],
    kwargs: dict[str, Any],
    differentiable: bool,
) -> tuple[Tensor, list[Tensor], Parts]:
    """The same where torch.compile traces, which follows torch.func.grad."""

    def total(*moving: Tensor) -> tuple[Tensor, Any]:
        blocks = list(state)
        for k, x in zip(wanted, moving, strict=True):
            blocks[k] = x
        found = _checked_energies(energy(*blocks, **kwargs), len(state[0]))
        return found[0].sum(), found

    gradient = torch.func.grad(total, argnums=tuple(range(len(wanted))), has_aux=True)
    grads, (energies, parts) = gradient(*(state[k] for k in wanted))
    return energies.detach(), [grad if differentiable else grad.detach() for grad in grads], _detached(parts)


def _leaf(x: Tensor, wanted: bool, differentiable: bool) -> Tensor:
    if differentiable and x.requires_grad:
        return x.view_as(x)  # a name of its own: a block that moved before may depend on x
    return x.detach().requires_grad_(wanted)


def _checked_energies(found: Any, n: int) -> tuple[Tensor, Parts]:
    energies, parts = summed("langevin", "energy's result", found, n)
    if not isinstance(energies, Tensor) or (energies.dim() and energies.shape not in ((n,), (n, 1))):
        require(False, "langevin", "energy's result", f"a scalar or of shape ({n},)", energies)
    return energies if energies.dim() < 2 else energies.reshape(n), parts


def _one_each(energies: Tensor, n: int) -> Tensor:
    text = "one energy a chain where proposals are accepted or refused"
    require(energies.dim() == 1 or n == 1, "langevin", "energy's result", text, energies)
    return energies.reshape(n)
