"""Kill a training that diverges and goes back, go on with it, and compare with one that ran through.

`python killed_returns.py FOLDER [all]`: it dies before some changes to the disk that make a return, or before any.
"""

import json
import os
import signal
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

from killed_runs import in_a_child, ready
from returning import SYSTEM

from hatebm.runs import checkpoints, symptoms, training
from hatebm.systems.catalogue import SYSTEMS

WORDS = ["train", "breaking", "--data", "digits", "--threads", "1", "--out"]


def left(folder: Path) -> tuple[list, list]:
    """The newest checkpoint and the points at the end of a run, and its rows but for their speed."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    numbers = [{name: value for name, value in row.items() if "per_s" not in name} for row in rows]
    paths = [checkpoints.paths(folder / "checkpoints")[-1], *checkpoints.paths(folder / "good")]
    return [(path.name, checkpoints.checksum(*checkpoints.load(path))) for path in paths], numbers


def save(run, learner) -> float:
    """Save, and let the next time come after six iterations or seven."""
    by_the_clock(run, learner)
    return next(ticks) + 7


ready(sys.argv[1])
os.fsync = lambda _: None  # which a kill does not ask for
SYSTEMS["breaking"], symptoms.WINDOW = SYSTEM, 10
SYSTEM.learner.create(SYSTEM.config()).advance(None)  # the first step of an optimiser imports for seconds
ticks, by_the_clock, training._save = count(), training._save, save
training.time = SimpleNamespace(monotonic=lambda: next(ticks), perf_counter=time.perf_counter)

reads, writes = os.pipe()
straight = Path.cwd() / "straight"
assert in_a_child([*WORDS, str(straight)], changes=writes) == 0
changes = os.read(reads, 1 << 16).decode().splitlines()
cuts = [number for number, line in enumerate(changes, 1) if line == "open straight/metrics.jsonl"][2::2]
assert [row.get("returns", 0) for row in left(straight)[1]] == 10 * [0] + 60 * [2]
first, second = cuts  # before a cut the checkpoints ahead were dropped, after it the points ahead
numbers = [first - 5, first - 2, first, second - 1, second + 8, second + 17]
for number in range(1, len(changes)) if sys.argv[2:] else numbers:
    folder = Path.cwd() / f"killed-{number}"
    assert in_a_child([*WORDS, str(folder)], kill_at=number) == -signal.SIGKILL, number
    again = ["--resume"] if (folder / "config.json").exists() else []
    assert in_a_child([*WORDS, str(folder), *again]) == 0, number
    assert left(folder) == left(straight), number
    assert not list(folder.rglob("partial*")), number
