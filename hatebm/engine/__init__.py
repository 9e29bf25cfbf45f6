"""What makes whole runs of a chain fast: kernels of whole runs, prepared networks, CUDA graphs.

:mod:`hatebm.engine.whole` takes runs in an energy's own kernel, :mod:`hatebm.engine.prepare` rewrites networks, and
:mod:`hatebm.engine.graphs` replays steps on CUDA. :class:`Engine` does the last two for every run, and reports.
"""

from hatebm.engine.engine import Engine, through_compile

__all__ = ["Engine", "through_compile"]
