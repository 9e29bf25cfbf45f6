"""What the compilers make of the kernels, read from the machine code: no GPU needed, and nothing measured."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton compiles its kernels here and brings the disassembler")

CSRC = Path(__file__).parent.parent / "csrc"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ARCHITECTURES = (80, 90, 100)
FMAS_A_QUAD = 2 * 17  # of Box-Muller
FMAS_OF_ADD = 4 * 2  # of add="fma"
FMAS_OF_LOG = 9
PRODUCTS_OF_RATIO = 4  # of an element, in float64
PRODUCTS_A_QUAD = 2 * 6 + 4 * 4  # of Box-Muller, and of a sequential step with a prior
SUMS_A_QUAD = 2 + 4 * 5  # the same, gz + x, and grad - grad, which is 0 where it is finite
MULTIPLIES_A_QUAD = 20  # 32 x 32 -> 64 bits, of one Philox call
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the disassembler comes with Triton for Linux"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton"),
]


def instructions(sass):
    """How often each instruction stands in a disassembly."""
    return Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", sass))


def count(counts, pattern):
    return sum(times for opcode, times in counts.items() if re.fullmatch(pattern, opcode))


def assert_no_spill(counts):
    assert sum(counts.values()) > 10, "the disassembly was not understood"
    assert count(counts, r"(LDL|STL).*") == 0


def assert_vectorised(counts, quads):
    """16 bytes a load and store of float32, and one Philox call a quad."""
    assert_no_spill(counts)
    assert count(counts, r"LDG\.E\.128.*") >= quads
    assert count(counts, r"STG\.E\.128.*") >= quads
    assert count(counts, r"LDG\.E(\.U16)?") == 0
    multiplies = count(counts, r"IMAD\.(WIDE|HI)\.U32(\.X)?")
    assert 0.8 * MULTIPLIES_A_QUAD * quads <= multiplies <= 1.5 * MULTIPLIES_A_QUAD * quads


def tool(name, *arguments):
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Instructions and resources of every CUDA kernel, by kernel and architecture."""
    folder = tmp_path_factory.mktemp("fatbin")
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    command = ["nvcc", "-O3", "-std=c++17", "-fmad=false", "-fatbin", *codes]
    running = {p.stem: subprocess.Popen([*command, p, "-o", folder / p.stem]) for p in sorted(CSRC.glob("*.cu"))}
    assert {name: process.wait() for name, process in running.items()} == dict.fromkeys(running, 0)
    found = {}
    for name in running:
        for section in tool("cuobjdump", "-sass", folder / name).split("arch = ")[1:]:
            for function, code in re.findall(r"Function : (\S+)\n(.*?)\n\s+\.{10}", section, re.S):
                found[section.split()[0], function] = [instructions(code)]
        for section in tool("cuobjdump", "-res-usage", folder / name).split("arch = ")[1:]:
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
    assert len(compiled) == 11 * len(ARCHITECTURES)
    for (architecture, name), (counts, resources) in compiled.items():
        assert_no_spill(counts)
        assert (resources["STACK"], resources["LOCAL"]) == (0, 0), f"{name} on {architecture}"


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_step_moves_16_bytes_and_draws_once_a_quad(compiled, architecture):
    counts, resources = kernel(compiled, "langevin_step_quadsILb1E", architecture)
    assert_vectorised(counts, 1)
    assert count(counts, r"LDG\.E\.128.*") == 4  # x, grad, noise, gz
    assert count(counts, r"STG\.E\.128.*") == 2  # x, image
    assert count(counts, r"STG\.E(\.64)?") == 0
    assert resources["REG"] <= 40


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_samples_stay_in_registers(compiled, architecture):
    counts, resources = kernel(compiled, "langevin_step_samplesILb1E", architecture)
    assert_vectorised(counts, 8)
    assert count(counts, r"LDG\.E\.128.*") == 8 * 4  # each tensor is read once
    assert resources["REG"] <= 144


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
def test_cuda_ratio_reads_16_bytes_and_decisions_draw_once(compiled, architecture):
    counts, resources = kernel(compiled, "ratio_samplesILb1E", architecture)
    assert count(counts, r"LDG\.E\.128.*") >= 8 * 4
    assert count(counts, r"LDG\.E(\.U16)?") == 0
    assert resources["REG"] <= 96
    counts, _ = kernel(compiled, "decide", architecture)
    assert count(counts, r"IMAD\.(WIDE|HI)\.U32.*") <= 1.2 * MULTIPLIES_A_QUAD * count(counts, r"STG\.E\.U8")


