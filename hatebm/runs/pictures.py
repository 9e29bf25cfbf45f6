"""Pictures of a run: labelled grids, and the Langevin path as a film and as a strip."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.runs.files import whole

BACKGROUND = 96
CELL = 48  # about the side in pixels at which one small image is shown
COLUMNS = 10
MOST_COLUMNS = 20


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


def columns_of(n: int, classes: int = 0, rows_of: Sequence[int] | None = None) -> int:
    """How many columns show n images: about as many as rows, if the images' classes do not say better.

    classes: of images 0 to classes - 1 in turn, so that a column may hold one class. rows_of: of these classes one
    after the other, equally many, so that a row may.
    """
    square = max(1, round(n**0.5))
    if rows_of is not None:
        each, rest = divmod(n, len(rows_of))
        whole = [side for side in range(square // 2 + 1, min(each, 2 * square) + 1) if each % side == 0]
        return square if rest or not whole else min(whole, key=lambda side: abs(side - square))
    if 0 < classes <= MOST_COLUMNS:
        return min(n, classes * max(1, COLUMNS // classes))
    return square


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


def _picture(sheet: Tensor):
    from PIL import Image

    return Image.fromarray((sheet[0] if len(sheet) == 1 else sheet.permute(1, 2, 0).contiguous()).numpy())
