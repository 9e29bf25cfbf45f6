"""What was measured, as aligned text, as markdown and as CSV with the machine beside it."""

import csv
import platform
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from hatebm.bench.contest import (
    AGAINST,
    BARE,
    COMPILED,
    HALF,
    HATEBM,
    IN_PLACE,
    NAIVE,
    OFFICIAL,
    OWN,
    RUN,
    TORCHEBM,
    Row,
)
from hatebm.bench.timing import memory_is

FIGURES = ("median", "20 %", "80 %", *AGAINST, "MiB")
COLUMNS = (NAIVE, OFFICIAL, IN_PLACE, COMPILED, TORCHEBM, BARE, HATEBM, RUN, OWN, HALF)
TITLES = {
    "step": "one Langevin step, ns an element",
    "chain": "whole chains, steps a second",
    "train": "training, iterations a second",
    "habits": "as people call it, steps a second",
    "lengths": "run lengths, steps a second",
}


def machine(device: torch.device) -> dict[str, str]:
    """What a row of results must carry to be read later."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    packages = {name: _version(name) for name in ("torch", "hatebm", "torchebm")}
    return {"date": date.today().isoformat(), "device": named, "python": platform.python_version(), **packages}


def write_csv(path: Path, rows: Sequence[Row], device: torch.device) -> None:
    """Rows with the machine beside them."""
    beside = machine(device)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *beside])
        writer.writeheader()
        writer.writerows({name: _text(value) for name, value in row.items()} | beside for row in rows)


def print_table(rows: Sequence[Row]) -> None:
    """Rows under their names, aligned."""
    table = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def case_table(rows: Sequence[Row]) -> list[Row]:
    """The rows of one case as they are printed."""
    unit = {"median": rows[0]["unit"]}
    figures = [name for name in FIGURES if name not in AGAINST or any(row[name] for row in rows)]
    return [
        {"contender": row["contender"]}
        | {unit.get(name, name): row[name] for name in figures}
        | {"agreement": row["agreement"]}
        for row in rows
    ]


def markdown(rows: Sequence[Row], device: torch.device) -> str:
    """A table of medians for each table, a line for each case, and below who was left out and the conditions."""
    lines = []
    for table, title in TITLES.items():
        of_table = [row for row in rows if row["table"] == table]
        if of_table:
            lines += [f"**{title[0].upper()}{title[1:]}**", "", *_pivot(of_table), ""]
    lines += [*_not_timed(rows), conditions(rows, device)]
    return "\n".join(lines)


def conditions(rows: Sequence[Row], device: torch.device) -> str:
    """Machine, versions and what the figures are, in one sentence each."""
    about = machine(device)
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "hatebm", "torchebm") if about[name])
    text = f"{about['device']}, {rows[0]['threads']} threads, {versions}, {about['date']}. Medians of contenders that "
    text += "agreed on the same work and took turns in one process; where there is no naive loop, the official code "
    return text + f"stands for it. MiB: {memory_is(device)}."


def _pivot(rows: Sequence[Row]) -> Iterable[str]:
    seen = {row["contender"] for row in rows}
    columns = [name for name in COLUMNS if name in seen]
    ratios = [(HATEBM, name) for name in AGAINST if any(row[name] for row in rows)]
    ratios += [(RUN, "against naive")] * (RUN in seen)
    measured = [name for name in (IN_PLACE, HATEBM) if name in seen]
    headings = ["case", *columns, *(name if who == HATEBM else f"{who}, {name}" for who, name in ratios)]
    headings += [f"MiB, {name.removesuffix(' eager')}" for name in measured]
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for label in dict.fromkeys(row["label"] for row in rows):
        found = {row["contender"]: row for row in rows if row["label"] == label}
        cells = [_text(found.get(name, {}).get("median", "")) or "–" for name in columns]
        cells = [f"**{cell}**" if name == HATEBM else cell for name, cell in zip(columns, cells, strict=True)]
        figures = [found.get(who, {}).get(name) for who, name in ratios]
        cells += [f"{figure:.2f}x" if figure else "–" for figure in figures]
        cells += [_text(found.get(name, {}).get("MiB", "")) or "–" for name in measured]
        yield f"| {' | '.join((label, *cells))} |"


def _not_timed(rows: Sequence[Row]) -> list[str]:
    lines = [f"- {row['case']}, {row['contender']}: {row['agreement']}" for row in rows if row["median"] == ""]
    return ["Not timed:", "", *lines, ""] if lines else []


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
