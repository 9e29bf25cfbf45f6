"""The loops whose laws have numbers in tensors: their gradients, on the reference, in training, with own noise."""

import drop_in
import drop_in_nets as nets
import pytest
import torch
from drop_in_rows import STEPS, call, images, made, noise_like
from drop_in_tensors import MOST, ROWS, noise_levels, refined

import hatebm

THROUGH = pytest.mark.parametrize("through", [False, True], ids=["each step", "all steps"])
TERMS = STEPS * 6 * 36  # that the gradient of a number is summed from, by the loop and by the call in other orders


def assert_same(loop, ours):
    for a, b in zip(loop, ours, strict=True):
        assert torch.equal(a, b), f"{(a != b).sum()} of {a.numel()} elements differ"


@THROUGH
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_learned_numbers_get_the_gradients_of_the_loop(dtype, backend, through):
    loop, ours = refined(0, through, dtype, backend=backend)
    assert_same(loop.outputs, ours.outputs)
    assert_same(loop.weights, ours.weights)
    assert min(map(abs, loop.numbers)) > 1e-3
    torch.testing.assert_close(ours.numbers, loop.numbers, rtol=TERMS * torch.finfo(dtype).eps / 2, atol=0)


def test_the_bound_of_the_clip_has_its_part_in_the_gradient():
    (loop, ours), (_, without) = (refined(0, False, torch.float64, **law) for law in ({}, {"clip": ("value", MOST)}))
    assert abs(ours.numbers[0] / loop.numbers[0] - 1) < 1e-12 < abs(without.numbers[0] / loop.numbers[0] - 1)


@pytest.mark.parametrize("name", ROWS)
def test_the_reference_gives_the_bits_too(name):
    assert_same(*ROWS[name](0, backend="reference"))


@pytest.mark.parametrize("name", ROWS)
def test_and_in_float64(name):
    loop, ours = ROWS[name](0, dtype=torch.float64)
    assert loop[0].dtype == torch.float64
    assert_same(loop, ours)


def test_some_gradients_are_clipped_and_some_are_not():
    loop, ours = refined(0, False, clip=None)
    assert 0.1 < (loop.outputs[0] == ours.outputs[0]).float().mean() < 0.9


def trained(sample, steps=4):
    """The losses of Energy Matching's contrast between data and samples, and the weights after it."""
    net = made(0, nets.Critic, 1).eval()
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for step in range(steps):
        data, start = 2 * images(step) - 1, 2 * images(100 + step) - 1
        from_data = torch.arange(len(start)) < 3
        start = torch.where(from_data.view(-1, 1, 1, 1), data, start)
        loss = net(data).mean() - net(sample(net, start, noise_like(step, start, 110), from_data)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, list(net.parameters())


def test_a_training_by_energy_matching_is_the_same_to_the_bit():
    dt, eps_max = 0.01, 0.1

    def ours(net, start, noise, from_data):
        levels = noise_levels(from_data, len(noise), dt, eps_max)
        return call(net, start, noise, step_size=dt, noise_std=levels, clamp=(-1, 1), clamp_at="final")

    loop = lambda *args: drop_in.energy_matching(*args, dt, eps_max)  # noqa: E731
    (losses, weights), (our_losses, our_weights) = trained(loop), trained(ours)
    assert len(set(map(float, losses))) == len(losses)
    assert_same(losses, our_losses)
    assert_same(weights, our_weights)


class Refiner(torch.nn.Module):
    """A network, the length of its steps and their noise, all learned."""

    def __init__(self):
        super().__init__()
        self.net = made(0, nets.Critic, 10).eval()
        self.alpha, self.noise_std = (torch.nn.Parameter(torch.tensor(v)) for v in (0.5, 0.05))


def refiner_trained(refine, through, steps=4):
    """The losses, and where the learned numbers went."""
    model = Refiner().double()
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for step in range(steps):
        wanted, start = images(step).double(), images(100 + step).double()
        noise = [xi.double() for xi in noise_like(step, start)]
        alpha = model.alpha * (0.5 + 1.5 * torch.linspace(0, 1, len(start), dtype=torch.float64))
        outputs = refine(model.net, start, noise, alpha, model.noise_std, MOST, through)
        loss = sum((x - wanted).square().mean() for x in outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, model.alpha.item(), model.noise_std.item()]


@THROUGH
def test_a_training_of_a_refinement_is_the_same_but_for_the_sums_of_its_numbers(through):
    def ours(net, start, noise, alpha, noise_std, most, through):
        law = {"step_size": hatebm.per_chain(alpha), "clip": ("value", hatebm.per_chain(most / alpha))}
        law |= {"noise_std": noise_std, "noise_at": "before", "keep": "steps"}
        return call(net, start, noise, **law, grad_steps=STEPS if through else 0)

    loop, same = refiner_trained(drop_in.refinement, through), refiner_trained(ours, through)
    assert loop[0] == same[0]
    assert abs(loop[-2] - 0.5) > 0.01 < abs(loop[-1] - 0.05)
    assert same == pytest.approx(loop, rel=1e-9, abs=0)


def well(x):
    return (x.square() - 1).square().flatten(1).sum(1)


def test_with_noise_of_its_own_each_chain_of_energy_matching_is_itself_alone():
    from_data, x = torch.arange(6) < 2, images(0)
    levels = noise_levels(from_data, 110, 0.01, 0.1)
    batch = hatebm.langevin(well, x, 110, step_size=0.01, noise_std=levels, seed=3)
    for c in range(6):
        law = {"step_size": 0.01, "noise_std": levels.tensor[:, c].tolist(), "chain_ids": [c]}
        assert_same(hatebm.langevin(well, x[c : c + 1], 110, **law, seed=3), batch[c : c + 1])


@THROUGH
def test_with_noise_of_its_own_each_chain_of_a_refinement_is_itself_alone(through):
    x, alpha = images(0), torch.linspace(0.05, 0.2, 6)
    law = {"noise_at": "before", "noise_std": 0.1, "seed": 3, "keep": "steps", "grad_steps": STEPS if through else 0}

    def run(x, alpha, **where):
        bound = hatebm.per_chain(0.1 / alpha) if alpha.dim() else float(0.1 / alpha)
        step_size = hatebm.per_chain(alpha) if alpha.dim() else float(alpha)
        return hatebm.langevin(well, x, STEPS, step_size=step_size, clip=("value", bound), **law, **where)

    batch = run(x, alpha)
    for c in range(6):
        alone = run(x[c : c + 1], alpha[c], chain_ids=[c])
        assert_same(alone, [y[c : c + 1] for y in batch])
