"""Where chains break: watched without waiting for the device, reported with step and chain."""

import math
import warnings

import torch
from torch import Tensor

from hatebm.ops.library import LIBRARY, is_traced
from hatebm.ops.native.chains import NEVER


class ChainDiverged(RuntimeError):  # noqa: N818 (the public name)
    """An energy, a gradient or the state became NaN or infinite.

    Attributes:
        step: the first step at which it was seen.
        chains: the ids of the chains that broke at that step.
    """

    def __init__(self, step: int, chains: list[int]) -> None:
        few = ", ".join(map(str, chains[:8])) + (f" and {len(chains) - 8} more" if len(chains) > 8 else "")
        super().__init__(
            f"NaN or Inf in the energy or its gradient, first at step {step} in chain{'s' * (len(chains) > 1)} {few}; "
            "the chain keeps the state from before this run. A smaller step_size, clip= or clamp= may help; "
            "nan='ignore' goes on."
        )
        self.step = step
        self.chains = chains


NAN_REFUSED = (
    "langevin: proposals with a NaN in their energy or gradient were refused; info['nan_refused'] counts them, "
    "nan='ignore' says nothing"
)


def report_diverged(first: Tensor, chain_ids: Tensor | None, refused: Tensor | None) -> None:
    """Raise :class:`ChainDiverged` for the chains that broke first, if any did; else warn of proposals with a NaN.

    Python shows a warning once.
    """
    first = first.cpu()
    step = int(first.min()) if first.numel() else NEVER
    if step != NEVER:
        broken = (first == step).nonzero().flatten()
        raise ChainDiverged(step, (broken if chain_ids is None else chain_ids.cpu()[broken]).tolist())
    if refused is not None and bool(refused.any()):
        warnings.warn(NAN_REFUSED, stacklevel=1)


# Said to write x, so that a compiled graph that returns x keeps it.
LIBRARY.define("report_diverged_(Tensor(a!) x, Tensor first, Tensor? chain_ids, Tensor? refused) -> ()")
LIBRARY.impl("report_diverged_", lambda x, *broken: report_diverged(*broken), "CompositeExplicitAutograd")
torch.library.register_fake("hatebm::report_diverged_", lambda x, first, chain_ids, refused: None, lib=LIBRARY)


class Watch:
    """For each chain the first step at which something was not finite, as a tensor on the chains' device.

    Nothing is seen when nobody wants to know. Where proposals may be ``refused``, an energy of +inf is no fault.
    """

    def __init__(self, n: int, device: torch.device, wanted: bool = True, refused: bool = False) -> None:
        self.n, self.device, self.wanted, self.refused = n, device, wanted, refused
        self._first: Tensor | None = None
        self._refused: Tensor | None = None
        self.window = 32 if device.type == "cpu" else 256  # few stay in the caches, many launch less
        self.energies: list[Tensor] = []
        self.steps: list[int] = []

    @property
    def first(self) -> Tensor | None:
        """(n,) int64, :data:`NEVER` where nothing was seen; None when nobody wants to know."""
        if self._first is None and self.wanted:
            self._first = torch.full((self.n,), NEVER, dtype=torch.int64, device=self.device)
        return self._first

    def see_energy(self, t: int, energies: Tensor | None) -> None:
        """Keep the energies of step t until there are enough of them to look at in one go."""
        if not self.wanted or energies is None:
            return
        self.energies.append(energies)
        self.steps.append(t)
        if len(self.steps) == self.window:
            self._look()

    def see_refused(self, refused: Tensor) -> None:
        """Keep which chains, (n,) bool, had a proposal refused for a NaN."""
        if self.wanted:
            self._refused = refused if self._refused is None else self._refused | refused

    def see_first(self, first: Tensor) -> None:
        """Keep the first bad step of each chain in a run of steps, :data:`NEVER` where there is none.

        In place: steps of a run hold the address of what they write to.
        """
        if self._first is not None:
            self._first.copy_(torch.minimum(self._first, first))
        elif self.wanted:
            self._first = first.clone()

    def check(self, t: int, state: list[Tensor], chain_ids: Tensor | None) -> None:
        """Look at the state after the last step t, and raise :class:`ChainDiverged` if a chain broke.

        The one place that waits for the device.
        """
        if not self.wanted:
            return
        self._look()
        for x in state:
            if surely_finite(x):
                continue
            broken = ~x.reshape(len(x), x[:1].numel()).isfinite().all(1)
            self._first = torch.where(broken, self.first.clamp(max=t), self.first)
        if is_traced(self.first):
            torch.ops.hatebm.report_diverged_(state[0], self.first, chain_ids, self._refused)
        else:
            report_diverged(self.first, chain_ids, self._refused)

    def _look(self) -> None:
        if not self.steps:
            return
        energies = torch.stack([e if e.dim() else e.expand(self.n) for e in self.energies])
        steps, self.energies, self.steps = self.steps, [], []
        if surely_finite(energies):
            return
        steps = torch.tensor(steps, dtype=torch.int64, device=energies.device)[:, None]
        broken = ~(energies > -math.inf) if self.refused else ~energies.isfinite()
        when = torch.where(broken, steps, NEVER).amin(0)
        self.see_first(when)


def surely_finite(x: Tensor) -> bool:
    """Whether a look at the sum is enough: a NaN or Inf goes through it. Nobody waits for a device."""
    return x.is_cpu and not is_traced(x) and math.isfinite(x.detach().sum())
