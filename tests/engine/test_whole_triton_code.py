"""What Triton makes of whole chains, read from the machine code: no GPU needed, and nothing measured."""
# ruff: noqa: F811 (fixtures by import)

import re

import pytest
import torch
from disassembly import ARCHITECTURES, MARKS, MULTIPLIES_A_QUAD, assert_no_spill, count, instructions, tool
from triton_compiler import compile_triton, launched  # noqa: F401

from hatebm import Chain
from hatebm.energies import DoubleWell, Funnel, Gaussian, Mixture
from hatebm.engine.whole import steps_of

pytestmark = MARKS
KINDS = ("diagonal", "full", "mixture", "double_well", "funnel")
WHOLE = {
    **dict.fromkeys(("x", "where", "schedule"), "*fp32"),
    **dict.fromkeys(("n", "d", "components", "n_steps"), "i32"),
    **{"first_bad": "*i64", "seed": "i64", "first_step": "i64", "every": "i64"},
    **dict.fromkeys(("field_stride", "step_stride", "chain_stride"), "i64"),
    **dict.fromkeys(("low", "high", "width", "reach", "first_reach"), "fp32"),
}
EXTRAS = {"facts": ("*fp32",) * 4, "mask": "*i1"}
LAW = {
    "NOISY": True,
    "FIRST": False,
    "CLAMP_NOISE": False,
    "PRIOR": False,
    "WATCHED": True,
    "CLIP_ON": "grad",
    "WALLS": 0,
    "BLOCK": 0,
    "EACH": False,
}


def shared(kind, elements):
    """Tensors of an energy, and how programs share out chains of so many elements."""
    tensors = {"diagonal": ["weight"], "full": ["weight"], "mixture": ["weight", "scratch"]}.get(kind, [])
    sharing = {"CHAINS": max(128 // elements, 1), "ELEMENTS": elements, "LEVELS": elements.bit_length() - 1}
    return dict.fromkeys(tensors, "*fp32"), sharing | {"KIND": kind}, max(elements // 128, 1)


def compile_whole(architecture, kind, elements, tensors=(), **law):
    from hatebm.kernels import whole

    of_energy, sharing, warps = shared(kind, elements)
    constants = LAW | {"ADD": "sequential", "CLIP": None} | sharing | law
    signature, options = WHOLE | of_energy | dict(tensors), whole.ROOMY if constants["WALLS"] else whole.OPTIONS
    return compile_triton(whole.whole_steps, architecture, signature, constants, num_warps=warps, **options)


@pytest.fixture
def disassembled(tmp_path):
    def disassembled(kernel):
        path = tmp_path / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        return instructions(tool("nvdisasm", path))

    return disassembled


def assert_exact(ptx):
    """Every operation is rounded once, and none is contracted or approximate."""
    assert not re.search(r"\b(mul|add|sub|div|sqrt)\.(f32|f64|approx|full|ftz)|\bmad\.f|\bfma\.rn\.f64|ex2|lg2", ptx)


@pytest.mark.parametrize(("kind", "architecture"), [*((kind, 90) for kind in KINDS), ("funnel", 80), ("funnel", 100)])
def test_a_chain_draws_once_a_quad_and_stays_in_registers(disassembled, architecture, kind):
    kernel = compile_whole(architecture, kind, 4)
    counts = disassembled(kernel)
    assert_no_spill(counts)
    assert_exact(kernel.asm["ptx"])
    multiplies = count(counts, r"IMAD\.(WIDE|HI)\.U32(\.X)?")
    assert multiplies <= 1.5 * MULTIPLIES_A_QUAD + 10


@pytest.mark.parametrize(
    ("kind", "elements", "law"),
    [
        ("double_well", 1024, {"CLIP": "norm", "PRIOR": True, "ADD": "fma"}),
        ("mixture", 16, {"CLIP": "norm", "FIRST": True}),
        ("full", 64, {"FIRST": True, "CLAMP_NOISE": True, "CLIP": "value", "CLIP_ON": "update", "ADD": "increment"}),
        ("funnel", 1024, {"NOISY": False, "WATCHED": False}),
    ],
)
def test_every_law_compiles(disassembled, kind, elements, law):
    kernel = compile_whole(90, kind, elements, **law)
    assert_no_spill(disassembled(kernel))
    assert_exact(kernel.asm["ptx"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("kind", "elements"), [("mixture", 16), ("mixture", 256), ("full", 1024)])
def test_laws_that_need_many_registers_stay_in_them(disassembled, architecture, kind, elements):
    assert_no_spill(disassembled(compile_whole(architecture, kind, elements, CLIP="norm" if elements > 256 else None)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("kind", "elements", "law"),
    [
        *((kind, 4, {}) for kind in KINDS),
        ("mixture", 256, {"FIRST": True, "CLAMP_NOISE": True}),
        ("full", 1024, {"CLIP": "norm", "CLIP_ON": "update", "ADD": "fma"}),
    ],
)
def test_numbers_of_each_chain_stay_in_registers(disassembled, architecture, kind, elements, law):
    kernel = compile_whole(architecture, kind, elements, **{"EACH": True, "PRIOR": True, "CLIP": "value"} | law)
    assert_no_spill(disassembled(kernel))
    assert_exact(kernel.asm["ptx"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("kind", "elements"), [("mixture", 16), ("full", 1024)])
def test_runs_with_all_extras_stay_in_registers(disassembled, architecture, kind, elements):
    law = {"EACH": True, "PRIOR": True, "CLIP": "norm", "FIRST": True, "CLAMP_NOISE": True, "WALLS": 2}
    kernel = compile_whole(architecture, kind, elements, EXTRAS, **law)
    assert_no_spill(disassembled(kernel))
    assert_exact(kernel.asm["ptx"])


@pytest.mark.parametrize("kind", KINDS)
def test_looks_compile(disassembled, kind):
    from hatebm.kernels import whole

    tensors, sharing, warps = shared(kind, 16)
    names = {
        **dict.fromkeys(("x", "where", "energies", "gradients"), "*fp32"),
        "n": "i32",
        "d": "i32",
        "components": "i32",
    }
    kernel = compile_triton(whole.look_at, 90, names | tensors, sharing, num_warps=warps, **whole.OPTIONS)
    assert_no_spill(disassembled(kernel))
    assert_exact(kernel.asm["ptx"])


def test_launches_compile_whatever_the_arguments(launched):
    from hatebm.kernels import look, whole_chains_

    for n, seed, first_step in ((1, 1, 1), (16, 2**64 - 1, 2**40 - 1), (5, -(2**63), 16)):
        chain = Chain(DoubleWell(), torch.zeros(n, 3), eps=0.1 * n, seed=seed, first_step=first_step)
        steps = steps_of(chain._blocks, first_step, n, True)
        whole_chains_(DoubleWell().formula(3), (1e9,), torch.zeros(n, 3), steps)
        look(DoubleWell().formula(3), torch.zeros(n, 3))
        assert launched == {"whole_steps": 1, "look_at": 1}
    for energy in (Funnel(), Mixture(torch.zeros(1, 5), 1.0), Gaussian(torch.zeros(5), torch.eye(5))):
        look(energy.formula(5), torch.zeros(2, 5))
        whole_chains_(energy.formula(5), energy.reach(5), torch.zeros(2, 5), steps._replace(clip="norm"))
    assert launched == {"whole_steps": 4, "look_at": 4}
