"""`hatebm train`: start or resume a run, stage by stage, then evaluate it and draw its pictures."""

import argparse
import shlex

from hatebm.commands.begin import begun
from hatebm.commands.options import device_of, need, set_threads
from hatebm.data import Images
from hatebm.errors import CannotWrite
from hatebm.learning.learner import Learner
from hatebm.runs import results, stages
from hatebm.runs.folder import Run
from hatebm.runs.progress import progress
from hatebm.runs.tables import print_scores
from hatebm.runs.training import train as train_run


def train(options: argparse.Namespace) -> int:
    """Train every stage of a run that is not finished yet; returns the exit code, 130 after Ctrl-C."""
    need("PIL", "safetensors", "rich", "matplotlib")
    device = device_of(options)
    with begun(options, device) as (run, images, ready):
        set_threads(options.threads, run)
        before = stages.first_stage(run)
        try:
            for stage in (before, run) if before is not None else (run,):
                begins = stages.load if stage.has_checkpoint() else stages.fresh
                learner = ready.get(stage.folder) or begins(stage, device)
                if not _finish(stage, learner, images):
                    done = f"stopped after iteration {learner.iteration} of {stage.config.iterations}, and saved"
                    print(f"{done}; go on with\n  {_resume(run)}")
                    return 130
            report(run, learner, images)
        except CannotWrite as error:
            raise CannotWrite(f"{error}, then go on with {_resume(run)}") from error
    return 0


def _resume(run: Run) -> str:
    return f"hatebm train {run.system} --out {shlex.quote(str(run.folder))} --resume"


def report(run: Run, learner: Learner, images: Images) -> None:
    """Evaluate what a run has learned and draw its pictures; prints the table and names the files."""
    images = results.judges(images)
    scores = results.evaluate(run, learner, images)
    results.write_results(run, scores)
    held_out = len(images.held_out)
    print_scores(scores, f"{held_out} held-out images" if held_out else f"the {len(images.train)} training images")
    for name, shows in results.write_pictures(run, learner, images).items():
        print(f"{run.folder / name}: {shows}")


def _finish(run: Run, learner: Learner, images: Images) -> bool:
    """Train a stage to its end; False when it was stopped before."""
    if learner.iteration >= run.config.iterations and run.has_checkpoint():
        return True
    of = f"{len(images.train)} images" + (f" of {learner.classes} classes" if learner.classes else "")
    print(f"{run.system} on {run.data}: {of}, {run.config.iterations} iterations, in {run.folder}")
    with progress(run.config.iterations, learner.iteration, learner.CURVES) as (show, say):
        return train_run(run, learner, images, show, say)
