"""An iteration of Hat EBM synthesis: the published one in plain torch, the same tuned by hand, and hatebm's.

Source: Hill, Nijkamp, Mitchell, Pang and Zhu, "Hat EBM" (2022), arXiv 2210.16486, and its official code.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hatebm.bench.agreement import KINKS, TOLERANCE, apart
from hatebm.bench.contest import HATEBM, IN_PLACE, NAIVE, Case, Contender, Verdict
from hatebm.bench.hat import capped
from hatebm.bench.targets import PublishedEnergy, PublishedGenerator
from hatebm.data import Images, to_pixels
from hatebm.ops.noise import Purpose, normal
from hatebm.systems.hat import Synthesis, SynthesisConfig
from hatebm.systems.hat.presets import DIGITS_SYNTHESIS
from hatebm.systems.hat.synthesis import bank_slots
from hatebm.systems.hat.update import noisy_batch

FLIPS = 0.1  # of the weights' steps in all: Adam's first is a sign, which rounding turns in a weight of some hundreds
CONFIGS = {
    # Those of `hatebm train` without what the published iteration does not have.
    "train-digits": replace(DIGITS_SYNTHESIS, wide_chains=0, max_grad_norm=0.0),
    "train-32": SynthesisConfig(
        energy_widths=(64,) * 4, generator_widths=(64,) * 4, batch=16, langevin_steps=10, bank_size=512
    ),
}


class Draws(NamedTuple):
    """The random numbers of an iteration."""

    z: Tensor  # (batch, latent_dim)
    data: Tensor  # (batch, channels, size, size)
    slots: Tensor  # (batch,) int64
    noise: Callable[[int, Tensor], Tensor]  # step, state -> standard normals


class Published:
    """The published iteration, its networks in the published order.

    tuned: G once a chain, everything in place, H's two batches in one, fused optimisers.
    """

    def __init__(self, ours: Synthesis, *, tuned: bool) -> None:
        config, self.config, self.tuned = ours.config, ours.config, tuned
        self.hat = PublishedEnergy(config.channels, config.energy_widths, config.energy_pools)
        self.generator = PublishedGenerator(
            config.size, config.channels, config.latent_dim, config.generator_widths, config.output_scale
        )
        self.hat.load_state_dict(ours.parts["energy"].network.state_dict())
        take_weights(self.generator, ours.parts["generator"].network)
        layout = torch.channels_last if tuned else torch.contiguous_format
        for net in (self.hat, self.generator):
            net.to(ours.device, memory_format=layout)
        self.hat_adam, self.generator_adam = (
            torch.optim.Adam(net.parameters(), lr, betas=(beta1, 0.999), eps=1e-7, fused=tuned or None)
            for net, lr, beta1 in (
                (self.hat, config.energy_lr, config.energy_beta1),
                (self.generator, config.generator_lr, 0.9),
            )
        )
        decay = get_ema_multi_avg_fn(config.average)
        self.averages = [AveragedModel(net, multi_avg_fn=decay) for net in (self.hat, self.generator)]
        self.bank_z, self.bank_x = ours.memory["bank.z"].clone(), ours.memory["bank.x"].clone()

    def iterate(self, draws: Draws) -> None:
        """Chains, H's step, G's step on the bank's old pairs, and the new pairs into the bank."""
        config = self.config
        sampled = self.chain_once(draws) if self.tuned else self.chain(draws)
        self.hat_adam.zero_grad()
        if self.tuned:
            real, drawn = self.hat(torch.cat((draws.data, sampled))).chunk(2)
        else:
            real, drawn = self.hat(draws.data), self.hat(sampled)
        ((real.mean() - drawn.mean()) / config.temperature).backward()
        self.hat_adam.step()
        self.generator_adam.zero_grad()
        made = self.generator(self.bank_z[draws.slots])
        (config.generator_weight * F.mse_loss(made, self.bank_x[draws.slots])).backward()
        self.generator_adam.step()
        self.bank_z[draws.slots], self.bank_x[draws.slots] = draws.z, sampled
        for average, net in zip(self.averages, (self.hat, self.generator), strict=True):
            average.update_parameters(net)

    def chain(self, draws: Draws) -> Tensor:
        """The official sampler: G at every step, and once more for the images."""
        config = self.config
        step_size, cap = config.eps**2 / 2 / config.temperature, ("norm", config.max_displacement)
        y = torch.zeros_like(draws.data)
        for t in range(config.langevin_steps):
            y = y.detach().requires_grad_()
            grad = torch.autograd.grad(self.hat(self.generator(draws.z) + y).sum(), y)[0]
            y = y - capped(step_size * grad, cap) + config.eps * draws.noise(t, y)
        with torch.no_grad():
            return self.generator(draws.z) + y

    def chain_once(self, draws: Draws) -> Tensor:
        """The same chain, of images."""
        config = self.config
        step_size, cap = config.eps**2 / 2 / config.temperature, ("norm", config.max_displacement)
        with torch.no_grad():
            x = self.generator(draws.z)
        for t in range(config.langevin_steps):
            leaf = x.requires_grad_()
            grad = torch.autograd.grad(self.hat(leaf).sum(), leaf)[0]
            x = leaf.detach()
            x.sub_(capped(grad.mul_(step_size), cap)).add_(draws.noise(t, x), alpha=config.eps)
        return x


