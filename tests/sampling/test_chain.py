"""Chains: their law, their restarts, and everything left as it was found."""

import functools
import io
import math

import pytest
import torch
from small import images, small_net
from targets import LinearHat, gaussian_energy, noise_first_variance, quadratic, ula_variance

import hatebm


@pytest.mark.parametrize("noise_at", ["after", "before"])
def test_the_stationary_law_is_the_discrete_chains_own(noise_at):
    a, s, sigma = 2.0, 0.3, 0.5
    variance = {"after": ula_variance, "before": noise_first_variance}[noise_at](a, s, sigma)
    law = {"step_size": s, "noise_std": sigma, "noise_at": noise_at}
    n = 200_000
    x = hatebm.langevin(gaussian_energy(a), torch.zeros(n, 2), 40, seed=1, **law)
    spread = variance * math.sqrt(2 / (2 * n))
    assert abs(float(x.var()) - variance) < 4 * spread
    assert abs(float(x.mean())) < 4 * math.sqrt(variance / (2 * n))
    assert abs(float((x[:, 0] * x[:, 1]).mean())) < 4 * variance / math.sqrt(n)


@pytest.mark.parametrize(("noise_at", "known"), [("after", 0.3712), ("before", 0.1212)])
def test_noise_before_the_gradient_is_read_where_it_is_narrower(noise_at, known):
    a, s, sigma, n = 1 / 0.7, 0.3, 0.5, 200_000
    variance = sigma**2 / (2 * s * a * (1 - s * a / 2)) * ((1 - s * a) ** 2 if noise_at == "before" else 1)
    assert variance == pytest.approx(known, abs=5e-5)
    law = {"step_size": s, "noise_std": sigma, "noise_at": noise_at}
    x = hatebm.langevin(gaussian_energy(a), torch.zeros(n, 1), 40, seed=1, **law)
    assert abs(float(x.var()) - variance) < 4 * variance * math.sqrt(2 / n)


@pytest.mark.parametrize("noise_at", ["after", "before"])
def test_a_step_of_more_than_two_over_the_curvature_is_told_as_divergence(noise_at):
    a, law = 4.0, {"noise_std": 0.1, "noise_at": noise_at, "seed": 1}
    x = hatebm.langevin(gaussian_energy(a), torch.ones(50, 3), 1500, step_size=1.95 / a, **law)
    assert x.abs().max() < 10
    with pytest.raises(hatebm.ChainDiverged) as told:
        hatebm.langevin(gaussian_energy(a), torch.ones(50, 3), 1500, step_size=2.1 / a, **law)
    assert 400 < told.value.step < 1000  # 1.1^t leaves float32, or its square does


def test_clips_bound_each_element_or_each_sample_and_never_the_batch():
    grad, x = torch.tensor([[3.0, -4.0], [0.3, -0.4]]), torch.ones(2, 2)
    law = {"grad_fn": lambda x: grad, "step_size": 10, "noise_std": 0, "seed": 0}
    drift = lambda clip: x - hatebm.langevin(None, x, 1, **law, clip=clip)  # noqa: E731
    torch.testing.assert_close(drift(("value", 0.35)), 10 * torch.tensor([[0.35, -0.35], [0.3, -0.35]]))
    torch.testing.assert_close(drift(("norm", 1.0)), 10 * torch.tensor([[0.6, -0.8], [0.3, -0.4]]))


@pytest.mark.parametrize("blocks", ["joint", "sequential"])
def test_two_blocks_follow_their_own_lyapunov_equation(blocks):
    hat, s = LinearHat(), (0.2, 0.15)
    want = hat.stationary(*s, blocks)
    known = {"sequential": (1.391, -0.704, 0.765), "joint": (1.260, -0.549, 0.698)}[blocks]
    torch.testing.assert_close(want.flatten()[[0, 1, 3]], torch.tensor(known).double(), atol=6e-4, rtol=0)
    n = 200_000
    z, y = hatebm.langevin(hat, (torch.zeros(n, 1), torch.zeros(n, 1)), 60, step_size=s, blocks=blocks, seed=3)
    got = torch.cov(torch.cat([z, y], 1).T.double())
    spread = torch.sqrt((want**2 + want.diag()[:, None] * want.diag()) / n)
    assert ((got - want).abs() < 4 * spread).all()


