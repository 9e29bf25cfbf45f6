"""IGEBM: chains on its energy with classes, and iterations: the published ones in plain torch, tuned, and hatebm's.

Source: Du and Mordatch, "Implicit generation and modeling with energy-based models" (2019), arXiv 1903.08689, and the
code published with it.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hatebm.bench.agreement import judged
from hatebm.bench.contest import COMPILED, HATEBM, IN_PLACE, NAIVE, Case, Contender
from hatebm.bench.loops import Energy, compiled, gradient, gradient_function
from hatebm.bench.spectral import PublishedConvNet, PublishedResNet, hold, let_go, normalised_in
from hatebm.bench.training import State, compare
from hatebm.data import Images
from hatebm.dynamics.law import Dynamics
from hatebm.nets.spectral import iterate_power
from hatebm.ops.noise import normal
from hatebm.sampling.cells import CELLS
from hatebm.sampling.chain import Chain
from hatebm.systems.igebm import IGEBM, IGEBMConfig
from hatebm.systems.igebm.learner import energy_network
from hatebm.systems.igebm.presets import DIGITS, PUBLISHED
from hatebm.systems.igebm.starts import fresh_starts
from hatebm.systems.igebm.update import dithered_batch

ENERGY, BATCH = PUBLISHED["cifar10-conditional"], 64
CPU_STEPS, GPU_STEPS = 2, 60
# As published but for the size of a random energy's gradient: a part of it is clipped, and the drift hides no noise.
LAW = replace(ENERGY.dynamics, step_size=3.0, clip=("value", 6e-4))
ROOM = 0.25  # between the starts and the walls of the box, so that noise is seen whole
CONFIGS = {
    "train-igebm-digits": replace(DIGITS, classes=10),
    "train-igebm-32": replace(
        ENERGY, stem_width=64, energy_widths=(64,) * 3, energy_depths=(1,) * 3, batch=16, langevin_steps=20
    ),
}
Noise = Callable[[int, Tensor], Tensor]  # step, state -> standard normals


class Draws(NamedTuple):
    """The random numbers of an iteration, and the data."""

    data: Tensor  # (batch, channels, size, size)
    labels: Tensor  # (batch,) int64
    start: Tensor  # of the chains, like data
    noise: Noise


def cases(device: torch.device) -> list[Case]:
    """The digits of `hatebm train`, and colour images of 32 pixels, with classes."""
    return [case(name, config, device) for name, config in CONFIGS.items()]


def case(name: str, config: IGEBMConfig, device: torch.device) -> Case:
    """One iteration after another from the same beginning."""
    label = f"IGEBM, {config.size}x{config.size}, widths {config.energy_widths}, batch {config.batch}, "
    label += f"K = {config.langevin_steps}"
    return Case("train", name, label, "iterations/s", 1, lambda: contenders(config, device))


def chain_cases(device: torch.device) -> list[Case]:
    """Chains on the energy of CIFAR-10, its labels as keyword arguments."""
    steps = GPU_STEPS if device.type == "cuda" else CPU_STEPS
    label = f"IGEBM energy, widths {ENERGY.energy_widths}, {ENERGY.size}x{ENERGY.size}, labels, batch {BATCH}"
    return [Case("chain", "igebm", f"{label}, {steps} steps a call", "steps/s", steps, lambda: chains(steps, device))]


def chains(steps: int, device: torch.device) -> dict[str, Contender]:
    """Everyone who can run here."""
    energy = woken(energy_network(ENERGY)).to(device)
    published, labels = as_published(energy, ENERGY), torch.arange(BATCH, dtype=torch.int64, device=device)
    kwargs = {"labels": labels % ENERGY.classes}
    shape = (BATCH, ENERGY.channels, ENERGY.size, ENERGY.size)
    start = ROOM + (1 - 2 * ROOM) * torch.rand(shape, dtype=torch.float32, device="cpu").to(device)
    held = copy.deepcopy(published).requires_grad_(False)
    hold(held)
    of_class = partial(held, **kwargs)
    loops = {
        NAIVE: partial(naive, partial(published, **kwargs), start),
        IN_PLACE: partial(in_place, gradient(of_class), start),
        COMPILED: partial(in_place, compiled(gradient_function(of_class), device), start),
        HATEBM: lambda n, law: Chain(energy, start, law, energy_kwargs=kwargs, seed=0).run(n),
    }
    return judged(loops, start, LAW, steps)


def naive(energy: Energy, start: Tensor, steps: int, law: Dynamics, noise: Noise | None = None) -> Tensor:
    """The published chain: noise, the gradient there, its clip, the step, the box."""
    x, drawn = start, noise or fresh_noise
    for t in range(steps):
        x = (x + law.noise_std * drawn(t, x)).detach().requires_grad_()
        grad = torch.autograd.grad(energy(x).sum(), x)[0].clamp(-law.clip[1], law.clip[1])
        x = (x - law.step_size * grad).clamp(0, 1)
    return x.detach()


@torch.no_grad()
def in_place(
    grad_of: Callable[[Tensor], Tensor], start: Tensor, steps: int, law: Dynamics, noise: Noise | None = None
) -> Tensor:
    """The same chain with nothing allocated that need not be."""
    x, drawn = start.clone(), noise or fresh_noise
    for t in range(steps):
        x.add_(drawn(t, x), alpha=law.noise_std)
        x.sub_(grad_of(x).clamp_(-law.clip[1], law.clip[1]), alpha=law.step_size).clamp_(0, 1)
    return x


def fresh_noise(t: int, x: Tensor) -> Tensor:
    """As loops draw it that nobody compares."""
    return torch.randn_like(x)


class Published:
    """The published iteration.

    tuned: weights normalised once a chain, everything in place, E's two batches in one, a fused optimiser, a buffer in
    one tensor.
    """

    def __init__(self, ours: IGEBM, *, tuned: bool) -> None:
        config, self.config, self.tuned = ours.config, ours.config, tuned
        self.net = as_published(ours.parts["energy"].network, config).to(ours.device)
        self.net.to(memory_format=torch.channels_last if tuned else torch.contiguous_format)
        self.adam = torch.optim.Adam(self.net.parameters(), config.lr, betas=(config.beta1, 0.999), fused=tuned or None)
        shape = (config.channels, config.size, config.size)
        self.ring = torch.empty(config.buffer_size, *shape, dtype=torch.uint8, device=ours.device)
        self.buffer: list[Tensor] = []
        self.pushed = 0

    def iterate(self, draws: Draws) -> None:
        """A power iteration, chains, E's step, and the chains' ends into the buffer."""
        config = self.config
        for layer in normalised_in(self.net):
            layer.iterate()
        sampled = self.chain(draws)
        if self.tuned:
            real, drawn = self.net(torch.cat((draws.data, sampled)), draws.labels.repeat(2)).chunk(2)
        else:
            real, drawn = self.net(draws.data, draws.labels), self.net(sampled, draws.labels)
        self.adam.zero_grad()
        size = real.square().mean() + drawn.square().mean()
        (real.mean() - drawn.mean() + config.energy_l2 * size).backward()
        self.bound()
        self.adam.step()
        self.push(sampled)

    def chain(self, draws: Draws) -> Tensor:
        """The ends of the chains."""
        steps, law = self.config.langevin_steps, self.config.dynamics
        energy = partial(self.net, labels=draws.labels)
        if not self.tuned:
            return naive(energy, draws.start, steps, law, draws.noise)
        hold(self.net.requires_grad_(False))
        sampled = in_place(gradient(energy), draws.start, steps, law, draws.noise)
        let_go(self.net.requires_grad_(True))
        return sampled

    def bound(self) -> None:
        """Each element of a gradient by three sigmas of Adam's second moment."""
        for weight in self.net.parameters():
            bound, moments = 0.1, self.adam.state.get(weight)
            if moments:
                bound = 3 * (moments["exp_avg_sq"] / (1 - 0.999 ** moments["step"])).sqrt() + 0.1
            weight.grad.clamp_(-bound, bound)

    def push(self, sampled: Tensor) -> None:
        """The samples as bytes, over the oldest ones."""
        cells, size = (CELLS * sampled).clamp(0, CELLS - 1).to(torch.uint8), self.config.buffer_size
        if self.tuned:
            self.ring[(self.pushed + torch.arange(len(cells), dtype=torch.int64, device=cells.device)) % size] = cells
        else:
            for k, image in enumerate(cells, self.pushed):
                self.buffer[k % size : k % size + 1] = [image]
        self.pushed += len(cells)

    def replayed(self, n: int) -> Tensor:
        """Some that are kept, (n, channels, size, size) uint8."""
        index = torch.randint(min(self.pushed, self.config.buffer_size), (n,), dtype=torch.int64, device="cpu")
        return self.ring[index.to(self.ring.device)] if self.tuned else torch.stack([self.buffer[k] for k in index])

    def own_draws(self, images: Images) -> Draws:
        """As the published code draws them."""
        n, kind = self.config.batch, {"dtype": torch.float32, "device": self.ring.device}
        index = torch.randint(len(images.train), (n,), dtype=torch.int64, device=images.train.device)
        data = (images.train[index] + torch.rand(n, *self.ring.shape[1:], **kind)) / CELLS
        start = torch.rand_like(data)
        if self.pushed > n:
            old = (self.replayed(n) + torch.rand_like(data)) / CELLS
            start = torch.where(torch.rand(n, 1, 1, 1, **kind) < self.config.reinit, start, old)
        return Draws(data, images.train_labels[index], start, fresh_noise)


