"""The numbers of a law at the steps of a run, in one tensor beside the state: what kernels and graphs read."""

from array import array
from typing import NamedTuple

import torch
from torch import Tensor

from hatebm.dynamics.fields import Schedule as Numbers
from hatebm.dynamics.fields import check_free, number_at
from hatebm.dynamics.law import Dynamics
from hatebm.ops.law_tensors import LawTensor


class Schedule(NamedTuple):
    """Row f of ``numbers`` is field f of the law, in the order of the kernels, at every step or for each chain."""

    numbers: Tensor  # (5, n_steps) or (5, n_steps, n) float32, expanded where steps are alike
    noisy: bool  # whether any noise_std may not be 0
    prior: bool  # whether any prior_precision may not be 0


def schedule_of(law: Dynamics, first: int, n_steps: int, most: float, like: Tensor) -> Schedule:
    """The numbers of steps from ``first`` on of a block ``like`` this, each at most ``most``."""
    steps = range(first, first + n_steps)
    step_size, noise_std, temperature, prior, bound = zip(*(law.at(t, most) for t in steps), strict=True)
    numbers = array("f")
    for row in (step_size, noise_std, [1.0 / t for t in temperature], prior, bound):
        numbers += array("f", row)
    table = torch.frombuffer(numbers, dtype=torch.float32).view(5, n_steps).to(like.device, non_blocking=True)
    return Schedule(table, any(noise_std), any(prior))


def schedule_in_tensors(law: Dynamics, first: int, n_steps: int, most: float, like: Tensor) -> Schedule:
    """The same where some numbers lie in tensors: all steps at once, in float64 as one step's are computed."""
    step_size, noise_std, temperature, prior, bound = _rows(law, first, n_steps, most, like.device)
    numbers = (step_size, noise_std, 1.0 / temperature, prior, bound)
    table = _table(numbers, n_steps, torch.float32)
    return Schedule(table if law.tells_chains_apart else table[:, :, 0], *law.flags())


def exact_schedule(law: Dynamics, first: int, n_steps: int, most: float, like: Tensor) -> Tensor:
    """step_size, noise_std, temperature, prior_precision and the clip's bound of a block, (5, n_steps, n or 1) float64.

    One row of steps where all have the same numbers.
    """
    device = like.device if law.is_in_tensors else torch.device("cpu")
    rows = _rows(law, first, n_steps, most, device)
    return _table(rows, n_steps if law.is_scheduled else 1, torch.float64)


def _rows(law: Dynamics, first: int, n_steps: int, most: float, device: torch.device) -> tuple[Tensor, ...]:
    """What a law has at steps from ``first`` on, each (steps or 1, n or 1) float64."""
    end = first + n_steps

    def rows(field: str, value: Numbers, *_: float) -> Tensor:
        if isinstance(value, LawTensor):
            return value.between(first, end).detach().to(device=device, dtype=torch.float64)
        steps = range(first, end) if isinstance(value, list) or callable(value) else (first,)
        known = [number_at(field, value, t, most) for t in steps]
        if field == "step_size" and law.noise_std is None:
            check_free(min(known))
        return torch.tensor(known, dtype=torch.float64, device=device)[:, None]

    *numbers, bound = law.at(first, most, rows)
    return *numbers, bound if isinstance(bound, Tensor) else torch.zeros_like(numbers[0])


def _table(rows: tuple[Tensor, ...], n_steps: int, dtype: torch.dtype) -> Tensor:
    """Rows as one tensor, (rows, n_steps, n or 1), expanded where steps are alike."""
    table = torch.stack(torch.broadcast_tensors(*rows))  # broadcast_shapes takes a second to import
    return table.to(dtype).expand(len(rows), n_steps, -1)
