"""Chains in the energy of a perceptron in CUDA, run on the CPU thread by thread: like autograd and the CPU's kernel."""

import functools

import pytest
import torch
from perceptrons import LAWS, gradient_in_float64, network
from torch import nn
from whole_chains import OWN_LAWS, TOLD, assert_own_laws, assert_told, own_schedule, own_steps, telling, with_mask

import hatebm
from hatebm.energies.mlp import ACTIVATIONS
from hatebm.energies.perceptron import layers_of
from hatebm.engine.whole import steps_of
from hatebm.ops.native import chains
from hatebm.ops.native.chains import NEVER


@pytest.fixture
def steps_on_gpu(cuda):
    """The native op as on a GPU, on tensors of the CPU: the new state and the first bad steps."""

    def run(energy, x, steps):
        layers = layers_of(getattr(energy, "layers", energy))
        rows, first = x.clone(), torch.full((len(x),), NEVER)
        numbers = chains._packed(layers)
        run = chains.run_of(steps, len(x), layers[0].weight.shape[1], x.device, first if steps.watched else None)
        cuda.mlp_chains(rows.data_ptr(), len(x), *chains._places(layers, numbers), run, 0, 0)
        return rows, first

    return run


@pytest.fixture
def chains_on_gpu(steps_on_gpu):
    """The same for the steps of a law."""

    def run(energy, x, n_steps, watched=True, first_step=0, **law):
        chain = hatebm.Chain(energy, x, first_step=first_step, **{"seed": 3} | law)
        return steps_on_gpu(energy, x, steps_of(chain._blocks, first_step, n_steps, watched))

    return run


@pytest.mark.parametrize("widths", [(1, 1), (3, 7), (20, 48, 33), (5, 64, 130, 9), (70, 300), (9, 4, 4, 4, 4)], ids=str)
@pytest.mark.parametrize("n", [1, 37])
def test_the_gradient_is_that_of_autograd(n, widths, chains_on_gpu):
    energy, x = network(widths), torch.randn(n, widths[0])
    moved, first = chains_on_gpu(energy, x, 1, step_size=2.0**20, noise_std=0.0)
    want = gradient_in_float64(energy, x)
    assert ((x - moved) / 2.0**20 - want).norm() <= 1e-5 * want.norm() + 1e-12
    assert (first == NEVER).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, chains_on_gpu):
    energy, x = network((6, 30, 17), activation), 2 * torch.randn(9, 6)
    moved, _ = chains_on_gpu(energy, x, 1, step_size=2.0**20, noise_std=0.0)
    want = gradient_in_float64(energy, x)
    assert ((x - moved) / 2.0**20 - want).norm() <= 1e-5 * want.norm()


def test_no_bias_and_activations_with_numbers(chains_on_gpu):
    net = nn.Sequential(nn.Linear(6, 30, bias=False), nn.LeakyReLU(0.3), nn.Linear(30, 8), nn.ELU(1.7), nn.Linear(8, 1))
    x = torch.randn(9, 6)
    moved, _ = chains_on_gpu(net, x, 1, step_size=2.0**20, noise_std=0.0)
    want = gradient_in_float64(net, x)
    assert ((x - moved) / 2.0**20 - want).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_chain_stays_close_to_that_of_the_cpu(law, chains_on_gpu):
    """The sums have one order on both: what differs is a number below the normal ones, at most."""
    energy, x = network(), torch.randn(37, 20)
    place = {"first_step": 5, "chain_ids": range(2**33, 2**33 + 37)}
    got, _ = chains_on_gpu(energy, x, 20, **place, **law)
    if law.get("clamp_at") == "final":
        law = {k: v for k, v in law.items() if not k.startswith("clamp")}
    want = hatebm.langevin(energy, x, 20, seed=3, **place, **law)
    assert (got - want).abs().max() <= 1e-5


@pytest.mark.parametrize("widths", [(20, 48, 33), (40, 256, 256)], ids=["kept", "read again"])
def test_a_chain_does_not_feel_the_others(widths, chains_on_gpu):
    """Blocks take 32, 4 or fewer chains, by their number."""
    energy, x = network(widths), torch.randn(70, widths[0])
    law = {"eps": 0.1, "clip": ("norm", 0.3)}
    together, _ = chains_on_gpu(energy, x, 3, **law)
    for piece in (slice(0, 1), slice(41, 44), slice(50, 60)):
        alone, _ = chains_on_gpu(energy, x[piece], 3, chain_ids=torch.arange(70)[piece], **law)
        assert torch.equal(alone, together[piece])


def test_a_bad_chain_is_named(chains_on_gpu):
    energy, x = network(activation="relu"), torch.randn(37, 20)
    x[11, 3], x[20, 0] = torch.nan, torch.inf
    _, first = chains_on_gpu(energy, x, 3, first_step=7, eps=0.1)
    assert (first != NEVER).nonzero().flatten().tolist() == [11, 20]
    assert first[[11, 20]].tolist() == [7, 7]
    assert chains_on_gpu(energy, x, 3, first_step=7, eps=0.1, watched=False)[1].unique().tolist() == [NEVER]


