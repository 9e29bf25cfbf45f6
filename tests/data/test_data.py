"""The digits, pictures of every kind, and the order of training."""

import math
import warnings

import pytest
import torch
from PIL import Image

from hatebm.data import Images, SkippedFile, batch_indices, digits, image_folder, load, rescaled, to_bytes, to_pixels
from hatebm.errors import UsageError
from hatebm.ops.noise import Purpose, uniform

RED, BLUE = (255, 0, 0), (0, 0, 255)


def load_one(folder, size=8):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (image,) = image_folder(folder, size).train
    return image


def colour(image: torch.Tensor) -> tuple[int, ...]:
    assert image.flatten(1).unique(dim=1).shape[1] == 1, "the image is not of one colour"
    return tuple(image[:, 0, 0].tolist())


def test_digits_hold_out_the_same_stratified_part():
    images = digits()
    assert images.train.shape == (1297, 1, 8, 8)
    assert images.held_out.shape == (500, 1, 8, 8)
    assert images.train.dtype == torch.uint8
    assert (images.train.min(), images.train.max()) == (0, 255)
    assert ((torch.bincount(images.held_out_labels) - 50).abs() <= 3).all()
    assert torch.equal(images.held_out, digits().held_out)
    assert images.train[:1].float().mean() == pytest.approx(digits(16).train[:1].float().mean(), abs=3)


BOXES = [(-1.0, 1.0), (0.0, 1.0), (-0.5, 2.5)]


@pytest.mark.parametrize("box", BOXES)
def test_every_byte_survives_every_box(box):
    levels, (low, high) = torch.arange(256).byte(), box
    pixels = to_pixels(levels, box)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels.double(), torch.linspace(low, high, 256).double(), rtol=0, atol=1e-6)
    assert (pixels[0], pixels[-1]) == box
    assert torch.equal(to_bytes(pixels, box), levels)
    for other in BOXES:
        moved = rescaled(pixels, box, other)
        torch.testing.assert_close(moved, to_pixels(levels, other), rtol=0, atol=1e-6)
        assert torch.equal(to_bytes(moved, other), levels)
    beyond = torch.tensor([-math.inf, low - 3, high + 3, math.inf])
    assert to_bytes(beyond, box).tolist() == [0, 0, 255, 255]
    assert rescaled(torch.tensor([2 * low - high, 2 * high - low]), box, (0.0, 1.0)).tolist() == [-1, 2]


def test_the_box_of_old_keeps_its_bits():
    levels = torch.arange(256).byte()
    assert torch.equal(to_pixels(levels), levels.float() / 127.5 - 1)
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x[:4] = torch.tensor([math.nan, math.inf, -math.inf, 0.0041])
    assert torch.equal(to_bytes(x), ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    assert to_bytes(torch.tensor([-3.0, -1, 0.0041, 1, 7])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("mode", "paint", "expected"),
    [
        pytest.param("RGB", RED, RED, id="RGB"),
        pytest.param("RGBA", (255, 0, 0, 255), RED, id="RGBA-opaque"),
        pytest.param("RGBA", (255, 0, 0, 0), (255, 255, 255), id="RGBA-transparent"),
        pytest.param("RGBA", (255, 0, 0, 51), (255, 204, 204), id="RGBA-a-fifth"),
        pytest.param("L", 77, (77, 77, 77), id="grey"),
        pytest.param("LA", (77, 0), (255, 255, 255), id="grey-transparent"),
        pytest.param("1", 1, (255, 255, 255), id="bits"),
        pytest.param("I;16", 77 * 257, (77, 77, 77), id="grey-16-bits"),
    ],
)
def test_every_mode_becomes_rgb_on_white(tmp_path, mode, paint, expected):
    Image.new(mode, (20, 13), paint).save(tmp_path / "a.png")
    assert colour(load_one(tmp_path)) == expected


def test_palette_with_a_transparent_colour(tmp_path):
    picture = Image.new("P", (16, 16), 1)
    picture.putpalette([0, 0, 0, *RED])
    picture.save(tmp_path / "a.png")
    assert colour(load_one(tmp_path)) == RED
    picture.save(tmp_path / "a.png", transparency=1)
    assert colour(load_one(tmp_path)) == (255, 255, 255)


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert (load_one(tmp_path).float() - torch.tensor(RED).view(3, 1, 1)).abs().max() < 12


def test_an_animation_gives_its_first_frame(tmp_path):
    Image.new("RGB", (16, 16), RED).save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (16, 16), BLUE)]
    )
    assert colour(load_one(tmp_path)) == RED


def test_exif_orientation_is_followed(tmp_path):
    picture = Image.new("RGB", (16, 16), RED)
    picture.paste(BLUE, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    image = load_one(tmp_path, 16)
    assert tuple(image[:, 8, 15].tolist()) == BLUE
    assert tuple(image[:, 8, 0].tolist()) == RED


@pytest.mark.parametrize("shape", [(48, 16), (16, 48)], ids=["wide", "tall"])
def test_the_middle_square_is_kept(tmp_path, shape):
    picture = Image.new("RGB", shape, RED)
    left, top = (shape[0] - 16) // 2, (shape[1] - 16) // 2
    picture.paste(BLUE, (left, top, left + 16, top + 16))
    picture.save(tmp_path / "a.png")
    assert colour(load_one(tmp_path, 8)[:, 1:-1, 1:-1]) == BLUE


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (700, 500)])
def test_any_size_fits(tmp_path, size):
    Image.new("RGB", size, RED).save(tmp_path / "a.bmp")
    assert load_one(tmp_path, 32).shape == (3, 32, 32)


