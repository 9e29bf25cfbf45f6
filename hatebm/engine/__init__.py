"""A user's network made fast for its gradient in the state: the same function, to float32 rounding.

``prepare(energy, state)`` at the beginning of a run finds what can be rewritten exactly
(:mod:`hatebm.engine.rewrites`), chooses memory layout and parts by the network's shapes alone
(:mod:`hatebm.engine.rules`), and checks the outcome once against the network itself (:mod:`hatebm.engine.probe`). What
it cannot follow it leaves alone and says why.
:class:`Engine` does so for every run of a chain, and reports.
"""

from hatebm.engine.engine import Engine
from hatebm.engine.prepare import prepare

__all__ = ["Engine", "prepare"]
