"""The rows of the drop-in table whose laws have numbers in tensors: one for each chain, and learned ones."""

import functools
from typing import NamedTuple

import drop_in
import drop_in_nets as nets
import torch
from drop_in_rows import STEPS, call, images, made, noise_like

import hatebm

SPREAD, MOST = 2.0, 0.02  # of the refinement's steps; and how far one of them moves an element


def noise_levels(from_data, steps, dt, eps_max):
    """The noise of each chain at each step of Energy Matching, (steps, n)."""
    eps = [torch.where(from_data, eps_max, drop_in.ramp(k * dt, eps_max)) for k in range(steps)]
    return hatebm.per_chain((2 * dt * torch.stack(eps)).sqrt())


def energy_matching(seed, dtype=torch.float32, **changes):
    """From t = 0 to beyond 1, where the chains that begin at noise have all their temperatures."""
    net, x = made(seed, nets.Critic, 30).eval().to(dtype), 2 * images(seed).to(dtype) - 1
    noise = [xi.to(dtype) for xi in noise_like(seed, x, 15 * STEPS)]
    from_data, dt, eps_max = torch.arange(len(x)) < 2, 0.01, 0.1
    law = {"step_size": dt, "noise_std": noise_levels(from_data, len(noise), dt, eps_max)}
    law |= {"clamp": (-1, 1), "clamp_at": "final"}
    loop = drop_in.energy_matching(net, x, noise, from_data, dt, eps_max)
    return [loop], [call(net, x, noise, **law | changes)]


def energy_matching_proteins(seed, dtype=torch.float32, **changes):
    net, x = made(seed, nets.Classifier, 1, 10).eval().to(dtype), 2 * images(seed).to(dtype) - 1
    noise, dt, eps = [xi.to(dtype) for xi in noise_like(seed, x)], 0.05, 0.1
    weights = [k / STEPS for k in range(STEPS)]

    def energy(x, weight):
        rows = x.flatten(1)
        apart = (rows[:, None] - rows).square().sum(2)
        return net(x).sum() + weight * rows.square().sum() - 5 * (1 + apart).log().sum()

    law = {"step_size": dt, "noise_std": (2 * dt * eps) ** 0.5, "clamp": (-1, 1)}
    law["energy_kwargs"] = lambda k: {"weight": weights[k]}
    loop = drop_in.energy_matching_proteins(energy, x, noise, weights, dt, eps)
    return [loop], [call(energy, x, noise, **law | changes)]


class Refined(NamedTuple):
    """Every step's output, and of the losses of all of them the gradients of weights, and of alpha and noise_std."""

    outputs: list
    weights: tuple
    numbers: tuple


def refined(seed, through, dtype=torch.float32, **changes):
    """The refinement of an energy-based transformer, by the loop and by the call."""
    net, x, wanted = made(seed, nets.Critic, 30).eval().to(dtype), images(seed).to(dtype), images(seed + 1).to(dtype)
    noise = [xi.to(dtype) for xi in noise_like(seed, x)]
    drawn = torch.rand(len(x), generator=torch.Generator().manual_seed(seed)).to(dtype)

    def learned(refine):
        alpha, noise_std = (torch.tensor(v, dtype=dtype, requires_grad=True) for v in (0.5, 0.1))
        low, high = alpha / SPREAD, alpha * SPREAD
        outputs = refine(low + drawn * (high - low), noise_std)
        loss = sum((x - wanted).square().mean() for x in outputs)
        *weights, alpha, noise_std = torch.autograd.grad(
            loss, [*net.parameters(), alpha, noise_std], materialize_grads=True
        )
        return Refined(outputs, tuple(weights), (alpha, noise_std))

    def ours(alpha, noise_std):
        law = {"step_size": hatebm.per_chain(alpha), "clip": ("value", hatebm.per_chain(MOST / alpha))}
        law |= {"noise_std": noise_std, "noise_at": "before"}
        law |= {"keep": "steps", "grad_steps": STEPS if through else 0}
        return call(net, x, noise, **law | changes)

    loop = functools.partial(drop_in.refinement, net, x, noise, most=MOST, through=through)
    return learned(loop), learned(ours)


def refinement(through, seed, **changes):
    """The bits: outputs and gradients of the weights; those of the law's numbers are sums, in another order."""
    return [[x.detach() for x in (*part.outputs, *part.weights)] for part in refined(seed, through, **changes)]


ROWS = {
    "Energy Matching": energy_matching,
    "Energy Matching, proteins": energy_matching_proteins,
    "energy-based transformer": functools.partial(refinement, False),
    "energy-based transformer, one graph of all steps": functools.partial(refinement, True),
}
