"""The five numbers of a law at one step: floats, or tensors of one a chain, as the ops and their backends take them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hatebm.ops.checks import require
from hatebm.ops.law_tensors import LawTensor, is_hidden
from hatebm.ops.reference import ratio_coefficients
from hatebm.ops.scalars import LEARNED, checked_clip, checked_number, in_range

NUMBERS = ("step_size", "noise_std", "inverse_temperature", "prior_precision", "bound")  # in the order of the kernels
FLOATS = (float,) * 4
Number = float | LawTensor


def arguments_of(values: tuple[float | Tensor, ...], x: Tensor) -> dict[str, Any]:
    """The NUMBERS of a law as the backends take them: floats, or ``numbers``, (5, n) or (5, 1), like x.

    Tensors among ``values`` are (n,) or (). Beside ``numbers`` a float of 0 is 0 for all chains, and other floats say
    nothing.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return as_arguments(*values)
    columns = len(x) if any(value.dim() for value in tensors) else 1
    if torch.compiler.is_compiling() or any(value.requires_grad for value in tensors):
        numbers = torch.stack([as_column(value, columns, x.device) for value in values]).to(x.dtype)
    else:
        numbers = torch.empty(5, columns, dtype=x.dtype, device=x.device)
        for row, value in zip(numbers.unbind(), values, strict=True):
            row.copy_(value) if isinstance(value, Tensor) else row.fill_(value)
    return as_arguments(*[1.0 if isinstance(value, Tensor) else value for value in values], numbers)


def as_arguments(
    step_size: float,
    noise_std: float,
    inverse_temperature: float,
    prior_precision: float,
    bound: float,
    numbers: Tensor | None = None,
) -> dict[str, Any]:
    """The arguments by which every backend takes them."""
    return {
        "step_size": step_size,
        "noise_std": noise_std,
        "inverse_temperature": inverse_temperature,
        "prior_precision": prior_precision,
        "bound": bound,
        "numbers": numbers,
    }


def halves_of(noise_std: float | Tensor, prior_precision: float | Tensor, x: Tensor) -> Tensor | None:
    """What :func:`hatebm.ops.reference.langevin_ratio` multiplies by for each chain, (2, n); None where floats do."""
    if not isinstance(noise_std, Tensor) and not isinstance(prior_precision, Tensor):
        return None
    halves = ratio_coefficients(noise_std, prior_precision)
    return torch.stack([as_column(half, len(x), x.device) for half in halves])


def as_column(value: float | Tensor, n: int, device: torch.device) -> Tensor:
    """A number, or one for each of n chains, as (n,) float64."""
    value = value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float64, device=device)
    return value.to(device=device, dtype=torch.float64).expand(n)


def divided(number: float | Tensor, by: float | Tensor) -> float | Tensor:
    """The quotient of two numbers, infinite where the second is 0; torch would take a float times a reciprocal."""
    if isinstance(by, Tensor):
        return (number if isinstance(number, Tensor) else torch.full_like(by, number)) / by
    return number / by if by else math.inf


def least(number: float | Tensor) -> float:
    """A number, or the smallest of a tensor's."""
    return float(number.min()) if isinstance(number, Tensor) else number


def square_root(number: float | Tensor) -> float | Tensor:
    """The square root of a number, or of each of a tensor of float64, rounded as that of one."""
    if not isinstance(number, Tensor):
        return math.sqrt(number)
    root = number.sqrt()
    if not number.is_cpu or is_hidden(number):
        return root
    exact = torch.tensor([math.sqrt(v) for v in number.flatten().tolist()], dtype=torch.float64, device="cpu")
    return root + (exact.view_as(root) - root.detach())  # torch's own is not always correctly rounded


def checked_numbers_of_law(
    op: str,
    x: Tensor,
    most: float,
    step_size: Number,
    noise_std: Number | None,
    temperature: Number,
    prior_precision: Number,
    clip: tuple[str, Number] | None,
    ratio: bool = False,
) -> tuple[dict[str, Any], str | None]:
    """The numbers of a law of x's chains as a backend takes them, each at most ``most``, and the kind of its clip.

    A ``ratio`` wants noise that is not 0, and its own two coefficients.
    """
    own_bound = isinstance(clip, tuple) and len(clip) == 2 and isinstance(clip[1], LawTensor)
    if (
        not own_bound
        and _are_plain(most, step_size, noise_std, temperature, prior_precision)
        and not (ratio and noise_std == 0)
    ):
        noise_std = math.sqrt(2 * step_size) if noise_std is None else noise_std
        kind, bound = checked_clip(op, clip, most) or (None, 0.0)
        plain = as_arguments(
            float(step_size), float(noise_std), 1.0 / temperature, float(prior_precision), float(bound)
        )
        return plain | ({"halves": None} if ratio else {}), kind
    end = in_range(most)

    def number(name: str, value: Any, wanted: str, fits: Callable[[float], bool]) -> float | Tensor:
        return _checked(op, name, value, wanted, fits, x)

    signed, least = f"a finite number{end}", f"a finite number {'>' if ratio else '>='} 0{end}"
    if noise_std is None:
        free = number("step_size", step_size, "a number >= 0 when noise_std is left out", lambda v: 0 <= v < math.inf)
        noise_std = square_root(2 * free)
    else:
        noise_std = number("noise_std", noise_std, least, lambda v: (v > 0 if ratio else v >= 0) and v <= most)
    number("temperature", temperature, f"a finite number > 0{end}", lambda v: 0 < v <= most)
    held = f"so large that 1 / temperature is finite{end}"
    inverse = 1.0 / number("temperature", temperature, held, lambda v: 1.0 / v <= most)
    prior_precision = number("prior_precision", prior_precision, signed, lambda v: abs(v) <= most)
    step_size = number("step_size", step_size, signed, lambda v: abs(v) <= most)
    kind, bound = checked_clip(op, clip, most, number) or (None, 0.0)
    numbers = arguments_of((step_size, noise_std, inverse, prior_precision, bound), x)
    return numbers | ({"halves": halves_of(noise_std, prior_precision, x)} if ratio else {}), kind


def _are_plain(most: float, step_size: Any, noise_std: Any, temperature: Any, prior_precision: Any) -> bool:
    """Whether these are Python's numbers in their ranges, as they mostly are."""
    kinds = (type(step_size), type(temperature), type(prior_precision), float if noise_std is None else type(noise_std))
    return (
        (kinds == FLOATS or all([kind is float or kind is int for kind in kinds]))
        and -most <= step_size <= most
        and (0 <= noise_std <= most if noise_std is not None else step_size >= 0)
        and 0 < temperature <= most
        and 1.0 / temperature <= most
        and -most <= prior_precision <= most
    )


def _checked(op: str, name: str, value: Any, wanted: str, fits: Callable[[float], bool], x: Tensor) -> float | Tensor:
    if not isinstance(value, LawTensor):
        return float(checked_number(op, name, value, wanted, fits))
    tensor = value.tensor
    fitting = value.each and tensor.shape == (len(x),)
    require(fitting, op, name, f"a number, or hatebm.per_chain of shape ({len(x)},), one a chain", tensor)
    require(not tensor.requires_grad, op, name, LEARNED, tensor)
    value.check(op, name, wanted, fits)
    return tensor.to(device=x.device, dtype=torch.float64)
