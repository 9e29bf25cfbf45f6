"""The sampling loops of thirteen public code bases, as one writes them in PyTorch, with their noise handed in.

Each takes what it samples from, the start, and one tensor of standard normals a step.
"""

import math

import torch


def gradient(energy, x):
    return torch.autograd.grad(energy(x).sum(), x)[0]


def half_square(p):
    return p.square().flatten(1).sum(1) / 2


def igebm(energy, x, noise):
    """openai/ebm_code_release: noise, gradient at the noised point, clip, step, clamp."""
    for eps in noise:
        x = (x + 0.005 * eps).requires_grad_()
        grad = gradient(energy, x).clamp(-0.01, 0.01)
        x = (x.detach() - 10 * grad).clamp(0, 1)
    return x


def igebm_in_place(net, x, noise):
    """rosinality/igebm-pytorch: the same on .data and .grad, the step by one add_ with a factor."""
    x = x.clone().requires_grad_()
    net.requires_grad_(False).eval()
    for eps in noise:
        x.data.add_(0.005 * eps)
        net(x).sum().backward()
        x.grad.data.clamp_(-0.01, 0.01)
        x.data.add_(x.grad.data, alpha=-10)
        x.grad.detach_().zero_()
        x.data.clamp_(0, 1)
    net.requires_grad_(True).train()
    return x.detach()


def tutorial(score, x, noise):
    """UvA deep learning tutorial 8: the net is a score (high = likely), clamped after the noise and after the step."""
    x = x.clone()
    score.requires_grad_(False).eval()
    for eps in noise:
        x.data.add_(0.005 * eps).clamp_(-1, 1)
        x.requires_grad_()
        out = -score(x)
        out.sum().backward()
        x.grad.data.clamp_(-0.03, 0.03)
        x.data.add_(-10 * x.grad.data)
        x.grad.detach_().zero_()
        x.data.clamp_(-1, 1)
    score.requires_grad_(True).train()
    return x.detach()


def improved_cd(energy, x, noise, anneal):
    """yilundu/improved_contrastive_divergence: the samples, and the last step once more with its graph."""
    steps = len(noise)
    for i, eps in enumerate(noise):
        x = x + (0.001 * (steps - i - 1) / steps if anneal else 0.001) * eps
        x.requires_grad_()
        if i == steps - 1:
            grad = torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]
            x_kl = (x - 100 * grad).clamp(0, 1)
        x = (x - 100 * gradient(energy, x)).detach().clamp(0, 1)
    return x, x_kl


def jem(score, x, noise):
    """wgrathwohl/JEM: up the score log sum exp of the logits, step and noise added in one sum."""
    x = x.clone().requires_grad_()
    score.eval()
    for eps in noise:
        grad = gradient(score, x)
        x.data += 1 * grad + 0.01 * eps
    score.train()
    return x.detach()


def anatomy_training(energy, x, noise, eps):
    """point0bar1/ebm-anatomy, train_data.py: the factor of the gradient is 1."""
    x = x.clone().requires_grad_()
    for xi in noise:
        grad = gradient(energy, x)
        x.data += -grad + eps * xi
    return x.detach()


def anatomy_evaluation(energy, x, noise, eps, temperature):
    """point0bar1/ebm-anatomy, eval.py: eps^2 / 2 and E / T."""
    x = x.clone().requires_grad_()
    for xi in noise:
        grad = torch.autograd.grad((energy(x) / temperature).sum(), x)[0]
        x.data += -(eps**2 / 2) * grad + eps * xi
    return x.detach()


def anatomy_metropolis(energy, x, noise, uniforms, eps, temperature):
    """point0bar1/ebm-anatomy, eval.py with its Metropolis test, the noise seen as a momentum; also who accepted."""
    x, accepted = x.clone().requires_grad_(), []
    for p, u in zip(noise, uniforms, strict=True):
        e = energy(x).flatten() / temperature
        grad = torch.autograd.grad(e.sum(), x)[0]
        proposal = x - (eps**2 / 2) * grad + eps * p
        e_there = energy(proposal).flatten() / temperature
        grad_there = torch.autograd.grad(e_there.sum(), proposal)[0]
        p_there = p - (eps / 2) * (grad + grad_there)
        here, there = e + half_square(p), e_there + half_square(p_there)
        accept = u.log() < (here - there).detach()
        x.data[accept] = proposal.data[accept]
        accepted.append(accept.float())
    return x.detach(), torch.stack(accepted)


def clip_factor(grad, cap):
    """What brings each sample's norm down to the cap, as it is mostly written."""
    return (cap / grad.flatten(1).norm(dim=1)).clamp(max=1)


