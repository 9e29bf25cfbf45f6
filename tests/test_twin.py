"""A module again with other tensors: it computes what the module does, and nothing done to it reaches the module."""

import torch
from torch import nn

from hatebm.engine.twin import twin


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