def test_temperature_and_prior_target_exp_minus_e_over_t_minus_prior():
    a, temperature, tau, s = 2.0, 4.0, 0.7, 0.02
    law = {"step_size": s, "temperature": temperature, "prior_precision": tau}
    n = 50_000
    x = hatebm.langevin(gaussian_energy(a), torch.zeros(n, 1), 200, seed=2, **law)
    variance = ula_variance(a / temperature + tau, s, math.sqrt(2 * s))
    assert abs(float(x.var()) - variance) < 4 * variance * math.sqrt(2 / n)


def test_a_constant_energy_lets_the_chain_walk():
    eps, n, d, steps = 0.3, 20_000, 3, 25
    z = hatebm.langevin(lambda z: 0 * z.sum(1), torch.ones(n, d), steps, eps=eps, seed=1)
    squares = z.square().sum(1)
    assert abs(float(squares.mean()) - (d + steps * eps**2 * d)) < 4 * float(squares.std()) / math.sqrt(n)


@pytest.mark.parametrize("rule", ["sequential", "increment", "fma"])
def test_the_loop_people_write_gives_the_same_bits(rule):
    net, x = small_net().eval(), images()
    noise = [torch.randn_like(x) for _ in range(7)]
    y = x.clone()
    for t in range(7):
        y.requires_grad_(True)
        grad = torch.autograd.grad(net(y).sum(), y)[0]
        with torch.no_grad():
            if rule == "sequential":
                y = (y - 10 * grad.clamp(-0.01, 0.01) + 0.005 * noise[t]).clamp(0, 1)
            elif rule == "increment":
                y = (y + (0.005 * noise[t] - 10 * grad.clamp(-0.01, 0.01))).clamp(0, 1)
            else:
                y = y.add(grad.clamp(-0.01, 0.01), alpha=-10).add_(noise[t], alpha=0.005).clamp_(0, 1)
    law = {"step_size": 10, "noise_std": 0.005, "clip": ("value", 0.01), "clamp": (0, 1), "add": rule}
    assert torch.equal(hatebm.langevin(net, x, 7, noise=noise.__getitem__, **law), y)


def test_the_loop_that_adds_noise_first_gives_the_same_bits():
    net, x = small_net().eval(), images()
    noise = [torch.randn_like(x) for _ in range(7)]
    y = x.clone()
    for t in range(7):
        y = (y + 0.005 * noise[t]).clamp(0, 1).requires_grad_(True)
        grad = torch.autograd.grad(net(y).sum(), y)[0]
        y = (y.detach() - 10 * grad.clamp(-0.03, 0.03)).clamp(0, 1)
    law = {"step_size": 10, "noise_std": 0.005, "clip": ("value", 0.03), "clamp": (0, 1)}
    at = {"noise_at": "before", "clamp_at": "noise+step"}
    assert torch.equal(hatebm.langevin(net, x, 7, noise=noise.__getitem__, **law, **at), y)


