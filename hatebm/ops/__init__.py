"""The ops of the core: checked at the door, sent to a backend, registered as ``torch.ops.hatebm.*``.

A backend is a module with the functions of :mod:`hatebm.ops.reference`. ``backend=None`` takes the first that can run:
on the CPU ``cpu``, on a CUDA device ``cuda`` then ``triton``, elsewhere and for float64 states ``reference``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hatebm.ops import library
from hatebm.ops.backend import check_backend
from hatebm.ops.checks import (
    GRAD_DTYPES,
    check_dense,
    check_like,
    check_state,
    check_writable,
    check_written,
    checked_choice,
    describe,
    overlaps,
    require,
)
from hatebm.ops.law_numbers import Number, checked_numbers_of_law
from hatebm.ops.native.extension import ADD
from hatebm.ops.noise import Purpose
from hatebm.ops.scalars import (
    checked_box,
    checked_chain_ids,
    checked_draw,
    largest,
    sides_of,
)

CLIP_ON = ("grad", "update")


def residual_add(gz: Tensor, y: Tensor, *, backend: str | None = None) -> Tensor:
    r"""The hat's input G(z) + y, both (n, \*sample) of one dtype, differentiable in both."""
    require(
        isinstance(gz, Tensor) and gz.is_floating_point(),
        "residual_add",
        "gz",
        "a floating-point tensor",
        gz,
        TypeError,
    )
    for name, value in (("gz", gz), ("y", y)):
        require(isinstance(value, Tensor), "residual_add", name, "a tensor", value, TypeError)
        check_dense("residual_add", name, value)
    check_backend("residual_add", backend)
    like = y.shape == gz.shape and y.dtype == gz.dtype and y.device == gz.device
    require(like, "residual_add", "y", f"{describe(gz)} like gz", y)
    read = gz.dtype == torch.float32 or backend in (None, "reference")
    require(read, "residual_add", "gz", f"float32 on backend {backend!r}", gz)
    if library.is_traced(gz) or (torch.is_grad_enabled() and (gz.requires_grad or y.requires_grad)):
        return torch.ops.hatebm.residual_add(gz, y, backend)
    return library.residual_add(gz, y, backend)


