"""Replicas in one chain: the bits of a chain for each, and a chain for each where rows of a batch are not alike."""

import functools
import math

import pytest
import torch
from targets import quadratic
from torch import nn

import hatebm
from hatebm.energies import DoubleWell, Funnel, Gaussian
from hatebm.sampling import placement
from hatebm.sampling.ladder import as_one, heated

LADDER = (0.7, 1.1, 2.0, 5.0)
N = 7
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)).clamp(-1.5, 1.5)
DRAWS = torch.rand(20, N, generator=torch.Generator().manual_seed(1))
ROWS = DRAWS[:, :3].new_tensor([[(i + j) % 3 > 0 for j in range(3)] for i in range(N)]).bool()


def wells(x):
    return (2 * (x.square() - 1).square() + 0.4 * x).sum(1)


def pair(z, y):
    return wells(z) + (y - 0.3).square().sum(1) + (z[:, 0] * y[:, 0]).square()


def apart(*_):
    return False


@pytest.fixture
def run(monkeypatch):
    """Tempering, with all that it tells and shows, and the number of its chains; ``allows`` in place of the look."""

    def run(energy, x=X, steps=18, allows=None, **law):
        counts, seen, replicas = [], [], placement.Replicas
        with monkeypatch.context() as patch:
            patch.setattr(
                placement, "Replicas", lambda chains, *more: counts.append(len(chains)) or replicas(chains, *more)
            )
            if allows is not None:
                patch.setattr(placement, "allows_one_chain", allows)
            call = {"temperatures": LADDER, "swap_every": 3, "seed": 5, "every": 2, "return_info": True} | law
            cold, info = hatebm.tempering(energy, x, steps, callback=lambda t, x: seen.append(x), **call)
        del info["report"]
        return counts[0], [cold, *seen, *info["replicas"], *(v for v in info.values() if isinstance(v, torch.Tensor))]

    return run


def assert_same(one, other):
    flat = [
        [block for value in told for block in (value if isinstance(value, tuple) else (value,))]
        for told in (one, other)
    ]
    for a, b in zip(*flat, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num().view(torch.uint8), b.nan_to_num().view(torch.uint8))


PER = hatebm.per_chain
ALIKE = {
    "a formula": (DoubleWell(), X, {"eps": 0.1}),
    "a Gaussian": (Gaussian(torch.zeros(3), torch.eye(3)), X, {"eps": 0.1}),
    "a funnel": (Funnel(3), X, {"eps": 0.05}),
    "a formula, corrected": (DoubleWell(), X, {"eps": 0.3, "correct": "mala"}),
    "a function": (wells, X, {"eps": 0.1}),
    "a function, corrected": (wells, X, {"eps": 0.2, "correct": "mala", "chain_ids": [3, 1, 4, 15, 9, 2, 6]}),
    "trajectories": (wells, X, {"eps": [0.1, 0.2] * 9, "leapfrog_steps": 2}),
    "velocities": (wells, X, {"eps": 0.1, "friction": 1.0}),
    "velocities, corrected": (wells, X, {"eps": 0.1, "friction": 1.0, "correct": "mala"}),
    "a step size": (wells, X, {"step_size": 0.01}),
    "schedules": (wells, X, {"step_size": [0.01] * 9 + [0.02] * 9, "noise_std": [0.1] * 9 + [0.0] * 9}),
    "rests": (wells, X, {"step_size": [0.01, 0.0] * 9, "noise_std": [0.1, 0.0] * 9}),
    "descent": (wells, X, {"step_size": 0.01, "noise_std": 0.0}),
    "a clip": (wells, X, {"step_size": 2.0, "noise_std": 0.01, "clip": ("norm", 0.1), "clamp": (-1, 1)}),
    "noise first": (wells, X, {"step_size": 0.01, "noise_std": 0.1, "noise_at": "before", "clamp": (-1, 1)}),
    "a box at the end": (wells, X, {"eps": 0.1, "clamp": (-0.5, 0.5), "clamp_at": "final"}),
    "numbers of 0": (wells, X, {"step_size": 0.01, "noise_std": PER(torch.zeros(N))}),
    "no chain": (wells, X[:0], {"eps": 0.1}),
    "numbers per chain": (wells, X, {"eps": PER(DRAWS[0] / 10), "prior_precision": PER(DRAWS)}),
    "bounds per chain": (wells, X, {"eps": PER(DRAWS / 10), "clip": ("value", PER(DRAWS[1] + 0.1))}),
    "learned numbers": (wells, X, {"step_size": torch.full((18,), 0.01, requires_grad=True), "noise_std": 0.1}),
    "a mask": (wells, X, {"eps": 0.1, "mask": torch.tensor([True, False, True])}),
    "a mask of rows": (wells, X, {"eps": 0.1, "mask": ROWS, "correct": "mala"}),
    "float64": (wells, X.double(), {"eps": 0.1, "correct": "mala"}),
    "many starts": (wells, [X / (i + 1) for i in range(4)], {"eps": 0.1}),
    "one chain each": (wells, X[:1], {"eps": 0.2, "correct": "mala"}),
    "blocks": (
        pair,
        (X, X[:, :2]),
        {"eps": (0.2, 0.1), "leapfrog_steps": 2, "mask": (None, ROWS[:, :2]), "reflect": (None, (-2, 2))},
    ),
    "blocks in turn": (pair, (X, X[:, :2]), {"eps": (0.2, 0.0), "blocks": "sequential"}),
    "many starts of blocks": (
        pair,
        [(X, X[:, :2] - i / 4) for i in range(4)],
        {"step_size": (0.03, 0.01), "noise_std": (0.0, None)},
    ),
    "a gradient given": (quadratic, X, {"eps": 0.1, "grad_fn": lambda x: 2 * x * torch.linspace(0.5, 2, 3)}),
    "shared arguments": (
        lambda x, at, by: wells(x - at) * by["scale"],
        X,
        {"eps": 0.1, "energy_kwargs": {"at": torch.full((3,), 0.1), "by": {"scale": torch.tensor(0.5)}}},
    ),
    "the reference": (DoubleWell(), X, {"eps": 0.1, "backend": "reference"}),
    "the plain loop": (wells, X, {"eps": 0.1, "compile": "off"}),
}


