"""The compiled module ``_C``: what stands in its way, and how numbers and tensors cross into it."""

import os

import torch
from torch import Tensor

try:
    from hatebm import _C

    missing = ""
except ImportError as error:
    _C = None
    missing = f"hatebm._C is not built ({error}); install with `pip install -e .`"

ADD = {"sequential": 0, "increment": 1, "fma": 2}
CLIP = {None: 0, "value": 1, "norm": 2}
MASK64 = (1 << 64) - 1


def unavailable(backend: str) -> str:
    """Why ``backend`` ("cpu", "cuda" or "triton") cannot run here; empty when it can."""
    if backend == "triton":
        return _triton_unavailable()
    if missing:
        return missing
    if backend == "cpu":
        return ""
    if _C.cuda is None:
        return "built without CUDA: no nvcc was found, or HATEBM_CUDA=0"
    if not torch.cuda.is_available():
        return f"this torch sees no CUDA device ({_C.cuda.unavailable() or 'torch is a CPU build'})"
    return _C.cuda.unavailable()


def _triton_unavailable() -> str:
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed; install with `pip install triton`"
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return "no GPU; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly"


def has_vectors() -> bool:
    """Whether the CPU loops that are in use were built for a known instruction set."""
    return _C.instruction_set() != "baseline"


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def number(value: int | Tensor) -> tuple[int, int]:
    return (0, value.data_ptr()) if isinstance(value, Tensor) else (value, 0)


def stream(tensor: Tensor) -> tuple[int, int]:
    index = tensor.device.index
    return index, torch._C._cuda_getCurrentRawStream(index)