def test_broken_and_foreign_files_are_skipped_and_named_once(tmp_path):
    (tmp_path / "below" / "deeper").mkdir(parents=True)
    Image.new("RGB", (16, 16), RED).save(tmp_path / "below" / "deeper" / "good.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "whole.png").unlink()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / ".hidden").write_text("no word of this one")
    with pytest.warns(SkippedFile) as warned:
        images = image_folder(tmp_path, 8)
    assert colour(images.train[0]) == RED
    assert len(images.train) == 1
    assert len(warned) == 3
    for name in ("cut.png", "notes.txt", "empty.jpg"):
        assert sum(name in str(warning.message) for warning in warned) == 1


def test_a_folder_without_pictures_and_an_unknown_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no readable image"):
        load(str(tmp_path))
    with pytest.raises(UsageError, match=r"--data: wanted digits, .* or the path of a folder of images, got 'cats'"):
        load("cats", root=str(tmp_path))


def test_a_relative_folder_begins_at_the_root(tmp_path):
    (tmp_path / "cats").mkdir()
    Image.new("RGB", (16, 16), RED).save(tmp_path / "cats" / "a.png")
    assert load("cats", root=str(tmp_path)).train.shape == (1, 3, 32, 32)


def test_every_fifth_of_fifty_is_held_out_and_none_of_fewer(tmp_path):
    for i in range(50):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i:02d}.png")
    images = image_folder(tmp_path, 4)
    assert images.held_out[:, 0, 0, 0].tolist() == list(range(4, 50, 5))
    assert len(images.train) == 40
    (tmp_path / "00.png").unlink()
    images = image_folder(tmp_path, 4)
    assert (len(images.train), len(images.held_out)) == (49, 0)


LONG, SHORT = 256, 16


def ramps(folder, n, tall):
    """Pictures whose grey says how far along the longer side a pixel lies."""
    ramp = Image.frombytes("L", (LONG, 1), bytes(range(LONG))).resize((LONG, SHORT))
    for i in range(n):
        (ramp.transpose(Image.Transpose.TRANSPOSE) if tall else ramp).save(folder / f"{i:03d}.png")


@pytest.mark.parametrize("tall", [False, True], ids=["wide", "tall"])
def test_a_random_crop_lies_where_the_counter_noise_says(tmp_path, tall):
    ramps(tmp_path, 40, tall)
    places = uniform((40, 1), seed=0, step=0, purpose=Purpose.DATA_ORDER, block=1).flatten()
    got = load(str(tmp_path), SHORT, crop="random").train.float().mean((1, 2, 3))
    wanted = places * (LONG - SHORT) + (SHORT - 1) / 2
    assert (got - wanted).abs().max() <= 1  # bytes are rounded
    assert got.max() - got.min() > (LONG - SHORT) / 2
    middle = load(str(tmp_path), SHORT).train.float().mean((1, 2, 3))
    assert (middle - (LONG - 1) / 2).abs().max() <= 1


def test_a_random_crop_is_the_same_each_time_and_all_of_a_square_picture(tmp_path):
    ramps(tmp_path, 3, tall=False)
    Image.effect_noise((SHORT, SHORT), 50).save(tmp_path / "square.png")
    random, again = (load(str(tmp_path), SHORT, crop="random").train for _ in range(2))
    assert torch.equal(random, again)
    center = load(str(tmp_path), SHORT).train
    assert torch.equal(random[3], center[3])
    assert not torch.equal(random[0], center[0])


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (7, 7), (3, 8), (1, 5)])
def test_every_epoch_sees_every_image_once(n, batch):
    order = torch.cat([batch_indices(n, batch, seed=3, iteration=t) for t in range(3 * n)])
    for epoch in order.view(-1, n):
        assert epoch.sort().values.tolist() == list(range(n))


def test_the_order_is_a_function_of_seed_and_iteration_alone():
    late = batch_indices(100, 32, seed=0, iteration=50)
    batch_indices(100, 32, seed=1, iteration=3)
    assert torch.equal(batch_indices(100, 32, seed=0, iteration=50), late)
    assert not torch.equal(batch_indices(100, 32, seed=1, iteration=50), late)
    assert not torch.equal(batch_indices(100, 100, seed=0, iteration=0), batch_indices(100, 100, seed=0, iteration=1))


def test_thinning_keeps_an_even_choice_with_its_labels():
    images, labels = torch.arange(10).byte()[:, None, None, None].expand(10, 1, 8, 8), torch.arange(10) // 5
    few = Images(images, images[:3], labels, None).thinned(4)
    assert few.train[:, 0, 0, 0].tolist() == [0, 2, 5, 7]
    assert few.train_labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(few.held_out, images[:3])
    assert few.held_out_labels is None
    assert torch.equal(Images(images, images[:0]).thinned(10).train, images)
