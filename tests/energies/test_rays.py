"""Negations that leave no density are found before a chain runs, and nothing else is blamed."""

import functools
import math

import pytest
import torch
from torch import nn

import hatebm
from hatebm.energies import composition
from hatebm.energies.composition import check_bounded
from hatebm.energies.rays import Rays

TEXT = "negate: weight must be small enough that energy - weight \\* by is bounded below, got weight"


def form(precision, mean=0.0):
    """The energy x' P x / 2 about a mean, for a full precision P."""
    return lambda x: ((x - mean) @ precision * (x - mean)).sum(1) / 2


def rotated(values, seed):
    """A symmetric matrix of these eigenvalues on random axes."""
    draw = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    axes = torch.linalg.qr(draw)[0]
    return ((axes * values) @ axes.T).float()


def refused(energy, d, n=8, kwargs=None, **rest):
    try:
        check_bounded(energy, [torch.zeros(n, d)], kwargs or {}, **rest)
    except ValueError as error:
        assert str(error).startswith("negate: weight must be small enough")  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("d", [1, 2, 10, 100, 500])
def test_the_weight_may_reach_the_ratio_of_the_precisions(d, mean):
    a, b = form(2 * torch.eye(d)), form(torch.eye(d), mean)
    verdicts = [refused(hatebm.negate(a, b, 2 * share), d) for share in (0.5, 0.95, 1.05, 1.5)]
    assert verdicts == [False, False, True, True]


def test_equal_precisions_about_other_means_fall_along_a_line():
    assert refused(hatebm.negate(form(torch.eye(20)), form(torch.eye(20), 1.0), 1.0), 20)
    assert not refused(hatebm.negate(form(torch.eye(20)), form(torch.eye(20)), 1.0), 20)


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.7, 1.7, 11.0, 1e-5])
def test_rounding_is_not_a_fall(scale):
    """One energy in two orders of rounding: they differ by a share of either, the same along a whole ray."""
    orders = (lambda x: (scale * x.square()).sum(1), lambda x: (math.sqrt(scale) * x).square().sum(1))
    for energy, by in (orders, orders[::-1]):
        assert not refused(hatebm.negate(energy, by, 1.0), 6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("d", "condition"), [(2, 1e3), (50, 1.0), (50, 1e2), (500, 1e1)])
def test_one_bad_direction_among_many_is_found(d, condition, seed):
    draw = torch.Generator().manual_seed(seed)
    values = torch.logspace(0, math.log10(condition), d, dtype=torch.float64)
    ratios = 0.9 * torch.rand(d, generator=draw, dtype=torch.float64)
    bad = int(torch.randint(d, (), generator=draw))
    for ratio, want in ((0.95, False), (1.05, True), (1.5, True)):
        ratios[bad] = ratio
        energy = hatebm.negate(form(rotated(values, seed)), form(rotated(values * ratios, seed), 1.0), 1.0)
        assert refused(energy, d) == want


def test_the_lowest_direction_of_a_quadratic_is_its_lowest_eigenvector():
    precision = rotated(torch.linspace(-0.5, 3.0, 12, dtype=torch.float64), 0)
    v = Rays(form(precision), [torch.zeros(4, 12)], {}, None, None).lowest()
    want = torch.linalg.eigh(precision)[1][:, 0]
    torch.testing.assert_close((v @ want).abs(), torch.ones(4), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("power", "d"), [(1, 5), (2, 50), (4, 50)])
def test_other_growth_than_quadratic_is_judged_alike(power, d):
    def grows(x, c=1.0):
        return (c * x.abs() ** power).sum(1)

    for worst, want in ((0.95, False), (1.5, True)):
        c = torch.full((d,), 0.5)
        c[d // 3] = worst
        assert refused(hatebm.negate(grows, functools.partial(grows, c=c), 1.0), d) == want


def test_slower_growth_does_not_count_as_falling_without_bound():
    for grows in (lambda x: x.square().sum(1).log1p(), lambda x: x.norm(dim=1).sqrt()):
        assert not refused(hatebm.negate(grows, grows, 2.0), 3)


def net(d, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))


@pytest.mark.parametrize("d", [2, 40])
def test_a_net_that_falls_by_itself_is_not_blamed_on_the_negation(d):
    a, b = net(d, 0), net(d, 1)
    assert not refused(hatebm.negate(a, b, 2.0), d)
    held = hatebm.product(a, form(torch.eye(d)))
    assert not refused(hatebm.negate(held, b, 2.0), d)
    assert refused(hatebm.negate(held, form(torch.eye(d)), 1.2), d)
    assert refused(hatebm.negate(lambda x: a(x).square(), lambda x: b(x).square(), 1e3), d)


def test_energies_without_a_negation_are_not_even_evaluated():
    calls = []

    def falling(x):
        calls.append(1)
        return -x.square().sum(1)

    for energy in (falling, hatebm.product(falling), hatebm.negate(falling, falling, 0.0)):
        check_bounded(energy, [torch.ones(3, 2)], {})
    assert not calls
    check_bounded(hatebm.negate(form(torch.eye(2)), form(torch.eye(2)), 2.0), [torch.ones(0, 2)], {})


