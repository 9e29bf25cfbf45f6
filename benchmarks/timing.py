"""Timing contenders fairly: interleaved in one process, medians with their 20 and 80 % marks."""

import csv
import platform
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def interleave(contenders: dict[str, Callable[[], object]], seconds: float = 2.0) -> dict[str, tuple[float, ...]]:
    """Seconds per call as (20 %, median, 80 %) of each contender, in turns.

    A turn is as many calls as fill 10 ms, so that nobody pays for the caches and the clock that the one before it left.
    """
    calls = {name: max(1, min(100, int(0.01 / _seconds(call, 2)))) for name, call in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in contenders.items():
            times[name].append(_seconds(call, calls[name]))
    marks = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    return {
        name: tuple(torch.quantile(torch.tensor(values, dtype=torch.float64), marks).tolist())
        for name, values in times.items()
    }


def _seconds(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def machine() -> dict[str, str]:
    """What a row of results must carry to be read later."""
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "torch": torch.__version__,
        "hatebm": version("hatebm"),
        "torchebm": _version("torchebm"),
    }


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Rows with the machine beside them."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *machine()])
        writer.writeheader()
        writer.writerows(row | machine() for row in rows)


def print_table(rows: list[dict[str, object]]) -> None:
    """Rows under their names, aligned."""
    table = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
