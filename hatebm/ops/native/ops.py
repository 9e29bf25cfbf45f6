"""The ops in C++ for CPU tensors and in CUDA for GPU tensors: twins of :mod:`hatebm.ops.reference`, bit for bit."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hatebm.ops.native.extension import _C, ADD, CLIP, MASK64, address, number, readable, stream
from hatebm.ops.reference import ratio_coefficients

GRAD_TYPES = {None: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}


def langevin_step_(
    x: Tensor,
    grad: Tensor | None,
    *,
    step_size: float,
    noise_std: float,
    seed: int | Tensor,
    step: int | Tensor,
    inverse_temperature: float = 1.0,
    prior_precision: float = 0.0,
    bound: float = 0.0,
    numbers: Tensor | None = None,
    add: str = "sequential",
    clip: str | None = None,
    clip_on: str = "grad",
    low: float = -math.inf,
    high: float = math.inf,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
    noise: Tensor | None = None,
    gz: Tensor | None = None,
    image: Tensor | None = None,
    grad_norm: Tensor | None = None,
    displacement: Tensor | None = None,
    diverged: Tensor | None = None,
) -> None:
    """Twin of :func:`hatebm.ops.reference.langevin_step_`."""
    if grad is None and grad_norm is not None:
        grad_norm.zero_()
    n, d = x.shape[0], math.prod(x.shape[1:])
    kind, here = None if grad is None else grad.dtype, x.device
    layout = _layout((x, grad, noise, gz, image))
    others = [0 if v is None else address(v, n * d, here) for v in (noise, gz, image)]
    arguments = (
        *(x.data_ptr(), 0 if grad is None else grad.data_ptr(), GRAD_TYPES[kind], *others, n, d),
        *(step_size, noise_std, inverse_temperature, prior_precision, bound, *numbers_at(numbers, n, here)),
        *(ADD[add], CLIP[clip], clip_on == "update", low, high),
    )
    ids, bad = address(chain_ids, n, here, torch.int64), address(diverged, n, here, torch.int64)
    outputs = (ids, address(grad_norm, n, here), address(displacement, n, here), bad, layout)
    if x.device.type == "cpu":
        place = (int(seed) & MASK64, int(step), block, purpose)
        _C.langevin_step(*arguments, *place, *outputs, torch.get_num_threads())
    else:
        (seed, seed_at), (step, step_at) = number(seed, here), number(step, here)
        gathers = clip == "norm" or grad_norm is not None or displacement is not None
        room = 2 * _C.cuda.workspace(n, d) if gathers else 0
        sums = torch.empty(room, dtype=torch.float64, device=x.device) if room else None
        where = (address(sums, room, here, torch.float64), *stream(x), seed_at, step_at)
        _C.cuda.langevin_step(*arguments, seed & MASK64, step, block, purpose, *outputs, *where)


def ready_step(
    x: Tensor,
    *,
    seed: int,
    add: str,
    clip: str | None,
    clip_on: str,
    low: float,
    high: float,
    block: int,
    purpose: int,
    chain_ids: Tensor | None,
    diverged: Tensor | None,
) -> Callable[..., None]:
    """:func:`langevin_step_` of a row-major x on the CPU, to be called again and again with what a step changes."""
    n, d, here = x.shape[0], math.prod(x.shape[1:]), x.device
    law = (ADD[add], CLIP[clip], clip_on == "update", low, high, seed & MASK64)
    ids, bad = address(chain_ids, n, here, torch.int64), address(diverged, n, here, torch.int64)
    ends = (block, purpose, ids, 0, 0, bad, [], torch.get_num_threads())
    written = [x] if diverged is None else [x, diverged]

    def step(
        grad: Tensor | None,
        t: int,
        step_size: float,
        noise_std: float,
        inverse_temperature: float,
        prior_precision: float,
        bound: float,
        numbers: Tensor | None,
    ) -> None:
        rows = None if grad is None else readable(grad)
        pull = (0, GRAD_TYPES[None]) if rows is None else (rows.data_ptr(), GRAD_TYPES[rows.dtype])
        operands = (x.data_ptr(), *pull, 0, 0, 0, n, d)
        own = (0, 0, 0) if numbers is None else numbers_at(numbers, n, here)
        _C.langevin_step(
            *operands, step_size, noise_std, inverse_temperature, prior_precision, bound, *own, *law, t, *ends
        )
        torch.autograd.graph.increment_version(written)

    return step


def numbers_at(numbers: Tensor | None, n: int, here: torch.device) -> tuple[int, int, int]:
    """Where the numbers of the laws of n chains lie, (5, n) or (5, 1), and how far apart those of fields and chains."""
    if numbers is None:
        return 0, 0, 0
    columns = numbers.shape[1]
    place = address(numbers, 5 * (1 if columns == 1 else n), here)
    return place, numbers.stride(0), 0 if columns == 1 else numbers.stride(1)


def langevin_ratio(
    x: Tensor,
    grad: Tensor,
    proposal: Tensor,
    proposal_grad: Tensor,
    *,
    step_size: float,
    noise_std: float,
    inverse_temperature: float = 1.0,
    prior_precision: float = 0.0,
    bound: float = 0.0,
    numbers: Tensor | None = None,
    halves: Tensor | None = None,
    clip: str | None = None,
    clip_on: str = "grad",
) -> Tensor:
    """Twin of :func:`hatebm.ops.reference.langevin_ratio`."""
    n, d, here = x.shape[0], math.prod(x.shape[1:]), x.device
    tensors = [readable(v) for v in (x, grad, proposal, proposal_grad)]
    out = torch.empty(n, dtype=torch.float64, device=x.device)
    arguments = (
        *[v.data_ptr() for v in tensors],
        *(GRAD_TYPES[grad.dtype], n, d),
        *(step_size, inverse_temperature, prior_precision, bound, *numbers_at(numbers, n, here)),
        *(CLIP[clip], clip_on == "update", *ratio_coefficients(noise_std, prior_precision)),
        *(address(halves, 2 * n, here, torch.float64), out.data_ptr()),
    )
    if x.device.type == "cpu":
        _C.langevin_ratio(*arguments, torch.get_num_threads())
    else:
        room = (3 if clip == "norm" else 1) * _C.cuda.workspace(n, d)
        sums = torch.empty(room, dtype=torch.float64, device=x.device) if room else None
        _C.cuda.langevin_ratio(*arguments, address(sums, room, x.device, torch.float64), *stream(x))
    return out


def metropolis(
    log_ratio: Tensor,
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`hatebm.ops.reference.metropolis`."""
    log_ratio, n, here = readable(log_ratio), len(log_ratio), log_ratio.device
    accept = torch.empty_like(log_ratio, dtype=torch.bool)
    arguments = (address(log_ratio, n, here, torch.float64), address(accept, n, here, torch.bool), n)
    ids = address(chain_ids, n, here, torch.int64)
    if here.type == "cpu":
        place = (int(seed) & MASK64, int(step), block, purpose, ids)
        _C.metropolis(*arguments, *place, torch.get_num_threads())
    else:
        (seed, seed_at), (step, step_at) = number(seed, here), number(step, here)
        place = (seed & MASK64, step, block, purpose, ids)
        _C.cuda.metropolis(*arguments, *place, *stream(log_ratio), seed_at, step_at)
    return accept


