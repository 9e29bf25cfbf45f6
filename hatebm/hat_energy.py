"""The energy of a Hat EBM: a network on the sum of a generated image and a residual."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hatebm.checks import require
from hatebm.library import is_traced


class HatEnergy(nn.Module):
    r"""H(G(z) + y), the energy of a latent z and a residual image y: ``hatebm.langevin(energy, (z, y), ...)``.

    A chain pays for what moves. With z frozen (its step and noise 0) G runs once a run; where z and y take turns
    (``blocks="sequential"``) a step costs one pass through G and one back, since the G(z) at which y moved is the one
    from which z goes on; jointly it is one pass each through G and H and back. G(z) is kept within a run alone, while
    no weight of G changes or asks for a gradient, and G is in eval mode.

    A prior on the residual, tau |y|^2 beside E / T, is ``prior_precision=(0, 2 * tau)`` in the law.

    Args:
        hat: module or function, images (n, \*image) to energies (n,), (n, 1) or their sum, low = likely.
        generator: module or function, latents (n, \*latent) to images (n, \*image).

    Raises:
        TypeError: a hat or a generator that cannot be called.

    Source: Hill, Nijkamp, Mitchell, Pang and Zhu, "Hat EBM" (2022), arXiv 2210.16486.
    """

    def __init__(self, hat: Callable[..., Tensor], generator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        for name, part in (("hat", hat), ("generator", generator)):
            require(callable(part), "HatEnergy", name, "callable", part, TypeError)
        self.hat, self.generator = hat, generator
        self._keeps, self._kept = False, None

    def forward(self, z: Tensor, y: Tensor, **kwargs: Any) -> Tensor:
        """Energies of (z, y); keyword arguments go to the hat."""
        return self.hat(self.generated(z) + y, **kwargs)

    def generated(self, z: Tensor, generator: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """G(z); within a run the one of the last evaluation, where nothing has changed since.

        ``generator`` is G in another form, for first derivatives alone.
        """
        generator = self.generator if generator is None else generator
        if not self._may_keep(z):
            self._kept = None
            return generator(z)
        memory, before = (z.data_ptr(), z.shape, z.stride()), self._kept
        made_of = (memory, z._version, _precision(z), *((w.data_ptr(), w._version) for w in self._weights()))
        followed = z.requires_grad or (before is not None and before.followed and before.made_of[0] == memory)
        if before is None or before.made_of != made_of or (followed and not before.followed):
            with torch.set_grad_enabled(followed):
                leaf = z.detach().requires_grad_(followed)
                self._kept = Kept(made_of, followed, leaf, generator(leaf))
        return _Through.apply(z, self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_keeps": False, "_kept": None}

    def _may_keep(self, z: Tensor) -> bool:
        if not self._keeps or is_traced(z) or z.is_inference() or not isinstance(self.generator, nn.Module):
            return False
        settled = not any(part.training for part in self.generator.modules())
        return settled and not any(w.requires_grad for w in self._weights())

    def _weights(self) -> list[Tensor]:
        return [*self.generator.parameters(), *self.generator.buffers()]


def _precision(z: Tensor) -> tuple[bool, str, str]:
    """Whether convolutions and products run under autocast, and the precision of each on CUDA."""
    backends = torch.backends
    autocast = torch.is_autocast_enabled(z.device.type)
    return autocast, backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision


class Kept(NamedTuple):
    """An image and what it was made of: the memory of z, the versions of z and of all weights, the precision."""

    made_of: tuple
    followed: bool  # whether a gradient in z was ever asked for
    leaf: Tensor
    image: Tensor


class _Through(torch.autograd.Function):
    """The image that is kept, as a function of a z with the values of its leaf."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, energy: HatEnergy) -> Tensor:
        ctx.energy, ctx.kept = energy, energy._kept
        ctx.save_for_backward(z)
        return energy._kept.image.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # for a second derivative
            (z,) = ctx.saved_tensors
            return torch.autograd.grad(ctx.energy.generator(z), z, grad, create_graph=True)[0], None
        return torch.autograd.grad(ctx.kept.image, ctx.kept.leaf, grad, retain_graph=True)[0], None


@contextmanager
def keeping(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let every hat energy among the modules keep G(z) from one evaluation to the next."""
    energies = [part for module in modules for part in module.modules() if isinstance(part, HatEnergy)]
    try:
        for energy in energies:
            energy._keeps = True
        yield
    finally:
        for energy in energies:
            energy._keeps, energy._kept = False, None
