"""What decides whether a chain's steps may be replayed as a CUDA graph, and how many of them."""

from typing import Any

import torch
from torch import Tensor, nn

from hatebm.dynamics.blocks import Blocks
from hatebm.dynamics.gradient import Potential
from hatebm.dynamics.laws import Laws
from hatebm.energies.closure import modules_of
from hatebm.engine.prepare.tracing import is_hooked
from hatebm.ops import reference
from hatebm.ops.backend import module_for


def unfit(blocks: Blocks, potential: Potential, state: list[Tensor]) -> str | None:
    """Why no step of a chain can be captured; None where it may be tried."""
    function = potential.energy if potential.grad_fn is None else potential.grad_fn
    parts = modules_of(function)
    tensors = [v for part in parts for v in (*part.parameters(recurse=False), *part.buffers(recurse=False))]
    x = state[0]
    reasons = {
        "the noise is given step by step": blocks.noise.given is not None,
        "there are no chains": not all(block.numel() for block in state),
        "the state steps on the reference backend": any(
            module_for("langevin_step_", blocks.backend, block.device, block.dtype) is reference for block in state
        ),
        "it runs while a graph is captured": x.is_cuda and torch.cuda.is_current_stream_capturing(),
        "it runs under autocast": torch.is_autocast_enabled(x.device.type),
        "the energy is compiled": any(map(_is_compiled, [function, *parts])),
        "the energy has hooks": any(is_hooked(part) or "forward" in vars(part) for part in parts),
        "the energy runs on several devices": any(v.device != x.device for v in tensors)
        or any(isinstance(part, nn.DataParallel) for part in parts),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def alike(laws: Laws, t: int, n_steps: int) -> int:
    """In how many of the steps from t on the blocks of step t move, and no others."""
    if laws.constant:
        return n_steps
    first = laws.groups_at(t)
    return next((i for i in range(1, n_steps) if laws.groups_at(t + i) != first), n_steps)


def _is_compiled(part: Any) -> bool:
    by_name = type(part).__name__ == "OptimizedModule"  # torch._dynamo takes a second to import
    scripted = isinstance(part, torch.jit.ScriptModule | torch.jit.ScriptFunction)
    marks = ("_torchdynamo_orig_callable", "_compiled_call_impl")
    return by_name or scripted or any(getattr(part, mark, None) is not None for mark in marks)
