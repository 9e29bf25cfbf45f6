"""Chains as people call them: each habit beside the naive loop written with it, and beside the energy given bare."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from hatebm.bench.agreement import Loop, judged
from hatebm.bench.chains import TARGETS, Target, fitted_law, placed
from hatebm.bench.contest import BARE, HATEBM, NAIVE, Case, Contender
from hatebm.bench.lengths import again
from hatebm.bench.loops import Energy, has_weights, naive, with_hatebm
from hatebm.bench.targets import CLASSES, Conditional, Labelled, last_layer, mlp
from hatebm.dynamics.law import Dynamics
from hatebm.sampling.chain import State
from hatebm.sampling.langevin import langevin

EVERY, SHORT, LATENT = 10, 5, 100
CALLED = {
    "sngan-64": replace(TARGETS["sngan-64"], cpu_steps=10),  # two short runs
    **{name: TARGETS[name] for name in ("conv-28", "mlp-128", "double-well")},
}


class Called(NamedTuple):
    """An energy as people write it and as hatebm has it, the start and the law."""

    energy: Energy
    ours: Energy
    start: Tensor
    law: Dynamics

    def run(self, n: int, law: Dynamics, energy: Energy | None = None, **how: object) -> State:
        """So many steps of hatebm by one call."""
        return langevin(energy or self.ours, self.start, n, dynamics=law, seed=0, **how)


class Trial(NamedTuple):
    """The naive loop with a habit, hatebm without it and with it; where they begin, and the law."""

    naive: Loop
    bare: Loop
    habit: Loop
    origin: State
    law: Dynamics


def cases(device: torch.device) -> list[Case]:
    """Each habit on each energy; one of hatebm's own has no labels."""
    kinds = [(habit, name) for name, target in CALLED.items() for habit in HABITS if not target.own or habit in FREE]
    return [case(habit, name, CALLED[name], device) for habit, name in kinds]


def case(habit: str, name: str, target: Target, device: torch.device) -> Case:
    """One habit on one energy."""
    steps = target.gpu_steps if device.type == "cuda" else target.cpu_steps
    label = f"{target.label}, {steps} steps a call: {HABITS[habit][0]}"
    return Case("habits", f"{habit}-{name}", label, "steps/s", steps, partial(contenders, habit, target, steps, device))


def contenders(habit: str, target: Target, steps: int, device: torch.device) -> dict[str, Contender]:
    """The three of a trial."""
    energy, start = placed(target, device)
    ours = target.own().to(device) if target.own else energy
    trial = HABITS[habit][1](Called(energy, ours, start, target.law or fitted_law(energy, start)))
    return judged({NAIVE: trial.naive, BARE: trial.bare, HATEBM: trial.habit}, trial.origin, trial.law, steps)


def in_a_lambda(called: Called) -> Trial:
    """A network f that is high where data are likely, or a function, with a sign before it; made anew for each call."""
    energy, start, law = called.energy, called.start, called.law
    theirs, ours = negated(energy), negated(called.ours)
    habit = lambda n, law: called.run(n, law, lambda x: -ours(x))  # noqa: E731
    return Trial(naive(lambda x: -theirs(x), start), with_hatebm(called.ours, start), habit, start, law)


def labels_as_keywords(called: Called, at: Callable[[dict[str, Tensor]], object] = lambda given: given) -> Trial:
    """An energy of states and their classes; bare, a module that holds one for all. ``at`` is what is handed over."""
    start = called.start
    net = Conditional(called.energy).to(start.device).eval()
    y = torch.full((len(start),), CLASSES - 1, dtype=torch.int64, device=start.device)
    bare = Labelled(net, y[0])
    law = fitted_law(bare, start)
    habit = lambda n, law: called.run(n, law, net, energy_kwargs=at({"y": y}))  # noqa: E731
    return Trial(naive(lambda x: net(x, y), start), with_hatebm(bare, start), habit, start, law)


def labels_of_the_step(called: Called) -> Trial:
    """The same by a function of the step, that makes its tensors anew."""
    return labels_as_keywords(called, lambda given: lambda t: {name: value.clone() for name, value in given.items()})