def langevin_step_(
    x: Tensor,
    grad: Tensor | None,
    *,
    step_size: Number,
    noise_std: Number | None = None,
    seed: int | Tensor | None = None,
    step: int | Tensor | None = None,
    temperature: Number = 1.0,
    prior_precision: Number = 0.0,
    add: str = "sequential",
    clip: tuple[str, Number] | None = None,
    clip_on: str = "grad",
    clamp: tuple[float, float] | None = None,
    block: int = 0,
    purpose: int = Purpose.LANGEVIN,
    chain_ids: Tensor | Sequence[int] | None = None,
    noise: Tensor | None = None,
    gz: Tensor | None = None,
    image: Tensor | None = None,
    grad_norm: Tensor | None = None,
    displacement: Tensor | None = None,
    diverged: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""One Langevin step in place, in one pass over memory; returns ``x``.

    x <- clamp(x - step_size * clip(grad / temperature + prior_precision * x) + noise_std * eps), eps ~ N(0, 1)

    Args:
        x: (n, \*sample), float32 (float64 on the reference), any strides without overlap; updated in place.
        grad: gradient of the energy, shaped like x, float32, bfloat16 or float16; None adds the noise alone.
        step_size: factor of the gradient.
        noise_std: standard deviation of the noise; default sqrt(2 * step_size), 0 draws none.
        seed, step: where the noise is drawn, see :func:`hatebm.normal`; needed when noise is drawn.
        temperature: divides the gradient.
        prior_precision: adds prior_precision * x to the gradient, before the clip.
        add: order of rounding: "sequential" (x - s g) + n, "increment" x + (n - s g), or
            "fma": fma(noise_std, eps, fma(-s, g, x)).
        clip: ("value", c) elementwise, or ("norm", c) for the L2 norm of each sample (a factor, exactly 1 below c).
        clip_on: "grad", or "update" for step_size times the gradient.
        clamp: (low, high).
            step_size, noise_std, temperature, prior_precision and the bound of a clip may be
            :func:`hatebm.per_chain` of (n,), a number for each chain.
        block, purpose, chain_ids: see :func:`hatebm.normal`.
        noise: eps itself, shaped like x, in place of a draw.
        gz, image: shaped like x, float32: ``image`` receives gz + x in the same pass.
        grad_norm, displacement: (n,), dtype of x: receive the L2 norm of grad / temperature + prior_precision * x
            before the clip, 0 without ``grad``, and of the move.
        diverged: (n,) int64: receives min(diverged, step) for chains whose gradient is not finite.
        backend: one of ``hatebm.backends()``; None takes the fastest that can run.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        RuntimeError: a chosen backend that cannot run here, with the reason.
    """
    name = "langevin_step_"
    check_state(name, x)
    check_writable(name, x)
    check_like(name, "grad", grad, x, (x.dtype, *GRAD_DTYPES))
    for label, value in (("noise", noise), ("gz", gz), ("image", image)):
        if value is not None:
            check_like(name, label, value, x, (x.dtype,))
    require((gz is None) == (image is None), name, "image", "a tensor exactly when gz is one", image)
    if image is not None:
        require(not overlaps(image), name, "image", "a tensor whose elements do not overlap in memory", image)
    for label, value in (("grad_norm", grad_norm), ("displacement", displacement), ("diverged", diverged)):
        if value is not None:
            check_written(name, label, value, x, torch.int64 if label == "diverged" else x.dtype)
    most = largest(x.dtype)
    law = (step_size, noise_std, temperature, prior_precision)
    numbers, kind = checked_numbers_of_law(name, x, most, *law, clip)
    checked_choice(name, "add", add, ADD)
    checked_choice(name, "clip_on", clip_on, CLIP_ON)
    check_backend(name, backend)
    low, high = sides_of(checked_box(name, "clamp", clamp, most))
    drawn = numbers["noise_std"] != 0 and noise is None
    if drawn or diverged is not None:
        require(step is not None, name, "step", "a step index", step)
    if drawn:
        require(seed is not None, name, "seed", "a seed, since noise is drawn", seed)
    seed, step = 0 if seed is None else seed, 0 if step is None else step
    seed, step = checked_draw(name, seed, step, block, purpose, x.device)
    chain_ids = checked_chain_ids(name, chain_ids, x.shape[0], x.device)
    settings = numbers | {
        "add": add,
        "clip": kind,
        "clip_on": clip_on,
        "low": low,
        "high": high,
        "block": int(block),
        "purpose": int(purpose),
        "chain_ids": chain_ids,
        "noise": noise,
        "gz": gz,
        "image": image,
        "grad_norm": grad_norm,
        "displacement": displacement,
        "diverged": diverged,
    }
    library.langevin_step_(x, grad, backend, seed=seed, step=step, **settings)
    return x


def langevin_ratio(
    x: Tensor,
    grad: Tensor,
    proposal: Tensor,
    proposal_grad: Tensor,
    *,
    step_size: Number,
    noise_std: Number,
    temperature: Number = 1.0,
    prior_precision: Number = 0.0,
    clip: tuple[str, Number] | None = None,
    clip_on: str = "grad",
    backend: str | None = None,
) -> Tensor:
    r"""What a Metropolis-Hastings log ratio of Langevin proposals sums over elements: (n,), float64, without a graph.

    log q(x | x') - log q(x' | x) - prior_precision (|x'|^2 - |x|^2) / 2, where x' is the proposal and
    q(b | a) = N(b; a - drift(a), noise_std^2) with the drift of :func:`langevin_step_`, rounded like there:
    drift(a) = step_size * clip(grad(a) / temperature + prior_precision * a). Add (E(x) - E(x')) / temperature for the
    log ratio of exp(-E / temperature - prior_precision |x|^2 / 2). A step_size of 0 leaves its last term alone.

    Source: Roberts & Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations"
    (1996).

    Args:
        x: (n, \*sample), float32 (float64 on the reference), where the proposal was made.
        grad: gradient of the energy at x, shaped like x, float32, bfloat16 or float16.
        proposal: shaped like x, of its dtype.
        proposal_grad: gradient of the energy at the proposal, shaped like x, of the dtype of grad.
        step_size, temperature, prior_precision, clip, clip_on: of the step that proposed, see :func:`langevin_step_`.
        noise_std: its noise, > 0.
        backend: one of ``hatebm.backends()``; None takes the fastest that can run.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        RuntimeError: a chosen backend that cannot run here, with the reason.
    """
    name = "langevin_ratio"
    check_state(name, x)
    check_backend(name, backend)
    for label, value in (("grad", grad), ("proposal", proposal), ("proposal_grad", proposal_grad)):
        require(isinstance(value, Tensor), name, label, "a tensor", value, TypeError)
    check_like(name, "grad", grad, x, (x.dtype, *GRAD_DTYPES))
    check_like(name, "proposal", proposal, x, (x.dtype,))
    check_like(name, "proposal_grad", proposal_grad, x, (grad.dtype,))
    checked_choice(name, "clip_on", clip_on, CLIP_ON)
    law = (step_size, noise_std, temperature, prior_precision)
    numbers, kind = checked_numbers_of_law(name, x, largest(x.dtype), *law, clip, ratio=True)
    settings = numbers | {"clip": kind, "clip_on": clip_on}
    return library.langevin_ratio(x, grad, proposal, proposal_grad, backend, **settings)


def metropolis(
    log_ratio: Tensor,
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = Purpose.METROPOLIS,
    chain_ids: Tensor | Sequence[int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Which proposals are accepted: log u < log_ratio, (n,) bool, u ~ U(0, 1] a number of each chain's own.

    u = (float32(w >> 1) + 1/2) / 2^31 with w the first Philox word of the chain at this step, and log u is Box-Muller's
    polynomial, so that every backend decides alike. A NaN is refused.

    Source: Metropolis et al., "Equation of state calculations by fast computing machines" (1953).

    Args:
        log_ratio: (n,), float64.
        seed, step, block, purpose, chain_ids: where the numbers are drawn, see :func:`hatebm.normal`.
        backend: one of ``hatebm.backends()``; None takes the fastest that can run.

    Raises:
        TypeError, ValueError: naming the argument, what was wanted and what came.
        RuntimeError: a chosen backend that cannot run here, with the reason.
    """
    name = "metropolis"
    require(isinstance(log_ratio, Tensor), name, "log_ratio", "a tensor", log_ratio, TypeError)
    check_dense(name, "log_ratio", log_ratio)
    check_backend(name, backend)
    require(log_ratio.dtype == torch.float64, name, "log_ratio", "float64", log_ratio, TypeError)
    require(log_ratio.dim() == 1, name, "log_ratio", "(n,), one number a chain", log_ratio)
    seed, step = checked_draw(name, seed, step, block, purpose, log_ratio.device)
    chain_ids = checked_chain_ids(name, chain_ids, len(log_ratio), log_ratio.device)
    place = {"block": int(block), "purpose": int(purpose), "chain_ids": chain_ids}
    return library.metropolis(log_ratio, backend, seed=seed, step=step, **place)
