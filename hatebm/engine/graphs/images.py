"""G(z) of hat energies whose z rests, as a graph reads it: made once a run, at a fixed address."""

import weakref
from typing import Any

from torch import Tensor

from hatebm.dynamics.gradient import Potential
from hatebm.energies.closure import modules_of
from hatebm.energies.hat import HatEnergy, remembering


class Images:
    """Images of the blocks that rest, as far as a hat energy takes them as they are."""

    def __init__(self, potential: Potential, t: int, state: list[Tensor], moving: list[int]) -> None:
        function = potential.energy if potential.grad_fn is None else None
        hats = [part for part in modules_of(function) if isinstance(part, HatEnergy)]
        resting = [k for k in range(len(state)) if k not in moving]
        pairs = [(hat, k, _image(potential, t, state, hat, k)) for hat in hats for k in resting]
        # a graph holds no module
        self.images = [(weakref.ref(hat), k, image.clone()) for hat, k, image in pairs if image is not None]
        self.moves = len(hats) > len(self.images)  # whether the z of any hat energy may

    def load(self, potential: Potential, t: int, state: list[Tensor]) -> None:
        """Take over those of a run, which keeps them too: made anew where z or a weight has changed."""
        for hat, k, own in self.images:
            image = _image(potential, t, state, hat(), k)
            own.copy_(hat().generator(state[k]).detach() if image is None else image)

    def kept(self, potential: Potential, state: list[Tensor]) -> dict[HatEnergy, Any] | None:
        """Where a step on this state finds them; what else it keeps is its own."""
        with potential.within():
            return {hat(): hat().keeping(state[k], image) for hat, k, image in self.images} or None


def _image(potential: Potential, t: int, state: list[Tensor], hat: HatEnergy, k: int) -> Tensor | None:
    """What a run keeps of a hat energy, after a look where that is to be made, if it is of block k."""

    def kept() -> Tensor | None:
        with remembering(potential.kept), potential.within():
            return hat.kept_image(state[k])

    image = kept()
    if image is None:
        potential.gradient(t, state, [])
        image = kept()
    return image
