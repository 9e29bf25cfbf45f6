"""The step of a chain on tensors that stay where they are: what a graph can be captured from."""

import copy
from typing import Any

import torch
from torch import Tensor

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.noise import Noise
from hatebm.dynamics.region import Region
from hatebm.dynamics.transitions import Overdamped
from hatebm.engine.prepare import prepare
from hatebm.ops import langevin_step_
from hatebm.ops.checks import GRAD_DTYPES
from hatebm.ops.native.chains import NEVER


class StaticBuffers:
    """What the steps of a graph read and write, at fixed addresses: state, seed, step, and first bad steps."""

    def __init__(self, blocks: Blocks, state: list[Tensor], watched: bool) -> None:
        n, device, self.backend = len(state[0]), state[0].device, blocks.backend
        self.state = [x.clone() for x in state]
        self.seed, self.step = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self.first = torch.full((n,), NEVER, dtype=torch.int64, device=device) if watched else None
        self.unused = torch.zeros(n, 1, dtype=torch.float32, device=device)
        self.chain_ids = _cloned(blocks.noise.chain_ids)
        masks = blocks.region.masks
        self.masks = [_cloned(mask) for mask in masks]
        self.held = [None if mask is None else x.clone() for mask, x in zip(masks, state, strict=True)]

    def load(self, blocks: Blocks, state: list[Tensor], t: int) -> None:
        """Take over a chain at step t."""
        masks, seed = blocks.region.masks, blocks.noise.seed
        held = [None if mask is None else x for mask, x in zip(masks, blocks.region.held, strict=True)]
        mine = [*self.state, self.chain_ids, *self.masks, *self.held]
        for own, given in zip(mine, [*state, blocks.noise.chain_ids, *masks, *held], strict=True):
            if own is not None:
                own.copy_(given)
        self.step.fill_(t)
        self.seed.copy_(seed) if isinstance(seed, Tensor) else self.seed.fill_(seed)
        if self.first is not None:
            self.first.fill_(NEVER)

    def unload(self, state: list[Tensor], watch: Watch) -> None:
        """Hand the chain back where it is."""
        for x, own in zip(state, self.state, strict=True):
            x.copy_(own)
        if self.first is not None:
            watch.see_first(self.first)

    def see_energy(self, step: Tensor, energies: Tensor | None) -> None:
        """Mark the chains whose energy is not finite: the kernel's test of a gradient, on a state that is not used."""
        if self.first is None or energies is None:
            return
        energies = energies if energies.dtype in GRAD_DTYPES else (energies - energies).float()
        column = energies.expand(len(self.first))[:, None]
        place = {"step": step, "diverged": self.first, "backend": self.backend}
        langevin_step_(self.unused, column, step_size=0.0, noise_std=0.0, **place)


class Step:
    """One step on static buffers, each call the next: the chain's own transition, told where seed and step lie.

    It takes the law's numbers of step t for all steps, and a prepared form of the energy of its own, so that whatever
    that form keeps from one evaluation to the next is made within the step.
    """

    def __init__(self, buffers: StaticBuffers, blocks: Blocks, potential: Potential, t: int) -> None:
        self.buffers = buffers
        laws, energy = blocks.laws.always_at(t), copy.copy(potential)
        region = Region(laws, buffers.masks, buffers.held)
        twin = Blocks(laws, region, Noise(None, buffers.seed, buffers.chain_ids), blocks.backend)
        energy.masks, energy.differentiable = buffers.masks, False
        if potential.prepared is not None:
            energy.prepared = prepare(potential.energy, buffers.state).energy
        self.transition = Overdamped(twin, energy, buffers)

    def __call__(self) -> None:
        state = list(self.buffers.state)
        self.transition(self.buffers.step, state, False)
        for own, moved in zip(self.buffers.state, state, strict=True):
            if moved is not own:
                own.copy_(moved)
        self.buffers.step.add_(1)


def _cloned(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.clone()
