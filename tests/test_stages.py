"""Runs of two stages: each stage a run, stopped and gone on with anywhere; generators taken over from elsewhere."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from shell import FIRST, hatebm, pictures, refusal, same, state, train
from test_imported import foreign
from tiny import one_thread  # noqa: F401

from hatebm import presets, stages
from hatebm.nets import ResidualGenerator
from hatebm.noise import Purpose, normal
from hatebm.runs import Run

TWO_STAGES = pytest.mark.parametrize("system", FIRST)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures", 12)


@pytest.fixture
def unseen(monkeypatch):
    """Trainings end without their evaluation, which is tested elsewhere."""
    monkeypatch.setattr("hatebm.commands.train.report", lambda *_: None)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> dict[str, Path]:
    """A run of each system, trained without a stop."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hatebm.commands.train.report", lambda *_: None)
        for system in ("hat-refine", "hat-retrofit", "hat-synthesis"):
            said = hatebm(*train(system, data, folder / system))
            assert said.code == 0, said.err
    return {path.name: path for path in folder.iterdir()}


@contextmanager
def rows_seen(monkeypatch, at: int | None = None, then=None):
    """The rows of the trainings inside, and for each stage a mark; `then` is called when `at` of these were seen."""
    seen = []

    def see(row) -> None:
        seen.append(row)
        if len(seen) == at:
            then()

    @contextmanager
    def progress(total, done, shown):
        see("stage")
        yield see, print

    with monkeypatch.context() as patch:
        patch.setattr("hatebm.commands.train.progress", progress)
        yield seen


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


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
    assert Run.open(tmp_path / "run" / "generator").config.iterations == presets.sngan(8, 3).iterations


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


@pytest.mark.parametrize("source", ["sngan", "autoencoder", "hat-synthesis", "hat-refine"])
def test_a_run_gives_its_generator(straight, data, tmp_path, monkeypatch, unseen, source):
    places = {"sngan": "hat-refine/generator", "autoencoder": "hat-retrofit/generator"}
    given = tmp_path / "given"
    shutil.copytree(straight["hat-refine"].parent / places.get(source, source), given)
    wanted = stages.load(Run.open(given)).generator.state_dict()
    with rows_seen(monkeypatch) as seen:
        said = hatebm(*train("hat-refine", data, tmp_path / "run", "--generator", given))
    assert said.code == 0, said.err
    assert [row if row == "stage" else row["step"] for row in seen] == ["stage", 1, 2, 3]
    shutil.rmtree(given)
    assert same(stages.load(Run.open(tmp_path / "run")).generator.state_dict(), wanted)
    assert hatebm("sample", tmp_path / "run", "--n", 2).code == 0
    assert hatebm("sample", tmp_path / "run" / "generator", "--n", 2).code == 0
    assert hatebm("train", "--out", tmp_path / "run", "--resume", "--steps", 4).code == 0


def test_the_generator_of_an_unfinished_run_stays_as_it_was_taken(data, tmp_path, monkeypatch, unseen):
    with rows_seen(monkeypatch, at=3, then=ctrl_c):
        assert hatebm(*train("sngan", data, tmp_path / "given")).code == 130
    wanted = state(tmp_path / "given")
    with rows_seen(monkeypatch) as seen:
        assert hatebm(*train("hat-refine", data, tmp_path / "run", "--generator", tmp_path / "given")).code == 0
    assert [row if row == "stage" else row["step"] for row in seen] == ["stage", 1, 2, 3]
    assert same(state(tmp_path / "run" / "generator"), wanted)


def ours(path: Path) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ResidualGenerator(8, 3, 5, (6, 6, 4), output_scale=1.0, norm="batch")
        made(torch.randn(20, 5))
    save_file(made.state_dict(), path)
    return made.eval()


def mimicrys(path: Path) -> torch.nn.Module:
    made = foreign(5, (6, 6, 4), 2, 3).float()
    save_file(made.state_dict(), path)
    return made


@pytest.mark.parametrize("write", [ours, mimicrys])
def test_a_file_gives_its_generator(data, tmp_path, unseen, write):
    theirs = write(tmp_path / "weights.safetensors")
    said = hatebm(*train("hat-refine", data, tmp_path / "run", "--generator", tmp_path / "weights.safetensors"))
    assert said.code == 0, said.err
    (tmp_path / "weights.safetensors").unlink()
    generator, z = stages.load(Run.open(tmp_path / "run")).generator, torch.randn(3, 5)
    torch.testing.assert_close(generator(z), theirs(z), rtol=1e-5, atol=1e-5)
    assert hatebm("train", "--out", tmp_path / "run", "--resume", "--steps", 4).code == 0
    assert hatebm("sample", tmp_path / "run", "--n", 2).code == 0
    assert "can be sampled by langevin, got ddls" in refusal("sample", tmp_path / "run", "--method", "ddls")


