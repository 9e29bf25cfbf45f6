"""A step looked at before and after it is captured: what no graph could repeat, and whether this one does."""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hatebm.energies.closure import first_difference, snapshot
from hatebm.engine.graphs.capture import allocated, room
from hatebm.engine.graphs.static_buffers import StaticBuffers
from hatebm.engine.graphs.static_step import Step

TOLERANCE = 1e-3  # of the way that a step went, or of what it saw: a backward pass may add in another order each time
AGAIN = 16  # how much less a step may allocate that makes images again which the loop keeps
WAITS, PROTOTYPE = "called a synchronizing CUDA operation", "Synchronization debug mode is a prototype"


def unrepeatable(step: Step, function: Callable, device: torch.device) -> str | None:
    """Take a step, and say what of it a graph could not repeat, or not as cheaply.

    A capture that fails leaves torch in need of repair, so that what can be seen beforehand is.
    """
    before, numbers, bytes_before = snapshot(function), random_states(device), allocated(device)
    with waits() as places:
        step()
    if places:
        return f"its evaluation waits for the device ({places[0]})"
    if name := first_difference(before, snapshot(function)):
        return f"its evaluation writes to what it reads ({name})"
    if any(not torch.equal(old, new) for old, new in zip(numbers, random_states(device), strict=True)):
        return "its evaluation draws random numbers"
    used = allocated(device) - bytes_before
    if used > room(device):
        return f"a step allocates {used / 2**30:.1f} GiB: its time is not that of launches"
    if used > room(device) // AGAIN and step.makes_images_again:
        return f"a step allocates {used / 2**20:.0f} MiB, and a replay would make each G(z) twice"
    return None


def random_states(device: torch.device) -> list[torch.Tensor]:
    """The generators that an evaluation may draw from."""
    version, words, _ = random.getstate()
    return [
        torch.tensor([version, *words], dtype=torch.int64, device="cpu"),
        torch.get_rng_state(),
        torch.cuda.get_rng_state(device),
    ]


@contextmanager
def waits() -> Iterator[list[str]]:
    """Where in between somebody waits for the device, as far as torch can tell: file and line."""
    places: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode(max(mode, 1))
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in heard:
        if WAITS in str(warning.message):
            places.append(f"{Path(warning.filename).name}:{warning.lineno}")
        elif PROTOTYPE not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def agrees(buffers: StaticBuffers, step: Step, replay: Callable[[], None]) -> bool:
    """Take a step and then again as a replay: whether both ended at one place; buffers are left as after the step."""
    moved, seen = buffers.written()
    written = [*moved, *seen]
    starts = [x.clone() for x in written]
    step()
    ends = [x.clone() for x in written]
    for x, start in zip(written, starts, strict=True):
        x.copy_(start)
    buffers.go_on(-1, step.tells)
    replay()
    ways = [end - start for start, end in zip(starts, ends, strict=True)]
    scales = [*ways[: len(moved)], *ends[len(moved) :]]
    same = all([_is_near(x, end, scale) for x, end, scale in zip(written, ends, scales, strict=True)])
    for x, end in zip(written, ends, strict=True):
        x.copy_(end)
    return same


def _is_near(x: torch.Tensor, end: torch.Tensor, scale: torch.Tensor) -> bool:
    got, wanted, scale = (v.nan_to_num(0, 0, 0) for v in (x, end, scale))
    broken = torch.equal(x.isnan(), end.isnan()) and torch.equal(x.isinf(), end.isinf())
    return broken and bool((got - wanted).norm() <= TOLERANCE * scale.norm())