def contenders(config: IGEBMConfig, device: torch.device) -> dict[str, Contender]:
    """Everyone from the same weights, on pictures of noise: what they show costs nothing."""
    n, shape = 256, (config.channels, config.size, config.size)
    pictures = torch.randint(CELLS, (n, *shape), dtype=torch.uint8, device="cpu").to(device)
    classes = torch.arange(n, dtype=torch.int64, device=device) % config.classes
    images = Images(pictures, pictures[:0], classes, classes[:0])
    ours = begun(config, device)
    handed = handed_draws(config, images)
    start = weights(ours.parts["energy"].network) | {"chain": handed.start}
    truth = cache(lambda: after_published(Published(ours, tuned=False), handed))

    def published(tuned: bool) -> Contender:
        learner = Published(ours, tuned=tuned)
        found = (lambda: after_published(Published(ours, tuned=True), handed)) if tuned else truth
        return Contender(lambda: learner.iterate(learner.own_draws(images)), lambda: compare(found(), truth(), start))

    learner = begun(config, device)
    judged_ours = lambda: compare(after_ours(begun(config, device), images), truth(), start)  # noqa: E731
    return {
        NAIVE: published(tuned=False),
        IN_PLACE: published(tuned=True),
        HATEBM: Contender(lambda: learner.advance(images), judged_ours),
    }


