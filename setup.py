"""Builds hatebm._C from csrc/: C++ for every instruction set always, CUDA when nvcc is found.

Switches: HATEBM_CUDA=0 leaves CUDA out, HATEBM_CUDA=1 fails where it cannot be built; TORCH_CUDA_ARCH_LIST
("9.0;10.0+PTX") and CUDA_HOME are torch's own. No torch is needed: pointers and sizes cross the boundary.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import ninja
import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
X86 = platform.machine().lower() in ("x86_64", "amd64")
ISA_FLAGS = {"baseline": ""}
if X86:
    ISA_FLAGS |= {
        "avx2": "-mavx2 -mfma -mf16c",
        "avx512": "-mavx512f -mavx512dq -mavx2 -mfma -mf16c -mprefer-vector-width=512",
    }
LIBRARY = "_C.so"
ARCHITECTURES = "8.0;9.0;10.0;12.0+PTX"
FINDER = "_editable_hatebm_before_namespaces"
FINDER_SOURCE = f'''"""Finds hatebm in its clone where Python's finder takes a folder of that name for a namespace."""

import sys
from importlib.machinery import PathFinder


class BeforeNamespaces:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "hatebm":
            return None
        found = PathFinder.find_spec(name)
        return found if found is not None and found.origin else PathFinder.find_spec(name, [{str(ROOT)!r}])