MODULE = """
    import torch

    class Painter(torch.nn.Module):
        latent_shape = (2, 3)
        output_scale = torch.ones(1)  # means nothing to us

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.rand(6, 192) - 0.5)
            self.tied = self.weight

        def forward(self, z):
            return torch.tanh(z.flatten(1) @ self.weight).view(-1, 3, 8, 8)

    class Shapeless(Painter):
        latent_shape = property()

    painter, shapeless = Painter(), Shapeless()

    def factory():
        return Painter()

    def wrong():
        return 3

    def broken():
        raise RuntimeError("first line\\nsecond line")

    def small():
        return torch.nn.Sequential(torch.nn.Linear(5, 3))
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request) -> str:
    """The name of a module of generators that lies in a folder of the path."""
    name = f"module_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("attribute", ["painter", "Painter", "factory", "shapeless"])
def test_an_import_path_gives_its_generator(data, tmp_path, module, unseen, attribute):
    shape = ["--set", "latent_shape=(2,3)"] if attribute == "shapeless" else []
    arguments = train("hat-refine", data, tmp_path / "run", "--generator", f"{module}:{attribute}", *shape)
    said = hatebm(*arguments)
    assert said.code == 0, said.err
    generator = stages.load(Run.open(tmp_path / "run")).generator
    kept = generator.weight.clone()
    sys.modules.pop(module)  # made anew, of other random numbers, it takes the weights that the run kept
    assert torch.equal(stages.load(Run.open(tmp_path / "run")).generator.weight, kept)
    assert hatebm("sample", tmp_path / "run", "--n", 2).code == 0
    (tmp_path / f"{module}.py").write_text(textwrap.dedent(MODULE).replace("192", "200").replace("(-1, 3", "(-1, 1"))
    sys.modules.pop(module)
    assert "does not fit" in refusal("sample", tmp_path / "run")


def test_the_console_script_finds_modules_in_the_current_folder(data, tmp_path):
    (tmp_path / "my_generators.py").write_text(textwrap.dedent(MODULE))
    command = [Path(sys.executable).with_name("hatebm"), *train("hat-refine", data, "run", "--generator")]
    command = [*command, "my_generators:small"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "Sequential" not in done.stderr
    assert done.returncode == 2
    assert "has no attribute latent_shape; say it with --set latent_shape=" in done.stderr


REFUSED = [
    ("nowhere", "wanted the folder of a run, a file of weights or package.module:attribute, got 'nowhere'"),
    ("no_such_module:painter", "cannot import no_such_module:painter: ModuleNotFoundError"),
    ("MODULE:nothing", "cannot import MODULE:nothing: AttributeError"),
    ("MODULE:broken", "cannot import MODULE:broken: RuntimeError: first line second line"),
    ("MODULE:wrong", "MODULE:wrong must be a torch.nn.Module or return one, got int"),
    ("MODULE:shapeless", "has no attribute latent_shape; say it with --set latent_shape="),
    ("MODULE:small", "has no attribute latent_shape; say it with --set latent_shape="),
    ("FOLDER/pictures", "wanted the folder of a run, a file of weights or package.module:attribute"),
    ("FOLDER/broken.safetensors", "broken.safetensors cannot be read"),
    ("FOLDER/wide.safetensors", "wanted two images, a tensor of shape (2, 3, 8, 8), got (2, 3, 16, 16)"),
    ("FOLDER/begun", "has no checkpoint"),
]


@pytest.mark.parametrize(("source", "message"), REFUSED, ids=[source for source, _ in REFUSED])
def test_other_generators_are_refused_in_one_line(data, tmp_path, module, straight, source, message):
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    save_file(foreign(5, (6, 6, 4), 4, 3).float().state_dict(), tmp_path / "wide.safetensors")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "begun").mkdir()
    shutil.copy(straight["hat-refine"] / "generator" / "config.json", tmp_path / "begun")
    source = source.replace("MODULE", module).replace("FOLDER", str(tmp_path))
    said = refusal(*train("hat-refine", data, tmp_path / "run", "--generator", source))
    assert message.replace("MODULE", module) in said
    assert not (tmp_path / "run").exists()


def test_generators_that_nobody_asked_for_are_refused(data, tmp_path, straight):
    out = tmp_path / "run"
    first = straight["hat-refine"] / "generator"
    said = refusal(*train("hat-synthesis", data, out, "--generator", first))
    assert "--generator: hat-synthesis trains its own generator" in said
    said = refusal(*train("hat-synthesis", data, out, "--set", "generator.latent_dim=5"))
    assert "--set: no stage is trained before this one, got 'generator.latent_dim=5'" in said
    given = ["--generator", first, "--set", "generator.latent_dim=5"]
    assert "no stage is trained before this one" in refusal(*train("hat-refine", data, out, *given))
    assert "unknown key 'speed'" in refusal(*train("hat-refine", data, out, "--set", "generator.speed=5"))
    assert "size must be 8" in refusal(*train("hat-refine", data, out, "--set", "generator.size=16"))
    assert not out.exists()


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
