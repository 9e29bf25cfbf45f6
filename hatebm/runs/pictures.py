"""Pictures of a run: labelled grids, the Langevin path as a film and as a strip, and curves of the training."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.runs.files import whole

BACKGROUND = 96
CELL = 48  # about the side in pixels at which one small image is shown


def grid(images: Tensor, columns: int) -> Tensor:
    """Images side by side, each enlarged smoothly by a whole factor, on grey.

    images: (n, channels, size, size) uint8; result: (channels, height, width) uint8.
    """
    scale = max(1, round(CELL / images.shape[-1]))
    gap = max(2, scale)
    images = F.interpolate(images.float(), scale_factor=scale, mode="bilinear", align_corners=False)
    images = images.round().byte()
    images = F.pad(images, (0, gap, 0, gap), value=BACKGROUND)
    blank = torch.full_like(images[:1], BACKGROUND).expand(-len(images) % columns, -1, -1, -1)
    rows = torch.cat((images, blank)).unflatten(0, (-1, columns))
    sheet = rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return F.pad(sheet, (gap, 0, gap, 0), value=BACKGROUND)


def save_grid(path: Path, images: Tensor, columns: int) -> None:
    """Write one grid of (n, channels, size, size) uint8 images."""
    with whole(path) as partial:
        _picture(grid(images, columns)).save(partial)


def save_panels(path: Path, panels: dict[str, Tensor], columns: int) -> None:
    """Write several grids, two in a row, each under its title; panels: title -> (n, channels, size, size) uint8."""
    from PIL import Image, ImageDraw, ImageFont

    sheets = [_picture(grid(images, columns)) for images in panels.values()]
    width, height, header = max(s.width for s in sheets), max(s.height for s in sheets), 28
    canvas = Image.new(sheets[0].mode, (2 * width, (len(sheets) + 1) // 2 * (height + header)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(16)
    for i, (title, sheet) in enumerate(zip(panels, sheets, strict=True)):
        left, top = i % 2 * width, i // 2 * (height + header)
        draw.text((left + 6, top + 4), title, "black", font)
        canvas.paste(sheet, (left, top + header))
    with whole(path) as partial:
        canvas.save(partial)


def save_film(path: Path, frames: Sequence[Tensor], columns: int) -> None:
    """Write a looping GIF that rests on its last frame; frames: (n, channels, size, size) uint8 each."""
    first, *rest = (_picture(grid(frame, columns)) for frame in frames)
    durations = [120] * len(rest) + [1500]
    with whole(path) as partial:
        first.save(partial, save_all=True, append_images=rest, duration=durations, loop=0)


def save_strip(path: Path, frames: dict[int, Tensor]) -> None:
    """Write the paths of chains, a row for each and the step above each column.

    frames: step -> (chains, channels, size, size) uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    states = torch.stack(list(frames.values()), 1)
    sheet = _picture(grid(states.flatten(0, 1), states.shape[1]))
    header, column = 20, (sheet.width - 2) / states.shape[1]
    canvas = Image.new(sheet.mode, (sheet.width, sheet.height + header), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for i, step in enumerate(frames):
        draw.text((column * (i + 0.5) + 2, header / 2), str(step), "black", font, anchor="mm")
    canvas.paste(sheet, (0, header))
    with whole(path) as partial:
        canvas.save(partial)


def save_curves(path: Path, rows: Sequence[dict], labels: dict[str, str]) -> None:
    """Write one curve for each metric: every row thin, their running mean thick, the axis fitted to the last 90 %.

    rows: dicts with `step` and the metrics; labels: metric -> the words on its axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.2 * len(labels)), layout="constrained")
    axes = figure.subplots(len(labels), sharex=True, squeeze=False)[:, 0]
    for axis, (metric, label) in zip(axes, labels.items(), strict=True):
        seen = [row for row in rows if metric in row]
        steps = [row["step"] for row in seen]
        values = torch.tensor([row[metric] for row in seen], dtype=torch.float64, device="cpu")
        axis.plot(steps, values, linewidth=0.5, color="0.7")
        axis.plot(steps, _running_mean(values), color="C0")
        settled = values[len(values) // 10 :]  # the first steps of an untrained energy would flatten all the rest
        margin = float(settled.max() - settled.min()) / 10 or 1.0
        axis.set_ylim(float(settled.min()) - margin, float(settled.max()) + margin)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axis.set_xlabel("iteration")
    with whole(path) as partial:
        figure.savefig(partial, dpi=110)


def _running_mean(values: Tensor) -> Tensor:
    half = min(10, (len(values) - 1) // 2)
    sums = F.pad(values.double().cumsum(0), (1, 0))
    at = torch.arange(len(values), dtype=torch.int64, device="cpu")
    low, high = (at - half).clamp_min(0), (at + half + 1).clamp_max(len(values))
    return (sums[high] - sums[low]) / (high - low)


def _picture(sheet: Tensor):
    from PIL import Image

    return Image.fromarray((sheet[0] if len(sheet) == 1 else sheet.permute(1, 2, 0).contiguous()).numpy())
