"""Whole chains on a GPU: in one kernel, to the CPU's bits, and to those of a step at a time."""

import functools

import pytest
import torch
from formula_energies import KINDS, of_kind
from whole_chains import (
    EVERY_LAW,
    OWN_LAWS,
    TOLD,
    assert_own_laws,
    assert_told,
    outcome,
    own_schedule,
    own_steps,
    start,
    telling,
    with_mask,
)

import hatebm
from hatebm.energies import MLP
from hatebm.energies.perceptron import layers_of
from hatebm.energies.steps import Facts
from hatebm.ops.backend import module_for
from hatebm.ops.native.chains import NEVER
from hatebm.ops.native.extension import unavailable

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["cuda", "triton"])
def backend(request):
    if reason := unavailable(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def assert_alike(energy, x, n_steps, backend, **law):
    law = {"seed": 5, "step_size": 0.01} | law
    want = outcome(energy, x, "auto", n_steps, **law)
    for mode in ("auto", "off"):
        got = outcome(energy.cuda(), x.cuda(), mode, n_steps, backend=backend, **law)
        energy.cpu()
        assert type(got) is type(want)
        assert got == want if isinstance(want, tuple) else torch.equal(got.cpu().nan_to_num(7), want.nan_to_num(7))


@pytest.mark.parametrize("law", EVERY_LAW.values(), ids=EVERY_LAW)
@pytest.mark.parametrize("kind", KINDS)
def test_every_law_of_every_energy(kind, law, backend):
    assert_alike(of_kind(kind, 6), start(kind, 37, 6), 9, backend, **law)


@pytest.mark.parametrize("shape", [(1, 1), (100_000, 2), (3, 5), (1000, 36), (33, 130), (2, 1024)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shape(kind, shape, backend):
    energy, x = of_kind(kind, shape[1]), start(kind, *shape)
    assert_alike(energy, x, 3, backend, step_size=0.001, clip=("norm", 2.0), prior_precision=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_diverged_chain_is_reported_alike(kind, backend):
    for scale, step_size in [(1.0, 30.0), (1e12, 5.0), (1e19, 0.1)]:
        x = scale * start(kind, 20, 5)
        assert_alike(of_kind(kind, 5), x, 20, backend, step_size=step_size, chain_ids=range(0, 60, 3))
        assert_alike(of_kind(kind, 5), x, 20, backend, step_size=step_size, nan="ignore")


@pytest.fixture
def moved(backend):
    """``moved(energy, x, steps)``: where steps lead on the GPU, and the first bad steps."""

    def run(energy, x, steps):
        given = {name: getattr(steps, name) for name in ("schedule", "chain_ids", "mask")}
        on_gpu = {name: value if value is None else value.cuda() for name, value in given.items()}
        facts = steps.facts and Facts(steps.facts.every, *(rows.cuda() for rows in steps.facts[1:]))
        first = energy.advance_(x := x.cuda(), steps._replace(**on_gpu, facts=facts, backend=backend))
        for rows, told in zip(steps.facts[1:], facts[1:], strict=True) if facts else ():
            rows.copy_(told)
        return x.cpu(), first.cpu()

    return run


@pytest.mark.parametrize("law", OWN_LAWS.values(), ids=OWN_LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_chain_moves_by_its_own_law(kind, law, moved):
    energy, x, schedule = of_kind(kind, 6), start(kind, 37, 6), own_schedule(7, 37, still=4)
    x[5], x[11, 2], x[20] = torch.nan, 1e30, 1e12
    steps, want = own_steps(schedule, **law), x.clone()
    first_want = energy.advance_(want, steps)
    got, first = moved(energy.cuda(), x, steps)
    assert torch.equal(got.nan_to_num(7).view(torch.int32), want.nan_to_num(7).view(torch.int32))
    assert torch.equal(first, first_want)


@pytest.mark.parametrize("shape", [(1, 1), (100_000, 2), (3, 5), (1000, 36), (33, 130), (2, 1024)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_own_laws_of_every_shape(kind, shape, moved):
    energy, x, schedule = of_kind(kind, shape[1]).cuda(), start(kind, *shape), own_schedule(3, shape[0])
    chains = {0, 1 % shape[0], shape[0] // 2, shape[0] - 1}
    assert_own_laws(functools.partial(moved, energy), x, schedule, chains, clip="norm", noise_at="before", high=1.0)


@pytest.mark.parametrize("law", OWN_LAWS.values(), ids=OWN_LAWS)
@pytest.mark.parametrize("widths", [(20, 48, 33), (40, 256, 256)], ids=str)
def test_each_chain_of_a_perceptron_moves_by_its_own_law(widths, law, moved):
    torch.manual_seed(0)
    energy, x, schedule = MLP(widths).cuda(), torch.randn(71, widths[0]), own_schedule(4, 71, still=4)
    x[7] = torch.nan
    schedule[:2, :2, 7] = 0
    together, first = assert_own_laws(functools.partial(moved, energy), x, schedule, (0, 1, 4, 7, 38, 70), **law)
    assert torch.equal(together[4], x[4])
    assert (first != NEVER).nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("law", TOLD.values(), ids=TOLD)
@pytest.mark.parametrize("kind", [*KINDS, "perceptron"])
def test_a_run_tells_what_single_steps_tell(kind, law, moved, backend):
    for n, d, every in ((37, 6, 3), (3, 130, 1), (6000, 2, 2)):
        torch.manual_seed(0)
        energy = MLP((d, 48, 33)).cuda() if kind == "perceptron" else of_kind(kind, d).cuda()
        x, schedule = torch.randn(n, d), own_schedule(5, n, still=1)
        x[0, 0], x[-1, 0] = torch.nan, -3e9

        def look(x, energy=energy):
            if kind != "perceptron":
                return tuple(v.cpu() for v in energy.look(x.cuda()))
            kernels = module_for("perceptron_look", backend, x.cuda().device)
            return tuple(v.cpu() for v in kernels.perceptron_look(x.cuda(), layers_of(energy.layers)))

        for numbers in (schedule, schedule[..., 2]):
            steps = telling(own_steps(numbers, **law), n, every)
            if numbers is not schedule:
                steps, x = with_mask(steps, x)
            assert_told(functools.partial(moved, energy), look, x, steps)


def near(widths, x, n_steps, backend, law, chain_ids=None, **kept):
    """A perceptron's chain on the GPU, held to the CPU's; the report of its run."""
    torch.manual_seed(0)
    energy = MLP(widths).cuda()
    chain = hatebm.Chain(energy, x.cuda(), seed=3, backend=backend, chain_ids=chain_ids, **law)
    got = chain.run(n_steps, **kept)
    want = hatebm.langevin(energy.cpu(), x, n_steps, seed=3, chain_ids=chain_ids, **law)
    assert (got.cpu() - want).abs().max() <= 1e-4
    return got, chain.report()


@pytest.mark.parametrize(
    "law", [{"eps": 0.1}, {"step_size": 0.01, "noise_at": "before", "clip": ("norm", 0.3)}], ids=str
)
@pytest.mark.parametrize("widths", [(2, 128, 128), (20, 48, 33), (200, 100), (40, 256, 256)], ids=str)
def test_perceptrons_in_one_kernel(widths, law, backend):
    x = torch.randn(1000, widths[0])
    together, report = near(widths, x, 20, backend, law)
    assert "20 of them in one kernel" in report
    alone, _ = near(widths, x[40:43], 20, backend, law, range(40, 43))
    assert torch.equal(alone, together[40:43])
    watched, _ = near(widths, x, 20, backend, law, callback=lambda t, x: None, every=5)
    assert torch.equal(watched, together)


def test_the_report_tells_what_ran_in_the_kernel(backend):
    energy = of_kind("well", 2).cuda()
    chain = hatebm.Chain(energy, torch.zeros(4, 2, device="cuda"), eps=0.1, seed=0, backend=backend)
    chain.run(30)
    assert "30 steps, 30 of them in one kernel" in chain.report()
