"""Pictures: each pixel of a grid where it belongs, and files that open."""

import pytest
import torch
from PIL import Image

from hatebm.runs import pictures, plots


def images(n: int, channels: int = 1, size: int = 8) -> torch.Tensor:
    levels = torch.arange(n, dtype=torch.uint8) + 1
    return levels[:, None, None, None].expand(n, channels, size, size).clone()


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (1, 4), (5, 3), (6, 3), (7, 10)])
def test_grid_places_every_image_and_leaves_the_rest_grey(n, columns):
    sheet = pictures.grid(images(n), columns)
    assert sheet.shape[0] == 1
    scale, gap = 6, 6
    pitch = 8 * scale + gap
    rows = -(-n // columns)
    assert sheet.shape[1:] == (rows * pitch + gap, columns * pitch + gap)
    for i in range(rows * columns):
        top, left = i // columns * pitch + gap, i % columns * pitch + gap
        cell = sheet[:, top : top + 8 * scale, left : left + 8 * scale]
        assert cell.unique().tolist() == [i + 1 if i < n else pictures.BACKGROUND]


def test_grid_keeps_the_orientation_and_the_colours():
    x = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    x[0, 0, 0, 1] = 200
    sheet = pictures.grid(x, 1)
    assert sheet.shape == (3, 96, 96)
    assert sheet[:, 26, 69].tolist() == [200, 0, 0]
    assert sheet[:, 69, 26].tolist() == [0, 0, 0]


def test_large_images_are_not_enlarged():
    assert pictures.grid(images(1, 3, 128), 1).shape == (3, 132, 132)


def test_panels_film_and_strip_open_again(tmp_path):
    pictures.save_panels(tmp_path / "panels.png", {"one": images(9), "two": images(9), "three": images(4)}, 3)
    with Image.open(tmp_path / "panels.png") as panels:
        assert panels.size == (2 * 168, 2 * (168 + 28))
    frames = [images(4) + 10 * i for i in range(5)]
    pictures.save_film(tmp_path / "film.gif", frames, 2)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 5
    pictures.save_strip(tmp_path / "strip.png", {10 * i: frame[:3] for i, frame in enumerate(frames)})
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (5 * 54 + 6, 20 + 3 * 54 + 6)
        assert strip.getpixel((4 * 54 + 20, 20 + 2 * 54 + 20)) == 43


def test_curves_of_one_and_of_many_rows(tmp_path):
    for count in (1, 2, 50):
        rows = [{"step": i + 1, "a": float(i), "b": 1.0} for i in range(count)]
        plots.save_curves(tmp_path / f"{count}.png", rows, {"a": "first", "b": "second"})
        with Image.open(tmp_path / f"{count}.png") as curves:
            assert curves.width > 300


def test_the_running_mean_of_a_line_is_the_line():
    line = torch.arange(50.0)
    assert torch.allclose(plots._running_mean(line)[10:-10], line[10:-10].double())
