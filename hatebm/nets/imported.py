"""Generators made of tensors that were trained elsewhere: the shapes say what network it is."""

import re
from collections.abc import Callable
from functools import partial
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from hatebm.errors import UsageError
from hatebm.nets.generator import ResidualGenerator
from hatebm.ops.checks import describe, require

BLOCK_NUMBER = re.compile(r"block(?:s\.)?(\d+)\.")
MIMICRY_LAYERS = {"affine1": "b1", "conv1": "c1", "affine2": "b2", "conv2": "c2", "shortcut": "c_sc"}


def load_generator(path: str | Path, output_scale: float | None = None) -> ResidualGenerator:
    """The generator in a .safetensors file, or in a .pth file of the mimicry library; see `generator_from`.

    Raises UsageError when the file cannot be read or holds something else.
    """
    return generator_from(_read(Path(path)), output_scale)


def generator_from(tensors: dict[str, Tensor], output_scale: float | None = None) -> ResidualGenerator:
    """The generator whose state these tensors are, in eval mode; it keeps copies of them.

    Widths, latent dimension, image size, channels and norm follow from the names and shapes.

    Args:
        tensors: named as in the `state_dict` of a ResidualGenerator, or as in that of a generator of the mimicry
            library (SN-GANs and others; github.com/kwotsin/mimicry), whose batch norms keep their statistics.
        output_scale: the factor of the tanh, which the tensors do not tell; None is 1 with batch norms, as SN-GANs have
            it, and else 2.

    Raises UsageError, naming the first tensor that does not fit.
    """
    named = isinstance(tensors, dict) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in tensors.items())
    require(named, "generator_from", "tensors", "a dict of tensors by name", type(tensors), UsageError)
    foreign = "l1.weight" in tensors
    if not foreign and "dense.weight" not in tensors:
        raise UsageError("generator_from: the tensor dense.weight (l1.weight in a file of mimicry) is missing")
    first = 2 if foreign else 0
    blocks = max([first - 1, *(int(found[1]) for found in map(BLOCK_NUMBER.match, tensors) if found)]) + 1 - first
    named_by = partial(mimicry_name, blocks=blocks) if foreign else str
    norm = "batch" if foreign or "affine.running_mean" in tensors else "affine"
    scale = output_scale if output_scale is not None else 1.0 if norm == "batch" else 2.0

    generator = _empty_generator(tensors, named_by, blocks, scale, norm)
    generator.load_state_dict(_fitting_state(tensors, named_by, generator), assign=True)
    return generator.eval()


def mimicry_name(name: str, blocks: int) -> str:
    """What the mimicry library calls our tensor: its layers are numbered, the dense one 1, the blocks from 2 on."""
    part, rest = name.split(".", 1)
    if part == "blocks":
        index, layer, rest = rest.split(".", 2)
        return f"block{int(index) + 2}.{MIMICRY_LAYERS[layer]}.{rest}"
    return {"dense": "l1", "affine": f"b{blocks + 2}", "conv": f"c{blocks + 2}"}[part] + f".{rest}"


def _empty_generator(
    tensors: dict[str, Tensor], named_by: Callable[[str], str], blocks: int, output_scale: float, norm: str
) -> ResidualGenerator:
    """A generator on the meta device, of the sizes that the dense layer and the convolutions have."""

    def shape(name: str, dims: int) -> torch.Size:
        tensor = _present(tensors, named_by(name))
        fits = tensor.dim() == dims and tensor.numel() > 0 and tensor.is_floating_point()
        _require_fit(fits, named_by(name), f"a floating-point tensor of {dims} dimensions", tensor)
        return tensor.shape

    features, latent_dim = shape("dense.weight", 2)
    widths = [shape(f"blocks.{i}.conv1.weight", 4)[1] for i in range(blocks)]
    channels, last_width = shape("conv.weight", 4)[:2]
    widths.append(last_width)
    side = isqrt(features // widths[0])
    square = f"of shape (side * side * {widths[0]}, latent_dim), {widths[0]} being the width of the next layer"
    _require_fit(side**2 * widths[0] == features, named_by("dense.weight"), square, tensors[named_by("dense.weight")])
    with torch.device("meta"):
        return ResidualGenerator(side * 2**blocks, channels, latent_dim, widths, output_scale, norm)


def _fitting_state(
    tensors: dict[str, Tensor], named_by: Callable[[str], str], generator: ResidualGenerator
) -> dict[str, Tensor]:
    """Copies of the tensors under the names of the generator, which has all of them and no other."""
    state = {}
    for name, empty in generator.state_dict().items():
        if name.endswith("num_batches_tracked"):  # plays no part; a converted file may lack it
            state[name] = torch.zeros((), dtype=empty.dtype, device=tensors[named_by("dense.weight")].device)
        else:
            tensor = _present(tensors, named_by(name))
            _require_fit(tensor.shape == empty.shape, named_by(name), f"of shape {tuple(empty.shape)}", tensor)
            state[name] = tensor.detach().clone()
    known = {named_by(name) for name in state}
    for name, tensor in tensors.items():
        _require_fit(name in known, name, f"absent from a generator of {len(generator.blocks)} blocks", tensor)
    return state


def _present(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise UsageError(f"generator_from: the tensor {name} is missing")
    return tensors[name]


def _require_fit(holds: bool, name: str, wanted: str, tensor: Tensor) -> None:
    if not holds:
        raise UsageError(f"generator_from: the tensor {name} must be {wanted}, got {describe(tensor)}")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UsageError(f"load_generator: {path} cannot be read: {error}") from error
    return saved.get("model_state_dict", saved) if isinstance(saved, dict) else saved
