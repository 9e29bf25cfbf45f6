"""Trainings that diverge go back: where to, with which noise and rate, how often, and wherever they are killed."""
# ruff: noqa: F811 (fixtures by import)

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from returning import SICK, SYSTEM, Breaking, BreakingConfig
from run_folders import flipped, rewritten
from shell import hatebm, same
from tiny import one_thread  # noqa: F401
from two_stages import unseen  # noqa: F401

import hatebm as package
from hatebm.errors import UsageError
from hatebm.runs import checkpoints, returns, stages, symptoms
from hatebm.runs.folder import Run
from hatebm.runs.starts import create
from hatebm.runs.training import TrainingDiverged, train
from hatebm.systems.catalogue import SYSTEMS

SEEN = {
    "metric": "not finite: {'loss': nan, 'sick': 0.0}",
    "weight": "not finite: walker.bias, walker_average.module.bias",
    "chain": "NaN or Inf at Langevin step 2 of 3, in chains 0, 2",
    "symptom": SICK.advice,
}


@pytest.fixture(autouse=True)
def breaking(monkeypatch):
    """The system that breaks can be trained, and a symptom must last 10 iterations."""
    monkeypatch.setitem(SYSTEMS, "breaking", SYSTEM)
    monkeypatch.setattr(symptoms, "WINDOW", 10)


def new_run(folder, **settings) -> Run:
    run = Run(folder, "breaking", "digits", ".", 10, BreakingConfig(**settings))
    create(run)
    return run


def trained(run: Run, on_iteration=lambda row: None) -> tuple[Breaking, list[str]]:
    """What has learned at the end of a run, and what was heard of it."""
    heard, learner = [], stages.load(run) if run.has_checkpoint() else stages.fresh(run)
    assert train(run, learner, tiny.images(), on_iteration, heard.append)
    return learner, heard


def line(iteration: int, seen: str, to: int, count: int, of: int) -> str:
    seed, rate = returns.noise_seed(0, count), {1: "0.5", 2: "0.25", 3: "0.125", 4: "0.0625"}[count]
    where = f"goes on from iteration {to}, with noise of seed {seed} and learning rates times {rate}"
    return f"iteration {iteration}: {seen}; {where} (return {count} of {of})"


def test_each_way_to_diverge_leads_back_to_a_point_from_before_it_showed(tmp_path):
    breaks = (("chain", 15), ("weight", 45), ("symptom", 38), ("metric", 68))
    run = new_run(tmp_path / "run", breaks=breaks, max_returns=4)
    learner, heard = trained(run)
    assert heard == [
        line(15, SEEN["chain"], 0, 1, 4),
        line(45, SEEN["weight"], 20, 2, 4),
        line(47, SEEN["symptom"], 10, 3, 4),  # 20 led to this, though it lay far enough before
        line(68, SEEN["metric"], 40, 4, 4),
    ]
    rows = run.metrics()
    by_hand = Breaking.create(replace(run.config, breaks=()))
    for count, until in ((1, 10), (3, 40), (4, 70)):
        by_hand.returns, by_hand.noise_seed, by_hand.rate = count, returns.noise_seed(0, count), 0.5**count
        while by_hand.iteration < until:
            row = by_hand.advance(tiny.images())
            written = rows[by_hand.iteration - 1]
            assert (written["loss"], written["returns"]) == (row["loss"], count)
    assert same(learner.tensors(), by_hand.tensors())
    assert learner.parts["walker"].optimizer.param_groups[0]["lr"] == 0.1 / 70 / 16
    again = stages.load(run)
    assert same(again.tensors(), learner.tensors())
    assert (again.returns, again.noise_seed, again.rate) == (4, returns.noise_seed(0, 4), 0.0625)
    assert [int(point.stem) for point in checkpoints.paths(run.good)] == [30, 40, 50, 60, 70]


@pytest.mark.parametrize("seed", [0, 7, -3, (1 << 63) - 2])
def test_the_noise_after_a_return_has_a_seed_of_words_of_the_noise_before_it(seed):
    key = torch.tensor([seed % (1 << 32), seed % (1 << 64) >> 32])
    for count in (1, 2, 3):
        w0, w1, *_ = package.philox(torch.tensor([0, 0, count, package.Purpose.RETURN << 8]), key).tolist()
        assert returns.noise_seed(seed, count) == w0 + (w1 >> 2 << 32)
    assert 0 <= returns.noise_seed(seed, 1) < 1 << 62


def test_when_all_returns_are_used_up_the_last_good_point_is_named_each_time_again(tmp_path):
    run = new_run(tmp_path / "run", max_returns=1)
    heard = []
    for _ in range(2):
        learner = stages.load(run) if run.has_checkpoint() else stages.fresh(run)
        with pytest.raises(TrainingDiverged) as caught:
            train(run, learner, tiny.images(), lambda row: None, heard.append)
        assert str(caught.value) == (
            f"training diverged after 1 of 1 returns in iteration 47: {SICK.advice}; "
            f"the last good checkpoint is {run.good / '00000010.safetensors'}"
        )
        assert stages.load(run).returns == 1
    assert heard == [line(45, SEEN["metric"], 20, 1, 1)]


