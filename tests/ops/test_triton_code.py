"""What Triton makes of its kernels, read from the machine code: no GPU needed, and nothing measured."""
# ruff: noqa: F811 (fixtures by import)

import re

import pytest
import torch
from disassembly import (
    ARCHITECTURES,
    FMAS_A_QUAD,
    MARKS,
    MULTIPLIES_A_QUAD,
    PRODUCTS_A_QUAD,
    PRODUCTS_OF_RATIO,
    SUMS_A_QUAD,
    assert_no_spill,
    assert_vectorised,
    count,
    instructions,
    tool,
)
from triton_compiler import compile_triton, launched  # noqa: F401

pytestmark = MARKS

STEP = {
    **{"x": "*fp32", "grad": "*fp32", "diverged": "*i64", "n": "i32", "d": "i32"},
    **{"seed": "i64", "step": "i64", "purpose_and_block": "i64"},
    **dict.fromkeys(("step_size", "noise_std", "inverse_temperature", "prior_precision"), "fp32"),
    **dict.fromkeys(("bound", "low", "high"), "fp32"),
    **dict.fromkeys(("field_stride", "chain_stride"), "i64"),
}
RATIO = {
    **{"sums": "*fp64", "n": "i32", "d": "i32"},
    **dict.fromkeys(("step_size", "inverse_temperature", "prior_precision", "bound"), "fp32"),
    **dict.fromkeys(("half_precision", "half_prior"), "fp64"),
    **dict.fromkeys(("field_stride", "chain_stride"), "i64"),
}
LAW = {"NOISY": True, "PRIOR": True, "ADD": "sequential", "CLIP": "value", "CLIP_ON": "grad", "WIDE": False}


def compile_step(architecture, kind, elements, signature, constants, vector=True):
    from hatebm.kernels import langevin

    return compile_shared(langevin.langevin_step, architecture, kind, elements, STEP | signature, constants, vector)


def compile_shared(function, architecture, kind, elements, signature, constants, vector=True):
    from hatebm.kernels import samples

    sharing = samples.sharing(kind, elements)
    num_warps = sharing.pop("num_warps")
    settings = LAW | {"VECTOR": vector} | sharing | constants
    return compile_triton(function, architecture, signature, settings, num_warps=num_warps)


def lanes(kernel, operation):
    """How many float32 operations of a kind a thread does; some architectures do two at a time."""
    return sum(2 if packed else 1 for packed in re.findall(rf"\b{operation}\.rn\.f32(x2)?\b", kernel.asm["ptx"]))


def compile_ratio(architecture, kind, elements, signature, constants, vector=True):
    from hatebm.kernels import ratio

    signature = dict.fromkeys(("x", "grad", "proposal", "proposal_grad"), "*fp32") | RATIO | signature
    return compile_shared(ratio.ratio_quads, architecture, kind, elements, signature, constants, vector)


