"""The drop-in table: for each public loop, what it returns and what the one call returns, from the same noise."""

import copy
import functools

import drop_in
import drop_in_nets as nets
import torch

import hatebm

STEPS = 7
ROWS = {}
CAPPED = {"temperature": 2.0**-10, "tau": 50, "gain": 1000}  # a third of the samples are above the cap


def adds_in_one_rounding():
    """Whether x.add_(y, alpha=a) is a fused multiply-add here: on x86 it is where PyTorch found AVX2."""
    tiny = 1 + 2.0**-12
    return float(torch.full((64,), -1.0).add_(torch.full((64,), tiny), alpha=tiny)[0]) != 2.0**-11


ADD_ALPHA, OTHER_ADD = ("fma", "sequential") if adds_in_one_rounding() else ("sequential", "fma")


def row(name):
    """A row of the table: a function of a seed, and of changes to the call, that returns (the loop's, the call's)."""
    return lambda function: ROWS.setdefault(name, function)


def table(seed=0):
    """Each row, and the largest difference between the loop and the call."""
    rows = ROWS | {"Hat EBM, a third of the samples above the cap": functools.partial(hat, **CAPPED)}
    return [(name, difference(*both(seed))) for name, both in rows.items()]


def difference(loop, ours):
    return max(float((a - b).abs().max()) for a, b in zip(loop, ours, strict=True))


def call(energy, x, noise, **law):
    """The one call, with the loop's own autograd and nothing else."""
    return hatebm.langevin(energy, x, len(noise), noise=noise.__getitem__, compile="off", **law)


def images(seed, n=6):
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def normals(seed, *shapes):
    """Standard normals of the shapes: the first draw of each is a start, the others are noise."""
    generator = torch.Generator().manual_seed(1000 + seed)
    drawn = [tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in range(1 + STEPS)]
    return [parts if len(parts) > 1 else parts[0] for parts in drawn]


def noise_like(seed, x, steps=STEPS):
    generator = torch.Generator().manual_seed(2000 + seed)
    return [torch.randn(x.shape, generator=generator) for _ in range(steps)]


def uniforms(seed, n):
    """The Metropolis numbers of chains 0..n-1 at each step, from the words of the noise contract."""
    counters = torch.tensor([[[0, chain, t, 2 << 8] for chain in range(n)] for t in range(STEPS)])
    words = hatebm.philox(counters, torch.tensor([seed, 0]).expand(STEPS, n, 2))
    return ((words[..., 0] >> 1).float() + 0.5) * 2.0**-31


def made(seed, net, *arguments):
    torch.manual_seed(seed)
    return net(*arguments)


@row("IGEBM")
def igebm(seed, **changes):
    net, x = made(seed, nets.Critic, 1.5).eval(), images(seed)
    noise = noise_like(seed, x)
    law = {"step_size": 10, "noise_std": 0.005, "noise_at": "before", "clip": ("value", 0.01), "clamp": (0, 1)}
    return [drop_in.igebm(net, x, noise)], [call(net, x, noise, **law | changes)]


@row("rosinality/igebm-pytorch")
def igebm_in_place(seed, **changes):
    net, x = made(seed, nets.Critic, 1.5), images(seed)
    noise = noise_like(seed, x)
    law = {"step_size": 10, "noise_std": 0.005, "noise_at": "before", "clip": ("value", 0.01), "clamp": (0, 1)}
    law["add"] = ADD_ALPHA
    return [drop_in.igebm_in_place(net, x, noise)], [call(net, x, noise, **law | changes)]


@row("UvA tutorial 8")
def tutorial(seed, **changes):
    net, x = made(seed, nets.Critic, 4), 2 * images(seed) - 1
    noise = noise_like(seed, x)
    law = {"step_size": 10, "noise_std": 0.005, "noise_at": "before", "clip": ("value", 0.03)}
    law |= {"clamp": (-1, 1), "clamp_at": "noise+step"}
    loop = drop_in.tutorial(net, x, noise)
    return [loop], [call(nets.Negative(net), x, noise, **law | changes)]


