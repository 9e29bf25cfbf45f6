"""The data sets that have names, read from the files of their publishers; what these call the test set is held out."""

import gzip
import math
import struct
import tarfile
from pathlib import Path, PurePosixPath

import torch
import torch.nn.functional as F
from torch import Tensor

from hatebm.data.download import intact, obtain
from hatebm.data.images import Images, require_room, resized, to_bytes
from hatebm.errors import UsageError

HELD_OUT_DIGITS = 500
CIFAR_RECORD = 1 + 3 * 32 * 32
FIRST_LABELS = {  # of the training sets: their files have the same names
    "mnist": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7],
    "fashion-mnist": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9],
}


def digits(size: int = 8) -> Images:
    """The 1,797 handwritten digits that scikit-learn ships, 500 of them (the same ones always, stratified) held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 8 - 1
    require_room(len(images), 1, size)
    if size != 8:
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)
    images, labels = to_bytes(images), torch.from_numpy(bunch.target)
    train, held_out = train_test_split(range(len(labels)), test_size=HELD_OUT_DIGITS, random_state=0, stratify=labels)
    return Images(images[train], images[held_out], labels[train], labels[held_out])


def mnist(name: str, root: Path, size: int | None = None) -> Images:
    """MNIST or Fashion-MNIST, 60,000 and 10,000 grey images, from IDX files, gzipped or not.

    size: 28 as published; 32, the default, inside a frame of two black pixels; another from those 32, resized.

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998); Xiao et al.,
    "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms" (2017).
    """
    parts = []
    for part in ("train", "t10k"):
        images, labels = (
            _idx_of(name, root, f"{part}-{what}-idx{dims}-ubyte") for what, dims in (("images", 3), ("labels", 1))
        )
        if images.shape != (len(labels), 28, 28):
            raise UsageError(
                f"--data-root: wanted as many images of 28 x 28 as labels in the {part} files of {name}, "
                f"got {tuple(images.shape)} and {len(labels)}"
            )
        framed = images[:, None] if size == 28 else F.pad(images[:, None], (2, 2, 2, 2))
        parts.append((resized(framed, size or 32), labels.long()))
    (train, train_labels), (held_out, held_out_labels) = parts
    for other, first in FIRST_LABELS.items():
        if other != name and train_labels[: len(first)].tolist() == first:
            raise UsageError(
                f"--data-root: the files found for {name} are those of {other}; put each in a folder so named"
            )
    return Images(train, held_out, train_labels, held_out_labels)


def _idx_of(name: str, root: Path, file: str) -> Tensor:
    path = obtain(name, root, f"{file}.gz", file, file.replace("-idx", ".idx"))
    with intact(path):
        data = path.read_bytes()
        return read_idx(gzip.decompress(data) if path.suffix == ".gz" else data)


def read_idx(data: bytes) -> Tensor:
    """An IDX file of bytes: 0, 0, 8, the number of dimensions, each as a big-endian int32, and the elements."""
    if data[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of bytes")
    header = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    if len(data) != header + math.prod(shape):
        raise ValueError(f"{math.prod(shape)} elements announced, {len(data) - header} found")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).view(shape)


def cifar10(root: Path, size: int | None = None) -> Images:
    """CIFAR-10, 50,000 and 10,000 colour images of 32 x 32, from its binary version, unpacked or not.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    """
    path = obtain("cifar10", root, "cifar-10-binary.tar.gz", "cifar-10-batches-bin", "data_batch_1.bin")
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    with intact(path):
        if path.suffix == ".gz":
            with tarfile.open(path) as archive:
                found = {PurePosixPath(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}
        else:
            folder = path if path.is_dir() else path.parent
            found = {file: (folder / file).read_bytes() for file in files}
        *train, held_out = (read_cifar10(found[file]) for file in files)
    images, labels = (torch.cat(part) for part in zip(*train, strict=True))
    size = size or 32
    return Images(resized(images, size), resized(held_out[0], size), labels, held_out[1])


def read_cifar10(data: bytes) -> tuple[Tensor, Tensor]:
    """A binary batch: for each image one byte of label and 3 x 32 x 32 of colour."""
    if not data or len(data) % CIFAR_RECORD:
        raise ValueError(f"{len(data)} bytes are no whole number of records of {CIFAR_RECORD}")
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, CIFAR_RECORD)
    labels = records[:, 0].long()
    if labels.max() > 9:
        raise ValueError(f"a label of {labels.max()}")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def svhn(root: Path, size: int | None = None) -> Images:
    """Street View House Numbers, the cropped digits: 73,257 and 26,032 colour images of 32 x 32, from .mat files.

    Source: Netzer et al., "Reading digits in natural images with unsupervised feature learning" (2011).
    """
    from scipy.io import loadmat

    parts = []
    for file in ("train_32x32.mat", "test_32x32.mat"):
        path = obtain("svhn", root, file)
        with intact(path):
            found = loadmat(path, variable_names=("X", "y"))
            images, labels = torch.from_numpy(found["X"]).permute(3, 2, 0, 1), torch.from_numpy(found["y"]).flatten()
            if images.dtype != torch.uint8 or images.shape != (len(labels), 3, 32, 32):
                raise ValueError(f"images {images.dtype} {tuple(images.shape)}, {len(labels)} labels")
        parts.append((resized(images.contiguous(), size or 32), labels.long() % 10))  # the publishers call a zero 10
    (train, train_labels), (held_out, held_out_labels) = parts
    return Images(train, held_out, train_labels, held_out_labels)
