r"""How a chain fares: R-hat, effective sample size, autocorrelation, a summary and a picture.

All of them read draws: (steps, n, \*sample), a stack of states, which is one line to keep::

    states = []
    x, info = hatebm.langevin(
        energy, x, 1000, eps=0.1, seed=0, callback=lambda t, x: states.append(x), return_info=True
    )
    draws = torch.stack(states)  # of a tuple state: z, y = map(torch.stack, zip(*states))
    print(hatebm.diagnostics.summary(draws, info))
    hatebm.diagnostics.plot_chain(draws, info, "chain.png")

``every=10`` thins both, and the first states, still on their way, are left out by a slice: ``draws[100:]``.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from hatebm.diagnostics.chain_picture import plot_chain
from hatebm.diagnostics.convergence import autocorrelation, check_info, ess, moved, rhat_and_ess, split_rhat

__all__ = ["Summary", "autocorrelation", "ess", "plot_chain", "split_rhat", "summary"]

RHAT = 1.01
ESS_PER_CHAIN = 100
ACCEPTANCE = 0.2
TREND = 4  # standard errors
TREND_CHAINS = 8  # with fewer, 4 standard errors come by chance too often


@dataclass(frozen=True)
class Summary:
    """What :func:`summary` found; print it. What could not be known is NaN.

    Attributes:
        steps, chains, elements: the size of the draws.
        constant: how many elements never moved; the numbers below leave them out.
        worst_rhat, median_rhat: over elements.
        worst_bulk_ess, median_bulk_ess, worst_tail_ess, median_tail_ess: over elements, all chains together.
        acceptance: mean share of accepted proposals.
        displacement: mean L2 distance that a step moved a chain.
        energy: mean over the last quarter of the steps.
        energy_change: how much higher than over the quarter before, mean over chains.
        energy_error: standard error of energy_change, from the spread of independent chains.
        advice: one sentence, empty when nothing calls for it.
    """

    steps: int
    chains: int
    elements: int
    constant: int
    worst_rhat: float
    median_rhat: float
    worst_bulk_ess: float
    median_bulk_ess: float
    worst_tail_ess: float
    median_tail_ess: float
    acceptance: float
    displacement: float
    energy: float
    energy_change: float
    energy_error: float

    @property
    def advice(self) -> str:
        """One sentence on what to do next, or nothing."""
        trend = abs(self.energy_change) > TREND * self.energy_error and self.chains >= TREND_CHAINS
        ess, wanted = min(self.worst_bulk_ess, self.worst_tail_ess), ESS_PER_CHAIN * self.chains
        if self.constant == self.elements:
            return "No element moved: is the step size 0, or everything masked or held by a clamp?"
        if self.acceptance < ACCEPTANCE:
            return f"Fewer than {ACCEPTANCE:.0%} of the proposals are accepted: take a smaller step."
        if trend:
            way = "falls" if self.energy_change < 0 else "rises"
            return f"The energy still {way}: run longer, and leave the first steps out."
        if self.worst_rhat > RHAT:
            return f"R-hat above {RHAT}: the chains do not agree yet; run longer, or leave the first steps out."
        if ess < wanted:
            return f"ESS below {ESS_PER_CHAIN} a chain ({wanted} in all): run longer, or take a larger step."
        if math.isnan(ess):
            return "R-hat and ESS need at least 4 steps, and draws without NaN."
        return "R-hat needs at least two chains." if math.isnan(self.worst_rhat) else ""

    def __str__(self) -> str:
        sizes = [f"{self.steps} steps", _count(self.chains, "chain"), _count(self.elements, "element")]
        still = f", {self.constant} of them constant and left out" if self.constant else ""
        lines = [
            f"draws         {', '.join(sizes)}{still}",
            f"R-hat         worst {self.worst_rhat:<9.4f} median {self.median_rhat:.4f}",
            f"bulk ESS      worst {self.worst_bulk_ess:<9.0f} median {self.median_bulk_ess:.0f}",
            f"tail ESS      worst {self.worst_tail_ess:<9.0f} median {self.median_tail_ess:.0f}",
        ]
        if not math.isnan(self.acceptance):
            lines.append(f"acceptance    {self.acceptance:.0%} of the proposals")
        if not math.isnan(self.displacement):
            lines.append(f"displacement  {self.displacement:.3g} a step")
        if not math.isnan(self.energy):
            error = "" if math.isnan(self.energy_error) else f" +- {self.energy_error:.2g}"
            change = f"{self.energy_change:+.3g}{error} from the quarter before"
            lines.append(f"energy        {self.energy:.4g} over the last quarter, {change}")
        return "\n".join([*lines, self.advice] if self.advice else lines)


def summary(draws: Tensor, info: dict[str, Tensor] | None = None) -> Summary:
    r"""The worst and the median of R-hat and ESS, what ``info`` says of the steps, and one sentence of advice.

    Args:
        draws: (steps, n, \*sample), a stack of states; every element of the sample is a quantity of its own.
        info: what ``hatebm.langevin(..., return_info=True)`` returned beside the state.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
    """
    check_info("summary", info)
    rhat, bulk, tail = rhat_and_ess(draws)
    moving = moved(draws)
    told = ("accept", "displacement", "energy")
    facts = {name: info[name].double() for name in told if name in (info or {})}
    return Summary(
        steps=draws.shape[0],
        chains=draws.shape[1],
        elements=moving.numel(),
        constant=int((~moving).sum()),
        worst_rhat=_worst(rhat[moving]),
        median_rhat=_median(rhat[moving]),
        worst_bulk_ess=-_worst(-bulk[moving]),
        median_bulk_ess=_median(bulk[moving]),
        worst_tail_ess=-_worst(-tail[moving]),
        median_tail_ess=_median(tail[moving]),
        acceptance=_mean(facts.get("accept")),
        displacement=_mean(facts.get("displacement")),
        **_trend(facts.get("energy")),
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)


def _worst(values: Tensor) -> float:
    return float(values.max()) if len(values) else math.nan


def _median(values: Tensor) -> float:
    return float(values.quantile(0.5)) if len(values) else math.nan


def _mean(values: Tensor | None) -> float:
    return math.nan if values is None else float(values.mean())


def _trend(energies: Tensor | None) -> dict[str, float]:
    """Of (kept, n) energies: the last quarter's mean, its distance from the quarter before, and the error of that."""
    if energies is None or len(energies) < 4:
        return {"energy": math.nan, "energy_change": math.nan, "energy_error": math.nan}
    before, last = (part.mean(0) for part in energies[-(len(energies) // 4 * 2) :].chunk(2))
    apart = (energies != energies[:, :1]).any()  # one chain, or one energy for all, says nothing of its error
    error = float((last - before).std() / math.sqrt(len(last))) if apart else math.nan
    return {"energy": float(last.mean()), "energy_change": float((last - before).mean()), "energy_error": error}
