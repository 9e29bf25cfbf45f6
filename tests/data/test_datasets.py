"""Published data sets in the files of their publishers, and what is said of damaged ones."""

import pytest
import torch
from dataset_files import (
    BLUE,
    IDX_SETS,
    LISTING,
    RED,
    archive,
    celeba_files,
    cifar_files,
    idx,
    idx_files,
    pictures,
    tar,
    write,
    write_svhn,
    zipped,
)

from hatebm.data import load
from hatebm.data.download import SOURCES
from hatebm.data.images import resized
from hatebm.errors import UsageError


@pytest.mark.parametrize("name", IDX_SETS)
@pytest.mark.parametrize("form", ["gzip", "unpacked", "dotted"])
def test_idx_files_keep_every_byte(tmp_path, name, form):
    files, images = idx_files()
    if form == "gzip":
        files = zipped(files)
    elif form == "dotted":
        files = {file.replace("-idx", ".idx"): data for file, data in files.items()}
    write(tmp_path / name, files)
    got = load(name, 28, root=str(tmp_path))
    assert torch.equal(got.train[:, 0], images["train"])
    assert torch.equal(got.held_out[:, 0], images["t10k"])
    assert got.train_labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert got.held_out_labels.tolist() == [0, 1, 2, 3]
    assert got.train_labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "folder"),
    [(name, folder) for name in IDX_SETS for folder in SOURCES[name].folders],
)
def test_idx_files_are_found_in_the_usual_folders(tmp_path, name, folder):
    write(tmp_path / folder, zipped(idx_files()[0]))
    assert len(load(name, root=str(tmp_path)).train) == 6


def test_28_pixels_stand_in_a_black_frame_of_32(tmp_path):
    files, images = idx_files()
    write(tmp_path, files)
    got = load("mnist", root=str(tmp_path))
    assert got.train.shape == (6, 1, 32, 32)
    assert torch.equal(got.train[:, 0, 2:-2, 2:-2], images["train"])
    assert got.train.sum() == images["train"].sum()
    assert torch.equal(load("mnist", 16, root=str(tmp_path)).train, resized(got.train, 16))


def test_the_one_idx_set_is_not_taken_for_the_other(tmp_path):
    files, _ = idx_files(train=16)
    first = torch.tensor([9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9], dtype=torch.uint8)
    write(tmp_path, files | {"train-labels-idx1-ubyte": idx(first)})
    assert len(load("fashion-mnist", root=str(tmp_path)).train) == 16
    with pytest.raises(UsageError, match="--data-root: the files found for mnist are those of fashion-mnist"):
        load("mnist", root=str(tmp_path))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        pytest.param("train-images-idx3-ubyte", lambda data: data[:-1], id="cut"),
        pytest.param("t10k-labels-idx1-ubyte", lambda data: data + b"0", id="too-long"),
        pytest.param("t10k-images-idx3-ubyte", lambda data: data[:9], id="half-a-header"),
        pytest.param("train-labels-idx1-ubyte", lambda data: b"", id="empty"),
        pytest.param("train-images-idx3-ubyte", lambda data: b"<html>" + data, id="not-idx"),
        pytest.param("train-images-idx3-ubyte.gz", lambda data: data[:-20], id="cut-gzip"),
        pytest.param("train-labels-idx1-ubyte.gz", lambda data: b"<html>no such page", id="not-gzip"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, file, damage):
    files, _ = idx_files()
    files = zipped(files) if file.endswith(".gz") else files
    write(tmp_path, files | {file: damage(files[file])})
    with pytest.raises(UsageError, match=rf"^--data-root: .*{file} cannot be read as it was published .*$") as caught:
        load("mnist", root=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_as_many_labels_as_images_are_wanted(tmp_path):
    files, _ = idx_files()
    write(tmp_path, files | {"t10k-labels-idx1-ubyte": idx(torch.zeros(3, dtype=torch.uint8))})
    with pytest.raises(UsageError, match=r"--data-root: .* in the t10k files of mnist, got \(4, 28, 28\) and 3"):
        load("mnist", root=str(tmp_path))


@pytest.mark.parametrize(
    "place", ["archive", "cifar10/archive", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."]
)
def test_cifar10_keeps_every_byte(tmp_path, place):
    files, images = cifar_files()
    if place.endswith("archive"):
        write(tmp_path / place.removesuffix("archive"), {"cifar-10-binary.tar.gz": tar(files)})
    else:
        write(tmp_path / place, files)
    got = load("cifar10", root=str(tmp_path))
    assert torch.equal(torch.cat((got.train, got.held_out)), images)
    assert got.train_labels.tolist() == list(range(10))
    assert got.held_out_labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda files: files | {"test_batch.bin": files["test_batch.bin"][:-1]}, "records", id="cut"),
        pytest.param(lambda files: files | {"data_batch_2.bin": b""}, "0 bytes", id="empty"),
        pytest.param(lambda files: files | {"data_batch_3.bin": b"\x0a" + bytes(3072)}, "a label of 10", id="label"),
        pytest.param(lambda files: dict(list(files.items())[:4]), "data_batch_5.bin", id="missing"),
    ],
)
@pytest.mark.parametrize("packed", [True, False], ids=["archive", "folder"])
def test_a_damaged_cifar10_is_named(tmp_path, damage, reason, packed):
    files = damage(cifar_files()[0])
    name = "cifar-10-binary.tar.gz" if packed else "cifar-10-batches-bin"
    write(tmp_path, {name: tar(files)} if packed else {f"{name}/{file}": data for file, data in files.items()})
    with pytest.raises(UsageError, match=rf"^--data-root: .*{name} cannot be read as it was published .*{reason}"):
        load("cifar10", root=str(tmp_path))


