"""The compiled backends: the C++ loops for CPU tensors and the CUDA kernels for GPU tensors, in one module ``_C``."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hatebm.reference import ratio_coefficients

try:
    from hatebm import _C

    missing = ""
except ImportError as error:
    _C = None
    missing = f"hatebm._C is not built ({error}); install with `pip install -e .`"

GRAD_TYPES = {None: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
ADD = {"sequential": 0, "increment": 1, "fma": 2}
CLIP = {None: 0, "value": 1, "norm": 2}
FORMULAS = ("diagonal", "full", "mixture", "double_well", "funnel")
ACTIVATIONS = ("relu", "leaky_relu", "silu", "softplus", "tanh", "gelu", "gelu_tanh", "elu", "none")
MASK64 = (1 << 64) - 1
NEVER = (1 << 63) - 1


def unavailable(backend: str) -> str:
    """Why ``backend`` ("cpu", "cuda" or "triton") cannot run here; empty when it can."""
    if backend == "triton":
        return _triton_unavailable()
    if missing:
        return missing
    if backend == "cpu":
        return ""
    if _C.cuda is None:
        return "built without CUDA: no nvcc was found, or HATEBM_CUDA=0"
    if not torch.cuda.is_available():
        return f"this torch sees no CUDA device ({_C.cuda.unavailable() or 'torch is a CPU build'})"
    return _C.cuda.unavailable()


def _triton_unavailable() -> str:
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed; install with `pip install triton`"
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return "no GPU; TRITON_INTERPRET=1 runs the kernels on the CPU, slowly"


def langevin_step_(
    x: Tensor,
    grad: Tensor | None,
    *,
    step_size: float,
    noise_std: float,
    seed: int | Tensor,
    step: int | Tensor,
    inverse_temperature: float = 1.0,
    prior_precision: float = 0.0,
    add: str = "sequential",
    clip: str | None = None,
    clip_on: str = "grad",
    bound: float = 0.0,
    low: float = -math.inf,
    high: float = math.inf,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
    noise: Tensor | None = None,
    gz: Tensor | None = None,
    image: Tensor | None = None,
    grad_norm: Tensor | None = None,
    displacement: Tensor | None = None,
    diverged: Tensor | None = None,
) -> None:
    """Twin of :func:`hatebm.reference.langevin_step_`."""
    n, d = x.shape[0], math.prod(x.shape[1:])
    layout = _layout((x, grad, noise, gz, image))
    grad_type = GRAD_TYPES[None if grad is None else grad.dtype]
    arguments = (
        *(_address(x), _address(grad), grad_type, _address(noise), _address(gz), _address(image), n, d),
        *(step_size, noise_std, inverse_temperature, prior_precision),
        *(ADD[add], CLIP[clip], clip_on == "update", bound, low, high),
    )
    outputs = (_address(chain_ids), _address(grad_norm), _address(displacement), _address(diverged), layout)
    if x.device.type == "cpu":
        place = (int(seed) & MASK64, int(step), block, purpose)
        _C.langevin_step(*arguments, *place, *outputs, torch.get_num_threads())
    else:
        (seed, seed_at), (step, step_at) = _number(seed), _number(step)
        gathers = clip == "norm" or grad_norm is not None or displacement is not None
        room = 2 * _C.cuda.workspace(n, d) if gathers else 0
        sums = torch.empty(room, dtype=torch.float64, device=x.device) if room else None
        where = (_address(sums), *_stream(x), seed_at, step_at)
        _C.cuda.langevin_step(*arguments, seed & MASK64, step, block, purpose, *outputs, *where)


def ready_step(
    x: Tensor,
    *,
    seed: int,
    prior_precision: float,
    add: str,
    clip: str | None,
    clip_on: str,
    bound: float,
    low: float,
    high: float,
    block: int,
    purpose: int,
    chain_ids: Tensor | None,
    diverged: Tensor | None,
) -> Callable[[Tensor, int, float, float, float], None]:
    """:func:`langevin_step_` of a row-major x on the CPU, to be called again and again with what a step changes."""
    n, d = x.shape[0], math.prod(x.shape[1:])
    law = (prior_precision, ADD[add], CLIP[clip], clip_on == "update", bound, low, high, seed & MASK64)
    ends = (block, purpose, _address(chain_ids), 0, 0, _address(diverged), [], torch.get_num_threads())
    written = [x] if diverged is None else [x, diverged]

    def step(grad: Tensor, t: int, step_size: float, noise_std: float, temperature: float) -> None:
        rows = grad.contiguous()
        operands = (x.data_ptr(), rows.data_ptr(), GRAD_TYPES[rows.dtype], 0, 0, 0, n, d)
        _C.langevin_step(*operands, step_size, noise_std, 1.0 / temperature, *law, t, *ends)
        torch.autograd.graph.increment_version(written)

    return step


def langevin_ratio(
    x: Tensor,
    grad: Tensor,
    proposal: Tensor,
    proposal_grad: Tensor,
    *,
    step_size: float,
    noise_std: float,
    inverse_temperature: float = 1.0,
    prior_precision: float = 0.0,
    clip: str | None = None,
    clip_on: str = "grad",
    bound: float = 0.0,
) -> Tensor:
    """Twin of :func:`hatebm.reference.langevin_ratio`."""
    n, d = x.shape[0], math.prod(x.shape[1:])
    tensors = [v.contiguous() for v in (x, grad, proposal, proposal_grad)]
    out = torch.empty(n, dtype=torch.float64, device=x.device)
    arguments = (
        *(v.data_ptr() for v in tensors),
        *(GRAD_TYPES[grad.dtype], n, d),
        *(step_size, inverse_temperature, prior_precision, CLIP[clip], clip_on == "update", bound),
        *ratio_coefficients(noise_std, prior_precision),
        out.data_ptr(),
    )
    if x.device.type == "cpu":
        _C.langevin_ratio(*arguments, torch.get_num_threads())
    else:
        room = (3 if clip == "norm" else 1) * _C.cuda.workspace(n, d)
        sums = torch.empty(room, dtype=torch.float64, device=x.device) if room else None
        _C.cuda.langevin_ratio(*arguments, _address(sums), *_stream(x))
    return out


def has_vectors() -> bool:
    """Whether the CPU loops that are in use were built for a known instruction set."""
    return _C.instruction_set() != "baseline"


def look(formula: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The energies (n,) and the gradient of a :class:`hatebm.energies.kernel.Formula` at rows, (n, d) float32."""
    rows = rows.contiguous()
    energies, gradient = rows.new_empty(len(rows)), torch.empty_like(rows)
    arguments = (_numbers(formula), rows.data_ptr(), len(rows), energies.data_ptr(), gradient.data_ptr())
    if not rows.numel():
        energies.zero_()
    elif rows.device.type == "cpu":
        _C.look(*arguments, torch.get_num_threads())
    else:
        _C.cuda.look(*arguments, *_stream(rows))
    return energies, gradient


