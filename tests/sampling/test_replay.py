"""The replay buffer: what it holds, what it draws, and that storing a state moves no mean."""

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replays import BOXES, filled, held, number_of, numbered
from scipy import stats

import hatebm
from hatebm.ops.noise import Purpose, words
from hatebm.sampling.replay import STORAGES
from hatebm.sampling.slots import PLACED, REPLACEMENTS


@settings(max_examples=100, deadline=None)
@given(
    capacity=st.integers(1, 9),
    sizes=st.lists(st.integers(0, 14), min_size=1, max_size=5),
    replacement=st.sampled_from(REPLACEMENTS),
    storage=st.sampled_from(STORAGES),
    labelled=st.booleans(),
    write_back=st.booleans(),
)
def test_a_push_is_a_push_of_each_row_in_turn(capacity, sizes, replacement, storage, labelled, write_back):
    buffer = hatebm.ReplayBuffer(capacity, (1, 3), storage=storage, replacement=replacement, seed=5)
    model, seen, first = {}, 0, 0
    for step, n in enumerate(sizes):
        x, labels = numbered(first, n, 1, 3), 1000 + torch.arange(first, first + n) if labelled else None
        slots = buffer.draw(n, step, reinit=0.3, labels=labels)[2] if write_back else None
        buffer.push(x, step, labels=labels, slots=slots)
        drawn = words((n,), seed=5, step=step, block=PLACED, purpose=Purpose.REPLAY).tolist()
        for row, slot in enumerate([-1] * n if slots is None else slots.tolist()):
            if slot < 0:
                if seen < capacity or replacement == "ring":
                    slot = seen % capacity
                else:
                    slot = drawn[row] * (capacity if replacement == "uniform" else seen + 1) >> 32
                seen += 1
            if slot < capacity:
                model[slot] = first + row
        first += n
        assert len(buffer) == len(model) == min(seen, capacity)
        assert held(buffer).tolist() == [model[slot] % 256 for slot in range(len(model))]
        if labelled:
            assert buffer.state_dict()["labels"].tolist() == [1000 + model[slot] for slot in range(len(model))]


def test_a_ring_lets_the_oldest_go():
    buffer = hatebm.ReplayBuffer(5, (2,), seed=0)
    for step in range(4):
        buffer.push(numbered(3 * step, 3, 2), step)
    assert held(buffer).tolist() == [10, 11, 7, 8, 9]
    buffer.push(numbered(12, 13, 2), 4)
    assert sorted(held(buffer).tolist()) == [20, 21, 22, 23, 24]


def test_draws_are_uniform_over_the_filled_slots():
    n, count = 100_000, 37
    x, _, slots = filled(count, capacity=100).draw(n, 3, reinit=0)
    assert torch.equal(number_of(x), slots)
    assert stats.chisquare(torch.bincount(slots, minlength=count).numpy()).pvalue > 1e-3
    both = torch.stack([slots, filled(count, capacity=100).draw(n, 4, reinit=0)[2]]).double()
    assert abs(float(torch.corrcoef(both)[0, 1])) < 4 / math.sqrt(n)


@pytest.mark.parametrize("reinit", [0.001, 0.05, 0.5])
def test_the_share_of_fresh_starts_knows_no_scale(reinit):
    n, rows = 40_000, []
    for box in BOXES:
        buffer = hatebm.ReplayBuffer(10, (2,), box=box, seed=3)
        buffer.push(torch.full((10, 2), box[0], dtype=torch.float32), 0)
        x, _, slots = buffer.draw(n, 7, reinit=reinit)
        fresh = slots < 0
        assert abs(int(fresh.sum()) - reinit * n) < 4 * math.sqrt(n * reinit * (1 - reinit))
        unit = (x[fresh] - box[0]) / (box[1] - box[0])
        assert stats.kstest(unit.flatten().double().numpy(), "uniform").pvalue > 1e-3
        assert (x[~fresh] <= box[0] + (box[1] - box[0]) / 256).all()
        rows.append(slots)
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_an_empty_buffer_starts_afresh_and_reinit_1_does_too():
    buffer = hatebm.ReplayBuffer(4, (50,), seed=0)
    x, labels, slots = buffer.draw(200, 0, reinit=0, labels=torch.arange(200))
    assert (slots == -1).all()
    assert torch.equal(labels, torch.arange(200))
    assert stats.kstest(x.flatten().double().numpy(), "uniform").pvalue > 1e-3
    assert (filled(4).draw(50, 1, reinit=1)[2] == -1).all()


