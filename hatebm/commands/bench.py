"""`hatebm bench`: steps, chains and iterations a second, beside the loops that people write."""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import torch

from hatebm.bench import chains, growth, habits, hat, igebm, lengths, step, training
from hatebm.bench.contest import BARE, HATEBM, RUN, Case, Row, contest
from hatebm.bench.figure import save_figure
from hatebm.bench.report import case_table, conditions, markdown, print_table, write_csv
from hatebm.commands.options import device_of, need
from hatebm.errors import UsageError

TABLES = ("step", "chain", "train", "habits")
OURS = (HATEBM, BARE, RUN)
PICTURES = (".png", ".pdf", ".svg")


def bench(options: argparse.Namespace) -> int:
    """Measure case by case; returns 1 where hatebm itself did not do the work of the others.

    What was measured is reported however it ends, Ctrl-C too.
    """
    if options.plot is not None:
        need("matplotlib")
    _refuse_unwritable(options)
    device = device_of(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    cases = chosen(options, device)
    if importlib.util.find_spec("torchebm") is None:
        _say("torchebm is not installed: left out")
    rows: list[Row] = []
    try:
        for number, case in enumerate(cases, 1):
            _say(f"[{number}/{len(cases)}] {case.name}{f' {case.at}' if case.axis else ''}: {case.label}")
            rows += _measured(case, options, device)
            if options.csv is not None:
                write_csv(options.csv, rows, device)
    finally:
        if rows:
            _report(options, rows, device)
    return 1 if any(row["contender"] in OURS and row["median"] == "" for row in rows) else 0


def _measured(case: Case, options: argparse.Namespace, device: torch.device) -> list[Row]:
    since = time.perf_counter()
    rows = contest(case, options.seconds / (4 if case.axis else 1), device)
    if not options.markdown:
        print(f"{case.name}: {case.label}")
        print_table(case_table(rows))
        print(f"({time.perf_counter() - since:.0f} s)\n", flush=True)
    return rows


def _report(options: argparse.Namespace, rows: list[Row], device: torch.device) -> None:
    print(markdown(rows, device) if options.markdown else conditions(rows, device))
    if options.csv is not None:
        _say(f"{options.csv}: every row")
    if options.plot is not None:
        save_figure(options.plot, rows, conditions(rows, device).split(". Medians")[0])
        _say(f"{options.plot}: speed beside the naive loop, and how the cost grows")


def chosen(options: argparse.Namespace, device: torch.device) -> list[Case]:
    """The cases of the tables asked for, with `--plot` the points of the curves; UsageError where none is left."""
    tables = {
        "step": step.cases(device),
        "chain": chains.cases(device) + hat.cases(device) + igebm.chain_cases(device),
        "train": training.cases(device) + igebm.cases(device),
        "habits": habits.cases(device) + lengths.cases(device),
    }
    cases = [case for name in TABLES if options.table in (name, "all") for case in tables[name]]
    if options.plot is not None and options.table in ("chain", "all"):
        cases += growth.cases(device)
    named = [case for case in cases if options.only is None or options.only in case.name]
    if not named:
        known = ", ".join(dict.fromkeys(case.name for case in cases))
        raise UsageError(f"--only: wanted one of {known} or a part of such a name, got {options.only!r}")
    return named


def _refuse_unwritable(options: argparse.Namespace) -> None:
    for flag, path in (("--csv", options.csv), ("--plot", options.plot)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{flag}: wanted a file in a folder that exists, got {path}")
    plot: Path | None = options.plot
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise UsageError(f"--plot: wanted a file that ends in {', '.join(PICTURES)}, got {plot}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
