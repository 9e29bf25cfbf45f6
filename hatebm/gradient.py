"""The energies of all chains at a state and their gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hatebm.checks import GRAD_DTYPES, check_like, require


def energy_and_gradient(
    energy: Callable[..., Tensor], state: Sequence[Tensor], wanted: Sequence[int], kwargs: dict[str, Any]
) -> tuple[Tensor, list[Tensor]]:
    """E(state), (n,) or scalar, and its gradient in the blocks ``wanted``.

    Raises:
        ValueError: an energy of another shape, or one that does not depend on a wanted block.
    """
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(state)]
        energies = energy(*leaves, **kwargs)
        n = len(state[0])
        fits = isinstance(energies, Tensor) and (energies.dim() == 0 or energies.shape in ((n,), (n, 1)))
        require(fits, "langevin", "energy's result", f"a scalar or of shape ({n},)", energies)
        wanted_text = "a function of the state through autograd (not detached)"
        require(energies.requires_grad, "langevin", "energy", wanted_text, "a result without a graph")
        grads = torch.autograd.grad(energies.sum(), [leaves[k] for k in wanted], allow_unused=True)
    for k, grad in zip(wanted, grads, strict=True):
        text = "a function of every block that moves; a block of step size and noise 0 stays where it is"
        require(grad is not None, "langevin", "energy", text, f"a result that does not depend on block {k}")
    return energies.detach().reshape(n if energies.dim() else ()), list(grads)


def given_gradient(
    grad_fn: Callable[..., Any], state: Sequence[Tensor], wanted: Sequence[int], kwargs: dict[str, Any]
) -> list[Tensor]:
    """The gradient that ``grad_fn`` returns (minus the score), in the blocks ``wanted``."""
    with torch.no_grad():
        grads = grad_fn(*(x.detach() for x in state), **kwargs)
    grads = (grads,) if isinstance(grads, Tensor) else tuple(grads)
    text = f"{len(state)} tensors, one per block"
    require(len(grads) == len(state), "langevin", "grad_fn's result", text, f"{len(grads)}")
    for grad, x in zip(grads, state, strict=True):
        check_like("langevin", "grad_fn's result", grad, x, (x.dtype, *GRAD_DTYPES))
    return [grads[k] for k in wanted]
