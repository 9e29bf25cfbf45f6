"""The replay buffer of an IGEBM, and how a checkpoint keeps it."""

import torch
from torch import Tensor

from hatebm.data import Box, to_pixels
from hatebm.learning.learner import require_fit
from hatebm.sampling.replay import ReplayBuffer
from hatebm.systems.igebm.config import IGEBMConfig

BOX: Box = (0.0, 1.0)
NAME = "buffer."  # begins the names of its tensors


def empty(config: IGEBMConfig, device: torch.device | str) -> ReplayBuffer:
    """A buffer of images in [0, 1] before the first push."""
    shape = (config.channels, config.size, config.size)
    return ReplayBuffer(config.buffer_size, shape, box=BOX, seed=config.seed, device=device)


def shown(buffer: ReplayBuffer, n: int) -> tuple[Tensor, Tensor | None]:
    """What its slots hold, evenly spaced: images (n, channels, size, size) in [-1, 1], and labels, both on the CPU."""
    saved, slots = buffer.state_dict(), torch.arange(n, dtype=torch.int64, device="cpu") * len(buffer) // n
    labels = saved.get("labels")
    return to_pixels(saved["states"].cpu()[slots]), None if labels is None else labels.cpu()[slots]


def kept(buffer: ReplayBuffer, config: IGEBMConfig) -> dict[str, Tensor]:
    """What a checkpoint keeps: how many states were ever pushed, the filled slots and, of a conditional one, labels.

    Tensors: seen () int64; states (n, channels, size, size) uint8; labels (n,) int64.
    """
    saved = buffer.state_dict()
    tensors = {"seen": torch.tensor(saved["seen"], dtype=torch.int64, device="cpu"), "states": saved["states"]}
    if config.classes:
        none = torch.zeros(0, dtype=torch.int64, device=buffer.device)
        tensors["labels"] = saved.get("labels", none)
    return {NAME + key: tensor for key, tensor in tensors.items()}


def restored(named: dict[str, Tensor], config: IGEBMConfig, device: torch.device) -> ReplayBuffer:
    """The buffer of which `kept` gave these tensors; raises ValueError when they are not all of one."""
    buffer = empty(config, device)
    states = named.get(f"{NAME}states")
    n = len(states) if states is not None and states.dim() else 0
    none = kept(buffer, config)
    require_fit(named, {name: t.new_empty(n, *t.shape[1:]) if t.dim() else t for name, t in none.items()})
    tensors = {name.removeprefix(NAME): tensor for name, tensor in named.items()}
    labels = tensors.get("labels")
    if labels is not None and not ((labels >= 0) & (labels < config.classes)).all():
        raise ValueError(f"the tensor {NAME}labels must hold classes from 0 to {config.classes - 1}")
    buffer.load_state_dict(buffer.state_dict() | tensors | {"seen": int(tensors["seen"])})
    return buffer
