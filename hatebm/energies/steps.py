r"""A run of steps as an energy's own kernel takes it.

An energy that can has two methods. ``can_advance(x, steps)`` returns None, or the reason why it cannot take these.
``advance_(x, steps)`` moves x, (n, \*sample), in place to the bits that a step at a time gives, the same in any split,
and returns the first step at which each chain's energy or gradient was not finite, (n,) int64,
:data:`hatebm.ops.native.chains.NEVER` where none was. The state after the last step is the chain's own to look at. Both
may write nothing else. An energy whose kernel has other bits than autograd has ``in_kernel(x, backend)`` too: the
energy with the kernel's gradient, for the steps that somebody looks at, or None.
"""

from typing import NamedTuple

from torch import Tensor


class Facts(NamedTuple):
    """Where a run puts what is told of each step that ``every`` divides: a row of each, (kept, n) float32 beside x."""

    every: int
    energy: Tensor  # where the step took its gradient
    grad_norm: Tensor  # |grad E / T + prior_precision * x| there
    grad_norm_energy: Tensor  # |grad E / T| there
    displacement: Tensor  # |x' - x| over the whole step


class Proposals(NamedTuple):
    """What a run of tested steps, or of steps by velocities, takes beside the law.

    Row r of ``shares`` is a number of each step: temperature, 1 / (2 noise_std^2), prior_precision / 2, half and whole
    kick step_size / noise_std, what is kept of a velocity, how much noise it gets, and the bound of a kick's clip.
    """

    corrected: bool  # whether each step is accepted or refused
    leapfrog_steps: int  # of each step; 0: a step is one of Langevin's
    shares: Tensor  # (8, n_steps) float64 on the CPU, any strides
    velocity: Tensor | None  # (n, d) beside x, updated in place; None: none outlives its step
    refused: Tensor  # (n,) bool beside x: set where a proposal was refused for a NaN
    accept: Tensor | None  # a row beside the Facts of each corrected step: 1 where it was accepted
    nan_refused: Tensor | None  # and where it was refused for a NaN


class Steps(NamedTuple):
    """The law of a run of steps of block 0, as kernels take it, see :func:`hatebm.ops.langevin_step_`.

    Step first_step + i of chain c has the numbers ``schedule[:, i]``, or ``schedule[:, i, c]``. With noise_at="before"
    it first adds noise_std * eps, and clamps to (low, high) too where ``clamp_noise``. Then x <- clamp(x - step_size *
    clip(grad E * inverse_temperature + prior_precision * x) + noise_std * eps), the noise there only with
    noise_at="after". Where a chain's step_size and noise_std are both 0, nothing happens to it: no clamp, and its
    energy is not looked at. What ``mask`` leaves out keeps its bits: no gradient and no prior pulls there.
    """

    schedule: Tensor  # (5, n_steps) or (5, n_steps, n) float32 beside x, any strides: the law's five numbers
    noisy: bool  # whether any noise_std may not be 0
    prior: bool  # whether any prior_precision may not be 0
    add: str  # "sequential", "increment" or "fma"
    clip: str | None  # None, "value" or "norm"
    clip_on: str  # "grad" or "update"
    low: float  # of the clamp; infinite where there is none
    high: float
    clamp_noise: bool
    noise_at: str  # "after" or "before"
    seed: int  # any 64 bits, signed
    first_step: int
    chain_ids: Tensor | None  # (n,) int64; None: 0..n-1
    watched: bool  # whether anybody wants to know the first bad steps
    backend: str | None  # whose kernel: one of hatebm.backends(); None: the fastest that can run
    mask: Tensor | None = None  # (n, d) bool beside x, row by row: where the state may move
    reflect: bool = False  # whether low and high are walls that fold a move back, in place of a clamp
    facts: Facts | None = None
    block: int = 0  # of the state, by which the noise goes
    proposals: Proposals | None = None  # only for an energy that ``takes_proposals``

    @property
    def n_steps(self) -> int:
        """How many steps these are."""
        return self.schedule.shape[1] if self.schedule.dim() > 1 else 0
