"""What a trained run has to show: Frechet distances, covered classes and pictures."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from hatebm.data import Images, to_bytes, to_pixels
from hatebm.evaluation import Classifier, class_shares, frechet_distance, pixel_features
from hatebm.learning.learner import Learner
from hatebm.runs import pictures, plots, stages
from hatebm.runs.files import write_text
from hatebm.runs.folder import Run

SHOWN = 100
JUDGES = 4000  # images of either part that samples are judged by, half of them where images are large
ENOUGH = 0.03  # a class counts as covered from this share of the samples on


@dataclass(frozen=True)
class Score:
    """How far one set of samples is from the data; without classes there are the pixels alone."""

    samples: str
    pixel_frechet: float
    feature_frechet: float | None = None
    classes_covered: int | None = None
    smallest_share: float | None = None
    label_agreement: float | None = None  # share of samples of classes whose class the classifier gives them


def samples(run: Run, learner: Learner, images: Images, n: int) -> dict[str, Tensor]:
    """Sets of n images that are worth comparing: what the stage before draws, then what this one draws."""
    seed, before = run.config.seed + 1, stages.first_stage(run)
    drawn = {} if before is None else stages.load(before, learner.device).samples(images, n, seed=seed)
    return drawn | learner.samples(images, n, seed=seed)


def reference(images: Images) -> Tensor:
    """What samples are compared with: the held-out images, where there are any."""
    return images.held_out if len(images.held_out) else images.train


def judges(images: Images) -> Images:
    """Of a large set an even choice, by which samples are judged."""
    return images.thinned(JUDGES if images.size <= 16 else JUDGES // 2)


def evaluate(run: Run, learner: Learner, images: Images) -> list[Score]:
    """Scores of the training images and of all that the run draws, against the held-out images.

    Distances are squared Frechet distances in pixels (averaged to at most 8 x 8) and, where there are labels, in the
    penultimate layer of a small classifier fitted on the real training images. A set too small to have a held-out part
    is compared with its training images.
    """
    real = reference(images)
    n = min(1000 if images.size <= 16 else 200, max(100, 2 * len(real)))
    sets = {"training images": images.train}
    sets |= {name: to_bytes(x) for name, x in samples(run, learner, images, n).items()}
    classifier, labels = None, learner.sample_labels(n)
    if images.train_labels is not None:
        classifier = Classifier.fit(to_pixels(images.train), images.train_labels)
    return [_score(name, to_pixels(x), to_pixels(real), classifier, labels.get(name)) for name, x in sets.items()]


def _score(name: str, pixels: Tensor, reference: Tensor, classifier: Classifier | None, labels: Tensor | None) -> Score:
    distance = frechet_distance(pixel_features(pixels), pixel_features(reference))
    if classifier is None:
        return Score(name, distance)
    predicted = classifier.predict(pixels)
    shares = class_shares(predicted, classifier.head.out_features)
    return Score(
        name,
        distance,
        frechet_distance(classifier.features(pixels), classifier.features(reference)),
        int((shares >= ENOUGH).sum()),
        float(shares.min()),
        None if labels is None else float((predicted == labels).float().mean()),
    )


def write_results(run: Run, scores: list[Score]) -> None:
    """Write the scores to results.json."""
    write_rows(run.folder / "results.json", [asdict(score) for score in scores])


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON, in which a number that is not finite is null."""
    write_text(path, json.dumps(_finite(rows), indent=2, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_pictures(run: Run, learner: Learner, images: Images) -> dict[str, str]:
    """Draw samples.png, path.gif, path.png and curves.png into the run's folder; returns file name -> what it shows."""
    few = images.thinned(SHOWN)
    panels = {"held-out data" if len(images.held_out) else "data": reference(few)}
    columns, labels = pictures.columns_of(SHOWN, learner.classes), learner.sample_labels(SHOWN)
    for name, x in samples(run, learner, few, SHOWN).items():
        panels[name + _in_columns(labels.get(name), columns)] = to_bytes(x)
    pictures.save_panels(run.folder / "samples.png", panels, columns)
    shown = {"samples.png": ", ".join(panels)}
    last = max(learner.stages().values())
    if last:
        path = langevin_path(learner, last, chains=25, frames=21, seed=run.config.seed + 1)
        pictures.save_film(run.folder / "path.gif", list(path.values()), columns=5)
        pictures.save_strip(run.folder / "path.png", {step: x[:8] for step, x in list(path.items())[::2]})
        shown["path.gif"] = f"25 chains from step 0 to {last}"
        shown["path.png"] = f"8 chains from step 0 to {last}"
    rows = run.metrics(learner.iteration) if run.metrics_file.exists() else []
    if rows:
        plots.save_curves(run.folder / "curves.png", rows, learner.CURVES)
        shown["curves.png"] = f"{', '.join(learner.CURVES.values())} over the training"
    return shown


def _in_columns(labels: Tensor | None, columns: int) -> str:
    """Words for a title where each column holds samples of one class."""
    if labels is None or not all(torch.equal(row, labels[: len(row)]) for row in labels.split(columns)):
        return ""
    return f" (classes {int(labels.min())} to {int(labels.max())} in columns)"


def langevin_path(
    learner: Learner, last: int, *, chains: int, frames: int, seed: int, labels: Sequence[int] | None = None
) -> dict[int, Tensor]:
    """Chains on their way: step -> (chains, channels, size, size) uint8, at evenly spaced steps from 0 to the last.

    labels: classes, as the `chain` of a learner that draws of classes takes them.
    """
    steps = sorted({round(i * last / (frames - 1)) for i in range(frames)})
    return dict(zip(steps, map(to_bytes, learner.sample(chains, steps, seed=seed, labels=labels)), strict=True))