@pytest.mark.parametrize("law", OWN_LAWS.values(), ids=OWN_LAWS)
@pytest.mark.parametrize("widths", [(20, 48, 33), (40, 256, 256)], ids=["kept", "read again"])
def test_each_chain_moves_by_its_own_law(widths, law, steps_on_gpu):
    run = functools.partial(steps_on_gpu, network(widths))
    x, schedule = torch.randn(71, widths[0]), own_schedule(4, 71, still=4)
    together, first = assert_own_laws(run, x, schedule, (0, 1, 4, 38, 70), **law)
    assert torch.equal(together[4], x[4])
    assert (first == NEVER).all()
    assert ((together != x).any(1) == (schedule[:2] != 0).any(0).any(0)).all()


@pytest.mark.parametrize("noise_at", ["after", "before"])
@pytest.mark.parametrize("n", [1, 37])
def test_a_chain_that_rests_is_not_looked_at(n, noise_at, steps_on_gpu):
    x, schedule = torch.randn(n, 20), own_schedule(6, n).abs() + 0.001
    x[::3, 1], x[::4] = -0.0, torch.nan
    schedule[:2, :, ::3], schedule[:2, :2], schedule[:2, 4:] = 0, 0, 0
    law = {"noise_at": noise_at, "first_step": 100, "clamp_noise": True, "low": -0.5, "high": 0.5}
    together, first = steps_on_gpu(network(), x, own_steps(schedule, **law))
    rests, bad = torch.arange(n) % 3 == 0, torch.arange(n) % 4 == 0
    assert torch.equal(together[rests].view(torch.int32), x[rests].view(torch.int32))
    assert first.tolist() == torch.where(bad & ~rests, 102, NEVER).tolist()
    assert (together[~rests & ~bad].abs() <= 0.5).all()


def test_a_schedule_of_one_law_for_all(steps_on_gpu):
    energy, x, one = network(), torch.randn(37, 20), own_schedule(5, 1)
    want, _ = steps_on_gpu(energy, x, own_steps(one[..., 0], clip="norm"))
    for schedule in (one.expand(5, 5, 37), one.repeat(1, 1, 37)):
        assert torch.equal(steps_on_gpu(energy, x, own_steps(schedule, clip="norm"))[0], want)


@pytest.fixture
def look_on_gpu(cuda):
    """The energies and the gradient of the native op as on a GPU."""

    def look(energy, x):
        numbers = chains._packed(layers := layers_of(energy.layers))
        energies, gradient = torch.empty(len(x)), torch.empty_like(x)
        places = chains._places(layers, numbers)
        cuda.mlp_look(x.data_ptr(), len(x), *places, energies.data_ptr(), gradient.data_ptr(), 0, 0)
        return energies, gradient

    return look


@pytest.mark.parametrize("widths", [(20, 48, 33), (40, 256, 256)], ids=["kept", "read again"])
def test_a_look_has_the_gradient_that_chains_step_by(widths, chains_on_gpu, look_on_gpu):
    energy, x = network(widths), torch.randn(37, widths[0])
    energies, gradient = look_on_gpu(energy, x)
    assert torch.allclose(energies, energy(x).detach(), atol=1e-6)
    law = {"step_size": 0.1, "noise_std": 0.2, "clip": ("norm", 0.3)}
    want = hatebm.ops.langevin_step_(x.clone(), gradient, seed=3, step=0, **law)
    assert torch.equal(chains_on_gpu(energy, x, 1, **law)[0], want)


@pytest.mark.parametrize("law", TOLD.values(), ids=TOLD)
@pytest.mark.parametrize(("n", "widths"), [(9, (21, 48, 33)), (5, (40, 256, 256)), (2, (2100, 4))], ids=str)
def test_a_run_tells_what_single_steps_tell(n, widths, law, steps_on_gpu, look_on_gpu):
    energy, x, schedule = network(widths), torch.randn(n, widths[0]), own_schedule(4, n, still=1)
    x[0, 0], x[-1, 0] = torch.nan, -3e9
    run, look = functools.partial(steps_on_gpu, energy), functools.partial(look_on_gpu, energy)
    for numbers, every in ((schedule, 3), (schedule[..., 0], 1)):
        steps = telling(own_steps(numbers, **law), n, every)
        if numbers is not schedule:
            steps, x = with_mask(steps, x)
        moved = assert_told(run, look, x, steps)
        for got, want in zip(moved, run(x, steps._replace(facts=None)), strict=True):
            assert torch.equal(got.nan_to_num(7), want.nan_to_num(7))


def test_the_norm_clip_sums_in_the_order_of_the_ops(chains_on_gpu):
    """2100 elements are three runs of the tree: the clipped step has the bits of a step with the same gradient."""
    energy, x = network((2100, 8)), torch.randn(3, 2100)
    gradient = x - chains_on_gpu(energy, x, 1, step_size=1.0, noise_std=0.0)[0]
    law = {"step_size": 2.0, "noise_std": 0.1, "clip": ("norm", 0.01)}
    leaf = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    assert torch.allclose(gradient, exact, atol=1e-6)
    got, _ = chains_on_gpu(energy, x, 1, **law)
    want = hatebm.ops.langevin_step_(x.clone(), exact, seed=3, step=0, **law)
    assert (got - want).abs().max() <= 1e-6
