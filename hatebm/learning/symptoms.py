"""The form of a symptom: what goes wrong in a training, seen in its metrics, and which knob to turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from hatebm.learning.config import Config

Rows = Sequence[dict]  # of metrics.jsonl, one an iteration


@dataclass(frozen=True)
class Symptom:
    """One thing that goes wrong: what to do, the metrics that show it, and how they look then.

    shows: whether the last rows of a training under a configuration do; the later half is as long as it must last.
    diverged: whether it is the end of a training, which goes back to a good checkpoint where its system may.
    """

    advice: str
    metrics: tuple[str, ...]
    shows: Callable[[Rows, Config], bool]
    diverged: bool = False


def later_half(rows: Sequence) -> Sequence:
    """The rows in which a symptom must last."""
    return rows[len(rows) // 2 :]


def mean(rows: Rows, metric: str) -> float:
    """The mean of a metric over rows."""
    return fmean(row[metric] for row in rows)


def gap_swings_wider(rows: Rows, config: Config) -> bool:
    """The energy gap changes sign in swings that grow beyond its error: the energy and the chains chase one another."""
    gaps = [row["energy_gap"] for row in rows]
    late, quarter = later_half(gaps), len(rows) // 4
    turns = sum(a * b < 0 for a, b in pairwise(late))
    around_zero = abs(fmean(late)) < fmean(map(abs, late)) / 2
    swings = [median(map(abs, gaps[i : i + quarter])) for i in range(0, 4 * quarter, quarter)]
    growing = swings == sorted(swings) and swings[-1] > 3 * swings[0]
    real = swings[-1] > 2 * median(row["gap_error"] for row in rows[-quarter:])
    return turns >= len(late) // 20 and around_zero and growing and real
