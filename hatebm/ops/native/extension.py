"""The compiled module ``_C``: what stands in its way, and how numbers and tensors cross into it."""

import os

import torch
from torch import Tensor

from hatebm.ops.checks import require

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


def address(tensor: Tensor | None, count: int, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
    """Where the numbers of a :func:`readable` tensor lie, so many of this type; 0 for None.

    Operands that a door has checked may cross as they are; this is for all others.

    Raises:
        TypeError: what a kernel would misread, or write beyond.
    """
    if tensor is None:
        return 0
    fits = tensor.dtype is dtype and tensor.numel() == count and tensor.device == device
    try:
        place = tensor.data_ptr() if fits else 0
    except RuntimeError:  # a tensor without memory of its own
        place = 0
    if not place and (count or not fits):
        wanted = f"{count} {str(dtype).removeprefix('torch.')} numbers as they lie in the memory of {device}"
        require(False, "hatebm", "what a kernel takes", wanted, tensor, TypeError)
    return place


def readable(tensor: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """The tensor as kernels read it: a negative view negated, and the numbers one after the other in memory."""
    rows = tensor.contiguous(memory_format=layout)
    return rows.resolve_neg() if rows.is_neg() else rows


def number(value: int | Tensor, device: torch.device) -> tuple[int, int]:
    return (0, address(value, 1, device, torch.int64)) if isinstance(value, Tensor) else (value, 0)


def stream(tensor: Tensor) -> tuple[int, int]:
    index = tensor.device.index
    return index, torch._C._cuda_getCurrentRawStream(index)
