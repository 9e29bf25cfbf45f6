"""The classes that a person asks for, held against those that there are."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from hatebm.data import Images
from hatebm.errors import UsageError
from hatebm.learning.config import Config
from hatebm.learning.learner import Learner
from hatebm.runs.folder import Run
from hatebm.systems.catalogue import SYSTEMS


def refuse_conditional(system: str) -> None:
    """Raise UsageError for a system that learns no classes."""
    able = [name for name, one in SYSTEMS.items() if hasattr(one.config, "classes")]
    if system not in able:
        raise UsageError(f"--conditional: {system} learns no classes, wanted one of {', '.join(able)}")


def with_classes(config: Config, images: Images, conditional: bool, asked: int | None) -> Config:
    """A configuration with as many classes as the data's labels number, if it is to be conditional.

    asked: the number that --set names. Raises UsageError for data without labels, and for other classes than theirs.
    """
    if conditional and not images.classes:
        raise UsageError("--conditional: the data have no labels; put the pictures of each class in a subfolder")
    if conditional and asked is None:
        return replace(config, classes=images.classes)
    if getattr(config, "classes", 0) not in ((images.classes,) if conditional else (0, images.classes)):
        there = f"{images.classes} like those of the data" if images.classes else "0, for the data have no labels"
        if asked is None:
            helps = "; --conditional takes the data's" if images.classes else ""
            raise UsageError(f"--preset: it has classes = {config.classes}, and they must be {there}{helps}")
        raise UsageError(f"--set: classes must be {there}, got {config.classes}")
    return config


def refuse_other_kind(run: Run) -> None:
    """Raise UsageError where a run that goes on is asked to be conditional and is not."""
    refuse_conditional(run.system)
    if not run.config.classes:
        raise UsageError(f"--resume: the run in {run.folder} has classes = 0 and keeps it, got --conditional")


def labels_asked(options: argparse.Namespace, learner: Learner) -> tuple[int, ...] | None:
    """The classes of --label; raises UsageError where the run learned none, or not these."""
    asked = options.label
    if asked is None:
        return None
    if not learner.classes:
        raise UsageError(f"--label: {options.run} draws of no classes, as a run does that --conditional began")
    if max(asked) >= learner.classes:
        raise UsageError(f"--label: wanted classes from 0 to {learner.classes - 1}, got {max(asked)}")
    return asked


def chains_of(asked: Sequence[int] | None, n: int | None, default: int) -> tuple[int, list[int] | None]:
    """How many chains to draw, and the class of each: equally many of each class asked for, one class after the other.

    n: as many as were asked for; None for about the default. Raises UsageError for fewer chains than classes.
    """
    if asked is None:
        return n or default, None
    kinds = len(asked)
    n = n or max(1, default // kinds) * kinds
    if n < kinds:
        raise UsageError(f"--n: wanted at least {kinds}, one for each class of --label, got {n}")
    return n, [asked[i * kinds // n] for i in range(n)]


def drawn_of(learner: Learner, n: int, asked: Sequence[int] | None, columns: int = 1) -> str:
    """Which classes a picture of n chains shows, and where, in words."""
    if asked is not None:
        words = f" of class{'es' if len(asked) > 1 else ''} {','.join(map(str, asked))}"
        whole = columns > 1 and n % (len(asked) * columns) == 0 and len(asked) > 1
        return f"{words} in whole rows" if whole else words
    if not learner.classes:
        return ""
    order = "in turn" if columns % learner.classes else "in columns"
    return f" of classes 0 to {min(n, learner.classes) - 1} {order}"
