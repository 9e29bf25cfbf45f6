"""The systems by the names that the command line and the run folders use."""

from hatebm.learning.system import System
from hatebm.systems import autoencoder, hat, igebm, sngan

SYSTEMS: dict[str, System] = {
    "hat-synthesis": hat.SYNTHESIS,
    "hat-refine": hat.REFINE,
    "hat-retrofit": hat.RETROFIT,
    "igebm": igebm.SYSTEM,
    "sngan": sngan.SYSTEM,
    "autoencoder": autoencoder.SYSTEM,
}
