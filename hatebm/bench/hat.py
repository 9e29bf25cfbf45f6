"""Chains of a Hat EBM: the official per-step forms, eager loops that keep what need not be computed again, and hatebm.

Source: Hill, Nijkamp, Mitchell, Pang and Zhu, "Hat EBM" (2022), arXiv 2210.16486, and its official code.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hatebm.bench.agreement import HALF_TOLERANCE, judged
from hatebm.bench.chains import MOVE
from hatebm.bench.contest import COMPILED, HALF, HATEBM, IN_PLACE, NAIVE, OFFICIAL, Case, Contender
from hatebm.bench.loops import compiled, gradient, gradient_function, has_half, held
from hatebm.bench.targets import PublishedEnergy, PublishedGenerator
from hatebm.dynamics.law import Dynamics
from hatebm.energies.hat import HatEnergy
from hatebm.sampling.chain import Chain
from hatebm.systems.hat.synthesis import residual_chain

LATENT, WIDTHS, BATCH = 128, (64,) * 4, 8
CPU_STEPS, GPU_STEPS = 20, 50
TOLERANCES = {HALF: HALF_TOLERANCE}
ASIDE = {OFFICIAL: "another chain: z and y in turns"}
Gradient = Callable[[Tensor], Tensor]


class Nets:
    """H and G with fixed random weights, and where the chains begin: z ~ N(0, I), y = 0."""

    def __init__(self, device: torch.device, batch: int = BATCH, widths: tuple[int, ...] = WIDTHS) -> None:
        torch.manual_seed(0)
        size = 4 * 2 ** (len(widths) - 1)
        self.hat = PublishedEnergy(3, widths, pools=2).to(device).eval()
        self.generator = PublishedGenerator(size, 3, LATENT, widths, output_scale=2.0).to(device)
        self.z = torch.randn(batch, LATENT, dtype=torch.float32, device="cpu").to(device)
        self.y = torch.zeros(batch, 3, size, size, dtype=torch.float32, device=device)

    def energy(self, z: Tensor, y: Tensor) -> Tensor:
        """H(G(z) + y)."""
        return self.hat(self.generator(z) + y)

    @torch.no_grad()
    def generated(self) -> Tensor:
        """G(z) where the chains begin."""
        return self.generator(self.z)

    def law(self, blocks: str) -> Dynamics:
        """Drift and noise of MOVE, RMS, in z and y; the cap on a move of y holds most images back a little."""
        at = (self.z.clone().requires_grad_(), self.y.clone().requires_grad_())
        grads = torch.autograd.grad(self.energy(*at).sum(), at)
        sizes = tuple(MOVE / float(grad.square().mean().sqrt()) for grad in grads)
        cap = 0.8 * sizes[1] * float(grads[1].flatten(1).norm(dim=1).median())
        clip = (None, ("norm", cap))
        return Dynamics(step_size=sizes, noise_std=(MOVE, MOVE), clip=clip, clip_on="update", blocks=blocks)

    def residual_law(self) -> Dynamics:
        """That of y alone."""
        both = self.law("joint")
        return Dynamics(step_size=both.step_size[1], noise_std=MOVE, clip=both.clip[1], clip_on="update")


def cases(device: torch.device) -> list[Case]:
    """The chain of y given z and both joint chains, on networks a quarter as wide as those published at 32 pixels."""
    return [case(name, partial(Nets, device), device) for name in KINDS]


def case(name: str, nets: Callable[[], Nets], device: torch.device) -> Case:
    """Chains of one kind."""
    label, contenders = KINDS[name]
    steps = GPU_STEPS if device.type == "cuda" else CPU_STEPS
    return Case("chain", name, f"{label}, {steps} steps a call", "steps/s", steps, lambda: contenders(nets(), steps))


def synthesis(nets: Nets, steps: int) -> dict[str, Contender]:
    """Chains of y given z; every loop returns the images G(z) + y."""
    hat = held(nets.hat)
    loops = {
        OFFICIAL: partial(official_synthesis, nets),
        IN_PLACE: partial(synthesis_in_place, nets, gradient(hat)),
        COMPILED: partial(synthesis_in_place, nets, compiled(gradient_function(hat), nets.z.device)),
        HATEBM: lambda n, law: residual_chain(nets.hat, nets.generator, nets.z, law, seed=0).run(n),
    }
    if has_half():
        loops[HALF] = lambda n, law: Chain(nets.hat, nets.generated(), law, seed=0, precision="bfloat16").run(n)
    return judged(loops, nets.generated(), nets.residual_law(), steps, TOLERANCES)


def joint(nets: Nets, steps: int) -> dict[str, Contender]:
    """Chains of (z, y) in turns."""
    hat, generator = held(nets.hat), held(nets.generator)
    of_z, of_y = (compiled(gradient_function(nets.energy, argnums=k), nets.z.device) for k in range(2))
    loops = {
        OFFICIAL: partial(official_joint, nets),
        IN_PLACE: partial(joint_in_place, nets, gradient(hat), generator),
        COMPILED: partial(joint_by_gradients, nets, of_z, of_y),
        HATEBM: partial(joint_with_hatebm, nets),
    }
    if has_half():
        loops[HALF] = partial(joint_with_hatebm, nets, precision="bfloat16")
    return judged(loops, (nets.z, nets.y), nets.law("sequential"), steps, TOLERANCES)


def simultaneous(nets: Nets, steps: int) -> dict[str, Contender]:
    """Chains of (z, y) at once."""
    both = compiled(gradient_function(nets.energy, argnums=(0, 1)), nets.z.device)
    loops = {
        NAIVE: partial(simultaneous_naive, nets),
        OFFICIAL: partial(official_joint, nets),
        IN_PLACE: partial(simultaneous_in_place, nets, both_gradients(held(nets.hat), held(nets.generator))),
        COMPILED: partial(simultaneous_in_place, nets, both),
        HATEBM: partial(joint_with_hatebm, nets),
    }
    if has_half():
        loops[HALF] = partial(joint_with_hatebm, nets, precision="bfloat16")
    return judged(loops, (nets.z, nets.y), nets.law("joint"), steps, TOLERANCES, ASIDE)


KINDS = {
    "hat-synthesis": ("Hat EBM synthesis, 64 channels, 32x32, batch 8", synthesis),
    "hat-joint": ("joint Hat EBM in turns, 64 channels, 32x32, batch 8", joint),
    "hat-joint-simultaneous": ("joint Hat EBM at once, 64 channels, 32x32, batch 8", simultaneous),
}


def official_synthesis(nets: Nets, steps: int, law: Dynamics) -> Tensor:
    """The official code: the energy of a step is H(G(z) + y), G included."""
    y = nets.y
    for _ in range(steps):
        y = y.detach().requires_grad_()
        grad = torch.autograd.grad(nets.energy(nets.z, y).sum(), y)[0]
        y = y - capped(law.step_size * grad, law.clip) + law.noise_std * torch.randn_like(y)
    with torch.no_grad():
        return nets.generator(nets.z) + y


@torch.no_grad()
def synthesis_in_place(nets: Nets, grad_of: Gradient, steps: int, law: Dynamics) -> Tensor:
    """G once, then a chain of images."""
    x = nets.generated()
    for _ in range(steps):
        x.sub_(capped(grad_of(x) * law.step_size, law.clip)).add_(torch.randn_like(x), alpha=law.noise_std)
    return x


def official_joint(nets: Nets, steps: int, law: Dynamics) -> tuple[Tensor, Tensor]:
    """The official code: z moves by a gradient through H and G, then y by another."""
    z, y = nets.z, nets.y
    for _ in range(steps):
        z = z.detach().requires_grad_()
        grad = torch.autograd.grad(nets.energy(z, y).sum(), z)[0]
        z = (z - law.step_size[0] * grad + law.noise_std[0] * torch.randn_like(z)).detach()
        y = y.detach().requires_grad_()
        grad = torch.autograd.grad(nets.energy(z, y).sum(), y)[0]
        y = (y - capped(law.step_size[1] * grad, law.clip[1]) + law.noise_std[1] * torch.randn_like(y)).detach()
    return z, y


def joint_in_place(
    nets: Nets, grad_of: Gradient, generator: Callable[[Tensor], Tensor], steps: int, law: Dynamics
) -> tuple[Tensor, Tensor]:
    """In turns, one pass through G and one back a step: y moves at the G(z) from which z goes on."""
    y = nets.y.clone()
    z, image = followed(generator, nets.z)
    for _ in range(steps):
        grad = torch.autograd.grad(image, z, grad_of(image.detach() + y))[0]
        moved = z.detach().sub_(grad, alpha=law.step_size[0]).add_(torch.randn_like(z), alpha=law.noise_std[0])
        z, image = followed(generator, moved)
        grad = grad_of(image.detach() + y)
        y.sub_(capped(grad * law.step_size[1], law.clip[1])).add_(torch.randn_like(y), alpha=law.noise_std[1])
    return z.detach(), y


@torch.no_grad()
def joint_by_gradients(
    nets: Nets,
    of_z: Callable[[Tensor, Tensor], Tensor],
    of_y: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    law: Dynamics,
) -> tuple[Tensor, Tensor]:
    """In turns, by two functions of (z, y)."""
    z, y = nets.z.clone(), nets.y.clone()
    for _ in range(steps):
        z.sub_(of_z(z, y), alpha=law.step_size[0]).add_(torch.randn_like(z), alpha=law.noise_std[0])
        grad = of_y(z, y)
        y.sub_(capped(grad * law.step_size[1], law.clip[1])).add_(torch.randn_like(y), alpha=law.noise_std[1])
    return z, y


def simultaneous_naive(nets: Nets, steps: int, law: Dynamics) -> tuple[Tensor, Tensor]:
    """At once, as people write it."""
    z, y = nets.z, nets.y
    for _ in range(steps):
        z, y = z.detach().requires_grad_(), y.detach().requires_grad_()
        grads = torch.autograd.grad(nets.energy(z, y).sum(), (z, y))
        z = z - law.step_size[0] * grads[0] + law.noise_std[0] * torch.randn_like(z)
        y = y - capped(law.step_size[1] * grads[1], law.clip[1]) + law.noise_std[1] * torch.randn_like(y)
    return z.detach(), y.detach()


@torch.no_grad()
def simultaneous_in_place(
    nets: Nets, grads_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], steps: int, law: Dynamics
) -> tuple[Tensor, Tensor]:
    """At once, by one function of (z, y)."""
    z, y = nets.z.clone(), nets.y.clone()
    for _ in range(steps):
        of_z, of_y = grads_of(z, y)
        z.sub_(of_z, alpha=law.step_size[0]).add_(torch.randn_like(z), alpha=law.noise_std[0])
        y.sub_(capped(of_y * law.step_size[1], law.clip[1])).add_(torch.randn_like(y), alpha=law.noise_std[1])
    return z, y


def joint_with_hatebm(nets: Nets, steps: int, law: Dynamics, **how: str) -> tuple[Tensor, Tensor]:
    """In turns or at once, as the law says."""
    return Chain(HatEnergy(nets.hat, nets.generator), (nets.z, nets.y), law, seed=0, **how).run(steps)


def both_gradients(
    hat: Callable[[Tensor], Tensor], generator: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The gradient in z and y by one pass through each network and back: that in y is what G pulls back to z."""
    of_image = gradient(hat)

    def grads_of(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        leaf, image = followed(generator, z)
        of_y = of_image(image.detach() + y)
        return torch.autograd.grad(image, leaf, of_y)[0], of_y

    return grads_of


def followed(generator: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf with the values of z, and the image that autograd leads back to it."""
    with torch.enable_grad():
        leaf = z.detach().clone().requires_grad_()
        return leaf, generator(leaf)


def capped(move: Tensor, clip: tuple[str, float]) -> Tensor:
    """A move of at most the cap in L2, per image."""
    norm = move.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return move * (clip[1] / norm).clamp(max=1)
