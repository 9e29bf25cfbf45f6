"""A generator written out in plain torch, under the names and in the order of mimicry."""

import torch
import torch.nn.functional as F
from torch import nn


class ForeignBlock(nn.Module):
    """b1, relu, upsample, c1, b2, relu, c2; beside it upsample, c_sc."""

    def __init__(self, a, b):
        super().__init__()
        self.c1, self.c2, self.c_sc = nn.Conv2d(a, b, 3, 1, 1), nn.Conv2d(b, b, 3, 1, 1), nn.Conv2d(a, b, 1)
        self.b1, self.b2 = nn.BatchNorm2d(a), nn.BatchNorm2d(b)

    def forward(self, x):
        bilinear = {"scale_factor": 2, "mode": "bilinear", "align_corners": False}
        h = self.c1(F.interpolate(torch.relu(self.b1(x)), **bilinear))
        return self.c2(torch.relu(self.b2(h))) + self.c_sc(F.interpolate(x, **bilinear))


class ForeignGenerator(nn.Module):
    """A generator with l1, block2, block3, ..., and a batch norm and a convolution with the next number."""

    def __init__(self, latent_dim, widths, side, channels):
        super().__init__()
        self.widths, self.side = widths, side
        self.l1 = nn.Linear(latent_dim, widths[0] * side * side)
        for i in range(len(widths) - 1):
            self.add_module(f"block{i + 2}", ForeignBlock(widths[i], widths[i + 1]))
        self.add_module(f"b{len(widths) + 1}", nn.BatchNorm2d(widths[-1]))
        self.add_module(f"c{len(widths) + 1}", nn.Conv2d(widths[-1], channels, 3, 1, 1))

    def forward(self, z):
        layers = dict(self.named_children())
        h = self.l1(z).view(len(z), self.widths[0], self.side, self.side)
        for number in range(2, len(self.widths) + 1):
            h = layers[f"block{number}"](h)
        last = len(self.widths) + 1
        return torch.tanh(layers[f"c{last}"](torch.relu(layers[f"b{last}"](h))))


def foreign(latent_dim=5, widths=(8, 6, 6, 4), side=4, channels=3):
    """A foreign generator in float64, in eval mode, whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    net = ForeignGenerator(latent_dim, widths, side, channels).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.01, 2)  # small ones show the epsilon
            module.num_batches_tracked.fill_(7)
    return net