def test_a_negation_is_found_inside_products_partials_and_methods():
    bad = hatebm.negate(form(torch.eye(3)), lambda x, scale=1: scale * form(torch.eye(3))(x), 1.5)
    assert refused(hatebm.product(bad, form(0.1 * torch.eye(3))), 3)
    assert not refused(hatebm.product(bad, form(torch.eye(3))), 3)
    assert refused(functools.partial(bad, scale=(None, 2)), 3)
    assert not refused(functools.partial(bad, scale=(None, 0.5)), 3)
    assert refused(bad.forward, 3)


def test_the_message_tells_weight_and_both_energies():
    energy = hatebm.negate(form(torch.eye(1)), form(torch.eye(1)), 1.5)
    text = TEXT + " 1.5: along a ray the energy falls to -2.5e\\+07, while without the negated part it is at 5e\\+07"
    with pytest.raises(ValueError, match=text):
        check_bounded(energy, [torch.zeros(2, 1)], {})


def test_sums_over_chains_and_conditions_per_chain_are_judged():
    n, d = 9, 4
    energy, shift = form(torch.eye(d)), torch.arange(float(n))[:, None]

    def moved(x, c):
        return energy(x - c)

    for weight, want in ((0.95, False), (1.05, True)):
        assert refused(hatebm.negate(energy, lambda x: energy(x).sum(), weight), d, n) == want
        assert refused(hatebm.negate(energy, functools.partial(moved, c=shift), weight), d, n) == want
        assert refused(hatebm.negate(energy, moved, weight), d, n, {"c": (None, shift)}) == want


def test_few_chains_are_enough_where_nothing_holds_a_row_per_chain():
    rows = []

    def watched(x, c):
        rows.append(len(x))
        return form(torch.eye(2))(x - c)

    for kwargs in ({"c": (torch.zeros(1000, 2), 0.0)}, {"c": torch.ones(1000, 1)}, {"c": torch.ones(2)}):
        rows.clear()
        energy = hatebm.negate(watched, lambda x, c: form(torch.eye(2))(x - c), 0.5)
        check_bounded(energy, [torch.zeros(1000, 2)], kwargs)
        assert set(rows) == {4}
        assert len(rows) < 60


def test_a_prior_of_the_law_holds_what_the_energy_alone_lets_fall():
    energy = hatebm.negate(form(torch.eye(3)), form(torch.eye(3)), 1.5)
    assert refused(energy, 3, precisions=[0.4])
    assert not refused(energy, 3, precisions=[0.6])


def test_only_what_moves_is_judged():
    c = torch.tensor([0.5, 2.0])
    energy = hatebm.negate(lambda z, y: (z**2 + y**2).sum(1), lambda z, y: (c * (z**2 + y**2)).sum(1), 1.0)
    state = [torch.ones(5, 2), torch.ones(5, 2)]
    held, free = torch.tensor([True, False]).expand(5, 2), torch.ones(5, 2, dtype=torch.bool)
    check_bounded(energy, state, {}, masks=[held, held])
    for masks in ([held, free], [None, held], None):
        with pytest.raises(ValueError, match=TEXT):
            check_bounded(energy, state, {}, masks=masks)


def test_what_overflows_far_away_is_looked_at_nearer():
    def steep(x):
        return (x**10).sum(1)

    assert [refused(hatebm.negate(steep, steep, w), 3) for w in (0.9, 1.1)] == [False, True]
    assert not refused(hatebm.negate(lambda x: x.square().sum(1).exp(), form(torch.eye(3)), 5.0), 3)


def test_everything_is_left_as_it_was_found():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.scale = nn.BatchNorm1d(3), nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * self.norm(x).square().sum(1)

    a, b = Normed(), Normed().eval()
    b.scale.requires_grad_(False)
    state, random = [torch.ones(5, 3)], torch.get_rng_state()
    for weight in (0.5, 1.5):
        energy = hatebm.negate(a, b, weight)
        saved = {key: value.clone() for key, value in energy.state_dict().items()}
        assert refused(energy, 3) == (weight > 1)
        assert energy.weight == weight
        assert [m.training for m in energy.modules()] == [True] * 4 + [False] * 2
        assert (a.scale.requires_grad, b.scale.requires_grad) == (True, False)
        assert a.scale.grad is None
        for key, value in energy.state_dict().items():
            assert torch.equal(value, saved[key])
    assert torch.equal(state[0], torch.ones(5, 3))
    assert torch.equal(torch.get_rng_state(), random)


def test_an_energy_that_fails_says_so_and_the_negated_part_counts_again():
    def fails_alone(x):
        if composition._here.left_out:
            raise RuntimeError("out of order")
        return form(torch.eye(3))(x)

    energy, x = hatebm.negate(fails_alone, form(torch.eye(3)), 1.5), torch.ones(2, 3)
    before = energy(x)
    with pytest.raises(RuntimeError, match="out of order"):
        check_bounded(energy, [torch.zeros(2, 3)], {})
    assert torch.equal(energy(x), before)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own imports
def test_a_negation_that_is_to_be_compiled_is_looked_at_as_it_is():
    square = lambda x: x.square().sum(1)  # noqa: E731
    with pytest.raises(ValueError, match=TEXT):
        hatebm.langevin(hatebm.negate(square, square, 2.0), torch.randn(4, 3), 1, eps=0.1, seed=0, compile="max")
