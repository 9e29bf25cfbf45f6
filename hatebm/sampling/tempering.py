"""Parallel tempering: hot replicas cross the barriers, the cold one keeps the law."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hatebm.dynamics.facts import joined
from hatebm.dynamics.law import Dynamics
from hatebm.energies.closure import modules_of
from hatebm.energies.modes import bare, in_mode
from hatebm.ops.checks import STEPS, in_the_name_of, require
from hatebm.ops.scalars import checked_flag, checked_whole
from hatebm.sampling.chain import Chain, State
from hatebm.sampling.door import check_callback, checked_end
from hatebm.sampling.exchange import exchanged
from hatebm.sampling.ladder import NAME, checked_ladder, checked_law, heated
from hatebm.sampling.placement import CHAINS, replicas_of
from hatebm.sampling.replicas import Replicas
from hatebm.sampling.state import blocks_of


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
    precision: str | None = None,
    **law: Any,
) -> State | tuple[State, dict[str, Any]]:
    r"""Run n chains at each of the temperatures T_1 < T_2 < ..., where neighbours exchange states; return those at T_1.

    Before each step t > 0 that ``swap_every`` divides, replicas (1, 2), (3, 4), ... and the next time (2, 3), (4, 5),
    ... exchange the states of chain c with probability min(1, exp((1 / T_i - 1 / T_j) (E_i - E_j))), velocities with
    them. That keeps the product of exp(-E / T_i - prior_precision |x|^2 / 2): ``prior_precision`` is not tempered, and
    cancels. Replica i is a :class:`hatebm.Chain` at T_i with T_i / T_1 times the given step_size and sqrt(T_i / T_1)
    times noise_std or eps, so that the drift along grad E is the cold chain's and only the noise grows. One
    temperature is :func:`hatebm.langevin`, bit for bit, and chain c is the same chain alone and in any batch.

    All replicas are rows of one chain, with a temperature for each row, where the energy takes any number of rows. They
    are a chain each, to the same bits (a network's to rounding), where one look at copies of ``x`` finds that it does
    not; in training modules; with ``energy_kwargs`` that are a callable or hold anything with n rows; where step_size,
    noise_std or eps is a callable; and on the CPU where a batch of all would outgrow the caches, see
    :mod:`hatebm.sampling.placement`.

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
            text of :meth:`hatebm.Chain.report` for the chain with the cold replica.
        seed, first_step, energy_kwargs, grad_fn, mode, every, nan, correct, leapfrog_steps, mask, backend, compile,
            precision: as in :class:`hatebm.Chain` and :meth:`hatebm.Chain.run`; exchanges compare energies in IEEE
            float32.

    Returns:
        The cold replica's last state, shaped like x; with ``return_info`` also the dict.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        ChainDiverged: a NaN or Inf in any replica, with the step and the ids that its noise is drawn from; of one chain
            the rows that broke first.

    Source: Swendsen and Wang, "Replica Monte Carlo simulation of spin-glasses" (1986); Geyer, "Markov chain Monte Carlo
    maximum likelihood" (1991).
    """
    ladder = checked_ladder(temperatures)
    require(callable(energy), NAME, "energy", "a callable: an exchange compares energies", energy, TypeError)
    n_steps = checked_whole(NAME, "n_steps", n_steps, "an integer >= 0, to end below step 2^40", 0, STEPS)
    return_info = checked_flag(NAME, "return_info", return_info)
    check_callback(callback)
    swap_every = checked_whole(NAME, "swap_every", swap_every, "an integer > 0", 1)
    starts = x if isinstance(x, list) else [x] * len(ladder)
    require(len(starts) == len(ladder), NAME, "x", f"a state, or a list of {len(ladder)}, one a temperature", x)
    require(starts is not x or mask is None, NAME, "mask", "left out beside a list of states", mask)
    settings = {
        "energy": energy,
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
    dynamics = checked_law(dynamics, law)
    laws = heated(dynamics, ladder)
    cold = Chain(x=starts[0], dynamics=laws[0], seed=seed, chain_ids=chain_ids, **settings)
    ids, first_step = cold.state_dict()["chain_ids"], cold.step
    require(len(ids) == 0 or int(ids.max()) < CHAINS, NAME, "chain_ids", "ids in [0, 2^32)", chain_ids)
    end = checked_end(first_step, n_steps, dynamics.for_blocks(len(blocks_of(starts[0]))), len(ids))
    replicas = replicas_of(cold, starts, laws, settings)

    cuts = [first_step, *range((first_step // swap_every + 1) * swap_every, end, swap_every), end]
    told, swaps = [], []
    with in_mode(modules_of(bare(energy), energy_kwargs), mode):
        for t, stop in pairwise(cuts):
            if 0 < t < stop and t % swap_every == 0:
                swaps += exchanged(replicas, ladder, t, 1 - t // swap_every % 2, cold.seed, ids)
            state, info = replicas.run(stop - t, callback, every, return_info)
            told.append(info)
    return (state, _info(told, swaps, replicas)) if return_info else state


def _info(told: list[dict[str, Tensor]], swaps: list[dict[str, Tensor]], replicas: Replicas) -> dict[str, Any]:
    """What the runs of the cold replica told, the exchanges, and the last states."""
    told = [info for info in told if len(info["step"])] or told[:1]
    states = replicas.states
    first = blocks_of(states[0])[0]
    rows = first.new_empty(0, len(states), len(first), dtype=torch.float64)
    steps = torch.empty(0, dtype=torch.int64, device="cpu")
    none = {"swap_step": steps, "swap_energy": rows, "swap_accept": rows[:, 1:]}
    info = joined(told) | joined([none, *swaps])
    shares = info["swap_accept"].nanmean(0)
    return info | {"swap_accept": shares, "replicas": states, "report": replicas.report()}
