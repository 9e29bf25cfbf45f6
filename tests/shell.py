"""Commands as a person types them, run in this process, on pictures and settings that train in an instant."""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from hatebm.cli import main
from hatebm.runs import checkpoints
from hatebm.runs.folder import Run

SNGAN = (
    "generator_widths=(6,6,4)",
    "discriminator_widths=(4,6)",
    "latent_dim=5",
    "discriminator_updates=2",
    "ddls_steps=4",
    "batch=4",
)
AUTOENCODER = ("encoder_widths=(4,4,4)", "decoder_widths=(4,4,4)", "batch=4")
JOINT = ("energy_widths=(4,6)", "langevin_steps=3", "sample_steps=6", "batch=4")
SYNTHESIS = (*JOINT, "generator_widths=(6,6,4)", "latent_dim=5", "bank_size=8")
IGEBM = (
    *("network=conv", "energy_widths=(4,6)", "hidden=5", "batch=4"),
    *("langevin_steps=2", "sample_steps=4", "buffer_size=10", "reinit=0.3"),
)
FIRST = {"hat-refine": SNGAN, "hat-retrofit": AUTOENCODER}
OWN = {
    "hat-refine": JOINT,
    "hat-retrofit": JOINT,
    "sngan": SNGAN,
    "autoencoder": AUTOENCODER,
    "hat-synthesis": SYNTHESIS,
    "igebm": IGEBM,
}


class Said(NamedTuple):
    code: int
    out: str
    err: str


def hatebm(*arguments) -> Said:
    """The exit code of a command and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def refusal(*arguments) -> str:
    """The one line with which a command refuses, exit code 2."""
    said = hatebm(*arguments)
    assert said.code == 2, said
    assert said.err.startswith("hatebm: error: ")
    assert said.err.count("\n") == 1
    return said.err


def settings(pairs, prefix: str = "") -> list[str]:
    return [word for pair in pairs for word in ("--set", prefix + pair)]


def train(system: str, data: Path, out: Path, *more) -> list[str]:
    """The words that train a tiny system in three iterations; where it trains a stage before, that is tiny too."""
    first = settings(FIRST.get(system, ()) if "--generator" not in more else (), "generator.")
    words = ["train", system, "--data", data, "--size", "8", "--out", out, *settings(OWN[system]), *first]
    return [*words, *(() if "--steps" in more else ("--steps", "3")), *more]


def pictures(folder: Path, n: int, mode: str = "RGB", side: int = 8) -> Path:
    """A folder of n pictures of noise."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(n)
    for i in range(n):
        pixels = torch.randint(0, 256, (side, side, len(mode)), generator=generator, dtype=torch.uint8)
        Image.frombytes(mode, (side, side), bytes(pixels.flatten().tolist())).save(folder / f"{i:03d}.png")
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint."""
    return checkpoints.load(Run.open(folder).last_checkpoint())[0]


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
