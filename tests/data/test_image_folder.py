"""Folders of pictures: classes, held-out parts, and files that are passed over."""

import os
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


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("name", ["test", "val", "Valid", "validation", "TESTING", "dev", "Eval"])
def test_train_and_test_folders_are_the_two_parts(tmp_path, train, name):
    for i in range(60):
        grey(tmp_path / train / ("ant", "bee", "cat")[i % 3] / f"{i:02d}.png", i)
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


def test_classes_and_parts_and_folders_below_them_may_be_links(tmp_path):
    store, data = tmp_path / "store", tmp_path / "data"
    for i, place in enumerate(["cats/0", "cats/deep/1", "dogs/0", "more/0"]):
        grey(store / f"{place}.png", i)
    data.mkdir()
    for name in ("cats", "dogs"):
        (data / name).symlink_to(store / name)
    (store / "dogs" / "more").symlink_to(store / "more")
    images = image_folder(data, 4)
    assert values(images.train) == [0, 1, 2, 3]
    assert images.train_labels.tolist() == [0, 0, 1, 1]
    (tmp_path / "split").mkdir()
    for part in ("train", "val"):
        (tmp_path / "split" / part).symlink_to(data)
    images = image_folder(tmp_path / "split", 4)
    assert values(images.train) == values(images.held_out) == [0, 1, 2, 3]
    assert images.held_out_labels.tolist() == [0, 0, 1, 1]


def test_loops_of_links_end_and_add_nothing(tmp_path):
    data = tmp_path / "data"
    for i, place in enumerate(["cats/0", "cats/deep/1", "dogs/0"]):
        grey(data / f"{place}.png", i)
    grey(tmp_path / "outside.png", 99)
    for place, target in (
        ("loop", data),
        ("up", tmp_path),
        ("self", data / "self"),
        ("cats/deep/loop", data / "cats"),
        ("cats/up", data),
        ("dogs/here", data / "dogs"),
    ):
        (data / place).symlink_to(target)
    with pytest.warns(SkippedFile, match="self: cannot be read"):
        images = image_folder(data, 4)
    assert values(images.train) == [0, 1, 2]
    assert images.train_labels.tolist() == [0, 0, 1]


def test_a_folder_reached_twice_counts_once_in_each_class(tmp_path):
    for i, place in enumerate(["cats/b/0", "dogs/0"]):
        grey(tmp_path / f"{place}.png", i)
    (tmp_path / "cats" / "a").symlink_to(tmp_path / "cats" / "b")
    (tmp_path / "cats" / "c").symlink_to(tmp_path / "dogs")
    (tmp_path / "cats" / "d").symlink_to(tmp_path / "dogs")
    (tmp_path / "dogs" / "a").symlink_to(tmp_path / "cats")
    images = image_folder(tmp_path, 4)
    assert values(images.train) == [0, 1, 1, 0]  # in the order of the paths: dogs/0.png, dogs/a/b/0.png
    assert images.train_labels.tolist() == [0, 0, 1, 1]


def test_links_to_nowhere_are_named_and_pipes_passed_over(tmp_path):
    grey(tmp_path / "0.png", 7)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "to-pipe.png").symlink_to(tmp_path / "pipe.png")
    with pytest.warns(SkippedFile) as warned:
        assert values(image_folder(tmp_path, 4).train) == [7]
    (said,) = (str(warning.message) for warning in warned)
    assert said == f"skipped {tmp_path / 'gone.png'}: cannot be read as a picture (FileNotFoundError)"


def test_a_folder_called_like_a_picture_is_a_folder_and_endings_play_no_part(tmp_path):
    grey(tmp_path / "a.png" / "0.png", 1)
    grey(tmp_path / "B.JPG" / "0.png", 2)
    (tmp_path / "a.png" / "0.png").rename(tmp_path / "a.png" / "PICTURE")
    images = image_folder(tmp_path, 4)
    assert sorted(values(images.train)) == [1, 2]
    assert images.train_labels.tolist() == [0, 1]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="all may be read here")
def test_folders_and_files_that_may_not_be_read_are_named(tmp_path):
    for place in ("ant/0", "bee/0", "cat/0"):
        grey(tmp_path / f"{place}.png")
    (tmp_path / "bee").chmod(0)
    (tmp_path / "cat" / "0.png").chmod(0)
    try:
        with pytest.warns(SkippedFile) as warned:
            assert len(image_folder(tmp_path, 4).train) == 1
    finally:
        (tmp_path / "bee").chmod(0o700)
    assert [str(warning.message) for warning in warned] == [
        f"skipped {tmp_path / 'bee'}: cannot be read (PermissionError)",
        f"skipped {tmp_path / 'cat' / '0.png'}: cannot be read as a picture (PermissionError)",
    ]


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
