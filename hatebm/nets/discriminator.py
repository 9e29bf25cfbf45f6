"""The discriminator D of an SN-GAN: the energy's residual blocks under spectral normalisation."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from hatebm.nets.energy import check_halvings, energy_blocks
from hatebm.nets.layers import dense, init_sngan


class Discriminator(nn.Module):
    """Logit of an image, `D: (n, channels, size, size) -> (n,)`, high = real.

    One residual block per entry of `widths`; the first `pools` of them halve the image. The head is relu, global sum
    pool and a dense layer. Every weight is divided by an estimate of its largest singular value, `W / (u' W v)`: one
    power iteration per forward in train mode moves u and v, in eval mode they stay. Source: Miyato, Kataoka, Koyama and
    Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018, arXiv 1802.05957, and the mimicry
    library, whose network at 32 pixels is `widths=(128,) * 4, pools=2`.

    Raises UsageError when the image cannot be halved `pools` times.
    """

    def __init__(self, size: int, channels: int, widths: Sequence[int], pools: int):
        super().__init__()
        check_halvings("Discriminator", size, widths, pools)
        self.blocks = energy_blocks(channels, widths, pooled=range(pools))
        self.head = dense(widths[-1], 1)
        init_sngan(self)
        for layer in list(self.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(x)).sum((2, 3))).squeeze(1)
