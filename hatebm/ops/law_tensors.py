"""Numbers of a law in tensors: one for each chain, or learned ones."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hatebm.ops.checks import check_dense, describe, require
from hatebm.ops.scalars import plain

SHAPES = "(n,) or (steps, n), a number for each chain"


def per_chain(numbers: Any) -> "LawTensor":
    r"""Numbers of a law, one for each chain: (n,), or (steps, n) with a row for each step.

    It stands where a field of :class:`hatebm.Dynamics` takes a float, and in :func:`hatebm.ops.langevin_step_` (n,):
    chain c then has the bits that it has alone with ``numbers[c]``. Entries go by position in the state, as
    ``chain_ids`` do, and rows by the absolute step, as a schedule does.

    Args:
        numbers: a tensor, an array or a list of real numbers. A tensor is read when a run begins, so that a number
            changed in place between runs is seen (not one that a callback changes); one that asks for a gradient gets
            it from the steps that keep their graph.

    Raises:
        TypeError, ValueError: naming what was wanted and what came.
    """
    name = "per_chain"
    check_listed(name, "numbers", numbers)
    if not isinstance(numbers, Tensor):
        try:
            numbers = torch.tensor(plain(numbers), dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError, OverflowError):
            require(False, name, "numbers", f"a tensor of shape {SHAPES}", numbers, TypeError)
    check_dense(name, "numbers", numbers)
    real = not (numbers.is_complex() or numbers.dtype == torch.bool)
    require(real, name, "numbers", "real numbers", numbers, TypeError)
    require(numbers.dim() in (1, 2), name, "numbers", f"of shape {SHAPES}", numbers)
    return LawTensor(numbers, each=True)


class LawTensor:
    """Numbers of a law in a tensor, kept as it is: (n,) or (steps, n) of ``each`` chain, () or (steps,) of all.

    Two are equal where they are the same numbers in the same memory: what a learner or a caller changes in place stays
    equal to itself, and is never taken for another's.
    """

    def __init__(self, tensor: Tensor, each: bool) -> None:
        self.tensor, self.each = tensor, each

    @property
    def n(self) -> int | None:
        """How many chains it has numbers for; None where they are one for all."""
        return self.tensor.shape[-1] if self.each else None

    @property
    def n_steps(self) -> int | None:
        """How many steps it has numbers for; None where they are the same at every step."""
        return self.tensor.shape[0] if self.tensor.dim() > self.each else None

    def at(self, t: int) -> Tensor:
        """The numbers of step t, (n,) or ()."""
        return self.tensor if self.n_steps is None else self.tensor[t]

    def between(self, first: int, end: int) -> Tensor:
        """The numbers of steps from ``first`` to before ``end``, (steps or 1, n or 1)."""
        rows = self.tensor[None] if self.n_steps is None else self.tensor[first:end]
        return rows if self.each else rows[:, None]

    def of_steps(self, first: int, end: int) -> "LawTensor":
        """The numbers of some steps."""
        return self if self.n_steps is None else LawTensor(self.tensor[first:end], self.each)

    def of_chains(self, rows: slice | Tensor) -> "LawTensor":
        """The numbers of some chains, named as an index of their state names them."""
        return LawTensor(self.tensor[..., rows], True) if self.each else self

    def ends(self) -> tuple[float, float] | None:
        """The smallest and the largest number, NaN where one is; None where nobody can look at them."""
        if is_hidden(self.tensor) or not self.tensor.numel():
            return None
        low, high = self._distinct().aminmax()
        return low.item(), high.item()

    def has_zero(self) -> bool:
        """Whether one of them is 0, or nobody can tell."""
        ends = self.ends()
        return ends is None or (ends[0] <= 0 <= ends[1] and bool((self._distinct() == 0).any()))

    def check(self, op: str, name: str, wanted: str, fits: Callable[[float], bool]) -> None:
        """Raise unless ``fits``, which holds on an interval, holds for every number."""
        for end in self.ends() or ():
            require(fits(end), op, name, wanted, end)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LawTensor":
        computed = self.tensor.requires_grad and not self.tensor.is_leaf  # of which torch makes no copy
        return LawTensor(self.tensor if computed else copy.deepcopy(self.tensor, memo), self.each)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LawTensor):
            return NotImplemented
        return self.each == other.each and _are_one(self.tensor, other.tensor)

    def __hash__(self) -> int:
        return hash((self.each, tuple(self.tensor.shape)))

    def __repr__(self) -> str:
        ends = self.ends()
        spread = "" if ends is None else f" from {ends[0]:.6g} to {ends[1]:.6g}"
        return f"{'per_chain' if self.each else 'learned'}({describe(self.tensor)}{spread})"

    def _distinct(self) -> Tensor:
        """The numbers once each where a tensor was expanded, which reductions would write out."""
        tensor = self.tensor.detach()
        for dim in range(tensor.dim()):
            tensor = tensor.narrow(dim, 0, 1) if tensor.stride(dim) == 0 else tensor
        return tensor


def _are_one(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same memory, learned by both or by neither."""
    if a is b:
        return True
    if is_hidden(a) or is_hidden(b) or a.device != b.device:
        return False
    views = [(v.data_ptr(), v.shape, v.stride(), v.dtype, v.is_neg(), v.requires_grad) for v in (a, b)]
    return views[0] == views[1]


def check_listed(op: str, name: str, values: Any) -> None:
    """Raise where learned numbers come one by one: no gradient would reach them."""
    listed = values if isinstance(values, list | tuple | torch.nn.ParameterList) else ()
    learned = any(isinstance(value, Tensor) and value.requires_grad for value in listed)
    require(not learned, op, name, "one tensor where numbers are learned, torch.stack of them", values)


def is_hidden(tensor: Tensor) -> bool:
    """Whether nobody can look at the numbers: they are traced, or have no data."""
    return torch.compiler.is_compiling() or tensor.is_meta or type(tensor) not in (Tensor, torch.nn.Parameter)
