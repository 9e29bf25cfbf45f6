"""Checks at the door: each message names the function, the argument, what was wanted and what came."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

STEPS = 1 << 40
CHAINS = 1 << 40
ELEMENTS = 1 << 34
GRAD_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def checked_chain_ids(op: str, ids: Tensor | Sequence[int] | None, n: int, device: torch.device) -> Tensor | None:
    """Chain ids as an int64 tensor on ``device``, or None for 0..n-1."""
    if ids is None:
        return None
    if not isinstance(ids, Tensor):
        listed = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str | bytes) else [ids]
        whole = all(isinstance(i, Integral) and not isinstance(i, bool) for i in listed)
        require(whole and listed != [ids], op, "chain_ids", "integers, one id a chain", ids, TypeError)
        ids = torch.tensor(listed, dtype=torch.int64, device="cpu")
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    require(whole, op, "chain_ids", "integers", ids, TypeError)
    ids = ids.long()
    require(ids.shape == (n,), op, "chain_ids", f"shape ({n},), one id a chain", ids)
    if not torch.compiler.is_compiling():
        low, high = (int(v) for v in ids.aminmax()) if n else (0, 0)
        require(low >= 0 and high < CHAINS, op, "chain_ids", "ids in [0, 2^40)", (low, high))
    return ids.to(device).contiguous()


def checked_clip(op: str, clip: Any) -> tuple[str, float] | None:
    """A clip as (kind, bound), or None."""
    fits = clip is None or (isinstance(clip, tuple) and len(clip) == 2 and clip[0] in ("value", "norm") and clip[1] > 0)
    require(fits, op, "clip", "('value', c) or ('norm', c) with c > 0", clip)
    return clip


def checked_box(op: str, name: str, box: Any) -> tuple[float, float] | None:
    """A box as (low, high), or None; None for one side leaves it open."""
    if box is None:
        return None
    require(isinstance(box, tuple | list) and len(box) == 2, op, name, "(low, high)", box)
    low = -math.inf if box[0] is None else box[0]
    high = math.inf if box[1] is None else box[1]
    require(low <= high, op, name, "(low, high) with low <= high", box)
    return low, high


def checked_mask(op: str, mask: Any, state: Sequence[Tensor]) -> list[Tensor | None]:
    """For each block where it may move, shaped like the block; None for everywhere."""
    if mask is None:
        return [None] * len(state)
    masks = mask if isinstance(mask, tuple) else (mask,)
    require(len(masks) == len(state), op, "mask", f"a tuple of {len(state)}, one per block", mask)
    found = []
    for part, x in zip(masks, state, strict=True):
        if part is not None:
            fits = isinstance(part, Tensor) and part.dtype == torch.bool and part.device == x.device
            require(fits, op, "mask", f"a bool tensor on {x.device}, True where the state moves", part, TypeError)
            wide = part.dim() <= x.dim() and all(
                a in (1, b) for a, b in zip(reversed(part.shape), reversed(x.shape), strict=False)
            )
            require(wide, op, "mask", f"broadcastable to {tuple(x.shape)}", part)
        found.append(None if part is None else part.expand(x.shape))
    return found


def require(holds: bool, op: str, argument: str, wanted: str, got: Any, error: type[Exception] = ValueError) -> None:
    """Raise ``error`` that names the function, the argument, what was wanted and what came, unless ``holds``."""
    if not holds:
        raise error(f"{op}: {argument} must be {wanted}, got {describe(got)}")


@contextmanager
def in_the_name_of(op: str) -> Iterator[None]:
    """Let what a chain refuses be refused by the function that built it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if str(error).startswith("langevin: "):
            error.args = (op + str(error).removeprefix("langevin"),)
        raise


def is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def describe(value: Any) -> str:
    if isinstance(value, Tensor) and (value.is_nested or value.layout is not torch.strided):
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.").strip("_")
        return f"a {kind} {str(value.dtype).removeprefix('torch.')} tensor on {value.device}"
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)} on {value.device}"
    return repr(value)


