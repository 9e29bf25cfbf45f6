"""What a run costs around its steps: chains in runs of few steps and of many, by one call each."""

from functools import partial

import torch

from hatebm.bench import chains
from hatebm.bench.agreement import Loop, judged
from hatebm.bench.contest import HATEBM, NAIVE, RUN, Case, Contender
from hatebm.bench.loops import Energy, naive
from hatebm.dynamics.law import Dynamics
from hatebm.sampling.chain import Chain, State
from hatebm.sampling.langevin import langevin

LENGTHS = (1, 5, 20, 100)
LONGEST = {
    "sngan-64": 5,
    "sngan-256-b16": 1,
    "sngan-256-b128": 1,
}  # on a CPU, where a step of these takes 0.1 s and more


def cases(device: torch.device) -> list[Case]:
    """Every length of a run on every target of the chains."""
    longest = {} if device.type == "cuda" else LONGEST
    kinds = [(name, at) for name in chains.TARGETS for at in LENGTHS if at <= longest.get(name, at)]
    return [case(name, chains.TARGETS[name], at, device) for name, at in kinds]


def case(name: str, target: chains.Target, at: int, device: torch.device) -> Case:
    """Runs of `at` steps, as many as make the steps of a call of the target's own benchmark, one at least."""
    steps = target.gpu_steps if device.type == "cuda" else target.cpu_steps
    amount = at * max(1, steps // at)
    label = f"{target.label}, runs of {at}"
    make = partial(contenders, target, at, amount, device)
    return Case("lengths", f"lengths-{name}", label, "steps/s", amount, make, "run", at)


def contenders(target: chains.Target, at: int, steps: int, device: torch.device) -> dict[str, Contender]:
    """The naive loop, a call of langevin for each run, and a chain that lives; of hatebm's own energy if it has one."""
    energy, start = chains.placed(target, device)
    ours = target.own().to(device) if target.own else energy
    law = target.law or chains.fitted_law(energy, start)
    loops = {NAIVE: naive(energy, start), HATEBM: again(ours, start, at), RUN: living(ours, start, at)}
    return judged(loops, start, law, steps)


def again(energy: Energy, start: State, length: int) -> Loop:
    """A call for every `length` steps."""

    def loop(steps: int, law: Dynamics) -> State:
        x = start
        for t in range(0, steps, length):
            x = langevin(energy, x, min(length, steps - t), dynamics=law, seed=0, first_step=t)
        return x

    return loop


def living(energy: Energy, start: State, length: int) -> Loop:
    """One chain, run again and again."""

    def loop(steps: int, law: Dynamics) -> State:
        chain = Chain(energy, start, law, seed=0)
        for t in range(0, steps, length):
            chain.run(min(length, steps - t))
        return chain.state

    return loop
