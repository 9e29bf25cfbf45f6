"""Whole chains in C++ for CPU tensors and in CUDA for GPU tensors: in energies with a formula, and in perceptrons."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hatebm.ops.checks import require
from hatebm.ops.native.extension import _C, ADD, CLIP, MASK64, address, readable, stream

FORMULAS = {  # d and components to how many numbers `where` and `weight` hold
    "diagonal": lambda d, _: (d, d),
    "full": lambda d, _: (d, d * d),
    "mixture": lambda d, components: (components * d, 3 * components),
    "double_well": lambda *_: (3, 0),
    "funnel": lambda *_: (1, 0),
}
ACTIVATIONS = ("relu", "leaky_relu", "silu", "softplus", "tanh", "gelu", "gelu_tanh", "elu", "none")
NEVER = (1 << 63) - 1


def look(formula: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The energies (n,) and the gradient of a :class:`hatebm.energies.kernel.Formula` at rows, (n, d) float32."""
    rows = readable(rows)
    energies, gradient = rows.new_empty(len(rows)), torch.empty_like(rows)
    n, size, here = len(rows), len(rows) * formula.d, rows.device
    found = (address(energies, n, here), address(gradient, size, here))
    arguments = (_numbers(formula, here), address(rows, size, here), n, *found)
    if not rows.numel():
        energies.zero_()
    elif rows.device.type == "cpu":
        _C.look(*arguments, torch.get_num_threads())
    else:
        _C.cuda.look(*arguments, *stream(rows))
    return energies, gradient


def whole_chains_(formula: Any, reach: tuple[float, ...], x: Tensor, steps: Any) -> Tensor:
    """Take the steps of chains in the energy of a formula, in place; the first bad step of each chain, (n,).

    Energy and gradient are known to be finite for |x| <= reach, of element 0 for the last of its numbers; steps are
    :class:`hatebm.energies.steps.Steps`.
    """
    rows, n, here = readable(x), x.shape[0], x.device
    first_bad = x.new_empty(n, dtype=torch.int64)
    run = run_of(steps, n, formula.d, here, first_bad)
    arguments = (_numbers(formula, here, reach), address(rows, n * formula.d, here), n, run)
    if steps.proposals is not None:
        _C.corrected(*arguments, proposals_at(steps, n, formula.d, here), torch.get_num_threads())
    elif x.device.type == "cpu":
        _C.whole(*arguments, torch.get_num_threads())
    else:
        _C.cuda.whole(*arguments, *stream(x))
    mark_moved(x, rows)
    return first_bad


def _numbers(formula: Any, here: torch.device, reach: tuple[float, ...] = (0.0,)) -> tuple:
    sizes = FORMULAS[formula.kind](formula.d, formula.components)
    where, weight = (address(v, size, here) for v, size in zip((formula.where, formula.weight), sizes, strict=True))
    return list(FORMULAS).index(formula.kind), formula.d, formula.components, where, weight, reach[0], reach[-1]


