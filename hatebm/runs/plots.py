"""Plots of a run: curves of its training, scores of data against outliers, and quality against Langevin steps."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.runs.files import whole

INSIDE, OUTSIDE, INK = "#0072B2", "#D55E00", "0.25"  # Okabe & Ito: told apart by colour-blind readers too
BINS = 60
TAIL = 0.005  # share of the scores at either end that may lie beyond the axis, gathered in its last bins


def save_curves(path: Path, rows: Sequence[dict], labels: dict[str, str]) -> None:
    """Write one curve for each metric: every row thin, their running mean thick, the axis fitted to the last 90 %.

    rows: dicts with `step` and the metrics; labels: metric -> the words on its axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.2 * len(labels)), layout="constrained")
    axes = figure.subplots(len(labels), sharex=True, squeeze=False)[:, 0]
    for axis, (metric, label) in zip(axes, labels.items(), strict=True):
        seen = [row for row in rows if metric in row]
        steps = [row["step"] for row in seen]
        values = torch.tensor([row[metric] for row in seen], dtype=torch.float64, device="cpu")
        axis.plot(steps, values, linewidth=0.5, color="0.7")
        axis.plot(steps, _running_mean(values), color="C0")
        settled = values[len(values) // 10 :]  # the first steps of an untrained energy would flatten all the rest
        margin = float(settled.max() - settled.min()) / 10 or 1.0
        axis.set_ylim(float(settled.min()) - margin, float(settled.max()) + margin)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axis.set_xlabel("iteration")
    with whole(path) as partial:
        figure.savefig(partial, dpi=110)


def save_histogram(path: Path, scores: dict[str, Tensor], title: str = "", label: str = "score") -> None:
    """Write one panel for each set of outliers, its scores against those of the in-distribution images.

    scores: name -> (n,), the in-distribution images first; label: the words on the axis of the scores.
    """
    from matplotlib.figure import Figure

    (inside, typical), *outside = ((name, values.detach().double().cpu()) for name, values in scores.items())
    figure = Figure(figsize=(7, 0.6 + 2.0 * len(outside)), layout="constrained")
    if title:
        figure.suptitle(title)
    panels = figure.subplots(len(outside), squeeze=False)[:, 0]
    for axis, (name, values) in zip(panels, outside, strict=True):
        low, high = _range(typical, values)
        edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64, device="cpu").tolist()
        for words, part, colour in ((inside, typical, INSIDE), (name, values, OUTSIDE)):
            weights = torch.full_like(part, 1 / len(part)).tolist()
            drawn = part.clamp(low, high).tolist()
            axis.hist(drawn, edges, weights=weights, histtype="stepfilled", color=colour, alpha=0.55, label=words)
        axis.set_ylabel("share of images")
        axis.legend(frameon=False, fontsize=9)
        _tidy(axis)
    panels[-1].set_xlabel(label)
    with whole(path) as partial:
        figure.savefig(partial, dpi=110)


def save_quality(
    path: Path,
    steps: Sequence[int],
    frechet: Sequence[float],
    errors: Sequence[float],
    training_steps: int,
    label: str = "Frechet distance",
) -> None:
    """Write the curve of a distance, with its standard errors, over the Langevin steps of sampling.

    A line marks the K of the training. Steps that grow by factors, none of them 0, are shown by their logarithm.

    steps, frechet, errors: one entry for each number of Langevin steps.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    axis.axvline(training_steps, color=INK, linewidth=1, linestyle="--", label=f"training, K = {training_steps}")
    axis.errorbar(steps, frechet, errors, color=INSIDE, marker="o", markersize=4, capsize=3, label="± standard error")
    best = min(range(len(steps)), key=lambda i: frechet[i])
    axis.plot(steps[best], frechet[best], "o", color=OUTSIDE, markersize=8, label=f"best at {steps[best]} steps")
    if steps[0] > 0:
        axis.set_xscale("log")
        axis.set_xticks(steps, map(str, steps))
        axis.minorticks_off()
    axis.set_xlabel("Langevin steps of sampling")
    axis.set_ylabel(f"{label} (lower is better)")
    axis.legend(frameon=False, fontsize=9)
    _tidy(axis)
    with whole(path) as partial:
        figure.savefig(partial, dpi=110)


def _running_mean(values: Tensor) -> Tensor:
    half = min(10, (len(values) - 1) // 2)
    sums = F.pad(values.double().cumsum(0), (1, 0))
    at = torch.arange(len(values), dtype=torch.int64, device="cpu")
    low, high = (at - half).clamp_min(0), (at + half + 1).clamp_max(len(values))
    return (sums[high] - sums[low]) / (high - low)


def _range(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The axis that shows all but the tails of both sets."""
    ends = torch.stack([part.quantile(part.new_tensor([TAIL, 1 - TAIL])) for part in (a, b)])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _tidy(axis) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