@pytest.mark.parametrize(("energy", "x", "law"), ALIKE.values(), ids=ALIKE)
def test_one_chain_has_the_bits_of_a_chain_for_each(run, energy, x, law):
    count, one = run(energy, x, **law)
    assert count == (1 if len(x) else len(LADDER))
    count, each = run(energy, x, allows=apart, **law)
    assert count == len(LADDER)
    assert_same(one, each)
    shares = one[-1]
    assert 0 < shares.nanmean() <= 1 or shares.shape[1] == 0
    cold = one[0] if isinstance(one[0], tuple) else (one[0],)
    assert all(block.untyped_storage().nbytes() == block.nbytes for block in cold)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(0.5), nn.Linear(16, 1))


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(512, 1)
    )


@pytest.mark.parametrize(("made", "d"), [(network, 3), (convolutions, 64)])
def test_one_chain_is_a_chain_for_each_to_the_rounding_of_a_network(run, made, d):
    x = torch.randn(N, d, generator=torch.Generator().manual_seed(2))
    (one, got), (each, want) = run(made(), x, eps=0.1), run(made(), x, eps=0.1, allows=apart)
    assert (one, each) == (1, len(LADDER))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


LABELS = torch.linspace(-1, 1, len(LADDER) * N)[:, None]


def told(x, at):
    return wells(x - at)


class Kept:
    """Its rows are those of the first chains, however many come."""

    def __call__(self, x):
        return wells(x - LABELS[: len(x)])


APART = {
    "a row for each chain": (told, {"energy_kwargs": {"at": LABELS[:N]}}),
    "rows further in": (lambda x, by: told(x, by["at"][0]), {"energy_kwargs": {"by": {"at": [LABELS[:N]]}}}),
    "a list for each chain": (lambda x, at: told(x, torch.tensor(at)[:, None]), {"energy_kwargs": {"at": [0.1] * N}}),
    "arguments of the step": (told, {"energy_kwargs": lambda t: {"at": 0.01 * t}}),
    "a closure of rows": (lambda x: told(x, LABELS[:N]), {}),
    "a partial of rows": (functools.partial(told, at=LABELS[:N]), {}),
    "rows by their place": (Kept(), {}),
    "a gradient of rows": (wells, {"grad_fn": lambda x: x - LABELS[:N]}),
    "a gradient by place": (wells, {"grad_fn": lambda x: x - LABELS[: len(x)]}),
    "a callable law": (wells, {"eps": lambda t: 0.1}),
    "a callable law of a block": (lambda x: wells(x), {"eps": (lambda t: 0.1,)}),
    "statistics of the batch": (network(), {"mode": "train"}),
    "statistics kept": (network(), {"mode": "keep"}),
}


@pytest.mark.parametrize(("energy", "law"), APART.values(), ids=APART)
def test_what_needs_a_chain_for_each(run, energy, law):
    law, seeded = {"eps": 0.1} | law, lambda allows: (torch.manual_seed(3), run(energy, allows=allows, **law))[1]
    count, got = seeded(None)
    assert count == len(LADDER)
    assert_same(got, seeded(apart)[1])


@pytest.mark.parametrize("at", [LABELS[:N], [[LABELS[:N]]], [0.1] * N, [0.1, {"rows": DRAWS[0]}]], ids=range(4))
def test_rows_in_arguments_need_no_look(at):
    seen = []
    call = {"temperatures": LADDER, "eps": 0.1, "seed": 0, "energy_kwargs": {"at": at}}
    hatebm.tempering(lambda x, at: seen.append(len(x)) or wells(x), X, 2, **call)
    assert seen == [N] * 2 * len(LADDER)


def test_one_temperature_needs_no_look():
    seen = []
    hatebm.tempering(lambda x: seen.append(len(x)) or wells(x), X, 2, temperatures=[1], eps=0.1, seed=0, compile="off")
    assert seen == [N, N]


