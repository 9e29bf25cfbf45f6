"""One picture file of any kind as bytes: upright, on white, grey of 16 bits or floats read as what they show."""

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import Tensor

from hatebm.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

PNG = b"\x89PNG\r\n\x1a\n"
OF_THE_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")  # and how to turn them
ORIENTATION = 0x0112


def read_picture(file: Path | BinaryIO, size: int, place: float = 0.5) -> Tensor:
    """One picture as (3, size, size) uint8, cropped at `place`, 0 to 1 along its longer side: see `image_folder`.

    Raises what Pillow raises for a file that is no picture, and UsageError where it is not clear which number is white.
    """
    from PIL import Image, ImageOps

    try:
        picture = _decoded(file)
    except (ImportError, MemoryError):
        raise
    except Exception:  # Pillow limits and checks what a PNG says beside its pixels, which are whole perhaps
        pixels = _without_metadata(file)
        if pixels is None:
            raise
        picture = _decoded(pixels)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC, centering=(place, place))
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)


def _decoded(file: Path | BinaryIO) -> "Image":
    """The first frame upright, its numbers bytes."""
    from PIL import Image

    with Image.open(file) as picture:
        picture.load()
        turn = _turn(picture)
        if picture.mode.startswith(("I", "F")):
            picture = _grey(picture)
        return picture if turn is None else picture.transpose(turn)


def _turn(picture: "Image") -> "Transpose | None":
    """What makes the picture upright; none where its EXIF is broken, for the pixels are whole."""
    from PIL.Image import Transpose

    turns = {2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM}
    turns |= {5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90}
    try:
        return turns.get(picture.getexif().get(ORIENTATION))
    except Exception:  # broken EXIF fails in any way
        return None


def _grey(picture: "Image") -> "Image":
    """Grey of 16 bits, of whole numbers of 32 or of floats, as bytes; where one value is transparent, with alpha."""
    from PIL import Image

    exact = picture if picture.mode == "F" else picture.convert("I")
    values = torch.frombuffer(
        bytearray(exact.tobytes()), dtype=torch.float32 if picture.mode == "F" else torch.int32
    ).double()
    grey = (values * (255 / _white(picture, values))).round()
    layers = [grey, 255.0 * (values != picture.info["transparency"])] if "transparency" in picture.info else [grey]
    layers = [Image.frombytes("L", picture.size, layer.to(torch.uint8).numpy().tobytes()) for layer in layers]
    return layers[0] if len(layers) == 1 else Image.merge("LA", layers)


def _white(picture: "Image", values: Tensor) -> float:
    """The number that is white: of the format where it has one, else 1 of floats, 255 or 65535 of whole numbers."""
    if picture.mode.startswith("I;16") and picture.format == "TIFF":
        (bits,) = picture.tag_v2.get(258, (16,))  # of a sample
        return 2.0**bits - 1
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        return 65535.0
    low, high = (float(end) for end in values.aminmax())
    floats = picture.mode == "F"
    if floats and low >= 0 and high <= 1:
        return 1.0
    if low >= 0 and high <= 65535 and bool((values == values.round()).all()):
        return 255.0 if high <= 255 else 65535.0
    wanted = "0 to 1, or whole numbers up to 255 or 65535" if floats else "0 up to 255 or 65535"
    raise UsageError(f"{'floats' if floats else 'whole numbers'} from {low:.6g} to {high:.6g}, wanted {wanted}")


def _without_metadata(file: Path | BinaryIO) -> BinaryIO | None:
    """A PNG with the chunks alone that its pixels need; None where the file is no PNG."""
    data = _bytes_of(file)
    if data is None:
        return None
    kept, at = [PNG], len(PNG)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        whole = name[:1].isupper() or zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if name in OF_THE_PIXELS and whole:
            kept.append(data[at:end])
        at = end
    return io.BytesIO(b"".join(kept))


def _bytes_of(file: Path | BinaryIO) -> bytes | None:
    """All of a PNG file; None where it is none."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _bytes_of(opened)
    file.seek(0)
    start = file.read(len(PNG))
    return start + file.read() if start == PNG else None
