"""The samplers of ess.py, each as hatebm, torchebm and blackjax run it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from ess_targets import Target
from torch import Tensor

import hatebm

LEAPFROG_STEPS = 5
Advance = Callable[[], Tensor]  # runs on from where it stopped; (kept, n, d)


@dataclass(frozen=True)
class Sampler:
    """How a law is run: steps of a run, how many pass between states that are kept, and between those that ESS reads;
    the acceptance that tunes it, and the jitter of its size.
    """

    steps: int
    every: int
    ess_every: int
    acceptance: float | None = None
    jitter: float = 0.0

    def sizes(self, size: float) -> list[float]:
        """The step size of every step of a run."""
        u = torch.rand(self.steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return (size * (1 + self.jitter * (2 * u - 1))).tolist()


SAMPLERS = {
    "Langevin": Sampler(2000, every=20, ess_every=20),
    "MALA": Sampler(500, every=1, ess_every=4, acceptance=0.57),
    "HMC": Sampler(200, every=1, ess_every=1, acceptance=0.75, jitter=0.2),
}


def law(sampler: str, size: float) -> dict[str, Any]:
    """A sampler as hatebm takes it."""
    sizes = SAMPLERS[sampler].sizes(size)
    return {
        "Langevin": {"step_size": size},
        "MALA": {"step_size": size, "correct": "mala"},
        "HMC": {"eps": lambda t: sizes[t % len(sizes)], "leapfrog_steps": LEAPFROG_STEPS},
    }[sampler]


def hatebm_chains(target: Target, sampler: str, size: float, start: Tensor) -> Advance:
    """One living chain, whose callback writes into a tensor."""
    run = SAMPLERS[sampler]
    chain = hatebm.Chain(target.energy(torch.tensor), start, seed=0, **law(sampler, size))

    def advance() -> Tensor:
        draws = torch.empty(run.steps // run.every, *start.shape)
        rows = iter(draws)
        chain.run(run.steps, callback=lambda _, x: next(rows).copy_(x), every=run.every)
        return draws

    return advance


def torchebm_chains(target: Target, sampler: str, size: float, start: Tensor) -> Advance:
    """Its samplers, with the trajectory that they return."""
    from torchebm.core import BaseModel, BaseScheduler
    from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

    class Model(BaseModel):
        forward = staticmethod(target.energy(torch.tensor))

    class Jitter(BaseScheduler):
        def _compute_value(self) -> float:
            return sizes[self.step_count % len(sizes)]

    run, x = SAMPLERS[sampler], start
    sizes = run.sizes(size)
    if sampler == "Langevin":
        chains = LangevinDynamics(Model(), step_size=size)
    elif sampler == "MALA":
        chains = HamiltonianMonteCarlo(Model(), step_size=math.sqrt(2 * size), n_leapfrog_steps=1)
    else:
        chains = HamiltonianMonteCarlo(Model(), step_size=Jitter(sizes[0]), n_leapfrog_steps=LEAPFROG_STEPS)
    noise = torch.Generator().manual_seed(0)

    def advance() -> Tensor:
        nonlocal x
        draws = chains.sample(x, n_steps=run.steps, thin=run.every, return_trajectory=True, generator=noise)
        x = draws[:, -1]
        return draws.transpose(0, 1)

    return advance


def blackjax_chains(target: Target, sampler: str, size: float, start: Tensor) -> Advance:
    """Its kernels, compiled."""
    import blackjax
    import jax
    from jax import lax, numpy

    run, energy = SAMPLERS[sampler], target.energy(numpy.array)
    sizes = numpy.array(run.sizes(size)).reshape(-1, run.every)
    kernel = {"Langevin": blackjax.sgld, "MALA": blackjax.mala, "HMC": blackjax.hmc}[sampler].build_kernel()

    def log_density(x):
        return -energy(x)

    def init(x):
        return x if sampler == "Langevin" else getattr(blackjax, sampler.lower()).init(x, log_density)

    def step(key, state, size):
        if sampler == "Langevin":
            return kernel(key, state, lambda x, _: jax.grad(log_density)(x), None, size)
        more = (numpy.ones(start.shape[1]), LEAPFROG_STEPS) if sampler == "HMC" else ()
        return kernel(key, state, log_density, size, *more)[0]

    def every_chain(states, at):
        key, size = at
        return jax.vmap(step, (0, 0, None))(jax.random.split(key, len(start)), states, size), None

    def kept(states, at):
        key, sizes = at
        states, _ = lax.scan(every_chain, states, (jax.random.split(key, run.every), sizes))
        return states, states if sampler == "Langevin" else states.position

    @jax.jit
    def whole(x, key):
        return lax.scan(kept, jax.vmap(init)(x), (jax.random.split(key, len(sizes)), sizes))[1]

    x, key = numpy.array(start.tolist()), jax.random.key(0)
    compiled = whole.lower(x, key).compile()

    def advance() -> Tensor:
        nonlocal x, key
        key, now = jax.random.split(key)
        draws = compiled(x, now).block_until_ready()
        x = draws[-1]
        return torch.from_dlpack(draws)

    return advance


CONTENDERS = {"hatebm": hatebm_chains, "torchebm": torchebm_chains, "blackjax": blackjax_chains}
