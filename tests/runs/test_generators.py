"""Generators taken over from runs, files and modules, and what is refused."""
# ruff: noqa: F811 (fixtures by import)

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from foreign_generator import foreign
from safetensors.torch import save_file
from shell import hatebm, refusal, same, state, train
from tiny import one_thread  # noqa: F401
from two_stages import ctrl_c, data, rows_seen, straight, unseen  # noqa: F401

from hatebm.nets import ResidualGenerator
from hatebm.runs import stages
from hatebm.runs.folder import Run


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
    other = textwrap.dedent(MODULE).replace("192", "200").replace("(-1, 3", "(-1, 1")
    (tmp_path / f"{module}.py").write_text(f"{other}\n")  # of another length: Python may keep bytecode by it
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
    assert "--generator: hat-synthesis learns on no generator from elsewhere" in said
    said = refusal(*train("hat-synthesis", data, out, "--set", "generator.latent_dim=5"))
    assert "--set: no stage is trained before this one, got 'generator.latent_dim=5'" in said
    given = ["--generator", first, "--set", "generator.latent_dim=5"]
    assert "no stage is trained before this one" in refusal(*train("hat-refine", data, out, *given))
    assert "unknown key 'speed'" in refusal(*train("hat-refine", data, out, "--set", "generator.speed=5"))
    assert "size must be 8" in refusal(*train("hat-refine", data, out, "--set", "generator.size=16"))
    assert not out.exists()