def whole_chains_(formula: Any, reach: tuple[float, ...], x: Tensor, steps: Any) -> Tensor:
    """Take the steps of chains in the energy of a formula, in place; the first bad step of each chain, (n,).

    Energy and gradient are known to be finite for |x| <= reach, of element 0 for the last of its numbers; steps are
    :class:`hatebm.whole.Steps`.
    """
    rows = x.contiguous()
    first_bad = torch.empty(len(x), dtype=torch.int64, device=x.device)
    schedule = schedule_of(steps, x.device)
    arguments = (_numbers(formula, reach), rows.data_ptr(), len(x), *_law(steps, schedule), first_bad.data_ptr())
    if x.device.type == "cpu":
        _C.whole(*arguments, torch.get_num_threads())
    else:
        _C.cuda.whole(*arguments, *_stream(x))
    mark_moved(x, rows)
    return first_bad


def _numbers(formula: Any, reach: tuple[float, ...] = (0.0,)) -> tuple:
    where, weight = _address(formula.where), _address(formula.weight)
    return FORMULAS.index(formula.kind), formula.d, formula.components, where, weight, reach[0], reach[-1]


def perceptron_chains_(x: Tensor, layers: Sequence[Any], steps: Any) -> Tensor:
    """Take the steps of chains in the energy of a perceptron, in place.

    Layers are :class:`hatebm.perceptron.Layer`, steps :class:`hatebm.whole.Steps`. Returns the first step at which each
    chain's energy or gradient was not finite, (n,).
    """
    first = torch.full((len(x),), NEVER, device=x.device)
    rows = x.contiguous()
    schedule = schedule_of(steps, x.device)
    law = (*_law(steps, schedule), first.data_ptr() if steps.watched else 0)
    if x.device.type == "cpu":
        _C.mlp_chains(rows.data_ptr(), len(x), _layers(layers), *law, torch.get_num_threads())
    else:
        numbers = _packed(layers)
        _C.cuda.mlp_chains(rows.data_ptr(), len(x), *_places(layers, numbers), *law, *_stream(x))
    mark_moved(x, rows)
    return first


