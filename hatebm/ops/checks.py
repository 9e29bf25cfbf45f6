"""Checks at the door: each message names the function, the argument, what was wanted and what came."""

import math
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

STEPS = 1 << 40
CHAINS = 1 << 40
ELEMENTS = 1 << 34
HUGE = 10**40  # an integer beyond which nobody counts digits
GRAD_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def checked_mask(op: str, mask: Any, state: Sequence[Tensor]) -> list[Tensor | None]:
    """For each block where it may move, shaped like the block; None for everywhere."""
    if mask is None:
        return [None] * len(state)
    parts = mask if isinstance(mask, tuple | list) else (mask,)
    known = all(part is None or isinstance(part, Tensor) for part in parts)
    require(known, op, "mask", "a bool tensor, or a tuple of one per block", mask, TypeError)
    masks = checked_blocks(op, "mask", mask, len(state))
    found = []
    for part, x in zip(masks, state, strict=True):
        if part is not None:
            fits = isinstance(part, Tensor) and part.dtype == torch.bool and part.device == x.device and is_dense(part)
            require(fits, op, "mask", f"a bool tensor on {x.device}, True where the state moves", part, TypeError)
            wide = part.dim() <= x.dim() and all(
                a in (1, b) for a, b in zip(reversed(part.shape), reversed(x.shape), strict=False)
            )
            require(wide, op, "mask", f"broadcastable to {tuple(x.shape)}", part)
        found.append(None if part is None else part.expand(x.shape))
    return found


def checked_blocks(op: str, name: str, parts: Any, count: int) -> Sequence[Any]:
    """What was given for each block, a tuple or a list; for one block it may stand alone."""
    if isinstance(parts, tuple | list):
        require(len(parts) == count, op, name, f"a tuple of {count}, one per block", parts)
        return parts
    require(count == 1, op, name, f"a tuple of {count}, one per block", parts)
    return (parts,)


def require(holds: bool, op: str, argument: str, wanted: str, got: Any, error: type[Exception] = ValueError) -> None:
    """Raise ``error`` that names the function, the argument, what was wanted and what came, unless ``holds``."""
    if not holds:
        raise error(f"{op}: {argument} must be {wanted}, got {describe(got)}")


@contextmanager
def in_the_name_of(op: str, by: str = "langevin") -> Iterator[None]:
    """Let what a chain, or its law, refuses be refused by the function that asked it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if str(error).startswith(f"{by}: "):
            error.args = (op + str(error).removeprefix(by),)
        raise


def is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def describe(value: Any) -> str:
    """What came, in a line: a tensor or an array by its type and shape, anything else by the beginning of its repr."""
    return " ".join(_short.repr(value).split())


class _Short(reprlib.Repr):
    """Lists, numbers and strings of any size in a line, whatever lies in them."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = 12
        self.maxstring = self.maxother = 100

    def repr1(self, value: Any, level: int) -> str:
        if isinstance(value, Tensor):
            shape = "" if value.is_nested else f" of shape {tuple(value.shape)}"
            kind = "" if value.layout == torch.strided else f" {str(value.layout).removeprefix('torch.').strip('_')}"
            kind = " nested" if value.is_nested else kind
            return f"a{kind} {str(value.dtype).removeprefix('torch.')} tensor{shape} on {value.device}"
        if hasattr(type(value), "__array_interface__") and getattr(value, "shape", ()) != ():
            return f"a NumPy array of {value.dtype} of shape {value.shape}"
        if isinstance(value, int) and abs(value) >= HUGE:
            return f"an integer of {value.bit_length()} bits"
        return super().repr1(value, level)


_short = _Short()