def cases(device: torch.device) -> list[Case]:
    """The digits of `hatebm train`, and colour images of 32 pixels."""
    return [case(name, config, device) for name, config in CONFIGS.items()]


def case(name: str, config: SynthesisConfig, device: torch.device) -> Case:
    """One iteration after another from the same beginning."""
    label = f"Hat EBM synthesis, {config.size}x{config.size}, widths {config.energy_widths} and "
    label += f"{config.generator_widths}, batch {config.batch}, K = {config.langevin_steps}"
    return Case("train", name, label, "iterations/s", 1, lambda: contenders(config, device))


def contenders(config: SynthesisConfig, device: torch.device) -> dict[str, Contender]:
    """Everyone from the same weights, on pictures of noise: what they show costs nothing."""
    pictures = torch.randint(256, (256, config.channels, config.size, config.size), dtype=torch.uint8, device="cpu")
    images = Images(pictures.to(device), pictures[:0])
    ours = begun(config, device)
    handed = handed_draws(ours, images)
    start, truth = beginning(ours, handed), cache(lambda: after_published(Published(ours, tuned=False), handed))

    def published(tuned: bool) -> Contender:
        learner = Published(ours, tuned=tuned)
        return Contender(
            lambda: learner.iterate(own_draws(config, images)),
            lambda: compare(after_published(Published(ours, tuned=True), handed) if tuned else truth(), truth(), start),
        )

    learner = begun(config, device)
    return {
        NAIVE: published(tuned=False),
        IN_PLACE: published(tuned=True),
        HATEBM: Contender(
            lambda: learner.advance(images),
            lambda: compare(after_ours(begun(config, device), images, handed), truth(), start),
        ),
    }


def begun(config: SynthesisConfig, device: torch.device) -> Synthesis:
    """A learner before its first iteration, its bank moved: G would have nothing to learn from its own images."""
    learner = Synthesis.create(config, device)
    bank = learner.memory["bank.x"]
    bank += 0.1 * normal(bank.shape, seed=config.seed, step=0, purpose=Purpose.BANK, block=1, device=device)
    return learner


def own_draws(config: SynthesisConfig, images: Images) -> Draws:
    """As the published code draws them."""
    device = images.train.device
    data = to_pixels(images.train[torch.randint(len(images.train), (config.batch,), dtype=torch.int64, device=device)])
    return Draws(
        torch.randn(config.batch, config.latent_dim, dtype=torch.float32, device=device),
        data + config.data_noise * torch.randn_like(data),
        torch.randperm(config.bank_size, dtype=torch.int64, device=device)[: config.batch],
        lambda t, x: torch.randn_like(x),
    )


