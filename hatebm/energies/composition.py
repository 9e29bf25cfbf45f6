"""Energies made of energies: products, mixtures and negations of experts."""

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.energies.closure import modules_of, owner_of
from hatebm.energies.modes import in_mode
from hatebm.energies.parts import summed
from hatebm.energies.rays import Rays
from hatebm.ops.checks import require
from hatebm.ops.scalars import checked_number

Energy = Callable[..., Tensor]


def product(*energies: Energy) -> "Product":
    r"""The product of experts, p(x) ~ prod_i exp(-E_i(x)): E = sum_i E_i.

    Each expert is called with every block of the state. A keyword argument goes to each expert; a tuple gives one entry
    per expert, and a None is not passed on: ``label=(c, None)`` is c for the first and the default of the second.

    Args:
        energies: modules, functions, methods of modules or partials of these, (n, \*sample) to (n,), (n, 1) or a
            scalar, the sum over chains, which makes the result a scalar too; a dict of (n,) parts is its sum.

    Returns:
        A module that owns the experts' parameters; tensors held by a partial stay where they are.

    Raises:
        TypeError, ValueError: naming the expert.

    Source: Du & Mordatch, "Implicit generation and modeling with energy based models" (2019).
    """
    return Product(energies)


def mixture(*energies: Energy) -> "Mixture":
    r"""The mixture of experts, p(x) ~ sum_i exp(-E_i(x)): E = -log sum_i exp(-E_i).

    Each expert weighs as much as its integral, Z_i = int exp(-E_i): a weight w_i needs E_i + log Z_i - log w_i. A
    chain's temperature divides the mixture's energy, not the experts'. Keyword arguments as in :func:`product`.

    Args:
        energies: as in :func:`product`, without sums over chains, which have no mixture.

    Raises:
        TypeError, ValueError: naming the expert.

    Source: Du, Li & Mordatch, "Compositional visual generation with energy based models" (2020): disjunction.
    """
    return Mixture(energies)


def negate(energy: Energy, by: Energy, weight: float) -> "Negate":
    r"""One expert but not the other, p(x) ~ exp(-E(x)) / exp(-B(x))^weight: E - weight * B.

    It has a density only while ``by`` grows more slowly than ``energy``; for two Gaussians, weight below the ratio of
    their precisions in every direction. A chain without a box looks before it runs, see :func:`check_bounded`. Keyword
    arguments as in :func:`product`: a tuple is (that of ``energy``, that of ``by``).

    Args:
        energy: what the samples should be, as in :func:`product`.
        by: what they should not be.
        weight: >= 0.

    Raises:
        TypeError, ValueError: naming the argument or the expert.

    Source: Du, Li & Mordatch, "Compositional visual generation with energy based models" (2020): negation.
    """
    weight = checked_number("negate", "weight", weight, "finite and >= 0", lambda v: 0 <= v < math.inf)
    return Negate((energy, by), float(weight))


