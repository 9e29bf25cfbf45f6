"""The law of a chain as a value: what presets, configurations and checkpoints carry."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from hatebm.dynamics.fields import (
    CHECKS,
    LARGEST,
    NUMBERS,
    Schedule,
    TensorSchedule,
    check_free,
    check_number,
    check_tensor,
    is_per_block,
    is_zero,
    may_be_zero,
    number_at,
    numbers_of,
)
from hatebm.ops.checks import require
from hatebm.ops.law_numbers import square_root
from hatebm.ops.law_tensors import LawTensor
from hatebm.ops.scalars import checked_box, sides_of

Number = float | Tensor
Reading = Callable[[str, Any, int, float], Any]  # of the number of a field at a step, as number_at is
CONSTANT = (int, float, type(None))  # a tuple, which isinstance takes faster than a union


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """The law x <- clamp(x - step_size * clip(grad E / temperature + prior_precision * x) + noise_std * eps).

    A tuple gives one entry per block of the state. ``step_size``, ``noise_std``, ``eps`` and ``temperature`` take a
    number or a schedule: a list, a 1-D tensor or a callable, each indexed by the absolute step. They,
    ``prior_precision`` and the bound of a clip also take :func:`hatebm.per_chain` of (n,) or (steps, n), a number for
    each chain, and a learned number, a tensor () that asks for a gradient; a schedule may be learned too, (steps,).
    What is learned, and per_chain's, is kept as it is and read at each run; NumPy's numbers and arrays and other
    tensors are kept as Python's numbers and lists. Laws are equal where all that they hold is, tensors where they are
    the same. A block, or a chain, whose step and noise are 0 is frozen and not clamped, but in steps that learn them.

    Args:
        step_size: factor of the gradient; required, unless ``eps`` is given.
        noise_std: standard deviation of the noise; default sqrt(2 * step_size), 0 is gradient descent.
        eps: shorthand for step_size = eps^2 / 2 and noise_std = eps.
        temperature: divides the energy, so that exp(-E / temperature) is sampled.
        prior_precision: adds prior_precision * x to the gradient, after the temperature and before the clip.
        noise_at: "after" the gradient step, or "before" the gradient is taken (Du & Mordatch 2019).
        add: order of rounding: "sequential" (x - s g) + n, "increment" x + (n - s g), or "fma".
        clip: ("value", c) elementwise, ("norm", c) for the L2 norm of each sample, or None.
        clip_on: what is clipped: the "grad", or the "update" step_size * grad.
        clamp: box (low, high) or None.
        clamp_at: after each "step"; after the noise too ("noise+step", needs noise_at="before"); or "final": only
            what a run returns.
        reflect: box (low, high) whose walls fold a move back inside, in place of a clamp that stops it there; when,
            says clamp_at.
        friction: None is overdamped; gamma > 0 gives each element a velocity v that keeps exp(-gamma * noise_std) of
            itself: v <- a v + sqrt(1 - a^2) eps, then a leapfrog step of length noise_std (Horowitz 1991). With
            gamma = inf the law is the overdamped one.
        blocks: "joint": all blocks move from one gradient; "sequential": block k sees blocks < k already moved.

    Raises:
        TypeError, ValueError: naming the field, what was wanted and what came.
    """

    step_size: Schedule | tuple[Schedule, ...] | None = None
    noise_std: Schedule | tuple[Schedule | None, ...] | None = None
    eps: Schedule | tuple[Schedule, ...] | None = None
    temperature: Schedule | tuple[Schedule, ...] = 1.0
    prior_precision: float | LawTensor | Tensor | tuple[float | LawTensor | Tensor, ...] = 0.0
    noise_at: str | tuple[str, ...] = "after"
    add: str | tuple[str, ...] = "sequential"
    clip: Any = None
    clip_on: str | tuple[str, ...] = "grad"
    clamp: Any = None
    clamp_at: str | tuple[str, ...] = "step"
    reflect: Any = None
    friction: float | tuple[float, ...] | None = None
    blocks: str = "joint"

    def __post_init__(self) -> None:
        for name, checked in CHECKS.items():
            value = getattr(self, name)
            per_block = is_per_block(name, value)
            plain_value = tuple(checked(name, entry) for entry in value) if per_block else checked(name, value)
            object.__setattr__(self, name, plain_value)
        counts = {len(value) for _, value in self._per_block()}
        require(
            len(counts) <= 1 and 0 not in counts,
            "Dynamics",
            "tuples",
            "one entry per block in every field",
            sorted(counts),
        )
        for part in [self] if not counts else [self._entry(k) for k in range(counts.pop())]:
            part._check()

    def __hash__(self) -> int:
        return hash(tuple(_hashable(value) for _, value in self._values()))

    @property
    def is_scheduled(self) -> bool:
        """Whether one block's numbers may be others at another step."""
        steady = [
            isinstance(v, CONSTANT) or (isinstance(v, LawTensor) and v.n_steps is None) for _, v in self.numbers()
        ]
        return False in steady

    @property
    def is_in_tensors(self) -> bool:
        """Whether a number of one block lies in a tensor."""
        return LawTensor in [type(value) for _, value in self.numbers()]

    def tensors(self) -> list[tuple[str, LawTensor]]:
        """Which numbers of one block lie in tensors, with the names of their fields."""
        return [(name, value) for name, value in self.numbers() if isinstance(value, LawTensor)]

    def numbers(self) -> list[tuple[str, Schedule | None]]:
        """The fields of one block that are numbers, and the bound of its clip under the name of "clip"."""
        numbers = [(name, getattr(self, name)) for name in NUMBERS]
        return numbers if self.clip is None else [*numbers, ("clip", self.clip[1])]

    def for_blocks(self, count: int) -> tuple["Dynamics", ...]:
        """The law of each of ``count`` blocks."""
        per_block = self._per_block()
        for name, value in per_block:
            require(len(value) == count, "Dynamics", name, f"a tuple of {count} entries, one per block", value)
        return tuple(self._entry(k) for k in range(count)) if per_block else (self,) * count

    def for_chains(self, rows: slice | Tensor) -> "Dynamics":
        """The law of some chains of a state, named as an index of the state names them.

        Raises:
            TypeError: rows that are neither a slice nor a tensor, and leave no chain dimension.
        """
        require(isinstance(rows, slice | Tensor), "for_chains", "rows", "a slice or a tensor", rows, TypeError)
        return self._mapped(lambda value: value.of_chains(rows) if isinstance(value, LawTensor) else value)

    def of_steps(self, first: int, end: int) -> "Dynamics":
        """This law with no more rows in tensors than those of some steps: what a run is about to read."""
        return self._mapped(lambda value: value.of_steps(first, end) if isinstance(value, LawTensor) else value)

    def at(self, t: int, most: float = LARGEST, number: Reading = number_at) -> tuple[Any, ...]:
        """step_size, noise_std, temperature, prior_precision and the clip's bound of one block at step t.

        Each is at most ``most``, and made of what ``number`` reads of a field.
        """
        bound = 0.0 if self.clip is None else number("clip", self.clip[1], t, most)
        temperature, prior_precision = self.temperature, self.prior_precision
        if number is not number_at or type(temperature) is not float or type(prior_precision) is not float:
            temperature = number("temperature", temperature, t, most)
            prior_precision = number("prior_precision", prior_precision, t, most)
        if self.eps is not None:
            eps = number("eps", self.eps, t, most)
            return eps * eps / 2, eps, temperature, prior_precision, bound
        step_size = number("step_size", self.step_size, t, most)
        if self.noise_std is not None:
            return step_size, number("noise_std", self.noise_std, t, most), temperature, prior_precision, bound
        if not isinstance(step_size, Tensor):
            check_free(step_size)
        return step_size, square_root(2 * step_size), temperature, prior_precision, bound

    def moves_at(self, t: int, most: float) -> bool:
        """Whether the one block moves at step t, as far as that is known without a look at tensors."""
        noise = () if self.noise_std is None else (self.noise_std,)
        if any(isinstance(value, LawTensor) for value in (self.eps, self.step_size, *noise)):
            return True
        return do_move(*self.at(t, most)[:2])

    def flags(self) -> tuple[bool, bool]:
        """Whether any noise of one block, and any prior, may not be 0 at a step."""
        noise = self.noise_std if self.noise_std is not None else self.step_size if self.eps is None else self.eps
        return not is_zero(noise), not is_zero(self.prior_precision)

    @property
    def tells_chains_apart(self) -> bool:
        """Whether a number of one block is another for each chain."""
        return any(value.each for _, value in self.tensors())

    def may_rest(self) -> bool:
        """Whether step and noise of a chain of one block may both be 0 at a step."""
        still = may_be_zero(self.step_size if self.eps is None else self.eps)
        return still and (self.noise_std is None or may_be_zero(self.noise_std))

    def settings(self) -> dict[str, Any]:
        """What stays the same over the steps of one block, and for all chains, as the backends take it."""
        low, high = sides_of(self.clamp)
        clip = {"clip": None if self.clip is None else self.clip[0], "clip_on": self.clip_on}
        return clip | {"add": self.add, "low": low, "high": high}

    def check_range(self, most: float) -> None:
        """Raise unless each number of one block that is known is at most ``most``, or open where a wall may be."""
        for name, value in self.numbers():
            for number in numbers_of(value):
                check_number(name, number, most)
        for name in ("clamp", "reflect"):
            checked_box("Dynamics", name, getattr(self, name), most)

    def check_tensors(self, x: Tensor, most: float) -> None:
        """Raise unless what lies in tensors has numbers for the chains of x that are at most ``most``."""
        for name, value in self.tensors():
            wanted = f"numbers for {len(x)} chains, (n,) or (steps, n)"
            require(value.n in (None, len(x)), "Dynamics", name, wanted, value.tensor)
            require(x.is_meta or not value.tensor.is_meta, "Dynamics", name, "numbers that can be read", value.tensor)
            check_tensor(name, value, most)
        if isinstance(self.step_size, LawTensor) and self.noise_std is None:
            for number in self.step_size.ends() or ():
                check_free(number)

    def check_length(self, end: int, n: int) -> None:
        """Raise unless every schedule that is a list or a tensor reaches step ``end`` - 1.

        One that was a tensor with an entry for each of n chains, and more than there are steps, was hardly meant so.
        """
        for name, value in self.numbers() if self.is_scheduled else ():
            known = value.n_steps if isinstance(value, LawTensor) else len(value) if isinstance(value, list) else None
            if known is None:
                continue
            wanted = f"a schedule of at least {end} entries: it is indexed by the absolute step"
            each = isinstance(value, LawTensor) and value.each
            hint = f", not by the chain (a number a chain is hatebm.per_chain(tensor), ({n},) or (steps, {n}))"
            require(known >= end, "Dynamics", name, wanted + ("" if each else hint), f"{known} entries")
            bare = isinstance(value, TensorSchedule) or (isinstance(value, LawTensor) and not each)
            doubtful = bare and known == n > end
            text = f"hatebm.per_chain(tensor) for a number a chain, or a list for one a step beyond step {end}"
            require(not doubtful, "Dynamics", name, text, f"a tensor of {n} entries for {n} chains")

    def _values(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in FIELDS]  # vars(self) is opaque to torch 2.10 when it compiles

    def _per_block(self) -> list[tuple[str, tuple]]:
        tuples = [(name, value) for name, value in self._values() if isinstance(value, tuple)]
        return [(name, value) for name, value in tuples if is_per_block(name, value)]

    def _entry(self, k: int) -> "Dynamics":
        entry = object.__new__(Dynamics)
        for name, value in self._values():
            object.__setattr__(entry, name, value[k] if is_per_block(name, value) else value)
        return entry

    def _mapped(self, function: Callable[[Any], Any]) -> "Dynamics":
        """The same with ``function`` of each entry of each field, and of the bounds of its clips."""

        def mapped(value: Any) -> Any:
            return tuple(map(mapped, value)) if isinstance(value, tuple) else function(value)

        law = object.__new__(Dynamics)
        for name, value in self._values():
            object.__setattr__(law, name, mapped(value))
        return law

    def _check(self) -> None:
        """What the fields of one block have to do with one another."""
        name = "Dynamics"
        one = (self.step_size is None) != (self.eps is None)
        require(one, name, "step_size", "given, or eps instead", self.step_size)
        require(self.eps is None or self.noise_std is None, name, "noise_std", "left out beside eps", self.noise_std)
        require(self.reflect is None or self.clamp is None, name, "reflect", "left out beside clamp", self.reflect)
        smooth = self.friction is None or self.noise_at == "after"
        require(smooth, name, "noise_at", "'after' with friction", self.noise_at)
        fits = self.clamp_at != "noise+step" or self.noise_at == "before"
        require(fits, name, "clamp_at", "'step' or 'final' unless noise_at='before'", self.clamp_at)


def do_move(step_size: Number, noise_std: Number) -> bool:
    """Whether a block moves, as far as that is known without a look at tensors."""
    return isinstance(step_size, Tensor) or isinstance(noise_std, Tensor) or step_size != 0 or noise_std != 0


def _hashable(value: Any) -> Any:
    """The value, or its entries, where it is or holds lists."""
    return tuple(map(_hashable, value)) if isinstance(value, tuple | list) else value


FIELDS = tuple(field.name for field in fields(Dynamics))
