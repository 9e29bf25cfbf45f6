"""A contest: contenders for the same work are compared, and those that agree take turns on the clock."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from hatebm.bench.timing import interleave, peak_memory

NAIVE, IN_PLACE, COMPILED, TORCHEBM = "naive loop", "in-place eager", "torch.compile", "torchebm"
OFFICIAL, HATEBM, OWN, HALF = "official Hat EBM", "hatebm", "hatebm.energies", "hatebm, bfloat16"
BARE, RUN = "hatebm, bare", "hatebm, Chain.run"
AGAINST = {"against naive": NAIVE, "against in-place": IN_PLACE, "against bare": BARE}
UNITS: dict[str, Callable[[float, int], float]] = {
    "ns/element": lambda seconds, elements: 1e9 * seconds / elements,
    "steps/s": lambda seconds, steps: steps / seconds,
    "iterations/s": lambda seconds, iterations: iterations / seconds,
}
Row = dict[str, Any]


class Verdict(NamedTuple):
    """Whether a contender does the work that was asked for, and by what."""

    agrees: bool
    says: str


@dataclass(frozen=True)
class Contender:
    """One way to do the work: the call that is timed, and the judgement without which it is not."""

    call: Callable[[], object]
    verdict: Callable[[], Verdict]


@dataclass(frozen=True)
class Case:
    """One line of a table.

    Attributes:
        table: "step", "chain", "train", "habits", "lengths" or "growth".
        name: what `--only` finds it by.
        label: the work in words.
        unit, amount: one of UNITS, and how much of it a call does.
        contenders: makes them, the baseline that judges first.
        axis, at: for a point of a curve, what grows and how large it is.
    """

    table: str
    name: str
    label: str
    unit: str
    amount: int
    contenders: Callable[[], dict[str, Contender]]
    axis: str = ""
    at: int = 0


def contest(case: Case, seconds: float, device: torch.device) -> list[Row]:
    """One row for each contender: its figures where it agrees, and the reason where it is not timed."""
    torch.compiler.reset()  # else the ninth net under one name runs uncompiled
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        contenders = case.contenders()
        verdicts = {name: _judged(contender) for name, contender in contenders.items()}
        timed = {name: contenders[name].call for name, verdict in verdicts.items() if verdict.agrees}
        gc.collect()  # what an earlier case left must not be freed in the middle of a measurement
        memory = {name: peak_memory(call, device) for name, call in timed.items()}
        marks = interleave(timed, seconds) if timed else {}
    return [_row(case, name, verdict, marks, memory.get(name)) for name, verdict in verdicts.items()]


def _judged(contender: Contender) -> Verdict:
    try:
        return contender.verdict()
    except Exception as error:  # a compiler or a peer may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Verdict(False, f"left out: {reason[:100]}")


def _row(case: Case, name: str, verdict: Verdict, marks: dict[str, tuple[float, ...]], memory: float | None) -> Row:
    row: Row = {"table": case.table, "case": case.name, "label": case.label, "axis": case.axis, "at": case.at or ""}
    row |= {"contender": name, "unit": case.unit}
    figures: Row = dict.fromkeys(("median", "20 %", "80 %", *AGAINST, "MiB"), "")
    if name in marks:
        low, median, high = (UNITS[case.unit](mark, case.amount) for mark in marks[name])
        figures |= {"median": median, "20 %": min(low, high), "80 %": max(low, high)}
        for column, base in (AGAINST | ({} if NAIVE in marks else {"against naive": OFFICIAL})).items():
            if base in marks:
                figures[column] = marks[base][1] / marks[name][1]
        figures["MiB"] = "" if memory is None else memory
    return row | figures | {"agreement": verdict.says, "threads": torch.get_num_threads()}
