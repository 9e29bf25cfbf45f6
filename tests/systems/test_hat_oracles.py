"""The mathematics of a Hat EBM where it has closed forms: its gradients, its changes of variable, its Gaussian laws."""

from dataclasses import replace

import pytest
import tiny
import torch
from targets import quadratic
from tiny import one_thread  # noqa: F401
from torch import Tensor, nn

import hatebm
from hatebm.energies.hat import remembering
from hatebm.nets import ResidualEnergy
from hatebm.systems.hat import JointConfig


def nets() -> tuple[nn.Module, nn.Module]:
    """H and a frozen G, in float64 and with normal parameters."""
    hat, generator = ResidualEnergy(8, 1, (4, 6), 2).double(), tiny.generator().double().requires_grad_(False)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in hat.parameters():
            weight.normal_(generator=drawn).div_(weight[0].numel() ** 0.5)
    return hat, generator


def latents(n: int = 3) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def residuals(n: int = 3) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("kept", [False, True], ids=["evaluated", "kept"])
def test_the_gradients_are_the_images_own_and_its_pullback_through_g(kept):
    hat, generator = nets()
    z, y = latents().requires_grad_(), residuals().requires_grad_()
    energy = hatebm.HatEnergy(hat, generator)
    with remembering({} if kept else None):
        grad_z, grad_y = torch.autograd.grad(energy(z, y).sum(), (z, y))
        again_z, again_y = torch.autograd.grad(energy(z, y).sum(), (z, y))
    with torch.no_grad():
        x = (generator(z) + y).requires_grad_()
    (grad_x,) = torch.autograd.grad(hat(x).sum(), x)
    jacobians = [torch.autograd.functional.jacobian(lambda one: generator(one[None])[0], one) for one in z.detach()]
    pulled = torch.stack([torch.tensordot(g, jacobian, 3) for g, jacobian in zip(grad_x, jacobians, strict=True)])
    assert grad_z.abs().min() > 1e-6
    for found in (grad_y, again_y):
        torch.testing.assert_close(found, grad_x, rtol=1e-12, atol=1e-12)
    for found in (grad_z, again_z):
        torch.testing.assert_close(found, pulled, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize("tau", [0.0, 3.0])
@pytest.mark.parametrize("hat", [nets()[0], quadratic], ids=["network", "quadratic"])
def test_at_frozen_latents_the_chain_of_residuals_is_a_chain_of_images_with_the_prior_on_x_minus_g(hat, tau, steps):
    _, generator = nets()
    z, y = latents(), residuals()
    law = replace(tiny.JOINT, eps=0.2, temperature=0.5, residual_precision=tau, max_displacement=0.5).dynamics
    frozen = replace(law, eps=(0.0, 0.2))
    stayed, moved = hatebm.Chain(hatebm.HatEnergy(hat, generator), (z, y), frozen, seed=0, first_step=4).run(steps)

    start = generator(z)
    energy = lambda x: hat(x) + 0.5 * tau * (x - start).flatten(1).square().sum(1)  # noqa: E731
    noise = lambda t: hatebm.normal(y.shape, seed=0, step=t, block=1).double()  # noqa: E731
    law = {"eps": 0.2, "temperature": 0.5, "clip": ("norm", 0.5), "clip_on": "update"}
    image = hatebm.langevin(energy, start + y, steps, first_step=4, noise=noise, **law)
    assert torch.equal(stayed, z)
    torch.testing.assert_close(start + moved, image, rtol=1e-12, atol=1e-12)
    if steps == 1:
        drift = (moved - y - 0.2 * noise(4)).flatten(1).norm(dim=1)
        assert drift.max() < 0.5 + 1e-12
        assert (drift > 0.5 - 1e-12).any() or tau == 0


def linear(w: Tensor) -> nn.Linear:
    """G(z) = W z."""
    generator = nn.Linear(w.shape[1], w.shape[0], bias=False)
    generator.weight.data.copy_(w)
    return generator.requires_grad_(False)


def stationary(w: Tensor, v: float, tau: float, k: float, s_z: float, s_y: float, alternate: bool) -> Tensor:
    """Covariance of (z, y) under the discrete kernel of |W z + y|^2 / (2 v) + tau |y|^2 + k |z|^2 / 2.

    It solves S = A S A' + Q: A = I - s P and Q = 2 s for simultaneous moves of precision P; with M_z and M_y for the
    moves of one block, A = M_y M_z and Q = M_y diag(2 s_z, 0) M_y' + diag(0, 2 s_y) for alternating ones.
    """
    w, (d, p) = w.double(), w.shape
    one_z, one_y = torch.eye(p).double(), torch.eye(d).double()
    precision = torch.cat(
        (torch.cat((w.T @ w / v + k * one_z, w.T / v), 1), torch.cat((w / v, (1 / v + 2 * tau) * one_y), 1))
    )
    s_z, s_y = torch.tensor([s_z] * p + [0.0] * d).double(), torch.tensor([0.0] * p + [s_y] * d).double()
    one = torch.eye(p + d).double()
    move_z, move_y = one - s_z.diag() @ precision, one - s_y.diag() @ precision
    if alternate:
        a, q = move_y @ move_z, move_y @ (2 * s_z).diag() @ move_y.T + (2 * s_y).diag()
    else:
        a, q = one - (s_z + s_y).diag() @ precision, (2 * (s_z + s_y)).diag()
    assert torch.linalg.eigvals(a).abs().max() < 0.9  # 100 steps leave 0.9^200 < 1e-9 of the start
    return torch.linalg.solve(torch.eye((p + d) ** 2) - torch.kron(a, a), q.flatten()).view(p + d, p + d)


def sampled_covariance(w: Tensor, v: float, tau: float, k: float, s_z: float, s_y: float, alternate: bool) -> Tensor:
    """The same from 100,000 chains of 100 steps under the law of a joint configuration, at temperature 4."""
    eps_z, eps = (2 * s_z) ** 0.5, (2 * s_y) ** 0.5
    law = JointConfig(
        eps=eps, eps_latent=eps_z, temperature=4.0, residual_precision=tau, alternate=alternate, max_displacement=1e3
    ).dynamics
    law = replace(law, prior_precision=(k, 2 * tau))
    energy = hatebm.HatEnergy(lambda x: 4.0 * x.square().sum(1) / (2 * v), linear(w))
    start = tuple(torch.zeros(100_000, side) for side in reversed(w.shape))
    return torch.cov(torch.cat(hatebm.Chain(energy, start, law, seed=11).run(100), 1).T.double())


NUMBERS = {"v": 0.5, "tau": 0.6, "k": 0.4, "s_z": 0.2, "s_y": 0.15}
WEIGHTS = {
    "1 x 1": torch.tensor([[0.8]]),
    "3 x 2": torch.tensor([[0.8, -0.3], [0.1, 0.5], [-0.4, 0.6]]),
}
PUBLISHED = {True: (1.391, -0.704, 0.765), False: (1.260, -0.549, 0.698)}


@pytest.mark.parametrize("alternate", [True, False], ids=["alternating", "simultaneous"])
@pytest.mark.parametrize("w", WEIGHTS.values(), ids=WEIGHTS)
def test_each_kernel_has_its_own_gaussian_law_and_not_the_others(w, alternate):
    want, other = (stationary(w, **NUMBERS, alternate=kernel) for kernel in (alternate, not alternate))
    if w.numel() == 1:
        known = torch.tensor(PUBLISHED[alternate]).double()
        torch.testing.assert_close(want.flatten()[[0, 1, 3]], known, rtol=0, atol=6e-4)
    got = sampled_covariance(w, **NUMBERS, alternate=alternate)
    spread = ((want**2 + want.diag()[:, None] * want.diag()) / 100_000).sqrt()  # of a covariance, for Gaussians
    assert ((got - want).abs() < 4 * spread).all()
    assert ((got - other).abs() > 8 * spread).any()


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_at_frozen_latents_images_forget_them_and_g_and_keep_the_variance_of_the_step(scale):
    n, s, v, w = 100_000, 0.15, 0.5, scale * WEIGHTS["3 x 2"]
    energy = hatebm.HatEnergy(lambda x: x.square().sum(1) / (2 * v), linear(w))
    z = hatebm.normal((n, 2), seed=5, step=0, purpose=hatebm.ops.noise.Purpose.INITIAL_STATE)
    _, y = hatebm.langevin(energy, (z, torch.zeros(n, 3)), 60, eps=(0.0, (2 * s) ** 0.5), seed=7)
    x, variance = (z @ w.T + y).double(), v / (1 - s / (2 * v))
    spread = variance * (torch.eye(3) + 1).sqrt() / n**0.5
    assert ((torch.cov(x.T) - variance * torch.eye(3)).abs() < 4 * spread).all()
    across = (x - x.mean(0)).T @ (z - z.mean(0)).double() / n
    assert (across.abs() < 4 * (variance / n) ** 0.5).all()  # z has variance 1
