"""Runs of two stages: each stage a run, stopped and gone on with anywhere, and sampled."""
# ruff: noqa: F811 (fixtures by import)

import shutil

import pytest
import torch
from shell import FIRST, hatebm, refusal, same, state, train
from tiny import one_thread  # noqa: F401
from two_stages import ctrl_c, data, rows_seen, straight, unseen  # noqa: F401

from hatebm.ops.noise import Purpose, normal
from hatebm.runs import stages
from hatebm.runs.folder import Run
from hatebm.systems.sngan import presets

TWO_STAGES = pytest.mark.parametrize("system", FIRST)


def killed() -> None:
    raise KeyboardInterrupt


@TWO_STAGES
def test_the_first_stage_is_a_run_of_its_own(straight, system, capsys):
    folder = straight[system] / "generator"
    run = Run.open(folder)
    assert run.system == {"hat-refine": "sngan", "hat-retrofit": "autoencoder"}[system]
    assert (run.config.iterations, run.config.batch, run.config.size, run.config.channels) == (3, 4, 8, 3)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert hatebm("sample", folder, "--n", 2).code == 0
    said = hatebm("evaluate", folder)
    assert said.code == 0
    assert "the 12 training images" in said.out
    assert (folder / "results.json").exists()


@TWO_STAGES
def test_the_second_stage_learns_on_the_generator_of_the_first(straight, system):
    joint, first = (stages.load(Run.open(folder)) for folder in (straight[system], straight[system] / "generator"))
    assert same(joint.generator.state_dict(), first.generator.state_dict())
    z = torch.randn(2, *joint.generator.latent_shape)
    assert torch.equal(joint.generator(z), first.generator(z))
    fresh = stages.fresh(Run.open(straight[system] / "generator"))
    assert not same(joint.generator.state_dict(), fresh.generator.state_dict())


def test_numbers_reach_their_stage(data, tmp_path, unseen):
    more = ["--seed", "5", "--set", "generator.iterations=2", "--set", "generator.generator_lr=1e-3"]
    assert hatebm(*train("hat-refine", data, tmp_path / "run", *more)).code == 0
    joint, first = (Run.open(folder).config for folder in (tmp_path / "run", tmp_path / "run" / "generator"))
    assert (joint.iterations, joint.seed) == (3, 5)
    assert (first.iterations, first.seed, first.generator_lr, first.latent_dim) == (2, 5, 1e-3, 5)


def test_the_first_stage_is_never_longer_than_its_default(data, tmp_path, monkeypatch):
    monkeypatch.setattr("hatebm.commands.train._finish", lambda *_: False)
    assert hatebm(*train("hat-refine", data, tmp_path / "run", "--steps", "99999")).code == 130
    assert Run.open(tmp_path / "run").config.iterations == 99999
    assert Run.open(tmp_path / "run" / "generator").config.iterations == presets.small(8, 3).iterations


# Seen are: the mark of stage one (1), its rows (2-4), the mark of stage two (5), its rows (6-8).
STOPS = {"in stage one": (3, ctrl_c), "at the end of stage one": (4, ctrl_c), "in stage two": (7, ctrl_c)}
STOPS |= {"killed in stage one": (3, killed), "killed between": (5, killed), "killed in stage two": (7, killed)}


@TWO_STAGES
@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_run_goes_on_bit_for_bit(straight, data, tmp_path, monkeypatch, unseen, system, stop):
    at, how = STOPS[stop]
    folder, stopped = straight[system], tmp_path / "run"
    with rows_seen(monkeypatch, at, how) as seen:
        said = hatebm(*train(system, data, stopped))
    assert said.code == 130
    assert len(seen) == at
    if how is ctrl_c:
        done = min(at - 1, 3) if at < 5 else at - 5
        assert f"stopped after iteration {done} of 3, and saved" in said.out
        assert f"hatebm train {system} --out {stopped} --resume" in said.out
    with rows_seen(monkeypatch) as seen:
        assert hatebm("train", system, "--out", stopped, "--resume").code == 0
    for part in (".", "generator"):
        assert same(state(stopped / part), state(folder / part))
        rows = [[row | {"steps/s": 0} for row in Run.open(run / part).metrics()] for run in (stopped, folder)]
        for ours, theirs in zip(*rows, strict=True):
            speeds = [name for name in ours if name.endswith("_per_s")]
            assert ours | dict.fromkeys(speeds, 0) == theirs | dict.fromkeys(speeds, 0)
    if stop in ("at the end of stage one", "killed between"):
        assert len(seen) == 4  # nothing of stage one


@TWO_STAGES
def test_more_steps_extend_the_second_stage_alone(straight, tmp_path, monkeypatch, unseen, system):
    shutil.copytree(straight[system], tmp_path / "run")
    before = state(tmp_path / "run" / "generator")
    with rows_seen(monkeypatch) as seen:
        assert hatebm("train", system, "--out", tmp_path / "run", "--resume", "--steps", 5).code == 0
    assert [row if row == "stage" else row["step"] for row in seen] == ["stage", 4, 5]
    assert Run.open(tmp_path / "run").config.iterations == 5
    assert Run.open(tmp_path / "run" / "generator").config.iterations == 3
    assert same(before, state(tmp_path / "run" / "generator"))


