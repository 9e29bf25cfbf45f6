"""Folders of pictures: classes, held-out parts, and files that are passed over."""

import warnings

import pytest
import torch
from PIL import Image

from hatebm.data import SkippedFile, image_folder


def grey(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def values(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path):
    for i, place in enumerate(["ant/0", "ant/deep/1", "bee/0", "cat/0"]):
        grey(tmp_path / f"{place}.png", i)
    images = image_folder(tmp_path, 4)
    assert values(images.train) == [0, 1, 2, 3]
    assert images.train_labels.tolist() == [0, 0, 1, 2]
    assert images.train_labels.dtype == torch.int64
    assert images.held_out_labels.tolist() == []
    grey(tmp_path / "stray.png")
    assert image_folder(tmp_path, 4).train_labels is None


def test_one_subfolder_is_no_class_and_a_file_that_is_no_picture_makes_none(tmp_path):
    grey(tmp_path / "ant" / "0.png")
    assert image_folder(tmp_path, 4).train_labels is None
    grey(tmp_path / "bee" / "0.png")
    for name in ("README.txt", "notes/README.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not a picture")
    with pytest.warns(SkippedFile):
        assert image_folder(tmp_path, 4).train_labels.tolist() == [0, 1]


def test_hidden_folders_are_passed_over(tmp_path):
    for place in ("ant/0", "bee/0", ".ipynb_checkpoints/0", "ant/.thumbs/0"):
        grey(tmp_path / f"{place}.png")
    images = image_folder(tmp_path, 4)
    assert images.train_labels.tolist() == [0, 1]


def test_every_fifth_is_held_out_with_its_label(tmp_path):
    for i in range(60):
        grey(tmp_path / ("ant" if i < 24 else "bee") / f"{i:02d}.png", i)
    images = image_folder(tmp_path, 4)
    assert values(images.held_out) == list(range(4, 60, 5))
    assert images.held_out_labels.tolist() == [int(i >= 24) for i in range(4, 60, 5)]
    assert images.train_labels.tolist() == [int(i >= 24) for i in values(images.train)]


@pytest.mark.parametrize("name", ["test", "val"])
def test_train_and_test_folders_are_the_two_parts(tmp_path, name):
    for i in range(60):
        grey(tmp_path / "train" / ("ant", "bee", "cat")[i % 3] / f"{i:02d}.png", i)
    for i, place in enumerate(["cat/0", "ant/0"]):
        grey(tmp_path / name / f"{place}.png", 100 + i)
    images = image_folder(tmp_path, 4)
    assert sorted(values(images.train)) == list(range(60))
    assert values(images.held_out) == [101, 100]
    assert images.train_labels.tolist() == [i % 3 for i in values(images.train)]
    assert images.held_out_labels.tolist() == [0, 2]
    grey(tmp_path / name / "dog" / "0.png")
    images = image_folder(tmp_path, 4)
    assert images.train_labels is not None
    assert images.held_out_labels is None


def test_a_test_folder_goes_before_a_validation_folder_and_neither_stands_alone(tmp_path):
    for i, part in enumerate(["train", "test", "val"]):
        grey(tmp_path / part / "0.png", i)
    images = image_folder(tmp_path, 4)
    assert (values(images.train), values(images.held_out)) == ([0], [1])
    (tmp_path / "train" / "0.png").rename(tmp_path / "0.png")
    (tmp_path / "train").rmdir()
    assert values(image_folder(tmp_path, 4).train) == [0, 1, 2]


def test_many_threads_keep_the_order_and_name_each_skipped_file_in_it(tmp_path):
    for i in range(200):
        if i % 7 == 3:
            (tmp_path / f"{i:03d}.png").write_bytes(b"broken")
        else:
            grey(tmp_path / f"{i:03d}.png", i)
    with pytest.warns(SkippedFile) as warned:
        images = image_folder(tmp_path, 4)
    whole = [i for i in range(200) if i % 7 != 3]
    assert values(images.held_out) == whole[4::5]
    assert values(images.train) == [i for place, i in enumerate(whole) if place % 5 != 4]
    named = [str(warning.message).split()[1].rstrip(":") for warning in warned]
    assert named == [str(tmp_path / f"{i:03d}.png") for i in range(3, 200, 7)]


def test_reading_leaves_the_filters_of_warnings_as_they_were(tmp_path):
    grey(tmp_path / "0.png")
    before = list(warnings.filters)
    image_folder(tmp_path, 4)
    assert warnings.filters == before


def test_a_decompression_bomb_is_skipped(tmp_path, monkeypatch):
    grey(tmp_path / "0.png", 7)
    Image.new("L", (40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.warns(SkippedFile, match=r"bomb\.png"):
        assert values(image_folder(tmp_path, 4).train) == [7]
