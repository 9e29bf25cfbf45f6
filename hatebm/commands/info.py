"""What ``hatebm info`` prints: versions, processor, devices, and each backend with yes, or no and why."""

import importlib.metadata
import platform

import torch

from hatebm.ops.backend import backends
from hatebm.ops.native import extension

PACKAGES = ("hatebm", "torch", "triton", "numpy", "scikit-learn", "pillow", "safetensors", "rich", "matplotlib")


def report() -> str:
    """The machine as hatebm sees it, one fact a line."""
    lines = [("python", platform.python_version()), *((name, version_of(name)) for name in PACKAGES)]
    lines += [("processor", _processor()), ("CPU kernels", _kernels()), ("threads", str(torch.get_num_threads()))]
    lines += _devices()
    lines += [("CUDA graphs", _graphs())]
    lines += [(f"backend {name}", "yes" if state is True else f"no: {state}") for name, state in backends().items()]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def version_of(package: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    return f"{platform.machine()}, torch uses {torch.backends.cpu.get_cpu_capability()}"


def _kernels() -> str:
    if extension.missing:
        return f"none: {extension.missing}"
    chosen, *others = extension._C.instruction_sets()
    return f"{chosen}" + (f" (also {', '.join(others)})" if others else "")


def _devices() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("devices", "cpu")]
    found = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        size = card.total_memory / 2**30
        found.append((f"cuda:{index}", f"{card.name}, sm_{card.major}{card.minor}, {size:.0f} GiB"))
    return found


def _graphs() -> str:
    if not torch.cuda.is_available():
        return "no: torch sees no CUDA device"
    count, graph = torch.zeros(1, dtype=torch.float32, device="cuda"), torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            count.add_(1)
        graph.replay()
    except RuntimeError as error:
        return f"no: {next(iter(str(error).splitlines()), '')}"
    return "yes" if int(count) == 1 else "no: a replay does nothing"
