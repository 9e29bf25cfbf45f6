"""What a replay buffer cannot do it refuses, and stays whole."""

import math

import pytest
import torch
from replays import filled, numbered

import hatebm

INT = torch.int64
REFUSALS = [
    (lambda: hatebm.ReplayBuffer(0, (2,), seed=0), "ReplayBuffer: capacity must be"),
    (lambda: hatebm.ReplayBuffer(2.5, (2,), seed=0), "ReplayBuffer: capacity must be"),
    (lambda: hatebm.ReplayBuffer(2, 2, seed=0), "ReplayBuffer: shape must be"),
    (lambda: hatebm.ReplayBuffer(2, (-1,), seed=0), "ReplayBuffer: shape must be"),
    (lambda: hatebm.ReplayBuffer(2, (2,), seed=0, storage=torch.int8), "ReplayBuffer: storage must be"),
    (lambda: hatebm.ReplayBuffer(2, (2,), seed=0, box=(1, 1)), "ReplayBuffer: box must be"),
    (lambda: hatebm.ReplayBuffer(2, (2,), seed=0, box=(0, math.inf)), "ReplayBuffer: box must be"),
    (lambda: hatebm.ReplayBuffer(2, (2,), seed=0, box=(0, math.nan)), "ReplayBuffer: box must be"),
    (lambda: hatebm.ReplayBuffer(2, (2,), seed=0, box=None), "ReplayBuffer: box must be"),
    (lambda: hatebm.ReplayBuffer(2, (2,), seed=0, replacement="fifo"), "ReplayBuffer: replacement must be"),
    (lambda: hatebm.ReplayBuffer(2, (2,), seed=2**64), "ReplayBuffer: seed must be"),
    (lambda: hatebm.ReplayBuffer(2, (2,), seed=None), "ReplayBuffer: seed must be"),
]


@pytest.mark.parametrize(("call", "message"), REFUSALS, ids=range(len(REFUSALS)))
def test_what_no_buffer_can_be_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


X, BAD_CALLS = (
    torch.full((3, 2), 0.5),
    [
        (lambda b: b.draw(-1, 0), "draw: n must be"),
        (lambda b: b.draw(2.0, 0), "draw: n must be"),
        (lambda b: b.draw(2, -1, reinit=0), "draw: step must be"),
        (lambda b: b.draw(2, 2**40, reinit=0), "draw: step must be"),
        (lambda b: b.draw(2, 0, reinit=1.5), "draw: reinit must be"),
        (lambda b: b.draw(2, 0, reinit=math.nan), "draw: reinit must be"),
        (lambda b: b.draw(2, 0), "draw: labels must be given"),
        (lambda b: b.draw(2, 0, labels=torch.zeros(3, dtype=INT)), "draw: labels must be an int64 tensor of 2"),
        (lambda b: b.draw(2, 0, labels=torch.zeros(2)), "draw: labels must be an int64"),
        (lambda b: b.draw(2, 0, labels=torch.zeros(2, 1, dtype=INT)), "draw: labels must be shaped like"),
        (lambda b: b.draw(2, 0, reinit=1, labels=torch.zeros(2, dtype=INT), init=3), "draw: init must be"),
        (
            lambda b: b.draw(2, 0, reinit=1, labels=torch.zeros(2, dtype=INT), init=lambda rows: X),
            "draw: init's result must be of shape",
        ),
        (lambda b: b.push(X[:, :1], 0), "push: x must be of shape"),
        (lambda b: b.push(X[0, 0], 0), "push: x must be of shape"),
        (lambda b: b.push([0.5], 0), "push: x must be a tensor"),
        (lambda b: b.push((X * 255).to(torch.uint8), 0), "push: x must be float32"),
        (lambda b: b.push(X, -1, labels=torch.zeros(3, dtype=INT)), "push: step must be"),
        (lambda b: b.push(X * math.nan, 0, labels=torch.zeros(3, dtype=INT)), "push: x must be finite"),
        (lambda b: b.push(X.index_fill(0, torch.tensor(1), math.inf), 0), "push: x must be finite"),
        (lambda b: b.push(X.index_fill(0, torch.tensor(1), -math.inf), 0), "push: x must be finite"),
        (lambda b: b.push(X, 0), "push: labels must be given"),
        (lambda b: b.push(X, 0, labels=torch.zeros(2, dtype=INT)), "push: labels must be an int64 tensor of 3"),
        (lambda b: b.push(X, 0, labels=torch.zeros(3, 2, dtype=INT)), "push: labels must be shaped like"),
        (
            lambda b: b.push(X, 0, labels=torch.zeros(3, dtype=INT), slots=torch.tensor([0, 1, 4])),
            "push: slots must be -1 or filled ones in \\[0, 4\\)",
        ),
        (
            lambda b: b.push(X, 0, labels=torch.zeros(3, dtype=INT), slots=torch.tensor([0, 1, -2])),
            "push: slots must be -1 or filled",
        ),
        (lambda b: b.push(X, 0, labels=torch.zeros(3, dtype=INT), slots=torch.zeros(2, dtype=INT)), "slots must be of"),
        (lambda b: b.push(X, 0, labels=torch.zeros(3, dtype=INT), slots=[0, 1, 2]), "push: slots must be an int64"),
        (lambda b: b.load_state_dict({}), "load_state_dict: saved must be"),
        (lambda b: b.load_state_dict(b.state_dict() | {"extra": 1}), "load_state_dict: saved must be"),
        (lambda b: b.load_state_dict(b.state_dict() | {"capacity": 9}), "capacity must be 8"),
        (lambda b: b.load_state_dict(b.state_dict() | {"low": -1.0}), "low must be 0.0"),
        (lambda b: b.load_state_dict(b.state_dict() | {"seen": 7}), "load_state_dict: states must be"),
        (lambda b: b.load_state_dict(b.state_dict() | {"seen": -1}), "load_state_dict: seen must be"),
        (lambda b: b.load_state_dict(b.state_dict() | {"seed": 2**64}), "load_state_dict: seed must be"),
        (
            lambda b: b.load_state_dict(b.state_dict() | {"states": torch.zeros(4, 2)}),
            "load_state_dict: states must be",
        ),
        (lambda b: b.load_state_dict(b.state_dict() | {"labels": torch.zeros(4)}), "load_state_dict: labels must be"),
        (lambda b: b.load_state_dict(b.state_dict() | {"labels": torch.tensor(1)}), "load_state_dict: labels must be"),
    ],
)


@pytest.mark.parametrize(("call", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_a_refused_call_leaves_the_buffer_whole(call, message):
    buffer = hatebm.ReplayBuffer(8, (2,), seed=0)
    buffer.push(numbered(0, 4, 2), 0, labels=torch.arange(4))
    before = buffer.state_dict()
    with pytest.raises((ValueError, TypeError), match=message):
        call(buffer)
    after = buffer.state_dict()
    assert torch.equal(before.pop("states"), after.pop("states"))
    assert torch.equal(before.pop("labels"), after.pop("labels"))
    assert before == after


def test_states_without_labels_take_none_later():
    with pytest.raises(ValueError, match="push: labels must be left out"):
        filled(3).push(X, 1, labels=torch.zeros(3, dtype=INT))
    with pytest.raises(ValueError, match="draw: labels must be left out"):
        filled(3).draw(3, 1, labels=torch.zeros(3, dtype=INT))
