"""Chains whose last steps keep their graph: their bits, their memory, whose parameters, and what is refused."""

import gc
import weakref

import pytest
import torch
from targets import gaussian_energy, quadratic
from torch import nn

import hatebm


def small_net():
    """A network whose gradient torch computes alike with and without a graph; that of SiLU differs in rounding."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 1))


BITS = {
    "value": {"clip": ("value", 0.01), "clamp": (0, 1)},
    "norm": {"clip": ("norm", 0.05), "prior_precision": 0.01, "temperature": 0.3},
    "update": {"clip": ("value", 0.05), "clip_on": "update", "add": "fma"},
    "before": {"noise_at": "before", "clamp": (0, 1), "clamp_at": "noise+step", "add": "increment"},
    "reflect": {"reflect": (0, 1)},
}


@pytest.mark.parametrize("law", BITS.values(), ids=BITS)
def test_the_result_has_the_bits_of_the_chain_without_a_graph(law):
    net, x = small_net(), torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    law = {"step_size": 2.0, "noise_std": 0.005, "seed": 3} | law
    want, facts = hatebm.langevin(net, x, 6, return_info=True, **law)
    chain = hatebm.Chain(net, x, **law)
    got, others = chain.run(6, grad_steps=4, return_info=True)
    assert got.requires_grad
    assert torch.equal(got, want)
    assert not chain.state.requires_grad
    for name, fact in facts.items():
        assert torch.equal(fact, others[name])
        assert not others[name].requires_grad
    more, plain = chain.run(2), hatebm.langevin(net, want, 2, first_step=6, **law)
    assert torch.equal(more, plain)
    assert not more.requires_grad


@pytest.mark.parametrize("raises", [None, 3, 5], ids=["returns", "raises before the graph", "raises in the graph"])
def test_parameters_get_gradients_from_the_last_steps_and_are_never_written(raises):
    net, seen = small_net(), []
    net[0].bias.requires_grad_(False)
    flags = [p.requires_grad for p in net.parameters()]

    def note(module, args):
        seen.append([p.requires_grad for p in net.parameters()])
        if len(seen) - 1 == raises:
            raise KeyError("from the energy")

    net.register_forward_pre_hook(note)
    call = lambda: hatebm.langevin(net, torch.rand(2, 1, 6, 6), 6, eps=0.1, seed=0, grad_steps=2)  # noqa: E731
    if raises is None:
        call().sum().backward()
        assert net[3].weight.grad is not None
        assert net[0].bias.grad is None
    else:
        with pytest.raises(KeyError):
            call()
    assert all(seen_flags == flags for seen_flags in seen)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert net.training


class Saved:
    """A tensor that a graph keeps for its backward pass, alive as long as the graph."""

    def __init__(self, tensor):
        self.tensor = tensor


def bytes_kept(n_steps, grad_steps, **law):
    """The bytes of the activations that the graph of a result keeps."""
    net, alive = small_net(), weakref.WeakSet()
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))

    def pack(tensor):
        saved = Saved(tensor.detach())
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        out = hatebm.langevin(net, x, n_steps, eps=0.1, seed=0, grad_steps=grad_steps, **law)
    gc.collect()
    parameters = {p.data_ptr() for p in net.parameters()}
    storages = {s.tensor.untyped_storage().data_ptr(): s.tensor.untyped_storage().nbytes() for s in alive}
    assert out.requires_grad == bool(grad_steps)
    return sum(size for place, size in storages.items() if place not in parameters)


@pytest.mark.parametrize("law", [{}, {"clip": ("norm", 0.5), "clamp": (0, 1)}], ids=str)
def test_memory_grows_with_the_steps_that_keep_a_graph_alone(law):
    kept = {k: bytes_kept(50, k, **law) for k in (0, 1, 2, 3, 5)}
    assert kept[0] == 0
    assert 0 < kept[1] < kept[2]
    assert kept[5] - kept[3] == 2 * (kept[3] - kept[2])
    assert kept[3] <= 3.5 * kept[1]
    assert bytes_kept(10, 3, **law) == kept[3]


def test_only_a_run_of_the_last_steps_alone_is_joined_to_x():
    x = torch.ones(2, 3, requires_grad=True)
    law = {"step_size": 0.1, "noise_std": 0.0}
    out = hatebm.langevin(gaussian_energy(2.0), x, 4, grad_steps=4, **law)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], torch.full((2, 3), 0.8**4))
    out = hatebm.langevin(gaussian_energy(2.0), x, 4, grad_steps=3, **law)
    assert torch.autograd.grad(out.sum(), x, allow_unused=True) == (None,)
    assert not hatebm.langevin(gaussian_energy(2.0), x, 4, **law).requires_grad
    assert x.grad is None


def test_what_grad_steps_refuses():
    x, law = torch.ones(2, 3), {"eps": 0.1, "seed": 0}
    for count, changes, message in [
        (4, {}, "grad_steps must be an integer from 0 to n_steps = 3"),
        (-1, {}, "grad_steps must be an integer from 0"),
        (1.0, {}, "grad_steps must be an integer from 0"),
        (1, {"correct": "mala"}, "grad_steps must be 0 with correct"),
        (1, {"leapfrog_steps": 2}, "grad_steps must be 0 with correct, leapfrog_steps"),
        (1, {"friction": 1.0}, "grad_steps must be 0 with correct, leapfrog_steps or friction"),
    ]:
        with pytest.raises(ValueError, match=message):
            hatebm.Chain(quadratic, x, **law | changes).run(3, grad_steps=count)
    with torch.no_grad(), pytest.raises(ValueError, match="grad_steps must be 0 where autograd is off"):
        hatebm.langevin(quadratic, x, 3, grad_steps=1, **law)
