"""Where the replicas of a ladder live: in one chain where the energy allows it, else in a chain each.

A batch of all outgrows a processor's caches beyond CACHED elements: then functions and networks take its parts faster.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.law import Dynamics
from hatebm.energies.closure import modules_of, tensors_of
from hatebm.energies.modes import bare, in_mode
from hatebm.engine.prepare.callables import as_module
from hatebm.engine.prepare.recognition import kernel_of
from hatebm.ops.checks import is_dense
from hatebm.sampling.chain import Chain
from hatebm.sampling.ladder import as_one
from hatebm.sampling.replicas import Replicas
from hatebm.sampling.state import State, blocks_of, joined

CACHED = 1 << 16  # elements of a batch whose networks and functions work within a processor's caches
CHAINS = 1 << 32  # ids of one replica's chains; the next replica's follow
ALIKE = 1e-4  # of the largest: another place in a batch rounds otherwise by less, another energy differs by more


def replicas_of(cold: Chain, starts: Sequence[State], laws: Sequence[Dynamics], settings: dict[str, Any]) -> Replicas:
    """The replicas whose first is this chain, with settings as it has them."""
    saved, count = cold.state_dict(), len(laws)
    seed, state = saved["seed"], blocks_of(saved["state"])
    ids = [saved["chain_ids"] + i * CHAINS for i in range(count)]
    functions = bare(settings["energy"]), bare(settings["grad_fn"]), settings["energy_kwargs"]
    potential, modules = Potential(*functions, [None] * len(state)), modules_of(*functions)
    law = as_one(laws, len(state[0])) if _are_alike(starts) else None
    if law is None or not allows_one_chain(potential, modules, settings["mode"], cold.step, state, count):
        hot = list(zip(starts, laws, ids, strict=True))[1:]
        chains = [Chain(x=x, dynamics=law, seed=seed, chain_ids=own, **settings) for x, law, own in hot]
        return Replicas([cold, *chains], count, potential)
    whole = settings | {"mask": _repeated(settings["mask"], state, count)}
    chain = Chain(x=joined(starts), dynamics=law, seed=seed, chain_ids=torch.cat(ids), **whole)
    return Replicas([chain], count, potential)


def allows_one_chain(
    potential: Potential, modules: Sequence[nn.Module], mode: str, t: int, state: Sequence[Tensor], count: int
) -> bool:
    """Whether ``count`` replicas of the n chains of a state may be rows of one batch.

    What says that they may not: a batch so large that the processor would be slower; modules that train; keyword
    arguments that are made for each step, or may have a row for each chain; on a GPU, where an index out of range ends
    the process, a function that holds a table of n rows; and one look at copies of the chains in a batch: there is to
    be an energy for each row, and a gradient where a function gives it, and each copy is to have the same.
    """
    trains = mode == "train" or (mode == "keep" and any(getattr(part, "training", False) for part in modules))
    if trains or potential.changes or _outgrows_caches(potential.energy, state, count):
        return False
    try:
        if _has_rows(potential.kwargs(t), len(state[0])):
            return False
        here = [] if state[0].is_cpu else [state[0].device]
        if here and _has_rows(tensors_of(potential.energy, potential.grad_fn), len(state[0])):
            return False
        with in_mode(modules, mode), torch.random.fork_rng(here):
            copies = [x.repeat(count, *[1] * (x.dim() - 1)) for x in state]
            found = [potential.energies(t, copies)]
            found += [] if potential.grad_fn is None else potential.gradient(t, copies, range(len(copies)))[1]
            return all(_repeats(rows, count) for rows in found)
    except Exception:  # an energy may raise anything; if it raises for its n rows as well, the chains will tell
        return False


def _are_alike(starts: Sequence[Any]) -> bool:
    """Whether there are several starts, each of dense blocks that one tensor can hold."""
    blocks = [start if isinstance(start, tuple | list) else (start,) for start in starts]
    if not all(isinstance(x, Tensor) and is_dense(x) for parts in blocks for x in parts):
        return False
    kinds = {tuple((x.shape, x.dtype, x.device) for x in parts) for parts in blocks}
    alone = {isinstance(start, Tensor) for start in starts}
    return len(starts) > 1 and len(kinds) == len(alone) == 1


def _outgrows_caches(energy: Any, state: Sequence[Tensor], count: int) -> bool:
    """Whether a processor takes so large a batch slower than its parts; a kernel of its own takes it row by row."""
    own_kernel = energy is not None and kernel_of(as_module(energy), state) is not None
    return state[0].is_cpu and not own_kernel and count * sum(x.numel() for x in state) > CACHED


def _repeats(rows: Tensor, count: int) -> bool:
    """Whether rows are ``count`` copies of the first ones, to rounding."""
    copies = rows.detach().unflatten(0, (count, -1))
    most = float(copies.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(copies, copies[:1].expand_as(copies), rtol=0, atol=ALIKE * most, equal_nan=True)


def _has_rows(value: Any, n: int) -> bool:
    """Whether there is anything with n rows, which may be one for each chain, in keyword arguments."""
    if isinstance(value, dict):
        return any(_has_rows(entry, n) for entry in value.values())
    if isinstance(value, list | tuple):
        return len(value) == n or any(_has_rows(entry, n) for entry in value)
    shape = getattr(value, "shape", ())
    return isinstance(shape, tuple) and len(shape) > 0 and shape[0] == n


def _repeated(mask: Any, state: Sequence[Tensor], count: int) -> tuple[Tensor | None, ...] | None:
    """A mask for ``count`` states like this one."""
    if mask is None:
        return None
    parts = zip((mask,) if isinstance(mask, Tensor) else mask, state, strict=True)
    return tuple(_for_all(part, x, count) for part, x in parts)


def _for_all(mask: Tensor | None, x: Tensor, count: int) -> Tensor | None:
    if mask is None or mask.dim() < x.dim() or len(mask) == 1:
        return mask
    return mask.repeat(count, *[1] * (x.dim() - 1))
