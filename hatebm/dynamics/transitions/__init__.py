"""One step of a chain, in each of its forms: called as transition(t, state, gather), state a list that it updates."""

from hatebm.dynamics.transitions.adjusted import Adjusted
from hatebm.dynamics.transitions.form import checked_form, transition_of
from hatebm.dynamics.transitions.hamiltonian import Hamiltonian
from hatebm.dynamics.transitions.overdamped import Overdamped

__all__ = ["Adjusted", "Hamiltonian", "Overdamped", "checked_form", "transition_of"]