sys.meta_path.insert(0, BeforeNamespaces)
'''


def nvcc() -> str | None:
    """The CUDA compiler, or None where it is absent or switched off."""
    if os.environ.get("HATEBM_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None and os.environ.get("HATEBM_CUDA") == "1":
        raise SystemExit("HATEBM_CUDA=1 but there is no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda")
    return found


def gencode() -> str:
    """One -gencode per architecture of TORCH_CUDA_ARCH_LIST; +PTX keeps the intermediate code for later GPUs."""
    flags = []
    for arch in os.environ.get("TORCH_CUDA_ARCH_LIST", ARCHITECTURES).replace(" ", ";").split(";"):
        number = arch.removesuffix("+PTX").replace(".", "")
        kinds = f"sm_{number},compute_{number}" if arch.endswith("+PTX") else f"sm_{number}"
        flags.append(f"-gencode=arch=compute_{number},code=[{kinds}]")
    return " ".join(flags)


def cuda_lib(compiler: str) -> str:
    """Where the toolkit that nvcc belongs to keeps its libraries."""
    dry = subprocess.run(
        [compiler, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True, check=True
    )
    tops = [line.split("=", 1)[1].strip() for line in dry.stderr.splitlines() if line.startswith("#$ TOP=")]
    return str(Path(tops[0] if tops else Path(compiler).resolve().parents[1], "lib64"))


class NinjaBuild(build_ext):
    """Hands each source to ninja, which compiles in parallel and only what changed."""

    def build_extension(self, ext: Extension) -> None:
        """Build with CUDA where there is nvcc; where nvcc fails, warn and build without."""
        compiler = nvcc()
        if compiler is not None:
            try:
                return self.run_ninja(ext, compiler)
            except subprocess.CalledProcessError:
                if os.environ.get("HATEBM_CUDA") == "1":
                    raise
                self.warn("nvcc failed: building hatebm without its CUDA kernels (HATEBM_CUDA=1 makes this an error)")
        self.run_ninja(ext, None)

    def run_ninja(self, ext: Extension, compiler: str | None) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(self.build_temp).resolve() / ("cuda" if compiler else "cpu")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(self.recipe(compiler))
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder)]
        subprocess.run(command, check=True, stdout=sys.stderr if self.verbose else None)
        partial = target.with_suffix(".partial")  # each folder keeps its own library: no switch finds a stale one
        shutil.copyfile(folder / LIBRARY, partial)
        partial.replace(target)

    def recipe(self, compiler: str | None) -> str:
        """The build.ninja: one object per loop and instruction set, one per .cu file, one shared library."""
        includes = [sysconfig.get_path("include"), pybind11.get_include(), CSRC]
        apple = sys.platform == "darwin"
        openmp = "" if apple else "-fopenmp"
        exact = "-ffp-contract=off -fno-math-errno"
        warnings = "-Wall -Wno-maybe-uninitialized"  # GCC 12 warns of its own AVX-512 header
        common = f"-O3 -std=c++17 -fPIC -fvisibility=hidden {exact} {warnings}"
        defines = " ".join(["-DHATEBM_X86"] * X86 + ["-DHATEBM_CUDA"] * (compiler is not None))
        cxx = os.environ.get("CXX", "c++")
        link = "-bundle -undefined dynamic_lookup" if apple else "-shared -Wl,--exclude-libs,ALL"
        if compiler:
            link += f" -L{quote(cuda_lib(compiler))} -lcudart_static -lrt -ldl -lpthread"
        nvcc_flags = f"-O3 -std=c++17 -fmad=false -Xcompiler -fPIC,-fvisibility=hidden {gencode()}"
        lines = [
            f"cxxflags = {common} {openmp} {defines} {' '.join(f'-I{quote(path)}' for path in includes)}",
            f"rule cxx\n  command = {cxx} -MD -MF $out.d $cxxflags $isa -c $in -o $out\n"
            "  depfile = $out.d\n  deps = gcc",
            f"rule nvcc\n  command = {compiler} -MD -MF $out.d {nvcc_flags} -I{quote(CSRC)} -c $in -o $out\n"
            "  depfile = $out.d\n  deps = gcc",
            f"rule link\n  command = {cxx} $in -o $out {openmp} {link}",
        ]
        objects, cuda = [], sources("cuda/*.cu") if compiler else []
        for source in cuda:  # begun first, since the longest of them has no other to run beside it at the end
            lines.append(f"build {source.stem}.cu.o: nvcc {quote(source)}")
        for source in [*sources("*.cpp"), *sources("cpu/*.cpp")]:
            if source.stem == "module_cuda" and not compiler:
                continue
            for isa, flags in ISA_FLAGS.items() if source.parent.name == "cpu" else [("", "")]:
                name = f"{source.stem}.{isa}.o" if isa else f"{source.stem}.o"
                extra = f"{flags} -DHATEBM_ISA={isa}" if isa else ""
                lines.append(f"build {name}: cxx {quote(source)}\n  isa = {extra}")
                objects.append(name)
        objects += [f"{source.stem}.cu.o" for source in cuda]
        lines.append(f"build {LIBRARY}: link {' '.join(objects)}")
        return "\n".join(lines) + "\n"


class EditableFinder(build_py):
    """Lets an editable install be found beside the clone, whose folder has the package's name and is none.

    The finder that setuptools installs is asked last, after Python's own has taken that folder for a namespace.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            site_packages = Path(self.get_finalized_command("install").install_lib)
            site_packages.joinpath(f"{FINDER}.py").write_text(FINDER_SOURCE, encoding="utf-8")
            site_packages.joinpath(f"{FINDER}.pth").write_text(f"import {FINDER}\n", encoding="utf-8")


def quote(path: object) -> str:
    """A path as ninja reads it."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def sources(pattern: str) -> list[Path]:
    """Files of csrc/, of which there are some."""
    found = sorted(CSRC.glob(pattern))
    if not found:
        raise SystemExit(f"no file is csrc/{pattern}: the sources of hatebm are not whole")
    return found


def carried(*patterns: str) -> list[str]:
    """Files of csrc/, as a source distribution carries them."""
    return [str(path.relative_to(ROOT)) for pattern in patterns for path in sources(pattern)]


setup(
    packages=[*find_packages(include=["hatebm*"]), "hatebm.kernels"],
    package_dir={"hatebm.kernels": "kernels"},
    package_data={"hatebm": ["py.typed"]},
    ext_modules=[Extension("hatebm._C", carried("*.cpp", "cpu/*.cpp"), depends=carried("**/*.h", "cuda/*.cu"))],
    cmdclass={"build_ext": NinjaBuild, "build_py": EditableFinder},
)
