"""Picture files of every kind: numbers that are no bytes, metadata that are broken or huge, folders that are links."""

import io
import os
import struct
import threading
import time
import warnings
import zlib

import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin

from hatebm.data import SkippedFile, image_folder, load, read_picture
from hatebm.errors import UsageError

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def colour(file) -> tuple[int, ...]:
    image = read_picture(file, 4)
    assert image.flatten(1).unique(dim=1).shape[1] == 1, "the image is not of one colour"
    return tuple(image[:, 0, 0].tolist())


def tiff(mode: str, *values: float) -> io.BytesIO:
    """A TIFF of the values, each a column of two pixels."""
    picture = Image.new(mode, (len(values), 2))
    picture.putdata([*values, *values])
    file = io.BytesIO()
    picture.save(file, "TIFF")
    return file


def columns(file) -> list[int]:
    """The greys of a file of two columns."""
    image = read_picture(file, 2)
    assert torch.equal(image, image[:1, :1].expand(3, 2, 2))
    return image[0, 0].tolist()


@pytest.mark.parametrize(
    ("mode", "values", "wanted"),
    [
        ("F", (0.0, 1.0), [0, 255]),
        ("F", (77 / 255, 0.5), [77, 128]),
        ("F", (77.0, 200.0), [77, 200]),
        ("F", (77.0 * 257, 0.0), [77, 0]),
        ("I", (77, 200), [77, 200]),
        ("I", (77 * 257, 300), [77, 1]),
        ("I;16", (77 * 257, 200), [77, 1]),
        ("I;16", (77, 200), [0, 1]),
        ("I;16B", (77 * 257, 65535), [77, 255]),
    ],
)
def test_numbers_are_read_as_what_they_show(mode, values, wanted):
    assert columns(tiff(mode, *values)) == wanted


@pytest.mark.parametrize(
    ("mode", "values", "came"),
    [
        ("F", (-1.0, 1.0), "floats from -1 to 1"),
        ("F", (0.25, 1.5), "floats from 0.25 to 1.5"),
        ("F", (0.0, 65536.0), "floats from 0 to 65536"),
        ("F", (0.5, float("nan")), "floats from nan to nan"),
        ("F", (0.5, float("inf")), "floats from 0.5 to inf"),
        ("I", (-3, 3), "whole numbers from -3 to 3"),
        ("I", (0, 70000), "whole numbers from 0 to 70000"),
    ],
)
def test_numbers_of_which_none_is_known_as_white_are_skipped_aloud(tmp_path, mode, values, came):
    (tmp_path / "odd.tiff").write_bytes(tiff(mode, *values).getvalue())
    (tmp_path / "plain.tiff").write_bytes(tiff("L", 9, 9).getvalue())
    with pytest.warns(SkippedFile) as warned:
        assert image_folder(tmp_path, 2).train[:, 0, 0, 0].tolist() == [9]
    (said,) = (str(warning.message) for warning in warned)
    assert said.startswith(f"skipped {tmp_path / 'odd.tiff'}: cannot be read as a picture ({came}, wanted 0 ")


def test_samples_of_12_bits_have_their_own_white():
    samples = bytes((0xFF, 0xF0, 0x00))  # 4095 and 0
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = b"II*\0" + struct.pack("<I", 12) + samples + b"\0"
    file = io.BytesIO(header + struct.pack("<H", len(tags)) + directory + bytes(4))
    assert read_picture(file, 1, 0.0)[0, 0, 0] == 255
    assert read_picture(file, 1, 1.0)[0, 0, 0] == 0


def test_portable_maps_are_16_bits_by_their_format_or_floats():
    dark = io.BytesIO(b"P5 2 2 1023\n" + struct.pack(">4H", 2, 2, 1023, 1023))
    assert read_picture(dark, 1)[0, 0, 0] == 128
    assert colour(io.BytesIO(b"P5 2 2 65535\n" + struct.pack(">4H", *[200] * 4))) == (1, 1, 1)
    assert colour(io.BytesIO(b"Pf\n2 2\n-1.0\n" + struct.pack("<4f", *[0.2] * 4))) == (51, 51, 51)