def test_sequential_blocks_see_the_blocks_before_them_moved():
    hat = LinearHat()
    z, y = torch.randn(5, 1, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    law = {"eps": (0.3, 0.2), "temperature": 0.5, "clip": (None, ("norm", 0.05)), "clip_on": "update"}
    got = hatebm.langevin(hat, (z, y), 3, blocks="sequential", seed=4, **law)
    for t in range(3):
        for k, eps in enumerate((0.3, 0.2)):
            leaves = [v.clone().requires_grad_() for v in (z, y)]
            grad = torch.autograd.grad(hat(*leaves).sum() / 0.5, leaves[k])[0]
            drift = eps**2 / 2 * grad
            if k == 1:
                drift = drift * (0.05 / drift.norm(dim=1, keepdim=True)).clamp(max=1)
            moved = (z, y)[k] - drift + eps * hatebm.normal((5, 1), seed=4, step=t, block=k).double()
            z, y = (moved, y) if k == 0 else (z, moved)
    torch.testing.assert_close(got, (z, y), rtol=1e-12, atol=1e-12)


def test_chain_17_of_128_equals_chain_17_alone():
    x = torch.randn(128, 3, 5)
    law = {"step_size": 0.05, "seed": 9, "clip": ("norm", 2.0)}
    batch = hatebm.langevin(quadratic, x, 30, **law)
    assert torch.equal(batch[17:18], hatebm.langevin(quadratic, x[17:18], 30, chain_ids=[17], **law))
    halves = [hatebm.langevin(quadratic, x[a:b], 30, chain_ids=range(a, b), **law) for a, b in ((0, 50), (50, 128))]
    assert torch.equal(batch, torch.cat(halves))


def test_a_restart_equals_going_on_and_survives_a_file():
    net, law = small_net(), hatebm.Dynamics(eps=[0.1 / (t + 1) for t in range(20)])
    whole = hatebm.Chain(net, images(), law, seed=5)
    want = whole.run(20)
    first = hatebm.Chain(net, images(), law, seed=5, chain_ids=None)
    first.run(8)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = hatebm.Chain(net, torch.zeros(6, 1, 6, 6), law, seed=0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.step == 8
    assert torch.equal(second.run(12), want)
    again = hatebm.langevin(net, hatebm.langevin(net, images(), 8, dynamics=law, seed=5), 12, dynamics=law, seed=5)
    assert not torch.equal(again, want)
    head = hatebm.langevin(net, images(), 8, dynamics=law, seed=5)
    assert torch.equal(hatebm.langevin(net, head, 12, dynamics=law, seed=5, first_step=8), want)


def test_threads_do_not_change_a_bit():
    threads, draws = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            draws.append(hatebm.langevin(quadratic, torch.ones(64, 3, 16, 16), 5, eps=0.1, seed=1, clip=("norm", 1.0)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*draws)


def flags(net):
    return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()], torch.is_grad_enabled()


WRAPS = {
    "module": lambda net: net,
    "method": lambda net: net.forward,
    "partial": functools.partial,
    "function": lambda net: lambda x: -net(x),
}


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_everything_is_put_back_as_found(wrap, raises):
    net = small_net()
    net[2].eval()
    next(net.parameters()).requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before, buffers, x = flags(net), [b.clone() for b in net.buffers()], images()
    seen, entry = [], x.clone()

    def note(module, args):
        seen.append((any(m.training for m in net.modules()), flags(net)[1] == before[1]))
        if raises and len(seen) == 2:
            raise KeyError("from the energy")

    net.register_forward_pre_hook(note)
    net[0].register_forward_pre_hook(note)
    with pytest.raises(KeyError) if raises else torch.no_grad():
        out = hatebm.langevin(wrap(net), x, 3, eps=0.1, seed=0)
        assert not out.requires_grad
        assert out.grad_fn is None
    assert set(seen) == {(False, True)}
    assert flags(net) == before
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), buffers, strict=True))
    assert torch.equal(x, entry)
    assert x.grad is None


@pytest.mark.parametrize(("mode", "training"), [("eval", False), ("train", True), ("keep", True)])
def test_mode(mode, training):
    net, seen = small_net(), []
    net.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    hatebm.langevin(net, images(), 2, eps=0.1, seed=0, mode=mode)
    assert seen == [training] * 2
    assert net.training


def test_float64_runs_on_the_reference():
    x = torch.ones(3, 4, dtype=torch.float64)
    out = hatebm.langevin(quadratic, x, 5, eps=0.1, seed=0)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out.float(), hatebm.langevin(quadratic, x.float(), 5, eps=0.1, seed=0))


def test_gradients_may_come_from_a_score():
    x = torch.randn(5, 4)
    grad_fn = lambda x, a: 2 * a * torch.linspace(0.5, 2, 4) * x  # noqa: E731
    got = hatebm.langevin(None, x, 6, grad_fn=grad_fn, energy_kwargs=lambda t: {"a": 1.0}, step_size=[0.1] * 6, seed=0)
    torch.testing.assert_close(got, hatebm.langevin(quadratic, x, 6, step_size=0.1, seed=0))