def checked_choice(op: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise unless a value is one of these words."""
    if not (isinstance(value, str) and value in choices):
        require(False, op, name, f"one of {tuple(choices)}", value)


def check_device(op: str, device: Any) -> None:
    """Raise unless torch has the device here; None is the default one."""
    if device is None or torch.compiler.is_compiling():
        return
    try:
        torch.empty(0, dtype=torch.uint8, device=device)
    except Exception as error:  # torch has an error of its own for each kind of device
        text = f"a device that this torch has here ({str(error).splitlines()[0][:80]})"
        raise ValueError(f"{op}: device must be {text}, got {describe(device)}") from None


def is_dense(value: Tensor) -> bool:
    """Whether elements lie one by one in memory, where kernels find them."""
    return value.layout is torch.strided and not value.is_nested and not value.is_quantized


def check_dense(op: str, name: str, value: Tensor) -> None:
    """Raise unless kernels can read the memory: not that of what torch.func transforms either."""
    if not is_dense(value):
        require(False, op, name, "a dense tensor", value, TypeError)
    if not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(value):
        text = "a tensor outside torch.func's transforms: run all chains in one call, a chain_ids for each"
        require(False, op, name, text, "one inside torch.func.vmap or grad")


def check_state(op: str, x: Tensor, name: str = "x") -> None:
    """Raise unless these are states of chains."""
    require(isinstance(x, Tensor), op, name, "a tensor", x, TypeError)
    check_dense(op, name, x)
    require(x.dtype in (torch.float32, torch.float64), op, name, "float32 (or float64 on the reference)", x, TypeError)
    require(x.dim() > 0, op, name, "(n, *sample) with a leading chain dimension", x)
    require(math.prod(x.shape[1:]) < ELEMENTS, op, name, "fewer than 2^34 elements a chain", x)


def check_writable(op: str, x: Tensor, name: str = "x") -> None:
    """Raise unless a state may be updated in place."""
    writable = not (x.requires_grad and torch.is_grad_enabled())
    require(writable, op, name, "detached (it is updated in place), or the call under torch.no_grad()", x)
    require(x.is_contiguous() or not overlaps(x), op, name, "a tensor whose elements do not overlap in memory", x)


def check_like(op: str, name: str, value: Tensor | None, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if value is None:
        return
    require(isinstance(value, Tensor), op, name, "a tensor", value, TypeError)
    if not is_dense(value):
        require(False, op, name, "a dense tensor", value, TypeError)
    if value.shape != x.shape or value.device != x.device:
        require(False, op, name, f"a tensor of shape {tuple(x.shape)} on {x.device} like x", value)
    if value.dtype not in dtypes:
        wanted = " or ".join(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in dtypes))
        require(False, op, name, wanted, value, TypeError)


def check_written(op: str, name: str, value: Tensor, x: Tensor, dtype: torch.dtype) -> None:
    n = len(x)
    require(isinstance(value, Tensor) and is_dense(value), op, name, "a dense tensor", value, TypeError)
    fits = (
        value.shape == (n,)
        and value.dtype == dtype
        and value.device == x.device
        and value.is_contiguous()
        and not value.is_neg()
    )
    wanted = f"a contiguous {str(dtype).removeprefix('torch.')} tensor of shape ({n},) on {x.device}"
    require(fits, op, name, wanted, value)


def check_numbers(op: str, numbers: Tensor | None, x: Tensor) -> None:
    """Raise unless these may be the numbers of the laws of x's chains, or one law for all."""
    if numbers is None:
        return
    fits = isinstance(numbers, Tensor) and numbers.shape in ((5, len(x)), (5, 1))
    fits = fits and numbers.dtype == x.dtype and numbers.device == x.device and not numbers.is_neg()
    wanted = f"a {str(x.dtype).removeprefix('torch.')} tensor of shape (5, {len(x)}) or (5, 1) on {x.device}"
    require(fits, op, "numbers", wanted, numbers)


def check_halves(op: str, halves: Tensor | None, x: Tensor) -> None:
    """Raise unless these may be the two coefficients of each chain's ratio."""
    if halves is None:
        return
    fits = isinstance(halves, Tensor) and halves.shape == (2, len(x)) and halves.dtype == torch.float64
    fits = fits and halves.device == x.device and halves.is_contiguous() and not halves.is_neg()
    require(fits, op, "halves", f"a contiguous float64 tensor of shape (2, {len(x)}) on {x.device}", halves)


def overlaps(x: Tensor) -> bool:
    reach = 0
    for stride, size in sorted((x.stride(k), x.shape[k]) for k in range(x.dim()) if x.shape[k] != 1):
        if stride <= reach:
            return x.numel() > 0
        reach += stride * (size - 1)
    return False
