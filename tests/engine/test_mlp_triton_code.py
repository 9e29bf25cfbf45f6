"""What Triton makes of chains in the energy of a perceptron: no GPU needed, and nothing measured."""

import re

import pytest
import torch
from disassembly import MARKS, assert_no_spill, count, instructions, tool
from triton_compiler import Target
from whole_chains import telling, with_mask

import hatebm
from hatebm.energies import MLP
from hatebm.energies.perceptron import layers_of
from hatebm.engine.whole import steps_of

pytestmark = MARKS


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The kernel that a launch would run, and how many there are by then."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from hatebm.kernels.perceptron import perceptron_chains_, perceptron_steps

    found = []

    def launch(kernel, grid):
        return lambda *given, **settings: found.append(kernel.warmup(*given, grid=grid, **settings))

    monkeypatch.setattr(JITFunction, "__getitem__", launch)
    monkeypatch.setattr(driver, "_active", Target())

    def compiled(energy, n=5, d=20, first_step=0, each=False, extras=False, **law):
        chain = hatebm.Chain(energy, torch.zeros(n, d), first_step=first_step, **{"seed": 1} | law)
        steps = steps_of(chain._blocks, first_step, 2, True)
        if each:
            steps = steps._replace(schedule=steps.schedule[..., None].expand(5, 2, n), prior=True)
        if extras:
            steps, _ = with_mask(telling(steps, n, 1), torch.zeros(n, d))
            steps = steps._replace(low=-1.0, high=1.0, reflect=True)
        perceptron_chains_(torch.zeros(n, d), layers_of(energy.layers), steps)
        return found[-1], sum(len(caches[0]) for caches in perceptron_steps.device_caches.values())

    return compiled


@pytest.mark.parametrize(("each", "extras"), [(False, False), (True, False), (True, True)])
def test_it_spills_nothing_and_rounds_products_in_float32(compiled, tmp_path, each, extras):
    kernel, _ = compiled(MLP((20, 48, 33)), eps=0.1, each=each, extras=extras)
    path = tmp_path / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    counts = instructions(tool("nvdisasm", path))
    assert_no_spill(counts)
    assert count(counts, r"HMMA.*|.*GMMA.*") == 0  # no tensor cores: their products have fewer bits
    assert not re.search(r"tf32|\bdiv\.full", kernel.asm["ptx"])


def test_it_compiles_once_for_all_seeds_steps_and_batches(compiled):
    energy = MLP((20, 8))
    _, first = compiled(energy, eps=0.1)
    for n, seed, first_step in ((1, 1, 1), (16, 2**64 - 1, 2**40 - 3)):
        assert compiled(energy, n=n, first_step=first_step, eps=0.1 * n, seed=seed)[1] == first


def test_every_activation_and_law_compile(compiled):
    for activation in ("relu", "leaky_relu", "softplus", "tanh", "gelu", "gelu_tanh", "elu"):
        compiled(MLP((3, 8), activation), d=3, eps=0.1)
    law = {"noise_at": "before", "clamp": (0, 1), "clamp_at": "noise+step", "clip": ("norm", 1.0), "add": "fma"}
    compiled(MLP((20, 16, 8)), eps=0.1, **law)
