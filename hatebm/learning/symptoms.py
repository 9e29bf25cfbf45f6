"""The form of a symptom: what goes wrong in a training, seen in its metrics, and which knob to turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

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
