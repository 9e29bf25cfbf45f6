"""The CUDA sources compiled for the CPU, with ``cuda_on_cpu.h`` in place of nvcc's own headers."""

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig

import pytest
from places import CSRC, TESTS, matching

COMPILER = shutil.which(os.environ.get("CXX", "c++"))


def compile_into(folder):
    """Make a folder's module ``emulated``, or skip where nothing compiles it."""
    pybind11 = pytest.importorskip("pybind11", reason="binding the emulated kernels needs pybind11")
    if COMPILER is None:
        pytest.skip("compiling the emulated kernels needs a C++ compiler")
    sources = [folder / "module.cpp"]
    binding = f'#define HATEBM_CUDA\n#include "{CSRC}/module_cuda.cpp"\n'
    sources[0].write_text(binding + "PYBIND11_MODULE(emulated, m) { hatebm::bind_cuda(m); }\n")
    for path in matching(CSRC / "cuda", "*.cu"):
        sources.append(folder / f"{path.stem}.cpp")
        launches = re.sub(r"(\w+)<<<(.+?)>>>\(", r"emulation::launch(+\1, \2)(", path.read_text())
        room = r"auto* \2 = reinterpret_cast<\1*>(emulation::shared)"
        shared = re.sub(r"extern __shared__ (\w+) (\w+)\[\]", room, launches)
        sources[-1].write_text('#include "cuda_on_cpu.h"\n' + shared)
    includes = [f"-I{path}" for path in (CSRC, TESTS, sysconfig.get_path("include"), pybind11.get_include())]
    flags = ["-O1", "-std=c++17", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas", *includes]
    commands = [[COMPILER, *flags, "-c", str(source), "-o", str(source.with_suffix(".o"))] for source in sources]
    compilers = [subprocess.Popen(command) for command in commands]
    assert [compiler.wait() for compiler in compilers] == [0] * len(sources)
    objects = [str(source.with_suffix(".o")) for source in sources]
    subprocess.run([COMPILER, "-shared", *objects, "-o", str(folder / "emulated.so")], check=True)


def loaded(folder):
    """``_C.cuda``, whose kernels run thread by thread on the CPU."""
    loader = importlib.machinery.ExtensionFileLoader("emulated", str(folder / "emulated.so"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("emulated", loader))
    loader.exec_module(module)
    return module.cuda
