"""The rows of metrics.jsonl, one for each iteration, and nothing else, in their order."""

import json
import math
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from hatebm.errors import UsageError
from hatebm.runs.files import cannot_write


class DamagedRow(UsageError):  # noqa: N818 - says what is wrong
    """The row of an iteration is not where it must be."""

    def __init__(self, path: Path, iteration: int, came: str) -> None:
        super().__init__(f"{path}, line {iteration}: wanted the row of iteration {iteration}, got {came}")
        self.iteration = iteration


def read(path: Path, last: int) -> list[dict]:
    """The rows of the iterations 1 to `last`; whatever follows them is not looked at.

    Raises DamagedRow where one of these rows is missing, damaged or there twice.
    """
    return [row for row, _ in _rows(path, last)]


def cut(path: Path, last: int) -> None:
    """Drop all that follows the row of iteration `last`, which a resumed training is about to write again."""
    end = sum(length for _, length in _rows(path, last))
    try:
        with path.open("ab") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


class Rows:
    """A file of rows that is being written."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path, self.file = path, file

    def add(self, row: dict) -> None:
        """Write a row; one that finds no room leaves nothing of itself behind. Raises CannotWrite."""
        end, line = os.fstat(self.file.fileno()).st_size, json.dumps(row).encode() + b"\n"
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self.file.truncate(end)
            raise cannot_write(self.path, error) from error

    def sync(self) -> None:
        """Let all rows be on the disk, as they must be before a checkpoint that counts on them."""
        os.fsync(self.file.fileno())


@contextmanager
def appended(path: Path) -> Iterator[Rows]:
    """The file, open for further rows."""
    with path.open("ab", buffering=0) as file:
        yield Rows(path, file)


def _rows(path: Path, last: int) -> Iterator[tuple[dict, int]]:
    """Rows 1 to `last`, each with its length in bytes."""
    if not last:
        return
    if not path.exists():
        raise DamagedRow(path, 1, "no file")
    known: Set[str] = frozenset()
    with path.open("rb") as file:
        for number in range(1, last + 1):
            line = file.readline()
            row = _row(line, known)
            if row is None or row["step"] != number:
                came = "no whole row" if row is None else f"that of iteration {row['step']}"
                raise DamagedRow(path, number, came)
            known = row.keys()
            yield row, len(line)


def _row(line: bytes, known: Set[str]) -> dict | None:
    """What a line says, or None where it is no row: an object of finite numbers, its step, all that is known before."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or not row.keys() >= known:
        return None
    return row if all(type(value) in (int, float) and abs(value) < math.inf for value in row.values()) else None