@pytest.mark.parametrize(("odd", "error"), [(X.to_sparse(), "x must be a dense tensor"), (None, "x must be a tensor")])
def test_a_start_that_is_no_state_is_named(odd, error):
    with pytest.raises(TypeError, match=f"^tempering: {error}"):
        hatebm.tempering(wells, [X, odd], 3, temperatures=(1, 2), eps=0.1, seed=0)


def test_a_start_may_be_a_block_alone(run):
    assert run(wells, [X, (X,), X, X], steps=3, eps=0.1)[0] == len(LADDER)


def test_an_energy_of_the_batch_runs_without_exchanges(run):
    assert run(lambda x: x.square().sum(), steps=3, eps=0.1)[0] == len(LADDER)


def test_modules_that_do_not_train_are_kept_in_one_chain(run):
    assert run(network().eval(), mode="keep", eps=0.1)[0] == 1


def test_a_batch_beyond_the_caches_is_left_in_parts(run):
    x = torch.zeros(N, 3000)
    assert run(wells, x, steps=1, eps=0.1)[0] == len(LADDER)
    assert run(wells, x[:, :2000], steps=1, eps=0.1)[0] == 1
    assert run(DoubleWell(), x, steps=1, eps=0.1)[0] == 1
    perceptron = nn.Sequential(nn.Linear(3000, 2), nn.SiLU(), nn.Linear(2, 1))
    assert run(perceptron, x, steps=1, eps=0.1)[0] == 1


def test_one_look_and_no_trace():
    net, seen = network(), []
    net.register_forward_hook(lambda m, i, o: seen.append((len(o), m.training, o.requires_grad)))
    before, states = torch.get_rng_state(), [v.clone() for v in net.state_dict().values()]
    x = X.clone().requires_grad_()
    hatebm.tempering(net, x, 6, temperatures=LADDER, swap_every=3, eps=0.1, seed=0, compile="off")
    rows = len(LADDER) * N
    step, look = (rows, False, True), (rows, False, False)
    assert seen == [look, step, step, step, look, step, step, step]
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(map(torch.equal, states, net.state_dict().values()))
    assert torch.equal(before, torch.get_rng_state())
    assert x.grad is None


def test_a_look_that_fails_leaves_no_trace(run):
    net = network()
    count, _ = run(lambda x: net(x)[:, 0] + LABELS[:N, 0], eps=0.1)
    assert count == len(LADDER)
    assert all(part.training for part in net.modules())
    with pytest.raises(ZeroDivisionError):
        run(lambda x: net(x)[:, 0] / (1 // 0), eps=0.1)
    assert all(part.training for part in net.modules())


def test_the_first_to_break_are_reported_of_all_replicas():
    def cliff(x):
        return torch.where(x > 1, math.nan, -x).sum(1)

    starts = [torch.full((2, 1), -9.0), torch.tensor([[-9.0], [0.5]]), torch.tensor([[0.75], [-9.0]])]
    law = {"temperatures": (1, 2, 4), "step_size": 0.2, "noise_std": 0.0, "seed": 0}
    with pytest.raises(hatebm.ChainDiverged) as caught:
        hatebm.tempering(cliff, starts, 9, **law)
    assert (caught.value.step, caught.value.chains) == (2, [2 * 2**32])


def test_a_schedule_is_measured_by_the_whole_run():
    shown, call = [], {"temperatures": LADDER, "swap_every": 3, "seed": 0, "callback": lambda t, x: shown.append(t)}
    with pytest.raises(ValueError, match="eps must be a schedule of at least 9 entries"):
        hatebm.tempering(wells, X, 9, eps=[0.1] * 8, **call)
    with pytest.raises(ValueError, match=r"eps must be hatebm.per_chain"):
        hatebm.tempering(wells, X, N - 1, eps=torch.full((N,), 0.1), **call)
    assert shown == []
    got = hatebm.tempering(wells, X, N, eps=torch.full((N,), 0.1), **call)
    assert torch.equal(got, hatebm.tempering(wells, X, N, eps=[float(torch.tensor(0.1))] * N, **call))


def test_the_law_of_all_rows_holds_the_numbers_of_each():
    law = hatebm.Dynamics(step_size=[0.01, 0.03], noise_std=PER(DRAWS[0]), prior_precision=PER(DRAWS[:2]))
    laws = heated(law, list(LADDER))
    whole = as_one(laws, N)
    heat = math.sqrt(LADDER[-1] / LADDER[0])
    assert torch.equal(laws[-1].noise_std.tensor, DRAWS[0].double() * heat)
    for t in (0, 1):
        for name in ("step_size", "noise_std", "temperature", "prior_precision"):
            rows = getattr(whole, name).at(t).view(len(LADDER), N)
            for row, alone in zip(rows, laws, strict=True):
                value = getattr(alone, name)
                number = (
                    value.at(t) if isinstance(value, type(PER([1]))) else value[t] if isinstance(value, list) else value
                )
                assert torch.equal(row, torch.as_tensor(number, dtype=row.dtype).expand(N))
