"""Published data sets in small, in the files of their publishers."""

import gzip
import io
import struct
import tarfile
import zipfile

import torch
from PIL import Image
from scipy.io import savemat

RED, BLUE = (255, 0, 0), (0, 0, 255)
IDX_SETS = ("mnist", "fashion-mnist")


def pictures(n, *shape, seed=0):
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def idx(values):
    return struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape) + values.numpy().tobytes()


def idx_files(train=6, test=4):
    """The four files, unpacked, and the images in them."""
    images = {"train": pictures(train, 28, 28), "t10k": pictures(test, 28, 28, seed=1)}
    files = {f"{part}-images-idx3-ubyte": idx(x) for part, x in images.items()}
    labels = {part: (torch.arange(len(x)) % 10).byte() for part, x in images.items()}
    return files | {f"{part}-labels-idx1-ubyte": idx(y) for part, y in labels.items()}, images


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def zipped(files):
    return {f"{name}.gz": gzip.compress(data) for name, data in files.items()}


def cifar_files(n=2):
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    images = pictures(6 * n, 3, 32, 32)
    labels = (torch.arange(6 * n) % 10).byte()
    records = torch.cat((labels[:, None], images.flatten(1)), dim=1).split(n)
    return {name: part.numpy().tobytes() for name, part in zip(names, records, strict=True)}, images


def tar(files, folder="cifar-10-batches-bin"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def write_svhn(folder, train, test, labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in (("train", train), ("test", test)):
        y = (1 + torch.arange(len(images)) % 10 if labels is None else labels)[:, None]
        x = images.permute(2, 3, 1, 0).numpy()
        savemat(folder / f"{name}_32x32.mat", {"X": x, "y": y.byte().numpy()}, do_compression=True)


FACES = {"000001.jpg": (0, RED), "000002.jpg": (1, RED), "000003.jpg": (2, BLUE), "000004.jpg": (0, BLUE)}
LISTING = "".join(f"{name} {part}\n" for name, (part, _) in FACES.items()).encode()


def face(middle):
    """178 x 218: the square of 178 in the middle of one colour, black above and below it."""
    picture = Image.new("RGB", (178, 218))
    picture.paste(middle, (0, 20, 178, 198))
    out = io.BytesIO()
    picture.save(out, "jpeg", quality=95, subsampling=0)
    return out.getvalue()


def celeba_files():
    return {f"img_align_celeba/{name}": face(colour) for name, (_, colour) in FACES.items()}


def archive(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("img_align_celeba/", b"")
        for name, data in files.items():
            packed.writestr(name, data)
    return out.getvalue()
