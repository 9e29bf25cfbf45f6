"""`hatebm evaluate`: how good a run's samples are, at how many steps, and how well its scores know outliers."""

import argparse
from dataclasses import asdict

import torch

from hatebm.commands.options import device_of, need, set_threads
from hatebm.commands.relocate import PUBLISHED, known, relocated, remember
from hatebm.commands.train import report
from hatebm.data import Images, to_bytes
from hatebm.errors import UsageError
from hatebm.evaluation import Features, classifier_features, features_from, inception, qualities
from hatebm.learning.learner import Learner
from hatebm.runs import detection, plots, stages
from hatebm.runs.folder import Run
from hatebm.runs.results import reference, write_rows
from hatebm.runs.tables import print_detections, print_qualities


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
        named = detection.named_outliers(options.ood, run, options.data_root or ".")
        detect_outliers(run, learner, images, named)
    if options.fid:
        features = _features(options, images, learner.device)
        measure_quality(run, learner, images, features, options.n or 50_000)
    if options.ood is None and not options.fid:
        report(run, learner, images)
    return 0


def detect_outliers(run: Run, learner: Learner, images: Images, named: dict[str, torch.Tensor]) -> None:
    """What each score of the run tells from its data, of made and of named outliers: a table, ood.json and pictures."""
    inside = reference(images)
    sets = detection.compared(run, inside, named)
    scores = detection.scores_of(learner, sets)
    found, learned = detection.detect(scores), detection.data_name(run)
    print_detections(found, f"{len(inside)} images of {learned}")
    print("\n".join(detection.verdicts(found, learned)))
    for name, shows in detection.write(run, sets, scores, found).items():
        print(f"{run.folder / name}: {shows}")


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


def _features(options: argparse.Namespace, images: Images, device: torch.device) -> Features:
    """As asked; else a classifier fitted on the spot for the smallest images that have labels, Inception for others."""
    if options.features is not None:
        return features_from(options.features)
    if options.weights is None and images.train_labels is not None and images.size <= 16:
        return classifier_features(images)
    return inception(options.weights, device=device)