def improved_cd(anneal, seed, **changes):
    """The samples; those of the loss's KL term, whose last step keeps its graph, and that term's parameter gradient.

    Autograd rounds otherwise when it keeps the graph of a gradient, so the loop itself has two sets of samples that
    differ in the last bit; ``grad_steps`` gives the second.
    """
    net, x = made(seed, nets.Critic, 0.05).eval(), images(seed)
    noise = noise_like(seed, x)
    noise_std = (lambda i: 0.001 * (STEPS - i - 1) / STEPS) if anneal else 0.001
    law = {"step_size": 100, "noise_std": noise_std, "noise_at": "before", "clamp": (0, 1)} | changes
    held = {name: p.detach() for name, p in net.named_parameters()}

    def with_gradients(x_kl):
        kl = torch.func.functional_call(net, held, x_kl).mean()
        return x_kl.detach(), *torch.autograd.grad(kl, list(net.parameters()), materialize_grads=True)

    loop, loop_kl = drop_in.improved_cd(net, x, noise, anneal)
    ours = call(net, x, noise, **law)
    ours_kl = call(net, x, noise, grad_steps=1, **law)
    return (loop, *with_gradients(loop_kl)), (ours, *with_gradients(ours_kl))


row("Improved CD")(functools.partial(improved_cd, False))
row("Improved CD, annealed noise")(functools.partial(improved_cd, True))


@row("JEM")
def jem(seed, **changes):
    net, x = made(seed, nets.Classifier, 1, 10), 2 * images(seed) - 1
    noise = noise_like(seed, x)
    law = {"step_size": 1, "noise_std": 0.01, "add": "increment"}
    loop = drop_in.jem(net, x, noise)
    return [loop], [call(nets.Negative(net), x, noise, **law | changes)]


@row("ebm-anatomy, training")
def anatomy_training(seed, **changes):
    net, x = made(seed, nets.Critic, 1).eval(), 2 * images(seed) - 1
    noise = noise_like(seed, x)
    law = {"step_size": 1, "noise_std": 0.015, "add": "increment"}
    loop = drop_in.anatomy_training(net, x, noise, 0.015)
    return [loop], [call(net, x, noise, **law | changes)]


@row("ebm-anatomy, evaluation, T = 2^-13")
def anatomy_evaluation(seed, **changes):
    net, x = made(seed, nets.Critic, 1).eval(), 2 * images(seed) - 1
    noise = noise_like(seed, x)
    law = {"eps": 0.015, "temperature": 2.0**-13, "add": "increment"}
    loop = drop_in.anatomy_evaluation(net, x, noise, 0.015, 2.0**-13)
    return [loop], [call(net, x, noise, **law | changes)]


@row("ebm-anatomy, evaluation, E / T as the energy")
def anatomy_any_temperature(seed, **changes):
    net, x = made(seed, nets.Critic, 1).eval(), 2 * images(seed) - 1
    noise = noise_like(seed, x)
    law = {"eps": 0.015, "add": "increment"}
    loop = drop_in.anatomy_evaluation(net, x, noise, 0.015, 1.3e-4)
    return [loop], [call(lambda x: net(x) / 1.3e-4, x, noise, **law | changes)]


@row("ebm-anatomy, Metropolis test")
def anatomy_metropolis(seed, **changes):
    net, x = made(seed, nets.Critic, 1).eval(), 2 * images(seed, 32) - 1
    noise = noise_like(seed, x)
    law = {"eps": 0.1, "temperature": 2.0**-12, "correct": "mala", "seed": seed}
    ours, info = call(net, x, noise, return_info=True, **law | changes)
    loop = drop_in.anatomy_metropolis(net, x, noise, uniforms(seed, 32), 0.1, 2.0**-12)
    return loop, (ours, info["accept"])


