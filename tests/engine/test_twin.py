"""A module again with other tensors: it computes what the module does, and nothing done to it reaches the module."""

import weakref
from collections import Counter

import torch
from engine_nets import Block, Head, images, small_networks_are_worth_it  # noqa: F401
from torch import nn

import hatebm
from hatebm.engine.prepare.twin import twin


class Held(nn.Module):
    """Parts and tensors by every kind of name."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)
        self.tied = self.first
        self.listed, self.named, self.method = [self.first], {"last": (self.last,)}, self.last.forward
        self.register_buffer("shift", torch.ones(4))
        self.same = self.shift
        self.count, self.constant = 0, torch.full((4,), 0.5)

    def forward(self, x):
        self.count += 1
        x = torch.tanh(self.listed[0](x) + self.same) * self.constant
        return self.named["last"][0](x) + self.method(x)


def test_it_computes_the_same_on_its_own_tensors():
    torch.manual_seed(0)
    module, x = Held(), torch.randn(2, 3, dtype=torch.float64)
    other = twin(module, lambda tensor: tensor.detach().double())
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    assert other.tied is other.first is other.listed[0] is not module.first
    assert all(v.dtype == torch.float64 for v in (*other.parameters(), *other.buffers(), other.same))
    assert list(other.state_dict()) == list(module.state_dict())
    torch.testing.assert_close(other(x).float(), module(x.float()))
    assert (other.count, module.count) == (1, 1)
    other.listed.append(None)
    other.eval().shift = None
    assert len(module.listed) == 1
    assert module.training
    assert tensors == dict(module.named_parameters()) | dict(module.named_buffers())


def test_shared_tensors_are_those_of_the_module():
    module = Held()
    other = twin(module, torch.Tensor.detach)
    with torch.no_grad():
        module.first.weight.fill_(7)
    assert torch.equal(other.listed[0].weight, module.first.weight)
    assert not any(p.requires_grad for p in (*other._parameters.values(), *other.first._parameters.values()))


def test_containers_in_circles_and_of_other_classes():
    module = nn.Linear(3, 3)
    module.ring, module.counts = {"module": module, "list": []}, Counter(a=2)
    module.ring["list"].append(module.ring)
    other = twin(module, torch.Tensor.detach)
    assert other.ring["list"][0] is other.ring is not module.ring
    assert other.ring["module"] is other
    assert other.counts == module.counts


class Gone:
    pass


def test_what_a_network_holds_beside_its_weights_stops_no_chain():
    torch.manual_seed(0)
    net, x, gone = Head(Block(64, 64)), images(16), Gone()
    want = hatebm.langevin(net, x, 2, eps=0.01, seed=0, compile="off")
    net.ring = []
    net.ring.append(net.ring)
    chain = hatebm.Chain(net, x, eps=0.01, seed=0)
    torch.testing.assert_close(chain.run(2), want)
    assert "folded" in chain.report()
    net.trainer = weakref.proxy(gone)
    del gone
    chain = hatebm.Chain(net, x, eps=0.01, seed=0)
    torch.testing.assert_close(chain.run(2), want)
    assert "folded" in chain.report()  # no code of the network's names it
