"""`hatebm evaluate`: how good a run's samples are, at how many steps, and how well its energy knows outliers."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from hatebm import data
from hatebm.commands.options import device_of, need, set_threads
from hatebm.commands.relocate import PUBLISHED, known, relocated, remember
from hatebm.commands.train import report
from hatebm.data import Images, to_bytes, to_pixels
from hatebm.errors import UsageError
from hatebm.evaluation import (
    Features,
    classifier_features,
    detection,
    energy_score,
    features_from,
    inception,
    outliers,
    qualities,
    score_norm,
)
from hatebm.learning.learner import Learner
from hatebm.runs import plots, stages
from hatebm.runs.folder import Run
from hatebm.runs.results import reference, write_rows
from hatebm.runs.tables import print_detections, print_qualities
from hatebm.terminal import spelled


def evaluate(options: argparse.Namespace) -> int:
    """The table and the pictures that end a training; or with --ood and --fid, theirs."""
    need("PIL", "safetensors", "rich", "matplotlib", *(["torchmetrics"] if options.fid else []))
    _refuse_idle(options)
    begun = Run.open(options.run)
    if options.data_root is not None and options.ood is None and begun.data not in PUBLISHED:
        raise UsageError("--data-root goes with --ood, or with a run on a published data set whose files have moved")
    run = relocated(begun, options.data, options.data_root if options.ood is None else None)
    set_threads(options.threads, run)
    images = run.images()
    if run != begun:
        run = known(run, images)
        remember(run, begun)
    learner = stages.load(run, device_of(options))
    if options.ood is not None:
        others = {name: _outliers_from(name, run, options.data_root or ".") for name in options.ood}
        detect_outliers(run, learner, images, others)
    if options.fid:
        features = _features(options, images, learner.device)
        measure_quality(run, learner, images, features, options.n or 50_000)
    if options.ood is None and not options.fid:
        report(run, learner, images)
    return 0


def detect_outliers(run: Run, learner: Learner, images: Images, others: dict[str, torch.Tensor]) -> None:
    """AUROC, AUPRC and FPR80 of the run's energy for made and given outliers: a table, ood.json and ood.png."""
    inside, data_name = reference(images), spelled(Path(run.data).name)
    outside = outliers(inside, seed=run.config.seed) | {spelled(name): other for name, other in others.items()}
    found = {}
    for name, score, file in (("-H(x)", energy_score, "ood.png"), ("-|dH/dx|", score_norm, "ood-gradient.png")):
        typical, *others_scores = (
            score(learner.energy, to_pixels(x.to(learner.device))).cpu() for x in (inside, *outside.values())
        )
        scores = dict(zip(outside, others_scores, strict=True))
        found[name] = {label: detection(typical, values) for label, values in scores.items()}
        print_detections(found[name], name, f"{len(inside)} images of {data_name}")
        shown = {f"{data_name} (learned)": typical} | scores
        plots.save_histogram(run.folder / file, shown, f"{name} of {data_name} and of outliers", name)
        print(f"{run.folder / file}: histogram of {name}")
    rows = [
        {"score": score, "outliers": label, **asdict(one)}
        for score, by_label in found.items()
        for label, one in by_label.items()
    ]
    write_rows(run.folder / "ood.json", rows)


def measure_quality(run: Run, learner: Learner, images: Images, features: Features, n: int) -> None:
    """Frechet distance and KID of n samples after growing numbers of steps: a table, quality.json and quality.png."""
    last, steps = max(learner.stages().values()), learner.quality_steps()
    seed = run.config.seed + 1
    batches = (
        {step: to_bytes(x) for step, x in zip(steps, seen, strict=True)}
        for seen in learner.batches(n, steps, seed=seed)
    )
    try:
        found = qualities(batches, images.train.split(250), features, kid_of=last)
    except (TypeError, ValueError) as error:
        if not str(error).startswith("quality: "):
            raise
        raise UsageError(f"--fid: {error}") from error
    print_qualities(found, f"{len(images.train)} training images")
    rows = [{"steps": step, **asdict(quality)} for step, quality in found.items()]
    write_rows(run.folder / "quality.json", rows)
    if len(found) > 1:
        picture = run.folder / "quality.png"
        distances, errors = zip(*((q.frechet, q.frechet_error) for q in found.values()), strict=True)
        plots.save_quality(picture, list(found), distances, errors, learner.trained_steps)
        print(f"{picture}: quality against the number of Langevin steps")


def _refuse_idle(options: argparse.Namespace) -> None:
    """Refuse what would play no part."""
    for name in ("n", "weights", "features"):
        if getattr(options, name) is not None and not options.fid:
            raise UsageError(f"--{name} goes with --fid")
    if options.features is not None and options.weights is not None:
        raise UsageError("--weights are Inception's, got --features too")
    if options.n is not None and options.n < 3:
        raise UsageError(f"--n: wanted at least 3 samples, got {options.n}")


def _outliers_from(name: str, run: Run, root: str) -> torch.Tensor:
    images = reference(data.load(name, run.config.size, root, run.config.crop))
    if images.shape[1] == run.config.channels:
        return images
    if run.config.channels == 3:
        return images.expand(-1, 3, -1, -1)
    return images.float().mean(1, keepdim=True).round().byte()


def _features(options: argparse.Namespace, images: Images, device: torch.device) -> Features:
    """As asked; else a classifier fitted on the spot for the smallest images that have labels, Inception for others."""
    if options.features is not None:
        return features_from(options.features)
    if options.weights is None and images.train_labels is not None and images.size <= 16:
        return classifier_features(images)
    return inception(options.weights, device=device)
