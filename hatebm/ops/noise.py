"""The counter-based noise: element e of chain c at step t is a function of (seed, purpose, block, c, t, e) alone."""

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from hatebm.ops import library, reference
from hatebm.ops.backend import check_backend, module_for
from hatebm.ops.checks import CHAINS, ELEMENTS, check_device, is_dense, require
from hatebm.ops.scalars import checked_chain_ids, checked_draw, checked_shape

ALL = 1 << 60  # elements of a draw


class Purpose(IntEnum):
    """What a draw of the chain's noise is for: the ``purpose`` of the noise contract."""

    LANGEVIN = 0
    INITIAL_STATE = 1
    METROPOLIS = 2
    REPLAY = 3
    DATA_NOISE = 4
    DATA_ORDER = 5
    BANK = 6
    VELOCITY = 7
    SWAP = 8
    DROPOUT = 9
    OUTLIERS = 64
    RETURN = 65
    JACKKNIFE = 66


def philox(counter: Tensor, key: Tensor, *, backend: str | None = None) -> Tensor:
    """Philox4x32-10, word for word Random123's: int64 (..., 4) counters and (..., 2) keys to (..., 4) words.

    Words lie in [0, 2^32), held in int64. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).

    Raises:
        TypeError, ValueError: a tensor that is not int64, a wrong last dimension, or a word out of range.
    """
    for name, value, width in (("counter", counter, 4), ("key", key, 2)):
        whole = isinstance(value, Tensor) and value.dtype == torch.int64 and is_dense(value)
        require(whole, "philox", name, "an int64 tensor", value, TypeError)
        require(value.dim() > 0 and value.shape[-1] == width, "philox", name, f"shape (..., {width})", value)
        in_range = (
            library.is_traced(value) or value.numel() == 0 or (int(value.min()) >= 0 and int(value.max()) < 1 << 32)
        )
        require(in_range, "philox", name, "words in [0, 2^32)", value)
    require(counter.device == key.device, "philox", "key", f"a tensor on {counter.device} like counter", key)
    pairs = zip(reversed(counter.shape[:-1]), reversed(key.shape[:-1]), strict=False)
    fits = all(a == b or 1 in (a, b) for a, b in pairs)
    require(fits, "philox", "key", f"broadcastable to counter's {tuple(counter.shape[:-1])}", key)
    check_backend("philox", backend)
    if library.is_traced(counter):
        return torch.ops.hatebm.philox(counter, key, backend)
    return module_for("philox", backend, counter.device).philox(counter, key)


def normal(
    shape: Sequence[int],
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = Purpose.LANGEVIN,
    chain_ids: Tensor | Sequence[int] | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""The standard normals that chains draw: float32 of ``shape`` (n, \*sample), one row for each chain.

    Element e of chain c at step t is a function of (seed, purpose, block, c, t, e) alone, the same 32 bits on every
    backend: Philox4x32-10 words through Box-Muller.

    Args:
        shape: (n, \*sample).
        seed: 64-bit seed (negative ones modulo 2^64), or a one-element int64 tensor on the device.
        step: step index in [0, 2^40), or a one-element int64 tensor on the device.
        block: which block of the state, in [0, 256).
        purpose: what the draw is for, one of :class:`Purpose` or a number of your own below 256.
        chain_ids: (n,) chain ids in [0, 2^40); default 0..n-1.
        device: where the result lies.
        backend: one of ``hatebm.backends()``; None takes the fastest that can run.

    Raises:
        TypeError, ValueError: an id, step, block or purpose out of range, naming it.
        RuntimeError: a chosen backend that cannot run here, with the reason.
    """
    shape = _checked_shape("normal", shape)
    check_backend("normal", backend)
    device = placed("normal", device, chain_ids, seed, step)
    seed, step = checked_draw("normal", seed, step, block, purpose, device)
    chain_ids = checked_chain_ids("normal", chain_ids, shape[0], device)
    settings = {"block": int(block), "purpose": int(purpose), "chain_ids": chain_ids, "device": device}
    if torch.compiler.is_compiling():
        return torch.ops.hatebm.normal(shape, **library.place(seed, step), **settings, backend=backend)
    return module_for("normal", backend, device).normal(shape, seed=seed, step=step, **settings)


def words(
    shape: Sequence[int],
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int,
    chain_ids: Tensor | Sequence[int] | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""The random 32-bit words themselves, held in int64, one for each element of ``shape`` (n, \*sample).

    Element e takes word e mod 4 of the Philox block e // 4; arguments and errors as in :func:`normal`.
    """
    shape = _checked_shape("words", shape)
    device = placed("words", device, chain_ids, seed, step)
    seed, step = checked_draw("words", seed, step, block, purpose, device)
    chain_ids = checked_chain_ids("words", chain_ids, shape[0], device)
    numel = math.prod(shape[1:])
    at = reference.counters(shape[0], (numel + 3) // 4, seed, step, block, int(purpose), chain_ids, device)
    return module_for("words", backend, device).philox(*at).flatten(1)[:, :numel].reshape(shape)


def uniform(shape: Sequence[int], **place: Any) -> Tensor:
    r"""Uniform numbers in [0, 1): float32 multiples of 2^-24 of ``shape`` (n, \*sample); arguments of :func:`words`."""
    return (words(shape, **place) >> 8).float() * 2.0**-24


def _checked_shape(op: str, shape: Sequence[int]) -> tuple[int, ...]:
    sizes = checked_shape(op, "shape", shape, "(n, *sample), sizes >= 0 with n <= 2^40", CHAINS)
    require(len(sizes) > 0, op, "shape", "(n, *sample)", shape)
    require(math.prod(sizes[1:]) < ELEMENTS, op, "shape", "fewer than 2^34 elements a chain", shape)
    require(math.prod(sizes) < ALL, op, "shape", "fewer than 2^60 elements in all", shape)
    return sizes


def placed(op: str, device: torch.device | str | None, *operands: Any) -> torch.device:
    """Where a tensor of one's own lies: there, or beside the first operand, or on the caller's default device."""
    check_device(op, device)
    if device is None:
        default = torch.empty(0, dtype=torch.uint8, device=None)  # torch.get_default_device() breaks graphs
        device = next((v.device for v in operands if isinstance(v, Tensor)), default.device)
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return device
