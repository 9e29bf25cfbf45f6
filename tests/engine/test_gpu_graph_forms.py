"""CUDA graphs on a GPU of chains in every form: the bits of the loop, nothing stale, all told."""

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

import hatebm
from hatebm.engine.graphs import runs

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("law", FORMS.values(), ids=FORMS)
def test_every_form_of_two_blocks_behind_a_mask(law):
    net, (state, mask) = Net(D + E).cuda(), two_blocks("cuda")
    pair = chains(net, state, first_step=2, mask=mask, **law)
    assert assert_same_run(pair) == "CUDA graph: 17 steps replayed"
    assert assert_same_run(pair) == "CUDA graph: 20 steps replayed"
    assert len(runs._kept[net]) == 1


@pytest.mark.parametrize("how", [{}, *CORRECTED.values()], ids=["plain", *CORRECTED])
def test_arguments_are_read_anew_by_a_kept_graph(how):
    net, x, table = Net().cuda(), drawn(1, N, D, device="cuda"), drawn(9, 60, N, 4, device="cuda")
    for k in range(3):
        shift = drawn(3 + k, N, 4, device="cuda")
        pair = chains(net, x, energy_kwargs={"shift": shift, "factor": 2.0}, **how)
        assert assert_same_run(pair) == f"CUDA graph: {20 if k else 17} steps replayed"
        shift.mul_(-1.5)
        assert assert_same_run(pair) == "CUDA graph: 20 steps replayed"
    changing = chains(net, x, energy_kwargs=lambda t: {"shift": table[t], "factor": 1.0 + (t >= 30)}, **how)
    assert assert_same_run(changing) == "CUDA graph: 17 steps replayed"
    assert assert_same_run(changing) == "CUDA graph: 10 steps replayed"
    assert len(runs._kept[net]) == 3


@pytest.mark.parametrize("eps", [(0.0, 0.2), (0.1, 0.2)], ids=["resting", "moving"])
@pytest.mark.parametrize("how", [{}, *CORRECTED.values()], ids=["plain", *CORRECTED])
def test_images_are_of_the_weights_of_the_run(how, eps):
    hat, state = hatebm.HatEnergy(Net(), Generator()).cuda(), (drawn(1, N, Z), drawn(2, N, D))
    pair = chains(hat, tuple(x.cuda() for x in state), eps=eps, blocks="sequential", **how)
    for k in range(3):
        assert assert_same_run(pair) == f"CUDA graph: {20 if k else 17} steps replayed"
        with torch.no_grad():
            hat.generator.layer.weight.mul_(-1.2)


@pytest.mark.parametrize("law", TOLD.values(), ids=TOLD)
def test_what_steps_tell_is_gathered_by_replays(law):
    state, mask = two_blocks("cuda")
    pair = chains(Parts(D + E).cuda(), state, mask=mask, **law)
    assert assert_same_told(pair, 20) == "CUDA graph: 17 steps replayed"
    assert assert_same_told(pair, 20, every=7) == "CUDA graph: 16 steps replayed"
    assert assert_same_told(pair, 10, every=3) == "CUDA graph: 10 steps replayed"


@pytest.mark.filterwarnings("ignore:langevin. proposals with a NaN")
@pytest.mark.parametrize("how", CORRECTED.values(), ids=CORRECTED)
def test_a_nan_in_a_proposal_is_refused_and_counted(how):
    energy = lambda x: torch.where(x[:, :1] > 0.3, torch.nan, x).square().sum(1) / 2  # noqa: E731
    pair = chains(energy, torch.zeros(N, D, device="cuda"), eps=0.5, **how)
    (one, info), (other, other_info) = (chain.run(40, return_info=True) for chain in pair)
    assert torch.equal(one, other)
    assert torch.equal(info["nan_refused"], other_info["nan_refused"])
    assert info["nan_refused"].any()