def test_the_first_rows_do_not_depend_on_how_many_follow():
    buffer = filled(9)
    few, many = buffer.draw(40, 2, reinit=0.3), buffer.draw(100, 2, reinit=0.3)
    assert torch.equal(few[0], many[0][:40])
    assert torch.equal(few[2], many[2][:40])
    fresh = few[2] < 0
    assert torch.equal(few[0][fresh], buffer.draw(40, 2, reinit=1)[0][fresh])
    other = filled(9, seed=1).draw(40, 2, reinit=0.3)
    assert not torch.equal(few[2], other[2])
    assert not torch.isin(few[0], buffer.draw(40, 3, reinit=0.3)[0]).all()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_threads_and_the_global_generator_change_nothing(replacement, storage):
    threads, draws = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(count)
            state = torch.get_rng_state()
            buffer = hatebm.ReplayBuffer(100, (3, 17, 17), storage=storage, replacement=replacement, seed=1)
            for step in range(3):
                x, _, slots = buffer.draw(90, step)
                buffer.push(x.sqrt(), step, slots=slots if step == 2 else None)
            assert torch.equal(torch.get_rng_state(), state)
            draws.append(torch.cat([buffer.draw(90, 3)[0].flatten(), buffer.state_dict()["states"].flatten()]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_new_states_go_to_a_uniform_slot():
    capacity, pushes = 20, 1000
    buffer = hatebm.ReplayBuffer(capacity, (1,), storage=torch.float32, replacement="uniform", seed=2)
    buffer.push(torch.zeros(capacity, 1), 0)
    counts = torch.zeros(capacity)
    for step in range(1, pushes + 1):
        buffer.push(torch.full((1, 1), float(step)), step)
        counts += buffer.state_dict()["states"][:, 0] == step
    assert counts.sum() == pushes
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_a_reservoir_keeps_every_state_equally_likely():
    capacity, n, seeds = 4, 13, 600
    counts = torch.zeros(n, dtype=torch.float64)
    for seed in range(seeds):
        buffer = hatebm.ReplayBuffer(capacity, (1,), replacement="reservoir", seed=seed)
        for step, (first, last) in enumerate([(0, 1), (1, 7), (7, 13)]):
            buffer.push(numbered(first, last - first, 1), step)
        assert buffer.seen == n
        counts[held(buffer)] += 1
    assert counts.sum() == capacity * seeds
    p = capacity / n  # the counts of draws without replacement have covariance seeds p (1 - p) n / (n - 1) (I - J / n)
    distance = (counts - seeds * p).square().sum() / (seeds * p * (1 - p) * n / (n - 1))
    assert stats.chi2.sf(float(distance), n - 1) > 1e-3


@pytest.mark.parametrize("trailing", [(), (3,)], ids=["numbers", "rows"])
def test_labels_stay_with_their_states(trailing):
    label = lambda x: (7 * number_of(x) + 2).view(-1, *[1] * len(trailing)).expand(-1, *trailing)  # noqa: E731
    buffer = hatebm.ReplayBuffer(30, (2,), replacement="uniform", seed=4)
    for step in range(6):
        given = -torch.arange(1, 51).view(50, *[1] * len(trailing)).expand(50, *trailing)
        x, labels, slots = buffer.draw(50, step, reinit=0.2, labels=given)
        assert torch.equal(labels, torch.where((slots < 0).view(50, *[1] * len(trailing)), given, label(x)))
        x = numbered(17 * step, 50, 2)
        buffer.push(x, step, labels=label(x), slots=slots if step % 2 else None)
    x, labels, _ = buffer.draw(50, 9, reinit=0)
    assert torch.equal(labels, label(x))
    labels.zero_()
    assert torch.equal(buffer.draw(50, 9, reinit=0)[1], label(x))


def test_states_go_back_to_their_slots():
    buffer = filled(6, capacity=8)
    slots = torch.tensor([3, -1, 0, 3, -1, -1])
    buffer.push(numbered(100, 6, 2), 1, slots=slots)
    assert held(buffer).tolist() == [105, 1, 2, 103, 4, 5, 101, 104]
    assert buffer.seen == 9


def test_fresh_starts_may_be_the_callers_own():
    buffer, asked = filled(9), []

    def init(rows):
        asked.append(rows)
        return hatebm.normal((len(rows), 2), seed=1, step=2, purpose=Purpose.INITIAL_STATE, chain_ids=rows)

    x, _, slots = buffer.draw(100, 2, reinit=0.2, init=init)
    rows = (slots < 0).nonzero().flatten()
    assert torch.equal(asked[0], rows)
    starts = hatebm.normal((100, 2), seed=1, step=2, purpose=Purpose.INITIAL_STATE)
    assert torch.equal(x[rows], starts[rows])
    assert torch.equal(buffer.draw(100, 2, reinit=0.2, init=starts.__getitem__)[0], x)
    buffer.draw(100, 2, reinit=0, init=init)
    assert len(asked) == 1


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("saved_at", [0, 1, 5])
def test_a_restart_goes_on_bit_for_bit(saved_at, replacement, storage):
    def step_once(buffer, step):
        x, labels, slots = buffer.draw(8, step, labels=torch.arange(8))
        buffer.push((x * 1.3) % 1, step, labels=labels + 1, slots=slots if step % 3 == 2 else None)
        return x, labels, slots

    law = {"storage": storage, "replacement": replacement}
    whole, part = (hatebm.ReplayBuffer(20, (3, 5), seed=6, **law) for _ in range(2))
    want = [step_once(whole, step) for step in range(9)]
    for step in range(saved_at):
        step_once(part, step)
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    later = hatebm.ReplayBuffer(20, (3, 5), seed=0, **law)
    later.push(torch.zeros(7, 3, 5), 0, labels=torch.zeros(7, 2, dtype=torch.int64))
    later.load_state_dict(torch.load(file, weights_only=True))
    for step in range(saved_at, 9):
        assert all(map(torch.equal, step_once(later, step), want[step]))
    assert torch.equal(later.state_dict()["states"], whole.state_dict()["states"])


def test_bytes_are_a_quarter_of_the_file_and_empty_slots_none_of_it():
    sizes = {}
    for storage in STORAGES:
        buffer = hatebm.ReplayBuffer(100_000, (3, 8, 8), storage=storage, seed=0)
        buffer.push(numbered(0, 500, 3, 8, 8), 0)
        file = io.BytesIO()
        torch.save(buffer.state_dict(), file)
        sizes[storage] = file.tell()
    assert abs(sizes[torch.uint8] - 500 * 192) < 4000
    assert abs(sizes[torch.float32] - 4 * 500 * 192) < 4000


def test_a_saved_state_lives_on_its_own():
    buffer = filled(5)
    saved = buffer.state_dict()
    buffer.push(numbered(50, 5, 2), 1)
    assert saved["states"][:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("storage", STORAGES)
def test_small_shapes(shape, storage):
    buffer = hatebm.ReplayBuffer(3, shape, storage=storage, seed=0)
    for step, n in enumerate((2, 0, 1, 5)):
        x, labels, slots = buffer.draw(n, step, reinit=0.5)
        assert (x.shape, labels, slots.shape) == ((n, *shape), None, (n,))
        buffer.push(x, step)
    assert len(buffer) == 3
    assert buffer.device == torch.device("cpu")


def test_graphs_inference_and_doubles():
    with torch.inference_mode():
        buffer = hatebm.ReplayBuffer(6, (2,), seed=0)
        buffer.push(numbered(0, 2, 2), 0, labels=torch.zeros(2, dtype=torch.int64))
        tensor = numbered(2, 2, 2).clone()
    label = torch.ones(2, dtype=torch.int64)
    buffer.push(tensor, 1, labels=label)
    buffer.push(numbered(4, 2, 2).double().requires_grad_(), 2, labels=label)
    assert held(buffer).tolist() == list(range(6))
    x, _, _ = buffer.draw(
        4, 3, reinit=0.5, labels=label.repeat(2), init=lambda rows: torch.rand(len(rows), 2).requires_grad_()
    )
    assert not x.requires_grad
    assert x.dtype == torch.float32


def test_persistent_chains_reach_the_law_that_fresh_ones_miss():
    """Corrected chains of N(0.8, 0.1^2) within [0, 1], 512 in a state; the label of a state counts its rounds."""
    mean, spread, shape, n, rounds = 0.8, 0.1, (512,), 64, 120
    target = stats.truncnorm((0 - mean) / spread, (1 - mean) / spread, mean, spread)
    energy = lambda x: ((x - mean) / spread).square().sum(1) / 2  # noqa: E731
    buffer = hatebm.ReplayBuffer(4 * n, shape, seed=0)
    for t in range(rounds):
        x, age, _ = buffer.draw(n, step=t, labels=torch.zeros(n, dtype=torch.int64))
        law = {"eps": 0.05, "correct": "mala", "clamp": (0, 1), "seed": 0, "first_step": 2 * t}
        x = hatebm.langevin(energy, x.reshape(-1, 1), 2, **law).view(n, *shape)
        age = age + 1
        buffer.push(x, step=t, labels=age)

    def surplus(states, power):
        """How far the mean of x^power is from the law's, and its standard error: coordinates are independent."""
        each = states.double().pow(power).mean(0)
        return float(each.mean()) - target.moment(power), float(each.std()) / math.sqrt(len(each))

    old, fresh = x[age >= 25], x[age == 1]
    assert len(old) >= 10
    assert len(fresh) >= 1
    for power in (1, 2, 3):
        off, error = surplus(old, power)
        assert abs(off) < 4 * error, power
        off, error = surplus(fresh, power)
        assert abs(off) > 10 * error, power
    assert 5 * abs(surplus(x, 1)[0]) < abs(surplus(fresh, 1)[0])