def test_a_training_that_may_not_return_ends_as_ever_and_is_told_the_symptom(tmp_path):
    run = new_run(tmp_path / "run", max_returns=0, breaks=(("symptom", 30),))
    _, heard = trained(run)
    assert heard == [f"iteration 39: {SICK.advice}"]
    assert not run.good.exists()
    assert "returns" not in run.metrics()[-1]
    assert checkpoints.load(run.last_checkpoint())[1].keys() == {"iteration", "config"}
    run = new_run(tmp_path / "other", max_returns=0)
    with pytest.raises(TrainingDiverged) as caught:
        trained(run)
    wanted = f"training diverged in iteration 45: {SEEN['metric']}; the last good checkpoint is {run.last_checkpoint()}"
    assert str(caught.value) == wanted


def test_damaged_points_are_named_and_passed_over(tmp_path):
    whole = trained(new_run(tmp_path / "whole"))[1]
    assert whole == [line(45, SEEN["metric"], 20, 1, 2), line(47, SEEN["symptom"], 10, 2, 2)]

    def damage(run: Run, *names: int):
        def see(row: dict) -> None:
            for point in (run.good / f"{name:08d}.safetensors" for name in names if row["step"] == 44):
                point.write_bytes(flipped(point.read_bytes(), 8 * point.stat().st_size - 9))

        return see

    run = new_run(tmp_path / "one", max_returns=1, breaks=(("metric", 45),))
    _, heard = trained(run, damage(run, 20))
    assert heard == [
        f"the checkpoint {run.good / '00000020.safetensors'} is damaged: its checksum differs; it is passed over",
        line(45, SEEN["metric"], 10, 1, 1),
    ]
    run, heard = new_run(tmp_path / "all"), []
    with pytest.raises(TrainingDiverged, match=r"in iteration 45: ") as caught:
        train(run, stages.fresh(run), tiny.images(), damage(run, 0, 10, 20), heard.append)
    assert str(caught.value).endswith(str(run.last_checkpoint()))
    assert [str(run.good / f"{name:08d}.safetensors") in said for name, said in zip((20, 10, 0), heard, strict=True)]


def test_what_a_checkpoint_says_of_returns_is_checked(tmp_path):
    run = new_run(tmp_path / "run")
    trained(run)
    said = {"returns": "2", "noise_seed": "3", "rate": "0.25"}
    wrong = {"rate": ("2.0", "0.0", "nan", ""), "returns": ("-1", "1.5"), "noise_seed": (str(1 << 63), "a")}
    for other in ({name: value} for name, values in wrong.items() for value in values):
        rewritten(run.last_checkpoint(), lambda tensors, about, words=said | other: about.update(words))
        with pytest.raises(UsageError, match=r"does not fit the run: (it has returns = |could not|invalid literal)"):
            stages.load(run)
    rewritten(run.last_checkpoint(), lambda tensors, about: about.update(said))
    assert stages.load(run).noise_seed == 3


def test_points_that_are_gone_are_begun_anew_where_a_training_goes_on(tmp_path):
    run = new_run(tmp_path / "run", iterations=33, breaks=(("metric", 45),))
    trained(run)
    for point in checkpoints.paths(run.good):
        point.unlink()
    learner, heard = trained(replace(run, config=replace(run.config, iterations=70)))
    assert heard == [line(45, SEEN["metric"], 33, 1, 2)]
    assert learner.returns == 1
    returns.begin(run, stages.fresh(run))
    assert [int(point.stem) for point in checkpoints.paths(run.good)] == [0]


def test_a_return_is_printed(tmp_path, unseen):
    said = hatebm("train", "breaking", "--data", "digits", "--threads", "1", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    for wanted in (line(45, SEEN["metric"], 20, 1, 2), line(47, SEEN["symptom"], 10, 2, 2)):
        assert wanted in said.out
    assert hatebm("train", "--resume", "--out", tmp_path / "run").code == 0


def test_trainings_killed_before_during_and_after_a_return_end_with_the_same_bits(tmp_path):
    script = Path(__file__).with_name("killed_returns.py")
    places = os.pathsep.join(filter(None, map(str, sys.path)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": places}
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_large_weights_are_no_divergence(tmp_path):
    run = new_run(tmp_path / "run", iterations=2, breaks=())
    learner = stages.fresh(run)
    learner.memory["trace"].fill_(3e38)  # finite, and their sum is not
    assert train(run, learner, tiny.images(), lambda row: None)