def perceptron_fits(layers: Sequence[Any], device: torch.device) -> bool:
    """Whether a GPU's chip has room for what a chain in the energy of a perceptron puts out on the way."""
    return _C.cuda.mlp_fits(_places(layers, None)[2], device.index)


def _packed(layers: Sequence[Any]) -> Tensor:
    """The numbers of a perceptron as the CUDA kernel takes them: each layer forward, backward and its bias."""
    parts = []
    for layer in layers[:-1]:
        weight = layer.weight
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias
        parts += [pad(v, (0, _row(v.shape[1]) - v.shape[1])) for v in (weight, weight.T)]
        parts.append(pad(bias, (0, -len(bias) % 4)))
    last = layers[-1]
    parts += [
        pad(last.weight[0], (0, -last.weight.shape[1] % 4)),
        last.weight.new_zeros(1) if last.bias is None else last.bias,
    ]
    return torch.cat([part.flatten() for part in parts])


def _places(layers: Sequence[Any], numbers: Tensor | None) -> tuple:
    """Where the numbers lie, how many they are, each hidden layer, and where the last one's weights and bias lie."""
    at, hidden = 0, []
    for layer in layers[:-1]:
        outputs, inputs = layer.weight.shape
        backward = at + outputs * _row(inputs)
        bias = backward + inputs * _row(outputs)
        hidden.append((inputs, outputs, ACTIVATIONS.index(layer.activation), layer.parameter, at, backward, bias))
        at = bias + outputs + -outputs % 4
    width = layers[-1].weight.shape[1]
    count = 0 if numbers is None else numbers.numel()
    return _address(numbers), count, hidden, at, at + width + -width % 4


def _row(columns: int) -> int:
    """How far apart rows lie: whole quads, and one more, so that rows do not share banks of memory."""
    return columns + -columns % 4 + 4


def schedule_of(steps: Any, device: torch.device) -> Tensor:
    """Step sizes, noise and inverse temperatures on the device, (3, n_steps) float32."""
    return steps.schedule.to(device, non_blocking=True)


def _law(steps: Any, schedule: Tensor) -> tuple:
    """A run of steps as it crosses."""
    return (
        *(steps.n_steps, *(row.data_ptr() for row in schedule.unbind()), steps.prior_precision),
        *(ADD[steps.add], CLIP[steps.clip], steps.clip_on == "update", steps.bound, steps.low, steps.high),
        *(steps.noise_at == "before", steps.clamp_noise, steps.seed & MASK64, steps.first_step),
        _address(steps.chain_ids),
    )


def mark_moved(x: Tensor, rows: Tensor) -> None:
    """Say that a kernel moved the rows, a copy of x where x does not lie row by row."""
    if rows is not x:
        x.copy_(rows)
    elif not x.is_inference():
        torch.autograd.graph.increment_version(x)