@needs_nvcc
@pytest.mark.parametrize(
    ("source", "fmas"),
    [
        ("langevin", 2 * (FMAS_A_QUAD + FMAS_OF_ADD)),  # of two instantiations
        ("ratio", 0),
        ("metropolis", 2 * FMAS_OF_LOG),  # of the loop with chain ids and the one without
    ],
)
def test_cuda_contracts_nothing(source, fmas, tmp_path):
    target = tmp_path / "kernels.ptx"
    command = ["nvcc", "-O3", "-std=c++17", "-fmad=false", "-ptx", "-arch=sm_90", CSRC / f"{source}_cuda.cu"]
    subprocess.run([*command, "-o", target], check=True)
    ptx = target.read_text()
    assert ptx.count("fma.rn.f32") == fmas
    assert not re.search(r"\b(mad|fma)\.(?!rn\.f32|lo|wide)", ptx)
    assert not re.search(r"\.(approx|ftz)", ptx)


STEP = {
    **{"x": "*fp32", "grad": "*fp32", "diverged": "*i64", "n": "i32", "d": "i32"},
    **{"seed": "i64", "step": "i64", "purpose_and_block": "i64"},
    **dict.fromkeys(("step_size", "noise_std", "inverse_temperature", "prior_precision"), "fp32"),
    **dict.fromkeys(("bound", "low", "high"), "fp32"),
}
RATIO = {
    **{"sums": "*fp64", "n": "i32", "d": "i32"},
    **dict.fromkeys(("step_size", "inverse_temperature", "prior_precision", "bound"), "fp32"),
    **dict.fromkeys(("half_precision", "half_prior"), "fp64"),
}
LAW = {"NOISY": True, "PRIOR": True, "ADD": "sequential", "CLIP": "value", "CLIP_ON": "grad", "WIDE": False}


def compile_triton(function, architecture, signature, constants, num_warps=4):
    """A kernel compiled ahead of time for aligned tensors; arguments without a type are constants, None if absent."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = dict(enumerate(function.arg_names))
    aligned = {name for name, kind in signature.items() if kind[0] == "*"} | {"numel"}
    source = ASTSource(
        fn=function,
        signature={name: signature.get(name, "constexpr") for name in names.values()},
        constexprs={(i,): constants.get(name) for i, name in names.items() if name not in signature},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in names.items() if name in aligned},
    )
    options = {"num_warps": num_warps, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def compile_step(architecture, kind, elements, signature, constants, vector=True):
    from hatebm.kernels import langevin

    return compile_shared(langevin.langevin_step, architecture, kind, elements, STEP | signature, constants, vector)


def compile_shared(function, architecture, kind, elements, signature, constants, vector=True):
    from hatebm.kernels import samples

    sharing = samples.sharing(kind, elements)
    num_warps = sharing.pop("num_warps")
    settings = LAW | {"VECTOR": vector} | sharing | constants
    return compile_triton(function, architecture, signature, settings, num_warps)


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


class Target:
    """A driver for launches that compile and go no further."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def launched(monkeypatch):
    """The variants of each kernel that launches would compile, without a GPU."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    found = {}

    def launch(kernel, grid):
        def compile_only(*arguments, **settings):
            kernel.warmup(*arguments, grid=grid, **settings)
            found[kernel.fn.__name__] = sum(len(caches[0]) for caches in kernel.device_caches.values())

        return compile_only

    monkeypatch.setattr(JITFunction, "__getitem__", launch)
    monkeypatch.setattr(driver, "_active", Target())
    return found


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