def perceptron_look(x: Tensor, layers: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The energies (n,) of a perceptron and their gradient, like x: the bits that its chains step by."""
    rows, n, here = readable(x), len(x), x.device
    energies, gradient = rows.new_empty(n), torch.empty_like(rows)
    size = n * layers[0].weight.shape[1]
    start, addresses = address(rows, size, here), (address(energies, n, here), address(gradient, size, here))
    if here.type == "cpu":
        _C.mlp_look(start, n, _layers(layers), *addresses, torch.get_num_threads())
    else:
        numbers = _packed(layers)
        _C.cuda.mlp_look(start, n, *_places(layers, numbers), *addresses, *stream(x))
    return energies, gradient


def perceptron_chains_(x: Tensor, layers: Sequence[Any], steps: Any) -> Tensor:
    """Take the steps of chains in the energy of a perceptron, in place.

    Layers are :class:`hatebm.energies.perceptron.Layer`, steps :class:`hatebm.energies.steps.Steps`. Returns the
    first step at which each chain's energy or gradient was not finite, (n,).
    """
    rows, n, here = readable(x), len(x), x.device
    first = torch.full((n,), NEVER, dtype=torch.int64, device=here)
    d = layers[0].weight.shape[1]
    run = run_of(steps, n, d, here, first if steps.watched else None)
    start = address(rows, n * d, here)
    if here.type == "cpu":
        _C.mlp_chains(start, n, _layers(layers), run, torch.get_num_threads())
    else:
        numbers = _packed(layers)
        _C.cuda.mlp_chains(start, n, *_places(layers, numbers), run, *stream(x))
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
    count = at + width + -width % 4 + 1
    if numbers is None:
        return 0, 0, hidden, at, count - 1
    return address(numbers, count, numbers.device), count, hidden, at, count - 1


def _row(columns: int) -> int:
    """How far apart rows lie: whole quads, and one more, so that rows do not share banks of memory."""
    return columns + -columns % 4 + 4


def _layers(layers: Sequence[Any]) -> list[tuple]:
    told = []
    for layer in layers:
        (outputs, inputs), here = layer.weight.shape, layer.weight.device
        places = (address(layer.weight, outputs * inputs, here), address(layer.bias, outputs, here))
        told.append((*places, inputs, outputs, ACTIVATIONS.index(layer.activation), layer.parameter))
    return told


def run_of(steps: Any, n: int, d: int, here: torch.device, first_bad: Tensor | None) -> tuple:
    """A run of steps of n chains of d elements as it crosses."""
    return (
        *(steps.n_steps, *schedule_at(steps, n, here), steps.noisy, steps.prior),
        *(ADD[steps.add], CLIP[steps.clip], steps.clip_on == "update", steps.low, steps.high),
        *(steps.noise_at == "before", steps.clamp_noise, steps.seed & MASK64, steps.first_step, steps.block),
        *(address(v, n, here, torch.int64) for v in (steps.chain_ids, first_bad)),
        *(address(steps.mask, n * d, here, torch.bool), steps.reflect, told_of(steps, n, here)),
    )


def told_of(steps: Any, n: int, here: torch.device) -> tuple[int, int, int, int, int]:
    """Where what is told of a run's steps is to lie."""
    if steps.facts is None:
        return 0, 0, 0, 0, 0
    every, *rows = steps.facts
    kept = kept_steps(steps)
    return every, *(address(row, kept * n, here) for row in rows)


def kept_steps(steps: Any) -> int:
    """Of how many steps of a run something is told."""
    return len(range(-steps.first_step % steps.facts.every, steps.n_steps, steps.facts.every))


def proposals_at(steps: Any, n: int, d: int, here: torch.device) -> tuple:
    """The proposals of a run as they cross."""
    corrected, leapfrog_steps, shares, velocity, refused, *rows = steps.proposals
    kept = 0 if steps.facts is None else kept_steps(steps)
    require(shares.shape == (8, steps.n_steps), "hatebm", "shares", f"of shape (8, {steps.n_steps})", shares)
    return (
        *(corrected, leapfrog_steps, address(shares, shares.numel(), shares.device, torch.float64), *shares.stride()),
        *(address(velocity, n * d, here), address(refused, n, here, torch.bool)),
        *(address(row, kept * n, here) for row in rows),
    )


def schedule_at(steps: Any, n: int, here: torch.device) -> tuple[int, int, int, int]:
    """Where the schedule of n chains lies, and how far apart the numbers of its fields, steps and chains."""
    schedule, several = steps.schedule, steps.schedule.dim() == 3
    fits = schedule.shape in ((5, steps.n_steps), (5, steps.n_steps, n)) and not schedule.is_neg()
    require(fits, "hatebm", "schedule", f"of shape (5, {steps.n_steps}) or (5, {steps.n_steps}, {n})", schedule)
    apart = schedule.stride() if several else (*schedule.stride(), 0)
    return address(schedule, schedule.numel(), here), *apart


def mark_moved(x: Tensor, rows: Tensor) -> None:
    """Say that a kernel moved the rows, a copy of x where x does not lie row by row."""
    if rows is not x:
        x.copy_(rows)
    elif not x.is_inference():
        torch.autograd.graph.increment_version(x)