def test_a_grey_of_16_bits_may_be_transparent():
    file = io.BytesIO()
    picture = Image.new("I;16", (4, 2), 30000)
    picture.paste(257 * 77, (0, 0, 2, 2))
    picture.save(file, "PNG", transparency=30000)
    image = read_picture(file, 2, 0.0)
    assert image[0, 0].tolist() == [77, 77]
    assert read_picture(file, 2, 1.0)[0, 0].tolist() == [255, 255]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_once(kind, orientation):
    shown = Image.new("RGB", (16, 16), RED)
    shown.paste(BLUE, (0, 0, 16, 8))
    shown.paste(WHITE, (0, 0, 8, 16))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's number of what undoes the turn
    stored = shown if orientation == 1 else shown.transpose(back[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, {"jpg": "JPEG"}.get(kind, kind.upper()), exif=exif, quality=95)
    corners = read_picture(file, 16)[:, ::15, ::15].float()
    wanted = torch.tensor([[WHITE, BLUE], [WHITE, RED]]).permute(2, 0, 1)
    assert (corners - wanted).abs().max() < 50


def with_text(key: str, value: str, **more) -> dict:
    info = PngImagePlugin.PngInfo()
    info.add_text(key, value, **more)
    return {"pnginfo": info}


METADATA = {
    "EXIF that is none": {"exif": b"ZZZZZZZZ"},
    "a profile in hexadecimal that is none": with_text("Raw profile type exif", "\nexif\n   4\nzzzz"),
    "a text of 5 MB": with_text("parameters", "x" * 5_000_000, zip=True),
    "a plain text of 70 MB": with_text("parameters", "x" * 70_000_000),
    "a colour profile of 2 MB": {"icc_profile": bytes(2_000_000)},
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_metadata_do_not_cost_a_png(tmp_path, metadata):
    limits = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.LOAD_TRUNCATED_IMAGES)
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.png", compress_level=0, **metadata)
    assert colour(tmp_path / "a.png") == RED
    assert colour(io.BytesIO((tmp_path / "a.png").read_bytes())) == RED
    after = (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert after == limits


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("name", [b"tEXt", b"gAMA", b"iCCP", b"pHYs", b"cHRM", b"eXIf", b"zTXt", b"acTL"])
def test_a_damaged_chunk_beside_the_pixels_does_not_cost_them(name):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), RED).save(file, "PNG")
    whole = file.getvalue()
    for damaged in (chunk(name, b"\1")[:-1] + b"\0", chunk(name, b""), chunk(name, b"\1")):
        assert colour(io.BytesIO(whole[:33] + damaged + whole[33:])) == RED


def test_a_png_with_huge_metadata_is_turned_all_the_same():
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = Image.new("RGB", (8, 8), RED)
    picture.paste(BLUE, (0, 0, 8, 4))
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif, **METADATA["a text of 5 MB"])
    assert tuple(read_picture(file, 8)[:, 0, 0].tolist()) == RED


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_broken_exif_does_not_cost_other_pictures(kind):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), RED).save(file, kind, exif=b"Exif\0\0no such thing", quality=95)
    assert abs(read_picture(file, 4)[0].float().mean() - 255) < 5


def test_two_threads_read_folders_and_leave_the_filters_of_warnings(tmp_path, monkeypatch):
    for i in range(3):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    before = list(warnings.filters)
    inside = threading.Barrier(2, timeout=0.5)

    def overlapping(file, size, place):
        try:
            inside.wait()  # both threads are within the block that sets the filters, if that can be
        except threading.BrokenBarrierError:
            time.sleep(0.01)
        return read_picture(file, size, place)

    monkeypatch.setattr("hatebm.data.folder.read_picture", overlapping)
    threads = [threading.Thread(target=image_folder, args=(tmp_path, 4)) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_images_that_no_memory_holds_are_refused():
    for name, size in (("digits", 10**6), ("digits", 10**30)):
        with pytest.raises(UsageError, match=rf"^--size: 1797 images of {size} x {size} take \d+ GiB of memory, this"):
            load(name, size)


def test_no_name_is_no_folder(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "0.png")
    with pytest.raises(UsageError, match=r"--data: wanted digits, .* or the path of a folder of images, got ''"):
        load("", root=str(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="elsewhere names of files are text")
def test_names_that_are_no_text_are_read_and_named(tmp_path):
    folder = os.fsencode(tmp_path)
    try:
        os.mkdir(folder + b"/\xff")
    except OSError:
        pytest.skip("this file system takes text alone")
    Image.new("L", (4, 4), 7).save(folder + b"/\xff/\xfe.png")
    with open(folder + b"/\xfd.png", "wb"), pytest.warns(SkippedFile, match="\udcfd"):
        assert image_folder(tmp_path, 4).train[:, 0, 0, 0].tolist() == [7]
