"""Hamiltonian Monte Carlo in one call, with the conventions of the drop-in."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hatebm.dynamics.fields import Schedule
from hatebm.ops.checks import in_the_name_of
from hatebm.sampling.chain import Chain, State


@in_the_name_of("hmc")
def hmc(
    energy: Callable[..., Tensor],
    x: State,
    n_steps: int,
    *,
    eps: Schedule | tuple[Schedule, ...],
    leapfrog_steps: int = 10,
    temperature: Schedule = 1.0,
    prior_precision: float | tuple[float, ...] = 0.0,
    friction: float | tuple[float, ...] | None = None,
    clip: Any = None,
    clamp: Any = None,
    reflect: Any = None,
    blocks: str = "joint",
    seed: int | None = None,
    chain_ids: Tensor | Sequence[int] | None = None,
    first_step: int = 0,
    energy_kwargs: dict[str, Any] | Callable[[int], dict[str, Any]] | None = None,
    grad_fn: Callable[..., Any] | None = None,
    mode: str = "eval",
    noise: Callable[[int], Any] | None = None,
    callback: Callable[[int, State], None] | None = None,
    every: int = 1,
    return_info: bool = False,
    nan: str = "raise",
    mask: Tensor | tuple[Tensor | None, ...] | None = None,
    backend: str | None = None,
    compile: str | bool = "auto",
    precision: str | None = None,
) -> State | tuple[State, dict[str, Tensor]]:
    r"""Run ``n_steps`` trajectories that leave exp(-E(x) / T - prior_precision |x|^2 / 2) invariant, at any ``eps``.

    A trajectory draws v ~ N(0, I), takes ``leapfrog_steps`` times v <- v - eps/2 g, x <- x + eps v, v <- v - eps/2 g
    with g = grad E / T + prior_precision x, and is accepted with probability min(1, exp(H - H')). It is
    ``Chain(energy, x, eps=eps, leapfrog_steps=leapfrog_steps, ...).run(n_steps)``; what is not named here is as in
    :func:`hatebm.langevin`.

    Args:
        energy: callable or module, (n, \*sample) to (n,), low = likely.
        x: the initial state, (n, \*sample), or a tuple of blocks, which the energy takes as arguments.
        n_steps: number of trajectories; each costs ``leapfrog_steps`` evaluations.
        eps: length of a leapfrog step; about two thirds of the proposals accepted is a good length.
        friction: None draws the velocity afresh for each trajectory; gamma > 0 keeps
            exp(-gamma * eps * leapfrog_steps) of it.
        clamp: box (low, high) outside of which nothing is accepted.
        reflect: box (low, high) at whose walls the trajectory turns.
        precision: of the gradients, see :class:`hatebm.Chain`. Leapfrog steps along any function of x keep volume and
            can be reversed, and H is evaluated in float32, so the law stays exact; fewer trajectories are accepted.

    Returns:
        The state after the last trajectory; with ``return_info`` also the dict of :meth:`hatebm.Chain.run`, in which
        "accept" is 1 where the trajectory was accepted.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        ChainDiverged: a NaN energy where a chain is, with the step and the chains where it began; a proposal with a NaN
            is refused, see :meth:`hatebm.Chain.run`.

    Source: Duane, Kennedy, Pendleton and Roweth, "Hybrid Monte Carlo" (1987); Neal, "MCMC using Hamiltonian dynamics"
    (2011), figure 2.
    """
    chain = Chain(
        energy,
        x,
        eps=eps,
        leapfrog_steps=leapfrog_steps,
        temperature=temperature,
        prior_precision=prior_precision,
        friction=friction,
        clip=clip,
        clamp=clamp,
        reflect=reflect,
        blocks=blocks,
        seed=seed,
        chain_ids=chain_ids,
        first_step=first_step,
        energy_kwargs=energy_kwargs,
        grad_fn=grad_fn,
        mode=mode,
        noise=noise,
        nan=nan,
        mask=mask,
        backend=backend,
        compile=compile,
        precision=precision,
    )
    return chain.run(n_steps, callback=callback, every=every, return_info=return_info)
