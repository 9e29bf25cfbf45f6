"""Annealed importance sampling: the log of a partition function, with an error bar."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hatebm.energies.closure import modules_of
from hatebm.energies.modes import MODES, in_mode
from hatebm.ops.checks import (
    CHAINS,
    ELEMENTS,
    STEPS,
    check_device,
    check_state,
    checked_choice,
    in_the_name_of,
    require,
)
from hatebm.ops.noise import placed
from hatebm.ops.scalars import (
    LISTED,
    as_number,
    as_whole,
    checked_chain_ids,
    checked_draw,
    checked_interval,
    checked_number,
    checked_numbers,
    checked_shape,
    checked_whole,
    largest,
    plain,
)
from hatebm.sampling.bridges import NAME, AnnealingPath, Normal, Uniform

MOST = 1 << 31  # chains of a pilot, leapfrog steps of a trajectory
BRIDGES = 1 << 24


class AIS(NamedTuple):
    """What :func:`ais` found.

    Attributes:
        log_z: log of the mean of exp(log_weights), the estimate of log Z; minus that where it ran in reverse.
        standard_error: of log_z, by the delta method over the independent chains.
        ess: effective number of chains, (sum w)^2 / sum w^2, between 1 and n.
        log_weights: (n,) float64, log w of each chain: the mean of w is Z, or 1 / Z in reverse.
        states: (n, *sample), the last states; forward, those with weights w sample exp(-E / T).
        acceptance: (bridges,) share of the trajectories accepted at each beta > 0, NaN where none was run.
        eps: (bridges,) the lengths of the leapfrog steps, for another run without a pilot.
        report: how the energy was prepared for the last bridge, see :meth:`hatebm.Chain.report`.
    """

    log_z: float
    standard_error: float
    ess: float
    log_weights: Tensor
    states: Tensor
    acceptance: Tensor
    eps: Tensor
    report: str


@in_the_name_of(NAME)
def ais(
    energy: Callable[..., Tensor],
    x: Sequence[int] | Tensor,
    *,
    bridges: int | Sequence[float] | Tensor = 200,
    eps: float | Sequence[float] | Tensor,
    leapfrog_steps: int = 10,
    trajectories: int = 1,
    temperature: float = 1.0,
    std: float = 1.0,
    box: tuple[float, float] | None = None,
    pilot: int = 16,
    seed: int | None = None,
    chain_ids: Tensor | Sequence[int] | None = None,
    energy_kwargs: dict[str, Any] | None = None,
    mode: str = "eval",
    device: torch.device | str | None = None,
    backend: str | None = None,
    compile: str | bool = "auto",
    precision: str | None = None,
) -> AIS:
    r"""Estimate log Z, Z the integral of exp(-E(x) / T), by annealed importance sampling.

    n chains start in the base p_0 = N(0, std^2), or uniform on ``box``, and pass the bridges
    f_beta = p_0^(1 - beta) exp(-beta E / T) for 0 = beta_0 < ... < beta_K = 1. At each one
    log w <- log w + (beta_k - beta_(k-1)) (-E(x) / T - log p_0(x)), and then x moves by Hamiltonian Monte Carlo, which
    keeps f_(beta_k) exactly at any step (it turns at the walls of the box). The mean of w is Z without bias, for any
    number of bridges. Its logarithm is a stochastic lower bound: too low on average, by about half the square of the
    standard error while that is small. If it is not small, or the effective number of chains is a few, the error bar
    means little: take more bridges.

    With exact samples of exp(-E / T) as ``x`` the chains run from beta = 1 to 0, the mean of w is 1 / Z, and log_z is a
    stochastic upper bound (bidirectional Monte Carlo); what a sampler has left behind is not exact, and bounds nothing.

    Args:
        energy: callable or module, (n, \*sample) to (n,), low = likely.
        x: the shape (n, \*sample), n >= 2; or exact samples of exp(-E / T), for the run in reverse.
        bridges: their number K, with beta_k = (k / K)^2, closest at the base; or beta_0 = 0, ..., beta_K = 1.
        eps: length of a leapfrog step where the pilot does not shorten it; or one for each bridge, and no pilot.
        leapfrog_steps: of a trajectory; leapfrog_steps * eps about the width of exp(-E / T) mixes best.
        trajectories: at each bridge, which costs trajectories * leapfrog_steps + 1 gradients and an energy.
        temperature: divides the energy.
        std: standard deviation of the normal base.
        box: (low, high) of every element: the base is uniform there, and Z the integral over the box.
        pilot: number of chains of a run before, whose share of accepted trajectories sets the next bridge's length,
            eps_(k+1) = min(eps, eps_k exp(share - 0.75)). They are not among the n, so the weights stay unbiased; 0
            keeps eps. They take ``energy_kwargs`` as it is: with a row for each chain in it, give 0 or n.
        seed: 64-bit seed of the noise; None draws one from torch's generator.
        chain_ids: (n,) ids of the chains, default 0..n-1: a chain's weight is the same in any batch.
        energy_kwargs: keyword arguments of the energy.
        mode, backend, compile: as in :class:`hatebm.Chain`.
        device: of the chains, where ``x`` is a shape.
        precision: of the gradients, see :class:`hatebm.Chain`; weights and Metropolis tests take energies in IEEE
            float32, so that the weights stay unbiased.

    Returns:
        An :class:`AIS`: log_z, standard_error, ess, log_weights, states, acceptance, eps, report.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        ChainDiverged: a NaN energy where a chain is; a proposal with a NaN is refused.

    Source: Neal, "Annealed importance sampling" (2001); Grosse, Ghahramani and Adams, "Sandwiching the marginal
    likelihood using bidirectional Monte Carlo" (2015).
    """
    require(callable(energy), NAME, "energy", "callable", energy, TypeError)
    betas = _checked_betas(bridges)
    base = _checked_normal(std) if box is None else Uniform(*checked_interval(NAME, "box", box))
    pilot = checked_whole(NAME, "pilot", pilot, "an integer in [0, 2^31)", 0, MOST)
    leapfrog_steps = checked_whole(NAME, "leapfrog_steps", leapfrog_steps, "an integer in [1, 2^31)", 1, MOST)
    most = STEPS // len(betas)
    trajectories = checked_whole(NAME, "trajectories", trajectories, f"an integer in [1, {most})", 1, most)
    wanted = "a finite number > 0"
    temperature = float(checked_number(NAME, "temperature", temperature, wanted, lambda v: 0 < v < math.inf))
    checked_choice(NAME, "mode", mode, MODES)
    fixed = energy_kwargs is None or isinstance(energy_kwargs, dict)
    require(fixed, NAME, "energy_kwargs", "a dict: the bridges share one energy", energy_kwargs, TypeError)
    reverse = isinstance(x, Tensor)
    check_device(NAME, device)
    if reverse:
        check_state(NAME, x)
        require(not x.is_meta, NAME, "x", "samples with data", x)
    shape = x.shape if reverse else checked_shape(NAME, "x", x, "(n, *sample) with n >= 2, or n samples", ELEMENTS)
    fits = len(shape) > 0 and shape[0] > 1 and math.prod(shape[1:]) < ELEMENTS
    require(fits, NAME, "x", "(n, *sample) with n >= 2, or n samples", x)
    device = x.device if reverse else placed(NAME, device)
    ids = checked_chain_ids(NAME, range(shape[0]) if chain_ids is None else chain_ids, shape[0], device)
    require(int(ids.max()) < CHAINS - pilot, NAME, "chain_ids", f"ids in [0, 2^40 - pilot), pilot = {pilot}", chain_ids)
    seed = torch.randint(1 << 62, (1,), dtype=torch.int64, device="cpu").item() if seed is None else seed
    seed = checked_draw(NAME, seed, 0, 0, 0, device)[0]
    moves = {"leapfrog_steps": leapfrog_steps, "seed": seed, "mode": mode, "backend": backend}
    moves |= {"compile": compile, "precision": precision}
    path = AnnealingPath(energy, base, betas, temperature, trajectories, energy_kwargs, moves)
    steps, steered = _checked_eps(eps, len(betas) - 1)

    with in_mode(modules_of(path.potential.energy, energy_kwargs), mode):
        start = base.checked(x) if reverse else path.start(shape, ids)
        if steered and pilot:
            few = torch.arange(CHAINS - pilot, CHAINS, dtype=torch.int64, device=device)
            begin = path.start((pilot, *shape[1:]), few).to(start.dtype)
            *_, steps = path.run(begin, few, steps, steered=True)
        states, log_w, *lists = path.run(start, ids, steps, reverse=reverse)
    largest = float(log_w.max())
    w = (log_w - largest).exp()
    log_z = largest + math.log(float(w.mean()))
    standard_error = float(w.std() / w.mean()) / math.sqrt(len(w))
    ess = float(w.sum().square() / w.square().sum())
    lists = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in lists)
    return AIS(-log_z if reverse else log_z, standard_error, ess, log_w, states, *lists, path.report)


def _checked_normal(std: float) -> Normal:
    most = largest(torch.float32)
    wanted = "a finite number > 0, with std^2 and 1 / std^2 in the range of float32"
    return Normal(float(checked_number(NAME, "std", std, wanted, lambda v: 0 < v < most and 1 / most <= v * v <= most)))


def _checked_betas(bridges: int | Sequence[float] | Tensor) -> list[float]:
    number = as_whole(bridges)
    if number is not None:
        require(0 < number < BRIDGES, NAME, "bridges", "> 0 and below 2^24, or a list of betas", bridges)
        return [(k / number) ** 2 for k in range(number + 1)]
    require(_is_listed(bridges), NAME, "bridges", f"a number, {LISTED}", bridges, TypeError)
    betas = [float(beta) for beta in checked_numbers(NAME, "bridges", bridges)]
    rises = len(betas) > 1 and all(low < high for low, high in pairwise(betas))
    require(rises and betas[0] == 0 and betas[-1] == 1, NAME, "bridges", "0 = beta_0 < ... < beta_K = 1", bridges)
    return betas


def _checked_eps(eps: float | Sequence[float] | Tensor, bridges: int) -> tuple[list[float], bool]:
    """A length for each bridge, and whether a pilot may steer it."""
    one = as_number(eps) is not None
    require(one or _is_listed(eps), NAME, "eps", f"a number, {LISTED}", eps, TypeError)
    given = [eps] if one else eps
    steps = [float(step) for step in checked_numbers(NAME, "eps", given, "finite and > 0", lambda v: 0 < v < math.inf)]
    require(one or len(steps) == bridges, NAME, "eps", f"a number, or {bridges}, one a bridge", eps)
    return steps * bridges if one else steps, one


def _is_listed(values: Any) -> bool:
    return isinstance(values, Tensor) or isinstance(plain(values), list | tuple)
