"""The picture of a benchmark: speed beside the naive loop, case by case, and how the cost of a chain grows."""

from collections.abc import Sequence
from pathlib import Path

from hatebm.bench import growth
from hatebm.bench.contest import COMPILED, HALF, HATEBM, IN_PLACE, NAIVE, OFFICIAL, OWN, TORCHEBM, Row

COLOURS = {  # Okabe & Ito: told apart by colour-blind readers too
    NAIVE: "#999999",
    OFFICIAL: "#CC79A7",
    IN_PLACE: "#56B4E9",
    COMPILED: "#009E73",
    TORCHEBM: "#E69F00",
    HATEBM: "#D55E00",
    OWN: "#000000",
    HALF: "#F0E442",
}
POINT = ", ".join(f"{axis} {at}" for axis, at in growth.POINT.items())
AXES = {"batch": "batch", "side": "side of the images (pixels)", "steps": "steps of the chain"}


def save_figure(path: Path, rows: Sequence[Row], title: str) -> None:
    """Write bars of how many times as fast as the naive loop everyone is, and curves where rows are points of them."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["table"] not in ("habits", "lengths")]  # of one contender, in tables
    bars = [row for row in rows if row["axis"] == "" and row["contender"] in COLOURS and row["against naive"]]
    bars = [row for row in bars if row["against naive"] != 1]  # the loop that the others are measured by
    points = [row for row in rows if row["axis"] != "" and row["median"]]
    height = max(4.0, 1.2 + 0.16 * len(bars), 7.5 if points else 0.0)
    widths = [7.5] * bool(bars) + [5.0] * bool(points)
    figure = Figure(figsize=(max(sum(widths), 7.5), height), layout="constrained")
    figure.suptitle(title, fontsize=9)
    parts = list(figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]) if widths else []
    if bars:
        part = parts.pop(0)
        _draw_bars(part.subplots(), bars)
        part.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    for part in parts:
        part.suptitle(f"small convolutional energy: {POINT}, but for what grows", fontsize=9)
        axes = list(dict.fromkeys(row["axis"] for row in points))
        panels = part.subplots(len(axes), squeeze=False)[:, 0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw_curves(panel, axis, [row for row in points if row["axis"] == axis])
        panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _draw_bars(panel, rows: Sequence[Row]) -> None:
    place, ticks, shown = 0.0, {}, set()
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        ticks[case] = place + (len(of_case) - 1) / 2
        for row in of_case:
            name, ratio = row["contender"], row["against naive"]
            label = name if name not in shown else None
            panel.barh(place, ratio - 1, left=1, height=0.9, color=COLOURS[name], label=label)
            panel.text(max(ratio, 1), place, f" {ratio:.2g}x", va="center", fontsize=7)
            shown.add(name)
            place += 1
        place += 1
    panel.set_xscale("log")
    panel.axvline(1, color=COLOURS[NAIVE], linewidth=1)
    panel.set_yticks(list(ticks.values()), list(ticks), fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.15, y=0.01)
    _count(panel.xaxis)
    panel.set_xlabel("times as fast as the naive loop (of Hat EBM: as the official code)")
    _tidy(panel)


def _draw_curves(panel, axis: str, rows: Sequence[Row]) -> None:
    for name in dict.fromkeys(row["contender"] for row in rows):
        points = [row for row in rows if row["contender"] == name]
        steps = [row["at"] if axis == "steps" else 1 for row in points]
        marks = [
            [1e3 * n / row[mark] for n, row in zip(steps, points, strict=True)] for mark in ("median", "80 %", "20 %")
        ]
        at = [row["at"] for row in points]
        panel.plot(at, marks[0], "o-", markersize=4, color=COLOURS[name], label=name)
        panel.fill_between(at, marks[1], marks[2], color=COLOURS[name], alpha=0.2, linewidth=0)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks([row["at"] for row in points], [str(row["at"]) for row in points])
    panel.minorticks_off()
    _count(panel.yaxis)
    panel.set_xlabel(AXES[axis])
    panel.set_ylabel("ms a chain" if axis == "steps" else "ms a step")
    _tidy(panel)


def _count(axis) -> None:
    """1, 2, 5, 10 ... along a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _tidy(panel) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, linewidth=0.6)
