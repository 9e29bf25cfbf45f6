"""Kill trainings at changes that they make to the disk, go on with each, and compare with one that ran through.

`python killed_runs.py FOLDER 1,2,... WORDS`: before which of their changes they die, and the words of a `hatebm train`.
"""

import os
import signal
import sys
from pathlib import Path

from hatebm.cli import main
from hatebm.commands import train
from hatebm.commands.options import need
from hatebm.runs import checkpoints

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "open")


def ready(folder: str) -> None:
    """Go there, with all imported that a training will; it ends without its evaluation, after all that matters here."""
    need("sklearn.model_selection", "PIL.Image", "safetensors.torch", "rich.console", "matplotlib", "pooch")
    os.chdir(folder)
    train.report = lambda *_: None


def in_a_child(words: list[str], kill_at: int | None = None, changes: int | None = None) -> int:
    """How a training in a process of its own ends; it is killed before its change number `kill_at`.

    changes: a file descriptor to which a line is written for each change.
    """
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = 0

    def count_changes(event: str, arguments: tuple) -> None:
        nonlocal seen
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES and writes and str(arguments[0]).startswith(str(Path.cwd())):
            seen += 1
            if changes is not None:
                os.write(changes, f"{event} {Path(arguments[0]).relative_to(Path.cwd())}\n".encode())
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count_changes)
    os._exit(main(words))


def left(folder: Path) -> list[str]:
    """The checksums of the checkpoints at the end of a run, in either stage."""
    return [checkpoints.checksum(*checkpoints.load(path)) for path in sorted(folder.rglob("*3.safetensors"))]


def steps(folder: Path) -> list[bytes]:
    return [line.split(b",")[0] for path in sorted(folder.rglob("metrics.jsonl")) for line in path.open("rb")]


if __name__ == "__main__":
    ready(sys.argv[1])
    words = ["train", *sys.argv[3:], "--out"]
    straight = Path.cwd() / "straight"
    assert in_a_child([*words, str(straight)]) == 0
    assert len(left(straight)) == 2
    assert len(steps(straight)) == 6
    for number in map(int, sys.argv[2].split(",")):
        folder = Path.cwd() / f"killed-{number}"
        code = in_a_child([*words, str(folder)], kill_at=number)
        assert code == -signal.SIGKILL, (number, code)
        again = ["--resume"] if (folder / "config.json").exists() or number % 2 else []
        assert in_a_child([*words, str(folder), *again] if folder.exists() else [*words, str(folder)]) == 0, number
        assert left(folder) == left(straight), number
        assert steps(folder) == steps(straight), number
        assert not list(folder.rglob("partial*")), number
