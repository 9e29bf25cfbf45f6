"""Numbers of a law for each chain: chain c of a batch is chain c alone with that number, whatever it runs on."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import quadratic
from torch import nn

import hatebm
from hatebm import energies

N, D, STEPS = 7, 6, 5
IDS = torch.arange(N) * 3 + 2**33


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread(low, high, steps=None, zeros=0):
    """Numbers from low to high, of each chain or of each step and chain, ``zeros`` of every five of them 0."""
    values = torch.linspace(low, high, N * (steps or 1), dtype=torch.float64).view(*([steps] if steps else []), N)
    return hatebm.per_chain(torch.where(torch.arange(values.numel()).view_as(values) % 5 < zeros, 0, values))


LAWS = {
    "step_size": {"step_size": spread(0.01, 0.3)},
    "step_size in float32": {"step_size": hatebm.per_chain(torch.linspace(0.01, 0.3, N))},
    "negative steps": {"step_size": spread(-0.02, 0.1), "noise_std": 0.1},
    "noise_std": {"step_size": 0.1, "noise_std": spread(0.1, 0.9, zeros=2), "add": "increment"},
    "eps": {"eps": spread(0.1, 0.5, STEPS), "add": "fma"},
    "eps with zeros": {"eps": spread(0.1, 0.5, STEPS, zeros=2), "clamp": (-0.5, 0.5)},
    "temperature": {"eps": 0.3, "temperature": spread(0.2, 9.0)},
    "all": {
        "step_size": spread(0.01, 0.3, STEPS, zeros=1),
        "noise_std": spread(0.3, 0.1, zeros=2),
        "temperature": spread(2.0, 0.3, STEPS),
        "prior_precision": spread(-0.5, 0.5, zeros=3),
        "clip": ("norm", spread(0.1, 3.0)),
        "clamp": (-1.0, 1.5),
    },
    "prior_precision": {"eps": [0.3, 0.2, 0.1, 0.2, 0.3], "prior_precision": spread(0.1, 2.0, STEPS, zeros=1)},
    "value": {"eps": lambda t: 0.1 * (t + 1), "clip": ("value", spread(0.1, 3.0))},
    "value of the update": {"eps": 0.3, "clip": ("value", spread(0.01, 0.2, STEPS)), "clip_on": "update"},
    "norm of the update": {"eps": spread(0.2, 0.4), "clip": ("norm", spread(0.01, 0.2)), "clip_on": "update"},
    "a bound that never binds": {"eps": 0.3, "clip": ("norm", hatebm.per_chain([0.1, math.inf] * 3 + [0.2]))},
    "noise first": {"step_size": 0.1, "noise_std": spread(0.1, 0.9, zeros=1), "noise_at": "before"},
    "noise first, walls": {
        "step_size": spread(0.1, 0.2, STEPS, zeros=2),
        "noise_std": spread(0.1, 0.3, STEPS, zeros=2),
        "noise_at": "before",
        "clamp": (-0.4, 0.4),
        "clamp_at": "noise+step",
    },
    "walls that reflect": {"eps": spread(0.1, 0.9, zeros=1), "reflect": (-0.5, 0.5)},
    "final box": {"eps": spread(0.1, 0.4, zeros=1), "clamp": (-0.5, 0.5), "clamp_at": "final"},
}


def alone(c):
    """The law of chain c, in floats and schedules; of what knows no schedule, in numbers of one chain."""

    def of_one(value, scheduled):
        if isinstance(value, tuple):
            return tuple(of_one(entry, scheduled) for entry in value)
        if not hasattr(value, "each"):
            return value
        own = value.tensor[..., c].tolist()
        return own if scheduled or isinstance(own, float) else value.of_chains(slice(c, c + 1))

    return lambda law: {name: of_one(v, name not in ("prior_precision", "clip")) for name, v in law.items()}


def assert_alone(energy, x, law, steps=STEPS, **how):
    """Every chain of a batch has the bits, and the facts, that it has alone."""
    together, told = hatebm.Chain(energy, x, **law, seed=3, chain_ids=IDS, **how).run(steps, return_info=True)
    run = hatebm.Chain(energy, x, **law, seed=3, chain_ids=IDS, **how).run(steps)
    assert torch.equal(run.view(torch.int32), together.view(torch.int32))  # whole runs, and steps one by one
    for c in range(len(x)):
        one = hatebm.Chain(energy, x[c : c + 1], **alone(c)(law), seed=3, chain_ids=IDS[c : c + 1], **how)
        state, facts = one.run(steps, return_info=True)
        assert torch.equal(state[0].view(torch.int32), together[c].view(torch.int32)), f"chain {c}"
        for name in facts.keys() - {"step"}:
            assert torch.equal(facts[name][:, 0], told[name][:, c]), f"{name} of chain {c}"


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_chain_is_the_chain_alone_with_its_number(law, backend):
    assert_alone(quadratic, drawn(N, D), law, backend=backend)


WHOLE = {
    "Gaussian": lambda: energies.Gaussian(torch.zeros(D), torch.linspace(0.5, 2, D)),
    "full Gaussian": lambda: energies.Gaussian(torch.zeros(D), torch.eye(D) + 0.1),
    "Mixture": lambda: energies.Mixture(drawn(3, D, seed=2), 0.7),
    "DoubleWell": energies.DoubleWell,
    "Funnel": energies.Funnel,
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("kind", WHOLE)
def test_so_it_is_in_one_kernel(kind, law):
    energy = WHOLE[kind]()
    chain = hatebm.Chain(energy, drawn(N, D), **law, seed=3)
    chain.run(STEPS)
    assert f"{STEPS} of them in one kernel" in chain.report()
    assert_alone(energy, drawn(N, D), law)


@pytest.mark.parametrize("law", [LAWS[name] for name in ("step_size", "all", "noise first, walls", "value")])
def test_so_it_is_in_a_perceptron(law):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, 9), nn.SiLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 1), nn.Flatten(0))
    assert_alone(net, drawn(N, D), law)


def test_the_double_of_float32_is_no_other_number():
    """Numbers are computed in float64, as Python's are: what is derived from one is rounded once."""
    each = torch.rand(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for law in ({"eps": each}, {"step_size": each}, {"eps": 0.1 * torch.ones(N), "temperature": each}):
        assert_alone(quadratic, drawn(N, D), {name: hatebm.per_chain(value) for name, value in law.items()})
    x, law = drawn(N, D).double(), {"step_size": hatebm.per_chain(each)}
    together = hatebm.langevin(quadratic, x, 3, **law, seed=0)
    for c in range(N):
        one = hatebm.langevin(quadratic, x[c : c + 1], 3, step_size=each[c].item(), seed=0, chain_ids=[c])
        assert torch.equal(one[0], together[c])


MOVES = {
    "mala": {"correct": "mala"},
    "hmc": {"leapfrog_steps": 3},
    "friction": {},
    "friction, walls": {},
}
OF_MOVES = {
    "eps": {"eps": spread(0.1, 0.5)},
    "temperature": {"eps": 0.3, "temperature": spread(0.2, 9.0, STEPS)},
    "prior, clip": {
        "step_size": spread(0.01, 0.1),
        "noise_std": spread(0.2, 0.4, STEPS),
        "prior_precision": spread(0.1, 1.0, zeros=2),
        "clip": ("norm", spread(0.5, 3.0)),
    },
    "some without a prior": {"eps": 0.2, "temperature": 0.7, "prior_precision": spread(0.1, 1.0, zeros=2)},
    "clip of the update": {"eps": spread(0.1, 0.5), "clip": ("value", spread(0.01, 0.2)), "clip_on": "update"},
}


@pytest.mark.parametrize("law", OF_MOVES.values(), ids=OF_MOVES)
@pytest.mark.parametrize("move", MOVES)
def test_so_it_is_with_proposals_and_velocities(move, law):
    law = law | ({"friction": 2.0} if "friction" in move else {}) | ({"reflect": (-1, 1)} if "walls" in move else {})
    assert_alone(quadratic, drawn(N, D), law, **MOVES[move])


def test_blocks_have_numbers_of_their_own():
    energy = lambda z, y: quadratic(z) + quadratic(y) + z.sum(1) * y.sum(1)  # noqa: E731
    law = {"eps": (spread(0.1, 0.3), 0.2), "temperature": (1.0, spread(0.5, 2.0, STEPS)), "blocks": "sequential"}
    law |= {"clip": (None, ("value", spread(0.1, 0.5))), "prior_precision": (spread(0.0, 0.5), 0.1)}
    z, y = drawn(N, 3), drawn(N, 4)
    together = hatebm.langevin(energy, (z, y), STEPS, **law, seed=0)
    for c in range(N):
        here = (z[c : c + 1], y[c : c + 1])
        one = hatebm.langevin(energy, here, STEPS, **alone(c)(law), seed=0, chain_ids=[c])
        assert all(torch.equal(a[0], b[c]) for a, b in zip(one, together, strict=True))


@pytest.mark.parametrize("how", [{}, {"correct": "mala"}])
def test_a_block_of_floats_stays_beside_one_of_tensors(how):
    """One that is frozen, at all steps or at some, by a float, a list or a function."""
    energy = lambda z, y: quadratic(z) + quadratic(y) + z.sum(1) * y.sum(1)  # noqa: E731
    z, y = drawn(N, 3), drawn(N, 4)
    for still in (0.0, [0.2, 0.0, 0.2, 0.0, 0.2], lambda t: 0.2 * (t % 2)):
        together = hatebm.langevin(energy, (z, y), STEPS, eps=(spread(0.1, 0.3), still), seed=0, **how)
        for c in range(N):
            here, law = (z[c : c + 1], y[c : c + 1]), alone(c)({"eps": (spread(0.1, 0.3), still)})
            one = hatebm.langevin(energy, here, STEPS, **law, seed=0, chain_ids=[c], **how)
            assert all(torch.equal(a[0], b[c]) for a, b in zip(one, together, strict=True))


def test_a_part_of_the_chains_takes_a_part_of_the_law():
    """A batch in two halves is the batch, with the law of each half's chains."""
    law, x = hatebm.Dynamics(**LAWS["all"]), drawn(N, D)
    whole = hatebm.langevin(quadratic, x, STEPS, dynamics=law, seed=0)
    for rows in (slice(0, 3), slice(3, N), torch.tensor([5, 1])):
        ids = torch.arange(N)[rows]
        part = hatebm.langevin(quadratic, x[rows], STEPS, dynamics=law.for_chains(rows), seed=0, chain_ids=ids)
        assert torch.equal(part, whole[rows])


def test_a_restart_goes_on_at_its_step():
    law, x = LAWS["all"], drawn(N, D)
    chain = hatebm.Chain(quadratic, x, **law, seed=0)
    chain.run(2)
    saved = chain.state_dict()
    want = chain.run(3)
    other = hatebm.Chain(quadratic, torch.zeros(N, D), **law, seed=9)
    other.load_state_dict(saved)
    assert torch.equal(other.run(3), want)


def test_a_chain_that_rests_is_not_looked_at():
    """Its energy may be what it likes: it goes nowhere, and nobody reports it."""
    x = drawn(N, D)
    x[2, 0] = -500.0  # where the throat of a funnel is so narrow that its energy is infinite
    steep = lambda x: quadratic(x) + (-x[:, 0]).exp()  # noqa: E731
    for energy, compile in itertools.product((energies.Funnel(), steep), ("auto", "off")):
        eps = [0.01, 0.01, 0.0, 0.01, 0.01, 0.01, 0.01]
        chain = hatebm.Chain(energy, x, eps=hatebm.per_chain(eps), compile=compile)
        assert torch.equal(chain.run(3)[2], x[2])
        chain = hatebm.Chain(energy, x, eps=hatebm.per_chain([0.01] * N), compile=compile)
        with pytest.raises(hatebm.ChainDiverged) as error:
            chain.run(3)
        assert error.value.chains == [2]


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_numbers_of_any_chains(data):
    n, d, steps = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    number = lambda low, high: st.floats(low, high, width=32)  # noqa: E731

    def each(low, high):
        rows = data.draw(st.sampled_from([(n,), (steps, n)]))
        values = data.draw(st.lists(number(low, high), min_size=math.prod(rows), max_size=math.prod(rows)))
        return hatebm.per_chain(torch.tensor(values).view(rows))

    law = {"step_size": each(0.0, 0.5), "noise_std": each(0.0, 1.0), "temperature": each(0.125, 8.0)}
    law |= {"prior_precision": each(-1.0, 1.0), "add": data.draw(st.sampled_from(["sequential", "increment", "fma"]))}
    law |= {"clip": (data.draw(st.sampled_from(["value", "norm"])), each(0.0625, 4.0)), "clamp": (-2, 2)}
    law |= {"clip_on": data.draw(st.sampled_from(["grad", "update"]))}
    energy = data.draw(st.sampled_from([quadratic, energies.DoubleWell()]))
    x = drawn(n, d, seed=data.draw(st.integers(0, 99)))
    together = hatebm.langevin(energy, x, steps, **law, seed=0)
    c = data.draw(st.integers(0, n - 1))
    one = hatebm.langevin(energy, x[c : c + 1], steps, **alone(c)(law), seed=0, chain_ids=[c])
    assert torch.equal(one[0].view(torch.int32), together[c].view(torch.int32))
