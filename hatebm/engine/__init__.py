"""A user's network made fast for its gradient in the state: the same function, to float32 rounding.

``prepare(energy, state)`` at the beginning of a run finds what can be rewritten exactly
(:mod:`hatebm.engine.prepare.rewrites`), chooses memory layout and parts by the network's shapes alone
(:mod:`hatebm.engine.prepare.rules`), and checks the outcome once against the network itself (:mod:`hatebm.engine.prepare.probe`). What
it cannot follow it leaves alone and says why.

On CUDA a run of steps is captured once and replayed as a graph (:mod:`hatebm.engine.graphs.graphs`): the chain's own step on
tensors that stay where they are (:mod:`hatebm.engine.graphs.static_buffers`), looked at beforehand and compared with its first
replay (:mod:`hatebm.engine.graphs.replay_check`). A graph is used again only where all that it depends on is known to be the same
(:mod:`hatebm.engine.graphs.cache_key`); weights are read when it runs.

:class:`Engine` does both for every run of a chain, and reports.
"""

from hatebm.engine.engine import Engine, through_compile
from hatebm.engine.prepare.preparing import prepare

__all__ = ["Engine", "prepare", "through_compile"]
