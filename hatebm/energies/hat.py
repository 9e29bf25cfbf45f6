"""The energy of a Hat EBM: a network on the sum of a generated image and a residual."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hatebm.energies.precision import CPU, CUDA, under_autocast
from hatebm.ops.checks import require
from hatebm.ops.library import is_traced


class HatEnergy(nn.Module):
    r"""H(G(z) + y), the energy of a latent z and a residual image y: ``hatebm.langevin(energy, (z, y), ...)``.

    A chain pays for what moves. With z frozen (its step and noise 0) G runs once a run; where z and y take turns
    (``blocks="sequential"``) a step costs one pass through G and one back, since the G(z) at which y moved is the one
    from which z goes on; jointly it is one pass each through G and H and back. G(z) is kept within a run alone, while
    no weight of G changes and G is in eval mode, and not in steps that keep their graph.

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

    def forward(self, z: Tensor, y: Tensor, **kwargs: Any) -> Tensor:
        """Energies of (z, y); keyword arguments go to the hat."""
        return self.hat(self.generated(z) + y, **kwargs)

    def generated(self, z: Tensor, generator: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """G(z); within a run the one of the last evaluation, where nothing has changed since.

        ``generator`` is G in another form, for first derivatives alone.
        """
        generator = self.generator if generator is None else generator
        if not self._may_keep(z):
            return generator(z)
        made_of, before = self._made_of(z), _here.kept.get(self)
        followed = z.requires_grad or (before is not None and before.followed and before.made_of[0] == made_of[0])
        if before is None or before.made_of != made_of or (followed and not before.followed):
            with torch.set_grad_enabled(followed):
                leaf = z.detach().requires_grad_(followed)
                before = _here.kept[self] = Kept(made_of, followed, leaf, generator(leaf))
        return _Through.apply(z, self, before)

    def kept_image(self, z: Tensor) -> Tensor | None:
        """G(z) where this thread keeps it, and nothing has changed since."""
        before = _here.kept.get(self) if self._may_keep(z) else None
        return before.image.detach() if before is not None and before.made_of == self._made_of(z) else None

    def keeping(self, z: Tensor, image: Tensor) -> "Kept":
        """What is kept where this is the image of a z that does not move."""
        return Kept(self._made_of(z), False, z.detach(), image)

    def _made_of(self, z: Tensor) -> tuple:
        memory = (z.data_ptr(), z.shape, z.stride())
        return (memory, z._version, _precision(z), *((w.data_ptr(), w._version) for w in self._weights()))

    def _may_keep(self, z: Tensor) -> bool:
        if is_traced(z) or _here.kept is None or z.is_inference() or not isinstance(self.generator, nn.Module):
            return False
        settled = not any(getattr(part, "training", False) for part in self.generator.modules())
        return settled and not any(w.is_inference() for w in self._weights())

    def _weights(self) -> list[Tensor]:
        return [*self.generator.parameters(), *self.generator.buffers()]


def _precision(z: Tensor) -> tuple:
    """Whether convolutions and products run under autocast, and the precision of each."""
    return under_autocast(z.device), getattr(*(CUDA if z.is_cuda else CPU))


class Kept(NamedTuple):
    """An image and what it was made of: the memory of z, the versions of z and of all weights, the precision."""

    made_of: tuple
    followed: bool  # whether a gradient in z was ever asked for
    leaf: Tensor
    image: Tensor


class _Through(torch.autograd.Function):
    """The image that is kept, as a function of a z with the values of its leaf."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, energy: HatEnergy, kept: Kept) -> Tensor:
        ctx.energy, ctx.kept = energy, kept
        ctx.save_for_backward(z)
        return kept.image.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # for a second derivative
            (z,) = ctx.saved_tensors
            return torch.autograd.grad(ctx.energy.generator(z), z, grad, create_graph=True)[0], None, None
        return torch.autograd.grad(ctx.kept.image, ctx.kept.leaf, grad, retain_graph=True)[0], None, None


class _Here(threading.local):
    """Where this thread keeps G(z) in the evaluation that it is in; None where none is kept."""

    kept: dict[HatEnergy, Kept] | None = None


_here = _Here()


class remembering:  # noqa: N801 (read as a word of a with statement)
    """Let the hat energies that this thread evaluates keep G(z) in a dict, and find it there; None: keep none."""

    def __init__(self, kept: dict[HatEnergy, Kept] | None) -> None:
        self.kept = kept

    def __enter__(self) -> None:
        self.before, _here.kept = _here.kept, self.kept

    def __exit__(self, *_: object) -> None:
        _here.kept = self.before
