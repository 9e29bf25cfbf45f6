"""What replays do, on tapes in place of CUDA graphs: the bits of the loop, and nothing stale."""

import math
import warnings

import pytest
import torch
from graph_forms import (
    CORRECTED,
    FORMS,
    TOLD,
    D,
    E,
    Generator,
    N,
    Net,
    Parts,
    Z,
    assert_same_run,
    assert_same_told,
    chains,
    drawn,
    two_blocks,
)
from tape import Tape, recorder  # noqa: F401 (a fixture)
from torch import nn

import hatebm

pytestmark = pytest.mark.usefixtures("recorder")


@pytest.mark.parametrize("law", FORMS.values(), ids=FORMS)
def test_every_form_of_two_blocks_behind_a_mask(law, recorder):  # noqa: F811
    state, mask = two_blocks()
    pair = chains(Net(D + E), state, first_step=2, mask=mask, chain_ids=torch.arange(N) + 2**33, **law)
    assert assert_same_run(pair) == "CUDA graph: 17 steps replayed"
    assert assert_same_run(pair) == "CUDA graph: 20 steps replayed"
    assert recorder.captured_steps == 1


def test_what_a_step_hands_on_is_evaluated_once():
    """As many evaluations as a chain makes that goes step by step, but for the three that a capture takes again."""
    calls = []

    class Called(Net):
        def forward(self, x):
            calls.append(1)
            return super().forward(x)

    for how in ({"correct": "mala"}, {"leapfrog_steps": 2}, {"friction": 1.0}):
        (chain, _), counts = chains(Called(), drawn(1, N, D), **how), []
        for _ in range(2):
            calls.clear()
            chain.run(20)
            counts.append(len(calls))
        looks = how.get("leapfrog_steps", 1)
        assert counts == [1 + 4 * looks, 1]  # the look at the start; steps, the capture and its comparison