def check_dense(op: str, name: str, value: Tensor) -> None:
    """Kernels read memory: sparse and nested tensors have none of that kind, nor what torch.func transforms."""
    if value.layout is not torch.strided or value.is_nested:
        require(False, op, name, "a dense tensor", value, TypeError)
    if not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(value):
        text = "a tensor outside torch.func's transforms: run all chains in one call, a chain_ids for each"
        require(False, op, name, text, "one inside torch.func.vmap or grad")


def check_state(op: str, x: Tensor) -> None:
    require(isinstance(x, Tensor), op, "x", "a tensor", x, TypeError)
    check_dense(op, "x", x)
    require(x.dtype in (torch.float32, torch.float64), op, "x", "float32 (or float64 on the reference)", x, TypeError)
    require(x.dim() > 0, op, "x", "(n, *sample) with a leading chain dimension", x)
    require(math.prod(x.shape[1:]) < ELEMENTS, op, "x", "fewer than 2^34 elements a chain", x)


def check_writable(op: str, x: Tensor) -> None:
    writable = not (x.requires_grad and torch.is_grad_enabled())
    require(writable, op, "x", "detached (it is updated in place), or the call under torch.no_grad()", x)
    require(x.is_contiguous() or not overlaps(x), op, "x", "a tensor whose elements do not overlap in memory", x)


def check_like(op: str, name: str, value: Tensor | None, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if value is None:
        return
    require(isinstance(value, Tensor), op, name, "a tensor", value, TypeError)
    if value.layout is not torch.strided or value.is_nested:
        require(False, op, name, "a dense tensor", value, TypeError)
    if value.shape != x.shape or value.device != x.device:
        require(False, op, name, f"a tensor of shape {tuple(x.shape)} on {x.device} like x", value)
    if value.dtype not in dtypes:
        wanted = " or ".join(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in dtypes))
        require(False, op, name, wanted, value, TypeError)


def check_written(op: str, name: str, value: Tensor, x: Tensor, dtype: torch.dtype) -> None:
    n = len(x)
    fits = (
        value.shape == (n,)
        and value.dtype == dtype
        and value.device == x.device
        and value.is_contiguous()
        and not value.is_neg()
    )
    wanted = f"a contiguous {str(dtype).removeprefix('torch.')} tensor of shape ({n},) on {x.device}"
    require(fits, op, name, wanted, value)


def overlaps(x: Tensor) -> bool:
    reach = 0
    for stride, size in sorted((x.stride(k), x.shape[k]) for k in range(x.dim()) if x.shape[k] != 1):
        if stride <= reach:
            return x.numel() > 0
        reach += stride * (size - 1)
    return False


def checked_draw(
    op: str, seed: int | Tensor, step: int | Tensor, block: int, purpose: int, device: torch.device
) -> tuple[int | Tensor, int | Tensor]:
    """Seed, modulo 2^64 into the range of an int64, and step."""
    if type(seed) is not int or type(step) is not int:
        seed, step = (int(v) if isinstance(v, Integral) and not isinstance(v, bool) else v for v in (seed, step))
    for name, value, low, high in (("seed", seed, -(1 << 63), 1 << 64), ("step", step, 0, STEPS)):
        if isinstance(value, Tensor):
            if value.dtype != torch.int64 or value.numel() != 1 or value.device != device:
                require(False, op, name, f"an int or a one-element int64 tensor on {device}", value)
        else:
            whole = type(value) is int or (isinstance(value, int | torch.SymInt) and not isinstance(value, bool))
            require(whole, op, name, "an int or a one-element int64 tensor", value, TypeError)
            if not low <= value < high:
                require(False, op, name, f"in [{low}, {high})", value)
    require(0 <= block < 256, op, "block", "in [0, 256)", block)
    require(0 <= int(purpose) < 256, op, "purpose", "in [0, 256)", purpose)
    wraps = not isinstance(seed, Tensor) and seed >= 1 << 63
    return seed - (1 << 64) if wraps else seed, step