class Composition(nn.Module):
    """Experts, called together."""

    name = "composition"

    def __init__(self, energies: Sequence[Energy]) -> None:
        super().__init__()
        require(len(energies) > 0, self.name, "energies", "one expert at least", energies)
        for k, energy in enumerate(energies):
            require(callable(energy), self.name, f"expert {k}", "callable", energy, TypeError)
            parallel = isinstance(energy, nn.parallel.DistributedDataParallel)
            text = "a module to compose before DistributedDataParallel wraps the composition"
            require(not parallel, self.name, f"expert {k}", text, type(energy).__name__, TypeError)
        self.experts = nn.ModuleList(e if isinstance(e, nn.Module) else Expert(e) for e in energies)

    def energies(self, state: Sequence[Tensor], kwargs: dict[str, Any]) -> list[Tensor]:
        """What each expert says, (n,), or a scalar where it sums over chains."""
        n = len(state[0])
        results = []
        for k, (expert, own) in enumerate(zip(self.experts, self.arguments(kwargs), strict=True)):
            result, _ = summed(self.name, f"expert {k}'s result", expert(*state, **own), n)
            fits = isinstance(result, Tensor) and result.shape in ((), (n,), (n, 1))
            require(fits, self.name, f"expert {k}'s result", f"a scalar or of shape ({n},)", result)
            results.append(result.reshape(n) if result.dim() or n == 1 else result)
        return results

    def summed(self, energies: list[Tensor]) -> Tensor:
        """The sum, (n,), or a scalar over all chains where one expert gave no more than that."""
        if any(e.dim() == 0 for e in energies):
            energies = [e.sum() for e in energies]
        return functools.reduce(torch.add, energies)

    def arguments(self, kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        """The keyword arguments of each expert."""
        entries = {key: self._entries(key, value) for key, value in kwargs.items()}
        own = ({key: values[k] for key, values in entries.items()} for k in range(len(self.experts)))
        return [{key: value for key, value in given.items() if value is not None} for given in own]

    def _entries(self, key: str, value: Any) -> Sequence[Any]:
        if not isinstance(value, tuple):
            return [value] * len(self.experts)
        text = f"a tuple of {len(self.experts)}, one per expert"
        require(len(value) == len(self.experts), self.name, key, text, f"a tuple of {len(value)}")
        return value


class Product(Composition):
    """The energy of :func:`product`."""

    name = "product"

    def forward(self, *state: Tensor, **kwargs: Any) -> Tensor:
        return self.summed(self.energies(state, kwargs))


class Mixture(Composition):
    """The energy of :func:`mixture`."""

    name = "mixture"

    def forward(self, *state: Tensor, **kwargs: Any) -> Tensor:
        energies = self.energies(state, kwargs)
        for k, e in enumerate(energies):
            text = f"of shape ({len(state[0])},), one energy a chain: a sum over chains has no mixture"
            require(e.dim() > 0, self.name, f"expert {k}'s result", text, e)
        return -torch.logsumexp(-torch.stack(energies), 0)


class Negate(Composition):
    """The energy of :func:`negate`."""

    name = "negate"

    def __init__(self, energies: Sequence[Energy], weight: float) -> None:
        super().__init__(energies)
        self.weight = weight

    def forward(self, *state: Tensor, **kwargs: Any) -> Tensor:
        energy, by = self.energies(state, kwargs)
        left_out = not torch.compiler.is_compiling() and self in _here.left_out
        return self.summed([energy, (0.0 if left_out else -self.weight) * by])

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class Expert(nn.Module):
    """A function, a method or a partial, as a module that owns the module behind it."""

    def __init__(self, function: Energy) -> None:
        super().__init__()
        self.function = function
        self.owner = owner_of(function)

    def forward(self, *state: Tensor, **kwargs: Any) -> Tensor:
        return self.function(*state, **kwargs)

    def extra_repr(self) -> str:
        return _name(self.function)


def check_bounded(
    energy: Energy,
    state: Sequence[Tensor],
    kwargs: dict[str, Any],
    precisions: Sequence[float] | None = None,
    masks: Sequence[Tensor | None] | None = None,
) -> None:
    r"""Refuse an energy that a negation makes fall without bound along a ray; see :class:`hatebm.energies.rays.Rays`.

    Nothing is evaluated unless a :func:`negate` is found in the module behind ``energy``. An energy that falls without
    the negated parts too, as a net with leaky units does, is left alone. This is a search of some fifty gradients, not
    a proof: what it finds is real, but it can miss a few bad directions among hundreds.

    Args:
        energy: (n, \*sample) to (n,) or a scalar, called with every block.
        state: the blocks from which the rays start.
        kwargs: keyword arguments of the energy.
        precisions: one number per block, which adds precision * |x|^2 / 2 to the energy; default 0.
        masks: for each block where it may move, bool and shaped like the block, or None for everywhere.

    Raises:
        ValueError: the weight, how far the energy fell, and where it is without the negated parts.
    """
    modules = modules_of(energy)
    negations = negations_in(modules)
    if not negations or not sum(x.numel() for x in state):
        return
    with in_mode(modules, "eval"):
        rays = Rays(energy, state, kwargs, precisions, masks)
        directions = rays.lowest()
        energies, falls = rays.along(directions)
        if not falls.any():
            return
        with _left_out(negations):
            without, also_fall = rays.along(directions)
            if also_fall.any() or rays.along(rays.lowest())[1].any():
                return
    noise = 100 * torch.finfo(energies.dtype).eps * without[-1].abs()
    falls &= energies[-1] < energies[-2] - noise
    if falls.any():
        ray = int(falls.nonzero()[0])
        weights = " and ".join(f"{part.weight:g}" for part in negations)
        raise ValueError(
            "negate: weight must be small enough that energy - weight * by is bounded below, got weight "
            f"{weights}: along a ray the energy falls to {energies[-1, ray]:.3g}, while without the negated part it "
            f"is at {without[-1, ray]:.3g}; a smaller weight, or a box (clamp=, reflect=) holds the chain"
        )


def negations_in(modules: Sequence[nn.Module]) -> list[Negate]:
    """Every negation that counts, once."""
    return list(dict.fromkeys(part for part in modules if isinstance(part, Negate) and part.weight))


class _Here(threading.local):
    """The negated experts that this thread leaves out of account."""

    left_out: Sequence[Negate] = ()


_here = _Here()


@contextmanager
def _left_out(negations: Sequence[Negate]) -> Iterator[None]:
    _here.left_out = negations
    try:
        yield
    finally:
        _here.left_out = ()


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        held = ["..."] * len(function.args) + [f"{key}=..." for key in function.keywords]
        return f"{_name(function.func)}({', '.join(held)})"
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module):
        return f"{type(owner).__name__}.{function.__name__}"
    return getattr(function, "__name__", type(function).__name__)