def hat(net, z, y, noise, eps, temperature, cap, tau, factor=clip_factor):
    """point0bar1/hat-ebm: z, then y at the new z; how far the gradient moves a sample's y is capped in L2 norm."""
    (eps_z, eps_y), s = eps, eps[1] ** 2 / 2
    for xi_z, xi_y in noise:
        z.requires_grad_()
        grad = torch.autograd.grad((net(z, y) / temperature).sum(), z)[0]
        z = z.detach() - eps_z**2 / 2 * grad + eps_z * xi_z
        y.requires_grad_()
        energy = (net(z, y) / temperature).sum() + tau * y.square().sum()
        grad = torch.autograd.grad(energy, y)[0]
        grad = grad * factor(grad, cap / s).view(-1, 1, 1, 1)
        y = y.detach() - s * grad + eps_y * xi_y
    return z, y


def joint_prior(log_f, log_p, z1, z2, noise, s):
    """jcui1224/hierarchical-joint-ebm, joint training: f and the rest of log p(z) each with a backward of their own."""
    zs = [z.clone().requires_grad_() for z in (z1, z2)]
    for xi in noise:
        rest = log_p(*zs).sum()
        f = log_f(*zs).sum()
        rest_grad = torch.autograd.grad(rest, zs)
        f_grad = torch.autograd.grad(f, zs)
        for k in range(2):
            zs[k].data += 0.5 * s * s * (f_grad[k] + rest_grad[k])
        for k in range(2):
            zs[k].data += s * xi[k]
    return tuple(z.detach() for z in zs)


def two_stage(log_density, eps, noise, step_size):
    """jcui1224/hierarchical-joint-ebm, two-stage training: up the mean log density of the whitened noises."""
    eps = [e.clone().requires_grad_() for e in eps]
    for xi in noise:
        log_density(*eps).mean().backward()
        for k, e in enumerate(eps):
            e.data.add_(e.grad.data * len(e), alpha=0.5 * step_size)
            e.data.add_(xi[k], alpha=math.sqrt(step_size))
            e.grad.detach_().zero_()
    return tuple(e.detach() for e in eps)


def latent_prior(energy, z, noise, s, sigma):
    """bpucla/latent-space-EBM-prior: the prior chain, N(0, sigma^2) under the energy."""
    z = z.clone().requires_grad_()
    for xi in noise:
        grad = gradient(energy, z)
        z.data = z.data - 0.5 * s * s * (grad + 1.0 / (sigma * sigma) * z.data)
        z.data += s * xi
    return z.detach()


def latent_posterior(energy, misfit, z, noise, s, sigma):
    """The same code's posterior chain: misfit = |x - g(z)|^2 / (2 s_x^2), with a backward of its own."""
    z = z.clone().requires_grad_()
    for xi in noise:
        grad_g = gradient(misfit, z)
        grad_e = gradient(energy, z)
        z.data = z.data - 0.5 * s * s * (grad_g + grad_e + 1.0 / (sigma * sigma) * z.data)
        z.data += s * xi
    return z.detach()


@torch.no_grad()
def ncsn(score, x, noise, sigmas, step_lr):
    """ermongroup/ncsn: annealed Langevin dynamics up a score net, the same number of steps at every noise level."""
    each = len(noise) // len(sigmas)
    for i, sigma in enumerate(sigmas):
        labels = torch.full((len(x),), i)
        step_size = step_lr * (sigma / sigmas[-1]) ** 2
        for eps in noise[i * each : (i + 1) * each]:
            noise_step = eps * math.sqrt(step_size * 2)
            x = x + step_size * score(x, labels) + noise_step
    return x


def ramp(t, eps_max):
    """Energy Matching's temperature of chains that begin at noise: 0 up to t = 0.8, then linear to eps_max at t = 1."""
    return eps_max * min(max((t - 0.8) / 0.2, 0.0), 1.0)


def energy_matching(potential, x, noise, from_data, dt, eps_max):
    """m1balcerak/EnergyMatching, images: chains that begin at data have the temperature eps_max from the start."""
    for k, xi in enumerate(noise):
        x = x.detach().requires_grad_()
        eps = torch.where(from_data, eps_max, ramp(k * dt, eps_max))
        x = x - dt * gradient(potential, x) + (2 * dt * eps).sqrt().view(-1, 1, 1, 1) * xi
    return x.detach().clamp(-1, 1)


def energy_matching_proteins(energy, x, noise, weights, dt, eps):
    """m1balcerak/EnergyMatching, proteins: one energy of all chains, a term of it weighted by the step."""
    for weight, xi in zip(weights, noise, strict=True):
        x = x.detach().requires_grad_()
        grad = torch.autograd.grad(energy(x, weight), x)[0]
        x = (x - dt * grad + math.sqrt(2 * dt * eps) * xi).clamp(-1, 1)
    return x.detach()


def refinement(energy, x, noise, alpha, noise_std, most, through):
    """alexiglad/EBT: the output of every step, with the graph of its own step, or of all; alpha is one a chain."""
    alpha, outputs = alpha.view(-1, 1, 1, 1), []
    for xi in noise:
        x = (x if through else x.detach()) + noise_std * xi
        grad = torch.autograd.grad(energy(x).sum(), x, create_graph=True)[0]
        x = x - alpha * torch.clamp(grad, -most / alpha, most / alpha)
        outputs.append(x)
    return outputs
