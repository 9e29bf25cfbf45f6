"""The ops as ``torch.ops.hatebm.*``: schemas, fake tensors, autograd. Eager calls of hatebm.ops skip the dispatcher."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hatebm.ops import native
from hatebm.ops.backend import module_for
from hatebm.ops.checks import GRAD_DTYPES, check_halves, check_like, check_numbers, check_written

LIBRARY = torch.library.Library("hatebm", "DEF")
OPERANDS = ("noise", "gz", "image")  # of a step, shaped like x
WRITTEN = ("grad_norm", "displacement", "diverged")  # a number for each chain
PLACE = "SymInt seed, SymInt step, Tensor? seed_at=None, Tensor? step_at=None, int block=0, int purpose=0"

LIBRARY.define("philox(Tensor counter, Tensor key, str? backend=None) -> Tensor")
LIBRARY.define(
    f"normal(SymInt[] shape, *, {PLACE}, Tensor? chain_ids=None, Device? device=None, str? backend=None) -> Tensor"
)
LIBRARY.define("residual_add(Tensor gz, Tensor y, str? backend=None) -> Tensor")
LIBRARY.define(
    "langevin_step_(Tensor(a!) x, Tensor? grad, *, float step_size, float noise_std, "
    f"{PLACE}, float inverse_temperature=1.0, float prior_precision=0.0, float bound=0.0, Tensor? numbers=None, "
    'str add="sequential", str? clip=None, str clip_on="grad", float? low=None, float? high=None, '
    "Tensor? chain_ids=None, Tensor? noise=None, Tensor? gz=None, Tensor(b!)? image=None, Tensor(c!)? grad_norm=None, "
    "Tensor(d!)? displacement=None, Tensor(e!)? diverged=None, str? backend=None) -> ()"
)
LIBRARY.define(
    "langevin_ratio(Tensor x, Tensor grad, Tensor proposal, Tensor proposal_grad, *, float step_size, "
    "float noise_std, float inverse_temperature=1.0, float prior_precision=0.0, float bound=0.0, "
    'Tensor? numbers=None, Tensor? halves=None, str? clip=None, str clip_on="grad", str? backend=None) -> Tensor'
)
LIBRARY.define(f"metropolis(Tensor log_ratio, *, {PLACE}, Tensor? chain_ids=None, str? backend=None) -> Tensor")


def place(seed: int | Tensor, step: int | Tensor) -> dict[str, Any]:
    """Seed and step as the schemas take them: numbers, and tensors apart."""
    at = {"seed_at": seed, "step_at": step}
    tensors = {name: value for name, value in at.items() if isinstance(value, Tensor)}
    seed, step = (0 if isinstance(value, Tensor) else value for value in (seed, step))
    return {"seed": seed, "step": step, **tensors}


def is_traced(tensor: Tensor) -> bool:
    """Whether a call goes through the dispatcher: under torch.compile, for meta, fake and other tensor subclasses."""
    return torch.compiler.is_compiling() or type(tensor) is not Tensor or tensor.is_meta


def langevin_step_(
    x: Tensor, grad: Tensor | None, backend: str | None, *, seed: int | Tensor, step: int | Tensor, **settings: Any
) -> None:
    """Run a step whose arguments were checked, and tell autograd what was written."""
    if settings["numbers"] is not None:
        settings["numbers"] = settings["numbers"].detach()
    if is_traced(x):
        low, high = settings["low"], settings["high"]
        box = {"low": None if low == -math.inf else low, "high": None if high == math.inf else high}
        torch.ops.hatebm.langevin_step_(x, grad, **place(seed, step), **settings | box, backend=backend)
        return
    run = module_for("langevin_step_", backend, x.device, x.dtype).langevin_step_
    operands = (x, grad, settings["noise"], settings["gz"], settings["image"])
    run = _on_views(run) if any([v is not None and v.is_neg() for v in operands]) else run
    run(x, grad, seed=seed, step=step, **settings)
    written = (x, settings["image"], settings["grad_norm"], settings["displacement"], settings["diverged"])
    torch.autograd.graph.increment_version([v for v in written if v is not None and not v.is_inference()])


def _on_views(run: Callable[..., None]) -> Callable[..., None]:
    """A step of kernels, which read memory, on negative views: they are negated for it, and written back."""

    def step(x: Tensor, grad: Tensor | None, **settings: Any) -> None:
        views = {"x": x, "grad": grad} | {name: settings[name] for name in OPERANDS}
        plain = {name: v if v is None else v.resolve_neg() for name, v in views.items()}
        run(**settings | plain)
        for name, v in views.items():
            if v is not plain[name]:
                v.copy_(plain[name])

    return step


def ready_step(x: Tensor, backend: str | None, **settings: Any) -> Callable[..., None] | None:
    """A step of x for a whole run, called with the gradient, the step and the numbers of its law.

    None where there is none: then each step is one of :func:`langevin_step_`.
    """
    if is_traced(x) or x.device.type != "cpu" or not x.is_contiguous() or isinstance(settings["seed"], Tensor):
        return None
    module = module_for("langevin_step_", backend, x.device, x.dtype)
    return native.ready_step(x, **settings) if module is native else None


def langevin_ratio(
    x: Tensor, grad: Tensor, proposal: Tensor, proposal_grad: Tensor, backend: str | None, **settings: Any
) -> Tensor:
    """Run a ratio whose arguments were checked: (n,) float64, without a graph."""
    tensors = (x, grad, proposal, proposal_grad)
    if is_traced(x):
        return torch.ops.hatebm.langevin_ratio(*(v.detach() for v in tensors), **settings, backend=backend)
    return module_for("langevin_ratio", backend, x.device, x.dtype).langevin_ratio(*tensors, **settings)


def metropolis(
    log_ratio: Tensor, backend: str | None, *, seed: int | Tensor, step: int | Tensor, **settings: Any
) -> Tensor:
    """Run a Metropolis decision whose arguments were checked: (n,) bool."""
    if is_traced(log_ratio):
        return torch.ops.hatebm.metropolis(log_ratio.detach(), **place(seed, step), **settings, backend=backend)
    return module_for("metropolis", backend, log_ratio.device).metropolis(log_ratio, seed=seed, step=step, **settings)


def residual_add(gz: Tensor, y: Tensor, backend: str | None) -> Tensor:
    """Run G(z) + y on its backend; dtypes other than float32 take the reference."""
    chosen = backend or ("reference" if gz.dtype != torch.float32 else None)
    return module_for("residual_add", chosen, gz.device).residual_add(gz, y)


def _langevin_step(x, grad, *, seed, step, seed_at=None, step_at=None, low=None, high=None, backend=None, **settings):
    at = {"seed": seed if seed_at is None else seed_at, "step": step if step_at is None else step_at}
    box = {"low": float("-inf") if low is None else low, "high": float("inf") if high is None else high}
    settings = dict.fromkeys(OPERANDS) | settings
    for name, v in (("grad", grad), *((name, settings[name]) for name in OPERANDS)):
        check_like("langevin_step_", name, v, x, (x.dtype, *(GRAD_DTYPES if name == "grad" else ())))
    for name in WRITTEN:
        if settings.get(name) is not None:
            check_written("langevin_step_", name, settings[name], x, torch.int64 if name == "diverged" else x.dtype)
    check_numbers("langevin_step_", settings.get("numbers"), x)
    run = module_for("langevin_step_", backend, x.device, x.dtype).langevin_step_
    _on_views(run)(x, grad, **at, **box, **settings)


def _langevin_ratio(x, grad, proposal, proposal_grad, *, backend=None, **settings):
    check_like("langevin_ratio", "grad", grad, x, (x.dtype, *GRAD_DTYPES))
    for name, v, like in (("proposal", proposal, x), ("proposal_grad", proposal_grad, grad)):
        check_like("langevin_ratio", name, v, x, (like.dtype,))
    check_numbers("langevin_ratio", settings.get("numbers"), x)
    check_halves("langevin_ratio", settings.get("halves"), x)
    return langevin_ratio(x, grad, proposal, proposal_grad, backend, **settings)


def _metropolis(log_ratio, *, seed, step, seed_at=None, step_at=None, backend=None, **settings):
    at = {"seed": seed if seed_at is None else seed_at, "step": step if step_at is None else step_at}
    return metropolis(log_ratio, backend, **at, **settings)


def _normal(shape, *, seed, step, seed_at=None, step_at=None, chain_ids=None, device=None, backend=None, **settings):
    at = {"seed": seed if seed_at is None else seed_at, "step": step if step_at is None else step_at}
    device = torch.get_default_device() if device is None else device
    run = module_for("normal", backend, device).normal
    return run(tuple(shape), **at, **settings, chain_ids=chain_ids, device=device)


def _philox(counter, key, backend=None):
    return module_for("philox", backend, counter.device).philox(counter, key)


LIBRARY.impl("langevin_step_", _langevin_step, "CompositeExplicitAutograd")
LIBRARY.impl(
    "langevin_step_", torch.library.fallthrough_kernel, "Negative"
)  # torch's own fails on images that are None
LIBRARY.impl("langevin_ratio", _langevin_ratio, "CompositeExplicitAutograd")
LIBRARY.impl("metropolis", _metropolis, "CompositeExplicitAutograd")
LIBRARY.impl("normal", _normal, "CompositeExplicitAutograd")
LIBRARY.impl("philox", _philox, "CompositeExplicitAutograd")
for device_key in ("CPU", "CUDA"):
    LIBRARY.impl("residual_add", lambda gz, y, backend=None: residual_add(gz, y, backend), device_key)


@torch.library.register_fake("hatebm::langevin_step_", lib=LIBRARY)
def _(x, grad, **settings):
    return None


@torch.library.register_fake("hatebm::langevin_ratio", lib=LIBRARY)
def _(x, grad, proposal, proposal_grad, **settings):
    return x.new_empty(x.shape[0], dtype=torch.float64)


@torch.library.register_fake("hatebm::metropolis", lib=LIBRARY)
def _(log_ratio, **settings):
    return torch.empty_like(log_ratio, dtype=torch.bool, memory_format=torch.contiguous_format)


@torch.library.register_fake("hatebm::normal", lib=LIBRARY)
def _(shape, *, device=None, **settings):
    return torch.empty(shape, dtype=torch.float32, device=device)


@torch.library.register_fake("hatebm::philox", lib=LIBRARY)
def _(counter, key, backend=None):
    shape = torch.broadcast_shapes(counter.shape[:-1], key.shape[:-1])
    return counter.new_empty((*shape, 4))


@torch.library.register_fake("hatebm::residual_add", lib=LIBRARY)
def _(gz, y, backend=None):
    return torch.empty_like(gz if gz.stride() == y.stride() else gz.contiguous())


torch.library.register_autograd("hatebm::residual_add", lambda _, grad: (grad, grad, None), lib=LIBRARY)
