"""Schedules of step, noise and temperature: what an annealed Gaussian must come to, in each form of a chain."""

import math

import pytest
import torch
from targets import gaussian_energy, quadratic

import hatebm

FORMS = {
    "overdamped": {},
    "mala": {"correct": "mala"},
    "underdamped": {"friction": 0.8},
    "hmc": {"leapfrog_steps": 2},
    "hmc with friction": {"leapfrog_steps": 2, "friction": 0.8},
}
AS = {"list": list, "tensor": torch.tensor, "callable": lambda values: values.__getitem__}


def drawn(shape, seed=77):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cosine(start, end, n):
    return [end + (start - end) * (1 + math.cos(math.pi * t / (n - 1))) / 2 for t in range(n)]


@pytest.mark.parametrize("form", AS.values(), ids=AS)
@pytest.mark.parametrize("first_step", [0, 4])
def test_descent_is_a_product_of_contractions(form, first_step):
    a, prior, steps = 1.5, 0.4, cosine(0.5, 0.01, 20)
    temperatures = [2.0 - 0.05 * t for t in range(20)]
    x = drawn((5, 3)).double()
    law = {"step_size": form(steps), "temperature": form(temperatures), "noise_std": 0, "prior_precision": prior}
    got = hatebm.langevin(gaussian_energy(a), x, 20 - first_step, first_step=first_step, **law)
    pairs = list(zip(steps, temperatures, strict=True))[first_step:]
    want = x * math.prod(1 - s * (a / temperature + prior) for s, temperature in pairs)
    torch.testing.assert_close(got, want, rtol=3e-6, atol=0)  # a tensor holds its schedule in float32


@pytest.mark.parametrize("noise_at", ["after", "before"])
def test_an_annealed_variance_follows_its_recursion(noise_at):
    a, n = 1.5, 60_000
    steps, temperatures = cosine(0.6, 0.05, 25), [4.0 * 0.9**t for t in range(25)]
    noises = [0.5 + 0.3 * math.sin(t) for t in range(25)]
    law = {"step_size": steps, "noise_std": noises, "temperature": temperatures, "noise_at": noise_at}
    x = hatebm.langevin(gaussian_energy(a), torch.zeros(n, 1), 25, seed=1, **law)
    want = 0.0
    for s, noise, temperature in zip(steps, noises, temperatures, strict=True):
        shrink = (1 - s * a / temperature) ** 2
        want = shrink * want + noise**2 if noise_at == "after" else shrink * (want + noise**2)
    assert abs(float(x.var()) - want) < 4 * want * math.sqrt(2 / n)
    frozen = hatebm.langevin(gaussian_energy(a), torch.zeros(n, 1), 25, seed=1, **law | {"temperature": 4.0})
    assert abs(float(frozen.var()) - want) > 10 * want * math.sqrt(2 / n)


def test_steps_without_noise_std_draw_their_own():
    steps = cosine(0.4, 0.02, 8)
    law = {"step_size": steps, "noise_std": [math.sqrt(2 * s) for s in steps]}
    want = hatebm.langevin(quadratic, drawn((4, 3)), 8, seed=1, **law)
    assert torch.equal(hatebm.langevin(quadratic, drawn((4, 3)), 8, seed=1, step_size=steps), want)
    lengths = hatebm.langevin(quadratic, drawn((4, 3)), 8, seed=1, eps=[math.sqrt(2 * s) for s in steps])
    torch.testing.assert_close(lengths, want)


@pytest.mark.parametrize("form", ["mala", "hmc", "hmc with friction"])
def test_annealed_corrected_chains_are_exact_at_the_last_temperature(form):
    a, n = 2.0, 30_000
    temperatures, lengths = [6.0 * 0.8**t for t in range(12)] + [0.5] * 40, cosine(1.2, 0.35, 12) + [0.35] * 40
    law = {"eps": lengths, "temperature": temperatures} | FORMS[form]
    x = hatebm.Chain(gaussian_energy(a), torch.zeros(n, 1), seed=2, **law).run(52)
    assert abs(float(x.var()) - 0.25) < 4 * 0.25 * math.sqrt(2 / n)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_schedule_restarts_at_its_absolute_step(form):
    law = {"eps": cosine(0.5, 0.1, 14), "temperature": [2.0 - 0.1 * t for t in range(14)]} | form
    x = drawn((6, 3))
    want = hatebm.Chain(quadratic, x, seed=1, **law).run(14)
    chain = hatebm.Chain(quadratic, x, seed=1, **law)
    chain.run(5)
    later = hatebm.Chain(quadratic, torch.zeros_like(x), seed=0, **law)
    later.load_state_dict(chain.state_dict())
    assert torch.equal(later.run(9), want)
    with pytest.raises(ValueError, match="eps must be a schedule of at least 15"):
        later.run(1)


@pytest.mark.parametrize("zero", [0, 2, 4])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_step_of_length_0_moves_nothing(form, zero):
    lengths, x = [0.3] * 5, drawn((6, 3))
    lengths[zero] = 0.0
    states, chain = [x], hatebm.Chain(quadratic, x, eps=lengths, seed=1, **form)
    _, info = chain.run(5, return_info=True, callback=lambda t, x: states.append(x))
    assert torch.equal(states[zero + 1], states[zero])
    assert (info["displacement"][zero] == 0).all()
    torch.testing.assert_close(info["energy"][zero], quadratic(states[zero]))
    assert all(len(fact) == 5 for fact in info.values())
    assert "accept" not in info or (info["accept"][zero] == 1).all()
    assert not torch.equal(states[-1 if zero < 4 else 4], x)


@pytest.mark.parametrize("form", ["overdamped", "underdamped", "hmc"])
def test_each_block_follows_its_own_schedule(form):
    x = drawn((6, 3)), drawn((6, 2), seed=78)
    energy = lambda z, y: quadratic(z) + quadratic(y)  # noqa: E731
    lengths = cosine(0.5, 0.1, 9), [0.2] * 4 + [0.0] * 5
    law = {"seed": 1} | FORMS[form]
    if form == "hmc":
        law |= {"blocks": "sequential"}
    chain = hatebm.Chain(energy, x, eps=lengths, **law)
    at_four, (z, y) = chain.run(4), chain.run(5)
    assert torch.equal(y, at_four[1])
    assert not torch.equal(z, at_four[0])
    if form != "hmc":  # blocks that do not see each other are two chains, the first with block 0's noise
        assert torch.equal(z, hatebm.Chain(quadratic, x[0], eps=lengths[0], **law).run(9))
