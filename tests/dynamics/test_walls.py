"""Walls: never crossed, reflected where they are met, and nothing else changed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import LEAST_P, bits
from targets import kolmogorov_p, quadratic

import hatebm

walls = st.tuples(st.floats(-3, 1, width=32), st.floats(0.015625, 3, width=32)).map(lambda w: (w[0], w[0] + w[1]))
boxes = walls | walls.map(lambda w: (w[0], None)) | walls.map(lambda w: (None, w[1]))


def within(x, box):
    low, high = (
        torch.tensor(math.inf * side if wall is None else wall) for side, wall in zip((-1, 1), box, strict=True)
    )
    return bool(((x >= low) & (x <= high)).all())


@settings(deadline=None, max_examples=50)
@given(
    box=boxes,
    wall=st.sampled_from(["clamp", "reflect"]),
    step_size=st.floats(0, 5),
    noise_std=st.floats(0.0625, 10),
    form=st.sampled_from([{}, {"friction": 0.5}, {"leapfrog_steps": 2}, {"noise_at": "before"}, {"add": "fma"}]),
    seed=st.integers(0, 2**40),
)
def test_no_wall_is_ever_crossed(box, wall, step_size, noise_std, form, seed):
    inner = [wall for wall in box if wall is not None]
    x = torch.full((4, 3), sum(inner) / len(inner))
    seen = []
    note = lambda t, x: seen.append(within(x, box))  # noqa: E731
    law = {"step_size": step_size, "noise_std": noise_std, wall: box, "seed": seed, "nan": "ignore"} | form
    hatebm.Chain(quadratic, x, **law).run(5, callback=note)
    assert len(seen) == 5
    assert all(seen)


def bounced(x, low, high):
    """A ball that flies to x and is turned by each wall that it meets."""
    turns = 0
    while not low <= x <= high:
        x = 2 * low - x if x < low else 2 * high - x
        turns += 1
    return x, turns


@settings(deadline=None, max_examples=50)
@given(box=boxes, moves=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=8))
def test_a_reflected_move_is_folded_at_each_wall_it_meets(box, moves):
    low, high = -math.inf if box[0] is None else box[0], math.inf if box[1] is None else box[1]
    inner = [wall for wall in (low, high) if math.isfinite(wall)]
    start = torch.full((1, len(moves)), sum(inner) / len(inner), dtype=torch.float64)
    push = torch.tensor([moves], dtype=torch.float64)
    out = hatebm.langevin(None, start, 1, grad_fn=lambda x: -push, step_size=1.0, noise_std=0, reflect=box)
    want = [bounced(float(v), low, high)[0] for v in (start + push)[0]]
    torch.testing.assert_close(out[0], torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-12)
    chain = hatebm.Chain(None, start, grad_fn=torch.zeros_like, eps=1.0, friction=1e-300, reflect=box)
    chain.load_state_dict(chain.state_dict() | {"velocity": (push,)})
    torch.testing.assert_close(chain.run(1), out, rtol=0, atol=1e-12)
    turned = [(-v if bounced(float(x + v), low, high)[1] % 2 else v) for x, v in zip(start[0], push[0], strict=True)]
    torch.testing.assert_close(chain.state_dict()["velocity"][0][0], torch.stack(turned), rtol=0, atol=1e-12)


@pytest.mark.parametrize("box", [(0, 1), (0, None), (None, 0.2), (-0.1, 0.3)], ids=str)
def test_moves_that_stay_inside_keep_the_bits_of_the_open_chain(box):
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) * 0.3
    law = {"eps": 0.2, "seed": 1}
    free, walled = hatebm.langevin(quadratic, x, 1, **law), hatebm.langevin(quadratic, x, 1, reflect=box, **law)
    low, high = (
        torch.tensor(math.inf * side if wall is None else wall) for side, wall in zip((-1, 1), box, strict=True)
    )
    inside = (free >= low) & (free <= high)
    assert 0.1 < float(inside.float().mean()) < 1
    assert torch.equal(bits(free)[inside], bits(walled)[inside])


def test_reflection_keeps_the_uniform_law_and_a_clamp_piles_up():
    constant = lambda x: 0 * x.sum(1)  # noqa: E731
    start = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    reflected, clamped = (
        hatebm.langevin(constant, start, 12, eps=0.8, seed=4, **{wall: (0, 1)}) for wall in ("reflect", "clamp")
    )
    assert kolmogorov_p(reflected, lambda at: at.double()) > LEAST_P
    assert float(((clamped == 0) | (clamped == 1)).float().mean()) > 0.3
    assert not ((reflected == 0) | (reflected == 1)).any()