def normal(
    shape: tuple[int, ...],
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Twin of :func:`hatebm.ops.reference.normal`."""
    out = torch.empty(shape, dtype=torch.float32, device=device)
    n, d = shape[0], math.prod(shape[1:])
    size = (address(out, n * d, out.device), n, d)
    ids = address(chain_ids, n, out.device, torch.int64)
    if out.device.type == "cpu":
        place = (int(seed) & MASK64, int(step), block, purpose, ids)
        _C.normal(*size, *place, torch.get_num_threads())
    else:
        (seed, seed_at), (step, step_at) = number(seed, out.device), number(step, out.device)
        place = (seed & MASK64, step, block, purpose, ids)
        _C.cuda.normal(*size, *place, *stream(out), seed_at, step_at)
    return out


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Twin of :func:`hatebm.ops.reference.philox`."""
    shape = torch.broadcast_shapes(counter.shape[:-1], key.shape[:-1])
    counter, key, m = readable(counter.expand(*shape, 4)), readable(key.expand(*shape, 2)), math.prod(shape)
    words = torch.empty_like(counter)
    sizes = ((counter, 4 * m), (key, 2 * m), (words, 4 * m))
    addresses = (*(address(v, size, counter.device, torch.int64) for v, size in sizes), m)
    if counter.device.type == "cpu":
        _C.philox(*addresses)
    else:
        _C.cuda.philox(*addresses, *stream(counter))
    return words


def residual_add(gz: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """Twin of :func:`hatebm.ops.reference.residual_add`."""
    gz, y = gz.resolve_neg(), y.resolve_neg()
    if gz.stride() != y.stride() or not _is_dense(gz):
        gz, y = gz.contiguous(), y.contiguous()
    out = torch.empty_like(gz) if out is None else out
    addresses = (*(address(v, gz.numel(), gz.device) for v in (gz, y, out)), gz.numel())
    if gz.device.type == "cpu":
        _C.residual_add(*addresses, torch.get_num_threads())
    else:
        _C.cuda.residual_add(*addresses, *stream(gz))
    return out


def _is_dense(tensor: Tensor) -> bool:
    return tensor.stride() == torch.empty_like(tensor).stride()


def _layout(operands: tuple[Tensor | None, ...]) -> list[list[int]]:
    """Empty when every tensor is row-major; else the sample's sizes and each tensor's strides, the chain's first.

    Neighbouring dimensions that lie as one in every tensor are merged.
    """
    for operand in operands:
        if operand is not None and not operand.is_contiguous():
            break
    else:
        return []
    x = operands[0]
    dims = []  # (size, stride in each tensor)
    for k in range(1, x.dim()):
        if x.shape[k] == 1:
            continue
        strides = tuple(0 if v is None else v.stride(k) for v in operands)
        if dims and all(outer == inner * x.shape[k] for outer, inner in zip(dims[-1][1], strides, strict=True)):
            dims[-1] = (dims[-1][0] * x.shape[k], strides)
        else:
            dims.append((x.shape[k], strides))
    dims = dims or [(1, (0,) * len(operands))]
    chains = [[] if v is None else [v.stride(0)] for v in operands]
    return [
        [size for size, _ in dims],
        *(chain and chain + [strides[i] for _, strides in dims] for i, chain in enumerate(chains)),
    ]
