"""Runs: going on bit for bit after any stop, checkpoints that are whole, and a training that diverges."""

import json
import os
import signal
from dataclasses import replace
from importlib import metadata

import pytest
import tiny
import torch
from tiny import one_thread  # noqa: F401

from hatebm.errors import UsageError
from hatebm.runs import checkpoints, stages
from hatebm.runs.config_json import config_from_json
from hatebm.runs.folder import Run
from hatebm.runs.starts import create
from hatebm.runs.training import TrainingDiverged, train
from hatebm.systems.hat import Synthesis, SynthesisConfig


def new_run(folder, **settings) -> tuple[Run, Synthesis]:
    config = replace(tiny.CONFIG, **settings)
    run = Run(folder, "hat-synthesis", "digits", ".", 10, config)
    create(run)
    return run, Synthesis.create(config)


def ignore(row: dict) -> None:
    pass


def assert_same_run(run: Run, other: Run) -> None:
    ours, theirs = (checkpoints.load(r.last_checkpoint()) for r in (run, other))
    assert ours[1]["iteration"] == theirs[1]["iteration"]
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(tensor, theirs[0][name]) for name, tensor in ours[0].items())
    for row, row_of_other in zip(run.metrics(), other.metrics(), strict=True):
        assert {**row, "langevin_steps_per_s": 0} == {**row_of_other, "langevin_steps_per_s": 0}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Run:
    run, learner = new_run(tmp_path_factory.mktemp("straight") / "run")
    assert train(run, learner, tiny.images(), ignore)
    return run


def test_a_run_writes_a_row_for_each_iteration_and_its_configuration(straight):
    assert [row["step"] for row in straight.metrics()] == [1, 2, 3, 4, 5, 6]
    assert straight.metrics()[0].keys() >= {"energy_gap", "generator_loss", "displacement", "langevin_steps_per_s"}
    written = json.loads((straight.folder / "config.json").read_text())
    assert written["config"]["seed"] == 0
    assert written["versions"]["torch"] == metadata.version("torch")  # builds for CUDA call themselves 2.10.0+cu128
    assert Run.open(straight.folder) == straight


@pytest.mark.parametrize("pause", [1, 3, 5])
def test_resuming_equals_going_on(straight, tmp_path, pause):
    run, learner = new_run(tmp_path / "run", iterations=pause)
    train(run, learner, tiny.images(), ignore)
    run = replace(Run.open(tmp_path / "run"), config=tiny.CONFIG)
    assert train(run, stages.load(run), tiny.images(), ignore)
    assert_same_run(run, straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-C", "terminated"])
def test_a_signal_saves_and_the_run_goes_on_bit_for_bit(straight, tmp_path, number):
    def stop_at_three(row: dict) -> None:
        if row["step"] == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    run, learner = new_run(tmp_path / "run")
    assert not train(run, learner, tiny.images(), stop_at_three)
    assert signal.getsignal(number) is before
    assert run.last_checkpoint().stem == "00000003"
    assert train(run, stages.load(run), tiny.images(), ignore)
    assert_same_run(run, straight)


def test_a_run_killed_while_writing_goes_on_from_the_last_whole_checkpoint(straight, tmp_path):
    run, learner = new_run(tmp_path / "run", iterations=4)
    train(run, learner, tiny.images(), ignore)
    (run.checkpoints / "partial").write_bytes(b"half of a checkpoi")
    with run.metrics_file.open("a") as metrics:
        metrics.write('{"step": 5, "energy_gap": 1.0}\n{"step": 6, "ene')
    run = replace(run, config=tiny.CONFIG)
    assert train(run, stages.load(run), tiny.images(), ignore)
    assert_same_run(run, straight)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for iteration in (0, 7, 100, 20):
        checkpoints.save(tmp_path, iteration, {"x": torch.zeros(2, 3).mT}, {"iteration": str(iteration)})
    assert [path.stem for path in checkpoints.paths(tmp_path)] == ["00000007", "00000020", "00000100"]


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_a_broken_checkpoint_is_named(tmp_path, damage):
    run, learner = new_run(tmp_path / "run", iterations=1)
    train(run, learner, tiny.images(), ignore)
    path = run.last_checkpoint()
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "foreign": b"x" * 1000}[damage])
    with pytest.raises(UsageError, match=f"{path.name} cannot be read"):
        stages.load(run)


def test_a_checkpoint_of_other_networks_is_refused(straight):
    run = replace(straight, config=replace(tiny.CONFIG, energy_widths=(4, 7)))
    with pytest.raises(UsageError, match="does not fit the run"):
        stages.load(run)


def test_divergence_stops_names_the_place_and_leaves_the_last_checkpoint_whole(tmp_path):
    run, learner = new_run(tmp_path / "run", iterations=50, energy_lr=1e30)
    with pytest.raises(TrainingDiverged) as caught:
        train(run, learner, tiny.images(), ignore)
    message = str(caught.value)
    assert "in iteration" in message
    assert "chains 0, 1, 2, 3" in message
    assert str(run.last_checkpoint()) in message
    assert all(tensor.isfinite().all() for tensor in stages.load(run).tensors().values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run, learner = new_run(tmp_path / "run", iterations=1)
    train(run, learner, tiny.images(), ignore)
    with torch.no_grad():
        learner.parts["generator"].network.conv.bias.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=r"not finite: generator\.conv\.bias"):
        train(run, learner, tiny.images(), ignore)
    assert stages.load(run).generator.conv.bias.isfinite().all()


def test_a_folder_that_exists_or_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="exists already; add --resume"):
        new_run(tmp_path)
    with pytest.raises(UsageError, match="cannot make the folder"):
        new_run(tmp_path / "file" / "run")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is not the folder of a run: it has no config\.json"):
        Run.open(tmp_path)
    (tmp_path / "config.json").write_text('{"system": ')
    with pytest.raises(UsageError, match="is not the configuration of a run"):
        Run.open(tmp_path)
    with pytest.raises(ValueError, match=r"unknown keys \['speed'\]"):
        config_from_json(SynthesisConfig, {"speed": 1})