def test_a_cut_archive_is_named(tmp_path):
    whole = tar(cifar_files()[0])
    write(tmp_path, {"cifar-10-binary.tar.gz": whole[: len(whole) // 2]})
    with pytest.raises(UsageError, match=r"--data-root: .*cifar-10-binary\.tar\.gz cannot be read as it was published"):
        load("cifar10", root=str(tmp_path))


@pytest.mark.parametrize("folder", SOURCES["svhn"].folders)
def test_svhn_keeps_every_byte_and_calls_a_zero_0(tmp_path, folder):
    train, test = pictures(12, 3, 32, 32), pictures(3, 3, 32, 32, seed=1)
    write_svhn(tmp_path / folder, train, test)
    got = load("svhn", root=str(tmp_path))
    assert torch.equal(got.train, train)
    assert torch.equal(got.held_out, test)
    assert got.train_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert got.held_out_labels.tolist() == [1, 2, 3]


def test_a_damaged_svhn_is_named(tmp_path):
    train = pictures(3, 3, 32, 32)
    write_svhn(tmp_path, train, train.float())
    with pytest.raises(UsageError, match=r"test_32x32\.mat cannot be read as it was published .*float"):
        load("svhn", root=str(tmp_path))
    write_svhn(tmp_path, train, train, labels=torch.ones(2))
    with pytest.raises(UsageError, match=r"train_32x32\.mat cannot be read as it was published .*2 labels"):
        load("svhn", root=str(tmp_path))
    file = tmp_path / "train_32x32.mat"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"train_32x32\.mat cannot be read as it was published"):
        load("svhn", root=str(tmp_path))


@pytest.mark.parametrize("form", ["zip", "folder", "folder-twice", "as-on-the-drive"])
def test_celeba_keeps_the_middle_square_and_the_official_parts(tmp_path, form):
    files = celeba_files()
    packed = {"img_align_celeba.zip": archive(files)}
    if form == "as-on-the-drive":
        write(tmp_path / "CelebA" / "Img", packed)
        write(tmp_path / "CelebA" / "Eval", {"list_eval_partition.txt": LISTING})
    else:
        twice = {f"img_align_celeba/{name}": data for name, data in files.items()}
        write(tmp_path, {"zip": packed, "folder": files, "folder-twice": twice}[form])
        write(tmp_path, {"list_eval_partition.txt": LISTING})
    got = load("celeba", root=str(tmp_path))
    assert got.train.shape == (2, 3, 64, 64)
    for image, colour in zip((*got.train, *got.held_out), (RED, BLUE, BLUE), strict=True):
        inner = image[:, 1:-1].float() - torch.tensor(colour).view(3, 1, 1)  # JPEG rings at the black edges
        assert inner.abs().max() < 12
    assert got.train_labels is None
    assert load("celeba", 16, root=str(tmp_path)).train.shape == (2, 3, 16, 16)


def test_a_damaged_celeba_is_named(tmp_path):
    files = celeba_files()
    write(tmp_path, {"list_eval_partition.txt": LISTING, "img_align_celeba.zip": archive(files)[:-30]})
    with pytest.raises(UsageError, match=r"img_align_celeba\.zip cannot be read as it was published"):
        load("celeba", root=str(tmp_path))
    files.pop("img_align_celeba/000003.jpg")
    write(tmp_path, {"img_align_celeba.zip": archive(files)})
    with pytest.raises(UsageError, match=r"img_align_celeba\.zip lacks 1 of the 3 pictures of celeba, 000003\.jpg"):
        load("celeba", root=str(tmp_path))
    write(tmp_path, {"list_eval_partition.txt": b"<html>no such page</html>"})
    with pytest.raises(UsageError, match=r"list_eval_partition\.txt cannot be read as it was published"):
        load("celeba", root=str(tmp_path))


def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(
        UsageError, match="--data: wanted digits, mnist, fashion-mnist, cifar10, svhn, celeba or the path"
    ):
        load("imagenet", root=str(tmp_path))
    for size in (0, -3, 2.5, True):
        with pytest.raises(UsageError, match=f"load: size must be a whole number of pixels, got {size}"):
            load("digits", size)
    with pytest.raises(UsageError, match="load: crop must be 'center' or 'random', got 'corner'"):
        load("digits", crop="corner")


@pytest.mark.parametrize("size", [8, 20, 48])
def test_resizing_keeps_plain_images_and_the_order(size, monkeypatch):
    plain = torch.arange(0, 250, 25, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 32, 32)
    assert torch.equal(resized(plain, size), plain[..., :1, :1].expand(10, 3, size, size))
    images = pictures(10, 3, 32, 32)
    whole = resized(images, size)
    monkeypatch.setattr("hatebm.data.images.AT_ONCE", 3)
    assert torch.equal(resized(images, size), whole)
    assert resized(images, 32) is images
