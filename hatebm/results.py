"""What a trained run has to show: Frechet distances, covered classes and pictures."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hatebm import pictures
from hatebm.data import Images, to_bytes, to_pixels
from hatebm.evaluation import Classifier, class_shares, frechet_distance, pixel_features
from hatebm.runs import Run
from hatebm.systems.hat import HatState, sampling_chain

CHAINS_AT_ONCE = 250
SHOWN = 100
ENOUGH = 0.03  # a class counts as covered from this share of the samples on


@dataclass(frozen=True)
class Score:
    """How far one set of samples is from the data; without classes there are the pixels alone."""

    samples: str
    pixel_frechet: float
    feature_frechet: float | None = None
    classes_covered: int | None = None
    smallest_share: float | None = None


def sample(state: HatState, n: int, steps: Sequence[int], *, seed: int) -> list[Tensor]:
    """Run n chains of a trained model, seen after each of the increasing numbers of Langevin steps; 0 is G(z) + y0.

    Result: for each entry of `steps`, (n, channels, size, size) float32, unclipped.
    """
    parts = []
    for first in range(0, n, CHAINS_AT_ONCE):
        chain = sampling_chain(state, range(first, min(first + CHAINS_AT_ONCE, n)), seed=seed)
        done, seen = 0, []
        for goal in steps:
            seen.append(chain.run(goal - done))
            done = goal
        parts.append(seen)
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def evaluate(state: HatState, images: Images) -> list[Score]:
    """Scores of the training images, G(z) alone, K and 2K Langevin steps against the held-out images.

    Distances are squared Frechet distances in pixels (averaged to at most 8 x 8) and, where there are labels, in the
    penultimate layer of a small classifier fitted on the real training images. A set too small to have a held-out part
    is compared with its training images.
    """
    k = state.config.langevin_steps
    reference = images.held_out if len(images.held_out) else images.train
    n = min(1000 if images.size <= 16 else 200, max(100, 2 * len(reference)))
    drawn = sample(state, n, (0, k, 2 * k), seed=state.config.seed + 1)
    sets = {"training images": images.train}
    names = ("G(z) alone", f"K = {k} steps", f"2K = {2 * k} steps")
    sets |= {name: to_bytes(x) for name, x in zip(names, drawn, strict=True)}
    classifier = None
    if images.train_labels is not None:
        classifier = Classifier.fit(to_pixels(images.train), images.train_labels)
    return [_score(name, to_pixels(x), to_pixels(reference), classifier) for name, x in sets.items()]


def _score(name: str, pixels: Tensor, reference: Tensor, classifier: Classifier | None) -> Score:
    distance = frechet_distance(pixel_features(pixels), pixel_features(reference))
    if classifier is None:
        return Score(name, distance)
    shares = class_shares(classifier.predict(pixels), classifier.head.out_features)
    return Score(
        name,
        distance,
        frechet_distance(classifier.features(pixels), classifier.features(reference)),
        int((shares >= ENOUGH).sum()),
        float(shares.min()),
    )


def write_results(run: Run, scores: list[Score]) -> None:
    """Write the scores to results.json."""
    (run.folder / "results.json").write_text(json.dumps([asdict(score) for score in scores], indent=2) + "\n")


def write_pictures(run: Run, state: HatState, images: Images) -> dict[str, str]:
    """Draw samples.png, path.gif, path.png and curves.png into the run's folder; returns file name -> what it shows."""
    k = state.config.langevin_steps
    path = [to_bytes(x) for x in sample(state, SHOWN, range(2 * k + 1), seed=state.config.seed + 1)]
    panels = {
        "data": images.train[:SHOWN],
        "G(z) alone": path[0],
        f"after {k} Langevin steps": path[k],
        f"after {2 * k} Langevin steps": path[2 * k],
    }
    pictures.save_panels(run.folder / "samples.png", panels, columns=10)
    pictures.save_film(run.folder / "path.gif", [x[:25] for x in path], columns=5)
    pictures.save_strip(run.folder / "path.png", path[: k + 1])
    shown = {
        "samples.png": f"data, G(z) alone, after {k} and {2 * k} Langevin steps",
        "path.gif": f"25 chains from step 0 to {2 * k}",
        "path.png": f"8 chains from step 0 to {k}",
    }
    rows = run.metrics()
    if rows:
        labels = {
            "energy_gap": "energy gap / T",
            "generator_loss": "generator loss",
            "displacement": "displacement per step (L2)",
        }
        pictures.save_curves(run.folder / "curves.png", rows, labels)
        shown["curves.png"] = "energy gap, generator loss and displacement over the training"
    return shown
