"""A replay buffer: the states that persistent chains go on from."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hatebm.ops.checks import ELEMENTS, check_device, checked_choice, is_dense, require
from hatebm.ops.noise import Purpose, uniform, words
from hatebm.ops.scalars import (
    as_number,
    checked_draw,
    checked_interval,
    checked_number,
    checked_shape,
    checked_whole,
    plain,
)
from hatebm.sampling.cells import from_cells, in_box, to_cells
from hatebm.sampling.slots import DITHER, REPLACEMENTS, START, STARTED, below, last_rows, slots_of_new

STORAGES = (torch.uint8, torch.float32)
SEEN = 1 << 31  # below it, a 32-bit word times a number fits in an int64


class ReplayBuffer:
    r"""States of persistent chains: each draw is, with probability 1 - reinit, one that was pushed before.

    Bytes hold floor(256 (x - low) / (high - low)), clipped to 0..255, and are read back anywhere in their cell, so that
    a mean stays what it was however often a state is stored and read, see :func:`hatebm.sampling.cells.from_cells`.
    Every random number is a function of (seed, step, row): the same call on the same contents gives the same bits, and
    the first rows of a draw do not depend on how many follow.

    A state of several blocks takes a buffer for each, all with one seed: they then draw the same slots (give all but
    one an ``init``, since fresh starts share their numbers too). Processes with a buffer each take a seed each.

    Args:
        capacity: number of slots, in [1, 2^31).
        shape: shape of one sample, without the leading chain dimension.
        storage: torch.uint8, or torch.float32, which keeps the bits and clips nothing.
        box: (low, high) of the values: fresh starts fill it, and bytes hold nothing outside of it (values are clipped).
        replacement: where a new state goes when all slots are filled: "ring", the oldest slot (IGEBM); "uniform", a
            random slot; "reservoir", so that every state ever pushed is still there with probability capacity / seen.
        seed: 64-bit seed of all that is drawn.
        device: where the states lie.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.

    Source: Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood gradient" (2008);
    Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), section 3.1; the reservoir is
    Vitter's "Random sampling with a reservoir" (1985), algorithm R.
    """

    def __init__(
        self,
        capacity: int,
        shape: Sequence[int],
        *,
        storage: torch.dtype = torch.uint8,
        box: tuple[float, float] = (0.0, 1.0),
        replacement: str = "ring",
        seed: int,
        device: torch.device | str | None = None,
    ) -> None:
        name = "ReplayBuffer"
        self.capacity = checked_whole(name, "capacity", capacity, "an integer in [1, 2^31)", 1, SEEN)
        self.shape = checked_shape(name, "shape", shape, "the sizes of one sample", ELEMENTS - 1)
        known = isinstance(storage, torch.dtype) and storage in STORAGES
        require(known, name, "storage", "torch.uint8 or torch.float32", storage)
        checked_choice(name, "replacement", replacement, REPLACEMENTS)
        self.box, self.replacement = checked_interval(name, "box", box), replacement
        self.seed = _checked_seed(name, seed)
        require(math.prod(self.shape) < ELEMENTS, name, "shape", "fewer than 2^34 elements", shape)
        check_device(name, device)
        self.seen = 0
        with torch.inference_mode(False):
            here = torch.get_default_device() if device is None else device
            self._states = torch.empty(self.capacity, *self.shape, dtype=storage, device=here)
        self._labels: Tensor | None = None

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    @property
    def device(self) -> torch.device:
        """Where the states lie."""
        return self._states.device

    @property
    def storage(self) -> torch.dtype:
        """What the states are kept as."""
        return self._states.dtype

    def draw(
        self,
        n: int,
        step: int | Tensor,
        *,
        reinit: float = 0.05,
        labels: Tensor | None = None,
        init: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        r"""Starts for n chains: (x, labels, slots), x float32 (n, \*shape), uniform among the filled slots or fresh.

        Args:
            n: how many.
            step: index of the draw, in [0, 2^40): another draw is another step.
            reinit: probability of a fresh start, each row on its own; an empty buffer gives fresh starts alone.
            labels: int64 (n, \*label), the labels of the rows that start afresh. Wanted where the buffer holds labels
                (unless reinit is 0), refused where it holds states without.
            init: gives the fresh starts of the rows with these indices, int64 (m,) to (m, \*shape), in place of
                U(low, high): ``init=starts.__getitem__``, or noise that takes the indices as ``chain_ids``. Not called
                when no row starts afresh.

        Returns:
            x; the label of each row, kept with its state, or None where there are no labels; and the slot that each
            row was read from, int64 (n,), -1 for a fresh start.

        Raises:
            TypeError, ValueError: naming the argument, what was wanted and what came.
        """
        name = "draw"
        n = checked_whole(name, "n", n, "an integer in [0, 2^31)", 0, SEEN)
        reinit = checked_number(name, "reinit", reinit, "a number in [0, 1]", lambda share: 0 <= share <= 1)
        require(init is None or callable(init), name, "init", "callable", init, TypeError)
        self._check_labels(name, labels, n, wanted=reinit > 0)
        place = self._place(name, step)
        choice, chance = words((n, 2), block=STARTED, **place).unbind(1)
        fresh = chance < round(reinit * 2**32)
        slots = torch.where(fresh, -1, below(choice, len(self))) if len(self) else torch.full_like(choice, -1)
        rows, held = (slots < 0).nonzero().flatten(), slots.clamp(min=0)
        x = self._read(held, place)
        if len(rows):
            x[rows] = self._fresh(rows, place, init)
        if self._labels is None:
            return x, None if labels is None else labels.clone(), slots
        kept = self._labels[held]
        if labels is not None:
            kept[rows] = labels[rows]
        return x, kept, slots

    def push(
        self,
        x: Tensor,
        step: int | Tensor,
        *,
        labels: Tensor | None = None,
        slots: Tensor | None = None,
    ) -> None:
        r"""Keep the states x, in the order of their rows, as if each were pushed alone.

        Args:
            x: (n, \*shape), float32 or float64, finite; its graph is left behind.
            step: index of the push, in [0, 2^40): where "uniform" and "reservoir" find their numbers.
            labels: int64 (n, \*label), for every push or for none.
            slots: (n,) what :meth:`draw` returned: each state goes back to the slot that it came from (JEM), and one
                that started afresh (-1) is a new state, placed by ``replacement``. Default: all are new.

        Raises:
            TypeError, ValueError: naming the argument, what was wanted and what came; the buffer is left as it was.
        """
        name = "push"
        self._check_states(name, "x", x)
        self._check_labels(name, labels, len(x), wanted=True)
        slots = self._checked_slots(slots, len(x))
        place = self._place(name, step)
        new = slots < 0
        n_new = int(new.sum())
        require(self.seen + n_new < SEEN, name, "x", "fewer than 2^31 states in all", self.seen + n_new)
        slots = torch.where(new, slots_of_new(new, self.seen, self.capacity, self.replacement, place), slots)
        rows = last_rows(slots)
        if labels is not None:
            self._labels = self._room_for(labels) if self._labels is None else self._labels
            self._labels[slots[rows]] = labels[rows]
        self._states[slots[rows]] = self._stored(x.detach())[rows]
        self.seen += n_new

    def state_dict(self) -> dict[str, Any]:
        """The filled slots, their labels if there are any, and numbers; loads with ``weights_only=True``."""
        low, high = self.box
        numbers = {"capacity": self.capacity, "low": low, "high": high, "seen": self.seen, "seed": self.seed}
        labels = {} if self._labels is None else {"labels": self._labels[: len(self)].clone()}
        return {"states": self._states[: len(self)].clone(), **labels, **numbers}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            TypeError, ValueError: naming what does not fit this buffer, which is left as it was.
        """
        name = "load_state_dict"
        wanted = set(self.state_dict()) - {"labels"}
        require(isinstance(saved, dict), name, "saved", f"a dict of {sorted(wanted)}", saved, TypeError)
        require(set(saved) - {"labels"} == wanted, name, "saved", f"a dict of {sorted(wanted)}", list(saved))
        for key, own in (("capacity", self.capacity), ("low", self.box[0]), ("high", self.box[1])):
            require(as_number(saved[key]) == own, name, key, f"{own} like the buffer's", saved[key])
        seed = _checked_seed(name, saved["seed"])
        seen = checked_whole(name, "seen", saved["seen"], "an integer in [0, 2^31)", 0, SEEN)
        states, labels = saved["states"], saved.get("labels")
        n = min(seen, self.capacity)
        fits = _is_kept(states) and states.dtype == self.storage and states.shape == (n, *self.shape)
        require(fits, name, "states", f"a {self.storage} tensor of shape {(n, *self.shape)}", states)
        fits = labels is None or _are_labels(labels, n)
        require(fits, name, "labels", f"an int64 tensor of {n} labels", labels)
        self._labels = None if labels is None else self._room_for(labels)
        if labels is not None:
            self._labels[:n] = labels
        self._states[:n] = states
        self.seen, self.seed = seen, seed

    def _room_for(self, labels: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return torch.zeros(self.capacity, *labels.shape[1:], dtype=torch.int64, device=self.device)

    def _place(self, op: str, step: int | Tensor) -> dict[str, Any]:
        seed, step = checked_draw(op, self.seed, step, 0, Purpose.REPLAY, self.device)
        return {"seed": seed, "step": step, "purpose": Purpose.REPLAY, "device": self.device}

    def _stored(self, x: Tensor) -> Tensor:
        return to_cells(x, self.box) if self.storage == torch.uint8 else x.float()

    def _read(self, slots: Tensor, place: dict[str, Any]) -> Tensor:
        states = self._states[slots]
        return from_cells(states, self.box, block=DITHER, **place) if self.storage == torch.uint8 else states

    def _fresh(self, rows: Tensor, place: dict[str, Any], init: Callable[[Tensor], Tensor] | None) -> Tensor:
        if init is None:
            return in_box(uniform((len(rows), *self.shape), block=START, chain_ids=rows, **place), self.box)
        starts = init(rows)
        self._check_states("draw", "init's result", starts, len(rows))
        return starts.detach().float()

    def _check_states(self, op: str, label: str, x: Tensor, n: int | None = None) -> None:
        require(isinstance(x, Tensor), op, label, "a tensor", x, TypeError)
        require(_is_kept(x), op, label, "a dense tensor with data", x, TypeError)
        require(x.dtype in (torch.float32, torch.float64), op, label, "float32 or float64", x, TypeError)
        shape = (*x.shape[:1], *self.shape) if n is None else (n, *self.shape)
        fits = x.dim() > 0 and x.shape == shape and x.device == self.device
        require(fits, op, label, f"of shape {('n' if n is None else n, *self.shape)} on {self.device}", x)
        ends = [float(end) for end in x.detach().float().aminmax()] if x.numel() else []
        require(all(map(math.isfinite, ends)), op, label, "finite", f"values from {ends[:1]} to {ends[1:]}")

    def _check_labels(self, op: str, labels: Tensor | None, n: int, wanted: bool) -> None:
        held = self._labels
        if labels is None:
            require(held is None or not wanted, op, "labels", "given, since the buffer holds labels", labels)
            return
        own = _are_labels(labels, n) and labels.device == self.device
        require(own, op, "labels", f"an int64 tensor of {n} labels on {self.device}", labels)
        require(held is not None or not len(self), op, "labels", "left out, as the states held have none", labels)
        same = held is None or labels.shape[1:] == held.shape[1:]
        require(same, op, "labels", "shaped like those held", labels)

    def _checked_slots(self, slots: Tensor | None, n: int) -> Tensor:
        if slots is None:
            return torch.full((n,), -1, dtype=torch.int64, device=self.device)
        own = _is_kept(slots) and slots.dtype == torch.int64 and slots.device == self.device
        require(own, "push", "slots", f"an int64 tensor on {self.device}", slots, TypeError)
        require(slots.shape == (n,), "push", "slots", f"of shape ({n},), one a row", slots)
        low, high = (int(end) for end in slots.aminmax()) if n else (-1, -1)
        filled = low >= -1 and high < len(self)
        require(filled, "push", "slots", f"-1 or filled ones in [0, {len(self)})", f"values in [{low}, {high}]")
        return slots


def _are_labels(labels: Any, n: int) -> bool:
    whole = _is_kept(labels) and labels.dtype == torch.int64
    return whole and labels.dim() > 0 and len(labels) == n


def _checked_seed(op: str, seed: int) -> int:
    seed = plain(seed)  # a number of its own, where draws may take a tensor
    return checked_draw(op, seed, 0, 0, Purpose.REPLAY, torch.device("cpu"))[0]


def _is_kept(value: Any) -> bool:
    """Whether this is a tensor whose elements can be kept."""
    return isinstance(value, Tensor) and is_dense(value) and not value.is_meta
