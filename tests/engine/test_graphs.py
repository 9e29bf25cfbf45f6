"""CUDA graphs without a GPU: which chains may have one, the step that would be captured, and what makes one stale."""

import math

import pytest
import torch
from torch import nn

import hatebm
from hatebm.commands import info
from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.facts import Gathering
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.law import Dynamics
from hatebm.dynamics.laws import Laws
from hatebm.dynamics.noise import Noise
from hatebm.dynamics.region import Region
from hatebm.dynamics.transitions import checked_form, transition_of
from hatebm.engine.graphs.refusals import alike, unfit
from hatebm.engine.graphs.replay_check import agrees
from hatebm.engine.graphs.static_buffers import Run, StaticBuffers
from hatebm.engine.graphs.static_step import Step
from hatebm.ops.native.chains import NEVER

N, D = 6, 5
LAWS = {
    "plain": {},
    "norm clip, box": {"clip": ("norm", 0.5), "clamp": (-1, 1)},
    "noise before": {"noise_at": "before", "clamp": (-1, 1), "clamp_at": "noise+step"},
    "reflect": {"reflect": (-0.5, 0.5)},
    "prior, temperature": {"prior_precision": 0.5, "temperature": 0.3, "add": "fma"},
    "levels": {"eps": [0.3] * 7 + [0.1] * 18},
    "final box": {"clamp": (-0.1, 0.1), "clamp_at": "final"},
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(D, 3)

    def forward(self, x):
        return torch.tanh(self.inner(x)).sum(1)


def well(x):
    return (x**4).sum(1)


def parts(energy=well, masks=(None,), seed=3, ids=None, noise=None, backend=None, kwargs=None, n=N, **law):
    laws = Laws(Dynamics(**{"eps": 0.1} | law), [torch.zeros(n, D)] * len(masks))
    blocks = Blocks(laws, Region(laws, list(masks), [None] * len(masks)), Noise(noise, seed, ids), backend)
    return blocks, Potential(energy, None, kwargs, list(masks))


def run_of(blocks, potential, state, watch, correct=None, told=False):
    form = checked_form("langevin", correct, None, blocks.laws.each, potential.energy)
    return Run(form, blocks, state, transition_of(form, blocks, potential, watch, []), watch, Gathering(1, told))


def taken(blocks, potential, state, t, n_steps, watch):
    run = run_of(blocks, potential, state, watch)
    buffers = StaticBuffers(run, potential, t)
    buffers.load(run, potential, t, n_steps)
    step = Step(buffers, run, potential, t)
    for _ in range(n_steps):
        step()
    buffers.unload(run, t, n_steps, False)
    return buffers


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
def test_the_recorded_step_has_the_bits_of_the_loop(law, masked):
    torch.manual_seed(0)
    x, energy, ids = torch.randn(N, D) / 4, Net().eval(), torch.arange(N) + 2**33
    mask = torch.rand(N, D) > 0.5 if masked else None
    chain = hatebm.Chain(
        energy, x, seed=-5, chain_ids=ids, first_step=7, mask=mask, compile="off", **{"eps": 0.1} | law
    )
    chain.run(9)
    blocks, potential = parts(energy, (mask,), -5, ids, **law)
    blocks.region.held, state = [x], [x.clone()]
    buffers = taken(blocks, potential, state, 7, 9, Watch(N, x.device))
    assert torch.equal(state[0], chain.state)
    assert int(buffers.step) == 16
    assert int(buffers.seed) == -5
    chain.run(9)  # the same buffers serve a later run
    run = run_of(blocks, potential, state, Watch(N, x.device))
    buffers.load(run, potential, 16, 9)
    step = Step(buffers, run, potential, 16)
    for _ in range(9):
        step()
    assert torch.equal(buffers.state[0], chain.state)


@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_blocks_and_one_that_is_frozen(order):
    torch.manual_seed(0)
    x, y, z = torch.randn(N, 2), torch.randn(N, 3), torch.randn(N, 4)
    energy = lambda x, y, z: (x.sum(1) * y.sum(1) * z.sum(1)).square()  # noqa: E731
    law = {"eps": (0.1, 0.2, 0.0), "blocks": order}
    want = hatebm.langevin(energy, (x, y, z), 8, seed=1, **law)
    blocks, potential = parts(energy, (None,) * 3, 1, **law)
    state = [x.clone(), y.clone(), z.clone()]
    taken(blocks, potential, state, 0, 8, Watch(N, x.device))
    assert all(torch.equal(a, b) for a, b in zip(state, want, strict=True))


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", ["energy", "gradient", "total"])
def test_the_first_bad_step_of_each_chain_is_marked(kind, double):
    """A chain climbs by 0.1 a step; once above 1 its energy is NaN, or its gradient infinite."""

    def energy(x):
        x = (x.double() if double else x)[:, 0]
        if kind == "gradient":
            return -x + 0 * (x > 1) * (x - x.detach()).abs().sqrt()
        each = torch.where(x > 1, math.nan, -x)
        return each.sum() if kind == "total" else each

    x = torch.tensor([[0.05], [0.55], [-5.0]])
    blocks, potential = parts(energy, n=3, noise_std=0.0, eps=None, step_size=0.1)
    state, watch = [x.clone()], Watch(3, x.device)
    taken(blocks, potential, state, 4, 20, watch)
    if kind == "gradient":
        assert watch.first.tolist() == [4, 4, 4]  # the square root's slope at 0, for all
    elif kind == "total":
        assert watch.first.tolist() == [9, 9, 9]
    else:
        assert watch.first.tolist() == [14, 9, NEVER]
    silent = Watch(3, x.device, wanted=False)
    assert taken(blocks, potential, state, 4, 2, silent).first is None
    assert silent.first is None


def reason(x=None, **how):
    return unfit(*parts(**how), [torch.randn(N, D) if x is None else x])


def hooked():
    module = Net()
    module.inner.register_forward_hook(lambda *_: None)
    return module


NET, HOOKED, COMPILED = Net(), hooked(), torch.compile(nn.Linear(D, 1), backend="eager")
UNFIT = {
    "noise": ({"noise": lambda t: torch.zeros(N, D)}, "noise is given"),
    "no chains": ({"x": torch.zeros(0, D)}, "no chains"),
    "float64": ({"x": torch.zeros(N, D, dtype=torch.float64)}, "reference"),
    "reference": ({"backend": "reference"}, "reference"),
    "hooks": ({"energy": HOOKED}, "hooks"),
    "hooks behind a function": ({"energy": lambda x: HOOKED(x)}, "hooks"),
    "compiled": ({"energy": COMPILED}, "compiled"),
    "elsewhere": ({"energy": nn.Linear(D, 1, device="meta")}, "several devices"),
}


@pytest.mark.parametrize(("how", "why"), UNFIT.values(), ids=UNFIT)
def test_who_cannot_have_a_graph_is_told_why(how, why):
    assert why in reason(**how)


def test_who_may_have_one():
    assert [reason(energy=e) for e in (well, NET, lambda x: NET(x), NET.forward)] == [None] * 4
    assert reason(kwargs={"a": 1}) is None
    assert reason(eps=[0.1, 0.2]) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in reason()


def test_a_schedule_is_cut_where_other_blocks_move():
    assert alike(parts(eps=[0.1] * 5 + [0.2] * 9)[0].laws, 0, 14) == 14
    assert alike(parts(eps=[0.1] * 5 + [0.0] * 9)[0].laws, 0, 14) == 5
    assert alike(parts(eps=lambda t: 0.1 * (t % 4 > 0))[0].laws, 1, 14) == 3
    assert alike(parts(eps=hatebm.per_chain(torch.zeros(9, N)))[0].laws, 0, 9) == 9
    assert alike(parts()[0].laws, 0, 10**9) == 10**9


def test_a_chain_on_the_cpu_speaks_of_no_graph():
    chain = hatebm.Chain(well, torch.randn(N, D), eps=0.1, seed=0)
    chain.run(20)
    assert "graph" not in chain.report()


def test_a_replay_is_compared_with_the_step():
    x = torch.randn(N, D)
    blocks, potential = parts()
    run = run_of(blocks, potential, [x], Watch(N, x.device))
    buffers = StaticBuffers(run, potential, 0)
    buffers.load(run, potential, 0, 2)
    step = Step(buffers, run, potential, 0)
    assert agrees(buffers, step, step)
    assert int(buffers.step) == 1
    here = buffers.state[0].clone()
    want = hatebm.langevin(well, here, 1, eps=0.1, seed=3, first_step=1)
    assert not agrees(buffers, step, lambda: None)
    assert torch.equal(buffers.state[0], want)  # of the step, whatever the replay did


@pytest.mark.parametrize("name", ["energies", "grad", "displacement"])
def test_what_a_replay_hands_on_and_tells_is_compared_too(name):
    blocks, potential = parts()
    run = run_of(blocks, potential, [torch.randn(N, D)], Watch(N, torch.device("cpu")), "mala", told=True)
    run.transition.arrive(0, run.state, [0])
    buffers = StaticBuffers(run, potential, 0)
    buffers.load(run, potential, 0, 2)
    step = Step(buffers, run, potential, 0, tells=True)
    step()

    def replay():
        step()
        (buffers.told[name][1] if name in buffers.told else buffers.handed[name, 0]).mul_(1.01)

    assert agrees(buffers, step, step)
    assert not agrees(buffers, step, replay)


def test_info_tells_whether_there_are_graphs():
    line = next(line for line in info.report().splitlines() if line.startswith("CUDA graphs"))
    assert line.split()[2] in ("yes", "no:")
    assert ("no CUDA device" in line) != torch.cuda.is_available()


OTHER = {
    "list": {"eps": [9.0, 0.1, 0.2, 0.0, 0.3, 0.1]},
    "function": {"eps": lambda t: 0.1 * t, "temperature": 0.5},
    "each chain's": {"eps": hatebm.per_chain(torch.linspace(0.0, 0.4, N))},
    "each step's and chain's": {
        "step_size": 0.01,
        "noise_std": hatebm.per_chain(torch.linspace(-0.1, 0.4, 6 * N).clamp(min=0).view(6, N)),
        "prior_precision": hatebm.per_chain(torch.arange(N) % 2.0),
        "clip": ("norm", hatebm.per_chain(torch.linspace(0.1, 2, N))),
        "eps": None,
    },
    "noise before": {
        "eps": hatebm.per_chain(torch.arange(6 * N).view(6, N) % 3 / 9.0),
        "noise_at": "before",
        "clamp": (-1, 1),
        "clamp_at": "noise+step",
    },
    "learned": {"eps": torch.tensor(0.2, requires_grad=True)},
    "learned, with rests": {"eps": torch.tensor([0.3, 0.0, 0.2, 0.0, 0.1, 0.2], requires_grad=True), "clamp": (-1, 1)},
}


@pytest.mark.parametrize("law", OTHER.values(), ids=OTHER)
def test_a_graph_reads_the_numbers_of_every_step(law):
    torch.manual_seed(0)
    x = torch.randn(N, D)
    blocks, potential = parts(**law)
    state = [x.clone()]
    taken(blocks, potential, state, 1, 5, Watch(N, x.device))
    law = {name: value for name, value in ({"eps": 0.1} | law).items() if value is not None}
    assert torch.equal(state[0], hatebm.langevin(well, x, 5, seed=3, first_step=1, compile="off", **law))


def test_other_numbers_of_the_same_kind_need_no_other_graph():
    """What is captured reads a table, whatever the law's numbers were when it was."""
    torch.manual_seed(0)
    x, each = torch.randn(N, D), [hatebm.per_chain(torch.rand(N)) for _ in range(2)]
    for one, other in (({"eps": 0.1}, {"eps": 0.3}), ({"temperature": each[0]}, {"temperature": each[1]})):
        blocks, potential = parts(**one)
        silent = Watch(N, x.device, wanted=False)
        run = run_of(blocks, potential, [x], silent)
        buffers = StaticBuffers(run, potential, 0)
        buffers.load(run, potential, 0, 3)
        step = Step(buffers, run, potential, 0)
        step()
        blocks, potential = parts(**other)
        buffers.load(run_of(blocks, potential, [x], silent), potential, 0, 3)
        for _ in range(3):
            step()
        want = hatebm.langevin(well, x, 3, seed=3, compile="off", **{"eps": 0.1} | other)
        assert torch.equal(buffers.state[0], want)