def perceptron_look(x: Tensor, layers: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The energies (n,) of a perceptron and their gradient, like x: the bits that its chains step by."""
    rows = x.contiguous()
    energies, gradient = rows.new_empty(len(x)), torch.empty_like(rows)
    addresses = (energies.data_ptr(), gradient.data_ptr())
    if x.device.type == "cpu":
        _C.mlp_look(rows.data_ptr(), len(x), _layers(layers), *addresses, torch.get_num_threads())
    else:
        numbers = _packed(layers)
        _C.cuda.mlp_look(rows.data_ptr(), len(x), *_places(layers, numbers), *addresses, *_stream(x))
    return energies, gradient


def _layers(layers: Sequence[Any]) -> list[tuple]:
    sizes = [(_address(layer.weight), _address(layer.bias), *layer.weight.shape[::-1]) for layer in layers]
    ends = [(ACTIVATIONS.index(layer.activation), layer.parameter) for layer in layers]
    return [(*size, *end) for size, end in zip(sizes, ends, strict=True)]


def metropolis(
    log_ratio: Tensor,
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`hatebm.reference.metropolis`."""
    log_ratio = log_ratio.contiguous()
    accept = torch.empty_like(log_ratio, dtype=torch.bool)
    arguments = (log_ratio.data_ptr(), accept.data_ptr(), len(log_ratio))
    if log_ratio.device.type == "cpu":
        place = (int(seed) & MASK64, int(step), block, purpose, _address(chain_ids))
        _C.metropolis(*arguments, *place, torch.get_num_threads())
    else:
        (seed, seed_at), (step, step_at) = _number(seed), _number(step)
        place = (seed & MASK64, step, block, purpose, _address(chain_ids))
        _C.cuda.metropolis(*arguments, *place, *_stream(log_ratio), seed_at, step_at)
    return accept


def normal(
    shape: tuple[int, ...],
    *,
    seed: int | Tensor,
    step: int | Tensor,
    block: int = 0,
    purpose: int = 0,
    chain_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Twin of :func:`hatebm.reference.normal`."""
    out = torch.empty(shape, dtype=torch.float32, device=device)
    size = (out.data_ptr(), shape[0], math.prod(shape[1:]))
    if out.device.type == "cpu":
        place = (int(seed) & MASK64, int(step), block, purpose, _address(chain_ids))
        _C.normal(*size, *place, torch.get_num_threads())
    else:
        (seed, seed_at), (step, step_at) = _number(seed), _number(step)
        place = (seed & MASK64, step, block, purpose, _address(chain_ids))
        _C.cuda.normal(*size, *place, *_stream(out), seed_at, step_at)
    return out


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Twin of :func:`hatebm.reference.philox`."""
    shape = torch.broadcast_shapes(counter.shape[:-1], key.shape[:-1])
    counter = counter.expand(*shape, 4).contiguous()
    key = key.expand(*shape, 2).contiguous()
    words = torch.empty_like(counter)
    addresses = (counter.data_ptr(), key.data_ptr(), words.data_ptr(), math.prod(shape))
    if counter.device.type == "cpu":
        _C.philox(*addresses)
    else:
        _C.cuda.philox(*addresses, *_stream(counter))
    return words


def residual_add(gz: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """Twin of :func:`hatebm.reference.residual_add`."""
    if gz.stride() != y.stride() or not _is_dense(gz):
        gz, y = gz.contiguous(), y.contiguous()
    out = torch.empty_like(gz) if out is None else out
    addresses = (gz.data_ptr(), y.data_ptr(), out.data_ptr(), gz.numel())
    if gz.device.type == "cpu":
        _C.residual_add(*addresses, torch.get_num_threads())
    else:
        _C.cuda.residual_add(*addresses, *_stream(gz))
    return out


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _number(value: int | Tensor) -> tuple[int, int]:
    return (0, value.data_ptr()) if isinstance(value, Tensor) else (value, 0)


def _stream(tensor: Tensor) -> tuple[int, int]:
    index = tensor.device.index
    return index, torch._C._cuda_getCurrentRawStream(index)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.stride() == torch.empty_like(tensor).stride()


def _layout(operands: tuple[Tensor | None, ...]) -> list[list[int]]:
    """Empty when every tensor is row-major; else the sample's sizes and each tensor's strides, the chain's first.

    Neighbouring dimensions that lie as one in every tensor are merged.
    """
    for operand in operands:
        if operand is not None and not operand.is_contiguous():
            break
    else:
        return []
    x = operands[0]
    dims = []  # (size, stride in each tensor)
    for k in range(1, x.dim()):
        if x.shape[k] == 1:
            continue
        strides = tuple(0 if v is None else v.stride(k) for v in operands)
        if dims and all(outer == inner * x.shape[k] for outer, inner in zip(dims[-1][1], strides, strict=True)):
            dims[-1] = (dims[-1][0] * x.shape[k], strides)
        else:
            dims.append((x.shape[k], strides))
    dims = dims or [(1, (0,) * len(operands))]
    chains = [[] if v is None else [v.stride(0)] for v in operands]
    return [
        [size for size, _ in dims],
        *(chain and chain + [strides[i] for _, strides in dims] for i, chain in enumerate(chains)),
    ]