def test_what_a_resumed_run_cannot_change_is_refused(straight, data, unseen):
    folder = straight["hat-refine"]
    for more, message in (
        (["--set", "generator.latent_dim=7"], "generator.latent_dim = 5 and keeps it, got 7"),
        (["--set", "generator.speed=7"], "unknown key 'speed'"),
        (["--generator", data], "has its generator, got"),
        (["--preset", "cifar10"], "has size = 8 and keeps it, got 32"),
        (["--data-root", "/"], "and keeps it, got /"),
        (["--set", "energy_widths=(8,8)"], "energy_widths = (4, 6) and keeps it, got (8, 8)"),
        (["--steps", "2"], "--steps: the run has 3 iterations already, got 2"),
    ):
        assert message in refusal("train", "hat-refine", "--out", folder, "--resume", *more)
    assert "is one of hat-refine, got sngan" in refusal("train", "sngan", "--out", folder, "--resume")
    same_again = ["--set", "generator.latent_dim=5", "--set", "energy_widths=(4,6)"]
    assert hatebm("train", "--out", folder, "--resume", *same_again).code == 0


METHODS = [
    ("hat-refine", "ddls", None),
    ("hat-refine", "langevin", None),
    ("hat-refine/generator", "ddls", None),
    ("hat-refine/generator", "langevin", "can be sampled by ddls, got langevin"),
    ("hat-retrofit", "langevin", None),
    ("hat-retrofit", "ddls", "can be sampled by langevin, decoding, got ddls"),
    ("hat-retrofit/generator", "langevin", "can be sampled by decoding, got langevin"),
    ("hat-synthesis", "langevin", None),
    ("hat-synthesis", "ddls", "can be sampled by langevin, got ddls"),
]


@pytest.mark.parametrize(("run", "method", "message"), METHODS)
def test_each_run_is_sampled_by_its_methods(straight, tmp_path, run, method, message):
    folder, out = straight["hat-refine"].parent / run, tmp_path / "a.png"
    arguments = ["sample", folder, "--method", method, "--n", 2, "--out", out]
    if message is None:
        assert hatebm(*arguments).code == 0
        assert out.exists()
    else:
        assert message in refusal(*arguments)
        assert not out.exists()


def test_ddls_of_a_refinement_is_that_of_its_first_stage(straight, tmp_path):
    for name, folder in (("a", straight["hat-refine"]), ("b", straight["hat-refine"] / "generator")):
        assert hatebm("sample", folder, "--method", "ddls", "--n", 3, "--out", tmp_path / f"{name}.png").code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert hatebm("sample", straight["hat-refine"], "--n", 3, "--out", tmp_path / "c.png").code == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_no_steps_show_the_generator_alone(straight, tmp_path):
    for name, method in (("a", "ddls"), ("b", "langevin")):
        arguments = ["--method", method, "--steps", 0, "--n", 3, "--out", tmp_path / f"{name}.png"]
        assert hatebm("sample", straight["hat-refine"], *arguments).code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    refined, seed = stages.load(Run.open(straight["hat-refine"])), 0
    z = normal((3, 5), seed=seed, step=0, purpose=Purpose.INITIAL_STATE)
    (images,) = refined.sample(3, [0], seed=seed)
    torch.testing.assert_close(images, refined.generator(z), rtol=0, atol=1e-6)


def test_paths_are_drawn(straight, tmp_path):
    for run, steps in (("hat-refine", "0, 1, 2, 3, 4, 5, 6"), ("hat-retrofit/generator", "0")):
        said = hatebm("sample", straight["hat-refine"].parent / run, "--path", "--n", 2)
        assert said.out.endswith(f"2 chains at steps {steps}\n")
    said = hatebm("sample", straight["hat-refine"], "--path", "--steps", 20, "--n", 2, "--out", tmp_path / "a.png")
    assert "at steps 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20" in said.out


def test_an_autoencoder_takes_no_steps(straight):
    folder = straight["hat-retrofit"] / "generator"
    assert "--steps: an autoencoder has no chain" in refusal("sample", folder, "--steps", 5)


@pytest.mark.parametrize(("run", "steps", "advised"), [
    ("hat-refine", 9, False), ("hat-refine", 10, True), ("hat-synthesis", 10, True),
    ("hat-refine/generator", 40, False),
])  # fmt: skip
def test_long_chains_are_advised_against_in_one_line(straight, tmp_path, run, steps, advised):
    arguments = ["--steps", steps, "--n", 2, "--out", tmp_path / "a.png"]
    said = hatebm("sample", straight["hat-refine"].parent / run, *arguments)
    assert said.code == 0
    assert said.out.count("\n") == 1 + advised
    assert ("training, K = 3: samples oversaturate" in said.out) is advised
