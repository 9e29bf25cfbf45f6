"""Metropolis-adjusted Langevin repeats bit for bit: alone, after a restart, on any threads and any backend."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loops import drawn
from targets import quadratic

import hatebm

REPEATABLE = {"step_size": 0.25, "clip": ("norm", 2.0), "prior_precision": 0.3, "correct": "mala"}


def test_chain_17_of_128_equals_chain_17_alone():
    x, law = drawn((128, 3, 5)), REPEATABLE | {"seed": 9}
    batch, info = hatebm.langevin(quadratic, x, 30, return_info=True, **law)
    assert 0.2 < float(info["accept"].mean()) < 0.98
    assert torch.equal(batch[17:18], hatebm.langevin(quadratic, x[17:18], 30, chain_ids=[17], **law))
    halves = [hatebm.langevin(quadratic, x[a:b], 30, chain_ids=range(a, b), **law) for a, b in ((0, 50), (50, 128))]
    assert torch.equal(batch, torch.cat(halves))


def test_a_restart_equals_going_on_and_survives_a_file():
    x, law = drawn((20, 3, 5)), REPEATABLE
    want = hatebm.Chain(quadratic, x, seed=5, **law).run(20)
    first = hatebm.Chain(quadratic, x, seed=5, **law)
    first.run(8)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = hatebm.Chain(quadratic, torch.zeros_like(x), seed=0, **law)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(second.run(12), want)


def test_threads_do_not_change_a_bit():
    threads, draws = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            draws.append(hatebm.langevin(quadratic, drawn((64, 3, 16, 16)), 5, seed=1, **REPEATABLE))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*draws)


RUNNABLE = [name for name, state in hatebm.backends().items() if state is True and name != "cuda"]
SAME_BITS = {
    "plain": {},
    "norm": {"clip": ("norm", 2.0), "prior_precision": 0.3},
    "box": {"clip": ("value", 0.4), "clip_on": "update", "clamp": (-1.0, 2.0), "temperature": 0.7},
    "leapfrog": {"leapfrog_steps": 3, "correct": None, "prior_precision": 0.3, "friction": 0.5},
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore:Conversion of an array:DeprecationWarning")  # numpy's
@pytest.mark.parametrize("law", SAME_BITS.values(), ids=SAME_BITS)
def test_every_backend_gives_the_same_bits(law):
    x = drawn((6, 5, 7)).clamp(-0.9, 1.9)
    law = {"step_size": 0.1, "seed": 4, "correct": "mala"} | law
    draws = {name: hatebm.Chain(quadratic, x, backend=name, **law).run(4) for name in RUNNABLE}
    want = draws.pop("reference")
    assert not torch.equal(want, x)
    if "triton" in draws:
        import interpreter

        if not interpreter.rounds_once():
            torch.testing.assert_close(draws.pop("triton"), want, rtol=1e-5, atol=1e-5)
    for name, draw in draws.items():
        assert torch.equal(draw, want), name


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="runs the interpreter itself")
def test_triton_gives_the_same_bits_too():
    pytest.importorskip("triton", reason="the kernels need Triton")
    chosen = ["-k", "every_backend and (norm or leapfrog)"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__)), *chosen]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout, done.stdout