@pytest.mark.filterwarnings("ignore:langevin. proposals with a NaN")
@pytest.mark.parametrize("how", CORRECTED.values(), ids=CORRECTED)
def test_a_nan_in_a_proposal_is_refused_and_one_where_a_chain_is_is_named(how):
    """Chain 2 is shut in: beyond 0.1 its energy is NaN, and later everywhere."""

    class Shut(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("wall", torch.tensor(0.1))

        def forward(self, x):
            here = torch.arange(len(x)) == 2
            return torch.where(here & (x[:, 0].abs() > self.wall), torch.nan, x.square().sum(1) / 2)

    net, x = Shut(), torch.zeros(N, D)
    pair = chains(net, x, eps=0.5, **how)
    for chain in pair:
        with pytest.warns(UserWarning, match="NaN"):
            chain.run(20)
    assert torch.equal(pair[0].state, pair[1].state)
    assert (pair[0].state[2, 0] == 0) == (pair[1].state[2, 0] == 0)
    net.wall.fill_(math.inf)  # what was refused is not said again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chain in pair:
            chain.run(5)
    net.wall.fill_(-1.0)
    for chain in pair:
        with pytest.raises(hatebm.ChainDiverged) as caught:
            chain.run(20)
        assert (caught.value.step, caught.value.chains) == (25, [2])


@pytest.mark.parametrize("how", CORRECTED.values(), ids=CORRECTED)
def test_a_schedule_that_leaves_nothing_to_propose_with_is_refused(how):
    law = {"eps": None, "step_size": 0.1, "noise_std": [0.2] * 20 + [0.0] * 20}
    for chain in chains(Net(), drawn(1, N, D), **law, **how):
        with pytest.raises(ValueError, match="noise_std must be > 0"):
            chain.run(30)


def test_velocities_that_diverge_are_named_with_their_step():
    energy = lambda x: torch.where(x[:, 0] > 2, torch.nan, -x[:, 0])  # noqa: E731
    x = torch.full((N, D), -500.0)
    x[3] = 0
    told = []
    for chain in chains(energy, x, friction=0.1, eps=0.2):
        with pytest.raises(hatebm.ChainDiverged) as caught:
            chain.run(40)
        told.append((caught.value.step, caught.value.chains))
    assert told[0] == told[1]
    assert told[0][0] > 3


@pytest.mark.parametrize("how", [{}, *CORRECTED.values()], ids=["plain", *CORRECTED])
def test_arguments_are_read_anew_by_a_kept_graph(how, recorder):  # noqa: F811
    net, x = Net(), drawn(1, N, D)
    shift = nn.Parameter(drawn(2, N, 4))
    for k in range(2):
        pair = chains(net, x, energy_kwargs={"shift": shift, "factor": 2.0}, **how)
        assert assert_same_run(pair) == f"CUDA graph: {20 if k else 17} steps replayed"
        with torch.no_grad():
            shift.mul_(-1.5)
        assert assert_same_run(pair, 5) == "CUDA graph: 5 steps replayed"
        shift = nn.Parameter(drawn(3 + k, N, 4))
    table = drawn(9, 60, N, 4)
    changing = chains(net, x, energy_kwargs=lambda t: {"shift": table[t]}, **how)
    assert assert_same_run(changing) == "CUDA graph: 17 steps replayed"
    assert assert_same_run(changing, 5) == "CUDA graph: 5 steps replayed"
    assert recorder.captured_steps == 2


def test_what_a_kept_graph_depends_on(recorder):  # noqa: F811
    """Each is a graph of its own, captured once."""
    net, x = Net(), drawn(1, N, D)
    kinds = [{}, {"correct": "mala"}, {"friction": 1.0}, {"friction": math.inf}]
    kinds += [{"energy_kwargs": kwargs} for kwargs in ({"factor": 3.0}, {"factor": 2.0}, {"shift": drawn(2, 4)})]
    for k, kind in enumerate(kinds):
        assert assert_same_run(chains(net, x, **kind)) == "CUDA graph: 17 steps replayed"
        assert assert_same_run(chains(net, x, seed=4, **kind), 5) == "CUDA graph: 5 steps replayed"
        assert recorder.captured_steps == k + 1


def test_arguments_of_another_kind_end_a_stretch():
    net, x, table = Net(), drawn(1, N, D), drawn(9, 100, N, 4)
    kwargs = lambda t: {"shift": table[t], "factor": 1.0 + (t >= 20)}  # noqa: E731
    pair = chains(net, x, energy_kwargs=kwargs)
    assert assert_same_run(pair, 40) == "CUDA graph: 34 steps replayed"  # 17 of 20, twice
    assert assert_same_run(chains(net, x, energy_kwargs=kwargs), 40) == "CUDA graph: 40 steps replayed"
    pair = chains(net, x, energy_kwargs=lambda t: {"factor": 1.0 + (t == 21)})
    assert assert_same_run(pair) == "CUDA graph: 17 steps replayed"
    assert assert_same_told(pair, 20, every=21) == "CUDA graph: 18 steps replayed"  # the look-out is at 20 and 21
    asked = []

    def changing(t):
        asked.append(t)
        return {"factor": 1.0 + t // 8 / 50}

    pair = chains(lambda x, factor: net(x, factor=factor), x, energy_kwargs=changing)
    assert "arguments change in kind" in assert_same_run(pair, 32)
    assert len(asked) < 4 * 32  # by each of both chains, and once more on the look-out


UNREAD = {
    "list": ({"shift": [torch.zeros(4)]}, False, "argument shift is a list of tensors"),
    "nested": ({"a": {"b": (torch.zeros(1),)}}, False, "argument a is a dict of tensors"),
    "object": ({"factor": torch.nn.Identity()}, True, "argument factor is a Identity, and may change"),
    "elsewhere": ({"shift": torch.zeros(1, device="meta")}, True, "argument shift is a Tensor of another device"),
}


@pytest.mark.parametrize(("kwargs", "changes", "why"), UNREAD.values(), ids=UNREAD)
def test_arguments_that_no_graph_can_read_are_named(kwargs, changes, why):
    energy = lambda x, **kwargs: x.square().sum(1)  # noqa: E731
    pair = chains(energy, drawn(1, N, D), energy_kwargs=(lambda t: kwargs) if changes else kwargs)
    assert why in assert_same_run(pair)


class Counting(Generator):
    def forward(self, z):
        PASSES.append(1)
        return super().forward(z)


PASSES = []


def passes():
    count = len(PASSES)
    PASSES.clear()
    return count


@pytest.mark.parametrize("how", [{}, *CORRECTED.values()], ids=["plain", *CORRECTED])
def test_an_image_of_a_z_that_rests_is_made_once_a_run(how, recorder):  # noqa: F811
    hat = hatebm.HatEnergy(Net(), Counting())
    pair = chains(hat, (drawn(1, N, Z), drawn(2, N, D)), eps=(0.0, 0.2), blocks="sequential", **how)
    passes()
    for captures in (1, 0, 0):
        assert "replayed" in assert_same_run(pair)
        assert passes() == 2 + captures  # of both chains, and of the step that is captured
        with torch.no_grad():
            hat.generator.layer.weight.mul_(-1.2)
    assert not recorder.looked_at[0].makes_images_again
    function = chains(lambda y, z: 2 * hat(z, y), (drawn(2, N, D), drawn(1, N, Z)), eps=(0.2, 0.0), **how)
    assert "replayed" in assert_same_run(function)


@pytest.mark.parametrize("order", ["joint", "sequential"])
def test_an_image_of_a_z_that_moves_is_made_in_each_replay(order, recorder):  # noqa: F811
    hat = hatebm.HatEnergy(Net(), Counting())
    pair = chains(hat, (drawn(1, N, Z), drawn(2, N, D)), eps=(0.1, 0.2), blocks=order)
    for _ in range(2):
        assert "replayed" in assert_same_run(pair)
        with torch.no_grad():
            hat.generator.layer.weight.mul_(-1.2)
    assert recorder.looked_at[0].makes_images_again == (order == "sequential")


@pytest.mark.parametrize("law", TOLD.values(), ids=TOLD)
def test_what_steps_tell_is_gathered_by_replays(law, recorder):  # noqa: F811
    """Every step; every seventh, by that graph beside one that tells nothing; every third, by the first again."""
    state, mask = two_blocks()
    pair = chains(Parts(D + E), state, mask=mask, **law)
    assert assert_same_told(pair, 20) == "CUDA graph: 17 steps replayed"
    assert assert_same_told(pair, 20, every=7) == "CUDA graph: 16 steps replayed"
    assert assert_same_told(pair, 10, every=3) == "CUDA graph: 10 steps replayed"
    assert recorder.captured_steps == 2


def test_callbacks_see_their_steps_and_what_they_change_is_seen_by_the_next(recorder):  # noqa: F811
    table, seen = drawn(5, 3, 4), ([], [])
    for chain, states in zip(chains(Net(), drawn(1, N, D), energy_kwargs={"shift": table[0]}), seen, strict=True):
        table.copy_(drawn(5, 3, 4))

        def callback(t, state, states=states):
            states.append((t, state))
            table[0].add_(table[1])

        _, info = chain.run(50, callback=callback, every=6, return_info=True)
        states.append(info)
    (*one, info), (*other, other_info) = seen
    assert [t for t, _ in one] == [0, 6, 12, 18, 24, 30, 36, 42, 48]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))
    assert all(torch.equal(values, other_info[name]) for name, values in info.items())
    assert recorder.captured_steps == 2
    assert recorder.replays > 30


def test_a_replay_that_does_something_else_is_refused_with_nothing_lost(monkeypatch):
    monkeypatch.setattr(Tape, "replay", lambda tape: None)
    net = Parts()
    pair = chains(net, drawn(1, N, D), correct="mala")
    assert assert_same_told(pair, 20) == "CUDA graph refused: its replay is not what the loop does"
    assert assert_same_told(pair, 20) == "CUDA graph refused: its replay is not what the loop does"


def test_a_step_that_waits_is_refused_with_nothing_lost():
    class Asks(Net):
        def forward(self, x):
            return super().forward(x) * (1 if x.sum().item() > 0 else 2)

    pair = chains(Asks(), drawn(1, N, D), leapfrog_steps=2, friction=1.0)
    for _ in range(2):
        assert "its capture failed (RuntimeError: a step waits" in assert_same_run(pair)
