"""One picture of a chain: traces, autocorrelation, energies, and how far or how often it moves."""

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hatebm.diagnostics.convergence import autocorrelation, check_draws, check_info, ess, moved, split_rhat
from hatebm.ops.checks import require
from hatebm.ops.scalars import as_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe & Ito: told apart by colour-blind readers too
RANGE = "0.88"
INK = "0.25"


def plot_chain(
    draws: Tensor,
    info: dict[str, Tensor] | None = None,
    path: str | PathLike | None = None,
    quantities: Sequence[int | tuple[int, ...]] | None = None,
) -> "Figure":
    r"""Draw, for a few elements, the traces of a few chains beside the autocorrelation, and what ``info`` knows below.

    Chains are coloured in the order of the batch, the first four; grey is the range of all of them.

    Args:
        draws: (steps, n, \*sample), a stack of states.
        info: what ``hatebm.langevin(..., return_info=True)`` returned beside the state: energies, and acceptance or
            else displacement get a panel, and its steps are the time axis of draws that were kept at the same steps.
        path: where to save the picture, in the format that its ending says.
        quantities: which elements of the sample: indices into it, or into the flattened one; default the element
            whose chains agree least by :func:`hatebm.diagnostics.split_rhat` (of one chain: that has the smallest
            ESS), the median one and the one whose chains agree best. Finding these reads all draws.

    Returns:
        The matplotlib figure.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        ImportError: without matplotlib.
    """
    name = "plot_chain"
    check_draws(name, draws)
    require(draws.numel() > 0, name, "draws", "(steps, n, *sample), none of them 0", draws)
    check_info(name, info)
    info = info or {}
    require(not info or "step" in info, name, "info", "the dict that a run returns, with 'step'", list(info))
    listed = quantities is None or isinstance(quantities, list | tuple)
    require(listed, name, "quantities", "a list of indices into the sample", quantities, TypeError)
    saves = isinstance(path, str | PathLike) and path != ""
    require(path is None or saves, name, "path", "where to save, or None", path, TypeError)
    sample = draws.shape[2:]
    chosen = _telling(draws) if quantities is None else [_flat_index(index, sample) for index in quantities]
    require(len(chosen) > 0, name, "quantities", "one index or more", quantities)
    from matplotlib.figure import Figure

    steps = info["step"].tolist() if info else []
    times, unit = (steps, "steps") if len(steps) == len(draws) else (list(range(len(draws))), "draws")
    facts = _facts(info)
    rows = len(chosen) + (len(facts) > 0)
    figure = Figure(figsize=(10, 0.5 + 2.3 * rows), layout="constrained")
    cells = figure.add_gridspec(rows, 2, width_ratios=(3, 2))
    for row, k in enumerate(chosen):
        x = draws.detach().reshape(*draws.shape[:2], -1)[:, :, k].double().cpu()
        _draw_traces(figure.add_subplot(cells[row, 0]), times, x, _element_name(k, sample), unit)
        _draw_autocorrelation(figure.add_subplot(cells[row, 1]), times, x, unit)
    for i, (label, (values, limits)) in enumerate(facts.items()):
        axes = figure.add_subplot(cells[-1, i] if len(facts) == 2 else cells[-1, :])
        _draw_traces(axes, steps, values, label, "steps")
        axes.set_ylim(limits)
    _draw_legend(figure, draws.shape[1])
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure


def _telling(draws: Tensor) -> list[int]:
    """Flat indices of the elements, among those that move, with the worst, the median and the best mark."""
    moving = moved(draws).flatten().nonzero()[:, 0]
    if not len(moving):
        return [0]
    mark = split_rhat(draws) if draws.shape[1] > 1 else -ess(draws)
    order = moving[mark.flatten()[moving].argsort(descending=True)].tolist()
    return list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]))


def _flat_index(index: int | tuple[int, ...], sample: torch.Size) -> int:
    whole = [as_whole(i) for i in index] if isinstance(index, tuple) else [as_whole(index)]
    sizes = sample if isinstance(index, tuple) else (sample.numel(),)
    fits = len(whole) == len(sizes) and all(
        i is not None and -size <= i < size for i, size in zip(whole, sizes, strict=True)
    )
    require(fits, "plot_chain", "quantities", f"indices into the sample of shape {tuple(sample)}", index)
    flat = 0
    for i, size in zip(whole, sizes, strict=True):
        flat = flat * size + i % size
    return flat


