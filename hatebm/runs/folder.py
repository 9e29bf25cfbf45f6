"""The folder of one training run: its configuration, its metrics, its checkpoints and its pictures."""

import json
import platform
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from torch import Tensor

from hatebm import data
from hatebm.data import Images
from hatebm.data.fingerprint import Fingerprint
from hatebm.errors import UsageError
from hatebm.learning.config import Config
from hatebm.learning.learner import Learner
from hatebm.runs import checkpoints, config_json, files, metrics

GENERATOR = "generator"  # folder of the stage before, or of a generator that came from elsewhere
RETURNED = ("returns", "noise_seed", "rate")  # of a learner that diverged and went back, kept in its checkpoints


@dataclass(frozen=True)
class Run:
    """One run: which system learns from which data under which numbers, and the folder where all about it lies.

    fingerprint: by which its images are known again; None in a run that version 0.1.0 began. precision: in which its
    chains run, as a report says it; None where no training since version 0.2.0 has written it down.
    """

    folder: Path
    system: str
    data: str
    data_root: str
    train_images: int
    config: Config
    fingerprint: Fingerprint | None = None
    precision: str | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def good(self) -> Path:
        """Where the points lie that a diverging training goes back to."""
        return self.folder / "good"

    @property
    def config_file(self) -> Path:
        return self.folder / "config.json"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def images(self) -> Images:
        """The data, as the run began with it; raises UsageError when they are gone or others."""
        if self.data not in data.NAMES and not Path(self.data_root, self.data).is_dir():
            raise UsageError(
                f"the images of {self.folder} are not in {self.data} any more; say with --data where they are now"
            )
        images = data.load(self.data, self.config.size, self.data_root, self.config.crop)
        now = (len(images.train), images.channels)
        if now != (self.train_images, self.config.channels):
            begun = f"{self.train_images} training images of {self.config.channels} channels"
            raise UsageError(f"{self.folder} began with {begun}, {self.data} now gives {now[0]} of {now[1]}")
        classes = getattr(self.config, "classes", 0)
        if classes not in (0, images.classes):
            given = f"{self.data} now gives {images.classes or 'none'}"
            raise UsageError(f"{self.folder} began with labels of {classes} classes, {given}")
        differs = self.fingerprint and self.fingerprint.difference(Fingerprint.of(images))
        if differs:
            raise UsageError(f"{self.folder} began with other images than those in {self.data}: {differs}")
        return images

    def held(self) -> AbstractContextManager:
        """Hold the folder, as one training at a time may."""
        return files.held(self.folder)

    def write_config(self) -> None:
        """Write config.json: every value, the data and the versions."""
        files.sweep(self.folder, self.config_file.name)
        files.write_text(self.config_file, self.config_text())

    def config_text(self) -> str:
        """What config.json holds."""
        values = {
            "format": config_json.FORMAT,
            "system": self.system,
            "data": self.data,
            "data_root": self.data_root,
            "train_images": self.train_images,
            "fingerprint": self.fingerprint and asdict(self.fingerprint),
            "precision": self.precision,
            "config": asdict(self.config),
            "versions": versions(),
        }
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """The run that lies in a folder; raises UsageError when there is none."""
        try:
            values = config_json.read(folder / "config.json")
        except FileNotFoundError:
            raise UsageError(f"{folder} is not the folder of a run: it has no config.json") from None
        del values["versions"]
        return cls(folder, **values)

    def save(self, learner: Learner) -> Path:
        """Write a checkpoint; returns its path."""
        return checkpoints.save(self.checkpoints, *contents(learner))

    def last_checkpoint(self) -> Path:
        """Path of the newest checkpoint; raises UsageError when there is none."""
        found = checkpoints.paths(self.checkpoints)
        if not found:
            raise UsageError(f"{self.folder} has no checkpoint")
        return found[-1]

    def has_checkpoint(self) -> bool:
        """Whether a training has begun here."""
        return bool(checkpoints.paths(self.checkpoints))

    def metrics(self, last: int | None = None) -> list[dict]:
        """The rows of the iterations 1 to `last`, by default to the newest checkpoint.

        Raises UsageError, naming the line and the way back, where one is missing, damaged or there twice.
        """
        if last is None:
            last = int(self.last_checkpoint().stem) if self.has_checkpoint() else 0
        try:
            return metrics.read(self.metrics_file, last)
        except metrics.DamagedRow as error:
            reached = [path for path in checkpoints.paths(self.checkpoints) if int(path.stem) < error.iteration]
            way = f", or remove the checkpoints after {reached[-1]} to go on from there" if reached else ""
            raise UsageError(f"{error}; put the file back as it was{way}") from error

    def cut_metrics(self, iteration: int) -> None:
        """Drop the rows after an iteration, which a resumed training is about to write again."""
        metrics.cut(self.metrics_file, iteration)


def contents(learner: Learner) -> tuple[int, dict[str, Tensor], dict[str, str]]:
    """What a checkpoint keeps: the iteration, the tensors and the words about them."""
    about = {"iteration": str(learner.iteration), "config": json.dumps(asdict(learner.config))}
    if learner.frozen:
        about[GENERATOR] = checkpoints.checksum(learner.frozen)
    if learner.returns:
        about |= {name: repr(getattr(learner, name)) for name in RETURNED}
    return learner.iteration, learner.tensors(), about


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("hatebm", "torch", "numpy", "scikit-learn", "safetensors", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
