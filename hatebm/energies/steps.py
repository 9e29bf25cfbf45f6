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


class Steps(NamedTuple):
    """The law of a run of steps of block 0, as kernels take it, see :func:`hatebm.ops.langevin_step_`.

    Step first_step + i has entry i of the three schedules. With noise_at="before" it first adds noise_std * eps, and
    clamps to (low, high) too where ``clamp_noise``. Then x <- clamp(x - step_size * clip(grad E * inverse_temperature
    + prior_precision * x) + noise_std * eps), the noise there only with noise_at="after". Where step_size and
    noise_std are both 0, nothing happens: no clamp, and the energy is not looked at.
    """

    schedule: Tensor  # (3, n_steps) float32 on the CPU: step_size, noise_std and inverse_temperature
    prior_precision: float
    add: str  # "sequential", "increment" or "fma"
    clip: str | None  # None, "value" or "norm"
    clip_on: str  # "grad" or "update"
    bound: float  # of the clip
    low: float  # of the clamp; infinite where there is none
    high: float
    clamp_noise: bool
    noise_at: str  # "after" or "before"
    seed: int  # any 64 bits, signed
    first_step: int
    chain_ids: Tensor | None  # (n,) int64; None: 0..n-1
    watched: bool  # whether anybody wants to know the first bad steps
    backend: str | None  # whose kernel: one of hatebm.backends(); None: the fastest that can run

    @property
    def n_steps(self) -> int:
        """How many steps these are."""
        return self.schedule.shape[1]

    @property
    def step_size(self) -> Tensor:
        """(n_steps,), like the next two."""
        return self.schedule[0]

    @property
    def noise_std(self) -> Tensor:
        """Standard deviations of the noise."""
        return self.schedule[1]

    @property
    def inverse_temperature(self) -> Tensor:
        """What multiplies the gradient of the energy."""
        return self.schedule[2]
