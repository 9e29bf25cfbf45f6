"""Numbers at the door: Python's, NumPy's and tensors without dimensions, all taken as Python's own."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from hatebm.ops.checks import CHAINS, STEPS, is_dense, require

FLOAT32 = torch.finfo(torch.float32).max
OPEN = {"low": -math.inf, "high": math.inf}  # a box without walls, as the backends take it
PYTHONS = (bool, int, float, str, list, tuple, dict, type(None), torch.Size)
ONE = "one number for all chains and elements"
LISTED = "a list, a tuple or a 1-D tensor of numbers"
LEARNED = "a number without a graph (no gradient would reach it)"


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays, and tensors, of at most one dimension as Python's numbers and lists; else the value.

    A tensor with a graph, or without numbers that can be read, stays a tensor.
    """
    if type(value) in PYTHONS:
        return value
    if isinstance(value, Tensor):
        return value.tolist() if value.dim() < 2 and _is_readable(value) else value
    return value.tolist() if _is_array(value) and len(value.shape) < 2 else value


def _is_array(value: Any) -> bool:
    """Whether this is NumPy's, without NumPy."""
    return hasattr(type(value), "__array_interface__") and hasattr(type(value), "tolist")


def _is_readable(tensor: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return not tensor.requires_grad
    own = type(tensor) in (Tensor, torch.nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return own and is_dense(tensor) and not (tensor.is_meta or tensor.requires_grad)


def as_number(value: Any) -> int | float | None:
    """The number that a value is, infinite where it is beyond all floats; None where it is none."""
    if type(value) is float:
        return value
    found = plain(value)
    if not isinstance(found, Real) or isinstance(found, bool):
        return None
    try:
        nearest = float(found)
    except OverflowError:
        return math.inf if found > 0 else -math.inf
    return found if type(found) is int else nearest


def checked_number(
    op: str, name: str, value: Any, wanted: str = "a finite number", fits: Callable[[float], bool] = math.isfinite
) -> int | float:
    """A number for which ``fits`` holds, as an int or a float of Python's."""
    if type(value) is float and fits(value):
        return value
    check_unlearned(op, name, value)
    found = as_number(value)
    several = isinstance(value, Tensor) or _is_array(value)
    require(found is not None, op, name, ONE if several else "a number", value, TypeError)
    require(fits(found), op, name, wanted, value)
    return found


def checked_numbers(
    op: str, name: str, values: Any, wanted: str = "finite", fits: Callable[[float], bool] = math.isfinite
) -> list[int | float]:
    """A list, a tuple or a one-dimensional tensor or array of such numbers, as a list."""
    check_unlearned(op, name, values)
    listed = plain(values)
    require(isinstance(listed, list | tuple), op, name, LISTED, values, TypeError)
    return [checked_number(op, name, value, wanted, fits) for value in listed]


def check_unlearned(op: str, name: str, value: Any) -> None:
    """Refuse a tensor whose graph would be cut."""
    require(not (isinstance(value, Tensor) and value.requires_grad), op, name, LEARNED, value)


def as_whole(value: Any) -> int | None:
    """The integer that a value is; None where it is none."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    found = value if isinstance(value, int) else plain(value)
    return int(found) if isinstance(found, Integral) and not isinstance(found, bool) else None


def checked_whole(op: str, name: str, value: Any, wanted: str, low: int, high: int | None = None) -> int:
    """An integer in [low, high), as an int of Python's; a fraction is a wrong value, all else a wrong type."""
    if type(value) is int and low <= value and (high is None or value < high):
        return value
    found = as_whole(value)
    if found is None:
        require(False, op, name, wanted, value, TypeError if as_number(value) is None else ValueError)
    require(low <= found and (high is None or found < high), op, name, wanted, value)
    return found


def checked_flag(op: str, name: str, value: Any) -> bool:
    """True or False, or 1 or 0."""
    found = plain(value)
    require(isinstance(found, int) and found in (0, 1), op, name, "True or False", value, TypeError)
    return bool(found)


def checked_shape(op: str, name: str, shape: Any, wanted: str, most: int) -> tuple[int, ...]:
    """Sizes, each from 0 to ``most``, as Python's own."""
    listed = plain(shape)
    require(isinstance(listed, list | tuple), op, name, wanted, shape, TypeError)
    return tuple(checked_whole(op, name, size, wanted, 0, most + 1) for size in listed)


def checked_clip(
    op: str, clip: Any, most: float = math.inf, number: Callable[..., Any] | None = None
) -> tuple[str, Any] | None:
    """A clip as (kind, bound), or None; a bound is at most ``most``, or infinite, and what ``number`` makes of it."""
    if clip is None:
        return None
    wanted = "('value', c) or ('norm', c) with a number c > 0" + in_range(most)
    pair = isinstance(clip, tuple) and len(clip) == 2 and isinstance(clip[0], str) and clip[0] in ("value", "norm")
    require(pair, op, "clip", wanted, clip)
    asked = ("clip", clip[1], wanted, lambda bound: bound > 0 and _is_wall(bound, most))
    return clip[0], checked_number(op, *asked) if number is None else number(*asked)


def checked_box(op: str, name: str, box: Any, most: float = math.inf) -> tuple[float | None, float | None] | None:
    """A box as (low, high), or None; None for one side leaves it open; a side is at most ``most``, or infinite."""
    if box is None:
        return None
    wanted = "(low, high), two numbers with low <= high" + in_range(most)
    check_unlearned(op, name, box)
    sides = plain(box)
    require(isinstance(sides, tuple | list), op, name, wanted, box, TypeError)
    require(len(sides) == 2, op, name, wanted, box)
    low, high = (v if v is None else checked_number(op, name, v, wanted, lambda v: _is_wall(v, most)) for v in sides)
    ordered = low is None or high is None or low <= high
    require(ordered, op, name, wanted, box)
    return low, high


def checked_interval(op: str, name: str, box: Any) -> tuple[float, float]:
    """A box (low, high) of two finite floats that float32 tells apart by a finite number."""
    wanted = "(low, high), finite in the range of float32, with low < high"
    sides = checked_numbers(op, name, box, wanted, lambda side: abs(side) <= FLOAT32)
    require(len(sides) == 2 and 0 < sides[1] - sides[0] <= FLOAT32, op, name, wanted, box)
    return float(sides[0]), float(sides[1])


def sides_of(box: tuple[float | None, float | None] | None) -> tuple[float, float]:
    """The sides of a box as floats, infinite where it is open."""
    low, high = box or (None, None)
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def largest(dtype: torch.dtype) -> float:
    """The largest number of the type in which a state of this type is computed."""
    return FLOAT32 if dtype == torch.float32 else torch.finfo(dtype).max


def _is_wall(side: float, most: float) -> bool:
    return abs(side) <= most or math.isinf(side)


def in_range(most: float) -> str:
    """How a message says that ``most`` bounds a number."""
    return " in the range of float32" if most == FLOAT32 else ""


def checked_draw(
    op: str, seed: int | Tensor, step: int | Tensor, block: int, purpose: int, device: torch.device
) -> tuple[int | Tensor, int | Tensor]:
    """Seed, modulo 2^64 into the range of an int64, and step."""
    seed = _checked_place(op, "seed", seed, -(1 << 63), 1 << 64, device)
    step = _checked_place(op, "step", step, 0, STEPS, device)
    checked_whole(op, "block", block, "in [0, 256)", 0, 256)
    checked_whole(op, "purpose", purpose, "in [0, 256)", 0, 256)
    wraps = not isinstance(seed, Tensor) and seed >= 1 << 63
    return seed - (1 << 64) if wraps else seed, step


def _checked_place(op: str, name: str, value: Any, low: int, high: int, device: torch.device) -> int | Tensor:
    if type(value) is int and low <= value < high:
        return value
    if isinstance(value, Tensor):
        fits = value.dtype == torch.int64 and value.numel() == 1 and value.device == device and is_dense(value)
        require(fits, op, name, f"an int or a one-element int64 tensor on {device}", value)
        return value
    found = as_whole(value)
    require(found is not None, op, name, "an int or a one-element int64 tensor", value, TypeError)
    require(low <= found < high, op, name, f"in [{low}, {high})", value)
    return found


def checked_chain_ids(op: str, ids: Any, n: int, device: torch.device) -> Tensor | None:
    """Chain ids as an int64 tensor on ``device``, or None for 0..n-1."""
    if ids is None:
        return None
    integers, shape, place = "integers, one id a chain", f"shape ({n},), one id a chain", "ids in [0, 2^40)"
    if not isinstance(ids, Tensor):
        listed = plain(ids)
        sequence = isinstance(listed, Sequence) and not isinstance(listed, str | bytes)
        require(sequence, op, "chain_ids", integers, ids, TypeError)
        require(len(listed) == n, op, "chain_ids", shape, ids)
        whole = [as_whole(value) for value in listed]
        require(None not in whole, op, "chain_ids", integers, ids, TypeError)
        require(all(0 <= value < CHAINS for value in whole), op, "chain_ids", place, ids)
        ids = torch.tensor(whole, dtype=torch.int64, device="cpu")
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    require(whole and is_dense(ids), op, "chain_ids", integers, ids, TypeError)
    ids = ids.long()
    require(ids.shape == (n,), op, "chain_ids", shape, ids)
    if n and not (torch.compiler.is_compiling() or ids.is_meta):
        low, high = (int(v) for v in ids.aminmax())
        require(low >= 0 and high < CHAINS, op, "chain_ids", place, f"values from {low} to {high}")
    return ids.to(device).contiguous()