def handed_draws(ours: Synthesis, images: Images) -> Draws:
    """Those of hatebm's first iteration."""
    config, device, seed = ours.config, ours.device, ours.config.seed
    latent = (config.batch, config.latent_dim)
    return Draws(
        normal(latent, seed=seed, step=0, purpose=Purpose.INITIAL_STATE, device=device),
        noisy_batch(images, config, 0, device),
        bank_slots(config, 0).to(device),
        lambda t, x: normal(x.shape, seed=seed, step=t, device=device),
    )


State = dict[str, Tensor]


def after_published(learner: Published, draws: Draws) -> State:
    """The chains' ends and all weights after one iteration."""
    learner.iterate(draws)
    state = {"chain": learner.bank_x[draws.slots]}
    state |= {f"energy.{name}": w.detach() for name, w in learner.hat.named_parameters()}
    return state | {f"generator.{name}": w for name, w in as_ours(learner.generator).items()}


def after_ours(learner: Synthesis, images: Images, draws: Draws) -> State:
    """The same of hatebm."""
    learner.advance(images)
    state = {"chain": learner.memory["bank.x"][draws.slots]}
    return state | weights(learner)


def weights(learner: Synthesis) -> State:
    """Every weight by its network and name."""
    return {
        f"{part}.{name}": w.detach().clone()
        for part in ("energy", "generator")
        for name, w in learner.parts[part].network.named_parameters()
    }


def beginning(ours: Synthesis, draws: Draws) -> State:
    """Where the chains and the weights begin."""
    with torch.no_grad():
        return weights(ours) | {"chain": ours.parts["generator"].network(draws.z)}


def compare(found: State, wanted: State, start: State) -> Verdict:
    """How far apart the chains and the weights' steps are, of their length: the median one, and all together."""
    chain = apart((found["chain"],), (wanted["chain"],), (start["chain"],))

    def step(state: State, part: str) -> Tensor:
        """One row for each weight."""
        names = [name for name in wanted if name.startswith(f"{part}.")]
        return torch.cat([(state[name] - start[name]).flatten() for name in names])[:, None]

    parts = sorted({name.split(".")[0] for name in start} - {"chain"})
    steps = [tuple(step(state, part) for part in parts) for state in (found, wanted)]
    update = apart(*steps, tuple(torch.zeros_like(x) for x in steps[1]))
    agree = chain[0] <= TOLERANCE and chain[1] <= KINKS and update[0] <= TOLERANCE and update[1] <= FLIPS
    if not agree:
        return Verdict(False, f"NO: chains off by {chain[0]:.1e}, weights by {update[1]:.1e}")
    return Verdict(True, "the judge" if found is wanted else f"chains to {chain[0]:.0e}, weights to {update[1]:.0e}")


def take_weights(published: PublishedGenerator, ours: nn.Module) -> None:
    """Weights of hatebm's generator: its scales and shifts are batch norms of mean 0 and variance 1."""
    named = published.state_dict()
    with torch.no_grad():
        for name, w in ours.state_dict().items():
            factor = (1 + published.affine.eps) ** 0.5 if _is_scale(name) else 1.0
            named[name].copy_(w.view_as(named[name]) * factor)


def as_ours(published: PublishedGenerator) -> State:
    """The weights under hatebm's names and in its shapes."""
    scale = (1 + published.affine.eps) ** -0.5
    found = {}
    for name, w in published.named_parameters():
        w = w.detach() * scale if _is_scale(name) else w.detach()
        found[name] = w.view(-1, 1, 1) if "affine" in name else w
    return found


def _is_scale(name: str) -> bool:
    return "affine" in name and name.endswith("weight")
