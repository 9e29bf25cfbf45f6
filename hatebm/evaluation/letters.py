"""Letters drawn as a data set would have drawn them: outliers that share the data's strokes and none of its meaning."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hatebm.ops.noise import Purpose, words

LETTERS = "ACEFHKLMNPRUVWXY"  # without B, D, G, I, J, O, Q, S, T and Z, which may pass for digits
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono")
TALL = 64  # about the height in pixels at which a letter is drawn, to be made smaller
BLOCK = 3  # of the draws for outliers
AT_ONCE = 1000


def letters(images: Tensor, *, seed: int = 0) -> Tensor:
    """A letter in the place of what each image shows: (n, channels, size, size) uint8 on their device.

    The ground of an image is the median colour of its border; its ink is each pixel at least half as far from that as
    the farthest one. A letter has this ground, and the colour of that farthest pixel where it is strongest. It is as
    high as the ink, but at least half as high as the image, and lies where the ink does, within the image, moved by at
    most half a pixel either way. The seed decides letter, font and move of each image by its place in the order.

    images: (n, channels, size, size) uint8.
    """
    draws = words((len(images), 4), seed=seed, step=0, block=BLOCK, purpose=Purpose.OUTLIERS, device="cpu")
    parts = zip(images.split(AT_ONCE), draws.split(AT_ONCE), strict=True)
    return torch.cat([_lettered(part.cpu().int(), drawn).to(images.device) for part, drawn in parts])


def _lettered(images: Tensor, draws: Tensor) -> Tensor:
    size = images.shape[-1]
    ground, colour, boxes = _looks(images)
    moves = (draws[:, 2:].double() / 2**32 - 0.5).tolist()
    which = ((LETTERS[i % len(LETTERS)], FONTS[j % len(FONTS)]) for i, j in draws[:, :2].tolist())
    drawn = b"".join(_drawn(*one, box, move, size) for one, box, move in zip(which, boxes, moves, strict=True))
    cover = torch.frombuffer(bytearray(drawn), dtype=torch.uint8).view(-1, 1, size, size).double()
    cover = cover / cover.amax((2, 3), keepdim=True)
    return (ground + (colour - ground) * cover).round().byte()


def _looks(images: Tensor) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Ground and colour of the ink, (n, channels, 1, 1) each, and the ink's left, top, right and bottom."""
    border = torch.cat((images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]), -1)
    ground = border.median(-1).values[..., None, None]
    far = (images - ground).abs().sum(1)  # (n, size, size)
    farthest = far.flatten(1).max(1)
    at = farthest.indices[:, None, None].expand(-1, images.shape[1], 1)
    colour = images.flatten(2).gather(2, at)[..., None]
    ink = 2 * far >= farthest.values[:, None, None]
    ends = []
    for line in (ink.any(1), ink.any(2)):  # along x, along y
        first, last = line.int().argmax(1), line.shape[1] - line.flip(1).int().argmax(1)
        ends.append((first, last))
    (left, right), (top, bottom) = ends
    return ground, colour, torch.stack((left, top, right, bottom), 1).tolist()


def _drawn(letter: str, font: str, box: list[int], move: list[float], size: int) -> bytes:
    """How much of each pixel a letter covers, 0 to 255, a byte a pixel."""
    from PIL import Image

    glyph, margin = _glyph(letter, font)
    wide, tall = (side - 2 * margin for side in glyph.size)
    height = max(box[3] - box[1], size / 2)
    width = min(wide * height / tall, size)
    left, top = (
        min(max((low + high - side) / 2 + by, 0.0), size - side)
        for low, high, side, by in ((box[0], box[2], width, move[0]), (box[1], box[3], height, move[1]))
    )
    across, down = wide / width, tall / height  # pixels of the glyph in one of the image
    x, y = margin - left * across, margin - top * down
    around = (x, y, x + size * across, y + size * down)
    return glyph.resize((size, size), Image.Resampling.HAMMING, around).tobytes()


@cache
def _glyph(letter: str, font: str):
    """A letter in white on black, and the width of the black around it, which any place in an image leaves room for."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    type_ = ImageFont.truetype(str(file), round(TALL / 0.73), layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("L", (4 * TALL, 4 * TALL))
    ImageDraw.Draw(canvas).text((TALL, TALL), letter, 255, type_)
    margin = 3 * TALL
    return ImageOps.expand(canvas.crop(canvas.getbbox()), margin), margin