def begun(config: IGEBMConfig, device: torch.device) -> IGEBM:
    """A learner before its first iteration, in whose energy nothing rests."""
    learner = IGEBM.create(config, device)
    woken(learner.parts["energy"].network)
    return learner


@torch.no_grad()
def woken(energy: nn.Module) -> nn.Module:
    """The energy with weights of size 1 in the convolutions that begin near 0: rounding would hide what these do."""
    for weight in energy.parameters():
        if weight.dim() == 4:
            weight.div_(weight.std())
    for _ in range(10):
        iterate_power(energy)
    return energy


def handed_draws(config: IGEBMConfig, images: Images) -> Draws:
    """Those of hatebm's first iteration."""
    place = {"seed": config.seed, "step": 0, "device": images.train.device}
    data, labels = dithered_batch(images, config, 0, config.seed, images.train.device)
    start = fresh_starts(config, range(config.batch), **place)
    return Draws(data, labels, start, lambda t, x: normal(x.shape, **place | {"step": t}))


def as_published(energy: nn.Module, config: IGEBMConfig) -> nn.Module:
    """The published network with the weights of ours."""
    image, of_class = (config.size, config.channels), (config.classes, config.activation)
    if config.network == "conv":
        net = PublishedConvNet(*image, config.energy_widths, config.hidden, *of_class)
    else:
        widths = (config.stem_width, *config.energy_widths)
        net = PublishedResNet(config.channels, widths, config.energy_depths, *of_class)
    net.load_state_dict(energy.state_dict())
    return net.to(next(energy.parameters()).device)


def after_published(learner: Published, draws: Draws) -> State:
    """The chains' ends, as they are kept, and all weights after one iteration."""
    learner.iterate(draws)
    kept = learner.ring[: len(draws.data)] if learner.tuned else torch.stack(learner.buffer)
    return weights(learner.net) | {"chain": kept / CELLS}


def after_ours(learner: IGEBM, images: Images) -> State:
    """The same of hatebm."""
    learner.advance(images)
    return weights(learner.parts["energy"].network) | {"chain": learner.buffer.state_dict()["states"] / CELLS}


def weights(net: nn.Module) -> State:
    """Every weight by its name."""
    return {f"energy.{name}": w.detach().clone() for name, w in net.named_parameters()}
