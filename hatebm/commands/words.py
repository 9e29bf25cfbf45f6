"""From the words of a command line to values; what is none is refused with what was wanted and what came."""

import math
import os
from argparse import ArgumentTypeError
from pathlib import Path

from hatebm.commands.settings import MOST

SAMPLES = 1 << 24
THREADS_A_CPU = 8  # OpenMP ends the process where a thread cannot be started


def path(text: str) -> Path:
    """A path, with ~ as the home folder."""
    return Path(source(text))


def source(text: str) -> str:
    """A path, or what may be one, with ~ as the home folder; all else as it was typed, for ./mnist is not mnist."""
    if not text or "\0" in text:
        raise ArgumentTypeError(f"wanted a path or a name, got {text!r}")
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise ArgumentTypeError(f"no home folder {text} is known; write ./{text} for what is so called here")
    return found


def seed(text: str) -> int:
    """A whole number of 64 bits, whose successor is one too: a run draws its samples with the next seed."""
    try:
        number = int(text)
    except ValueError:
        number = 1 << 64
    if not -(1 << 63) <= number < (1 << 63) - 1:
        raise ArgumentTypeError(f"wanted a whole number of 64 bits, got {_shown(text)}")
    return number


def seconds(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"wanted a number above 0, got {_shown(text)}")
    return number


def natural(text: str) -> int:
    """A whole number, not negative."""
    return _whole(text, 0, MOST, "wanted a whole number, not negative and at most 2^40")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1, MOST, "wanted a whole number of at least 1 and at most 2^40")


def samples(text: str) -> int:
    """A whole number of at least 1, of images that one command draws."""
    return _whole(text, 1, SAMPLES, "wanted a whole number of at least 1 and at most 2^24")


def classes(text: str) -> tuple[int, ...]:
    """Whole numbers, not negative, apart by commas: the numbers of classes."""
    wanted = "wanted numbers of classes such as 3,7, none of them twice"
    numbers = tuple(_whole(part, 0, MOST, wanted) for part in text.split(","))
    if len(set(numbers)) < len(numbers):
        raise ArgumentTypeError(f"{wanted}, got {_shown(text)}")
    return numbers


def threads(text: str) -> int:
    """A whole number of at least 1, and at most some for each CPU."""
    most = THREADS_A_CPU * (os.cpu_count() or 1)
    return _whole(text, 1, most, f"wanted a whole number from 1 to {most}, {THREADS_A_CPU} a CPU")


def _whole(text: str, least: int, most: int, wanted: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= number <= most:
        raise ArgumentTypeError(f"{wanted}, got {_shown(text)}")
    return number


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:37]!r}..."