def test_half_precision_scores_are_read_as_they_are():
    x = torch.randn(5, 4)
    got = hatebm.langevin(None, x, 1, grad_fn=lambda x: x.bfloat16(), step_size=0.5, noise_std=0, temperature=3.0)
    torch.testing.assert_close(got, x - 0.5 * x.bfloat16().float() / 3, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", [list, torch.tensor, lambda v: v.__getitem__], ids=["list", "tensor", "callable"])
def test_schedules_go_by_the_absolute_step(form):
    values = [0.5, 0.25, 0.125, 0.0625]
    x = torch.ones(2, 3)
    got = hatebm.langevin(lambda x: x.sum(1), x, 2, step_size=form(values), noise_std=0, first_step=2)
    assert torch.equal(got, x - 0.125 - 0.0625)


def test_a_block_with_step_and_noise_0_is_frozen():
    z = torch.randn(4, 2)
    out, _ = hatebm.langevin(lambda z, y: (y * y).sum(1), (z, torch.ones(4, 3)), 3, eps=(0.0, 0.1), seed=0)
    assert torch.equal(out, z)


def test_clamp_at_final_boxes_the_result_and_not_the_chain():
    chain = hatebm.Chain(
        lambda x: -x.sum(1), torch.zeros(2, 3), step_size=1.0, noise_std=0, clamp=(0, 1.5), clamp_at="final"
    )
    assert torch.equal(chain.run(2), torch.full((2, 3), 1.5))
    assert torch.equal(chain.state, torch.full((2, 3), 2.0))


def test_info_and_callback_keep_every_step_that_divides():
    states = {}
    x, law = torch.ones(5, 4), {"step_size": 0.05, "seed": 3, "temperature": 2.0}
    out, info = hatebm.langevin(
        quadratic, x, 7, first_step=1, every=2, callback=states.__setitem__, return_info=True, **law
    )
    assert list(states) == [2, 4, 6] == info["step"].tolist()
    assert {k: tuple(v.shape) for k, v in info.items() if k != "step"} == dict.fromkeys(
        ("energy", "grad_norm", "displacement"), (3, 5)
    ) | {"grad_norm_energy": (3, 5, 1)}
    chain, rows = hatebm.Chain(quadratic, x, first_step=1, **law), []
    for t in range(1, 8):
        before = chain.state.requires_grad_()
        energy = quadratic(before)
        grad = torch.autograd.grad(energy.sum(), before)[0] / 2
        after = chain.run(1)
        if t % 2 == 0:
            rows.append((energy.detach(), grad.norm(dim=1), (after - before.detach()).norm(dim=1)))
            assert torch.equal(states[t], after)
    for name, column in zip(("energy", "grad_norm", "displacement"), zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(info[name], torch.stack(column), rtol=1e-5, atol=1e-6)
    assert torch.equal(out, after)


def test_a_scalar_energy_is_a_sum_over_chains():
    x = torch.randn(4, 3)
    total = hatebm.langevin(lambda x: quadratic(x).sum(), x, 3, eps=0.1, seed=0)
    assert torch.equal(total, hatebm.langevin(quadratic, x, 3, eps=0.1, seed=0))


def test_inference_mode():
    net = small_net()
    want = hatebm.langevin(net, images(), 3, eps=0.1, seed=0)
    with torch.inference_mode():
        assert torch.equal(hatebm.langevin(net, images(), 3, eps=0.1, seed=0), want)
        lost = small_net()
    with pytest.raises(RuntimeError, match="build the model outside it"):
        hatebm.langevin(lost, images(), 3, eps=0.1, seed=0)


def test_seeds():
    x = torch.zeros(3, 4)
    torch.manual_seed(0)
    one, two = (hatebm.langevin(quadratic, x, 2, eps=0.1) for _ in range(2))
    assert not torch.equal(one, two)
    torch.manual_seed(0)
    assert torch.equal(hatebm.langevin(quadratic, x, 2, eps=0.1), one)
    fixed = [hatebm.langevin(quadratic, x, 2, eps=0.1, seed=7) for _ in range(2)]
    assert torch.equal(*fixed)


@pytest.mark.parametrize("shape", [(0, 3), (1,), (5,), (1, 1), (2, 0)], ids=str)
def test_small_shapes(shape):
    x = torch.ones(shape)
    out = hatebm.langevin(lambda x: x.reshape(len(x), x[:1].numel()).square().sum(1), x, 3, eps=0.1, seed=0)
    assert out.shape == shape
    assert torch.equal(hatebm.langevin(quadratic, x, 0, eps=0.1), x)
