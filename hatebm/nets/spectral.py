"""Layers whose weights are divided by their largest singular value, as it is estimated once for a training step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatebm.nets.layers import pooled_kernel


class SpectralLayer(nn.Module):
    """A linear map W of spectral norm 1: `W / s` with `s = u' W v / (|u| |v|)`, or `W / max(s, 1)` where it is capped.

    The vectors u and v are buffers that move in `iterate_power` alone, to length 1, so all energies between two calls
    of it are of one function; averaged over a training they are shorter, which s does not feel. A gradient flows
    through W in s, not through u and v. W starts as `std` times a standard normal. Source: Miyato et al., "Spectral
    normalization for generative adversarial networks" (2018), algorithm 1; the cap and the place of the iteration are
    those of Du and Mordatch's code (2019).

    shape: (out, in, *kernel), of which all after the first are the map's columns.
    """

    def __init__(self, *shape: int, std: float = 1.0, capped: bool = False):
        super().__init__()
        made = {"dtype": torch.float32, "device": torch.get_default_device()}
        self.weight = nn.Parameter(std * torch.randn(*shape, **made))
        self.capped = capped
        rows, columns = self.weight.flatten(1).shape
        self.register_buffer("u", F.normalize(torch.randn(rows, **made), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(columns, **made), dim=0))
        self.iterate_power()

    @torch.no_grad()
    def iterate_power(self) -> None:
        """One power iteration: v = W'u / |W'u|, u = Wv / |Wv|."""
        matrix = self.weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0, eps=1e-20))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=1e-20))

    def normalised(self) -> Tensor:
        """The weight as the layer applies it."""
        norm = self.u @ self.weight.flatten(1) @ self.v / (self.u.norm() * self.v.norm())
        return self.weight / (norm.clamp_min(1) if self.capped else norm)


class SpectralConv(SpectralLayer):
    """A convolution without bias whose padding keeps the side at stride 1 and halves it, rounded up, at stride 2.

    odd: whether the side of its images is, which takes one more row and column of padding at stride 2.
    """

    def __init__(
        self, width_in: int, width: int, kernel: int = 3, stride: int = 1, *, odd: bool = False, **how: bool | float
    ):
        super().__init__(width, width_in, kernel, kernel, **how)
        self.stride, self.odd = stride, odd

    def forward(self, x: Tensor) -> Tensor:
        if self.odd:
            x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, self.normalised(), stride=self.stride, padding=1)

    def pooled(self, x: Tensor) -> Tensor:
        """`avg_pool2d(self(x), 2)` of a 3x3 kernel in fewer multiplications, see `conv_then_pool`."""
        return F.conv2d(x, pooled_kernel(self.normalised()), stride=2, padding=1)


class SpectralLinear(SpectralLayer):
    """A dense layer with a bias."""

    def __init__(self, width_in: int, width: int):
        super().__init__(width, width_in)
        made = {"dtype": torch.float32, "device": torch.get_default_device()}
        self.bias = nn.Parameter(torch.zeros(width, **made))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


def iterate_power(net: nn.Module) -> None:
    """One power iteration of every spectral layer of a network, as each training step begins with."""
    for layer in net.modules():
        if isinstance(layer, SpectralLayer):
            layer.iterate_power()