def hat(seed, temperature, tau, gain=300, factor=drop_in.clip_factor, **changes):
    """E / T is passed as the energy where T is not a power of two; with this gain no sample reaches the cap."""
    net, ((z, y), *noise) = made(seed, nets.Hat, gain).eval(), normals(seed, (6, 5), (6, 1, 6, 6))
    eps, cap, y = (5e-3, 1e-2), 2.5, 0.01 * y
    law = {"eps": eps, "blocks": "sequential", "prior_precision": (0, 2 * tau)}
    law |= {"clip": (None, ("norm", cap)), "clip_on": "update"}
    exact = temperature == 2.0**-10
    energy = net if exact else lambda z, y: net(z, y) / temperature
    law["temperature"] = temperature if exact else 1.0
    loop = drop_in.hat(net, z, y, noise, eps, temperature, cap, tau, factor)
    return loop, call(energy, (z, y), noise, **law | changes)


row("Hat EBM, T = 2^-10")(functools.partial(hat, temperature=2.0**-10, tau=0))
row("Hat EBM, E / T as the energy")(functools.partial(hat, temperature=1e-3, tau=50))


def joint_prior(make, seed, **changes):
    """The states, and the statistics that the batch norm gathers in train mode."""
    net, ((z1, z2), *noise) = made(seed, make), normals(seed, (8, 6), (8, 4))
    twin = copy.deepcopy(net)
    loop = drop_in.joint_prior(net.log_f, net.log_p, z1, z2, noise, 0.1)
    law = {"eps": (0.1, 0.1), "blocks": "joint", "mode": "keep"}
    ours = call(twin, (z1, z2), noise, **law | changes)
    return (*loop, *net.buffers()), (*ours, *twin.buffers())


row("joint latent prior, prior chain")(functools.partial(joint_prior, nets.JointPrior))
row("joint latent prior, posterior chain")(
    functools.partial(joint_prior, functools.partial(nets.JointPosterior, images(3, 8)))
)


@row("joint latent prior, two-stage")
def two_stage(seed, **changes):
    net, (start, *noise) = made(seed, nets.TwoStage).eval(), normals(seed, (8, 3), (8, 1, 6, 6))
    eta = 1e-2
    law = {"step_size": eta / 2, "noise_std": eta**0.5, "add": ADD_ALPHA}
    loop = drop_in.two_stage(net, start, noise, eta)
    return loop, call(nets.Negative(net), start, noise, **law | changes)


@row("latent-space-EBM-prior, prior chain")
def latent_prior(seed, **changes):
    net, (z, *noise) = made(seed, nets.mlp, 5, 16, 16, 1), normals(seed, (8, 5))
    s, sigma = 0.4, 0.7
    law = {"eps": s, "prior_precision": 1 / sigma**2}
    loop = drop_in.latent_prior(net, z, noise, s, sigma)
    return [loop], [call(net, z, noise, **law | changes)]


@row("latent-space-EBM-prior, posterior chain")
def latent_posterior(seed, **changes):
    net, generator = made(seed, nets.mlp, 5, 16, 16, 1), made(seed + 1, nets.mlp, 5, 16, 36)
    x, (z, *noise) = images(seed, 8).flatten(1), normals(seed, (8, 5))
    s, sigma = 0.1, 0.7

    def misfit(z):
        return (generator(z) - x).square().sum(1) / (2 * 0.3**2)

    law = {"eps": s, "prior_precision": 1 / sigma**2}
    loop = drop_in.latent_posterior(net, misfit, z, noise, s, sigma)
    energy = lambda z: misfit(z) + net(z).squeeze(1)  # noqa: E731
    return [loop], [call(energy, z, noise, **law | changes)]


@row("NCSN")
def ncsn(seed, **changes):
    levels = STEPS
    net, x = made(seed, nets.ScoreNet, levels), images(seed)
    noise = noise_like(seed, x, 2 * levels)
    sigmas = [0.8**i for i in range(levels)]
    law = {
        "step_size": [0.01 * (sigma / sigmas[-1]) ** 2 for sigma in sigmas for _ in range(2)],
        "energy_kwargs": lambda t: {"labels": torch.full((len(x),), t // 2)},
        "grad_fn": lambda x, labels: -net(x, labels),
    }
    loop = drop_in.ncsn(net, x, noise, sigmas, 0.01)
    return [loop], [call(None, x, noise, **law | changes)]