def _element_name(k: int, sample: torch.Size) -> str:
    index = []
    for size in reversed(sample):
        k, i = divmod(k, size)
        index.insert(0, str(i))
    return f"x[{', '.join(index)}]" if index else "x"


def _facts(info: dict[str, Tensor]) -> dict[str, tuple[Tensor, tuple[float, float]]]:
    """The panels of the last row: label to (kept, n) values and the limits of their axis."""
    told = [name for name in ("energy", "accept", "displacement") if name in info and info[name].numel()]
    kept = {name: info[name].double().cpu() for name in told}
    facts = {}
    if "energy" in kept:
        facts["energy"] = kept["energy"], _settled_limits(kept["energy"])
    if "accept" in kept:
        accepted = kept["accept"]
        count = torch.arange(1, len(accepted) + 1, dtype=accepted.dtype, device=accepted.device)[:, None]
        facts["accepted so far"] = accepted.cumsum(0) / count, (0.0, 1.05)
    elif "displacement" in kept:
        facts["displacement (L2)"] = kept["displacement"], _settled_limits(kept["displacement"])
    return facts


def _settled_limits(values: Tensor) -> tuple[float, float]:
    """Room for the last 90 %: the first steps from afar would flatten all the rest."""
    settled = values[len(values) // 10 :]
    settled = settled[settled.isfinite()]
    low, high = (float(v) for v in settled.aminmax()) if len(settled) else (0.0, 0.0)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _draw_traces(axes: "Axes", times: Sequence[int], x: Tensor, label: str, unit: str) -> None:
    if x.shape[1] > len(COLOURS):
        axes.fill_between(times, x.amin(1).numpy(), x.amax(1).numpy(), color=RANGE, linewidth=0)
    for chain, colour in zip(x.T, COLOURS, strict=False):
        axes.plot(times, chain.numpy(), color=colour, linewidth=0.8, alpha=0.85)
    axes.margins(x=0.01)
    axes.set_ylabel(label)
    axes.set_xlabel(unit.removesuffix("s"))
    _tidy(axes)


def _draw_autocorrelation(axes: "Axes", times: Sequence[int], x: Tensor, unit: str) -> None:
    size, steps = x.numel(), len(x)
    bulk, tail, rhat = float(ess(x)), float(ess(x, "tail")), float(split_rhat(x))
    decayed = math.ceil(5 * size / bulk) if bulk > 0 else steps
    shown = min(max(decayed, 20), steps // 2 + 1)
    spacing = times[1] - times[0] if steps > 1 else 1
    lags, rho = [lag * spacing for lag in range(shown)], autocorrelation(x)[:shown]
    axes.fill_between(lags, 0, rho.numpy(), color=RANGE, linewidth=0)
    axes.plot(lags, rho.numpy(), color=INK, linewidth=1.2)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_xlim(0, max(lags[-1], spacing))
    axes.set_ylim(min(-0.1, 1.1 * float(rho.nan_to_num(0).min())), 1.05)
    axes.set_ylabel("autocorrelation")
    axes.set_xlabel(f"lag ({unit})")
    agreement = "" if math.isnan(rhat) else f";  R-hat {rhat:.3f}"
    title = f"ESS {bulk:.0f} bulk, {tail:.0f} tail of {size}{agreement}" if bool(moved(x)) else "constant"
    axes.set_title(title, fontsize=9)
    _tidy(axes)


def _draw_legend(figure: "Figure", chains: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys = [Line2D([], [], color=colour, label=f"chain {c}") for c, colour in enumerate(COLOURS[:chains])]
    if chains > len(COLOURS):
        keys.append(Patch(color=RANGE, label=f"range of all {chains} chains"))
    figure.legend(handles=keys, loc="outside upper left", ncols=len(keys), frameon=False, fontsize=9)


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
