"""Which transition a chain takes, and what its law must be for it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.health import Watch
from hatebm.dynamics.law import Dynamics
from hatebm.dynamics.transitions.adjusted import Adjusted
from hatebm.dynamics.transitions.hamiltonian import Hamiltonian
from hatebm.dynamics.transitions.overdamped import Overdamped
from hatebm.ops.checks import require
from hatebm.ops.scalars import checked_whole

Transition = Overdamped | Adjusted | Hamiltonian
MOST = 1 << 31  # leapfrog steps of a trajectory


class Form(NamedTuple):
    """Whether proposals are accepted or refused, whether velocities live on, and how many leapfrog steps they take."""

    corrected: bool
    friction: bool
    leapfrog_steps: int | None


def checked_form(
    op: str, correct: str | None, leapfrog_steps: int | None, laws: Sequence[Dynamics], energy: Callable | None
) -> Form:
    """The form of a chain with these laws.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """
    mala = isinstance(correct, str) and correct == "mala"
    require(correct is None or mala, op, "correct", "None or 'mala'", correct)
    if leapfrog_steps is not None:
        leapfrog_steps = checked_whole(op, "leapfrog_steps", leapfrog_steps, "an integer in [1, 2^31) or None", 1, MOST)
    require(leapfrog_steps is None or correct is None, op, "correct", "None beside leapfrog_steps", correct)
    frictions = [law.friction for law in laws]
    alike = None not in frictions or set(frictions) == {None}
    require(alike, op, "friction", "given for every block or for none", frictions)
    form = Form(correct is not None or leapfrog_steps is not None, None not in frictions, leapfrog_steps)
    if form.corrected:
        _check_corrected(op, form, laws, energy)
    return form


def _check_corrected(op: str, form: Form, laws: Sequence[Dynamics], energy: Callable | None) -> None:
    require(energy is not None, op, "energy", "a callable where proposals are accepted or refused", energy)
    temperatures = [law.temperature for law in laws]
    one = all(temperature == temperatures[0] for temperature in temperatures)
    require(one, op, "temperature", "one for all blocks of a corrected chain", temperatures)
    for law in laws:
        require(law.noise_at == "after", op, "noise_at", "'after' in a corrected chain", law.noise_at)
        walls = law.reflect is None or form.friction or form.leapfrog_steps is not None
        require(walls, op, "reflect", "left out with correct='mala' (leapfrog_steps=1 reflects exactly)", law.reflect)


def transition_of(form: Form, blocks: Blocks, potential: Potential, watch: Watch, velocity: list[Tensor]) -> Transition:
    """A fresh transition for one run; ``velocity``, one per block where there is friction, is updated by it."""
    if form.friction or form.leapfrog_steps is not None:
        velocity = velocity or [None] * len(blocks.laws.each)
        return Hamiltonian(blocks, potential, watch, velocity, form.leapfrog_steps or 1, form.corrected)
    return Adjusted(blocks, potential, watch) if form.corrected else Overdamped(blocks, potential, watch)
