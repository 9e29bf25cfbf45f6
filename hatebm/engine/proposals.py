"""Runs of steps that are tested, or that velocities move, as a kernel takes them."""

import math
from array import array
from typing import Any

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.law import Dynamics
from hatebm.dynamics.transitions.form import Form, Transition
from hatebm.dynamics.transitions.hamiltonian import kept_and_fresh
from hatebm.energies.steps import Proposals, Steps
from hatebm.ops import native
from hatebm.ops.backend import kernels_for
from hatebm.ops.law_numbers import divided
from hatebm.ops.reference import ratio_coefficients


def obstacle(form: Form, blocks: Blocks, energy: Any, x: Tensor) -> str:
    """Why such steps of a chain go one by one, whatever else would not stand in the way; empty where nothing does."""
    asked = "correct='mala'" if form.leapfrog_steps is None else "leapfrog_steps"
    doing = f"{asked} tests each proposal" if form.corrected else "friction moves it by velocities"
    law = blocks.laws.each[0]
    if not getattr(type(energy), "takes_proposals", False):
        return doing
    if kernels_for(blocks.backend, x.device) not in (None, native) or x.device.type != "cpu":
        return f"{doing}, in a kernel on CPUs alone"
    if blocks.region.masks[0] is not None or law.reflect is not None:
        return f"{doing}, and {'a mask holds elements' if law.reflect is None else 'walls reflect'}"
    return f"{doing}, and numbers of its law lie in tensors" if law.is_in_tensors else ""


def of(steps: Steps, form: Form, blocks: Blocks, x: Tensor, transition: Transition) -> Proposals:
    """What these steps are to test, and velocities of the run's own to move by."""
    velocity = None
    if form.friction:
        velocity = transition.velocity[0] = transition.velocity[0].clone(memory_format=torch.contiguous_format)
    leapfrog_steps = form.leapfrog_steps or int(form.friction)
    law, most, first = blocks.laws.each[0], blocks.laws.most[0], steps.first_step
    known = range(first, first + (1 if blocks.laws.constant else steps.n_steps))
    columns = [_shares_at(law, t, most, leapfrog_steps) for t in known]
    shares = torch.frombuffer(array("d", sum(zip(*columns, strict=True), ())), dtype=torch.float64)
    shares = shares.view(-1, len(known)).expand(-1, steps.n_steps)
    refused = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    told = form.corrected and steps.facts is not None
    rows = [torch.empty_like(steps.facts.energy) if told else None for _ in range(2)]
    return Proposals(form.corrected, leapfrog_steps, shares, velocity, refused, *rows)


def decisions(steps: Steps) -> dict[str, Tensor]:
    """What a kernel told of the decisions of its steps, as single steps tell it."""
    if steps.proposals is None or not steps.proposals.corrected:
        return {}
    return {"accept": steps.proposals.accept, "nan_refused": steps.proposals.nan_refused}


def pause(steps: Steps) -> str:
    """Why some of these steps are none to propose by; empty where all are."""
    still = steps.proposals is not None and bool((steps.schedule[1] == 0).any())
    return "noise_std is 0 at a step" if still else ""


def _shares_at(law: Dynamics, t: int, most: float, leapfrog_steps: int) -> tuple[float, ...]:
    step_size, noise_std, temperature, prior_precision, bound = law.at(t, most)
    if noise_std == 0:
        return (0.0,) * 8
    kicks = [divided(halves * step_size, noise_std) for halves in (1, 2)]
    of_velocity = kept_and_fresh(math.inf if law.friction is None else law.friction, noise_std, leapfrog_steps)
    of_kicks = divided(bound, abs(step_size)) if law.clip_on == "update" else bound
    return (temperature, *ratio_coefficients(noise_std, prior_precision), *kicks, *of_velocity, of_kicks)
