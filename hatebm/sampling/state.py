"""The state of a chain at the door: a tensor, or several as blocks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hatebm.ops.checks import check_state, describe, is_dense, require

State = Tensor | tuple[Tensor, ...]
WANTED = "a tensor or a tuple of tensors"


def checked_state(op: str, name: str, x: State) -> list[Tensor]:
    """The blocks of a state, or of a list of them, as tensors of their own."""
    blocks = _blocks(op, name, x)
    for block in blocks:
        check_state(op, block.detach(), name)
        same = block.shape[0] == blocks[0].shape[0] and block.device == blocks[0].device
        require(same, op, name, "blocks with one number of chains on one device", block)
    with torch.inference_mode(False):
        return [block.clone() if torch.is_grad_enabled() else block.detach().clone() for block in blocks]


def checked_like(op: str, name: str, x: State, whose: str, own: Sequence[Tensor]) -> list[Tensor]:
    """The blocks of a saved state, on the device of a chain's own, and like these but for the number of chains."""
    blocks = _blocks(op, name, x)
    for block in blocks:
        require(is_dense(block) and not block.is_meta, op, name, "dense tensors with data", block, TypeError)
    same = [(b.shape[1:], b.dtype) for b in blocks if b.dim()] == [(b.shape[1:], b.dtype) for b in own]
    require(same, op, name, f"blocks like {whose}, such as {describe(own[0])}", list(blocks))
    return checked_state(op, name, tuple(block.detach().to(own[0].device) for block in blocks))


def copied(state: Sequence[Tensor]) -> list[Tensor]:
    """Copies of blocks, without a graph."""
    return [x.detach().clone() for x in state]


def _blocks(op: str, name: str, x: State) -> Sequence[Tensor]:
    blocks = (x,) if isinstance(x, Tensor) else x
    require(isinstance(blocks, tuple | list), op, name, WANTED, x, TypeError)
    require(len(blocks) > 0, op, name, WANTED, x)
    for block in blocks:
        require(isinstance(block, Tensor), op, name, WANTED, block, TypeError)
    return blocks


def blocks_of(state: State) -> tuple[Tensor, ...]:
    """The blocks of a state that was given as one or several."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def each_block(function: Callable[..., Tensor], *states: State) -> State:
    """A function of the same block of each state, block by block."""
    return function(*states) if isinstance(states[0], Tensor) else tuple(map(function, *states))


def joined(states: Sequence[State]) -> State:
    """The chains of several states, one state after the other."""
    return each_block(lambda *blocks: torch.cat(blocks), *states)


def parted(state: State, count: int) -> list[State]:
    """So many states, copies, of as many chains each: what :func:`joined` makes one of."""
    blocks = [x.tensor_split(count) for x in blocks_of(state)]
    states = [tuple(x.clone() for x in parts) for parts in zip(*blocks, strict=True)]
    return [parts[0] for parts in states] if isinstance(state, Tensor) else states