@pytest.fixture
def disassembled(tmp_path):
    def disassembled(kernel):
        path = tmp_path / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        return instructions(tool("nvdisasm", path))

    return disassembled


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("grad", ["*fp32", "*bf16", "*fp16"])
def test_triton_step_moves_16_bytes_and_draws_once_a_quad(disassembled, architecture, grad):
    image = {"gz": "*fp32", "image": "*fp32"}
    step = compile_step(architecture, "stream", 1024, {"grad": grad, **image}, {})
    quads = 1024 // 4 // 128  # of a thread
    counts = disassembled(step)
    assert_vectorised(counts, quads)
    assert count(counts, r"LDG\.E\.128.*") == quads * (3 if grad == "*fp32" else 2)
    assert count(counts, r"STG\.E\.128.*") == quads * 2
    assert count(counts, r"(LDS|STS).*") == 0
    assert sum(counts.values()) < 90 * 4 * quads
    assert lanes(step, "mul") == quads * PRODUCTS_A_QUAD
    sums = lanes(step, "add") + lanes(step, "sub")
    assert quads * SUMS_A_QUAD <= sums <= quads * SUMS_A_QUAD + 1  # -bound may be 0 - bound
    assert quads * FMAS_A_QUAD <= lanes(step, "fma") <= quads * FMAS_A_QUAD + 2  # a pair may be half used
    assert not re.search(r"\b(mul|add|sub|div|sqrt)\.(f32|approx|full|ftz)", step.asm["ptx"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("elements", [784, 8192])
def test_triton_samples_stay_in_registers(disassembled, architecture, elements):
    norms = {"grad_norm": "*fp32", "displacement": "*fp32"}
    step = compile_step(architecture, "whole", elements, norms, {"CLIP": "norm"})
    counts = disassembled(step)
    assert_vectorised(counts, 8)
    assert count(counts, r"LDG\.E\.128.*") == 2 * 8
    assert not re.search(r"sqrt\.approx", step.asm["ptx"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("clip", ["value", "norm"])
@pytest.mark.parametrize("elements", [784, 8192])
def test_triton_ratio_stays_in_registers(disassembled, architecture, elements, clip):
    kernel = compile_ratio(architecture, "whole", elements, {}, {"CLIP": clip})
    counts = disassembled(kernel)
    assert_no_spill(counts)
    assert count(counts, r"LDG\.E\.128.*") == 4 * 8  # each tensor is read once
    assert count(counts, r"LDG\.E(\.U16)?") == 0
    squares = 2 * 4 * 8 if clip == "norm" else 0
    assert len(re.findall(r"\bmul\.rn\.f64\b", kernel.asm["ptx"])) == PRODUCTS_OF_RATIO * 4 * 8 + squares
    assert not re.search(r"\bfma\.rn\.f64|\b(mul|add|sub|div|sqrt)\.(f32|f64|approx|full|ftz)", kernel.asm["ptx"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("kind", "elements"), [("stream", 1024), ("whole", 784), ("whole", 8192)])
def test_triton_numbers_of_each_chain_stay_in_registers(disassembled, architecture, kind, elements):
    laws = {"numbers": "*fp32"}
    streams, quads = kind == "stream", 2 if kind == "stream" else 8  # of a thread
    norms = {} if streams else {"grad_norm": "*fp32", "displacement": "*fp32"}
    for add in ("sequential", "fma"):
        law = {"ADD": add, "CLIP": "value" if streams else "norm", "CLIP_ON": "update"}
        counts = disassembled(compile_step(architecture, kind, elements, laws | norms, law))
        assert_no_spill(counts)
        assert count(counts, r"LDG\.E\.128.*") == 2 * quads
        assert count(counts, r"STG\.E\.128.*") == quads
        assert count(counts, r"LDG\.E") == 5 * (quads if streams else 1)  # of each chain, once
    if not streams:
        ratio = compile_ratio(architecture, kind, elements, laws | {"halves": "*fp64"}, {"CLIP": "norm"})
        counts = disassembled(ratio)
        assert_no_spill(counts)
        assert count(counts, r"LDG\.E\.128.*") == 4 * quads


def test_triton_ratios_of_long_samples_and_half_gradients_compile():
    half = dict.fromkeys(("grad", "proposal_grad"), "*fp16")
    compile_ratio(90, "measure", 8192, half, {"CLIP": "norm", "WIDE": True}, vector=False)
    compile_ratio(90, "move", 8192, half | {"squares": "*fp64"}, {"CLIP": "norm", "CLIP_ON": "update"}, vector=False)


def test_triton_strided_and_long_samples_compile():
    strides = dict.fromkeys(("x_strides", "grad_strides"), ("i64", "i32", "i32"))
    strided = {"shape": ("i32", "i32"), **strides}
    compile_step(90, "stream", 1024, strided, {"WIDE": True}, vector=False)
    sums = {"sums": "*fp64", "way_sums": "*fp64", "displacement": "*fp32"}
    compile_step(90, "measure", 8192, sums, {"CLIP": "norm"}, vector=False)
    compile_step(90, "move", 8192, sums, {"CLIP": "norm", "CLIP_ON": "update"}, vector=False)


def test_triton_compiles_once_for_all_seeds_steps_and_batches(launched):
    from hatebm.kernels import langevin_ratio, langevin_step_, metropolis, normal

    before = None
    for n, seed, step in ((1, 1, 1), (16, 2**64 - 1, 2**40 - 1), (5, -(2**63), 16)):
        x = torch.zeros(n, 64)
        langevin_step_(x, x.clone(), step_size=0.1 * n, noise_std=0.2, seed=seed, step=step)
        normal((n, 64), seed=seed, step=step)
        log_ratio = langevin_ratio(x, x, x, x, step_size=0.1 * n, noise_std=0.2 / n)
        metropolis(log_ratio, seed=seed, step=step)
        before = before or dict(launched)
        assert launched == before


def test_triton_launches_compile_whatever_the_arguments(launched):
    from hatebm.kernels import langevin_ratio, langevin_step_, metropolis, normal, philox, residual_add

    x, norms = torch.zeros(4, 3, 8, 8), {"grad_norm": torch.zeros(4), "displacement": torch.zeros(4)}
    norm = {"clip": "norm", "bound": 1.0}
    law = {"step_size": 0.1, "noise_std": 0.2, "seed": torch.tensor(3), "step": torch.tensor(4)}
    langevin_step_(x, x.bfloat16(), gz=x, image=x.clone(), diverged=torch.zeros(4, dtype=torch.int64), **law)
    langevin_step_(x, None, noise=x.clone(), chain_ids=torch.arange(4), **law)
    langevin_step_(x.to(memory_format=torch.channels_last), x.half(), add="fma", **norms, **norm, **law)
    langevin_step_(torch.zeros(1), torch.zeros(1), clip_on="update", **norm, **law)
    langevin_step_(torch.zeros(2, 9000), torch.zeros(2, 9000), displacement=torch.zeros(2), **norm, **law)
    normal((3, 5), seed=1, step=torch.tensor(3))
    philox(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    residual_add(x, x)
    for v in (x.bfloat16(), torch.zeros(2, 9000), torch.zeros(1)):
        langevin_ratio(v.float(), v, v.float(), v, step_size=0.1, noise_std=0.2, prior_precision=1.0, **norm)
    metropolis(torch.zeros(3).double(), seed=1, step=torch.tensor(3), chain_ids=torch.arange(3))
    kernels = {"langevin_step", "fold_runs", "normal_quads", "philox_words", "residual_elements"}
    kernels |= {"ratio_quads", "decide"}
    assert set(launched) == kernels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_triton_noise_and_hat(disassembled, architecture):
    from hatebm.kernels import noise, residual

    place = {"n": "i32", "d": "i32", "seed": "i64", "step": "i64", "purpose_and_block": "i64"}
    constants = {"VECTOR": True, "WIDE": False, "QUADS": 256}
    counts = disassembled(compile_triton(noise.normal_quads, architecture, {"out": "*fp32", **place}, constants))
    assert_no_spill(counts)
    assert count(counts, r"STG\.E\.128.*") == 2
    assert count(counts, r"IMAD\.(WIDE|HI)\.U32.*") <= 1.5 * MULTIPLIES_A_QUAD * 2
    tensors = {**dict.fromkeys(("gz", "y", "out"), "*fp32"), "numel": "i32"}
    counts = disassembled(compile_triton(residual.residual_elements, architecture, tensors, {"BLOCK": 1024}))
    assert count(counts, r"LDG\.E\.128.*") == 4