def told(called: Called) -> Trial:
    """Energies and norms of gradients of every step; hatebm tells distances too."""
    energy, start, law = called.energy, called.start, called.law

    def loop(n: int, law: Dynamics) -> Tensor:
        x, energies, norms = start.clone(), [], []
        for _ in range(n):
            x = x.detach().requires_grad_()
            u = energy(x)
            grad = torch.autograd.grad(u.sum(), x)[0]
            energies.append(u.detach())
            norms.append(grad.flatten(1).norm(dim=1))
            x = x - law.step_size * grad + law.noise_std * torch.randn_like(x)
        torch.stack(energies), torch.stack(norms)
        return x.detach()

    habit = lambda n, law: called.run(n, law, return_info=True)[0]  # noqa: E731
    return Trial(loop, with_hatebm(called.ours, start), habit, start, law)


def called_back(called: Called) -> Trial:
    """Every tenth state is kept."""
    energy, start, law = called.energy, called.start, called.law

    def loop(n: int, law: Dynamics) -> Tensor:
        x, kept = start.clone(), []
        for t in range(n):
            x = x.detach().requires_grad_()
            grad = torch.autograd.grad(energy(x).sum(), x)[0]
            x = x - law.step_size * grad + law.noise_std * torch.randn_like(x)
            if t % EVERY == 0:
                kept.append(x.detach())
        return x.detach()

    def habit(n: int, law: Dynamics) -> State:
        kept = []
        return called.run(n, law, callback=lambda t, x: kept.append(x), every=EVERY)

    return Trial(loop, with_hatebm(called.ours, start), habit, start, law)


def in_two_blocks(called: Called) -> Trial:
    """The sum of energies of x and of latents z, by one chain of both; bare, a chain of each."""
    energy, ours, x, law = called
    prior, z, of_z = energy, torch.randn(x.shape, dtype=torch.float32, device="cpu").to(x.device), law
    if has_weights(energy):
        prior = mlp(LATENT).to(x.device).eval()
        z = torch.randn(len(x), LATENT, dtype=torch.float32, device="cpu").to(x.device)
        of_z = fitted_law(prior, z)
    own_prior = prior if has_weights(energy) else ours
    both = Dynamics(step_size=(law.step_size, of_z.step_size), noise_std=(law.noise_std, of_z.noise_std))

    def loop(n: int, law: Dynamics) -> tuple[Tensor, Tensor]:
        at = x.clone(), z.clone()
        for _ in range(n):
            at = tuple(block.detach().requires_grad_() for block in at)
            grads = torch.autograd.grad((energy(at[0]) + prior(at[1])).sum(), at)
            numbers = zip(at, grads, law.step_size, law.noise_std, strict=True)
            at = tuple(block - s * grad + std * torch.randn_like(block) for block, grad, s, std in numbers)
        return at[0].detach(), at[1].detach()

    def bare(n: int, law: Dynamics) -> tuple[Tensor, Tensor]:
        laws = [Dynamics(step_size=s, noise_std=std) for s, std in zip(law.step_size, law.noise_std, strict=True)]
        alone = zip((ours, own_prior), (x, z), laws, strict=True)
        return tuple(langevin(part, block, n, dynamics=one, seed=0) for part, block, one in alone)

    def habit(n: int, law: Dynamics) -> tuple[Tensor, Tensor]:
        return langevin(lambda x, z: ours(x) + own_prior(z), (x, z), n, dynamics=law, seed=0)

    return Trial(loop, bare, habit, (x, z), both)


def in_short_runs(called: Called) -> Trial:
    """A run after the other goes on where the last one ended, as in a training."""
    energy, ours, start, law = called
    return Trial(naive(energy, start), with_hatebm(ours, start), again(ours, start, SHORT), start, law)


HABITS = {
    "lambda": ("lambda x: -f(x)", in_a_lambda),
    "labels": ("labels in energy_kwargs", labels_as_keywords),
    "labels-by-step": ("labels by a function of the step", labels_of_the_step),
    "info": ("info at every step", told),
    "callback": (f"a callback every {EVERY} steps", called_back),
    "blocks": ("two blocks", in_two_blocks),
    "runs": (f"runs of {SHORT} steps", in_short_runs),
}
FREE = ("lambda", "info", "callback", "blocks", "runs")  # of labels


def negated(energy: Energy) -> Energy:
    """A copy of a network with the opposite sign, which its last layer gives it; or a function of a function."""
    if not has_weights(energy):
        return lambda x: -energy(x)
    net = copy.deepcopy(energy)
    with torch.no_grad():
        for weight in last_layer(net).parameters():
            weight.neg_()
    return net
