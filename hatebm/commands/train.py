"""`hatebm train`: start or resume a run, stage by stage, then evaluate it and draw its pictures."""

import argparse
import shlex

import torch

from hatebm import results, stages
from hatebm.commands.begin import resumed, started
from hatebm.commands.options import device_of, need, set_threads
from hatebm.data import Images
from hatebm.learner import Learner
from hatebm.progress import progress
from hatebm.runs import Run
from hatebm.tables import print_scores
from hatebm.training import train as train_run


def train(options: argparse.Namespace) -> int:
    """Train every stage of a run that is not finished yet; returns the exit code, 130 after Ctrl-C."""
    need("sklearn", "PIL", "safetensors", "rich", "matplotlib", "pooch")
    device = device_of(options)
    run, images = resumed(options) if options.resume else started(options)
    set_threads(options.threads, run)
    before = stages.first_stage(run)
    for stage in (before, run) if before is not None else (run,):
        learner = _begun(stage, device)
        if not _finish(stage, learner, images):
            print(f"stopped after iteration {learner.iteration} of {stage.config.iterations}, and saved; go on with")
            print(f"  hatebm train {run.system} --out {shlex.quote(str(run.folder))} --resume")
            return 130
    report(run, learner, images)
    return 0


def report(run: Run, learner: Learner, images: Images) -> None:
    """Evaluate what a run has learned and draw its pictures; prints the table and names the files."""
    images = results.judges(images)
    scores = results.evaluate(run, learner, images)
    results.write_results(run, scores)
    held_out = len(images.held_out)
    print_scores(scores, f"{held_out} held-out images" if held_out else f"the {len(images.train)} training images")
    for name, shows in results.write_pictures(run, learner, images).items():
        print(f"{run.folder / name}: {shows}")


def _begun(run: Run, device: torch.device) -> Learner:
    learner = stages.fresh(run, device)
    return run.restore(learner) if run.has_checkpoint() else learner


def _finish(run: Run, learner: Learner, images: Images) -> bool:
    """Train a stage to its end; False when it was stopped before."""
    if learner.iteration >= run.config.iterations and run.has_checkpoint():
        return True
    print(
        f"{run.system} on {run.data}: {len(images.train)} images, {run.config.iterations} iterations, in {run.folder}"
    )
    with progress(run.config.iterations, learner.iteration, learner.CURVES) as (show, say):
        return train_run(run, learner, images, show, say)
