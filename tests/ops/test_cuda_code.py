"""What nvcc makes of the CUDA kernels, read from the machine code: no GPU needed, and nothing measured."""

import functools
import re
import shutil
import subprocess

import pytest
from disassembly import (
    ARCHITECTURES,
    FMAS_A_QUAD,
    FMAS_OF_ADD,
    FMAS_OF_LOG,
    MARKS,
    MULTIPLIES_A_QUAD,
    assert_no_spill,
    assert_vectorised,
    count,
    instructions,
    tool,
)
from places import CSRC, matching

from hatebm import _C

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
pytestmark = MARKS
NUMBERS = 5  # of a law, read once where each chain has its own
OWN_LAWS = ["one law", "own laws"]


def compile_into(folder):
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES if number not in built()]
    if not codes:
        return
    command = ["nvcc", "-O3", "-std=c++17", "-fmad=false", "-fatbin", "-I", CSRC, *codes]
    running = {p.stem: subprocess.Popen([*command, p, "-o", folder / p.stem]) for p in matching(CSRC / "cuda", "*.cu")}
    assert {name: process.wait() for name, process in running.items()} == dict.fromkeys(running, 0)


@functools.cache
def built():
    """Of these architectures those whose code the extension brings, compiled as here."""
    try:
        numbers = re.findall(r"\.sm_(\d+)\.cubin", tool("cuobjdump", "--list-elf", _C.__file__))
    except subprocess.CalledProcessError:  # none at all
        return []
    return [number for number in ARCHITECTURES if str(number) in numbers]


@pytest.fixture(scope="module")
def compiled(made_once):
    """Instructions and resources of every CUDA kernel, by kernel and architecture."""
    found = {}
    ours = [(_C.__file__, f"-arch=sm_{number}") for number in built()]
    for code in [*ours, *((fatbin,) for fatbin in made_once("fatbins", compile_into).iterdir())]:
        for section in tool("cuobjdump", "-sass", *code).split("arch = ")[1:]:
            for function, code_of in re.findall(r"Function : (\S+)\n(.*?)\n\s+\.{10}", section, re.S):
                found[section.split()[0], function] = [instructions(code_of)]
        for section in tool("cuobjdump", "-res-usage", *code).split("arch = ")[1:]:
            for function, usage in re.findall(r"Function (\S+):\n\s*(REG:.*)", section):
                resources = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", usage)}
                found[section.split()[0], function].append(resources)
    return found


def kernel(compiled, name, architecture):
    """The only kernel whose mangled name holds ``name``."""
    (match,) = (key for key in compiled if key[0] == f"sm_{architecture}" and name in key[1])
    return compiled[match]


@needs_nvcc
def test_no_cuda_kernel_spills(compiled):
    assert len(compiled) == 43 * len(ARCHITECTURES)
    for (architecture, name), (counts, resources) in compiled.items():
        assert_no_spill(counts)
        assert (resources["STACK"], resources["LOCAL"]) == (0, 0), f"{name} on {architecture}"


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("numbers", [0, NUMBERS], ids=OWN_LAWS)
def test_cuda_step_moves_16_bytes_and_draws_once_a_quad(compiled, numbers, architecture):
    counts, resources = kernel(compiled, f"langevin_step_quadsILb1ELb{numbers > 0:d}E", architecture)
    assert_vectorised(counts, 1, numbers)
    assert count(counts, r"LDG\.E\.128.*") == 4  # x, grad, noise, gz
    assert count(counts, r"STG\.E\.128.*") == 2  # x, image
    assert count(counts, r"STG\.E(\.64)?") == 0
    assert resources["REG"] <= (40 if numbers else 32)


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("numbers", [0, NUMBERS], ids=OWN_LAWS)
def test_cuda_samples_stay_in_registers(compiled, numbers, architecture):
    counts, resources = kernel(compiled, f"langevin_step_samplesILb1ELb{numbers > 0:d}E", architecture)
    assert_vectorised(counts, 8, numbers)
    assert count(counts, r"LDG\.E\.128.*") == 8 * 4  # each tensor is read once
    assert resources["REG"] <= 144


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_chains_draw_in_registers_and_perceptrons_read_16_bytes(compiled, architecture):
    for energy in ("Diagonal", "Full", "Mixture", "DoubleWell", "Funnel"):
        of_energy = {key: found for key, found in compiled.items() if "whole_chains" in key[1] and energy in key[1]}
        for own_laws in (0, 1):
            counts, resources = kernel(of_energy, f"Lb{own_laws}ELb0E", architecture)
            assert count(counts, r"IMAD\.(WIDE|HI)\.U32.*") >= 2 * 0.8 * MULTIPLIES_A_QUAD  # noise before, and after
            assert resources["REG"] <= 128
    for own_laws in (0, 1):
        counts, resources = kernel(compiled, f"mlp_stepsILb1ELb{own_laws}E", architecture)
        rows = 1 + 2 + 4 + 8  # in each of three products, at least once
        assert count(counts, r"LDS\.128") >= 3 * rows
        assert resources["REG"] <= (200 if own_laws else 168)  # a block to a processor either way


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_noise_and_hat(compiled, architecture):
    counts, _ = kernel(compiled, "normal_quads", architecture)
    assert count(counts, r"STG\.E\.128.*") >= 1
    roots = count(counts, r"MUFU\.RSQ")  # two for four normals, in as many copies of the loop as the compiler makes
    assert count(counts, r"IMAD\.(WIDE|HI)\.U32.*") <= 1.2 * MULTIPLIES_A_QUAD * roots / 2
    counts, _ = kernel(compiled, "residual_quads", architecture)
    assert count(counts, r"LDG\.E\.128.*") == 2
    assert count(counts, r"STG\.E\.128.*") == 1


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("numbers", [0, NUMBERS - 1], ids=OWN_LAWS)  # the noise crosses in the halves
def test_cuda_ratio_reads_16_bytes(compiled, numbers, architecture):
    counts, resources = kernel(compiled, f"ratio_samplesILb1ELb{numbers > 0:d}E", architecture)
    assert count(counts, r"LDG\.E\.128.*") >= 8 * 4
    assert count(counts, r"LDG\.E(\.U16)?") == numbers
    assert resources["REG"] <= 96


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_decisions_draw_once(compiled, architecture):
    counts, _ = kernel(compiled, "decide", architecture)
    assert count(counts, r"IMAD\.(WIDE|HI)\.U32.*") <= 1.2 * MULTIPLIES_A_QUAD * count(counts, r"STG\.E\.U8")


@needs_nvcc
@pytest.mark.parametrize(
    ("source", "fmas"),
    [
        ("langevin", 4 * (FMAS_A_QUAD + FMAS_OF_ADD)),  # of four instantiations
        ("ratio", 0),
        ("metropolis", 2 * FMAS_OF_LOG),  # of the loop with chain ids and the one without
    ],
)
def test_cuda_contracts_nothing(source, fmas, tmp_path):
    target = tmp_path / "kernels.ptx"
    command = [
        "nvcc",
        "-O3",
        "-std=c++17",
        "-fmad=false",
        "-ptx",
        "-arch=sm_90",
        "-I",
        CSRC,
        CSRC / "cuda" / f"{source}.cu",
    ]
    subprocess.run([*command, "-o", target], check=True)
    ptx = target.read_text()
    assert ptx.count("fma.rn.f32") == fmas
    assert not re.search(r"\b(mad|fma)\.(?!rn\.f32|lo|wide)", ptx)
    assert not re.search(r"\.(approx|ftz)", ptx)
