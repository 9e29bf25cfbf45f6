"""What a training shows on the terminal while it runs."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(
    total: int, done: int, shown: Iterable[str]
) -> Iterator[tuple[Callable[[dict], None], Callable[[str], None]]]:
    """A bar to feed with the rows of a training, of which it shows a few metrics, and a way to say a line above it.

    Where the output is no terminal there is a plain line now and then.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    if not console.is_terminal:
        yield _line_printer(total, shown), print
        return
    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[measured]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task("", total=total, completed=done, measured="")
        say = partial(bar.console.print, markup=False)  # names of folders may hold brackets
        yield lambda row: bar.update(task, completed=row["step"], measured=_measured(row, shown)), say


def _line_printer(total: int, shown: Iterable[str]) -> Callable[[dict], None]:
    last = time.monotonic()

    def show(row: dict) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_LINES or row["step"] == total:
            print(f"iteration {row['step']}/{total}  {_measured(row, shown)}", flush=True)
            last = time.monotonic()

    return show


def _measured(row: dict, shown: Iterable[str]) -> str:
    speed = "iterations_per_s" if "iterations_per_s" in row else "langevin_steps_per_s"
    words = [f"{name.replace('_', ' ')} {row[name]:.3g}" for name in shown]
    return "  ".join((f"{row[speed]:.0f} {speed.removeprefix('langevin_').replace('_per_', '/')}", *words))
