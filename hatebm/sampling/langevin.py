"""The drop-in: one call in place of the sampling loop."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hatebm.dynamics.fields import Schedule
from hatebm.dynamics.law import Dynamics
from hatebm.sampling.chain import Chain, State

DEFAULTS = {field.name: field.default for field in dataclasses.fields(Dynamics)}


def langevin(
    energy: Callable[..., Tensor] | None,
    x: State,
    n_steps: int,
    *,
    dynamics: Dynamics | None = None,
    step_size: Schedule | tuple[Schedule, ...] | None = None,
    noise_std: Schedule | tuple[Schedule | None, ...] | None = None,
    eps: Schedule | tuple[Schedule, ...] | None = None,
    temperature: Schedule | tuple[Schedule, ...] = 1.0,
    prior_precision: Any = 0.0,
    noise_at: str | tuple[str, ...] = "after",
    add: str | tuple[str, ...] = "sequential",
    clip: Any = None,
    clip_on: str | tuple[str, ...] = "grad",
    clamp: Any = None,
    clamp_at: str | tuple[str, ...] = "step",
    reflect: Any = None,
    friction: float | tuple[float, ...] | None = None,
    blocks: str = "joint",
    seed: int | None = None,
    chain_ids: Tensor | Sequence[int] | None = None,
    first_step: int = 0,
    energy_kwargs: dict[str, Any] | Callable[[int], dict[str, Any]] | None = None,
    grad_fn: Callable[..., Any] | None = None,
    mode: str = "eval",
    noise: Callable[[int], Any] | None = None,
    callback: Callable[[int, State], None] | None = None,
    every: int = 1,
    return_info: bool = False,
    nan: str = "raise",
    correct: str | None = None,
    grad_steps: int = 0,
    keep: str = "last",
    mask: Tensor | tuple[Tensor | None, ...] | None = None,
    backend: str | None = None,
    compile: str | bool = "auto",
    precision: str | None = None,
) -> State | list[State] | tuple[State | list[State], dict[str, Tensor]]:
    r"""Run n_steps of x <- clamp(x - step_size * clip(grad E(x) / T + prior_precision * x) + noise_std * eps).

    ``hatebm.langevin(energy, x, 60, step_size=10.0, noise_std=0.005)`` is ``Chain(energy, x, ...).run(60)``: the input
    is not modified, the result carries no graph, and modules are left as they were found. The fields of the law are
    those of :class:`hatebm.Dynamics` (or pass one as ``dynamics``), all other arguments those of
    :class:`hatebm.Chain` and :meth:`hatebm.Chain.run`.

    Args:
        energy: callable or module, (n, \*sample) to (n,) or a scalar, low = likely, or to a dict of parts.
        x: the initial state, (n, \*sample), or a tuple of blocks, which the energy takes as arguments.
        n_steps: number of steps.

    Returns:
        The state after the last step, or with ``keep="steps"`` the list of those after each; with ``return_info`` also
        the dict that :meth:`hatebm.Chain.run` describes.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        ChainDiverged: a NaN or Inf, with the step and the chains where it began.
    """
    law = {
        "step_size": step_size,
        "noise_std": noise_std,
        "eps": eps,
        "temperature": temperature,
        "prior_precision": prior_precision,
        "noise_at": noise_at,
        "add": add,
        "clip": clip,
        "clip_on": clip_on,
        "clamp": clamp,
        "clamp_at": clamp_at,
        "reflect": reflect,
        "friction": friction,
        "blocks": blocks,
    }
    chain = Chain(
        energy,
        x,
        dynamics,
        seed=seed,
        chain_ids=chain_ids,
        first_step=first_step,
        energy_kwargs=energy_kwargs,
        grad_fn=grad_fn,
        mode=mode,
        noise=noise,
        nan=nan,
        correct=correct,
        mask=mask,
        backend=backend,
        compile=compile,
        precision=precision,
        **{name: value for name, value in law.items() if not _is_default(name, value)},
    )
    how = {"callback": callback, "every": every, "return_info": return_info}
    return chain.run(n_steps, **how, grad_steps=grad_steps, keep=keep)


def _is_default(name: str, value: Any) -> bool:
    return type(value) is type(DEFAULTS[name]) and value == DEFAULTS[name]
