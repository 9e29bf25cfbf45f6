"""Parallel tempering: hot replicas cross the barriers, the cold one keeps the law."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.law import Dynamics
from hatebm.dynamics.transitions.adjusted import chosen
from hatebm.energies.closure import modules_of
from hatebm.energies.modes import bare, in_mode
from hatebm.ops import metropolis
from hatebm.ops.checks import STEPS, in_the_name_of, require
from hatebm.ops.noise import Purpose
from hatebm.ops.scalars import checked_flag, checked_numbers, checked_whole
from hatebm.sampling.chain import Chain, State

NAME = "tempering"
REPLICAS = 256
CHAINS = 1 << 32  # ids of one replica's chains; the next replica's follow


@in_the_name_of(NAME)
def tempering(
    energy: Callable[..., Tensor],
    x: State | list[State],
    n_steps: int,
    *,
    temperatures: Sequence[float] | Tensor,
    swap_every: int = 10,
    dynamics: Dynamics | None = None,
    seed: int | None = None,
    chain_ids: Tensor | Sequence[int] | None = None,
    first_step: int = 0,
    energy_kwargs: dict[str, Any] | Callable[[int], dict[str, Any]] | None = None,
    grad_fn: Callable[..., Any] | None = None,
    mode: str = "eval",
    callback: Callable[[int, State], None] | None = None,
    every: int = 1,
    return_info: bool = False,
    nan: str = "raise",
    correct: str | None = None,
    leapfrog_steps: int | None = None,
    mask: Tensor | tuple[Tensor | None, ...] | None = None,
    backend: str | None = None,
    compile: str | bool = "auto",
    precision: str = "float32",
    **law: Any,
) -> State | tuple[State, dict[str, Any]]:
    r"""Run n chains at each of the temperatures T_1 < T_2 < ..., where neighbours exchange states; return those at T_1.

    Before each step t > 0 that ``swap_every`` divides, replicas (1, 2), (3, 4), ... and the next time (2, 3), (4, 5),
    ... exchange the states of chain c with probability min(1, exp((1 / T_i - 1 / T_j) (E_i - E_j))), velocities with
    them. That keeps the product of exp(-E / T_i - prior_precision |x|^2 / 2): ``prior_precision`` is not tempered, and
    cancels. Replica i is a :class:`hatebm.Chain` at T_i with T_i / T_1 times the given step_size and sqrt(T_i / T_1)
    times noise_std or eps, so that the drift along grad E is the cold chain's and only the noise grows. One
    temperature is :func:`hatebm.langevin`, bit for bit, and chain c is the same chain alone and in any batch.

    Args:
        energy: callable or module, (n, \*sample) to (n,), low = likely.
        x: the initial state of every replica, (n, \*sample) or a tuple of blocks; or a list of such, one a replica.
        n_steps: number of steps of each replica.
        temperatures: T_1 < T_2 < ..., at most 256.
        swap_every: number of steps from one exchange to the next.
        dynamics: the law, without a temperature; or its fields as keywords, see :class:`hatebm.Dynamics`.
        chain_ids: (n,) ids in [0, 2^32); replica i draws the noise of id c from id c + 2^32 (i - 1).
        callback: called as callback(t, state) with the cold state, see :meth:`hatebm.Chain.run`.
        return_info: also return a dict: what :meth:`hatebm.Chain.run` tells of the cold replica; "swap_step" (swaps,);
            "swap_energy" (swaps, replicas, n), the energies before each exchange; "swap_accept" (replicas - 1, n), the
            share of accepted exchanges between neighbours, NaN where there were none; "replicas", a list of all last
            states: given as ``x`` beside ``first_step`` it goes on, without friction bit for bit; and "report", the
            text of :meth:`hatebm.Chain.report` for the cold replica.
        seed, first_step, energy_kwargs, grad_fn, mode, every, nan, correct, leapfrog_steps, mask, backend, compile,
            precision: as in :class:`hatebm.Chain` and :meth:`hatebm.Chain.run`; exchanges compare energies in float32.

    Returns:
        The cold replica's last state, shaped like x; with ``return_info`` also the dict.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        ChainDiverged: a NaN or Inf in any replica, with the step and the ids that its noise is drawn from.

    Source: Swendsen and Wang, "Replica Monte Carlo simulation of spin-glasses" (1986); Geyer, "Markov chain Monte Carlo
    maximum likelihood" (1991).
    """
    ladder = _checked_ladder(temperatures)
    require(callable(energy), NAME, "energy", "a callable: an exchange compares energies", energy, TypeError)
    n_steps = checked_whole(NAME, "n_steps", n_steps, "an integer >= 0, to end below step 2^40", 0, STEPS)
    return_info = checked_flag(NAME, "return_info", return_info)
    swap_every = checked_whole(NAME, "swap_every", swap_every, "an integer > 0", 1)
    starts = x if isinstance(x, list) else [x] * len(ladder)
    require(len(starts) == len(ladder), NAME, "x", f"a state, or a list of {len(ladder)}, one a temperature", x)
    require(starts is not x or mask is None, NAME, "mask", "left out beside a list of states", mask)
    settings = {
        "first_step": first_step,
        "energy_kwargs": energy_kwargs,
        "grad_fn": grad_fn,
        "mode": mode,
        "nan": nan,
        "correct": correct,
        "leapfrog_steps": leapfrog_steps,
        "mask": mask,
        "backend": backend,
        "compile": compile,
        "precision": precision,
    }
    laws = _heated(_checked_law(dynamics, law), ladder)
    replicas = [Chain(energy, starts[0], laws[0], seed=seed, chain_ids=chain_ids, **settings)]
    seed, ids = replicas[0].seed, replicas[0].state_dict()["chain_ids"]
    require(len(ids) == 0 or int(ids.max()) < CHAINS, NAME, "chain_ids", "ids in [0, 2^32)", chain_ids)
    for i in range(1, len(ladder)):
        replicas.append(Chain(energy, starts[i], laws[i], seed=seed, chain_ids=ids + i * CHAINS, **settings))
    potential = Potential(bare(energy), None, energy_kwargs, ())

    first_step = replicas[0].step
    end = first_step + n_steps
    require(end <= STEPS, NAME, "n_steps", "small enough to stay below step 2^40", n_steps)
    cuts = [first_step, *range((first_step // swap_every + 1) * swap_every, end, swap_every), end]
    told, swaps = [], []
    with in_mode(modules_of(potential.energy, energy_kwargs), mode):
        for t, stop in pairwise(cuts):
            if 0 < t < stop and t % swap_every == 0:
                swaps += _exchanged(replicas, ladder, potential, t, first=1 - t // swap_every % 2)
            cold = replicas[0].run(stop - t, callback=callback, every=every, return_info=return_info)
            for replica in replicas[1:]:
                replica.run(stop - t)
            told += [cold[1]] if return_info else []
    return (cold[0], _info(told, swaps, replicas)) if return_info else cold


def _exchanged(
    replicas: list[Chain], ladder: list[float], potential: Potential, t: int, first: int
) -> list[dict[str, Tensor]]:
    """Every second pair of neighbours exchanges states; a list of what to tell of it, empty where there is no pair."""
    pairs = range(first, len(replicas) - 1, 2)
    if not pairs:
        return []
    saved = [replica.state_dict() for replica in replicas]
    energies = torch.stack([potential.energies(t, _blocks(part["state"])).double() for part in saved])
    shares = torch.full_like(energies[1:], math.nan)
    place = {"seed": saved[0]["seed"], "step": t, "purpose": Purpose.SWAP, "chain_ids": saved[0]["chain_ids"]}
    for i in pairs:
        log_ratio = (1 / ladder[i] - 1 / ladder[i + 1]) * (energies[i] - energies[i + 1])
        accept = metropolis(log_ratio, block=i, **place)
        for here, there in ((i, i + 1), (i + 1, i)):
            moving = [name for name in ("state", "velocity") if name in saved[here]]
            moved = {name: _chosen(accept, saved[there][name], saved[here][name]) for name in moving}
            replicas[here].load_state_dict(saved[here] | moved)
        shares[i] = accept.double()
    at = torch.tensor([t], dtype=torch.int64, device="cpu")
    return [{"swap_step": at, "swap_energy": energies[None], "swap_accept": shares[None]}]


def _info(told: list[dict[str, Tensor]], swaps: list[dict[str, Tensor]], replicas: list[Chain]) -> dict[str, Any]:
    """What the runs of the cold replica told, the exchanges, and the last states."""
    told = [info for info in told if len(info["step"])] or told[:1]
    states = [replica.state for replica in replicas]
    rows = _blocks(states[0])[0].new_empty(0, len(replicas), len(_blocks(states[0])[0]), dtype=torch.float64)
    steps = torch.empty(0, dtype=torch.int64, device="cpu")
    none = {"swap_step": steps, "swap_energy": rows, "swap_accept": rows[:, 1:]}
    info = _joined(told) | _joined([none, *swaps])
    shares = info["swap_accept"].nanmean(0)
    return info | {"swap_accept": shares, "replicas": states, "report": replicas[0].report()}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _heated(law: Dynamics, ladder: list[float]) -> list[Dynamics]:
    """The law at each temperature: all of them drift along grad E as the first one does."""
    laws = []
    for temperature in ladder:
        heat = temperature / ladder[0]
        steps = {"step_size": heat, "noise_std": math.sqrt(heat), "eps": math.sqrt(heat)}
        scaled = {name: _scaled(getattr(law, name), factor) for name, factor in steps.items()}
        laws.append(dataclasses.replace(law, temperature=temperature, **scaled))
    return laws


def _scaled(value: Any, factor: float) -> Any:
    """A schedule times a factor, or each entry of a tuple of them."""
    if value is None:
        return None
    if isinstance(value, tuple | list):
        return type(value)(_scaled(entry, factor) for entry in value)
    return (lambda t: value(t) * factor) if callable(value) else value * factor


def _checked_ladder(temperatures: Sequence[float] | Tensor) -> list[float]:
    wanted = "finite, > 0 and increasing, the wanted one first"
    ladder = checked_numbers(NAME, "temperatures", temperatures, wanted, lambda value: 0 < value < math.inf)
    require(0 < len(ladder) <= REPLICAS, NAME, "temperatures", f"of 1 to {REPLICAS} entries", temperatures)
    rises = all(low < high for low, high in pairwise(ladder))
    require(rises, NAME, "temperatures", wanted, temperatures)
    return [float(value) for value in ladder]


def _checked_law(dynamics: Dynamics | None, law: dict[str, Any]) -> Dynamics:
    require(dynamics is None or not law, NAME, "dynamics", f"given alone, without {sorted(law)}", dynamics)
    require(isinstance(dynamics, Dynamics | None), NAME, "dynamics", "a Dynamics", dynamics, TypeError)
    law = Dynamics(**law) if dynamics is None else dynamics
    untouched = isinstance(law.temperature, int | float) and law.temperature == 1
    require(untouched, NAME, "temperature", "left to temperatures", law.temperature)
    return law


def _blocks(state: State) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else state


def _chosen(accept: Tensor, theirs: State, own: State) -> State:
    if isinstance(own, Tensor):
        return chosen(accept, theirs, own)
    return tuple(chosen(accept, a, b) for a, b in zip(theirs, own, strict=True))
